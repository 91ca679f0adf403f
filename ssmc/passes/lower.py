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
from ssmc.ir import INT, OPERATIONS, REAL, Const, DType, Equation, Expr, Index, Op, Size
from ssmc.ir.loops import Accumulate, Group, Kernel, Let, Loops, Ring, RingSet, Statement, Store, Variable
from ssmc.ir.scalar import Node, Value, part_names, parts, walk_nodes

from .plan import KernelPlan, Plan, planner_for
from .ranges import Ranges, as_int
from .scalarise import Scalariser
from .tile import tile

# A value that does not vary along time is computed ahead when it takes at most so many numbers.
_LANE_ARRAY, _SCALAR_ARRAY = 256, 8192
_WIDER = 4
_TRIVIAL = frozenset({"add", "sub", "mul", "neg", "int", "real", "ge", "lt", "and"})


def lower(plan: Plan, sizes: dict[str, int], lanes: int, vector_operations: frozenset[str] = frozenset()) -> Loops:
    """Lower every kernel of a plan for a target that works on ``lanes`` values at a time and has
    ``vector_operations`` on whole vectors."""
    ranges = Ranges(plan.program, sizes)
    is_cheap = planner_for(plan.program, ranges).is_cheap
    kernels = []
    for kernel in plan.kernels:
        scalariser = Scalariser(plan.program, kernel, ranges, is_cheap)
        lowered = _KernelLowering(plan, kernel, ranges, scalariser).run(lanes)
        kernels.append(tile(lowered, plan.fixed, plan.options, vector_operations))
    return Loops(plan.program, tuple(kernels), plan.workspaces, plan.fixed)


@dataclass
class _Item:
    """One statement to be placed: the node it computes or, for roots, the node it writes."""

    section: str
    node: Node
    axes: frozenset[str]
    lanes: bool
    statement: Store | RingSet | None = None
    users: int = 0
    group: int = -1

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


class _KernelLowering:
    def __init__(self, plan: Plan, kernel: KernelPlan, ranges: Ranges, scalariser: Scalariser) -> None:
        self.plan, self.kernel, self.ranges, self.make = plan, kernel, ranges, scalariser
        self.graph = scalariser.graph
        self.inner = frozenset(kernel.inner)
        self.sections = {name: _Section() for name in ("before", "step", "after")}
        self.items: dict[tuple[str, int], _Item] = {}
        self.variables: dict[tuple[str, int], Variable] = {}
        self.final: dict[int, bool] = {}
        self.names: dict[int, str] = {}
        self.used_names: set[str] = set()

    def run(self, lanes: int) -> Kernel:
        roots = self._roots()
        forced = self._array_values()
        for item in roots:
            self._demand(item.node, item.section, item.axes, item.lanes)
            if isinstance(item.statement, RingSet) and item.statement.lag == 0:
                self._keep(item.node)
        for name, node in forced:
            self._force(name, node)
        rings = tuple(self._ring(name, depth) for name, depth in self.kernel.carried.items())
        self.slots = {ring.tensor: ring.slots for ring in rings}
        for section in ("before", "step", "after"):
            self._arrange(section, [r for r in roots if r.section == section])
        self._assign_variables({n.number for _, n in forced})
        for section in ("before", "step", "after"):
            self._fill(section)
        k = self.kernel
        done = [tuple(self.sections[s].groups) for s in ("before", "step", "after")]
        arrays = {}
        for tensor in sorted(self.make.arrays):
            for part, node in zip(("re", "im"), parts(self.make.value(tensor)), strict=False):
                arrays[tensor, part] = self.variables["step", node.number]
        return Kernel(k.name, k.parallel, k.lane, k.time, k.reverse, k.recurrent, done[0], done[1], done[2],
                      rings, self.variables, arrays, self._touched(done), self._lanes(lanes, rings))  # fmt: skip

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
                for node in walk_nodes((*getattr(statement, "indices", ()), statement.node)):
                    if node.kind == "load":
                        found[node.name[0]] = None
                if isinstance(statement, Store):
                    found[statement.tensor] = None
        return tuple(found)

    # ------------------------------------------------------------ what is to be written

    def _roots(self) -> list[_Item]:
        found = []
        for name in self.kernel.equations:
            equation = self.plan.program.equation(name)
            value = self.make.value(name)
            self._name(equation, value)
            if name in self.kernel.stored:
                found += self._stores(equation, value)
            if name in self.kernel.carried:
                found += self._ring_writes(equation, value)
        return found

    def _name(self, equation: Equation, value: Value) -> None:
        for node, part in zip(parts(value), part_names(equation.dtype), strict=True):
            suffix = f"_{part}" if len(part_names(equation.dtype)) > 1 else ""
            self.names.setdefault(node.number, f"{equation.name}{suffix}")

    def _stores(self, equation: Equation, value: Value) -> list[_Item]:
        indices = tuple(self.graph.index(a) for a in equation.axes)
        grid = [*self.kernel.parallel, *([self.kernel.lane] if self.kernel.lane else [])]
        once = tuple(a for a in grid if a not in equation.axes)
        found = []
        for part, node in zip(part_names(equation.dtype), parts(value), strict=True):
            section = self._section_of_store(equation, node)
            store = Store(equation.name, part, indices, node, once)
            found.append(self._root(section, node, equation.axes, store))
        return found

    def _section_of_store(self, equation: Equation, node: Node) -> str:
        if self.kernel.time is None or self.kernel.time in equation.axes:
            return "step"
        return "after"

    def _root(self, section: str, node: Node, axes: tuple[str, ...], statement: Store | RingSet) -> _Item:
        nest = frozenset(axes) & self.inner
        lanes = self.kernel.lane in axes or self.kernel.lane in node.axes
        return _Item(section, node, nest, lanes, statement)

    def _ring_writes(self, equation: Equation, value: Value) -> list[_Item]:
        inner = tuple(self.graph.index(a) for a in equation.axes if a in self.inner)
        depth = self.kernel.carried[equation.name]
        found = []
        for part, node in zip(part_names(equation.dtype), parts(value), strict=True):
            write = RingSet(equation.name, part, 0, inner, node)
            found.append(self._root("step", node, equation.axes, write))
        if not self._is_extended(equation):
            return found  # rings start as zeros
        for lag in range(1, depth + 1):
            start = self._start(equation, lag)
            for part, node in zip(part_names(equation.dtype), parts(start), strict=True):
                write = RingSet(equation.name, part, lag, inner, node)
                found.append(self._root("before", node, equation.axes, write))
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

    def _array_values(self) -> list[tuple[str, Node]]:
        """Values that some statement reads at other inner indices: they need a whole array."""
        found: list[tuple[str, Node]] = []
        done: set[str] = set()
        while self.make.arrays - done:
            name = sorted(self.make.arrays - done)[0]
            done.add(name)
            found += [(name, node) for node in parts(self.make.value(name))]
        return found

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
            return "step"
        return "before" if self._fits_ahead(node) else context

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

    def _keep(self, node: Node) -> None:
        """A carried value is computed before any ring is written: no later statement may see a new
        entry where it means the old one."""
        item = self.items.get(("step", node.number))
        if item is not None:
            item.users += 1

    def _force(self, name: str, node: Node) -> None:
        if self._is_trivial(node) or ("step", node.number) not in self.items:
            item = self.items.setdefault(("step", node.number), _Item("step", node, node.axes & self.inner,
                                                                     self.kernel.lane in node.axes))  # fmt: skip
            for arg in node.args:
                self._demand(arg, "step", item.nest, item.lanes)
        self.items["step", node.number].users += 2

    def _is_item(self, section: str, node: Node) -> bool:
        item = self.items.get((section, node.number))
        return item is not None and item.users > 1

    # ------------------------------------------------------------ groups

    def _arrange(self, section: str, roots: list[_Item]) -> None:
        """Put the statements of one section into loop nests, in an order that respects every use."""
        place = self.sections[section]
        defined = self._in_order([i for (s, _), i in self.items.items() if s == section and i.users > 1])
        writes = sorted(roots, key=lambda r: isinstance(r.statement, RingSet))
        for item in [*defined, *writes]:
            first = self._earliest(item)
            item.group = self._join(place, item, first)
            place.items.append(item)

    def _in_order(self, items: list[_Item]) -> list[_Item]:
        """Operands before users and, where there is a choice, fewer loops first: what every state needs
        is then known before the loop over states, and that loop need not be split."""
        waiting = {i.node.number: i for i in items}
        needs = {n: {u.node.number for u, _ in self._uses(i.section, i.node.args)} - {n} for n, i in waiting.items()}
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
        start = (item.node,) if item.statement is not None else item.node.args
        for used, elsewhere in self._uses(item.section, start):
            same = used.nest == item.nest and not used.is_reduce and not elsewhere and not self._is_long(used.node)
            first = max(first, used.group if same else used.group + 1)
        write = item.statement
        if isinstance(write, RingSet) and write.lag == 0 and self.slots[write.tensor] == 1:
            for reader in self.sections[item.section].items:
                here = self._reads_ring(reader, write.tensor)
                if here is not None:
                    first = max(first, reader.group if here and reader.nest == item.nest else reader.group + 1)
        return first

    def _uses(self, section: str, nodes: tuple[Node, ...]) -> list[tuple[_Item, bool]]:
        """Items of the section that these nodes read, looking through what is not an item; the flag
        says that a whole array of it is read, not the entry at the present point."""
        found, seen = [], set()
        stack = list(nodes)
        while stack:
            node = stack.pop()
            if node.number in seen:
                continue
            seen.add(node.number)
            if node.kind == "array":
                tensor, part = node.name
                value = parts(self.make.value(tensor))[part == "im"]
                found.append((self.items["step", value.number], True))
            if self._is_item(section, node):
                found.append((self.items[section, node.number], False))
            else:
                stack.extend(node.args)
        return found

    def _reads_ring(self, item: _Item, tensor: str) -> bool | None:
        """None if the item does not read the ring; else whether it reads it only at its own point."""
        start = (item.node,) if item.statement is not None else item.node.args
        seen, stack, here = set(), list(start), None
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

    def _assign_variables(self, forced: set[int]) -> None:
        """Local scalars where a value is used in its own body only, arrays where it crosses."""
        crossing: set[tuple[str, int]] = set()
        for section, place in self.sections.items():
            for item in place.items:
                start = (item.node,) if item.statement is not None else item.node.args
                indices = getattr(item.statement, "indices", ())
                for used, elsewhere in self._all_uses(section, (*start, *indices)):
                    other = used.section != section or used.group != item.group or used.is_reduce
                    if other or elsewhere:
                        crossing.add((used.section, used.node.number))
        for key, item in self.items.items():
            if item.users > 1:
                local = key not in crossing and not item.is_reduce and item.node.number not in forced
                dims = () if local else tuple(a for a in self.kernel.inner if a in item.axes)
                self._bounded(dims)
                self.variables[key] = Variable(self._variable_name(item.node), item.node.type, dims, item.lanes, local)

    def _bounded(self, dims: tuple[str, ...]) -> None:
        """Refuse to keep a value for every step of a sequence."""
        for axis in dims:
            if self.ranges.varies(axis):
                names = ", ".join(f"`{n}`" for n in self.kernel.equations)
                span = self.plan.program.equation(self.kernel.equations[0]).span
                what = f"equations {names} need a whole row along `{axis}` at once"
                raise Unsupported(f"{what}, which has no strategy on this target yet", span=span)

    def _all_uses(self, section: str, nodes: tuple[Node, ...]) -> list[tuple[_Item, bool]]:
        """Like ``_uses``, but also of values computed ahead."""
        found, seen = [], set()
        stack = list(nodes)
        while stack:
            node = stack.pop()
            if node.number in seen:
                continue
            seen.add(node.number)
            if node.kind == "array":
                tensor, part = node.name
                found.append((self.items["step", parts(self.make.value(tensor))[part == "im"].number], True))
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
        in_place = depth == 1 and self._constant_lags(name)
        lanes = self.kernel.lane is not None and self.kernel.lane in tensor.axes
        return Ring(name, part_names(tensor.dtype), type, dims, lanes, depth, 1 if in_place else depth + 1)

    def _constant_lags(self, name: str) -> bool:
        """Whether every ring read of the value is at a constant lag (so one slot can serve)."""
        nodes = walk_nodes(tuple(i.node for i in self.items.values()))
        return all(n.args[0].kind == "const" for n in nodes if n.kind == "ring" and n.name[0] == name)
