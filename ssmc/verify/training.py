"""The properties of derivatives of machine code: what autograd gives, beside the derived Programs in the interpreter.

These Programs are compared with differences of the values elsewhere (``gradients``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from ssmc import passes
from ssmc.ir import COMPLEX, REAL, Program

from .cases import Case, Variant
from .differences import directions
from .evaluate import Arrays
from .inputs import rounded
from .layouts import LAYOUTS
from .machine import EXTREMES, busy_arguments, extreme, large_case, repeated
from .properties import Bench
from .rows import EXACT, ROUNDOFF, Finding, Property
from .sizes import look_back_of
from .subjects import array_of, gradients


def gradient_case(bench: Bench, case: Case, seed: int = 0) -> Case:
    """The gradient of a case as a case of its own: the derived Program, with adjoints that the storage holds."""
    program = case.program
    derived: Program = bench.derive(("grad", id(program)), lambda: passes.grad(program))
    names, (_, sources) = passes.adjoint_names(program), passes.differentiable(program)
    draw = np.random.default_rng(seed)
    adjoints = {names[n]: rounded(v, bench.kept) for n, v in directions(draw, case.outputs, sources).items()}
    return Case(case.label, case.variant.over(derived), case.sizes, {**case.inputs, **adjoints})


def backward(bench: Bench, case: Case, derived: Case, change: Any = None) -> Arrays:
    """The gradients of the inputs by autograd, under their names in the derived Program; ``change`` puts arguments
    and adjoints elsewhere in memory."""
    moved: Callable[[torch.Tensor], torch.Tensor] = change or (lambda value: value)
    arguments = {name: moved(value) for name, value in bench.subject.tensors(case.inputs).items()}
    return {name: array_of(value) for name, value in _backward(bench, case, derived, arguments, moved).items()}


def _backward(
    bench: Bench,
    case: Case,
    derived: Case,
    arguments: Mapping[str, torch.Tensor],
    moved: Callable[[torch.Tensor], torch.Tensor],
) -> dict[str, torch.Tensor]:
    names, (sought, sources) = passes.adjoint_names(case.program), passes.differentiable(case.program)
    leaves = {n: v.detach().requires_grad_(n in sought) for n, v in arguments.items()}
    with torch.enable_grad():
        made = bench.subject.raw(case.variant, leaves)
    adjoints = [moved(bench.subject.tensor(derived.inputs[names[n]]).to(made[n].dtype)) for n in sources]
    found = gradients([made[n] for n in sources], [leaves[n] for n in sought], adjoints)
    return {names[n]: value for n, value in zip(sought, found, strict=True)}


def check_gradient(bench: Bench, case: Case, derived: Case, found: Arrays, label: str = "") -> Iterator[Finding]:
    yield from bench.check(derived, found, derived.outputs, ", ".join(filter(None, (case.variant.label, label))))


# ---------------------------------------------------------------- values


def _cases(bench: Bench, variant: Variant) -> Iterator[Case]:
    """At length 1, at the look-back, across a chunk of the backward, and wider than vectors."""
    times = variant.program.sequence_axes
    window = min(look_back_of(variant.program, variant.sizes({}) or {}), 40)
    for n, length in enumerate(sorted({1, window, 65}) if times else [7]):
        case = bench.case(variant, n, **dict.fromkeys(times, length))
        if case is not None:
            yield case
    yield large_case(bench, variant)


def _gradient(bench: Bench, variant: Variant) -> Iterator[Finding]:
    for case in _cases(bench, variant):
        derived = gradient_case(bench, case)
        yield from check_gradient(bench, case, derived, backward(bench, case, derived))


def _small_gradient(bench: Bench, variant: Variant) -> Iterator[Finding]:
    case = bench.case(variant)
    if case is not None:
        derived = gradient_case(bench, case)
        yield from check_gradient(bench, case, derived, backward(bench, case, derived))


def _second(bench: Bench, variant: Variant) -> Iterator[Finding]:
    """The backward of the backward."""
    case = bench.case(variant, 0, **dict.fromkeys(variant.program.sequence_axes, 9))
    if case is None:
        return
    first = gradient_case(bench, case)
    second = gradient_case(bench, first, 1)
    names, (sought, sources) = passes.adjoint_names(case.program), passes.differentiable(case.program)
    again, (wanted, _) = passes.adjoint_names(first.program), passes.differentiable(first.program)
    leaves = {n: v.detach().requires_grad_(n in sought) for n, v in bench.subject.tensors(case.inputs).items()}
    with torch.enable_grad():
        made = bench.subject.raw(variant, leaves)
        seeds = {
            names[n]: bench.subject.tensor(first.inputs[names[n]]).to(made[n].dtype).requires_grad_() for n in sources
        }
        inputs = [leaves[n] for n in sought]
        slopes = gradients([made[n] for n in sources], inputs, list(seeds.values()), create_graph=True)
        everything = {**leaves, **seeds}
        adjoints = [bench.subject.tensor(second.inputs[again[names[n]]]).to(leaves[n].dtype) for n in sought]
        found = gradients(slopes, [everything[n] for n in wanted], adjoints)
    arrays = {again[n]: array_of(v) for n, v in zip(wanted, found, strict=True)}
    yield from check_gradient(bench, case, second, arrays)


def _tangent(bench: Bench, variant: Variant) -> Iterator[Finding]:
    program = variant.program
    names, (sought, sources) = passes.tangent_names(program), passes.differentiable(program)
    derived: Program = bench.derive(("jvp", id(program)), lambda: passes.jvp(program))
    for case in _cases(bench, variant):
        along = directions(np.random.default_rng(2), case.inputs, sought)
        dotted = {names[n]: rounded(v, bench.kept) for n, v in along.items()}
        forward = Case(case.label, variant.over(derived), case.sizes, {**case.inputs, **dotted})
        arguments = bench.subject.tensors(case.inputs)
        moves = bench.subject.tensors(dotted)
        found = bench.subject.jvp(variant, arguments, {n: moves[names[n]] for n in sought})
        yield from check_gradient(bench, case, forward, {names[n]: array_of(found[n]) for n in sources})


# ---------------------------------------------------------------- bits, memory, extremes


def _bits(bench: Bench, variant: Variant) -> Iterator[Finding]:
    sought, sources = passes.differentiable(variant.program)
    arguments = busy_arguments(bench, variant)
    adjoints = [
        torch.full_like(value, 0.5) for name, value in bench.subject.raw(variant, arguments).items() if name in sources
    ]

    def run() -> dict[str, torch.Tensor]:
        leaves = {n: v.detach().requires_grad_(n in sought) for n, v in arguments.items()}
        with torch.enable_grad():
            made = bench.subject.raw(variant, leaves)
        return dict(
            zip(sought, gradients([made[n] for n in sources], [leaves[n] for n in sought], adjoints), strict=True)
        )

    yield from repeated(bench, run)


def _layouts(bench: Bench, variant: Variant) -> Iterator[Finding]:
    case = bench.case(variant, 0, **dict.fromkeys(variant.program.sequence_axes, 5))
    if case is None:
        return
    derived = gradient_case(bench, case)
    for label, layout in LAYOUTS.items():
        yield from check_gradient(bench, case, derived, backward(bench, case, derived, layout), label)
    names, (_, sources) = passes.adjoint_names(case.program), passes.differentiable(case.program)
    ones = {names[n]: np.ones_like(case.outputs[n]) for n in sources}
    summed = Case(case.label, derived.variant, case.sizes, {**derived.inputs, **ones})

    def expanded(value: torch.Tensor) -> torch.Tensor:
        return value[(slice(0, 1),) * value.dim()].expand(value.shape) if bool((value == 1).all()) else value

    yield from check_gradient(bench, case, summed, backward(bench, case, summed, expanded), "adjoints of stride 0")


def _extremes(bench: Bench, variant: Variant) -> Iterator[Finding]:
    case = bench.case(variant, 0, **dict.fromkeys(variant.program.sequence_axes, 9))
    if case is None:
        return
    names = [t.name for t in variant.program.inputs if t.dtype in (REAL, COMPLEX)]
    for name in names:
        for value in EXTREMES:
            inputs = {n: np.full_like(v, value) if n == name else v for n, v in case.inputs.items()}
            there = Case(f"{name} = {value:g}", variant, case.sizes, inputs)
            derived = gradient_case(bench, there)
            yield from extreme(bench, derived, partial(backward, bench, there))


GRADIENT = Property("gradient", "autograd = the derived gradient, interpreted", ROUNDOFF, _gradient)
OTHERS = Property(
    "gradient, others", "other inputs, signatures, static parameters", ROUNDOFF, _small_gradient, others=True, once=True
)
SECOND = Property("second gradient", "the backward of the backward", ROUNDOFF, _second, once=True, least=True)
TANGENT = Property("tangent", "torch.func.jvp = the derived tangent, interpreted", ROUNDOFF, _tangent, once=True)
BITS = Property("gradient, same bits", "run twice, with 1, 2 and 3 threads", EXACT, _bits)
MEMORY = Property("gradient, memory", "permuted, spaced, unaligned; adjoints of stride 0", ROUNDOFF, _layouts)
EXTREME = Property("gradient, extreme", "each input 0, -40, 40, -1000, 1000", ROUNDOFF, _extremes)
