"""Kernel of a plan → items: what its sections write.

These are the outputs and what passes through memory, carried values (into rings), what sums over groups of lanes
and tables gather, and what is saved of states at the start of each chunk of time.
"""

from __future__ import annotations

from ssmc.ir import BOOL, INT, REAL, Const, Equation, Expr, Extension, Index, Op, Program, Read, Size
from ssmc.ir.loops import Add, LaneSum, RingSet, Store
from ssmc.ir.scalar import Node, Value, part_names, parts

from .items import Item
from .partial import group_sum
from .parts import ANY
from .plan import KernelPlan, Plan
from .ranges import as_int
from .recompute import CHUNK, SAVED, saved_depth, snapshot_of
from .scalarise import Scalariser
from .tables import table_of


def writes(plan: Plan, kernel: KernelPlan, make: Scalariser, ahead: Scalariser) -> tuple[list[Item], dict[int, str]]:
    """What one kernel writes, and the names of its equations by the numbers of the nodes that are their values."""
    found = _Writes(plan.program, kernel, make, ahead)
    items = [item for name in kernel.equations for item in found.of(plan.program.equation(name))]
    return items, found.names


class _Writes:
    def __init__(self, program: Program, kernel: KernelPlan, make: Scalariser, ahead: Scalariser) -> None:
        self.program, self.kernel, self.make, self.ahead = program, kernel, make, ahead
        self.graph = make.graph
        self.inner = frozenset(kernel.inner)
        self.names: dict[int, str] = {}

    def of(self, equation: Equation) -> list[Item]:
        """What is written of one equation."""
        name, kernel = equation.name, self.kernel
        if name in kernel.sums:
            return self._lane_sums(equation)
        if name in kernel.snapshots:
            return self._snapshot(equation)
        if name in kernel.tables:
            return self._table(equation)
        value = (self.ahead if name in kernel.rebuilt and not kernel.at_once else self.make).value(name)
        self._name(equation, value)
        found = []
        if name in kernel.stored:
            found += self._stores(equation, self.make.value(name))
        if name in kernel.carried:
            found += self._ring_writes(equation, value)
        return found

    def _lane_sums(self, equation: Equation) -> list[Item]:
        """What a sum over groups of lanes adds at each step."""
        found_sum = group_sum(equation)
        assert found_sum is not None
        dims = tuple(a for a in equation.axes if a in self.inner)
        values = parts(self.make.cast(found_sum[2], equation.dtype))
        found = []
        for part, node in zip(part_names(equation.dtype), values, strict=True):
            found.append(Item("step", node, frozenset(dims), True, LaneSum(equation.name, part, dims, node)))
        return found

    def _snapshot(self, equation: Equation) -> list[Item]:
        """What is written at the start of a chunk of time: carried values, some steps back."""
        snapshot = snapshot_of(self.program, equation)
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
            self._root("enter", node, own, Store(equation.name, part, indices, node, self._once((*own, time))))
            for part, node in zip(part_names(equation.dtype), values, strict=True)
        ]

    def _table(self, equation: Equation) -> list[Item]:
        """The zeros that a table starts as, and what each step adds to it."""
        table, g = table_of(self.program, equation), self.graph
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
        """Axes of the grid along which a tensor does not vary: of parts of time what varies along time does."""
        grid = [*self.kernel.parallel, *([self.kernel.lane] if self.kernel.lane else [])]
        over = {*axes, self.kernel.part} if self.kernel.time in axes else axes
        return tuple(a for a in grid if a not in over and not a.endswith(ANY))

    def _name(self, equation: Equation, value: Value) -> None:
        for node, part in zip(parts(value), part_names(equation.dtype), strict=True):
            suffix = f"_{part}" if len(part_names(equation.dtype)) > 1 else ""
            self.names.setdefault(node.number, f"{equation.name}{suffix}")

    def _stores(self, equation: Equation, value: Value) -> list[Item]:
        indices = tuple(self.graph.index(a) for a in equation.axes)
        section = "step" if self.kernel.time is None or self.kernel.time in equation.axes else "after"
        found = []
        for part, node in zip(part_names(equation.dtype), parts(value), strict=True):
            once, last = self._once(equation.axes), ()  # type: tuple[tuple[str, ...], tuple[str, ...]]
            if section == "after" and self.kernel.part in once and not self.kernel.reverse:
                once, last = tuple(a for a in once if a != self.kernel.part), (str(self.kernel.part),)
            store = Store(equation.name, part, indices, node, once, last)
            found.append(self._root(section, node, equation.axes, store))
        return found

    def _root(
        self, section: str, node: Node, axes: tuple[str, ...], statement: Store | RingSet | LaneSum | Add
    ) -> Item:
        nest = frozenset(axes) & self.inner
        lanes = self.kernel.lane in axes or self.kernel.lane in node.axes
        return Item(section, node, nest, lanes, statement)

    def _ring_writes(self, equation: Equation, value: Value) -> list[Item]:
        inner = tuple(self.graph.index(a) for a in equation.axes if a in self.inner)
        depth = self.kernel.carried[equation.name]
        found = []
        if self.kernel.at_once and equation.name in self.kernel.rebuilt:
            return self._entries(equation, inner)
        for part, node in zip(part_names(equation.dtype), parts(value), strict=True):
            write = RingSet(equation.name, part, 0, inner, node)
            section = "rebuild" if equation.name in self.kernel.rebuilt else "step"
            found.append(self._root(section, node, equation.axes, write))
        if equation.name in self.kernel.rebuilt:
            return found + self._entries(equation, inner)
        if self.kernel.part:
            return found + self._begun(equation, inner)
        side = "after" if self.kernel.reverse else "before"
        extension = self.program.extension(equation.name, str(self.kernel.time), side)
        if extension is None:
            return found  # rings start as zeros
        for lag in range(1, depth + 1):
            start = self._start(equation, extension, lag)
            for part, node in zip(part_names(equation.dtype), parts(start), strict=True):
                write = RingSet(equation.name, part, lag, inner, node)
                found.append(self._root("before", node, equation.axes, write))
        return found

    def _begun(self, equation: Equation, inner: tuple[Node, ...]) -> list[Item]:
        """What a part of time begins with; nothing where pieces of parts begin afresh anyway."""
        if equation.name not in self.kernel.starts:
            return []
        value = self.make.cast(self.kernel.starts[equation.name], equation.dtype)
        return [
            self._root("before", node, equation.axes, RingSet(equation.name, part, 1, inner, node))
            for node, part in zip(parts(value), part_names(equation.dtype), strict=True)
        ]

    def _entries(self, equation: Equation, inner: tuple[Node, ...]) -> list[Item]:
        """What a rebuilt value was before a chunk, from what the forward pass saved."""
        depth = saved_depth(self.program, equation.name)
        saved = self.make.tensors[f"{equation.name}{SAVED}"]
        chunk: Expr = Op("floordiv", (Index(str(self.kernel.time)), Const(CHUNK, INT)))
        found = []
        for lag in range(1, self.kernel.carried[equation.name] + 1):
            own = {f"{self.kernel.time}.chunk": chunk, f"{saved.name}.past": Const(depth - lag, INT)}
            value = self.make.build(Read(saved.name, tuple(own.get(a, Index(a)) for a in saved.axes)))
            for part, node in zip(part_names(equation.dtype), parts(value), strict=True):
                write = RingSet(equation.name, part, lag, inner, node)
                found.append(self._root("enter", node, equation.axes, write))
        return found

    def _start(self, equation: Equation, extension: Extension, lag: int) -> Value:
        """What a recurrence reads ``lag`` steps before its first step."""
        time = str(self.kernel.time)
        at: Expr = as_int(-lag)
        if self.kernel.reverse:
            at = Size(time) if lag == 1 else Op("add", (Size(time), Const(lag - 1, INT)))
        return self.make.extended(extension, {**{a: Index(a) for a in equation.axes}, time: at})
