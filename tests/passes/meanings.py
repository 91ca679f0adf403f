"""What `reverse`, `pack` and `mask` mean, by NumPy around the interpreter: turn, cut, run, put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ssmc.ir import Program, Size
from ssmc.ir.interpret import interpret

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


def same(found: Arrays, expected: Arrays, tolerance: float = 1e-10) -> None:
    """Equal names, shapes and, nearly, values."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].shape == array.shape, (name, found[name].shape, array.shape)
        np.testing.assert_allclose(found[name], array, tolerance, tolerance, err_msg=name)
