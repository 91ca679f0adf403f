"""Inputs for any Program: numbers of moderate size that keep its values finite, and ints that mean something.

Nothing is known of an input but its type and what the equations do with it. Reals are drawn normal at first;
where that makes values grow without bound (a state whose rate must be negative) or not numbers (the root of a
negative), other kinds of draws are tried, input by input. Ints that serve as indices stay near the axis that they
index; others come as small codes, as runs, and as positions that start again.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

import numpy as np

from ssmc.ir import BOOL, COMPLEX, INT, REAL, Program, Read, Tensor, walk

from .evaluate import Array, Arrays, Functions, run

Kinds = Mapping[str, str]

DRAWS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "normal": lambda draw, shape: 0.7 * draw.standard_normal(shape),
    "negative": lambda draw, shape: -0.05 - 0.7 * np.abs(draw.standard_normal(shape)),
    "positive": lambda draw, shape: 0.05 + 0.7 * np.abs(draw.standard_normal(shape)),
    "between 0 and 1": lambda draw, shape: draw.uniform(0.05, 0.95, shape),
    "small": lambda draw, shape: 0.1 * draw.standard_normal(shape),
}
LARGEST_VALUE = 1e3
DRAWN = 2
PATTERNS = ("codes", "runs", "positions")


def draw_inputs(
    program: Program, sizes: Mapping[str, int], seed: int, kinds: Kinds | None = None, storage: str = "f32"
) -> Arrays:
    """Inputs of ``program`` at these extents; reals are numbers that ``storage`` holds exactly."""
    found: Arrays = {}
    for tensor in program.inputs:
        draw = np.random.default_rng([seed, zlib.crc32(tensor.name.encode())])
        shape = tuple(sizes[axis] for axis in tensor.axes)
        if tensor.dtype is INT:
            found[tensor.name] = _ints(program, tensor, sizes, draw, PATTERNS[seed % len(PATTERNS)])
        elif tensor.dtype is BOOL:
            found[tensor.name] = draw.uniform(size=shape) < 0.7
        else:
            kind = DRAWS[(kinds or {}).get(tensor.name, "normal")]
            value = kind(draw, shape)
            if tensor.dtype is COMPLEX:
                value = value + 0.7j * draw.standard_normal(shape)
            found[tensor.name] = rounded(value, storage)
    return found


def rounded(value: Array, storage: str) -> Array:
    """Reals and complex numbers as ``storage`` holds them, in float64."""
    if value.dtype.kind == "c":
        result = np.empty(value.shape, np.complex128)
        result.real, result.imag = rounded(value.real, storage), rounded(value.imag, storage)
        return result
    if value.dtype.kind != "f" or storage == "f64":
        return value
    if storage == "bf16":
        bits = value.astype(np.float32).view(np.uint32)
        kept = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
        return kept.view(np.float32).astype(np.float64)
    return value.astype(np.float16 if storage == "f16" else np.float32).astype(np.float64)


def settle(
    program: Program, sizes: Mapping[str, int], kinds: Kinds | None = None, functions: Functions | None = None
) -> dict[str, str]:
    """How each real and complex input is drawn, so that values stay finite and of moderate size: as ``kinds`` says
    if that will do, else changed for one input after the other. If no choice does, the one that comes nearest."""
    names = [t.name for t in program.inputs if t.dtype in (REAL, COMPLEX)]
    best = {name: (kinds or {}).get(name, "normal") for name in names}
    least = _badness(program, sizes, best, functions)
    while least > 0:
        before = least
        for kind in DRAWS:
            tried = [{**best, name: kind} for name in names if best[name] != kind]
            scores = [_badness(program, sizes, other, functions) for other in tried]
            if scores and min(scores) < least:
                least = min(scores)
                chosen = tried[scores.index(least)]
            if least == 0:
                return chosen
        if least == before:
            break
        best = chosen
    return best


def _badness(program: Program, sizes: Mapping[str, int], kinds: Kinds, functions: Functions | None) -> float:
    """0 if outputs are finite and all values moderate; the worse the larger."""
    total = 0.0
    for seed in range(DRAWN):
        values = run(program, draw_inputs(program, sizes, seed, kinds), functions, keep="all")
        total += _badness_of(program, values)
        if total > 10:  # another draw will not mend it
            break
    return total


def _badness_of(program: Program, values: Arrays) -> float:
    total = 0.0
    for name, array in values.items():
        if array.dtype.kind not in "fc" or not array.size:
            continue
        finite = np.isfinite(array)
        if name in program.outputs:
            total += 1000 * float(1 - finite.mean())
        with np.errstate(over="ignore"):
            largest = float(np.abs(np.where(finite, array, 0)).max())
        total += max(0.0, np.log10(max(largest, 1e-300) / LARGEST_VALUE))
    return total


# ---------------------------------------------------------------- ints


def _ints(program: Program, tensor: Tensor, sizes: Mapping[str, int], draw: np.random.Generator, pattern: str) -> Array:
    shape = tuple(sizes[axis] for axis in tensor.axes)
    indexed = indexed_axes(program).get(tensor.name, set())
    if indexed:
        extent = max(sizes[axis] for axis in indexed)
        near = draw.integers(0, max(1, min(extent, 4)), shape)
        anywhere = draw.integers(-1, extent + 1, shape)
        return np.where(draw.uniform(size=shape) < 0.7, near, anywhere)
    times = [n for n, axis in enumerate(tensor.axes) if axis in program.sequence_axes]
    if not times or pattern == "codes":
        return draw.integers(0, 4, shape)
    begins = draw.uniform(size=shape) < 0.3
    runs = np.cumsum(begins, axis=times[0])
    if pattern == "runs":
        return runs
    step = np.cumsum(np.ones(shape, np.int64), axis=times[0])
    start = np.maximum.accumulate(np.where(begins, step, 1), axis=times[0])
    return step - start


def indexed_axes(program: Program) -> dict[str, set[str]]:
    """For every int tensor that enters an index, the axes that it indexes; through other tensors too."""
    tensors = program.tensors()
    found: dict[str, set[str]] = {}
    exprs = [e.expr for e in program.equations] + [x.expr for x in program.extensions]
    for read in (node for expr in exprs for node in walk(expr) if isinstance(node, Read)):
        if read.tensor not in tensors:
            continue
        for axis, index in zip(tensors[read.tensor].axes, read.indices, strict=True):
            for inner in walk(index):
                if isinstance(inner, Read):
                    found.setdefault(inner.tensor, set()).add(axis)
    changed = True
    while changed:
        changed = False
        for equation in program.equations:
            reached = found.get(equation.name, set())
            for node in walk(equation.expr):
                if reached and isinstance(node, Read) and tensors[node.tensor].dtype is INT:
                    before = found.setdefault(node.tensor, set())
                    changed |= not reached <= before
                    before |= reached
    return found
