"""Program → Program: a fold inside a fold over a sequence axis becomes an equation of its own.

    y = sum[t](tanh(sum[n](w * x)))   =   y.1[t] = sum[n](w * x);   y = sum[t](tanh(y.1))

A kernel that folds over a sequence keeps no value for every step of it. What the inner fold yields goes through
memory; where it varies along no sequence axis that is folded around it, or along two of them, it stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ssmc.ir import (
    Axis,
    Equation,
    Expr,
    Index,
    Program,
    Read,
    Reduce,
    Size,
    children,
    free_axes,
    type_of,
    with_children,
)

from .names import Names
from .tables import table_of


def unnest(program: Program) -> Program:
    """The Program with such folds as equations of their own; unchanged where there are none."""
    long = {axis.name for axis in program.axes if _is_long(program, axis)}
    if not long:
        return program
    return _Unnest(program, frozenset(long)).run()


def _is_long(program: Program, axis: Axis) -> bool:
    if axis.sequence:
        return True
    return isinstance(axis.extent, Size) and _is_long(program, program.axis(axis.extent.axis))


@dataclass
class _Unnest:
    program: Program
    long: frozenset[str]
    made: list[Equation] = field(default_factory=list)

    def run(self) -> Program:
        self.names = Names.of(self.program)
        equations: list[Equation] = []
        for equation in self.program.equations:
            if table_of(self.program, equation):  # runs through time as a recurrence does
                equations.append(equation)
                continue
            self.made, self.base = [], equation.name
            expr = self._visit(equation.expr, frozenset())
            equations += [*self.made, replace(equation, expr=expr)]
        return replace(self.program, equations=tuple(equations))

    def _visit(self, expr: Expr, around: frozenset[str]) -> Expr:
        """``around`` are the long axes that are folded around the expression."""
        inside = around | (self.long & set(expr.axes) if isinstance(expr, Reduce) else frozenset())
        rebuilt = with_children(expr, tuple(self._visit(item, inside) for item in children(expr)))
        free = free_axes(expr)
        if not isinstance(expr, Reduce) or not free & around or len(free & self.long) > 1:
            return rebuilt
        axes = tuple(a.name for a in self.program.axes if a.name in free)
        name = self.names.new(f"{self.base}.{len(self.made) + 1}")
        tensors = self.program.tensors() | {e.name: e.tensor for e in self.made}
        self.made.append(Equation(name, axes, type_of(rebuilt, tensors), rebuilt, expr.span))
        return Read(name, tuple(map(Index, axes)), expr.span)
