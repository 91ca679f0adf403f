"""Every elementwise operation and every reduction of the language, one row each.

A row says what the operation takes and yields; what it *means* is one NumPy function in
``interpret``, and how a target spells it is one entry in that target's table. ``accepts`` is the
highest argument type; ``yields`` is a type, or ``SAME`` (the join of the arguments), or
``AT_LEAST_REAL`` (the join, but ints become real).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .types import BOOL, COMPLEX, INT, REAL, DType, join


class Rule(Enum):
    """How the type of a result follows from the types of the arguments."""

    SAME = "the join of the arguments; bools become ints"
    AT_LEAST_REAL = "the join of the arguments, at least real"
    EXACT = "the join of the arguments, bools stay bools"


SAME, AT_LEAST_REAL, EXACT = Rule.SAME, Rule.AT_LEAST_REAL, Rule.EXACT


@dataclass(frozen=True)
class Operation:
    """One elementwise operation.

    ``symbol`` is its infix or prefix spelling in ``.ssm`` (else it is written as a call);
    ``flops`` and ``exponentials`` are the costs that ``explain`` adds up.
    """

    name: str
    arity: int
    accepts: DType
    yields: DType | Rule
    meaning: str
    symbol: str = ""
    flops: int = 1
    exponentials: int = 0


_ROWS = (
    # arithmetic
    Operation("add", 2, COMPLEX, SAME, "a + b", "+"),
    Operation("sub", 2, COMPLEX, SAME, "a - b", "-"),
    Operation("mul", 2, COMPLEX, SAME, "a · b", "*"),
    Operation("div", 2, COMPLEX, AT_LEAST_REAL, "a / b", "/"),
    Operation("floordiv", 2, INT, SAME, "⌊a / b⌋, towards minus infinity; 0 when b is 0", "//"),
    Operation("mod", 2, INT, SAME, "a − b⌊a / b⌋, the sign of b; 0 when b is 0", "%"),
    Operation("pow", 2, COMPLEX, SAME, "a to the b; ints stay int, truncated when b < 0", "^", 10, 1),
    Operation("neg", 1, COMPLEX, SAME, "−a", "-"),
    Operation("minimum", 2, REAL, SAME, "the smaller; NaN if either is"),
    Operation("maximum", 2, REAL, SAME, "the larger; NaN if either is"),
    # comparison and logic
    Operation("lt", 2, REAL, BOOL, "a < b", "<"),
    Operation("le", 2, REAL, BOOL, "a ≤ b", "<="),
    Operation("gt", 2, REAL, BOOL, "a > b", ">"),
    Operation("ge", 2, REAL, BOOL, "a ≥ b", ">="),
    Operation("eq", 2, COMPLEX, BOOL, "a = b", "=="),
    Operation("ne", 2, COMPLEX, BOOL, "a ≠ b", "!="),
    Operation("and", 2, BOOL, BOOL, "both", "and"),
    Operation("or", 2, BOOL, BOOL, "either", "or"),
    Operation("not", 1, BOOL, BOOL, "negation", "not"),
    # bits of 64-bit integers
    Operation("bit_and", 2, INT, INT, "bitwise and"),
    Operation("bit_or", 2, INT, INT, "bitwise or"),
    Operation("bit_xor", 2, INT, INT, "bitwise exclusive or"),
    Operation("shift_left", 2, INT, INT, "a · 2^b, modulo 2^64; b below 0 counts as 0"),
    Operation("shift_right", 2, INT, INT, "⌊a / 2^b⌋; b below 0 counts as 0"),
    # conversions
    Operation("real", 1, REAL, REAL, "as a real number"),
    Operation("int", 1, REAL, INT, "truncated towards zero, saturating; 0 for NaN"),
    Operation("floor", 1, REAL, SAME, "largest integer not above, still real"),
    Operation("ceil", 1, REAL, SAME, "smallest integer not below, still real"),
    Operation("round", 1, REAL, SAME, "nearest integer, ties to even, still real"),
    # exponentials and their kin
    Operation("exp", 1, COMPLEX, AT_LEAST_REAL, "e to the x", flops=14, exponentials=1),
    Operation("exp2", 1, REAL, AT_LEAST_REAL, "2 to the x", flops=13, exponentials=1),
    Operation("expm1", 1, REAL, AT_LEAST_REAL, "e to the x, minus 1, exact near 0", flops=15, exponentials=1),
    Operation("log", 1, COMPLEX, AT_LEAST_REAL, "natural logarithm", flops=18, exponentials=1),
    Operation("log2", 1, REAL, AT_LEAST_REAL, "logarithm to base 2", flops=18, exponentials=1),
    Operation("log1p", 1, REAL, AT_LEAST_REAL, "log(1 + x), exact near 0", flops=20, exponentials=1),
    Operation("sigmoid", 1, REAL, AT_LEAST_REAL, "1 / (1 + e^−x)", flops=16, exponentials=1),
    Operation("silu", 1, REAL, AT_LEAST_REAL, "x · sigmoid(x)", flops=17, exponentials=1),
    Operation("softplus", 1, REAL, AT_LEAST_REAL, "log(1 + e^x); x itself above 20", flops=36, exponentials=2),
    Operation("tanh", 1, REAL, AT_LEAST_REAL, "hyperbolic tangent", flops=18, exponentials=1),
    Operation("sinh", 1, REAL, AT_LEAST_REAL, "hyperbolic sine", flops=20, exponentials=1),
    Operation("cosh", 1, REAL, AT_LEAST_REAL, "hyperbolic cosine", flops=20, exponentials=1),
    Operation("erf", 1, REAL, AT_LEAST_REAL, "error function", flops=30, exponentials=1),
    Operation("gelu", 1, REAL, AT_LEAST_REAL, "x Φ(x), by erf", flops=34, exponentials=1),
    Operation("gelu_tanh", 1, REAL, AT_LEAST_REAL, "x Φ(x), by tanh", flops=24, exponentials=1),
    Operation("relu", 1, REAL, SAME, "max(x, 0)"),
    # roots, magnitudes, angles
    Operation("sqrt", 1, COMPLEX, AT_LEAST_REAL, "principal square root", flops=6),
    Operation("rsqrt", 1, REAL, AT_LEAST_REAL, "1 / √x", flops=8),
    Operation("abs", 1, COMPLEX, SAME, "magnitude; real for complex"),
    Operation("sign", 1, REAL, SAME, "−1, 0 or 1"),
    Operation("sin", 1, REAL, AT_LEAST_REAL, "sine of radians", flops=16, exponentials=1),
    Operation("cos", 1, REAL, AT_LEAST_REAL, "cosine of radians", flops=16, exponentials=1),
    Operation("tan", 1, REAL, AT_LEAST_REAL, "tangent of radians", flops=20, exponentials=1),
    Operation("arcsin", 1, REAL, AT_LEAST_REAL, "inverse sine, radians", flops=16, exponentials=1),
    Operation("arccos", 1, REAL, AT_LEAST_REAL, "inverse cosine, radians", flops=16, exponentials=1),
    Operation("arctan", 1, REAL, AT_LEAST_REAL, "inverse tangent, radians", flops=16, exponentials=1),
    Operation("arctan2", 2, REAL, AT_LEAST_REAL, "angle of the point (b, a), radians", flops=20, exponentials=1),
    # complex
    Operation("complex", 2, REAL, COMPLEX, "a + i b", flops=0),
    Operation("re", 1, COMPLEX, REAL, "real part", flops=0),
    Operation("im", 1, COMPLEX, REAL, "imaginary part", flops=0),
    Operation("conj", 1, COMPLEX, SAME, "complex conjugate", flops=1),
)

OPERATIONS: dict[str, Operation] = {row.name: row for row in _ROWS}

# How a call is written when the infix form does not exist: `min(a, b)` is elementwise.
CALL_NAMES: dict[str, str] = {
    **{row.name: row.name for row in _ROWS if not row.symbol},
    "min": "minimum",
    "max": "maximum",
}

_REAL_OF_COMPLEX = {"abs", "re", "im"}


def result_type(op: str, arguments: tuple[DType, ...]) -> DType:
    """The type that ``op`` yields for arguments of these types (which ``accepts`` must admit)."""
    row = OPERATIONS[op]
    joined = join(*arguments)
    if op in _REAL_OF_COMPLEX and joined is COMPLEX:
        return REAL
    if isinstance(row.yields, DType):
        return row.yields
    if row.yields is AT_LEAST_REAL:
        return join(joined, REAL)
    return joined if row.yields is EXACT else join(joined, INT)


@dataclass(frozen=True)
class Reduction:
    """One way to fold a value over axes; ``empty`` is its value over no points at all."""

    name: str
    accepts: DType
    yields: DType | Rule
    empty: float | int | bool
    meaning: str
    keeps_axis: bool = False


_REDUCTIONS = (
    Reduction("sum", COMPLEX, SAME, 0, "Σ"),
    Reduction("prod", COMPLEX, SAME, 1, "Π"),
    Reduction("mean", COMPLEX, AT_LEAST_REAL, 0, "Σ divided by the number of points that meet the condition"),
    Reduction("max", REAL, SAME, float("-inf"), "largest; −2^63 over no integers"),
    Reduction("min", REAL, SAME, float("inf"), "smallest; 2^63 − 1 over no integers"),
    Reduction("argmax", REAL, INT, -1, "index of the first largest, along one axis"),
    Reduction("argmin", REAL, INT, -1, "index of the first smallest, along one axis"),
    Reduction("any", BOOL, BOOL, False, "some point holds"),
    Reduction("all", BOOL, BOOL, True, "every point holds"),
    Reduction("logsumexp", REAL, AT_LEAST_REAL, float("-inf"), "log Σ exp"),
    Reduction("softmax", REAL, AT_LEAST_REAL, 0, "exp(x) / Σ exp(x), 0 where the condition fails", keeps_axis=True),
)

REDUCTIONS: dict[str, Reduction] = {row.name: row for row in _REDUCTIONS}

# Whole-axis operations that keep their axis: name → (highest argument type, meaning).
TRANSFORMS: dict[str, tuple[DType, str]] = {
    "hadamard": (COMPLEX, "unnormalised Sylvester–Hadamard transform; the extent is a power of two"),
    "argsort": (REAL, "positions in stable ascending order; an int"),
}
