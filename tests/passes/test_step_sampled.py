"""Random causal Programs: in pieces as whole; and rewriting bands keeps the meaning."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st

from ssmc.analysis import look_back
from ssmc.errors import Unsupported
from ssmc.ir import Program, print_program, verify
from ssmc.ir.interpret import interpret
from ssmc.passes.banded import banded
from ssmc.passes.inline import inline
from ssmc.passes.step import step
from tests.passes.continuation import run_pieces
from tests.strategies import CAUSAL, extents, inputs_for, programs

SAMPLED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, 1e-11, 1e-11, err_msg=name)


@SAMPLED
@given(programs(CAUSAL), st.data())
def test_pieces(program: Program, data: st.DataObject) -> None:
    note(print_program(program))
    sizes = data.draw(extents(program, longest=9))
    inputs = inputs_for(program, sizes, np.random.default_rng(0))
    cuts = sorted(data.draw(st.lists(st.integers(0, sizes["t"]), max_size=4)))
    same(run_pieces(program, inputs, cuts), interpret(program, inputs))


@SAMPLED
@given(programs(), st.data())
def test_every_program_is_stepped_or_refused(program: Program, data: st.DataObject) -> None:
    """What is not refused is right."""
    try:
        step(program, takes=True, gives=True)
    except Unsupported:
        assume(False)
    note(print_program(program))
    sizes = data.draw(extents(program, longest=7))
    inputs = inputs_for(program, sizes, np.random.default_rng(0))
    same(run_pieces(program, inputs, [sizes["t"] // 2]), interpret(program, inputs))


@SAMPLED
@given(programs(), st.data())
def test_rewriting_keeps_the_meaning(program: Program, data: st.DataObject) -> None:
    note(print_program(program))
    sizes = data.draw(extents(program, longest=9))
    inputs = inputs_for(program, sizes, np.random.default_rng(0))
    expected = interpret(program, inputs)
    for other in (banded(program, "t"), inline(program)):
        verify(other)
        same(interpret(other, inputs), expected)


@SAMPLED
@given(programs(CAUSAL))
def test_a_band_is_a_bounded_window_afterwards(program: Program) -> None:
    note(print_program(program))
    for look in look_back(banded(program, "t")).values():
        assert look.causal and look.depth is not None
