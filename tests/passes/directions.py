"""Derivatives in a direction, three ways: forward, backward, and by differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ssmc.ir import COMPLEX, INT, REAL, Program, complete_extents
from ssmc.ir.interpret import interpret
from ssmc.passes import differentiable, grad, jvp

Array = np.ndarray
Values = dict[str, Array]
Functions = Mapping[str, Callable[..., Any]]
STEP = 1e-6


def random_like(program: Program, names: Sequence[str], values: Mapping[str, Array], seed: int) -> Values:
    """A random value for each name, of the shape and type of what it is a direction for."""
    rng = np.random.default_rng(seed)
    tensors = program.tensors()
    found = {}
    for name in names:
        shape = np.shape(values[name])
        found[name] = rng.normal(size=shape)
        if tensors[name].dtype is COMPLEX:
            found[name] = found[name] + 1j * rng.normal(size=shape)
    return found


def library_inputs(program: Program, sizes: Mapping[str, int], seed: int = 0) -> Values:
    """Reals of moderate size, small codes."""
    rng = np.random.default_rng(seed)
    extents = complete_extents(program, sizes)
    found: Values = {}
    for tensor in program.inputs:
        shape = tuple(extents[axis] for axis in tensor.axes)
        reals = rng.uniform(-1, 1, size=(2, *shape))
        if tensor.dtype is REAL:
            found[tensor.name] = reals[0]
        elif tensor.dtype is COMPLEX:
            found[tensor.name] = reals[0] + 1j * reals[1]
        elif tensor.dtype is INT:
            found[tensor.name] = rng.integers(0, 3, size=shape)
        else:
            found[tensor.name] = rng.uniform(size=shape) < 0.7
    return found


def forward(program: Program, inputs: Values, direction: Values, functions: Functions | None = None) -> Values:
    """How fast each output moves, by ``jvp``."""
    derived = jvp(program, wrt=tuple(direction))
    given = dict(zip((t.name for t in derived.inputs[len(program.inputs) :]), direction.values(), strict=True))
    found = interpret(derived, {**inputs, **given}, functions)
    return dict(zip(differentiable(program)[1], (found[name] for name in derived.outputs), strict=True))


def backward(program: Program, inputs: Values, adjoints: Values, functions: Functions | None = None) -> Values:
    """What each input receives, by ``grad``."""
    derived = grad(program, of=tuple(adjoints))
    given = dict(zip((t.name for t in derived.inputs[len(program.inputs) :]), adjoints.values(), strict=True))
    found = interpret(derived, {**inputs, **given}, functions)
    return dict(zip(differentiable(program)[0], (found[name] for name in derived.outputs), strict=True))


def differences(program: Program, inputs: Values, direction: Values, functions: Functions | None = None) -> Values:
    """How fast each output moves, by central differences."""
    ends = []
    for sign in (1, -1):
        moved = {name: inputs[name] + sign * STEP * direction[name] for name in direction}
        ends.append(interpret(program, {**inputs, **moved}, functions))
    return {name: (ends[0][name] - ends[1][name]) / (2 * STEP) for name in differentiable(program)[1]}


def inner(one: Values, other: Values) -> float:
    """The inner product of real vectors; a complex number counts as two."""
    return float(sum(np.sum(np.conj(one[name]) * other[name]).real for name in one))


def assert_transposed(program: Program, inputs: Values, functions: Functions | None = None, seed: int = 1) -> None:
    """<w, jvp(v)> = <grad(w), v>, to rounding."""
    able, outputs = differentiable(program)
    values = interpret(program, inputs, functions)
    v = random_like(program, able, inputs, seed)
    w = random_like(program, outputs, values, seed + 1)
    moved, received = forward(program, inputs, v, functions), backward(program, inputs, w, functions)
    scale = max(1.0, sum(float(np.sum(np.abs(w[n]) * np.abs(moved[n]))) for n in outputs))
    assert abs(inner(w, moved) - inner(received, v)) <= 1e-10 * scale


def assert_slopes(
    program: Program, inputs: Values, functions: Functions | None = None, tolerance: float = 1e-6
) -> None:
    """Forward derivatives are what differences say."""
    v = random_like(program, differentiable(program)[0], inputs, 5)
    found, expected = forward(program, inputs, v, functions), differences(program, inputs, v, functions)
    for name, array in expected.items():
        scale = max(1.0, float(np.abs(array).max(initial=0)))
        np.testing.assert_allclose(found[name], array, 0, tolerance * scale, err_msg=name)
