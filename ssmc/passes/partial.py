"""Program → Program: sums over time and channels in parts that one kernel can gather on its way.

    A = sum[b, t](e)   =   A.run = A.run[t+1] + e;   A.part[b] = A.run[t=0];   A = sum[b](A.part)
    B = sum[d](e)      =   B.part[g] = sum[d: d // G == g](e);   B = sum[g](B.part)

A sum over time becomes a value carried backwards through it; a sum over the channels that lie side by side in
a vector becomes one over groups of them. Every part has a fixed place, so the order of addition never depends
on how many threads share the work. What is summed beyond time and channels (``b``) is summed last.

Precondition: the sum has no condition and is not empty of the axes in question.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeGuard

from ssmc.ir import (
    INT,
    Axis,
    Const,
    Equation,
    Expr,
    Index,
    Op,
    Program,
    Read,
    Reduce,
    Size,
    Tensor,
    Where,
    complete_extents,
    dependence,
    free_axes,
    rewrite,
    type_of,
    walk,
)
from ssmc.ir.loops import LANE_GROUP

from .names import Names
from .recompute import SAVED, entry_of
from .tables import table_of

MOST_CARRIED = 512  # numbers per channel that a sum over time may carry
SWEPT = ".swept"  # what sums that are carried because of a window are called by, see ``sweep``


@dataclass
class _Parts:
    """The pass over one Program; ``carried`` says whether a value with these axes is few numbers, per channel. If there
    is anything in ``of``, only sums over time that read of it are wanted."""

    program: Program
    time: str
    lane: str | None
    inner: frozenset[str]
    carried: Callable[[tuple[str, ...]], bool]
    together: int
    of: frozenset[str]
    axes: list[Axis] = field(default_factory=list)
    equations: list[Equation] = field(default_factory=list)

    @property
    def group(self) -> str:
        return f"{self.lane}.group"

    def run(self) -> Program:
        self.names = Names.of(self.program)
        for equation in self.program.equations:
            if table_of(self.program, equation):
                self.equations.append(equation)
                continue
            expr = rewrite(equation.expr, lambda e, equation=equation: self._split(equation, e))  # type: ignore[misc]
            self.equations.append(replace(equation, expr=expr))
        return replace(self.program, axes=(*self.program.axes, *self.axes), equations=tuple(self.equations))

    def _split(self, equation: Equation, expr: Expr) -> Expr | None:
        if not isinstance(expr, Reduce) or expr.kind != "sum" or not self._is_wanted(equation, expr):
            return None
        outer = tuple(a for a in expr.axes if a != self.time and a != self.lane and a not in self.inner)
        if self.time in expr.axes:
            kept = (*outer, self.lane) if self.lane in expr.axes else outer
            return self._over_time(equation, expr, tuple(a for a in kept if a))
        return self._over_lanes(equation, expr, outer)

    def _is_wanted(self, equation: Equation, expr: Reduce) -> bool:
        """Whether a fold gathers over time, or over channels step by step, and its parts are few."""
        free = free_axes(expr)
        made = {node.tensor for node in walk(expr) if isinstance(node, Read)}
        if self.of and (self.time not in expr.axes or not self.of & made):
            return False
        if not free <= set(equation.axes) or self.time in free and self.lane not in expr.axes:
            return False
        if self.time in expr.axes:
            return self.time not in equation.axes and self.carried(tuple(free))
        return self.time in equation.axes and self.lane in expr.axes and self.lane not in equation.axes

    def _body(self, expr: Reduce, within: tuple[str, ...]) -> Expr:
        """What is added at one point, folded over the axes that lie within it."""
        body = expr.body
        if expr.condition is not None:
            body = Where(expr.condition, body, Const(0, INT))
        return Reduce("sum", within, None, body) if within else body

    def _over_time(self, equation: Equation, expr: Reduce, kept: tuple[str, ...]) -> Expr:
        name = self.names.new(f"{equation.name}{SWEPT if self.of else '.run'}")
        dtype = type_of(expr, self.program.tensors())
        own = tuple(a for a in equation.axes if a in free_axes(expr))
        axes = (*kept, self.time, *own) if self.lane not in kept else (*kept[:-1], self.time, *own, str(self.lane))
        later = {self.time: Op("add", (Index(self.time), Const(1, INT)))}
        past = Read(name, tuple(later.get(a, Index(a)) for a in axes))
        within = tuple(a for a in expr.axes if a != self.time and a not in kept)
        self.equations.append(Equation(name, axes, dtype, Op("add", (past, self._body(expr, within)))))
        part, places = self.names.new(f"{equation.name}.part"), tuple(a for a in axes if a != self.time)
        first = Read(name, tuple(Const(0, INT) if a == self.time else Index(a) for a in axes))
        self.equations.append(Equation(part, places, dtype, first))
        read = Read(part, tuple(Index(a) for a in places))
        return Reduce("sum", kept, None, read) if kept else read

    def _over_lanes(self, equation: Equation, expr: Reduce, outer: tuple[str, ...]) -> Expr:
        lane = str(self.lane)
        if all(axis.name != self.group for axis in self.axes):
            count = Op("floordiv", (Op("add", (Size(lane), Const(self.together - 1, INT))), Const(self.together, INT)))
            self.axes.append(Axis(self.group, count))
        own = tuple(a for a in equation.axes if a in free_axes(expr))
        place = own.index(self.time)
        axes = (*outer, *own[:place], self.group, *own[place:])
        within = tuple(a for a in expr.axes if a not in outer and a != lane)
        body = self._body(replace(expr, axes=(lane, *within)), within)
        mine = Op("eq", (Op("floordiv", (Index(lane), Const(self.together, INT))), Index(self.group)))
        name = self.names.new(f"{equation.name}.part")
        dtype = type_of(expr, self.program.tensors())
        self.equations.append(Equation(name, axes, dtype, Reduce("sum", (lane,), mine, body)))
        read = Read(name, tuple(Index(a) for a in axes))
        return Reduce("sum", (*outer, self.group), None, read)


def partial(program: Program, sizes: Mapping[str, int], together: int = LANE_GROUP) -> Program:
    """The Program with its sums over time and channels in parts; unchanged unless it rebuilds a recurrence,
    for which all else is gathered on the way back.

    Args:
        sizes: extents of the axes that inputs bind; only those of inner axes matter.
        together: channels whose sum is one part.
    """
    rebuilt = [e for e in program.equations if any(entry_of(node) for node in walk(e.expr))]
    if not rebuilt:
        return program
    time = next(
        node.axis for e in rebuilt for a in walk(e.expr) if entry_of(a) for node in walk(a) if _is_time(node, program)
    )
    return _in_parts(program, time, _lane(program, time, rebuilt), sizes, together)


def swept(
    program: Program, time: str, along: Sequence[Equation], sizes: Mapping[str, int], together: int, of: frozenset[str]
) -> Program:
    """The Program with sums over ``time`` that read what is in ``of`` carried back through it; unchanged unless
    channels of ``along`` lie side by side."""
    lane = _lane(program, time, along)
    held = [t for t in _in_memory(program) if {time, lane} <= set(t.axes)]
    if lane is None or any(tensor.axes[-1] != lane for tensor in held):
        return program
    return _in_parts(program, time, lane, sizes, together, of)


def _in_parts(
    program: Program, time: str, lane: str | None, sizes: Mapping[str, int], together: int,
    of: frozenset[str] = frozenset(),
) -> Program:  # fmt: skip
    inner = _inner(program, time, lane)
    extents = complete_extents(program, sizes)

    def is_small(axes: tuple[str, ...]) -> bool:
        return math.prod(extents.get(a, 1) for a in axes if a in inner) <= MOST_CARRIED

    return _Parts(program, time, lane, inner, is_small, together, of).run()


def _is_time(node: Expr, program: Program) -> TypeGuard[Index]:
    return isinstance(node, Index) and node.axis in program.sequence_axes


def _lane(program: Program, time: str, rebuilt: Sequence[Equation]) -> str | None:
    """The axis that most tensors in memory end with, of those along which the recurrences are independent."""
    within = _folded_within(program)
    votes: dict[str, int] = {}
    for tensor in _in_memory(program):
        axes = [a for a in tensor.axes if a != time]
        if axes and len(axes) < len(tensor.axes) and not tensor.name.endswith(SAVED) and axes[-1] not in within:
            votes[axes[-1]] = votes.get(axes[-1], 0) + 1
    best = max(votes, key=lambda a: votes[a], default=None)
    if best is None or any(best not in e.axes for e in rebuilt):
        return None
    tensors, made = program.tensors(), {e.name for e in program.equations}
    for equation in program.equations:
        for node in walk(equation.expr):
            if isinstance(node, Read) and node.tensor in made and best in tensors[node.tensor].axes:
                if node.indices[tensors[node.tensor].axes.index(best)] != Index(best):
                    return None
    return best


def _in_memory(program: Program) -> list[Tensor]:
    return [*program.inputs, *(program.equation(name).tensor for name in program.outputs)]


def _folded_within(program: Program) -> set[str]:
    """Axes that recurrences fold in each step."""
    names = {name for loop in dependence(program).recurrences for name in loop.equations()}
    nodes = [node for e in program.equations if e.name in names for node in walk(e.expr)]
    return {axis for node in nodes if isinstance(node, Reduce) for axis in node.axes}


def _inner(program: Program, time: str, lane: str | None) -> frozenset[str]:
    """Axes that are folded step by step, by something other than a sum over channels."""
    found: set[str] = set()
    for equation in program.equations:
        for node in walk(equation.expr):
            if isinstance(node, Reduce) and time not in node.axes and lane not in node.axes:
                if time in equation.axes:
                    found |= set(node.axes)
    return frozenset(found)


def group_sum(equation: Equation) -> tuple[str, str, Expr] | None:
    """The channels, the axis of their groups and the summand of ``B.part[g] = sum[d: d // G == g](e)``."""
    match equation.expr:
        case Reduce(
            kind="sum",
            axes=(lane,),
            condition=Op(
                op="eq", args=(Op(op="floordiv", args=(Index(axis=own), Const(value=size))), Index(axis=group))
            ),
            body=body,
        ) if own == lane and isinstance(size, int) and group == f"{lane}.group":
            return lane, group, body
    return None
