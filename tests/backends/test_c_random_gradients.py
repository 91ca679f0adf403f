"""Gradients of random Programs: compiled and interpreted values agree, or the target says why it cannot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, note, seed, settings
from hypothesis import strategies as st

from ssmc.errors import Unsupported
from ssmc.ir import Program, print_program
from ssmc.passes import differentiable, grad
from ssmc.verify.cases import SAFETY, UNIT, difference, largest
from ssmc.verify.evaluate import disturbed
from tests.backends.test_c_gradients import Both
from tests.passes.test_grad import ALL_RULES, of_rule
from tests.strategies import DIFFERENTIATED, extents, inputs_for, programs

pytestmark = pytest.mark.usefixtures("threads_at_once")
LOWERED = replace(
    DIFFERENTIATED, unbounded=False, bands=False, equal_codes=False, transforms=False, sorting=False
)  # fmt: skip
LENGTHS = (1, 2, 3, 7, 31, 32, 33, 65)


def agree(program: Program, sizes: dict[str, int], real: str) -> None:
    """Values and gradients are off by no more than what rounding every operation makes of them, and by not one bit
    between numbers of threads."""
    gradient = grad(program)
    inputs = inputs_for(gradient, sizes, np.random.default_rng(0))
    expected, choices = disturbed(gradient, inputs, 0)
    rounded, others = disturbed(gradient, inputs, SAFETY * UNIT["f32"])
    if not all(np.array_equal(a, b) for a, b in zip(choices, others, strict=True)):
        return  # a choice that rounding turns around
    try:
        both = Both(program, sizes, real)
    except Unsupported as reason:
        assert "equation" in str(reason)
        return
    values, gradients = both(inputs)
    expected |= disturbed(program, {t.name: inputs[t.name] for t in program.inputs}, 0)[0]
    for name, want in expected.items():
        if name in gradient.outputs or name in program.outputs:
            got = gradients.get(name, values.get(name))
            assert got is not None
            spread = largest(difference(rounded.get(name, want), want))
            allowed = 4 * spread * UNIT[real] / UNIT["f32"] + 64 * UNIT[real] * (1 + largest(want))
            assert largest(difference(got * 1.0, want)) <= allowed, name
    for threads in (2, 3):
        for one, other in zip((values, gradients), both(inputs, threads=threads), strict=True):
            assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def sampled(count: int, start: int, real: str) -> None:
    def test(program: Program, data: st.DataObject) -> None:
        note(print_program(program))
        assume(differentiable(program)[1])
        note(print_program(grad(program)))
        agree(program, data.draw(extents(program, LENGTHS)), real)

    quiet = settings(
        max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None,
        phases=(Phase.generate, Phase.shrink),
    )  # fmt: skip
    seed(start)(quiet(given(programs(LOWERED), st.data())(test)))()


@pytest.mark.parametrize("real", ["f64", "f32"])
def test_random_programs(real: str) -> None:
    sampled(10, 0, real)


@pytest.mark.slow
@pytest.mark.parametrize("real", ["f64", "f32"])
@pytest.mark.parametrize("start", range(1, 5))
def test_many_random_programs(start: int, real: str) -> None:
    sampled(60, start, real)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_RULES)
@pytest.mark.parametrize("length", [4, 35])
def test_rules(name: str, length: int) -> None:
    """Every rule of differentiation, across a chunk of what is rebuilt too."""
    agree(of_rule(name), {"b": 2, "t": length, "d": length, "u": length, "s0": length, "r": 3}, "f64")
