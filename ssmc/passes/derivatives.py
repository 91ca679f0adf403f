"""The derivative of every elementwise operation, as expressions; and the few that are not holomorphic.

``PARTIALS[op](args, value)`` gives, for each argument, the partial derivative of ``value = op(*args)``, or None
where it is zero everywhere (whole numbers, comparisons, steps). Where a derivative does not exist, one side is
taken: of `min` and `max` of equal numbers the first argument, of `abs` and `arctan2` at 0 the value 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from ssmc.ir import OPERATIONS, Const, Expr, Op, Where, walk

from .algebra import ONE, ZERO, add, call, div, is_number, mul, neg, number, sub, whole

Partials: TypeAlias = Callable[[tuple[Expr, ...], Expr], tuple[Expr | None, ...]]


def _pow(args: tuple[Expr, ...], value: Expr) -> tuple[Expr | None, ...]:
    """x^0 is 1 everywhere, and so is flat, at 0 too."""
    base, exponent = args
    if isinstance(exponent, Const):
        if is_number(exponent, 0):
            return None, None
        less = Const(exponent.value - 1, exponent.dtype)
        power = ONE if is_number(less, 0) else base if is_number(less, 1) else call("pow", base, less)
        return mul(exponent, power), None
    less_by_one = sub(exponent, whole(1))
    slope = Where(call("ne", exponent, whole(0)), mul(exponent, call("pow", base, less_by_one)), ZERO)
    return slope, Where(call("ne", base, ZERO), mul(value, call("log", base)), ZERO)


def _gelu(args: tuple[Expr, ...], value: Expr) -> tuple[Expr | None, ...]:
    (x,) = args
    below = mul(number(0.5), add(ONE, call("erf", mul(number(math.sqrt(0.5)), x))))
    density = mul(number(1 / math.sqrt(2 * math.pi)), call("exp", mul(number(-0.5), mul(x, x))))
    return (add(below, mul(x, density)),)


def _gelu_tanh(args: tuple[Expr, ...], value: Expr) -> tuple[Expr | None, ...]:
    (x,) = args
    root, cubic = math.sqrt(2 / math.pi), 0.044715
    square = mul(x, x)
    t = call("tanh", mul(number(root), mul(x, add(ONE, mul(number(cubic), square)))))
    slope = mul(number(root), add(ONE, mul(number(3 * cubic), square)))
    return (mul(number(0.5), add(add(ONE, t), mul(x, mul(sub(ONE, mul(t, t)), slope)))),)


def _arctan2(args: tuple[Expr, ...], value: Expr) -> tuple[Expr | None, ...]:
    a, b = args
    square = add(mul(a, a), mul(b, b))
    somewhere = call("gt", square, ZERO)
    return Where(somewhere, div(b, square), ZERO), Where(somewhere, neg(div(a, square)), ZERO)


def _silu(args: tuple[Expr, ...], value: Expr) -> tuple[Expr | None, ...]:
    share = call("sigmoid", args[0])
    return (mul(share, add(ONE, mul(args[0], sub(ONE, share)))),)


def _unary(slope: Callable[[Expr, Expr], Expr]) -> Partials:
    return lambda args, value: (slope(args[0], value),)


def _choose(comparison: str) -> Partials:
    def partials(args: tuple[Expr, ...], value: Expr) -> tuple[Expr | None, ...]:
        first = call(comparison, *args)
        return Where(first, ONE, ZERO), Where(first, ZERO, ONE)

    return partials


def _none(args: tuple[Expr, ...], value: Expr) -> tuple[Expr | None, ...]:
    return (None,) * len(args)


PARTIALS: dict[str, Partials] = {
    **dict.fromkeys(OPERATIONS, _none),
    "add": lambda args, value: (ONE, ONE),
    "sub": lambda args, value: (ONE, number(-1)),
    "mul": lambda args, value: (args[1], args[0]),
    "div": lambda args, value: (div(ONE, args[1]), neg(div(value, args[1]))),
    "pow": _pow,
    "neg": lambda args, value: (number(-1),),
    "minimum": _choose("le"),
    "maximum": _choose("ge"),
    "real": lambda args, value: (ONE,),
    "exp": _unary(lambda x, y: y),
    "exp2": _unary(lambda x, y: mul(number(math.log(2)), y)),
    "expm1": _unary(lambda x, y: call("exp", x)),
    "log": _unary(lambda x, y: div(ONE, x)),
    "log2": _unary(lambda x, y: div(number(1 / math.log(2)), x)),
    "log1p": _unary(lambda x, y: div(ONE, add(ONE, x))),
    "sigmoid": _unary(lambda x, y: mul(y, sub(ONE, y))),
    "silu": _silu,
    "softplus": _unary(lambda x, y: Where(call("gt", x, number(20)), ONE, call("sigmoid", x))),
    "tanh": _unary(lambda x, y: sub(ONE, mul(y, y))),
    "sinh": _unary(lambda x, y: call("cosh", x)),
    "cosh": _unary(lambda x, y: call("sinh", x)),
    "erf": _unary(lambda x, y: mul(number(2 / math.sqrt(math.pi)), call("exp", neg(mul(x, x))))),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": _unary(lambda x, y: Where(call("gt", x, ZERO), ONE, ZERO)),
    "sqrt": _unary(lambda x, y: div(number(0.5), y)),
    "rsqrt": _unary(lambda x, y: mul(number(-0.5), div(y, x))),
    "abs": _unary(lambda x, y: call("sign", x)),
    "sin": _unary(lambda x, y: call("cos", x)),
    "cos": _unary(lambda x, y: neg(call("sin", x))),
    "tan": _unary(lambda x, y: add(ONE, mul(y, y))),
    "arcsin": _unary(lambda x, y: call("rsqrt", sub(ONE, mul(x, x)))),
    "arccos": _unary(lambda x, y: neg(call("rsqrt", sub(ONE, mul(x, x))))),
    "arctan": _unary(lambda x, y: div(ONE, add(ONE, mul(x, x)))),
    "arctan2": _arctan2,
}  # fmt: skip

# Operations that take complex numbers apart or put them together: see ``adjoint`` and ``tangent``.
APART = frozenset({"re", "im", "conj", "complex", "abs"})

# Operations that return one of their arguments: the first where this comparison of the two holds.
CHOICES = {"minimum": "le", "maximum": "ge"}

# Operations whose value and slope are finite wherever their arguments are finite and of moderate size.
TAME = frozenset({
    "add", "sub", "mul", "neg", "minimum", "maximum", "real", "sigmoid", "silu", "softplus", "tanh", "erf", "gelu",
    "gelu_tanh", "relu", "sign", "abs", "sin", "cos", "arctan", "complex", "re", "im", "conj",
    "lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not", "floor", "ceil", "round", "int", "floordiv", "mod",
    "bit_and", "bit_or", "bit_xor", "shift_left", "shift_right",
})  # fmt: skip


def is_tame(expr: Expr) -> bool:
    """Whether all of an expression is made by such operations."""
    return all(node.op in TAME for node in walk(expr) if isinstance(node, Op))


__all__ = ["APART", "CHOICES", "PARTIALS", "TAME", "Partials", "is_tame"]
