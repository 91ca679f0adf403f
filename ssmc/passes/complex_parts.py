"""Operations on complex values as operations on their real and imaginary parts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ssmc.errors import Unsupported
from ssmc.ir import BOOL, REAL
from ssmc.ir.scalar import Graph, Node, Value

if TYPE_CHECKING:
    from .scalarise import Scalariser

Pair = tuple[Node, Node]


def multiply(g: Graph, a: Value, b: Value) -> Pair:
    (ar, ai), (br, bi) = a, b  # type: ignore[misc]
    return (
        g.op("sub", g.op("mul", ar, br), g.op("mul", ai, bi)),
        g.op("add", g.op("mul", ar, bi), g.op("mul", ai, br)),
    )


def divide(g: Graph, a: Pair, b: Pair) -> Pair:
    """a · conj(b) / |b|²."""
    norm = g.op("add", g.op("mul", b[0], b[0]), g.op("mul", b[1], b[1]))
    re, im = multiply(g, a, (b[0], g.op("neg", b[1])))
    return g.op("div", re, norm), g.op("div", im, norm)


def magnitude(g: Graph, a: Pair) -> Node:
    return g.op("sqrt", g.op("add", g.op("mul", a[0], a[0]), g.op("mul", a[1], a[1])))


def exponential(g: Graph, a: Pair) -> Pair:
    """0 for an infinite decay, whatever the angle: e^(dt·A) for a dt beyond all bounds turns infinitely far too."""
    size, zero = g.op("exp", a[0]), g.const(0.0)
    gone = g.op("eq", a[0], g.const(-math.inf), type=BOOL)
    re, im = (g.select(gone, zero, g.op("mul", size, g.op(turn, a[1]))) for turn in ("cos", "sin"))
    return re, im


def logarithm(g: Graph, a: Pair) -> Pair:
    return g.op("log", magnitude(g, a)), g.op("arctan2", a[1], a[0])


def square_root(g: Graph, a: Pair) -> Pair:
    """Principal root: √((|a| + re)/2) + i·sign(im)·√((|a| − re)/2)."""
    size, half = magnitude(g, a), g.const(0.5)
    zero = g.const(0.0)
    re = g.op("sqrt", g.op("maximum", g.op("mul", half, g.op("add", size, a[0])), zero))
    im = g.op("sqrt", g.op("maximum", g.op("mul", half, g.op("sub", size, a[0])), zero))
    return re, g.select(g.op("lt", a[1], zero, type=BOOL), g.op("neg", im), im)


def complex_operation(scalariser: Scalariser, op: str, args: list[Value]) -> Value:
    """``op`` where at least one argument is a pair."""
    g = scalariser.graph
    pairs: list[Pair] = [a if isinstance(a, tuple) else (g.convert(a, REAL), g.const(0.0)) for a in args]
    a = pairs[0]
    match op:
        case "re" | "im":
            return a[op == "im"]
        case "conj":
            return a[0], g.op("neg", a[1])
        case "neg":
            return g.op("neg", a[0]), g.op("neg", a[1])
        case "abs":
            return magnitude(g, a)
        case "exp":
            return exponential(g, a)
        case "log":
            return logarithm(g, a)
        case "sqrt":
            return square_root(g, a)
    b = pairs[1] if len(pairs) > 1 else a
    match op:
        case "add" | "sub" if not isinstance(args[1], tuple):
            return g.op(op, a[0], b[0]), a[1]
        case "add" if not isinstance(args[0], tuple):
            return g.op(op, a[0], b[0]), b[1]
        case "sub" if not isinstance(args[0], tuple):
            return g.op(op, a[0], b[0]), g.op("neg", b[1])
        case "add" | "sub":
            return g.op(op, a[0], b[0]), g.op(op, a[1], b[1])
        case "mul":
            return multiply(g, a, b)
        case "div" if not isinstance(args[1], tuple):
            return g.op("div", a[0], b[0]), g.op("div", a[1], b[0])
        case "div":
            return divide(g, a, b)
        case "eq" | "ne":
            same = [g.op(op, x, y, type=BOOL) for x, y in zip(a, b, strict=True)]
            return g.op("and" if op == "eq" else "or", *same)
        case "pow":
            return _power(g, a, b, args[1])
    raise Unsupported(f"`{op}` of complex values has no strategy on this target yet")


def _power(g: Graph, a: Pair, b: Pair, exponent: Value) -> Pair:
    """Repeated multiplication for small constant powers, else exp(b · log a), and 0 for a = 0."""
    if isinstance(exponent, Node) and exponent.kind == "const" and float(exponent.name) in (1, 2, 3, 4):
        square = multiply(g, a, a)
        powers = {1: a, 2: square, 3: multiply(g, square, a), 4: multiply(g, square, square)}
        return powers[int(exponent.name)]
    re, im = exponential(g, multiply(g, b, logarithm(g, a)))
    zero = g.const(0.0)
    is_zero = g.op("eq", magnitude(g, a), zero, type=BOOL)
    one = g.op("eq", magnitude(g, b), zero, type=BOOL)
    return g.select(is_zero, g.select(one, g.const(1.0), zero), re), g.select(is_zero, zero, im)
