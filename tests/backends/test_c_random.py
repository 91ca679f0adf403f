"""Random Programs: compiled and interpreted values agree, or the target says why it cannot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from ssmc.errors import Unsupported
from ssmc.ir import Program, print_program
from ssmc.ir.interpret import interpret
from tests.compiled import CompiledProgram
from tests.strategies import Features, extents, inputs_for, programs

LOWERED = Features(unbounded=False, equal_codes=False, transforms=False)


def agree(program: Program, data: st.DataObject) -> None:
    sizes = data.draw(extents(program))
    inputs = inputs_for(program, sizes, np.random.default_rng(0))
    try:
        compiled = CompiledProgram(program, sizes)
    except Unsupported as reason:
        assert "equation" in str(reason)
        return
    found = compiled(inputs)
    for name, want in interpret(program, inputs).items():
        slack = 1e-8 * (1 + np.abs(want).max(initial=0))
        np.testing.assert_allclose(found[name] * 1.0, want, 1e-7, slack, err_msg=print_program(program))


@pytest.mark.parametrize("start", range(4))
def test_random_programs(start: int) -> None:
    _examples(30, start)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(10, 20))
def test_many_random_programs(start: int) -> None:
    _examples(150, start)


def _examples(count: int, start: int) -> None:
    phases = (Phase.generate, Phase.shrink)
    quiet = settings(
        max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), phases=phases, database=None
    )
    seed(start)(quiet(given(programs(LOWERED), st.data())(agree)))()
