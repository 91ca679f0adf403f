"""Gradients: names."""

from __future__ import annotations

import pytest

from ssmc.ir import verify
from ssmc.passes import adjoint_names, differentiable, grad
from tests.library_cases import LOWERED, Case


@pytest.mark.parametrize("case", LOWERED, ids=lambda case: case.name)
def test_names_of_adjoints_follow_from_the_program(case: Case) -> None:
    program = case.program()
    names, (inputs, outputs) = adjoint_names(program), differentiable(program)
    derived = grad(program)
    verify(derived)
    assert derived.outputs == tuple(names[name] for name in inputs)
    assert [t.name for t in derived.inputs[len(program.inputs) :]] == [names[name] for name in outputs]
