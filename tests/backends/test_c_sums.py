"""Sums along memory, several points of a grid together: random ones, at awkward sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from ssmc.dsl import elaborate, module_from_text
from ssmc.ir import Program
from ssmc.ir.interpret import interpret
from tests.compiled import CompiledProgram, bf16, from_bf16, random_inputs

TOGETHER = "const int rows"  # in the text of a kernel that computes several points together
APART = ("sum[g, i](c * u * x)", "sum[i](v * x) + sum[i](w * x)")  # x is kept for the next sum, which vectors are not
SUMS = (
    "sum[i](w * x)",
    "sum[i](w * wide[j = i + 2])",
    "sum[i](w * exp(-abs(x)) + 0.5)",
    "sum[g](c * sum[i](w * x))",
    "(sum[i](w * x) + sum[i](v * sigmoid(s)))",
    "sum[i](w * x) * max[h](r)",
    *APART,
)
AROUND = ("y = {}", "y = softplus({} + a)", "y = z + a * {}", "k[b, t, o] = {}\n    y = k * silu(k) + z")
HEAD = (
    "layer drawn(x[b, t, i], s[b, t, i], wide[b, t, j], w[o, i], v[o, i], u[g, o, i], c[g], r[o, h], a[o], "
    "z[b, t, o]) -> y[b, t, o]:"
)
AXES = {"w": 0, "v": 0, "u": 1, "a": 0, "r": 0, "z": 2}  # where each has the axis o


@st.composite
def layers(draw: st.DrawFn) -> tuple[Program, bool]:
    """A layer, and whether it sums for several points together."""
    total = draw(st.sampled_from(SUMS))
    body = draw(st.sampled_from(AROUND)).format(total)
    lines = [HEAD, *["seq t"] * draw(st.booleans()), "require #j == #i + 2", body]
    return elaborate(module_from_text("\n    ".join(lines) + "\n"), "drawn"), total not in APART


SIZES = st.fixed_dictionaries(
    {
        "b": st.sampled_from([1, 2]),
        "t": st.sampled_from([1, 3]),
        "o": st.sampled_from([3, 4, 5, 8, 14]),
        "i": st.sampled_from([1, 15, 16, 17, 48, 77]),
        "g": st.sampled_from([1, 3]),
        "h": st.just(5),
    }
)


def check(program: Program, sizes: dict[str, int], real: str, strided: bool, together: bool) -> None:
    """Against the interpreter; with more threads, and for the first three points alone, the same bits."""
    given = {n: value.astype(np.float32) for n, value in random_inputs(program, sizes | {"j": sizes["i"] + 2}).items()}
    if real == "bf16":
        given = {n: from_bf16(bf16(value)) for n, value in given.items()}
    want = interpret(program, {n: value.astype(np.float64) for n, value in given.items()})["y"]
    compiled = CompiledProgram(program, sizes, real, fast=True)
    assert (TOGETHER in compiled.stages.text) == together
    if strided:
        given["w"] = np.repeat(given["w"], 2, axis=1)[:, ::2]
    found = compiled(given)["y"]
    slack = (1e-5 if real == "f32" else 1e-2) * (1 + np.abs(want).max())
    np.testing.assert_allclose(found, want, rtol=0, atol=slack)
    np.testing.assert_array_equal(compiled(given, threads=3)["y"], found)
    first = {n: value.take(range(3), AXES[n]) if n in AXES else value for n, value in given.items()}
    if not strided:
        np.testing.assert_array_equal(compiled(first)["y"], found[..., :3])


@pytest.mark.parametrize(("start", "real"), [(0, "f32"), (1, "bf16")])
def test_random_sums_along_memory(start: int, real: str) -> None:
    examples(start, real, 12)


@pytest.mark.slow
@pytest.mark.parametrize("real", ["f32", "bf16"])
def test_many_random_sums_along_memory(real: str) -> None:
    examples(10, real, 150)


def examples(start: int, real: str, number: int) -> None:
    @seed(start)
    @settings(
        max_examples=number, deadline=None, database=None, phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(layers(), SIZES, st.booleans())
    def run(drawn: tuple[Program, bool], sizes: dict[str, int], strided: bool) -> None:
        check(drawn[0], sizes, real, strided and real == "f32", drawn[1])

    run()
