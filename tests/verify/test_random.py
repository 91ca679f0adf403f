"""Random layers hold what the table asks of them; one that does not is shrunk and printed as ``.ssm``."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ssmc
from ssmc.ir import print_program
from ssmc.verify import verify
from tests.expressions import Features
from tests.strategies import CAUSAL, DIFFERENTIATED, EVERYTHING, programs

QUICK = settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def layers(features: Features) -> st.SearchStrategy[str]:
    return programs(features).map(print_program)


def look(text: str, targets: list[str]) -> None:
    found = verify(ssmc.compile(text), targets, ["f32"])
    assert found.ok, f"{text}\n{found}"


@QUICK
@given(layers(CAUSAL))
def test_equations(text: str) -> None:
    look(text, [])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@LONG
@given(st.one_of(layers(CAUSAL), layers(DIFFERENTIATED), layers(EVERYTHING)))
def test_more_equations(text: str) -> None:
    look(text, [])


def test_machine_code_of_a_constant() -> None:
    """Nothing that the output depends on can be differentiated: autograd then refuses, and gradients are zero."""
    look("layer constant(x[t, d], w[d]) -> y[t]:\n    seq t\n    y[t] = 0.5\n", ["c"])


def test_machine_code_of_a_layer_with_a_mask_of_its_own() -> None:
    """There `mask` is an input, so that no call can say what is padded."""
    look("layer masked(x[t, d], mask[t]: bool) -> y[t, d]:\n    seq t\n    y = where(mask, x + y[t-1], 0)\n", ["c"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(layers(CAUSAL))
def test_machine_code(text: str) -> None:
    look(text, ["c"])
