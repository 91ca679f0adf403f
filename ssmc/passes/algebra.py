"""Expressions made with the obvious simplifications, and sums of products with their common factors taken out.

    a · 1 = a,   a · (1 / b) = a / b,   a · (−b) = −(a · b),   conj(a) · conj(b) = conj(a · b),
    d · a + d · b = d · (a + b)

Every one holds for all finite numbers up to rounding. Nothing times 0 is dropped: the 0 may stand for a limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ssmc.ir import BOOL, COMPLEX, INT, REAL, Const, Expr, Op, Where, join

CONJUNCTION = "and"


def number(value: float) -> Const:
    """A real constant."""
    return Const(float(value), REAL)


def whole(value: int) -> Const:
    """An integer constant."""
    return Const(value, INT)


ZERO, ONE = number(0), number(1)


def is_number(expr: Expr, value: float) -> bool:
    """Whether an expression is that constant, of whatever type but bool."""
    return isinstance(expr, Const) and expr.dtype is not BOOL and expr.value == value


def call(op: str, *args: Expr) -> Expr:
    """An operation as it is."""
    return Op(op, args)


def add(a: Expr, b: Expr) -> Expr:
    if is_number(a, 0):
        return b
    if is_number(b, 0):
        return a
    if isinstance(b, Op) and b.op == "neg":
        return Op("sub", (a, b.args[0]))
    return Op("add", (a, b))


def neg(a: Expr) -> Expr:
    if isinstance(a, Op) and a.op == "neg":
        return a.args[0]
    if isinstance(a, Const) and a.dtype is not BOOL:
        return Const(-a.value, a.dtype)
    return Op("neg", (a,))


def sub(a: Expr, b: Expr) -> Expr:
    if is_number(b, 0):
        return a
    return neg(b) if is_number(a, 0) else Op("sub", (a, b))


def mul(a: Expr, b: Expr) -> Expr:
    """a · b; a sign goes outwards."""
    if is_number(a, 1):
        return b
    if is_number(b, 1):
        return a
    if is_number(a, -1):
        return neg(b)
    if is_number(b, -1):
        return neg(a)
    folded = _constant_product(a, b)
    if folded is not None:
        return folded
    match a, b:
        case Op(op="neg", args=(inner,)), _:
            return neg(mul(inner, b))
        case _, Op(op="neg", args=(inner,)):
            return neg(mul(a, inner))
        case _, Op(op="div", args=(one, below)) if is_number(one, 1):
            return div(a, below)
        case Op(op="mul", args=(first, Op(op="conj", args=(c,)))), Op(op="conj", args=(d,)):
            return Op("mul", (first, Op("conj", (mul(c, d),))))
    return Op("mul", (a, b))


def _constant_product(a: Expr, b: Expr) -> Const | None:
    if not isinstance(a, Const) or not isinstance(b, Const) or {a.dtype, b.dtype} - {INT, REAL}:
        return None
    value = a.value * b.value
    exact = join(a.dtype, b.dtype) is REAL or abs(value) < 2**53
    return Const(value, join(a.dtype, b.dtype)) if exact and math.isfinite(value.real) else None


def div(a: Expr, b: Expr) -> Expr:
    if isinstance(a, Op) and a.op == "neg":
        return neg(div(a.args[0], b))
    return a if is_number(b, 1) else Op("div", (a, b))


def conj(a: Expr) -> Expr:
    """The complex conjugate of a value that is complex."""
    match a:
        case Const(dtype=dtype):
            return neg(a) if dtype is COMPLEX else a
        case Op(op="conj", args=(inner,)):
            return inner
        case Op(op="neg", args=(inner,)):
            return neg(conj(inner))
        case Op(op="div", args=(Const(dtype=dtype) as above, below)) if dtype is not COMPLEX:
            return div(above, conj(below))
    return Op("conj", (a,))


# ---------------------------------------------------------------- conditions


def together(conditions: Iterable[Expr]) -> Expr | None:
    """``a and b and …``, each once; None when there are none."""
    result: Expr | None = None
    for condition in dict.fromkeys(conditions):
        result = condition if result is None else Op(CONJUNCTION, (result, condition))
    return result


def guarded(value: Expr, conditions: Iterable[Expr]) -> Expr:
    """``value`` where all conditions hold, else 0."""
    condition = together(conditions)
    return value if condition is None else Where(condition, value, ZERO)


def negated(condition: Expr) -> Expr:
    """The opposite of a condition."""
    if isinstance(condition, Op) and condition.op == "not":
        return condition.args[0]
    return Op("not", (condition,))


# ---------------------------------------------------------------- products and sums


def factors(expr: Expr) -> list[Expr]:
    """The factors of a product, from left to right; a sign is a factor of −1."""
    match expr:
        case Op(op="mul", args=args):
            return [factor for arg in args for factor in factors(arg)]
        case Op(op="neg", args=(inner,)):
            return [number(-1), *factors(inner)]
    return [expr]


def product(items: Iterable[Expr]) -> Expr:
    """The product of all items, from left to right."""
    result: Expr = ONE
    for item in items:
        result = mul(result, item)
    return result


def total(terms: Sequence[Expr]) -> Expr:
    """The sum of ``terms``, positive ones first, with the factors that all of them share taken out; of each product
    the constant comes first."""
    split = [_with_coefficient(term) for term in terms]
    if len(split) < 2:
        return product([split[0][0], *split[0][1]]) if split else ZERO
    common: list[Expr] = []
    for factor in split[0][1]:
        if factor not in common and all(factor in items for _, items in split[1:]):
            common.append(factor)
    for _, items in split:
        for factor in common:
            items.remove(factor)
    result: Expr = ZERO
    for coefficient, items in sorted(split, key=lambda part: part[0].value.real < 0):
        if coefficient.value.real < 0:
            result = sub(result, product([neg(coefficient), *items]))
        else:
            result = add(result, product([coefficient, *items]))
    return mul(product(common), result)


def _with_coefficient(term: Expr) -> tuple[Const, list[Expr]]:
    """A product as one number and its other factors."""
    coefficient: Const = ONE
    rest = []
    for factor in factors(term):
        folded = _constant_product(coefficient, factor)
        if folded is None:
            rest.append(factor)
        else:
            coefficient = folded
    return coefficient, rest


__all__ = [
    "ONE", "ZERO", "add", "call", "conj", "div", "factors", "guarded", "is_number", "mul", "neg", "negated", "number",
    "product", "sub", "together", "total", "whole",
]  # fmt: skip
