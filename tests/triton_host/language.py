"""The part of ``triton.language`` that emitted kernels use, on NumPy arrays: what a kernel means, quickly.

Triton's own interpreter takes a fifth of a millisecond for an operation; this takes a few microseconds, so that many
more kernels can be run. It is stricter in one thing: an element outside of a tensor is not read or written silently.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

TYPES = {"fp64": np.float64, "fp32": np.float32, "fp16": np.float16, "bf16": np.uint16, "i64": np.int64,
         "i32": np.int32, "i8": np.int8}  # fmt: skip
float64, float32, int64, int32, int8, int1 = (
    np.dtype(t) for t in (np.float64, np.float32, np.int64, np.int32, np.int8, np.bool_)
)


class Tile(np.ndarray):
    """An array that can be cast as tensors of Triton are."""

    def to(self, type: Any) -> Any:
        return cast(self, type)


class Pointer:
    """Places in a flat array, in elements of it."""

    def __init__(self, array: np.ndarray, offsets: Any, type: str) -> None:
        self.array, self.offsets, self.type = array, offsets, type

    def __add__(self, more: Any) -> Pointer:
        return Pointer(self.array, self.offsets + more, self.type)

    def to(self, type: np.dtype[Any]) -> Pointer:
        assert self.offsets % type.itemsize == 0
        return Pointer(self.array.view(type), self.offsets // type.itemsize, "")


def tile(value: Any, type: Any = None) -> Tile:
    """Anything as an array."""
    return np.asarray(value, type).view(Tile)


def pointer_type(type: np.dtype[Any]) -> np.dtype[Any]:
    return type


def cast(value: Any, type: Any) -> Any:
    if isinstance(value, Pointer):
        return value.to(type)
    return tile(np.asarray(value).astype(type))


def arange(start: int, stop: int) -> Tile:
    assert start == 0 and stop > 0 and stop & (stop - 1) == 0, "a power of two"
    return tile(np.arange(stop, dtype=np.int32))


def full(shape: tuple[int, ...], value: Any, type: Any) -> Tile:
    assert math.prod(shape) <= 1 << 20 and all(n & (n - 1) == 0 for n in shape)
    return tile(np.full(shape, value, type))


def broadcast_to(value: Tile, shape: tuple[int, ...]) -> Tile:
    return tile(np.broadcast_to(value, shape).copy())


def load(pointer: Pointer, mask: Any = None, other: Any = None) -> Tile:
    at, allowed = np.broadcast_arrays(pointer.offsets, True if mask is None else mask)
    assert at.shape == np.shape(pointer.offsets), "a mask has no more dimensions than its pointers"
    found = np.full(at.shape, 0 if other is None else other, pointer.array.dtype)
    places = at[allowed]
    assert not places.size or (places.min() >= 0 and places.max() < pointer.array.size), "outside of a tensor"
    found[allowed] = pointer.array[places]
    if pointer.type == "bf16":
        found = (found.astype(np.uint32) << 16).view(np.float32)
    return tile(found)


def store(pointer: Pointer, value: Any, mask: Any = None) -> None:
    shape = np.shape(pointer.offsets)
    values, allowed = np.broadcast_to(value, shape), np.broadcast_to(True if mask is None else mask, shape)
    places = np.asarray(pointer.offsets)[allowed]
    assert not places.size or (places.min() >= 0 and places.max() < pointer.array.size), "outside of a tensor"
    assert np.unique(places).size == places.size or _same(places, values[allowed]), "written twice"
    kept = values[allowed]
    if pointer.type == "bf16":
        bits = np.asarray(kept, np.float32).view(np.uint32)
        kept = np.where(np.isnan(kept), 0x7FC0, (bits + 0x7FFF + (bits >> 16 & 1)) >> 16)
    pointer.array[places] = kept


def _same(places: np.ndarray, values: np.ndarray) -> bool:
    return all(np.unique(values[places == place]).size == 1 for place in np.unique(places))


def where(condition: Any, yes: Any, no: Any) -> Tile:
    assert np.asarray(condition).dtype == np.bool_
    return tile(np.where(condition, yes, no))


def permute(value: Tile, order: tuple[int, ...]) -> Tile:
    return tile(np.transpose(value, order))


def debug_barrier() -> None:
    pass


def static_range(count: int) -> range:
    return range(count)


def reduce(value: Tile, axis: int | None, combine: Callable[..., Any], keep_dims: bool = False) -> Any:
    rows = np.moveaxis(value, axis, 0) if axis is not None else np.ravel(value)
    found = rows[0]
    for row in rows[1:]:
        found = combine(found, row)
    return tile(np.expand_dims(found, axis) if keep_dims and axis is not None else found)


def associative_scan(values: tuple[Tile, ...], axis: int, combine: Callable[..., Any], reverse: bool = False) -> Any:
    assert len({np.shape(value) for value in values}) == 1, "tiles that are scanned have one shape"
    rows = [np.flip(np.moveaxis(value, axis, 0), 0) if reverse else np.moveaxis(value, axis, 0) for value in values]
    found = [tuple(row[0] for row in rows)]
    for step in range(1, len(rows[0])):
        found.append(combine(*found[-1], *(row[step] for row in rows)))
    scanned = [np.stack(steps) for steps in zip(*found, strict=True)]
    return tuple(tile(np.moveaxis(np.flip(s, 0) if reverse else s, 0, axis)) for s in scanned)


def gather(value: Tile, index: Tile, axis: int) -> Tile:
    assert index.dtype.kind == "i" and np.ndim(index) == np.ndim(value)
    assert all(a == b for n, (a, b) in enumerate(zip(index.shape, value.shape, strict=True)) if n != axis)
    return tile(np.take_along_axis(value, index, axis))


def _folding(function: Callable[..., Any]) -> Callable[..., Any]:
    def fold(value: Tile, axis: int | None = None, keep_dims: bool = False) -> Tile:
        return tile(function(np.asarray(value), axis=axis, keepdims=keep_dims))

    return fold


def _elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *values, **_: tile(function(*values))


sum, max, min = _folding(np.sum), _folding(np.fmax.reduce), _folding(np.fmin.reduce)
exp, exp2, log, log2, sin, cos, sqrt, floor, ceil, abs = map(
    _elementwise,
    (np.exp, np.exp2, np.log, np.log2, np.sin, np.cos, np.sqrt, np.floor, np.ceil, np.abs),
)
rsqrt = _elementwise(lambda x: 1 / np.sqrt(x))
_erf = np.vectorize(math.erf, otypes=[np.float64])
erf = _elementwise(lambda x: _erf(x).astype(np.asarray(x).dtype))
minimum, maximum = _elementwise(np.minimum), _elementwise(np.maximum)


class PropagateNan:
    ALL = True


class constexpr:  # only ever an annotation
    pass


number = 0  # of the program that runs


def program_id(axis: int) -> Tile:
    return tile(number)
