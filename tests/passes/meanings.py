"""What `reverse`, `pack` and `mask` mean, by NumPy around the interpreter: turn, cut, run, put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ssmc.ir import Program, Size
from ssmc.ir.interpret import interpret
from ssmc.passes import adjoint_names, differentiable, grad

Arrays = Mapping[str, np.ndarray]


def along(program: Program) -> frozenset[str]:
    """The sequence axis and those that are as long."""

    def root(axis: str) -> str:
        extent = program.axis(axis).extent
        return root(extent.axis) if isinstance(extent, Size) else axis

    (time,) = program.sequence_axes
    return frozenset(axis.name for axis in program.axes if root(axis.name) == root(time))


def places(axes: Iterable[str], chosen: Iterable[str]) -> tuple[int, ...]:
    chosen = set(chosen)
    return tuple(i for i, axis in enumerate(axes) if axis in chosen)


def run_reversed(program: Program, inputs: Arrays, functions: Any = None) -> dict[str, np.ndarray]:
    """Flip, run, flip."""
    axes = {tensor.name: tensor.axes for tensor in program.tensors().values()}
    turned = {name: np.flip(np.asarray(v), places(axes[name], along(program))) for name, v in inputs.items()}
    found = interpret(program, turned, functions)
    return {name: np.flip(v, places(axes[name], along(program))) for name, v in found.items()}


def documents_of(lengths: Iterable[int]) -> dict[str, np.ndarray]:
    """`t.doc`, `t.start` and `t.end` of documents of these lengths, one after the other."""
    lengths = np.asarray(list(lengths), np.int64)
    end = np.cumsum(lengths)
    return {"doc": np.repeat(np.arange(len(lengths)), lengths), "start": end - lengths, "end": end}


def run_packed(program: Program, packed: Program, inputs: Arrays, batch: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Cut, run each document, put together. ``packed`` only says how state and results are laid out; where
    documents differ along ``batch`` axes every row is cut as its own documents say, and keeps its own results."""
    (time,) = program.sequence_axes
    before, after = program.tensors(), packed.tensors()
    start, end = (np.asarray(inputs[f"{time}.{side}"]) for side in ("start", "end"))
    sizes = {a: n for t in packed.inputs for a, n in zip(t.axes, np.shape(inputs[t.name]), strict=True)}
    found: dict[str, np.ndarray] = {}
    for *row, document in np.ndindex(*start.shape):
        rows = dict(zip(batch, row, strict=True))
        cut = dict.fromkeys(along(program), slice(start[(*row, document)], end[(*row, document)]))
        place = {**cut, f"{time}.docs": document}

        def given(name: str, rows: Any = rows, place: Any = place) -> np.ndarray:
            own = {axis: i for axis, i in rows.items() if axis not in before[name].axes} | place
            return np.asarray(inputs[name])[tuple(own.get(axis, slice(None)) for axis in after[name].axes)]

        for name, array in interpret(program, {t.name: given(t.name) for t in program.inputs}).items():
            own = before[name].axes
            sizes |= {axis: n for axis, n in zip(own, array.shape, strict=True) if axis not in sizes}
            shape = tuple(sizes[axis] for axis in after[name].axes)
            target = found.setdefault(name, np.zeros(shape, array.dtype))
            whole = tuple({**place, **rows}.get(axis, slice(None)) for axis in after[name].axes)
            target[whole] = array[tuple(rows.get(axis, slice(None)) for axis in own)]
    return found


def same(found: Arrays, expected: Arrays, tolerance: float = 1e-10) -> None:
    """Equal names, shapes and, nearly, values."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].shape == array.shape, (name, found[name].shape, array.shape)
        np.testing.assert_allclose(found[name], array, tolerance, tolerance, err_msg=name)


def check_gradient(program: Program, inputs: Arrays, rng: np.random.Generator, tolerance: float = 1e-6) -> None:
    """The slope of a weighted sum of all outputs in a random direction: derived, and by central differences."""
    names, (real, outputs) = adjoint_names(program), differentiable(program)

    def like(array: np.ndarray) -> np.ndarray:
        drawn = rng.normal(size=(2, *array.shape))
        return drawn[0] + 1j * drawn[1] if np.iscomplexobj(array) else drawn[0]

    def value(moved: Arrays) -> float:
        found = interpret(program, {**inputs, **moved})
        return sum(float((np.conj(weights[name]) * found[name]).real.sum()) for name in outputs)

    weights = {name: like(array) for name, array in interpret(program, inputs).items() if name in outputs}
    way = {name: like(np.asarray(inputs[name])) for name in real}
    step = 1e-6
    ahead, behind = ({n: np.asarray(inputs[n]) + e * way[n] for n in real} for e in (step, -step))
    expected = (value(ahead) - value(behind)) / (2 * step)
    given = {**inputs, **{names[name]: weight for name, weight in weights.items()}}
    slopes = interpret(grad(program), given)
    found = sum(float((np.conj(slopes[names[name]]) * way[name]).real.sum()) for name in real)
    np.testing.assert_allclose(found, expected, tolerance, tolerance)
