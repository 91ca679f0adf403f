"""What kind of recurrence each set of connected equations is.

Whether an equation is affine in its past is decided by walking it: ``affine_form`` gives
``Σ factor · past + rest``, exactly, for complex values and conditions too, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ssmc.ir import (
    INT,
    Accesses,
    Const,
    Equation,
    Expr,
    Index,
    Linear,
    Loop,
    Op,
    Program,
    Read,
    Reduce,
    Where,
    dependence,
    free_axes,
    walk,
)


@dataclass(frozen=True)
class Term:
    """``factor · read``, folded over ``folds`` (innermost first) by sums under conditions."""

    read: Read
    factor: Expr | None = None  # None is 1
    folds: tuple[tuple[tuple[str, ...], Expr | None], ...] = ()

    @property
    def contracted(self) -> frozenset[str]:
        return frozenset(axis for axes, _ in self.folds for axis in axes)


@dataclass(frozen=True)
class AffineForm:
    """``Σ terms + rest``; ``rest`` None is 0."""

    terms: tuple[Term, ...] = ()
    rest: Expr | None = None


@dataclass(frozen=True)
class Recurrence:
    """One recurrence. ``order`` is its longest lag (None: unbounded), ``contracts`` the axes of the past
    that are summed over, ``shifts`` those read at another index without being summed over."""

    equations: tuple[str, ...]
    loop: Loop
    order: Linear | None
    affine: bool
    contracts: tuple[str, ...] = ()
    shifts: tuple[str, ...] = ()
    time_invariant: bool = False
    matrix_shaped: bool = False

    @property
    def axis(self) -> str:
        return self.loop.axis

    @property
    def direction(self) -> int:
        return self.loop.direction

    @property
    def elementwise(self) -> bool:
        """Affine, and each element depends on its own past alone."""
        return self.affine and not self.contracts and not self.shifts


def classify(program: Program) -> tuple[Recurrence, ...]:
    """The recurrences of ``program`` in order of evaluation."""
    accesses = Accesses(program)
    return tuple(_classify(program, accesses, loop) for loop in dependence(program).recurrences)


def _classify(program: Program, accesses: Accesses, loop: Loop) -> Recurrence:
    names = loop.equations()
    members = [program.equation(name) for name in names]
    result = Recurrence(names, loop, _order(accesses, members, loop), False)
    forms = [affine_form(member.expr, names) for member in members]
    if any(form is None for form in forms):
        return result
    pairs = [(member, term) for member, form in zip(members, forms, strict=True) if form for term in form.terms]
    contracts = {axis for _, term in pairs for axis in term.contracted}
    shifts = {axis for member, term in pairs for axis in _shifted(program, member, term, loop.axis)} - contracts
    axes = [axis.name for axis in program.axes]
    return replace(
        result,
        affine=True,
        contracts=tuple(sorted(contracts, key=axes.index)),
        shifts=tuple(sorted(shifts, key=axes.index)),
        time_invariant=all(loop.axis not in _varies_along(term) for _, term in pairs),
        matrix_shaped=_matrix_shaped(program, members, pairs, loop.axis),
    )


def _order(accesses: Accesses, members: Iterable[Equation], loop: Loop) -> Linear | None:
    names = {member.name for member in members}
    longest: Linear | None = Linear(0)
    for member in members:
        for access in accesses.of(member):
            if access.tensor not in names or longest is None:
                continue
            lag = accesses.lag(access, loop.axis)
            assert lag is not None
            reach = lag.high if loop.direction > 0 else -lag.low
            if not lag.known or any(symbol.axis == loop.axis for symbol in reach.terms):
                return None
            if not reach.is_constant or not longest.is_constant:
                longest = reach if not reach.is_constant else longest
            elif reach.constant > longest.constant:
                longest = reach
    return longest


def _shifted(program: Program, member: Equation, term: Term, along: str) -> set[str]:
    """Axes, other than time, on which the past is read at another index than the present."""
    tensor = program.tensors()[term.read.tensor]
    pairs = zip(tensor.axes, term.read.indices, strict=True)
    return {axis for axis, index in pairs if axis != along and index != Index(axis) and axis in member.axes}


def _varies_along(term: Term) -> frozenset[str]:
    found = frozenset() if term.factor is None else free_axes(term.factor)
    for axes, condition in term.folds:
        found = (found | (frozenset() if condition is None else free_axes(condition))) - set(axes)
    return found


# ---------------------------------------------------------------- affine in the past

_ZERO, _ONE = Const(0, INT), Const(1, INT)


def affine_form(expr: Expr, names: Iterable[str]) -> AffineForm | None:
    """``expr`` as an affine form in the tensors ``names``; None if it is not one.

    (Also None where a factor outside a sum shares the name of an axis that the sum binds.)
    """
    return _affine(expr, frozenset(names))


def _mentions(expr: Expr, past: frozenset[str]) -> bool:
    return any(isinstance(node, Read) and node.tensor in past for node in walk(expr))


def _affine(expr: Expr, past: frozenset[str]) -> AffineForm | None:
    if not _mentions(expr, past):
        return AffineForm((), expr)
    match expr:
        case Read(indices=indices):
            return None if any(_mentions(index, past) for index in indices) else AffineForm((Term(expr),))
        case Op(op="add" | "sub" as op, args=(a, b)):
            left, right = _affine(a, past), _affine(b, past)
            return _sum(left, right if op == "add" else _scaled(right, lambda value: Op("neg", (value,))))
        case Op(op="neg", args=(a,)):
            return _scaled(_affine(a, past), lambda value: Op("neg", (value,)))
        case Op(op="mul", args=(a, b)) if not _mentions(a, past):
            return _scaled(_affine(b, past), lambda value: _times(a, value), a)
        case Op(op="mul", args=(a, b)) if not _mentions(b, past):
            return _scaled(_affine(a, past), lambda value: _times(b, value), b)
        case Op(op="div", args=(a, b)) if not _mentions(b, past):
            return _scaled(_affine(a, past), lambda value: Op("div", (value, b)), b)
        case Where(condition=choice, then=a, otherwise=b) if not _mentions(choice, past):
            left = _scaled(_affine(a, past), lambda value: Where(choice, value, _ZERO), choice)
            right = _scaled(_affine(b, past), lambda value: Where(choice, _ZERO, value), choice)
            return _sum(left, right)
        case Reduce(kind="sum", axes=axes, condition=c, body=body) if c is None or not _mentions(c, past):
            form = _affine(body, past)
            if form is None:
                return None
            terms = tuple(replace(term, folds=(*term.folds, (axes, c))) for term in form.terms)
            return AffineForm(terms, None if form.rest is None else replace(expr, body=form.rest))
        case _:
            return None


def _times(a: Expr, b: Expr) -> Expr:
    return a if b == _ONE else Op("mul", (a, b))


def _sum(left: AffineForm | None, right: AffineForm | None) -> AffineForm | None:
    if left is None or right is None:
        return None
    rests = [rest for rest in (left.rest, right.rest) if rest is not None]
    rest = Op("add", tuple(rests)) if len(rests) == 2 else next(iter(rests), None)
    return AffineForm(left.terms + right.terms, rest)


def _scaled(form: AffineForm | None, rule: Callable[[Expr], Expr], by: Expr | None = None) -> AffineForm | None:
    """The form with ``rule``, which is linear and uses ``by``, applied to every factor and to the rest."""
    if form is None or (by is not None and any(free_axes(by) & term.contracted for term in form.terms)):
        return None
    terms = tuple(replace(term, factor=rule(_ONE if term.factor is None else term.factor)) for term in form.terms)
    return AffineForm(terms, None if form.rest is None else rule(form.rest))


# ---------------------------------------------------------------- matrix-shaped


def _matrix_shaped(program: Program, members: list[Equation], pairs: list[tuple[Equation, Term]], along: str) -> bool:
    """Whether ``h = a · h[t-1] + b`` can run as matrix products inside chunks.

    All that read h contract the same axes, ``a`` varies along none of them, there is a row axis (one
    that neither ``a`` nor all factors of ``b`` have), and no factor of ``b`` varies along both.
    """
    if len(members) != 1 or len(pairs) != 1:
        return False
    (member,), (_, term) = members, pairs[0]
    if term.folds or any(index != Index(a) for a, index in _inner_indices(program, term.read, along)):
        return False
    contracted = _contracted_by_readers(program, member.name)
    varies = _varies_along(term)
    form = affine_form(member.expr, (member.name,))
    if not contracted or varies & contracted or form is None or form.rest is None:
        return False
    factors = [free_axes(factor) for factor in _factors(form.rest)]
    rows = set(member.axes) - contracted - varies - {along} - frozenset.intersection(*factors)
    return bool(rows) and not any(axes & contracted and axes & rows for axes in factors)


def _inner_indices(program: Program, read: Read, along: str) -> list[tuple[str, Expr]]:
    axes = program.tensors()[read.tensor].axes
    return [(axis, index) for axis, index in zip(axes, read.indices, strict=True) if axis != along]


def _factors(expr: Expr) -> list[Expr]:
    if isinstance(expr, Op) and expr.op == "mul":
        return _factors(expr.args[0]) + _factors(expr.args[1])
    return [expr]


def _contracted_by_readers(program: Program, name: str) -> frozenset[str]:
    """The axes over which every other equation sums what it reads of ``name``; empty if they differ."""
    found: set[frozenset[str]] = set()
    if name in program.outputs:
        return frozenset()
    for equation in program.equations:
        if equation.name == name or not _mentions(equation.expr, frozenset((name,))):
            continue
        form = affine_form(equation.expr, (name,))
        if form is None:
            return frozenset()
        tensor = program.equation(name)
        for term in form.terms:
            here = all(index == Index(axis) for axis, index in zip(tensor.axes, term.read.indices, strict=True))
            found.add(term.contracted if here else frozenset())
    return next(iter(found)) if len(found) == 1 else frozenset()
