"""Program → Program: folds inside expressions become equations, so that every rule of differentiation is local.

    y = x * rsqrt(mean[d](x ^ 2) + 1)
  = y.mean[b, t] = mean[d](x ^ 2);   y = x * rsqrt(y.mean + 1)

A `sum` that is added to other things stays where it is, and so does a fold that is all of its equation. Calls of
elementwise functions become the expressions they stand for, except those with a gradient of their own.

A fold under a condition is made empty where nothing asks for it, if its slope might be infinite there:

    y = where(c, sum[n](1 / w), 0)   =   y.sum[b] = sum[n: c](1 / w);   y = where(c, y.sum, 0)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ssmc.ir import (
    BOOL,
    REDUCTIONS,
    Axis,
    Const,
    Equation,
    Expr,
    Extension,
    Index,
    Op,
    Program,
    Read,
    Reduce,
    Size,
    Transform,
    Where,
    bound_axes,
    children,
    free_axes,
    rebound,
    substitute,
    type_of,
    walk,
    with_children,
)

from .affine import Indices
from .algebra import together, whole
from .derivatives import is_tame
from .inline import inline
from .names import Names

# Folds whose value moves with that of their body.
MOVING = frozenset({"sum", "mean", "prod", "max", "min", "logsumexp", "softmax"})

_ADDITIVE = frozenset({"add", "sub", "neg"})


def flatten(program: Program) -> Program:
    """``program`` with folds as equations of their own; see the head of this file."""
    program = inline(program, keep=frozenset(f.name for f in program.functions if f.backward))
    return _Flattening(program, Names.of(program), Indices.of(program)).run()


def moved(expr: Expr, indices: Mapping[str, Expr], axis_like: Callable[[str], str]) -> Expr:
    """``expr`` at other indices; reductions inside run along new axes where theirs occur in the indices."""
    used = {axis for value in indices.values() for axis in free_axes(value)}

    def freed(node: Expr) -> Expr:
        inner = with_children(node, tuple(freed(item) for item in children(node)))
        hidden = bound_axes(inner) & used
        if not hidden or not isinstance(inner, Reduce):
            return inner
        return rebound(inner, {axis: axis_like(axis) for axis in inner.axes if axis in hidden})

    return substitute(freed(expr), indices)


@dataclass
class _Flattening:
    program: Program
    names: Names
    indices: Indices
    made: list[Equation] = field(default_factory=list)
    axes: list[Axis] = field(default_factory=list)

    def run(self) -> Program:
        self.tensors = self.program.tensors()
        self.functions = {f.name: f for f in self.program.functions}
        self.given: tuple[Expr, ...] = ()
        order = {a.name: i for i, a in enumerate(self.program.axes)}
        self.order = lambda axis: order.get(axis, len(order))
        self.replaced = [x for x in self.program.extensions if x.axis in free_axes(x.expr) and _has_folds(x.expr)]
        extensions = tuple(self._extension(x) for x in self.program.extensions if x not in self.replaced)
        for equation in self.program.equations:
            expr = self._root(equation)
            self.made.append(replace(equation, expr=expr))
        customs = tuple(
            replace(c, equations=tuple(replace(e, expr=self._reading(e, e.expr)) for e in c.equations))
            for c in self.program.customs
        )
        return replace(self.program, axes=(*self.program.axes, *self.axes), equations=tuple(self.made),
                       extensions=extensions, customs=customs)  # fmt: skip

    def _root(self, equation: Equation) -> Expr:
        expr = equation.expr
        if isinstance(expr, (Reduce, Transform)) and not bound_axes(expr) & set(equation.axes):
            return self._inside(equation, self._single(equation, expr))
        return self._visit(equation, expr, additive=True)

    def _visit(self, equation: Equation, expr: Expr, additive: bool) -> Expr:
        """``expr`` without folds, but for sums that are added to the rest."""
        match expr:
            case Reduce() | Transform():
                if additive and expr.kind == "sum" and not bound_axes(expr) & set(equation.axes):
                    return self._inside(equation, expr)
                return self._hoisted(equation, expr)
            case Where(condition=c, then=a, otherwise=b):
                c = self._visit(equation, c, False)
                then = self._under(c, lambda: self._visit(equation, a, additive))
                otherwise = self._under(Op("not", (c,)), lambda: self._visit(equation, b, additive))
                return replace(expr, condition=c, then=then, otherwise=otherwise)
            case Read():
                places = tuple(self._visit(equation, item, False) for item in expr.indices)
                return self._outside(equation, replace(expr, indices=places))
        inner = additive and isinstance(expr, Op) and expr.op in _ADDITIVE
        return with_children(expr, tuple(self._visit(equation, item, inner) for item in children(expr)))

    def _inside(self, equation: Equation, expr: Expr) -> Expr:
        """A fold with no folds in its condition and body."""
        if not isinstance(expr, Reduce) or expr.condition is None:
            return with_children(expr, tuple(self._visit(equation, item, False) for item in children(expr)))
        condition = self._visit(equation, expr.condition, False)
        body = self._under(condition, lambda: self._visit(equation, expr.body, False))
        return replace(expr, condition=condition, body=body)

    def _under(self, condition: Expr, visit: Callable[[], Expr]) -> Expr:
        before, self.given = self.given, (*self.given, condition)
        result = visit()
        self.given = before
        return result

    def _hoisted(self, equation: Equation, expr: Reduce | Transform) -> Read:
        """A read of a new equation that holds a fold."""
        inside = self._guarded(equation, self._inside(equation, self._single(equation, expr)))
        return self._defined(equation, expr.kind, inside)

    def _defined(self, equation: Equation, word: str, expr: Expr) -> Read:
        free = free_axes(expr)
        own = [a for a in equation.axes if a in free]
        axes = (*own, *sorted(free - set(own), key=self.order))
        dtype = type_of(expr, self.tensors, self.functions)
        made = Equation(self.names.new(f"{equation.name}.{word}"), axes, dtype, expr, expr.span)
        self.made.append(made)
        self.tensors[made.name] = made.tensor
        return Read(made.name, tuple(Index(a) for a in axes), expr.span)

    def _single(self, equation: Equation, expr: Reduce | Transform) -> Reduce | Transform:
        """The largest over several axes, axis by axis: its place is then one index after the other."""
        if not isinstance(expr, Reduce) or expr.kind not in ("max", "min") or len(expr.axes) == 1:
            return expr
        rest = Reduce(expr.kind, expr.axes[1:], expr.condition, expr.body, expr.span)
        return Reduce(expr.kind, expr.axes[:1], None, self._hoisted(equation, rest), expr.span)

    # ------------------------------------------------------------ conditions

    def _guarded(self, equation: Equation, expr: Expr) -> Expr:
        """A fold that runs over nothing where nothing asks for it, if that matters."""
        condition = together(self.given)
        if condition is None or not isinstance(expr, Reduce) or expr.kind not in MOVING or is_tame(expr):
            return expr
        elsewhere = free_axes(condition) - free_axes(expr)
        if elsewhere:
            listed = tuple(sorted(elsewhere, key=self.order))
            condition = self._defined(equation, "any", Reduce("any", listed, None, condition))
        return replace(expr, condition=together(c for c in (condition, expr.condition) if c is not None))

    # ------------------------------------------------------------ extensions

    def _extension(self, extension: Extension) -> Extension:
        """The extension with equations for its folds."""
        tensor = self.tensors[extension.tensor]
        axes = tuple(axis for axis in tensor.axes if axis != extension.axis)
        name = f"{tensor.name}.{extension.side}"
        outside = Equation(name, axes, tensor.dtype, extension.expr, extension.span)
        return replace(extension, expr=self._visit(outside, extension.expr, False))

    def _outside(self, equation: Equation, read: Read) -> Expr:
        """``where(t - 1 < 0, …, x[t-1])`` in the place of an extension whose folds follow the index outside."""
        result: Expr = read
        axes = self.tensors[read.tensor].axes
        for extension in self.replaced:
            if extension.tensor != read.tensor:
                continue
            where = dict(zip(axes, read.indices, strict=True))
            index = where[extension.axis]
            before = extension.side == "before"
            beyond = [Op("lt", (index, whole(0))) if before else Op("ge", (index, Size(extension.axis)))]
            if self.indices.holds(beyond[0]) is False:
                continue
            for axis, other in where.items():
                if axis != extension.axis and not self.indices.is_inside(other, axis):
                    beyond += [Op("ge", (other, whole(0))), Op("lt", (other, Size(axis)))]
            condition = together(beyond) or Const(True, BOOL)
            there = moved(self._kept_at(equation, extension.expr, where), where, self._like)
            value = self._under(condition, lambda there=there: self._visit(equation, there, False))  # type: ignore[misc]
            result = Where(condition, value, result, read.span)
        return result

    def _kept_at(self, equation: Equation, expr: Expr, where: Mapping[str, Expr]) -> Expr:
        """An extension in which whole-axis operations along an axis with a computed index are equations."""
        expr = with_children(expr, tuple(self._kept_at(equation, item, where) for item in children(expr)))
        keeps = isinstance(expr, Transform) or (isinstance(expr, Reduce) and REDUCTIONS[expr.kind].keeps_axis)
        if not keeps or not isinstance(expr, (Reduce, Transform)):
            return expr
        axis = expr.axis if isinstance(expr, Transform) else expr.axes[0]
        index = where.get(axis, Index(axis))
        if index == Index(axis):
            return expr
        own = self._like(axis)
        here = moved(substitute(expr, {axis: Index(own)}), where, self._like)
        read = self._defined(equation, expr.kind, self._inside(equation, here))
        return replace(read, indices=tuple(index if i == Index(own) else i for i in read.indices))

    def _like(self, axis: str) -> str:
        made = Axis(self.names.new(f"{axis}.all"), Size(axis))
        self.axes.append(made)
        self.indices.declare(made)
        return made.name

    def _reading(self, equation: Equation, expr: Expr) -> Expr:
        """An expression of a gradient block, which may read outside too."""
        if not self.replaced:
            return expr
        inner = with_children(expr, tuple(self._reading(equation, item) for item in children(expr)))
        return self._outside(equation, inner) if isinstance(inner, Read) and inner.tensor in self.tensors else inner


def _has_folds(expr: Expr) -> bool:
    return any(isinstance(node, (Reduce, Transform)) for node in walk(expr))


__all__ = ["MOVING", "flatten", "moved"]
