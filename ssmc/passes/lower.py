"""Plan → Loops: every value gets a place in the loop nest, every kernel its groups of statements.

A node is computed in the outermost loop in which it is known: before time starts if it does not vary
along time, outside the loop over states if it does not vary along states, once for all lanes if it
does not vary along lanes. Values that are used where they are computed stay scalars; values that
cross from one group to another become arrays over the axes they vary along.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from ssmc.errors import InternalError, Unsupported
from ssmc.ir import BOOL, INT, OPERATIONS, REAL, Const, DType, Equation, Expr, Index, Op, Read, Size
from ssmc.ir.loops import (
    Accumulate,
    Add,
    Group,
    Kernel,
    LaneSum,
    Let,
    Loops,
    Ring,
    RingSet,
    Statement,
    Store,
    Variable,
    operands,
)  # fmt: skip
from ssmc.ir.scalar import Node, Value, part_names, parts, walk_nodes
from ssmc.source import Span

from .partial import group_sum
from .plan import KernelPlan, Plan
from .ranges import Ranges, as_int
from .reading import Reading
from .recompute import CHUNK, SAVED, snapshot_of
from .scalarise import Scalariser
from .tables import table_of
from .tile import tile

# A value that does not vary along time is computed ahead when it takes at most so many numbers.
_LANE_ARRAY, _SCALAR_ARRAY = 256, 8192
_WIDER = 4
_SECTIONS = ("before", "enter", "rebuild", "step", "after")
_TRIVIAL = frozenset({"add", "sub", "mul", "neg", "int", "real", "ge", "lt", "and"})


def lower(plan: Plan, sizes: dict[str, int], lanes: int, vector_operations: frozenset[str] = frozenset()) -> Loops:
    """Lower every kernel of a plan for a target that works on ``lanes`` values at a time and has
    ``vector_operations`` on whole vectors."""
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
class _Item:
    """One statement to be placed: the node it computes or, for roots, the node it writes."""

    section: str
    node: Node
    axes: frozenset[str]
    lanes: bool
    statement: Store | RingSet | LaneSum | Add | None = None
    users: int = 0
    group: int = -1

    @property
    def uses(self) -> tuple[Node, ...]:
        """The nodes that it is made of."""
        return self.node.args if self.statement is None else operands(self.statement)

    @property
    def is_reduce(self) -> bool:
        return self.statement is None and self.node.kind == "reduce"

    @property
    def nest(self) -> frozenset[str]:
        """Axes of the loops that the statement's body runs in."""
        return self.axes | (set(self.node.name[1:]) if self.is_reduce else set())


@dataclass
class _Section:
    items: list[_Item] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)


def _writes(item: _Item, tensor: str) -> bool:
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


class _KernelLowering:
    def __init__(
        self, plan: Plan, kernel: KernelPlan, ranges: Ranges, scalariser: Scalariser, ahead: Scalariser,
        again: frozenset[tuple[str, int]],
    ) -> None:  # fmt: skip
        self.again = again
        self.plan, self.kernel, self.ranges, self.make, self.ahead = plan, kernel, ranges, scalariser, ahead
        self.graph = scalariser.graph
        self.inner = frozenset(kernel.inner)
        self.sections = {name: _Section() for name in _SECTIONS}
        self.items: dict[tuple[str, int], _Item] = {}
        self.variables: dict[tuple[str, int], Variable] = {}
        self.final: dict[int, bool] = {}
        self.names: dict[int, str] = {}
        self.used_names: set[str] = set()

    def run(self, lanes: int) -> Kernel:
        roots = self._roots()
        forced = [("rebuild", node) for node in self._array_values(self.ahead)]
        forced += [("step", node) for node in self._array_values(self.make)]
        for item in sorted(roots, key=lambda r: _SECTIONS.index(r.section)):
            for node in item.uses:
                self._demand(node, item.section, item.axes, item.lanes)
            if isinstance(item.statement, RingSet) and item.statement.lag == 0:
                self._keep(item.section, item.node)
        for section, node in forced:
            self._force(section, node)
        rings = tuple(self._ring(name, depth) for name, depth in self.kernel.carried.items())
        self.slots = {ring.tensor: ring.slots for ring in rings}
        for section in _SECTIONS:
            self._arrange(section, [r for r in roots if r.section == section])
        self._assign_variables({(s, n.number) for s, n in forced})
        for section in _SECTIONS:
            self._fill(section)
        k = self.kernel
        done = {s: tuple(self.sections[s].groups) for s in _SECTIONS}
        arrays = {}
        for section, make in (("step", self.make), ("rebuild", self.ahead)):
            for tensor in sorted(make.arrays):
                for part, node in zip(("re", "im"), parts(make.value(tensor)), strict=False):
                    arrays[section, tensor, part] = self.variables[section, node.number]
        return Kernel(
            k.name, k.parallel, k.lane, k.time, k.reverse, k.recurrent, done["before"], done["step"], done["after"],
            rings, self.variables, arrays, self._touched([*done.values()]), self._lanes(lanes, rings),
            enter=done["enter"], rebuild=done["rebuild"], sums=k.sums, chunk=k.chunk,
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

    # ------------------------------------------------------------ what is to be written

    def _roots(self) -> list[_Item]:
        found = []
        for name in self.kernel.equations:
            equation = self.plan.program.equation(name)
            if name in self.kernel.sums:
                found += self._lane_sums(equation)
                continue
            if name in self.kernel.snapshots:
                found += self._snapshot(equation)
                continue
            if name in self.kernel.tables:
                found += self._table(equation)
                continue
            make = self.ahead if name in self.kernel.rebuilt else self.make
            value = make.value(name)
            self._name(equation, value)
            if name in self.kernel.rebuilt:
                value = self.make.value(name) if name in self.kernel.stored else value
            if name in self.kernel.stored:
                found += self._stores(equation, value)
            if name in self.kernel.carried:
                found += self._ring_writes(equation, make.value(name))
        return found

    def _lane_sums(self, equation: Equation) -> list[_Item]:
        """What a sum over groups of lanes adds at each step."""
        found_sum = group_sum(equation)
        assert found_sum is not None
        dims = tuple(a for a in equation.axes if a in self.inner)
        values = parts(self.make.cast(found_sum[2], equation.dtype))
        found = []
        for part, node in zip(part_names(equation.dtype), values, strict=True):
            found.append(_Item("step", node, frozenset(dims), True, LaneSum(equation.name, part, dims, node)))
        return found

    def _snapshot(self, equation: Equation) -> list[_Item]:
        """What is written at the start of a chunk of time: carried values, some steps back."""
        snapshot = snapshot_of(self.plan.program, equation)
        assert snapshot is not None
        read, chunk, lag = snapshot
        time, g = str(self.kernel.time), self.graph
        axes = self.make.tensors[read.tensor].axes
        at = tuple(Op("sub", (Index(time), lag)) if a == time else Index(a) for a in axes)
        values = parts(self.make.ring(Read(read.tensor, at), at[axes.index(time)]))
        number = self.make.real(Op("floordiv", (Index(time), Const(CHUNK, INT))), INT)
        indices = tuple(number if a == chunk else g.index(a) for a in equation.axes)
        own = tuple(a for a in equation.axes if a != chunk)
        return [
            self._root("enter", node, own, Store(equation.name, part, indices, node, self._once(own)))
            for part, node in zip(part_names(equation.dtype), values, strict=True)
        ]

    def _table(self, equation: Equation) -> list[_Item]:
        """The zeros that a table starts as, and what each step adds to it."""
        table, g = table_of(self.plan.program, equation), self.graph
        assert table is not None and table.condition is not None
        own = tuple(a for a in equation.axes if a not in table.places)
        places = tuple(self.make.real(table.places.get(a, Index(a)), INT) for a in equation.axes)
        condition = self.make.real(table.condition, BOOL)
        zero = g.convert(g.const(0, INT), INT if equation.dtype is INT else REAL)
        first = "before" if table.time else "step"
        found = []
        for part, node in zip(
            part_names(equation.dtype), parts(self.make.cast(table.body, equation.dtype)), strict=True
        ):
            store = Store(equation.name, part, tuple(map(g.index, equation.axes)), zero)
            add = Add(equation.name, part, places, condition, node)
            found += [
                self._root(first, zero, equation.axes, store),
                self._root("step", node, (*own, *table.bound), add),
            ]
        return found

    def _once(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        """Axes of the grid along which a tensor does not vary."""
        grid = [*self.kernel.parallel, *([self.kernel.lane] if self.kernel.lane else [])]
        return tuple(a for a in grid if a not in axes)

    def _name(self, equation: Equation, value: Value) -> None:
        for node, part in zip(parts(value), part_names(equation.dtype), strict=True):
            suffix = f"_{part}" if len(part_names(equation.dtype)) > 1 else ""
            self.names.setdefault(node.number, f"{equation.name}{suffix}")

    def _stores(self, equation: Equation, value: Value) -> list[_Item]:
        indices = tuple(self.graph.index(a) for a in equation.axes)
        found = []
        for part, node in zip(part_names(equation.dtype), parts(value), strict=True):
            section = self._section_of_store(equation, node)
            store = Store(equation.name, part, indices, node, self._once(equation.axes))
            found.append(self._root(section, node, equation.axes, store))
        return found

    def _section_of_store(self, equation: Equation, node: Node) -> str:
        if self.kernel.time is None or self.kernel.time in equation.axes:
            return "step"
        return "after"

    def _root(
        self, section: str, node: Node, axes: tuple[str, ...], statement: Store | RingSet | LaneSum | Add
    ) -> _Item:
        nest = frozenset(axes) & self.inner
        lanes = self.kernel.lane in axes or self.kernel.lane in node.axes
        return _Item(section, node, nest, lanes, statement)

    def _ring_writes(self, equation: Equation, value: Value) -> list[_Item]:
        inner = tuple(self.graph.index(a) for a in equation.axes if a in self.inner)
        depth = self.kernel.carried[equation.name]
        found = []
        for part, node in zip(part_names(equation.dtype), parts(value), strict=True):
            write = RingSet(equation.name, part, 0, inner, node)
            section = "rebuild" if equation.name in self.kernel.rebuilt else "step"
            found.append(self._root(section, node, equation.axes, write))
        if equation.name in self.kernel.rebuilt:
            return found + self._entries(equation, inner)
        if not self._is_extended(equation):
            return found  # rings start as zeros
        for lag in range(1, depth + 1):
            start = self._start(equation, lag)
            for part, node in zip(part_names(equation.dtype), parts(start), strict=True):
                write = RingSet(equation.name, part, lag, inner, node)
                found.append(self._root("before", node, equation.axes, write))
        return found

    def _entries(self, equation: Equation, inner: tuple[Node, ...]) -> list[_Item]:
        """What a rebuilt value was before a chunk, from what the forward pass saved."""
        depth = self.kernel.carried[equation.name]
        saved = self.make.tensors[f"{equation.name}{SAVED}"]
        chunk: Expr = Op("floordiv", (Index(str(self.kernel.time)), Const(CHUNK, INT)))
        found = []
        for lag in range(1, depth + 1):
            own = {f"{self.kernel.time}.chunk": chunk, f"{saved.name}.past": Const(depth - lag, INT)}
            value = self.make.build(Read(saved.name, tuple(own.get(a, Index(a)) for a in saved.axes)))
            for part, node in zip(part_names(equation.dtype), parts(value), strict=True):
                write = RingSet(equation.name, part, lag, inner, node)
                found.append(self._root("enter", node, equation.axes, write))
        return found

    def _is_extended(self, equation: Equation) -> bool:
        """Whether an equation says what is read before the first step."""
        side = "after" if self.kernel.reverse else "before"
        return self.plan.program.extension(equation.name, str(self.kernel.time), side) is not None

    def _start(self, equation: Equation, lag: int) -> Value:
        """What a recurrence reads ``lag`` steps before its first step."""
        time = str(self.kernel.time)
        extension = self.plan.program.extension(equation.name, time, "after" if self.kernel.reverse else "before")
        assert extension is not None
        at: Expr = as_int(-lag)
        if self.kernel.reverse:
            at = Size(time) if lag == 1 else Op("add", (Size(time), Const(lag - 1, INT)))
        return self.make.extended(extension, {**{a: Index(a) for a in equation.axes}, time: at})

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

    # ------------------------------------------------------------ where values are computed

    def _is_final(self, node: Node) -> bool:
        known = self.final.get(node.number)
        if known is None:
            known = node.kind == "final" or any(self._is_final(a) for a in node.args)
            self.final[node.number] = known
        return known

    def _section(self, node: Node, context: str) -> str:
        """The section in which a node that ``context`` needs is computed."""
        if self.kernel.time is None:
            return "step"
        if context == "before" or self._is_final(node):
            return context
        if self.kernel.time in node.axes:
            if context in ("enter", "rebuild"):
                return context
            return "rebuild" if self._is_rebuilt(node) else "step"
        return "before" if self._fits_ahead(node) else context

    def _is_rebuilt(self, node: Node) -> bool:
        """Whether a step takes the value that was made ahead of it: what costs an exponential."""
        if ("rebuild", node.number) not in self.items or node.kind != "op" or node.name not in OPERATIONS:
            return False
        return OPERATIONS[str(node.name)].exponentials > 0

    def _fits_ahead(self, node: Node) -> bool:
        axes = node.axes & self.inner
        if any(self.ranges.varies(a) for a in axes):
            return False
        count = 1
        for axis in axes:
            count *= self.ranges.value(axis)
        lanes = self.kernel.lane in node.axes
        if node.kind == "load" and not lanes and axes:
            return False
        return count <= (_LANE_ARRAY if lanes else _SCALAR_ARRAY)

    def _is_trivial(self, node: Node) -> bool:
        if node.kind in ("const", "index", "size"):
            return True
        integer = node.type is not REAL and node.kind == "op" and node.name in _TRIVIAL
        return integer and all(self._is_trivial(a) for a in node.args)

    def _demand(self, node: Node, context: str, axes: frozenset[str], lanes: bool) -> None:
        """Note that a statement over ``axes`` (and lanes) in ``context`` uses the node; decide whether
        the node becomes a statement of its own."""
        if self._is_trivial(node):
            return
        section = self._section(node, context)
        key = (section, node.number)
        item = self.items.get(key)
        if item is not None:
            item.users += 1
            return
        item = _Item(section, node, node.axes & self.inner, self.kernel.lane in node.axes, users=1)
        crosses = section != context or item.axes != axes or item.lanes != lanes
        if node.kind == "reduce" or crosses or self._is_long(node):
            item.users += 1
        self.items[key] = item
        below = item.nest
        for arg in node.args:
            self._demand(arg, section, below, item.lanes)

    def _is_long(self, node: Node) -> bool:
        """Whether to end a loop over lanes with this value. Where a step has nothing but lanes, one loop
        over a long chain of operations waits for latencies; several loops over short ones do not."""
        if self.inner or node.type is not REAL or node.kind != "op" or self.kernel.lane not in node.axes:
            return False
        return OPERATIONS[str(node.name)].exponentials > 0 if node.name in OPERATIONS else False

    def _keep(self, section: str, node: Node) -> None:
        """A carried value is computed before any ring is written: no later statement may see a new
        entry where it means the old one."""
        item = self.items.get((section, node.number))
        if item is not None:
            item.users += 1

    def _force(self, section: str, node: Node) -> None:
        if self._is_trivial(node) or (section, node.number) not in self.items:
            item = self.items.setdefault((section, node.number), _Item(section, node, node.axes & self.inner,
                                                                      self.kernel.lane in node.axes))  # fmt: skip
            for arg in node.args:
                self._demand(arg, section, item.nest, item.lanes)
        self.items[section, node.number].users += 2

    def _is_item(self, section: str, node: Node) -> bool:
        item = self.items.get((section, node.number))
        return item is not None and item.users > 1 and (section, node.number) not in self.again

    # ------------------------------------------------------------ groups

    def _arrange(self, section: str, roots: list[_Item]) -> None:
        """Put the statements of one section into loop nests, in an order that respects every use."""
        place = self.sections[section]
        defined = self._in_order([i for (s, _), i in self.items.items() if s == section and self._is_item(s, i.node)])
        writes = sorted(roots, key=lambda r: isinstance(r.statement, RingSet))
        zeros = [r for r in writes if isinstance(r.statement, Store) and r.statement.tensor in self.kernel.tables]
        for item in [*zeros, *defined, *(r for r in writes if r not in zeros)]:
            first = self._earliest(item)
            item.group = self._join(place, item, first)
            place.items.append(item)

    def _in_order(self, items: list[_Item]) -> list[_Item]:
        """Operands before users and, where there is a choice, fewer loops first: what every state needs
        is then known before the loop over states, and that loop need not be split."""
        waiting = {i.node.number: i for i in items}
        needs = {n: {u.node.number for u, _ in self._uses(i)} - {n} for n, i in waiting.items()}
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
        return order

    def _earliest(self, item: _Item) -> int:
        """The first group in which everything that the item uses is known."""
        first = 0
        for used, elsewhere in self._uses(item):
            same = used.nest == item.nest and not used.is_reduce and not elsewhere and not self._is_long(used.node)
            first = max(first, used.group if same else used.group + 1)
        write = item.statement
        if isinstance(write, Add):
            zeros = [i for i in self.sections[item.section].items if _writes(i, write.tensor)]
            first = max([first, *(i.group + 1 for i in zeros if isinstance(i.statement, Store))])
        if isinstance(write, RingSet) and write.lag == 0 and self.slots[write.tensor] == 1:
            for reader in self.sections[item.section].items:
                here = self._reads_ring(reader, write.tensor)
                if here is not None:
                    first = max(first, reader.group if here and reader.nest == item.nest else reader.group + 1)
        return first

    def _uses(self, item: _Item) -> list[tuple[_Item, bool]]:
        """Items of the same section that an item reads, looking through what is not an item; the flag
        says that a whole array of it is read, not the entry at the present point."""
        section, found, seen = item.section, self._own_array(item), set()
        stack = list(item.uses)
        while stack:
            node = stack.pop()
            if node.number in seen:
                continue
            seen.add(node.number)
            if node.kind == "array":
                found.append((self._array_item(section, node), True))
            if self._is_item(section, node):
                found.append((self.items[section, node.number], False))
            else:
                stack.extend(node.args)
        return found

    def _own_array(self, item: _Item) -> list[tuple[_Item, bool]]:
        """What makes the array of which the item itself is an entry."""
        is_entry = item.statement is None and item.node.kind == "array"
        return [(self._array_item(item.section, item.node), True)] if is_entry else []

    def _array_item(self, section: str, node: Node) -> _Item:
        """What makes the array that a node reads an entry of."""
        tensor, part = node.name
        value = parts(self._maker(section).value(tensor))[part == "im"]
        return self.items["rebuild" if section == "rebuild" else "step", value.number]

    def _reads_ring(self, item: _Item, tensor: str) -> bool | None:
        """None if the item does not read the ring; else whether it reads it only at its own point."""
        seen: set[int] = set()
        stack, here = list(item.uses), None
        while stack:
            node = stack.pop()
            if node.number in seen:
                continue
            seen.add(node.number)
            if node.kind == "ring" and node.name[0] == tensor:
                own = all(a.kind == "index" for a in node.args[1:])
                here = own if here is None else here and own
            if not self._is_item(item.section, node) or node is item.node and item.statement is None:
                stack.extend(node.args)
        return here

    def _join(self, place: _Section, item: _Item, first: int) -> int:
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
                for used, elsewhere in self._all_uses(item):
                    other = used.section != section or used.group != item.group or used.is_reduce
                    if other or elsewhere:
                        crossing.add((used.section, used.node.number))
                    if used.section == "rebuild" and section != "rebuild":
                        later.add((used.section, used.node.number))
        for key, item in self.items.items():
            if self._is_item(item.section, item.node):
                local = key not in crossing and not item.is_reduce and key not in forced
                dims = () if local else tuple(a for a in self.kernel.inner if a in item.axes)
                if not item.is_reduce and key not in forced and any(self.ranges.varies(a) for a in dims):
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

    def _all_uses(self, item: _Item) -> list[tuple[_Item, bool]]:
        """Like ``_uses``, but also of values computed ahead."""
        section, found, seen = item.section, self._own_array(item), set()
        stack = list(item.uses)
        while stack:
            node = stack.pop()
            if node.number in seen:
                continue
            seen.add(node.number)
            if node.kind == "array":
                found.append((self._array_item(section, node), True))
            home = self._section(node, section)
            if self._is_item(home, node):
                found.append((self.items[home, node.number], False))
            elif home != section and not self._is_trivial(node):
                raise InternalError(f"a value computed ahead has no place: {node!r}")
            else:
                stack.extend(node.args)
        return found

    def _variable_name(self, node: Node) -> str:
        base = self.names.get(node.number)
        if base is None:
            base = str(node.name[0] if isinstance(node.name, tuple) else node.name or node.kind)
        name, count = base, 1
        while name in self.used_names:
            count += 1
            name = f"{base}_{count}"
        self.used_names.add(name)
        return name

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
        dims = tuple(a for a in tensor.axes if a in self.inner)
        self._bounded(dims)
        type: DType = REAL if len(part_names(tensor.dtype)) > 1 else tensor.dtype
        lanes = self.kernel.lane is not None and self.kernel.lane in tensor.axes
        if name in self.kernel.rebuilt:
            return Ring(name, part_names(tensor.dtype), type, dims, lanes, depth, depth + CHUNK, history=True)
        in_place = depth == 1 and self._constant_lags(name)
        return Ring(name, part_names(tensor.dtype), type, dims, lanes, depth, 1 if in_place else depth + 1)

    def _constant_lags(self, name: str) -> bool:
        """Whether every ring read of the value is at a constant lag (so one slot can serve)."""
        nodes = walk_nodes(tuple(i.node for i in self.items.values()))
        return all(n.args[0].kind == "const" for n in nodes if n.kind == "ring" and n.name[0] == name)
