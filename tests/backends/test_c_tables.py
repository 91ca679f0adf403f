"""Sums by code on the C target: tables that a kernel fills on its way through time."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from ssmc.compiler import stages
from ssmc.dsl import elaborate, module_from_text
from ssmc.ir import Program
from ssmc.ir.interpret import interpret
from ssmc.passes import grad
from tests.backends.test_c_gradients import agree
from tests.compiled import CompiledProgram, random_inputs

pytestmark = pytest.mark.usefixtures("threads_at_once")

RECURRENT = """
layer ends(x[b, t, d], a[d, n], doc[t]: int, last[q]: int) -> y[b, t, d], h_last[b, q, d, n]:
    seq t
    h = sigmoid(a) * h[t-1] + x
    y = sum[n](h)
    h_last = sum[t: doc == q and t == last[q=doc]](h)
"""

CASES = [
    ("layer embed(x[b, t, d], code[b, t]: int, E[c, d]) -> y[c, d]:\n    seq t\n"
     "    y = 0.5 * E + sum[b, t: code == c and x > 0](x * E)\n", {"b": 2, "t": 5, "d": 19, "c": 3}),
    ("layer batch(x[b, t, d], a[d, n], code[b, t]: int, E[c]) -> y[c, d, n], z[b, t, d]:\n    seq t\n"
     "    h = sigmoid(a) * h[t-1] + x\n    y = sum[b, t: code == c](h) + 0 * E\n    z = sum[n](h)\n",
     {"b": 3, "t": 9, "d": 19, "n": 4, "c": 4}),
    ("layer two(x[b, t, d], i[b, t]: int, j[t]: int, E[p, q]) -> y[p, q]:\n    seq t\n"
     "    y = sum[b, t, d: i == p and j % 3 == q](x) + E\n", {"b": 2, "t": 9, "d": 5, "p": 4, "q": 2}),
    ("layer rows(x[b, d], i[b]: int, E[q, d]) -> y[q, d]:\n    y = sum[b: i == q](x * E)\n", {"b": 7, "d": 19, "q": 4}),
    ("layer each(x[t, d], i[t, d]: int, E[q]) -> y[q, d]:\n    seq t\n    y = sum[t: q == i](x * E)\n",
     {"t": 7, "d": 19, "q": 3}),
    ("layer count(i[t]: int, E[q]) -> y[q]: int, e[q]:\n    seq t\n    y = sum[t: i == q](1)\n    e = E + y\n",
     {"t": 17, "q": 4}),
    ("layer turned(x[t, d]: complex, i[t]: int, E[q]) -> y[q, d]: complex:\n    seq t\n"
     "    y = sum[t: i == q](x * x) + E\n", {"t": 17, "d": 3, "q": 4}),
    ("layer back(x[t, d], i[t]: int, E[q]) -> y[q, d], g[t, d]:\n    seq t\n    g = 0.5 * g[t+1] + x\n"
     "    y = sum[t: i == q](g[t+1]) + E\n", {"t": 17, "d": 3, "q": 4}),
    (RECURRENT, {"b": 2, "t": 9, "d": 19, "n": 4, "q": 4}),
]  # fmt: skip


@pytest.mark.parametrize("text, sizes", CASES, ids=lambda v: v.split("(")[0].split()[1] if isinstance(v, str) else "")
def test_sums_by_code_and_their_gradients(text: str, sizes: dict[str, int]) -> None:
    agree(elaborate(module_from_text(text)), sizes)


@pytest.mark.parametrize(("case", "derive"), [(2, lambda same: same), (4, grad)], ids=["there", "back"])
def test_points_that_may_share_a_code_are_not_taken_at_once(case: int, derive: Callable[[Program], Program]) -> None:
    """Whether a compiler makes vectors of such a loop depends on the processor: it must not be told that it may."""
    text, sizes = CASES[case]
    text = stages(derive(elaborate(module_from_text(text))), sizes=sizes).text
    told = re.findall(r"#pragma omp simd[^\n]*\n *for [^\n]*\{\n(.*?)\n *\}\n", text, re.DOTALL)
    assert "+=" in text and not any(re.search(r"p_\w+\[.*\] \+=", body) for body in told)


def test_a_table_is_filled_where_its_values_are_made() -> None:
    """Nothing goes through memory, and neither the length nor the number of documents is compiled in."""
    done = stages(elaborate(module_from_text(RECURRENT)), sizes={"b": 2, "t": 9, "d": 19, "n": 4, "q": 4})
    assert len(done.plan.kernels) == 1 and not done.plan.workspaces
    assert set(done.plan.fixed) == {"n"}
    assert "adds up      h_last" in done.plan.describe()


def test_codes_outside_the_table_count_for_nothing() -> None:
    program = elaborate(module_from_text(CASES[3][0]))
    inputs = random_inputs(program, CASES[3][1])
    inputs["i"] = np.array([-1, 0, 4, 3, 3, 2**40, -(2**63)])
    found = CompiledProgram(program, CASES[3][1])(inputs)["y"]
    np.testing.assert_allclose(found, interpret(program, inputs)["y"], rtol=1e-12)


def test_a_table_is_added_up_in_full_precision() -> None:
    """An output stored in half precision is rounded once, not at every step."""
    program = elaborate(
        module_from_text("layer f(x[t], i[t]: int, E[q]) -> y[q]:\n    seq t\n    y = sum[t: i == q](x)\n")
    )
    ones = {"x": np.ones(5000), "i": np.zeros(5000, np.int64), "E": np.zeros(2)}
    assert CompiledProgram(program, {"t": 1, "q": 2}, "f16")(ones)["y"][0] == 5000
