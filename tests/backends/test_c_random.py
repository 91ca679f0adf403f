"""Random Programs: compiled and interpreted values agree, or the target says why it cannot."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from ssmc.errors import Unsupported
from ssmc.ir import Program, complete_extents, print_program
from ssmc.ir.interpret import interpret
from tests.compiled import CompiledProgram
from tests.strategies import Features, extents, inputs_for, programs

LOWERED = Features(unbounded=False, equal_codes=False, transforms=False)


def agree(program: Program, data: st.DataObject) -> None:
    _compare(program, data.draw(extents(program)), "f64", 1e-8)


def agree_on_vectors(program: Program, data: st.DataObject) -> None:
    """In single precision, where loops over lanes are written on whole vectors and what is left of one."""
    sizes = data.draw(extents(program))
    wide = data.draw(st.sampled_from([1, 15, 16, 35]))
    known = {a.name: sizes[a.name] if a.sequence else wide for a in program.axes if a.extent is None}
    _compare(program, complete_extents(program, known), "f32", 2e-4)


def _compare(program: Program, sizes: dict[str, int], real: str, tolerance: float) -> None:
    inputs = inputs_for(program, sizes, np.random.default_rng(0))
    try:
        compiled = CompiledProgram(program, sizes, real)
    except Unsupported as reason:
        assert "equation" in str(reason)
        return
    found = compiled(inputs)
    for name, want in interpret(program, inputs).items():
        slack = tolerance * (1 + np.abs(want).max(initial=0))
        np.testing.assert_allclose(found[name] * 1.0, want, 10 * tolerance, slack, err_msg=print_program(program))


@pytest.mark.parametrize("start", range(4))
def test_random_programs(start: int) -> None:
    _examples(agree, 30, start)


@pytest.mark.parametrize("start", range(20, 22))
def test_random_programs_on_vectors(start: int) -> None:
    _examples(agree_on_vectors, 20, start)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(10, 20))
def test_many_random_programs(start: int) -> None:
    _examples(agree, 150, start)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(30, 40))
def test_many_random_programs_on_vectors(start: int) -> None:
    _examples(agree_on_vectors, 100, start)


def _examples(test: Callable[[Program, st.DataObject], None], count: int, start: int) -> None:
    phases = (Phase.generate, Phase.shrink)
    quiet = settings(
        max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), phases=phases, database=None
    )
    seed(start)(quiet(given(programs(LOWERED), st.data())(test)))()
