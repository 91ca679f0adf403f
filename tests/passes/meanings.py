"""What `reverse`, `pack` and `mask` mean, by NumPy around the interpreter: turn, cut, run, put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ssmc.dsl import read_program
from ssmc.errors import Unsupported
from ssmc.ir import Program, Size, print_program, verify
from ssmc.ir.interpret import interpret
from ssmc.passes import adjoint_names, differentiable, grad, step
from tests.library_cases import LOWERED, Case

Arrays = Mapping[str, np.ndarray]

ATTENTION = {"b": 2, "h": 4, "g": 2, "e": 8, "f": 3, "d": 3, "l": 4, "m": 3, "n": 2, "k": 3, "r": 2, "c": 10}
ATTENTION |= {"i": 1, "j": 1}
LAYERS = (
    *LOWERED,
    Case("local_attention", "local_attention", ATTENTION, {"window": 3}, ("segment_pos",)),
    Case("local_attention", "local_attention", ATTENTION, {"window": 2}),
    Case("long_conv", "long_conv", ATTENTION),
    Case("long_conv", "long_conv", ATTENTION, {}, ("K_back",)),
    Case("mamba_inner", "mamba_inner", ATTENTION),
    Case("mamba2_inner", "mamba2_inner", {**ATTENTION, "d": 6, "h": 2}, {"states": 2}),
    Case("h3", "h3_truncated", ATTENTION, {"length": 3}),
)


def forms(program: Program) -> list[Program]:
    """The layer from its start, and for a piece of a sequence if it has such a form."""
    try:
        return [program, step(program, takes=True, gives=True)]
    except Unsupported:
        return [program]


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
    """Cut, run each document, put together. ``packed`` only says how state and results are laid out."""
    (time,) = program.sequence_axes
    start, end = (np.asarray(inputs[f"{time}.{side}"]) for side in ("start", "end"))
    pieces = [
        (dict(zip(batch, row, strict=True)), np.arange(start[(*row, document)], end[(*row, document)]), document)
        for *row, document in np.ndindex(*start.shape)
    ]
    return _in_pieces(program, packed, inputs, pieces)


def run_masked(
    program: Program, masked: Program, inputs: Arrays, batch: tuple[str, ...] = ("b",)
) -> dict[str, np.ndarray]:
    """Move valid tokens together, run, put them back; 0 elsewhere."""
    (time,) = program.sequence_axes
    valid = np.asarray(inputs[f"{time}.valid"])
    pieces = [
        (dict(zip(batch, row, strict=True)), np.flatnonzero(valid[row]), 0) for row in np.ndindex(valid.shape[:-1])
    ]
    return _in_pieces(program, masked, inputs, pieces)


def _in_pieces(program: Program, after: Program, inputs: Arrays, pieces: Any) -> dict[str, np.ndarray]:
    """Run on tokens ``places`` of each piece ``(row, places, document)``, where all rows are run and one is kept;
    what the row's equations do not vary along is taken, and put, at that row."""
    (time,) = program.sequence_axes
    own, laid = program.tensors(), after.tensors()
    sizes = {a: n for t in after.inputs for a, n in zip(t.axes, np.shape(inputs[t.name]), strict=True)}
    sizes |= dict.fromkeys(along(program), sizes[time])
    found: dict[str, np.ndarray] = {}

    def where(name: str, at: Any) -> Any:
        return np.ix_(*(np.atleast_1d(at.get(axis, np.arange(sizes[axis]))) for axis in laid[name].axes))

    for row, places, document in pieces:
        at = dict.fromkeys(along(program), places) | {f"{time}.docs": document}
        given = {}
        for tensor in program.inputs:
            lacking = {axis: i for axis, i in row.items() if axis not in tensor.axes}
            part = np.asarray(inputs[tensor.name])[where(tensor.name, at | lacking)]
            given[tensor.name] = part.reshape([len(places) if a in along(program) else sizes[a] for a in tensor.axes])
        for name, array in interpret(program, given).items():
            sizes |= {axis: n for axis, n in zip(own[name].axes, array.shape, strict=True) if axis not in sizes}
            target = found.setdefault(name, np.zeros([sizes[axis] for axis in laid[name].axes], array.dtype))
            kept = array[tuple(slice(row[a], row[a] + 1) if a in row else slice(None) for a in own[name].axes)]
            index = where(name, at | row)
            target[index] = kept.reshape(target[index].shape)
    return found


def check_form(program: Program) -> None:
    """It is well formed, and its text means it."""
    verify(program)
    text = print_program(program)
    assert print_program(read_program(text)) == text


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
