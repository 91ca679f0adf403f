"""Gradients of random Programs: against differences, against the tangent, twice, and as text."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, note, seed, settings
from hypothesis import strategies as st

from ssmc.dsl import read_program
from ssmc.ir import Program, print_program, verify
from ssmc.ir.interpret import interpret
from ssmc.passes import differentiable, grad, step
from ssmc.verify.gradients import check_gradient
from tests.passes.directions import Values, assert_transposed, random_like
from tests.strategies import CAUSAL, DIFFERENTIATED, Features, extents, inputs_for, programs

LENGTHS = (1, 2, 3, 5, 7, 1, 2, 3, 5, 7, 63, 64, 65)
SHORT = (1, 2, 3, 5)
Test = Callable[[Program, st.DataObject], None]


def sampled(count: int, start: int, test: Test, features: Features = DIFFERENTIATED) -> None:
    quiet = settings(
        max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None,
        phases=(Phase.generate, Phase.shrink),
    )  # fmt: skip
    seed(start)(quiet(given(programs(features), st.data())(test)))()


def drawn(program: Program, data: st.DataObject, lengths: tuple[int, ...]) -> Values:
    note(print_program(program))
    assume(differentiable(program)[1])
    return inputs_for(program, data.draw(extents(program, lengths)), np.random.default_rng(0))


def assert_gradient(program: Program, derived: Program, inputs: Values) -> None:
    note(print_program(derived))
    for finding in check_gradient("gradient", program, derived, inputs):
        assert finding.error <= finding.tolerance + 1e-9, finding


def against_differences(program: Program, data: st.DataObject) -> None:
    inputs = drawn(program, data, LENGTHS)
    derived = grad(program)
    verify(derived)
    assert_gradient(program, derived, inputs)
    assert_transposed(program, inputs)


def twice(program: Program, data: st.DataObject) -> None:
    inputs = drawn(program, data, SHORT)
    derived = grad(program)
    received = random_like(program, differentiable(program)[1], interpret(program, inputs), 4)
    seeds = (t.name for t in derived.inputs[len(program.inputs) :])
    inputs = {**inputs, **dict(zip(seeds, received.values(), strict=True))}
    again = grad(derived)
    verify(again)
    assert_gradient(derived, again, inputs)


def as_text(program: Program, data: st.DataObject) -> None:
    note(print_program(program))
    assume(differentiable(program)[1])
    derived = grad(program)
    assert read_program(print_program(derived)) == derived


def of_steps(program: Program, data: st.DataObject) -> None:
    """Through the state that comes in and goes out."""
    stepped = step(program, takes=True, gives=True)
    inputs = drawn(stepped, data, SHORT)
    assert_gradient(stepped, grad(stepped), inputs)


def test_differences() -> None:
    sampled(40, 0, against_differences)


def test_second_gradients() -> None:
    sampled(12, 0, twice)


def test_text() -> None:
    sampled(30, 0, as_text)


def test_steps() -> None:
    sampled(10, 0, of_steps, CAUSAL)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1, 9))
def test_many_differences(start: int) -> None:
    sampled(100, start, against_differences)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1, 5))
def test_many_second_gradients(start: int) -> None:
    sampled(50, start, twice)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1, 3))
def test_many_texts(start: int) -> None:
    sampled(200, start, as_text)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1, 3))
def test_many_steps(start: int) -> None:
    sampled(60, start, of_steps, CAUSAL)
