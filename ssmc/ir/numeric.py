"""What each operation and reduction of ``ops`` means on NumPy arrays.

Ints are int64 and wrap, reals are float64, complex values complex128. Arguments arrive aligned
(one dimension per loop) and are brought to one type first. No function here raises or warns for any
values: callers hold ``np.errstate(all="ignore")``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ssmc.errors import UserError

from .ops import OPERATIONS, REDUCTIONS, Rule
from .types import BOOL, COMPLEX, INT, REAL, DType, join

Array: TypeAlias = npt.NDArray[Any]

NUMPY_TYPES = {BOOL: np.bool_, INT: np.int64, REAL: np.float64, COMPLEX: np.complex128}
_BY_KIND = {"b": BOOL, "i": INT, "f": REAL, "c": COMPLEX}
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1


def dtype_of(array: Array) -> DType:
    return _BY_KIND[array.dtype.kind]


def as_type(array: Array, dtype: DType) -> Array:
    """``array`` with the element type ``dtype``."""
    return array.astype(NUMPY_TYPES[dtype], copy=False)


def apply_operation(op: str, args: tuple[Array, ...]) -> Array:
    """The value of an elementwise operation."""
    joined = join(*(dtype_of(arg) for arg in args))
    common = join(joined, _COMPUTED_AT_LEAST.get(op, BOOL))
    result: Array = np.asarray(_MEANING[op](*(as_type(arg, common) for arg in args)))
    return result


def _at_least(op: str) -> DType:
    """The least type in which ``op`` computes: bools count as ints, and ints as reals for ``exp``."""
    row = OPERATIONS[op]
    if op == "real" or row.yields in (Rule.AT_LEAST_REAL, REAL, COMPLEX):
        return REAL
    return BOOL if row.yields in (Rule.EXACT, BOOL) else INT


_COMPUTED_AT_LEAST = {op: _at_least(op) for op in OPERATIONS}


# ---------------------------------------------------------------- elementwise


def _floor_divide(a: Array, b: Array) -> Array:
    return np.where(b == 0, 0, np.floor_divide(a, np.where(b == 0, 1, b)))


def _modulo(a: Array, b: Array) -> Array:
    return np.where(b == 0, 0, np.mod(a, np.where(b == 0, 1, b)))


def _power(a: Array, b: Array) -> Array:
    if a.dtype.kind != "i":
        return np.asarray(np.power(a, b))
    unit = np.where(a == 1, 1, np.where(a == -1, np.where(b % 2 == 0, 1, -1), 0))
    return np.where(b < 0, unit, np.power(a, np.maximum(b, 0)))


def _shift_left(a: Array, b: Array) -> Array:
    amount = np.clip(b, 0, 63)
    return np.where(b > 63, 0, np.left_shift(a, amount))


def _truncate(x: Array) -> Array:
    """Towards zero, saturating; 0 for NaN."""
    if x.dtype.kind == "i":
        return x
    inside = (x >= -(2.0**63)) & (x < 2.0**63)
    whole = np.where(inside, x, 0).astype(np.int64)
    return np.where(inside, whole, np.where(x > 0, _INT_MAX, np.where(x < 0, _INT_MIN, 0)))


def _keep_ints(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Rounding leaves ints alone."""
    return lambda x: x if x.dtype.kind == "i" else function(x)


def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def _softplus(x: Array) -> Array:
    """PyTorch's: exactly ``x`` above 20."""
    return np.where(x > 20, x, np.log1p(np.exp(np.minimum(x, 20))))


def _complex(a: Array, b: Array) -> Array:
    """Not ``a + 1j * b``, in which an infinite part makes the other NaN."""
    result = np.empty(np.broadcast_shapes(a.shape, b.shape), np.complex128)
    result.real, result.imag = a, b
    return result


_erf_of_one = np.frompyfunc(math.erf, 1, 1)


def _erf(x: Array) -> Array:
    return np.asarray(_erf_of_one(x)).astype(np.float64)


def _gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


_MEANING: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "floordiv": _floor_divide,
    "mod": _modulo,
    "pow": _power,
    "neg": np.negative,
    "minimum": np.minimum,
    "maximum": np.maximum,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
    "bit_and": np.bitwise_and,
    "bit_or": np.bitwise_or,
    "bit_xor": np.bitwise_xor,
    "shift_left": _shift_left,
    "shift_right": lambda a, b: np.right_shift(a, np.clip(b, 0, 63)),
    "real": lambda x: x,
    "int": _truncate,
    "floor": _keep_ints(np.floor),
    "ceil": _keep_ints(np.ceil),
    "round": _keep_ints(np.rint),
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log2": np.log2,
    "log1p": np.log1p,
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "softplus": _softplus,
    "tanh": np.tanh,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "erf": _erf,
    "gelu": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    "gelu_tanh": _gelu_tanh,
    "relu": lambda x: np.maximum(x, 0),
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "abs": np.abs,
    "sign": np.sign,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "arcsin": np.arcsin,
    "arccos": np.arccos,
    "arctan": np.arctan,
    "arctan2": np.arctan2,
    "complex": _complex,
    "re": np.real,
    "im": np.imag,
    "conj": np.conj,
}


# ---------------------------------------------------------------- reductions


def empty_value(kind: str, dtype: DType) -> Any:
    """The value over no points; integers have no infinities, so their extremes stand in."""
    empty = REDUCTIONS[kind].empty
    if dtype is INT and isinstance(empty, float):
        return _INT_MAX if empty > 0 else _INT_MIN
    return empty


def reduce_values(kind: str, body: Array, condition: Array | None, dims: tuple[int, ...]) -> Array:
    """Fold ``body`` over ``dims`` (kept with extent 1) where ``condition`` holds, everywhere if None.

    Both arrays have the full extent along ``dims``. ``softmax`` keeps its dimension.
    """
    holds: Array = np.ones((1,) * body.ndim, np.bool_) if condition is None else condition
    if kind == "any":
        return np.any(holds & body, axis=dims, keepdims=True)
    if kind == "all":
        return np.all(~holds | body, axis=dims, keepdims=True)
    least = REAL if REDUCTIONS[kind].yields is Rule.AT_LEAST_REAL else INT
    body = as_type(body, join(dtype_of(body), least))

    def elsewhere(empty: Any) -> Array:
        return body if condition is None else np.where(holds, body, np.asarray(empty, body.dtype))

    match kind:
        case "sum":
            return elsewhere(0).sum(axis=dims, keepdims=True)
        case "prod":
            return elsewhere(1).prod(axis=dims, keepdims=True)
        case "mean":
            points = np.broadcast_to(holds, np.broadcast_shapes(holds.shape, body.shape)).sum(axis=dims, keepdims=True)
            return np.where(points == 0, 0, elsewhere(0).sum(axis=dims, keepdims=True) / points)
        case "max" | "min":
            empty = empty_value(kind, dtype_of(body))
            fold = np.max if kind == "max" else np.min
            return np.asarray(fold(elsewhere(empty), axis=dims, keepdims=True, initial=empty))
        case "argmax" | "argmin":
            return _first_extreme(kind, body, holds, dims[0])
        case _:
            shift = _finite_maximum(elsewhere(-np.inf), dims)
            terms = np.where(holds, np.exp(body - shift), 0)
            total = terms.sum(axis=dims, keepdims=True)
            return np.log(total) + shift if kind == "logsumexp" else np.where(holds, terms / total, 0)


def _first_extreme(kind: str, body: Array, holds: Array, dim: int) -> Array:
    """Index of the first point that no other beats; −1 over no points. A NaN counts as extreme."""
    empty = empty_value("max" if kind == "argmax" else "min", dtype_of(body))
    fold = np.max if kind == "argmax" else np.min
    best = fold(np.where(holds, body, empty), axis=dim, keepdims=True, initial=empty)
    hit = holds & ((body == best) | (body != body))
    if hit.shape[dim] == 0:
        return np.full(best.shape, -1, np.int64)
    return np.where(hit.any(axis=dim, keepdims=True), np.argmax(hit, axis=dim, keepdims=True), -1)


def _finite_maximum(values: Array, dims: tuple[int, ...]) -> Array:
    """The maximum where it is finite, else 0: what can be subtracted before ``exp``."""
    largest = np.max(values, axis=dims, keepdims=True, initial=-np.inf)
    return np.where(np.isfinite(largest), largest, 0)


# ---------------------------------------------------------------- whole-axis operations


def transform_values(kind: str, body: Array, dim: int) -> Array:
    """``hadamard`` or ``argsort`` along ``dim``, where ``body`` has its full extent."""
    if kind == "argsort":
        return np.argsort(body, axis=dim, kind="stable")
    body = as_type(body, join(dtype_of(body), INT))
    extent = body.shape[dim]
    if extent & (extent - 1):
        raise UserError(f"hadamard along an axis of extent {extent}", expected="a power of two")
    moved = np.moveaxis(body, dim, -1)
    shape = moved.shape
    half = 1
    while half < extent:  # butterflies; bit k of the index pairs entries 2^k apart
        pairs = moved.reshape(*shape[:-1], extent // (2 * half), 2, half)
        low, high = pairs[..., 0, :], pairs[..., 1, :]
        moved = np.stack([low + high, low - high], axis=-2).reshape(shape)
        half *= 2
    return np.moveaxis(moved, -1, dim)
