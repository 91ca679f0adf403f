"""Program → Program: folds inside expressions become equations, so that every rule of differentiation is local.

    y = x * rsqrt(mean[d](x ^ 2) + 1)
  = y.mean[b, t] = mean[d](x ^ 2);   y = x * rsqrt(y.mean + 1)

A `sum` that is added to other things stays where it is, and so does a fold that is all of its equation. Calls of
elementwise functions become the expressions they stand for, except those with a gradient of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ssmc.ir import (
    Equation,
    Expr,
    Index,
    Op,
    Program,
    Read,
    Reduce,
    Transform,
    bound_axes,
    children,
    free_axes,
    type_of,
    with_children,
)

from .inline import inline

_ADDITIVE = frozenset({"add", "sub", "neg"})


@dataclass
class Names:
    """Names that are not yet taken in a Program."""

    taken: set[str]

    @staticmethod
    def of(program: Program) -> Names:
        opaque = {o.name for o in program.opaques} | {f.name for f in program.functions}
        return Names({*program.tensors(), *(a.name for a in program.axes), *opaque})

    def new(self, base: str) -> str:
        name, number = base, 1
        while name in self.taken:
            number += 1
            name = f"{base}_{number}"
        self.taken.add(name)
        return name


def flatten(program: Program) -> Program:
    """``program`` with folds as equations of their own; see the head of this file."""
    program = inline(program, keep=frozenset(f.name for f in program.functions if f.backward))
    return _Flattening(program, Names.of(program)).run()


@dataclass
class _Flattening:
    program: Program
    names: Names
    made: list[Equation] = field(default_factory=list)

    def run(self) -> Program:
        self.tensors = self.program.tensors()
        self.functions = {f.name: f for f in self.program.functions}
        order = {a.name: i for i, a in enumerate(self.program.axes)}
        self.order = lambda axis: order[axis]
        for equation in self.program.equations:
            expr = self._root(equation)
            self.made.append(replace(equation, expr=expr))
        return replace(self.program, equations=tuple(self.made))

    def _root(self, equation: Equation) -> Expr:
        expr = equation.expr
        if isinstance(expr, (Reduce, Transform)) and not bound_axes(expr) & set(equation.axes):
            return self._inside(equation, self._single(equation, expr))
        return self._visit(equation, expr, additive=True)

    def _visit(self, equation: Equation, expr: Expr, additive: bool) -> Expr:
        if isinstance(expr, (Reduce, Transform)):
            if additive and isinstance(expr, Reduce) and expr.kind == "sum" and not set(expr.axes) & set(equation.axes):
                return self._inside(equation, expr)
            return self._hoisted(equation, expr)
        inner = additive and isinstance(expr, Op) and expr.op in _ADDITIVE
        return with_children(expr, tuple(self._visit(equation, item, inner) for item in children(expr)))

    def _inside(self, equation: Equation, expr: Expr) -> Expr:
        return with_children(expr, tuple(self._visit(equation, item, False) for item in children(expr)))

    def _hoisted(self, equation: Equation, expr: Reduce | Transform) -> Expr:
        """A read of a new equation that holds a fold."""
        expr = self._inside(equation, self._single(equation, expr))  # type: ignore[assignment]
        free = free_axes(expr)
        own = [a for a in equation.axes if a in free]
        axes = (*own, *sorted(free - set(own), key=self.order))
        dtype = type_of(expr, self.tensors, self.functions)
        made = Equation(self.names.new(f"{equation.name}.{expr.kind}"), axes, dtype, expr, expr.span)
        self.made.append(made)
        self.tensors[made.name] = made.tensor
        return Read(made.name, tuple(Index(a) for a in axes), expr.span)

    def _single(self, equation: Equation, expr: Reduce | Transform) -> Expr:
        """The largest over several axes, axis by axis: its place is then one index after the other."""
        if not isinstance(expr, Reduce) or expr.kind not in ("max", "min") or len(expr.axes) == 1:
            return expr
        rest = Reduce(expr.kind, expr.axes[1:], expr.condition, expr.body, expr.span)
        return Reduce(expr.kind, expr.axes[:1], None, self._hoisted(equation, rest), expr.span)
