"""The gradients that layers state themselves, against the references that state the same.

A ``backward:`` block is a set of equations like any other, so it is interpreted as it stands.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ssmc.ir import Equation, Program, Tensor
from ssmc.ir.interpret import interpret
from tests.library.adapters_attention import one_head, yoso_codes, yoso_inputs
from tests.library.golden import EXACT, Array, elaborated, load_case


def gradients(layer: str, inputs: dict[str, Array], upstream: Array, **statics: object) -> dict[str, Array]:
    """What the block of the layer's only output `y` says for each input that has a gradient."""
    program = with_backward_block(elaborated(layer, inputs, statics))
    return interpret(program, {**inputs, "d.y": upstream})


def with_backward_block(program: Program) -> Program:
    """The Program that computes the adjoints, given that of ``y``."""
    (block,) = program.customs
    y = program.tensors()["y"]
    return replace(
        program,
        inputs=(*program.inputs, Tensor("d.y", y.axes, y.dtype)),
        equations=(*program.equations, *block.equations),
        outputs=tuple(f"d.{name}" for name in block.inputs),
        customs=(),
    )


@pytest.mark.parametrize("name", ["yoso_lsh_random", "yoso_lsh_fast", "yoso_lsh_cross"])
@pytest.mark.parametrize(("layer", "version"), [("yoso_sampled", "v1"), ("yoso_sampled_once", "v2_exact")])
def test_sampled_yoso(name: str, layer: str, version: str) -> None:
    case = load_case(name)
    code_q, code_k = yoso_codes(case)
    inputs = {**yoso_inputs(case), "code_q": code_q, "code_k": code_k}
    found = gradients(f"yoso:{layer}", inputs, one_head(case["in.grad_X"]), tau=case.config["hash_code_len"])
    expected = {"d.q": f"grad_Q_{version}", "d.k": f"grad_K_{version}", "d.v": "grad_V"}
    for adjoint, theirs in expected.items():
        assert_near(found[adjoint][:, 0], case[f"out.{theirs}"])


def test_yoso_expectation() -> None:
    case = load_case("yoso_e_v1")
    upstream = one_head(case["w.X"])
    found = gradients("yoso:yoso_expectation", yoso_inputs(case), upstream, tau=case.config["tau"])
    for name in ("q", "k", "v"):
        assert_near(found[f"d.{name}"][:, 0], case[f"grad.in.{name.upper()}"])


def test_bounded_sqrt_has_a_slope_of_at_most_1000() -> None:
    inputs = {"x": np.ones((1, 1, 1)), "r": np.ones((1, 1, 1)), "g": np.ones((1, 1, 1)), "Lambda": np.ones(1)}
    (root,) = elaborated("rg_lru:rg_lru_gated", inputs, {}).functions
    assert root.result_name == "s"
    ((parameter, slope),) = root.backward
    assert parameter == "v"
    program = Program(
        name="slope",
        axes=(),
        inputs=(Tensor("v", (), root.dtype), Tensor("d.s", (), root.dtype)),
        outputs=("d.v",),
        equations=(Equation("d.v", (), root.dtype, slope),),
    )
    for v, expected in ((0.0, 1000.0), (1e-12, 1000.0), (0.25, 1.0)):
        assert interpret(program, {"v": v, "d.s": 1.0})["d.v"] == pytest.approx(expected)


def assert_near(found: Array, expected: Array) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= EXACT * np.abs(expected).max()
