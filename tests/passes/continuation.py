"""Run a Program piece by piece, with the state handed on from each piece to the next."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ssmc.ir import Program, verify
from ssmc.ir.interpret import interpret
from ssmc.passes.step import step


def run_pieces(program: Program, inputs: Mapping[str, Any], cuts: Iterable[int]) -> dict[str, np.ndarray]:
    """The outputs of ``program``, computed on the pieces between ``cuts`` and joined."""
    (time,) = program.sequence_axes
    first, later = _steps(program)
    axes = {tensor.name: tensor.axes for tensor in program.inputs}
    length = next(np.shape(inputs[n])[a.index(time)] for n, a in axes.items() if time in a)
    ends = [0, *cuts, length]
    state: dict[str, Any] = {}
    pieces: list[dict[str, np.ndarray]] = []
    for start, end in zip(ends, ends[1:], strict=False):
        piece = first if not pieces else later
        here = {name: _part(np.asarray(v), axes[name], time, start, end) for name, v in inputs.items()}
        given = {tensor.name: {**here, **state}[tensor.name] for tensor in piece.inputs}
        found = interpret(piece, given)
        state = {_taken(name): array for name, array in found.items() if name not in program.outputs}
        pieces.append(found)
    joined = {}
    for name in program.outputs:
        axes_of = program.equation(name).axes
        parts = [found[name] for found in pieces]
        joined[name] = np.concatenate(parts, axes_of.index(time)) if time in axes_of else parts[-1]
    return joined


@functools.lru_cache(maxsize=4)
def _steps(program: Program) -> tuple[Program, Program]:
    """The step forms for the first piece and for all others."""
    first, later = step(program, takes=False, gives=True), step(program, takes=True, gives=True)
    verify(first)
    verify(later)
    return first, later


def _taken(name: str) -> str:
    return name[: -len(".next")] + ".state" if name.endswith(".next") else name.replace(".next_offset", ".offset")


def _part(array: np.ndarray, axes: tuple[str, ...], time: str, start: int, end: int) -> np.ndarray:
    return np.take(array, range(start, end), axes.index(time)) if time in axes else array


def check_continuation(program: Program, inputs: Mapping[str, Any], tolerance: float = 1e-12) -> None:
    """Split in two at every boundary, into single steps, and into pieces of two: always the whole."""
    whole = interpret(program, inputs)
    (time,) = program.sequence_axes
    axes = {tensor.name: tensor.axes for tensor in program.inputs}
    length = next(np.shape(inputs[n])[a.index(time)] for n, a in axes.items() if time in a)
    splits = [[cut] for cut in range(length + 1)] + [list(range(1, length)), list(range(2, length, 2))]
    for cuts in splits:
        found = run_pieces(program, inputs, cuts)
        for name, expected in whole.items():
            np.testing.assert_allclose(found[name], expected, tolerance, tolerance, err_msg=f"{name}, cut at {cuts}")
