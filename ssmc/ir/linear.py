"""Index expressions as linear forms ``c + Σ kᵢ·axisᵢ + Σ mⱼ·#axisⱼ``, and bounds on them.

This is all the index algebra the compiler needs to order equations and to know how far a read
reaches back: no solver, one fact used at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from .program import Const, Expr, Index, Op, Program, Size
from .types import BOOL, INT

Symbol: TypeAlias = Index | Size


@dataclass(frozen=True)
class Linear:
    """``constant + Σ coefficient · symbol``; ``terms`` holds no zero coefficient."""

    constant: int = 0
    terms: Mapping[Symbol, int] = field(default_factory=dict)

    def __add__(self, other: Linear | int) -> Linear:
        if isinstance(other, int):
            return Linear(self.constant + other, self.terms)
        terms = dict(self.terms)
        for symbol, k in other.terms.items():
            terms[symbol] = terms.get(symbol, 0) + k
        return Linear(self.constant + other.constant, {s: k for s, k in terms.items() if k})

    def __neg__(self) -> Linear:
        return self.scaled(-1)

    def __sub__(self, other: Linear | int) -> Linear:
        return self + (-other)

    def __hash__(self) -> int:
        return hash((self.constant, frozenset(self.terms.items())))

    def scaled(self, factor: int) -> Linear:
        return Linear(self.constant * factor, {s: k * factor for s, k in self.terms.items() if k * factor})

    def coefficient(self, symbol: Symbol) -> int:
        return self.terms.get(symbol, 0)

    def without(self, symbol: Symbol) -> Linear:
        return Linear(self.constant, {s: k for s, k in self.terms.items() if s != symbol})

    @property
    def axes(self) -> frozenset[str]:
        """Axes whose index occurs (not their size)."""
        return frozenset(s.axis for s in self.terms if isinstance(s, Index))

    @property
    def is_constant(self) -> bool:
        return not self.terms

    def expr(self) -> Expr:
        """The same value as an expression, positive terms first, the constant last."""
        result: Expr | None = None
        ordered = sorted(self.terms.items(), key=lambda item: item[1] < 0)
        for symbol, k in ordered:
            term: Expr = symbol if abs(k) == 1 else Op("mul", (Const(abs(k), INT), symbol))
            if result is None:
                result = term if k > 0 else Op("neg", (term,))
            else:
                result = Op("add" if k > 0 else "sub", (result, term))
        if result is None:
            return Const(self.constant, INT)
        if self.constant:
            result = Op("add" if self.constant > 0 else "sub", (result, Const(abs(self.constant), INT)))
        return result


def linear_form(expr: Expr, extents: Mapping[str, Expr] | None = None) -> Linear | None:
    """``expr`` as a linear form, or None. Sizes of axes in ``extents`` are replaced by their extent."""
    match expr:
        case Const(value=value, dtype=dtype) if dtype in (INT, BOOL):
            return Linear(int(value.real))
        case Index():
            return Linear(0, {expr: 1})
        case Size(axis=axis):
            known = linear_form(extents[axis], extents) if extents and axis in extents else None
            return known or Linear(0, {expr: 1})
        case Op(op="add" | "sub" | "mul" as op, args=(a, b)):
            left, right = linear_form(a, extents), linear_form(b, extents)
            return None if left is None or right is None else _combine(op, left, right)
        case Op(op="neg", args=(a,)):
            inner = linear_form(a, extents)
            return None if inner is None else -inner
        case _:
            return None


def _combine(op: str, left: Linear, right: Linear) -> Linear | None:
    if op != "mul":
        return left + right if op == "add" else left - right
    if right.is_constant:
        return left.scaled(right.constant)
    return right.scaled(left.constant) if left.is_constant else None


def known_extents(program: Program) -> dict[str, Expr]:
    """Extents that the Program states, by axis: what ``linear_form`` may use for sizes."""
    return {axis.name: axis.extent for axis in program.axes if axis.extent is not None}


def conjuncts(condition: Expr) -> list[Expr]:
    """The parts of ``a and b and …``."""
    if isinstance(condition, Op) and condition.op == "and":
        return [part for arg in condition.args for part in conjuncts(arg)]
    return [condition]


def facts(condition: Expr, extents: Mapping[str, Expr] | None = None, holds: bool = True) -> list[Linear]:
    """Linear forms that are ≥ 0 where ``condition`` holds (or, with ``holds=False``, where it fails)."""
    found: list[Linear] = []
    if isinstance(condition, Op) and condition.op == "not":
        return facts(condition.args[0], extents, not holds)
    if isinstance(condition, Op) and condition.op == ("and" if holds else "or"):
        return [fact for part in condition.args for fact in facts(part, extents, holds)]
    if isinstance(condition, Op) and condition.op in _COMPARISONS:
        op = condition.op if holds else _NEGATED[condition.op]
        left, right = (linear_form(arg, extents) for arg in condition.args)
        if left is not None and right is not None:
            if op in ("le", "eq"):
                found.append(right - left)
            if op in ("ge", "eq"):
                found.append(left - right)
            if op == "lt":
                found.append(right - left - 1)
            if op == "gt":
                found.append(left - right - 1)
    return found


def comparison(op: str, form: Linear) -> Expr:
    """``form op 0`` as it is written: what is positive on the left, what is negative on the right."""
    plus = Linear(0, {symbol: k for symbol, k in form.terms.items() if k > 0})
    minus = Linear(0, {symbol: -k for symbol, k in form.terms.items() if k < 0})
    if plus.terms:
        return Op(op, (plus.expr(), (minus - form.constant).expr()))
    return Op(_MIRRORED[op], (minus.expr(), Const(form.constant, INT)))


_MIRRORED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq", "ne": "ne"}
_NEGATED = {"lt": "ge", "ge": "lt", "gt": "le", "le": "gt", "eq": "ne", "ne": "eq"}
_COMPARISONS = frozenset(_NEGATED)


def lower_bound(
    form: Linear, given: Iterable[Linear] = (), extents: Mapping[str, Expr] | None = None, avoid: str = ""
) -> Linear:
    """A form over sizes only that is ≤ ``form`` wherever every fact in ``given`` is ≥ 0.

    Every index lies in ``0 … #axis − 1``. Of the candidates (no fact used, or one) the first is returned
    that lacks the size of the axis ``avoid`` if any does, and has the fewest sizes; the largest if none.
    """
    candidates = [_lowest(form, extents)]
    candidates += [_lowest(form - fact, extents) for fact in given if fact.terms.keys() & form.terms.keys()]
    return min(candidates, key=lambda c: (Size(avoid) in c.terms, len(c.terms), 0 if c.terms else -c.constant))


def upper_bound(
    form: Linear, given: Iterable[Linear] = (), extents: Mapping[str, Expr] | None = None, avoid: str = ""
) -> Linear:
    """A form over sizes only that is ≥ ``form``; see ``lower_bound``."""
    return -lower_bound(-form, given, extents, avoid)


def _lowest(form: Linear, extents: Mapping[str, Expr] | None) -> Linear:
    result = Linear(form.constant, {s: k for s, k in form.terms.items() if isinstance(s, Size)})
    for symbol, k in form.terms.items():
        if isinstance(symbol, Index) and k < 0:
            size = linear_form(Size(symbol.axis), extents)
            assert size is not None
            result = result + (size - 1).scaled(k)
    return result


def at_least(form: Linear, bound: int, inhabited: frozenset[str] = frozenset()) -> bool:
    """Whether ``form``, over sizes only, is ≥ ``bound`` for all sizes ≥ 0 (≥ 1 for ``inhabited`` axes)."""
    total = form.constant
    for symbol, k in form.terms.items():
        if isinstance(symbol, Index) or k < 0:
            return False
        total += k if symbol.axis in inhabited else 0
    return total >= bound
