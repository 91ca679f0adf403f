"""PyTorch's own checks over every library layer that the C target lowers: gradcheck, gradgradcheck, opcheck.

What a layer states of its gradient (``backward:``) need not be the slope of its value. Such gradients are compared
with what is stated: with the transpose of the block, and for second ones with differences of the derived backward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import ssmc
from ssmc.ir import Program, complete_extents
from ssmc.passes import adjoint_names, differentiable, grad
from ssmc.runtime import Layer
from ssmc.verify.cases import Variant
from ssmc.verify.differences import Curve, directions, inner
from ssmc.verify.inputs import draw_inputs
from ssmc.verify.sizes import solve
from tests.library_cases import COMPILED, Case

LARGEST = 3  # extents, unless the layer requires more
MOVING = [case for case in COMPILED if differentiable(case.program())[1]]
STATED = [case for case in MOVING if case.name in ("yoso_expectation()", "yoso_attention(tau=3)")]
SLOPES = [case for case in MOVING if case not in STATED]
SOON = ("affine_scan_complex()", "causal_conv1d(activation=silu", "long_conv(no K_back", "yoso_expectation()")


def cases(chosen: Sequence[Case]) -> list[Any]:
    """Most compile many kernels."""
    return [pytest.param(c, marks=() if c.name.startswith(SOON) else pytest.mark.slow, id=c.name) for c in chosen]


def prepared(case: Case) -> tuple[Layer, Program, dict[str, np.ndarray]]:
    """The layer, its Program, and small inputs that keep its values finite and of moderate size."""
    program = case.program()
    sizes = solve(program, {axis: min(extent, LARGEST) for axis, extent in case.sizes.items()})
    op = ssmc.load(case.module, case.layer, **case.statics)  # type: ignore[arg-type]
    inputs = draw_inputs(program, sizes or complete_extents(program, case.sizes), 0, Variant("", program).kinds, "f64")
    return op, program, inputs


def leaves(inputs: Mapping[str, np.ndarray], moving: Sequence[str]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(v)).requires_grad_(name in moving) for name, v in inputs.items()}


def moved(op: Layer, program: Program, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs that have gradients."""
    found = op(**given)
    named = dict(zip(program.outputs, found if isinstance(found, tuple) else (found,), strict=True))
    return {name: named[name] for name in differentiable(program)[1]}


def of_leaves(case: Case) -> tuple[Callable[..., tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """The outputs that have gradients as a function of the inputs that have, and those."""
    op, program, inputs = prepared(case)
    moving = differentiable(program)[0]
    given = leaves(inputs, moving)

    def run(*values: Tensor) -> tuple[Tensor, ...]:
        return tuple(moved(op, program, {**given, **dict(zip(moving, values, strict=True))}).values())

    return run, tuple(given[name] for name in moving)


@pytest.mark.parametrize("case", cases(SLOPES))
def test_gradcheck(case: Case) -> None:
    """Backwards and forwards."""
    assert gradcheck(*of_leaves(case), check_forward_ad=True)


@pytest.mark.parametrize("case", cases(SLOPES))
def test_gradgradcheck(case: Case) -> None:
    torch.manual_seed(0)
    assert gradgradcheck(*of_leaves(case))


@pytest.mark.parametrize("case", cases(STATED))
def test_stated_gradients(case: Case) -> None:
    """Of the layer and of its gradient: along a direction what autograd gives is what the blocks state."""
    op, program, inputs = prepared(case)
    names, (moving, outputs) = adjoint_names(program), differentiable(program)
    given = leaves(inputs, moving)
    made = moved(op, program, given)
    draw = np.random.default_rng(0)
    adjoints = directions(draw, {n: v.detach().numpy() for n, v in made.items()}, outputs)
    seeds = {name: torch.from_numpy(value).requires_grad_() for name, value in adjoints.items()}
    wanted = [given[name] for name in moving]
    first = torch.autograd.grad([made[n] for n in outputs], wanted, list(seeds.values()), create_graph=True)
    assert_along(program, inputs, adjoints, dict(zip(moving, first, strict=True)), draw)

    derived = grad(program)
    received = directions(draw, {names[n]: v.detach().numpy() for n, v in zip(moving, first, strict=True)},
                          derived.outputs)  # fmt: skip
    together = {**given, **{names[name]: seed for name, seed in seeds.items()}}
    again = differentiable(derived)[0]
    weights = [torch.from_numpy(received[names[name]]) for name in moving]
    second = torch.autograd.grad(first, [together[name] for name in again], weights)
    everything = {**inputs, **{names[name]: value for name, value in adjoints.items()}}
    assert_along(derived, everything, received, dict(zip(again, second, strict=True)), draw)


def assert_along(
    program: Program, inputs: Mapping[str, np.ndarray], adjoints: Mapping[str, np.ndarray],
    gradients: Mapping[str, Tensor], draw: np.random.Generator,
) -> None:  # fmt: skip
    """The gradients on a direction = the adjoints on how the outputs move along it; blocks move as they state."""
    along = directions(draw, inputs, tuple(gradients))
    tangent = Curve(program, inputs).tangent(along)
    found = inner({name: value.detach().numpy() for name, value in gradients.items()}, along)
    assert found == pytest.approx(inner(adjoints, tangent.moves), rel=1e-6, abs=1e-8)
    assert abs(found) > 1e-6


@pytest.mark.parametrize("case", cases(COMPILED))
def test_opcheck(case: Case) -> None:
    """Schema, fake kernel, autograd registration, and graphs with dynamic shapes."""
    op, program, inputs = prepared(case)
    given = leaves(inputs, differentiable(program)[0])
    values = [given.get(item.name) for item in op.signature.inputs]
    statics = [case.statics.get(item.name, item.default) for item in op.signature.statics]
    torch.library.opcheck(op._overload, (*values, *statics, None, False))
