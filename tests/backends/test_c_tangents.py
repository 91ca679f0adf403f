"""Forward derivatives on the C target: a derived layer is lowered like any other."""

from __future__ import annotations

import numpy as np
import pytest

from ssmc.ir import verify
from ssmc.ir.interpret import interpret
from ssmc.passes import differentiable, jvp
from tests.compiled import CompiledProgram, random_inputs
from tests.library_cases import LOWERED, Case

FEW = ("affine_scan_complex", "gated_delta")
CASES = [
    pytest.param(case, marks=() if case.name.startswith(FEW) else pytest.mark.slow, id=case.name)
    for case in LOWERED
    if differentiable(case.program())[1]
]


@pytest.mark.parametrize("case", CASES)
def test_tangents(case: Case) -> None:
    derived = jvp(case.program(), primal=True)
    verify(derived)
    inputs = random_inputs(derived, case.sizes)
    expected = interpret(derived, inputs)
    found = CompiledProgram(derived, case.sizes)(inputs)
    for name, want in expected.items():
        assert np.isfinite(found[name]).all()
        assert np.abs(found[name] - want).max(initial=0) <= 1e-11 * max(1e-30, np.abs(want).max(initial=0)), name
