"""Every row of the table of operations against Python's own arithmetic, special values included."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ssmc.ir import BOOL, COMPLEX, INT, OPERATIONS, REAL, DType, result_type
from ssmc.ir.numeric import NUMPY_TYPES, apply_operation, dtype_of

REALS = [-2.5, -1.0, -0.5, 0.0, 0.3, 1.0, 2.0, 2.5, 7.0]
COMPLEX_VALUES = [1 + 2j, -0.5 + 0.1j, 2j, -1 - 1j, 0.7 + 0j]
INTS = [-7, -2, -1, 0, 1, 2, 3, 64, 70]


def _softplus(x: float) -> float:
    return x if x > 20 else math.log1p(math.exp(x))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


REAL_MEANING: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
    "neg": lambda a: -a,
    "minimum": min,
    "maximum": max,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "real": lambda a: a,
    "int": int,
    "floor": math.floor,
    "ceil": math.ceil,
    "round": round,
    "exp": math.exp,
    "exp2": lambda a: 2**a,
    "expm1": math.expm1,
    "log": math.log,
    "log2": math.log2,
    "log1p": math.log1p,
    "sigmoid": _sigmoid,
    "silu": lambda a: a * _sigmoid(a),
    "softplus": _softplus,
    "tanh": math.tanh,
    "sinh": math.sinh,
    "cosh": math.cosh,
    "erf": math.erf,
    "gelu": lambda a: a * 0.5 * math.erfc(-a / math.sqrt(2)),
    "gelu_tanh": lambda a: 0.5 * a * (1 + math.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3))),
    "relu": lambda a: max(a, 0),
    "sqrt": math.sqrt,
    "rsqrt": lambda a: 1 / math.sqrt(a),
    "abs": abs,
    "sign": lambda a: (a > 0) - (a < 0),
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "arcsin": math.asin,
    "arccos": math.acos,
    "arctan": math.atan,
    "arctan2": math.atan2,
    "complex": complex,
    "re": lambda a: a,
    "im": lambda a: 0,
    "conj": lambda a: a,
}
COMPLEX_MEANING: dict[str, Callable[..., Any]] = {
    **{name: REAL_MEANING[name] for name in ("add", "sub", "mul", "div", "pow", "neg", "eq", "ne", "abs")},
    "exp": cmath.exp,
    "log": cmath.log,
    "sqrt": cmath.sqrt,
    "re": lambda a: a.real,
    "im": lambda a: a.imag,
    "conj": lambda a: a.conjugate(),
}
INT_MEANING: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b if b else 0,
    "mod": lambda a, b: a % b if b else 0,
    "neg": lambda a: -a,
    "abs": abs,
    "sign": lambda a: (a > 0) - (a < 0),
    "relu": lambda a: max(a, 0),
    "minimum": min,
    "maximum": max,
    "floor": lambda a: a,
    "ceil": lambda a: a,
    "round": lambda a: a,
    "int": lambda a: a,
    "bit_and": lambda a, b: a & b,
    "bit_or": lambda a, b: a | b,
    "bit_xor": lambda a, b: a ^ b,
    "shift_left": lambda a, b: _wrapped(a << max(b, 0)),
    "shift_right": lambda a, b: a >> max(b, 0),
    "conj": lambda a: a,
}


def _wrapped(a: int) -> int:
    return (a + 2**63) % 2**64 - 2**63


def check(op: str, meaning: Callable[..., Any], values: list[Any], dtype: DType) -> None:
    arity = OPERATIONS[op].arity
    points = [(a,) for a in values] if arity == 1 else [(a, b) for a in values for b in values]
    expected, kept = [], []
    for point in points:
        try:
            expected.append(complex(meaning(*point)))
        except (ValueError, ZeroDivisionError):
            continue
        kept.append(point)
    columns = tuple(np.array(column, NUMPY_TYPES[dtype]) for column in zip(*kept, strict=True))
    with np.errstate(all="ignore"):
        found = apply_operation(op, columns)
    assert dtype_of(found) is result_type(op, (dtype,) * arity)
    np.testing.assert_allclose(found.astype(complex), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("op", REAL_MEANING)
def test_real(op: str) -> None:
    values = REALS
    if op == "pow":  # a real result only
        values = [v for v in REALS if v > 0]
    check(op, REAL_MEANING[op], values, REAL)


@pytest.mark.parametrize("op", COMPLEX_MEANING)
def test_complex(op: str) -> None:
    check(op, COMPLEX_MEANING[op], COMPLEX_VALUES, COMPLEX)


@pytest.mark.parametrize("op", INT_MEANING)
def test_int(op: str) -> None:
    check(op, INT_MEANING[op], INTS, INT)


@pytest.mark.parametrize("op", ["and", "or", "not"])
def test_bool(op: str) -> None:
    meaning = {"and": lambda a, b: a and b, "or": lambda a, b: a or b, "not": lambda a: not a}[op]
    check(op, meaning, [False, True], BOOL)


def test_every_operation_is_tested() -> None:
    tested = REAL_MEANING.keys() | COMPLEX_MEANING.keys() | INT_MEANING.keys() | {"and", "or", "not"}
    assert tested == OPERATIONS.keys()


def one(op: str, *args: Any) -> Any:
    with np.errstate(all="ignore"):
        return apply_operation(op, tuple(np.array([arg]) for arg in args))[0]


def test_bools_count_as_ints_in_arithmetic() -> None:
    assert one("add", True, True) == 2
    assert one("mul", True, 2.5) == 2.5
    assert one("exp", True) == pytest.approx(math.e)


def test_int_powers_stay_ints() -> None:
    expected = {(3, 4): 81, (0, 0): 1, (2, -1): 0, (1, -3): 1, (-1, -3): -1, (-1, -2): 1, (0, -1): 0, (-2, 3): -8}
    for (a, b), value in expected.items():
        assert one("pow", a, b) == value
        assert one("pow", a, b).dtype == np.int64
    assert one("pow", 2, 0.5) == math.sqrt(2)


def test_special_values() -> None:
    assert one("softplus", 800.0) == 800.0
    assert one("softplus", 20.0) == math.log1p(math.exp(20))
    assert one("softplus", -800.0) == 0
    assert one("sigmoid", -800.0) == 0 and one("sigmoid", 800.0) == 1
    assert one("round", 0.5) == 0 and one("round", 1.5) == 2 and one("round", -2.5) == -2
    assert one("int", -2.9) == -2 and one("int", math.nan) == 0
    assert one("int", 1e30) == 2**63 - 1 and one("int", -math.inf) == -(2**63)
    assert math.isnan(one("maximum", math.nan, 1.0)) and math.isnan(one("relu", math.nan))
    assert one("complex", 1.0, math.inf) == complex(1, math.inf)
    assert one("div", 1, 0) == math.inf
    assert math.isnan(one("sqrt", -1.0)) and one("sqrt", -1 + 0j) == 1j
