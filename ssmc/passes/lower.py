"""Plan → Loops: every value gets a place in the loop nest, every kernel its groups of statements.

What is written (``writes``) and computed for that (``items``) is put into loop nests, each after what it uses.
Values that are used where they are computed stay scalars; values that cross from one group to another become
arrays over the axes they vary along.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from ssmc.errors import InternalError, Unsupported
from ssmc.ir import REAL, Const, DType, Size
from ssmc.ir.loops import (
    Accumulate,
    Add,
    Group,
    Kernel,
    Let,
    Loops,
    Ring,
    RingSet,
    Statement,
    Store,
    Variable,
    operands,
)  # fmt: skip
from ssmc.ir.scalar import Node, part_names, parts, walk_nodes
from ssmc.source import Span

from .items import SECTIONS, STATEMENTS, Item, Items
from .names import Names
from .parts import CUT
from .plan import KernelPlan, Plan
from .ranges import Ranges
from .reading import Reading
from .recompute import CHUNK
from .scalarise import Scalariser
from .tile import tile
from .writes import writes

_WIDER = 4


def lower(plan: Plan, sizes: dict[str, int], lanes: int, vector_operations: frozenset[str] = frozenset()) -> Loops:
    """Lower every kernel of a plan for a target that works on ``lanes`` values at a time and has
    ``vector_operations`` on whole vectors.

    Raises:
        Unbounded: a value would be kept for every index of an axis whose extent is not compiled in.
    """
    loops = {a for k in plan.kernels for a in k.inner}
    ranges = Ranges(plan.program, sizes, frozenset(loops - plan.fixed.keys()))
    is_cheap = Reading(plan.program, ranges).is_cheap
    kernels = []
    for kernel in plan.kernels:
        scalariser = Scalariser(plan.program, kernel, ranges, is_cheap)
        ahead = Scalariser(plan.program, kernel, ranges, is_cheap, scalariser.graph, ahead=True)
        lowered = _lowered(plan, kernel, ranges, (scalariser, ahead), lanes)
        kernels.append(tile(lowered, plan.fixed, plan.options, vector_operations))
    return Loops(plan.program, tuple(kernels), plan.workspaces, plan.fixed)


def _lowered(
    plan: Plan, kernel: KernelPlan, ranges: Ranges, makers: tuple[Scalariser, Scalariser], lanes: int
) -> Kernel:
    """One kernel, where what there is no room to keep is computed again by each that uses it."""
    again: set[tuple[str, int]] = set()
    while True:
        try:
            return _KernelLowering(plan, kernel, ranges, *makers, frozenset(again)).run(lanes)
        except _NoRoom as value:
            again.add(value.key)


@dataclass
class _Section:
    items: list[Item] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)


def _writes_to(item: Item, tensor: str) -> bool:
    return isinstance(item.statement, (Store, Add)) and item.statement.tensor == tensor


class Unbounded(Unsupported):
    """A value would be kept for every index of ``axis``, whose extent is not compiled in."""

    def __init__(self, what: str, axis: str, span: Span | None) -> None:
        self.axis = axis
        super().__init__(f"{what}, which has no strategy on this target yet", span=span)


class _NoRoom(Exception):
    """A value that could be computed again would be kept for every index of an axis that is not compiled in."""

    def __init__(self, key: tuple[str, int]) -> None:
        self.key = key
        super().__init__(key)


def _steps(kernel: KernelPlan) -> int | str:
    """Steps of a part of time, or the axis whose extent they are; 0 where there are no parts."""
    match kernel.steps:
        case Const(value=int() as steps):
            return steps
        case Size(axis=axis):
            return axis
    return 0


class _KernelLowering:
    def __init__(
        self, plan: Plan, kernel: KernelPlan, ranges: Ranges, scalariser: Scalariser, ahead: Scalariser,
        again: frozenset[tuple[str, int]],
    ) -> None:  # fmt: skip
        self.plan, self.kernel, self.ranges, self.make, self.ahead = plan, kernel, ranges, scalariser, ahead
        self.sections = {name: _Section() for name in SECTIONS}
        self.items = Items(kernel, ranges, again)
        self.variables: dict[tuple[str, int], Variable] = {}
        self.locals = Names(set())

    def run(self, lanes: int) -> Kernel:
        roots, self.names = writes(self.plan, self.kernel, self.make, self.ahead)
        forced = [("rebuild", node) for node in self._array_values(self.ahead)]
        forced += [("step", node) for node in self._array_values(self.make)]
        for item in sorted(roots, key=lambda r: SECTIONS.index(r.section)):
            for node in item.uses:
                self.items.demand(node, item.section, item.axes, item.lanes)
            if isinstance(item.statement, RingSet) and item.statement.lag == 0:
                self.items.keep(item.section, item.node)
        for section, node in forced:
            self.items.force(section, node)
        rings = tuple(self._ring(name, depth) for name, depth in self.kernel.carried.items())
        self.slots = {ring.tensor: ring.slots for ring in rings}
        ringed = ((root, root.statement) for root in roots if isinstance(root.statement, RingSet))
        self.ring_writes = {(r.section, w.tensor, w.part): r for r, w in ringed if w.lag == 0}
        for section in SECTIONS:
            self._arrange(section, [r for r in roots if r.section == section])
        self._assign_variables({(s, n.number) for s, n in forced})
        for section in SECTIONS:
            self._fill(section)
        k = self.kernel
        done = {s: tuple(self.sections[s].groups) for s in SECTIONS}
        arrays = {}
        for section, make in (("step", self.make), ("rebuild", self.ahead)):
            for tensor in sorted(make.arrays):
                for part, node in zip(("re", "im"), parts(make.value(tensor)), strict=False):
                    arrays[section, tensor, part] = self.variables[section, node.number]
        return Kernel(
            k.name, k.parallel, k.lane, k.time, k.reverse, k.recurrent, done["before"], done["step"], done["after"],
            rings, self.variables, arrays, self._touched([*done.values()]), self._lanes(lanes, rings),
            enter=done["enter"], rebuild=done["rebuild"], sums=k.sums, chunk=k.chunk, part=k.part, steps=_steps(k),
            cut=bool(k.part and k.part.endswith(CUT)), at_once=k.at_once,
        )  # fmt: skip

    def _lanes(self, lanes: int, rings: tuple[Ring, ...]) -> int:
        """More lanes where a step keeps only a few numbers per lane: rows of memory are then read in
        longer pieces, which is what bounds such kernels."""
        if self.plan.options.lanes or any(v.dims for v in self.variables.values()) or any(r.dims for r in rings):
            return lanes
        return lanes * _WIDER

    def _touched(self, sections: list[tuple[Group, ...]]) -> tuple[str, ...]:
        """Tensors in memory that the kernel reads or writes, in order of first use."""
        found: dict[str, None] = {}
        for groups in sections:
            for statement in (s for g in groups for s in g.statements):
                for node in walk_nodes(operands(statement)):
                    if node.kind == "load":
                        found[node.name[0]] = None
                if isinstance(statement, (Store, Add)):
                    found[statement.tensor] = None
        return tuple(found)

    def _array_values(self, make: Scalariser) -> list[Node]:
        """Values that some statement reads at other inner indices: they need a whole array."""
        found: list[Node] = []
        done: set[str] = set()
        while make.arrays - done:
            name = sorted(make.arrays - done)[0]
            done.add(name)
            found += parts(make.value(name))
        return found

    def _maker(self, section: str) -> Scalariser:
        return self.ahead if section == "rebuild" else self.make

    # ------------------------------------------------------------ groups

    def _arrange(self, section: str, roots: list[Item]) -> None:
        """Put the statements of one section into loop nests, in an order that respects every use."""
        place = self.sections[section]
        defined = self._in_order(
            [i for (s, _), i in self.items.by_key.items() if s == section and self.items.is_item(s, i.node)]
        )
        writes = sorted(roots, key=lambda r: isinstance(r.statement, RingSet))
        zeros = [r for r in writes if isinstance(r.statement, Store) and r.statement.tensor in self.kernel.tables]
        for item in [*zeros, *defined, *(r for r in writes if r not in zeros)]:
            self._put(place, item)

    def _put(self, place: _Section, item: Item) -> None:
        """Put a statement into the section, after what it needs of carried values of this very step."""
        if item.group >= 0:
            return
        for write in self._written_now(item):
            self._put(place, write)
        item.group = self._join(place, item, self._earliest(item))
        place.items.append(item)

    def _in_order(self, items: list[Item]) -> list[Item]:
        """Operands before users and, where there is a choice, fewer loops first: what every state needs
        is then known before the loop over states, and that loop need not be split."""
        waiting = {i.node.number: i for i in items}
        needs = {n: {u.node.number for u in self._needs(i)} - {n} for n, i in waiting.items()}
        users: dict[int, list[int]] = {}
        for number, below in needs.items():
            for other in below:
                users.setdefault(other, []).append(number)
        ready = [(len(waiting[n].nest), n) for n, below in needs.items() if not below]
        heapq.heapify(ready)
        order = []
        while ready:
            _, number = heapq.heappop(ready)
            order.append(waiting[number])
            for user in users.get(number, ()):
                needs[user].discard(number)
                if not needs[user]:
                    heapq.heappush(ready, (len(waiting[user].nest), user))
        if len(order) < len(items):
            raise InternalError(f"{self.kernel.name}: values need each other in one step")
        return order

    def _needs(self, item: Item) -> list[Item]:
        """What has to be computed before an item, in its section."""
        found = [used for used, _ in self._uses_here(item)]
        return found + [need for write in self._written_now(item) for need in self._needs(write)]

    def _earliest(self, item: Item) -> int:
        """The first group in which everything that the item uses is known."""
        first = 0
        for used, elsewhere in self._uses_here(item):
            same = used.nest == item.nest and not used.is_reduce and not elsewhere and not self.items.is_long(used.node)
            first = max(first, used.group if same else used.group + 1)
        first = max([first, *(write.group + 1 for write in self._written_now(item))])
        write = item.statement
        if isinstance(write, Add):
            zeros = [i for i in self.sections[item.section].items if _writes_to(i, write.tensor)]
            first = max([first, *(i.group + 1 for i in zeros if isinstance(i.statement, Store))])
        if isinstance(write, RingSet) and write.lag == 0 and self.slots[write.tensor] == 1:
            for reader in self.sections[item.section].items:
                here = self._reads_ring(reader, write.tensor)
                if here is not None:
                    first = max(first, reader.group if here and reader.nest == item.nest else reader.group + 1)
        return first

    def _uses(self, item: Item) -> list[tuple[Item, bool]]:
        """Items that an item reads, of its own section or of one before it, looking through what is not an item; the
        flag says that a whole array of it is read, not the entry at the present point."""
        section, found, seen = item.section, self._own_array(item), set()
        stack = list(item.uses)
        while stack:
            node = stack.pop()
            if node.number in seen:
                continue
            seen.add(node.number)
            if node.kind == "array":
                found.append((self._array_item(section, node), True))
            home = self.items.section(node, section)
            if self.items.is_item(home, node):
                found.append((self.items.by_key[home, node.number], False))
            elif home != section and not self.items.is_trivial(node):
                raise InternalError(f"a value computed ahead has no place: {node!r}")
            else:
                stack.extend(node.args)
        return found

    def _uses_here(self, item: Item) -> list[tuple[Item, bool]]:
        """Those of the same section."""
        return [(used, elsewhere) for used, elsewhere in self._uses(item) if used.section == item.section]

    def _own_array(self, item: Item) -> list[tuple[Item, bool]]:
        """What makes the array of which the item itself is an entry."""
        is_entry = item.statement is None and item.node.kind == "array"
        return [(self._array_item(item.section, item.node), True)] if is_entry else []

    def _array_item(self, section: str, node: Node) -> Item:
        """What makes the array that a node reads an entry of."""
        tensor, part = node.name
        value = parts(self._maker(section).value(tensor))[part == "im"]
        return self.items.by_key["rebuild" if section == "rebuild" else "step", value.number]

    def _written_now(self, item: Item) -> list[Item]:
        """What writes the entries of this very step that an item may read."""
        now = (self.ahead if item.section == "rebuild" else self.make).present
        read = {node.name for node in self._own_nodes(item) if node.number in now} if now else ()
        return [self.ring_writes[(item.section, *ring)] for ring in read if (item.section, *ring) in self.ring_writes]

    def _own_nodes(self, item: Item) -> list[Node]:
        """The nodes that an item computes itself, and the items of its section that it reads."""
        seen: dict[int, Node] = {}
        stack = [item.node] if item.statement is None else list(item.uses)
        while stack:
            node = stack.pop()
            if node.number in seen:
                continue
            seen[node.number] = node
            if not self.items.is_item(item.section, node) or node is item.node and item.statement is None:
                stack.extend(node.args)
        return list(seen.values())

    def _reads_ring(self, item: Item, tensor: str) -> bool | None:
        """None if the item does not read the ring; else whether it reads it only at its own point."""
        own = [all(a.kind == "index" for a in n.args[1:]) for n in self._own_nodes(item)
               if n.kind in ("ring", "before") and n.name[0] == tensor]  # fmt: skip
        return all(own) if own else None

    def _join(self, place: _Section, item: Item, first: int) -> int:
        """The first group from ``first`` on that may hold the item, else a new one at the end."""
        order = [a for a in self.kernel.inner if a in item.nest]
        folded = tuple(item.node.name[1:]) if item.is_reduce else ()
        outer = tuple(a for a in order if a not in folded)
        inner = tuple(a for a in order if a in folded)
        for number in range(first, len(place.groups)):
            group = place.groups[number]
            if set(group.axes) != set(item.nest):
                continue
            if not item.is_reduce or (group.outer, group.inner) == (outer, inner):
                return number
            if not group.inner and self._may_fold(place, number):
                group.outer, group.inner = outer, inner
                return number
        place.groups.append(Group(outer, inner))
        return len(place.groups) - 1

    def _may_fold(self, place: _Section, number: int) -> bool:
        return not any(i.is_reduce for i in place.items if i.group == number)

    # ------------------------------------------------------------ variables

    def _assign_variables(self, forced: set[tuple[str, int]]) -> None:
        """Local scalars where a value is used in its own body only, arrays where it crosses."""
        crossing: set[tuple[str, int]] = set()
        later: set[tuple[str, int]] = set()
        for section, place in self.sections.items():
            for item in place.items:
                for used, elsewhere in self._uses(item):
                    other = used.section != section or used.group != item.group or used.is_reduce
                    if other or elsewhere:
                        crossing.add((used.section, used.node.number))
                    if used.section == "rebuild" and section != "rebuild":
                        later.add((used.section, used.node.number))
        for key, item in self.items.by_key.items():
            if self.items.is_item(item.section, item.node):
                local = key not in crossing and not item.is_reduce and key not in forced
                dims = () if local else tuple(a for a in self.kernel.inner if a in item.axes)
                again = item.node.kind not in STATEMENTS and key not in forced
                if again and any(self.ranges.varies(a) for a in dims):
                    raise _NoRoom(key)
                self._bounded(dims)
                name = self._variable_name(item.node)
                self.variables[key] = Variable(name, item.node.type, dims, item.lanes, local, key in later)

    def _bounded(self, dims: tuple[str, ...]) -> None:
        """Refuse to keep a value for every step of a sequence."""
        for axis in dims:
            if self.ranges.varies(axis):
                names = ", ".join(f"`{n}`" for n in self.kernel.equations)
                span = self.plan.program.equation(self.kernel.equations[0]).span
                what = f"equations {names} need a whole row along `{axis}` at once"
                raise Unbounded(what, axis, span)

    def _variable_name(self, node: Node) -> str:
        base = self.names.get(node.number)
        if base is None:
            base = str(node.name[0] if isinstance(node.name, tuple) else node.name or node.kind)
            base = f"{base}.before" if node.kind == "before" else base
        return self.locals.new(base)

    # ------------------------------------------------------------ statements

    def _fill(self, section: str) -> None:
        place = self.sections[section]
        for item in place.items:
            group = place.groups[item.group]
            statement: Statement
            if item.statement is not None:
                statement = item.statement
            else:
                variable = self.variables[section, item.node.number]
                statement = (Accumulate if item.is_reduce else Let)(variable, item.node)
            (group.lanes if item.lanes else group.scalars).append(statement)

    def _ring(self, name: str, depth: int) -> Ring:
        tensor = self.make.tensors[name]
        dims = tuple(a for a in tensor.axes if a in self.items.inner)
        self._bounded(dims)
        type: DType = REAL if len(part_names(tensor.dtype)) > 1 else tensor.dtype
        lanes = self.kernel.lane is not None and self.kernel.lane in tensor.axes
        if name in self.kernel.rebuilt and not self.kernel.at_once:
            return Ring(name, part_names(tensor.dtype), type, dims, lanes, depth, depth + CHUNK, history=True)
        in_place = depth == 1 and self._constant_lags(name)
        return Ring(name, part_names(tensor.dtype), type, dims, lanes, depth, 1 if in_place else depth + 1)

    def _constant_lags(self, name: str) -> bool:
        """Whether every ring read of the value is at a constant lag (so one slot can serve)."""
        nodes = walk_nodes(tuple(i.node for i in self.items.by_key.values()))
        return all(n.args[0].kind == "const" for n in nodes if n.kind == "ring" and n.name[0] == name)
