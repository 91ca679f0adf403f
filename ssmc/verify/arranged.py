"""The gradients of calls that continue a state, run backwards, or know of documents and padding: what autograd gives,
beside the gradients of the derived Programs in the interpreter.

These Programs are compared with what they mean elsewhere (``carried``, ``sequences``). The outputs of the call, which
keeps what its gradient needs, are looked at too. They are all asked of one specialisation with few inputs: there is a
lot to compile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ssmc import passes
from ssmc.errors import Unsupported
from ssmc.ir import Program

from .carried import Carried, carried, masked_inputs, packed_inputs
from .cases import Case, Variant
from .evaluate import Arrays
from .forms import batch_axis
from .inputs import rounded
from .properties import Bench
from .rows import ROUNDOFF, Finding, Property
from .subjects import STATES, Derived, time_axis
from .training import check_gradient, gradient_case

Given = Callable[[Carried, Program], Arrays]


def _continued(bench: Bench, variant: Variant) -> Program:
    """The layer with state in and out, or as it is where it has no state to take."""
    try:
        return Derived(bench.made).step(variant, True)
    except Unsupported:
        return variant.program


def _check(
    bench: Bench, variant: Variant, program: Program, given: Given, label: str, backwards: bool = False
) -> Iterator[Finding]:
    """The outputs and the gradients of the call that asks for ``program``."""
    for one in carried(bench, variant):
        made = given(one, program)
        held = {t.name: _held(t.name, made[t.name]) for t in program.inputs}
        case = Case(label, variant.over(program), one.case.sizes, held)
        derived = gradient_case(bench, case)
        names = passes.adjoint_names(program)
        adjoints = {n: derived.inputs[adjoint] for n, adjoint in names.items() if adjoint in derived.inputs}
        outputs, slopes = bench.subject.trained(variant, case, adjoints, backwards)
        yield from bench.check(case, outputs)
        yield from check_gradient(bench, case, derived, {names[n]: value for n, value in slopes.items()})


def _held(name: str, value: np.ndarray) -> np.ndarray:
    """A state as calls keep it."""
    return rounded(value, "f32") if name.endswith(STATES) else value


def _of_steps(bench: Bench, variant: Variant) -> Iterator[Finding]:
    time = time_axis(variant.program)
    program = Derived(bench.made).step(variant, True)
    for last in (1, 9):

        def given(one: Carried, program: Program, last: int = last) -> Arrays:
            length = one.case.sizes[time]
            begun = max(length - last, 0)
            return {**one.stretch(begun, length), **one.state_after(one.stretch(0, begun), begun)}

        yield from _check(bench, variant, program, given, f"{last} after a state")


def _packed(bench: Bench, variant: Variant) -> Iterator[Finding]:
    step = _continued(bench, variant)
    program = bench.derive(("pack step", id(variant)), lambda: passes.pack(step))
    yield from _check(bench, variant, program, packed_inputs, "documents that began before")


def _padded(bench: Bench, variant: Variant) -> Iterator[Finding]:
    """With the states on the way, from which gradients come too."""
    time = time_axis(variant.program)
    batch = batch_axis(variant.program, time)
    rows = (batch,) if batch else ()
    step = _continued(bench, variant)
    program = bench.derive(("mask step", id(variant)), lambda: passes.mask(step, rows))
    if step is not variant.program:
        masked = program
        program = bench.derive(("states_at mask step", id(variant)), lambda: passes.states_at(masked))

    def given(one: Carried, program: Program) -> Arrays:
        found = masked_inputs(one, program, "padded in the middle", batch)
        return {**found, f"{time}.at": np.array([0, 3, found[f"{time}.valid"].shape[-1]])}

    yield from _check(bench, variant, program, given, "padded in the middle")


def _backwards(bench: Bench, variant: Variant) -> Iterator[Finding]:
    time = time_axis(variant.program)
    program = bench.derive(("reverse", id(variant)), lambda: passes.reverse(variant.program))
    yield from _check(bench, variant, program, lambda one, program: one.case.inputs, f"backwards along {time}", True)


OF_STEPS = Property("gradient of steps", "through the state in and out", ROUNDOFF, _of_steps, once=True, least=True)
OF_PACKED = Property(
    "gradient, packed", "through states of documents, in and out", ROUNDOFF, _packed, once=True, least=True
)
OF_PADDED = Property("gradient, padded", "through states on the way, too", ROUNDOFF, _padded, once=True, least=True)
OF_BACKWARDS = Property("gradient, backwards", "turn, run, turn", ROUNDOFF, _backwards, once=True, least=True)
