"""The derivative of every elementwise operation, as expressions; and the few that are not holomorphic.

``PARTIALS[op](args, value)`` gives, for each argument, the partial derivative of ``value = op(*args)``, or None
where it is zero everywhere (whole numbers, comparisons, steps). Where a derivative does not exist, one side is
taken: of `min` and `max` of equal numbers the first argument, of `abs` at 0 the value 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from ssmc.ir import BOOL, OPERATIONS, REAL, Const, Expr, Op, Where

Partials: TypeAlias = Callable[[tuple[Expr, ...], Expr], tuple[Expr | None, ...]]


def number(value: float) -> Const:
    return Const(float(value), REAL)


ZERO, ONE = number(0), number(1)


def is_number(expr: Expr, value: float) -> bool:
    return isinstance(expr, Const) and expr.dtype is not BOOL and expr.value == value


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
    """a · b without factors of 1; a sign goes outwards. Nothing times 0 is dropped: the zero may be a limit."""
    if is_number(a, 1):
        return b
    if is_number(b, 1):
        return a
    if isinstance(a, Op) and a.op == "neg":
        return neg(mul(a.args[0], b))
    if isinstance(b, Op) and b.op == "neg":
        return neg(mul(a, b.args[0]))
    if is_number(a, -1):
        return neg(b)
    return neg(a) if is_number(b, -1) else Op("mul", (a, b))


def div(a: Expr, b: Expr) -> Expr:
    return a if is_number(b, 1) else Op("div", (a, b))


def call(op: str, *args: Expr) -> Expr:
    return Op(op, args)


def _pow(args: tuple[Expr, ...], value: Expr) -> tuple[Expr | None, ...]:
    base, exponent = args
    if isinstance(exponent, Const):
        less = Const(exponent.value - 1, exponent.dtype)
        if is_number(exponent, 1):
            return ONE, None
        power = base if is_number(less, 1) else call("pow", base, less)
        return mul(exponent, power), None
    first = mul(exponent, call("pow", base, sub(exponent, ONE)))
    return first, Where(call("ne", base, ZERO), mul(value, call("log", base)), ZERO)


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
    return div(b, square), neg(div(a, square))


def _silu(args: tuple[Expr, ...], value: Expr) -> tuple[Expr | None, ...]:
    share = call("sigmoid", args[0])
    return (mul(share, add(ONE, mul(args[0], sub(ONE, share)))),)


def _unary(slope: Callable[[Expr, Expr], Expr]) -> Partials:
    return lambda args, value: (slope(args[0], value),)


def _choose(op: str) -> Partials:
    def partials(args: tuple[Expr, ...], value: Expr) -> tuple[Expr | None, ...]:
        first = call(op, *args)
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

__all__ = [
    "APART", "ONE", "PARTIALS", "ZERO", "Partials", "add", "call", "div", "is_number", "mul", "neg", "number", "sub",
]  # fmt: skip
