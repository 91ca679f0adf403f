"""The gradients that layers state themselves, against the references that state the same.

(`yoso_expectation` is among the cases of `test_golden`.)
"""

from __future__ import annotations

import numpy as np
import pytest

from ssmc.ir import Equation, Program, Tensor
from ssmc.ir.interpret import interpret
from tests.library.adapters_attention import one_head, yoso_codes, yoso_inputs
from tests.library.golden import EXACT, call, elaborated, load_case


@pytest.mark.parametrize("name", ["yoso_lsh_random", "yoso_lsh_fast", "yoso_lsh_cross"])
@pytest.mark.parametrize(("layer", "version"), [("yoso_sampled", "v1"), ("yoso_sampled_once", "v2_exact")])
def test_sampled_yoso(name: str, layer: str, version: str) -> None:
    case = load_case(name)
    code_q, code_k = yoso_codes(case)
    given = yoso_inputs(case)
    leaves = {name: given[name].clone().requires_grad_() for name in ("q", "k", "v")}
    codes = {"code_q": code_q, "code_k": code_k}
    found = call(f"yoso:{layer}", {**given, **leaves, **codes}, tau=case.config["hash_code_len"])
    found["y"].backward(one_head(case["in.grad_X"]))
    for leaf, theirs in (("q", f"grad_Q_{version}"), ("k", f"grad_K_{version}"), ("v", "grad_V")):
        expected, received = case[f"out.{theirs}"], leaves[leaf].grad
        assert received is not None and received[:, 0].shape == expected.shape
        assert (received[:, 0] - expected).abs().max() <= EXACT * expected.abs().max()


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
