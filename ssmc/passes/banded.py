"""Program → Program: an axis that looks back over a band of time becomes an axis of lags.

    p[t, s] = softmax[s: s <= t and t - s < W](score[t, s])        axis s < #t
  = p[t, j] = softmax[j: j <= t](score[t, j])                      axis j < W,  s := t - j

for every equation that runs along both t and s, and ``k[s] = key[t=s]`` becomes ``k[t] = key``. Then
nothing reads further back than W − 1, and a step can carry just that.

Precondition: wherever values at (t, s) are used, ``0 <= t - s < W`` follows from the conditions; no
output has the axis s, and nothing asks for an index along it (argmax) or sorts it. Where it fails, the
Program is returned as it was. Order within a sum is reversed; the value is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ssmc.analysis import demanded_regions
from ssmc.ir import (
    INT,
    Accesses,
    Axis,
    Const,
    Equation,
    Expr,
    Index,
    Linear,
    Op,
    Program,
    Read,
    Reduce,
    Size,
    Transform,
    at_least,
    children,
    comparison,
    conjuncts,
    facts,
    linear_form,
    lower_bound,
    substitute,
    upper_bound,
    walk,
    with_children,
)

_FOLDS = frozenset(("sum", "mean", "prod", "max", "min", "any", "all", "logsumexp", "softmax"))
_COMPARISONS = frozenset(("lt", "le", "gt", "ge", "eq", "ne"))


def banded(program: Program, time: str) -> Program:
    """The Program with every axis that bands ``time`` turned into lags; others are left alone."""
    for axis in program.axes:
        if not axis.sequence and axis.extent == Size(time):
            program = _Band(_without_alias(program, time, axis.name), time, axis.name).rewritten() or program
    return program


def _without_alias(program: Program, time: str, alias: str) -> Program:
    """Equations along ``alias`` and not ``time`` are sequences under another name: call it ``time``."""
    renamed = {e.name for e in program.equations if alias in e.axes and time not in e.axes}
    renamed -= set(program.outputs)
    equations = []
    for equation in program.equations:
        if equation.name in renamed:
            axes = tuple(time if axis == alias else axis for axis in equation.axes)
            try:
                expr = substitute(equation.expr, {alias: Index(time)})
            except ValueError:
                return program
            equation = replace(equation, axes=axes, expr=expr)
        equations.append(equation)
    return replace(program, equations=tuple(equations))


@dataclass(frozen=True)
class _Band:
    """One axis ``back`` of a Program that stands for earlier indices of ``time``."""

    program: Program
    time: str
    back: str

    def rewritten(self) -> Program | None:
        """The Program with lags in place of ``back``; None where the precondition fails."""
        pairs = [e for e in self.program.equations if self.back in e.axes]
        inputs = any(self.back in tensor.axes for tensor in self.program.inputs)
        if inputs or any(self.time not in e.axes or e.name in self.program.outputs for e in pairs):
            return None
        widest = self._widest(pairs)
        if widest is None:
            return None
        lags = _fresh(self.program, f"{self.back}.back")
        extents = {axis.name: axis.extent for axis in self.program.axes if axis.extent is not None}
        rewrite = _Rewrite(self, lags, {**extents, lags: widest})
        try:
            equations = tuple(rewrite.equation(equation) for equation in self.program.equations)
        except _NotRewritable:
            return None
        axes = [axis for axis in self.program.axes if axis.name != self.back] + [Axis(lags, widest)]
        result = replace(self.program, axes=tuple(axes), equations=equations)
        return None if _mentions(result, self.back) else result

    def _widest(self, pairs: list[Equation]) -> Expr | None:
        """The number of lags that cover every band; None if one of them is not bounded or not past."""
        accesses = Accesses(self.program)
        regions = demanded_regions(self.program, accesses)
        lag = Linear(0, {Index(self.time): 1, Index(self.back): -1})
        bounds: list[Linear] = []
        for equation in self.program.equations:
            places = [
                [*regions[equation.name], *_facts_of(node, accesses)]
                for node in walk(equation.expr)
                if isinstance(node, Reduce) and self.back in node.axes
            ]
            if places and self.time not in equation.axes:
                return None
            if equation in pairs and not self._is_softmax(equation.expr):
                places.append(list(regions[equation.name]))
            for given in places:
                if not at_least(lower_bound(lag, given, accesses.extents, avoid=self.time), 0):
                    return None
                high = upper_bound(lag, given, accesses.extents, avoid=self.time)
                if high.coefficient(Size(self.time)):
                    return None
                bounds.append(high)
        if not bounds:
            return None
        constants = [form.constant for form in bounds if form.is_constant]
        extents: list[Expr] = [Const(max(0, max(constants) + 1), INT)] if constants else []
        extents += [(form + 1).expr() for form in dict.fromkeys(bounds) if not form.is_constant]
        widest = extents[0]
        for extent in extents[1:]:
            widest = Op("maximum", (widest, extent))
        return widest

    def _is_softmax(self, expr: Expr) -> bool:
        """Whether the value is 0 wherever its own condition fails, so that it may be read anywhere."""
        return isinstance(expr, Reduce) and expr.kind == "softmax" and expr.axes == (self.back,)


def _facts_of(node: Reduce, accesses: Accesses) -> list[Linear]:
    """What holds at the points that a reduction looks at."""
    found = [] if node.condition is None else facts(node.condition, accesses.extents)
    if node.kind == "sum":
        found += [fact for part in accesses.support(node.body) for fact in facts(part, accesses.extents)]
    return found


def _mentions(program: Program, axis: str) -> bool:
    """Whether an axis that is to go is still needed."""
    exprs = [item.expr for item in program.equations] + [item.expr for item in program.extensions]
    exprs += [requirement.condition for requirement in program.requirements]
    exprs += [other.extent for other in program.axes if other.extent is not None]
    exprs += [equation.expr for custom in program.customs for equation in custom.equations]
    nodes = (node for expr in exprs for node in walk(expr))
    return any(isinstance(node, Index | Size | Transform) and node.axis == axis for node in nodes)


class _NotRewritable(Exception):
    """Something asks for the axis itself."""


@dataclass(frozen=True)
class _Rewrite:
    """Replaces the index along ``band.back`` by ``time − lags``."""

    band: _Band
    lags: str
    extents: Mapping[str, Expr]

    def equation(self, equation: Equation) -> Equation:
        axes = tuple(self.lags if axis == self.band.back else axis for axis in equation.axes)
        return replace(equation, axes=axes, expr=self.expr(equation.expr))

    def expr(self, expr: Expr) -> Expr:
        back, time = self.band.back, self.band.time
        if expr == Size(back):
            raise _NotRewritable
        form = linear_form(expr)
        if form is not None:
            return expr if Index(back) not in form.terms else self._moved(form).expr()
        if isinstance(expr, Op) and expr.op in _COMPARISONS:
            return self._comparison(expr)
        if isinstance(expr, Read):
            return self._read(expr)
        if isinstance(expr, Reduce):
            if time in expr.axes and back in {n.axis for n in walk(expr) if isinstance(n, Index)}:
                raise _NotRewritable
            if back in expr.axes:
                return self._fold(expr)
        if isinstance(expr, Transform) and expr.axis in (back, time):
            raise _NotRewritable
        return with_children(expr, tuple(self.expr(item) for item in children(expr)))

    def _moved(self, form: Linear) -> Linear:
        here = Linear(0, {Index(self.band.time): 1, Index(self.lags): -1})
        return form.without(Index(self.band.back)) + here.scaled(form.coefficient(Index(self.band.back)))

    def _read(self, read: Read) -> Expr:
        """A tensor that had the axis ``back`` has lags there: time of the read minus index of the read."""
        axes = self.band.program.tensors()[read.tensor].axes
        indices = [self.expr(index) for index in read.indices]
        if self.band.back in axes:
            now = linear_form(indices[axes.index(self.band.time)])
            then = linear_form(indices[axes.index(self.band.back)])
            if now is None or then is None:
                raise _NotRewritable
            indices[axes.index(self.band.back)] = (now - then).expr()
        return replace(read, indices=tuple(indices))

    def _fold(self, reduce: Reduce) -> Expr:
        """The same fold over lags, kept to indices at or after the start of the sequence."""
        if reduce.kind not in _FOLDS:
            raise _NotRewritable
        axes = tuple(self.lags if axis == self.band.back else axis for axis in reduce.axes)
        started: Expr = Op("le", (Index(self.lags), Index(self.band.time)))
        parts = [] if reduce.condition is None else [self.expr(part) for part in conjuncts(reduce.condition)]
        condition = started
        for part in (part for part in parts if not self._always(part)):
            condition = Op("and", (condition, part))
        return replace(reduce, axes=axes, condition=condition, body=self.expr(reduce.body))

    def _always(self, condition: Expr) -> bool:
        """Whether a comparison holds at every time and lag."""
        known = facts(condition, self.extents)
        equal = isinstance(condition, Op) and condition.op == "eq"
        return bool(known) and not equal and all(at_least(lower_bound(f, (), self.extents), 0) for f in known)

    def _comparison(self, expr: Op) -> Expr:
        """``t - s < W`` becomes ``j < W``: what is positive on the left, what is negative on the right."""
        left, right = (linear_form(arg) for arg in expr.args)
        back = Index(self.band.back)
        if left is None or right is None or not (left - right).coefficient(back):
            if left is not None and right is not None and back in left.terms.keys() | right.terms.keys():
                left, right = left.without(back), right.without(back)  # the same multiple on both sides
                return replace(expr, args=(left.expr(), right.expr()))
            return replace(expr, args=tuple(self.expr(arg) for arg in expr.args))
        return replace(comparison(expr.op, self._moved(left - right)), span=expr.span)


def _fresh(program: Program, name: str) -> str:
    """``name``, with a number if it is taken."""
    taken = {axis.name for axis in program.axes} | program.tensors().keys()
    candidates = [name, *(f"{name}_{i}" for i in range(2, len(taken) + 3))]
    return next(candidate for candidate in candidates if candidate not in taken)
