"""The C target against the interpreter: the whole library that it lowers, awkward extents, strides, threads."""

from __future__ import annotations

import numpy as np
import pytest

from ssmc.dsl import elaborate, module_from_text
from ssmc.errors import Unsupported
from ssmc.ir import Program
from ssmc.ir.interpret import interpret
from ssmc.passes import PlanOptions
from tests.compiled import CompiledProgram, random_inputs
from tests.library_cases import LOWERED, Case

TOLERANCE = {"f64": 1e-11, "f32": 2e-4}


def program(text: str) -> Program:
    return elaborate(module_from_text(text))


def check(
    p: Program, sizes: dict[str, int], real: str = "f64", options: PlanOptions | None = None, seed: int = 0
) -> None:
    """Compiled and interpreted values differ by roundoff only, relative to the largest value."""
    inputs = random_inputs(p, sizes, seed)
    expected = interpret(p, inputs)
    found = CompiledProgram(p, sizes, real, options)(inputs)
    for name, want in expected.items():
        scale = np.abs(want).max(initial=0) + 1e-30
        assert np.isfinite(found[name]).all()
        assert np.abs(found[name] * 1.0 - want).max(initial=0) <= TOLERANCE[real] * scale, name


@pytest.mark.parametrize("real", ["f64", "f32"])
@pytest.mark.parametrize("case", LOWERED, ids=lambda c: c.name)
def test_library(case: Case, real: str) -> None:
    check(case.program(), dict(case.sizes), real)


SCAN = """
layer scan(x[b, t, d], a[b, t, d], B[b, t, n], C[b, t, n], A[d, n]) -> y[b, t, d]:
    seq t
    h = exp(-abs(a) * A ^ 2) * h[t-1] + a * B * x
    y = sum[n](C * h)
"""


@pytest.mark.parametrize("t", [1, 2, 63, 64, 65, 131])
@pytest.mark.parametrize("d", [1, 15, 16, 17, 33])
def test_awkward_extents(t: int, d: int) -> None:
    p = program(SCAN)
    built = CompiledProgram(p, {"b": 2, "t": 1, "d": 1, "n": 8})
    inputs = random_inputs(p, {"b": 2, "t": t, "d": d, "n": 8})
    np.testing.assert_allclose(built(inputs)["y"], interpret(p, inputs)["y"], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("options", [PlanOptions(tile=0), PlanOptions(tile=3, states=2), PlanOptions(tile=64, states=4),
                                     PlanOptions(lanes=8), PlanOptions(lanes=32, tile=7)], ids=str)  # fmt: skip
def test_every_plan_agrees(options: PlanOptions) -> None:
    check(program(SCAN), {"b": 2, "t": 66, "d": 37, "n": 8}, options=options)


@pytest.mark.parametrize("real", ["f64", "f32"])
def test_a_complex_exponential_of_an_infinite_decay_is_0(real: str) -> None:
    """Whatever the angle, an infinite one or none included; of a finite decay that is no number, as interpreted."""
    p = program("layer f(a[t, d], b[t, d]) -> y[t, d]: complex:\n    seq t\n    y = exp(complex(a, b)) * y[t-1] + 1\n")
    ends = np.array([-np.inf, -np.inf, -np.inf, -np.inf, -1, -1, -200, -200])
    turns = np.array([np.inf, -np.inf, np.nan, 2.0, np.inf, 2, np.nan, 2.0])
    inputs = {"a": np.tile(ends, (3, 1)), "b": np.tile(turns, (3, 1))}
    expected = interpret(p, inputs)["y"]
    assert np.isfinite(expected[:, :4]).all() and np.isnan(expected[1:, 4]).all()
    found = CompiledProgram(p, {"t": 3, "d": 8}, real)(inputs)["y"]
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE[real])


def test_complex_states_in_tiles() -> None:
    text = """
layer diagonal(u[t, d], A[d, n]: complex, C[d, n]: complex) -> y[t, d]:
    seq t
    h = exp(-abs(A) + 1i * im(A)) * h[t-1] + u
    y = 2 * re(sum[n](C * h))
"""
    check(program(text), {"t": 70, "d": 19, "n": 8}, options=PlanOptions(tile=16, states=8))


@pytest.mark.parametrize("text, sizes", [
    ("layer reverse(x[b, t, d], a[b, t, d]) -> g[b, t, d]:\n    seq t\n"
     "    g = sigmoid(a[t+1]) * g[t+1] + 0.25 * g[t+2] + x\n",
     {"b": 2, "t": 9, "d": 5}),
    ("layer ends(x[b, t, d], g0[b, d]) -> g[b, t, d]:\n    seq t\n    g = 0.5 * g[t+1] + x\n    g[t >= #t] = g0\n",
     {"b": 2, "t": 6, "d": 5}),
    ("layer lags(x[t, d], h0[k, d]) -> h[t, d]:\n    seq t\n    h = 0.5 * h[t-3] + 0.2 * h[t-1] + x\n"
     "    h[t<0] = h0[k = #k+t]\n", {"t": 8, "d": 3, "k": 3}),
    ("layer mutual(x[b, t, d]) -> c[b, t, d], h[b, t, d]:\n    seq t\n"
     "    c = tanh(h[t-1] + x)\n    h = c * 0.5 + c[t-2]\n",
     {"b": 2, "t": 7, "d": 17}),
    ("layer swap(x[b, t, d]) -> p[b, t, d], q[b, t, d]:\n    seq t\n"
     "    p = 0.5 * q[t-1] + x\n    q = 0.3 * p[t-1] - x\n",
     {"b": 2, "t": 7, "d": 17}),
    ("layer window(x[b, t, d], w[d, j]) -> y[b, t, d]:\n    seq t\n    u = exp(-x ^ 2)\n    y = sum[j](w * u[t-j])\n",
     {"b": 2, "t": 3, "d": 5, "j": 4}),
    ("layer matrix(q[b, t, k], v[b, t, e], f[b, t]) -> y[b, t, e]:\n    seq t\n    S = sigmoid(f) * S[t-1] + q * v\n"
     "    y = sum[k](q * S)\n", {"b": 2, "t": 7, "k": 5, "e": 6}),
    ("layer delta(q[b, t, k], v[b, t, e], g[b, t]) -> y[b, t, e]:\n    seq t\n    old = sum[k](q * S[t-1])\n"
     "    S = S[t-1] + sigmoid(g) / 9 * (v - old) * q\n    y = sum[k](q * S)\n", {"b": 2, "t": 7, "k": 5, "e": 6}),
    ("layer mixed(x[b, t, e], U[e, k], V[e, k]) -> y[b, t, e]:\n    seq t\n    axis f < #e\n    require #k == #e\n"
     "    h[b, t, e] = tanh(x + sum[k](U * h[t-1, e=k]))\n    y[b, t, e] = sum[f](h[e=f] * V[e=f, k=e])\n",
     {"b": 2, "t": 7, "e": 4, "k": 4}),
    ("layer gather(x[b, t, d], E[c, d], code[b, t]: int) -> y[b, t, d]:\n    seq t\n    y = x + E[c = code - 1]\n",
     {"b": 2, "t": 7, "c": 2, "d": 6}),
    ("layer position(x[b, t, d]) -> y[b, t, d]:\n    seq t\n"
     "    y = x * cos(t / 3) + 0.1 * y[t-1] * t\n", {"b": 1, "t": 7, "d": 6}),
    ("layer pool(x[b, t, d]) -> y[b, d], i[b, t]: int, m[b, t]:\n    seq t\n    y = mean[t](x)\n    i = argmax[d](x)\n"
     "    m = logsumexp[d](x) + max[d](x) * prod[d](x)\n", {"b": 2, "t": 5, "d": 7}),
    ("layer soft(x[b, t, d], v[d, e]) -> y[b, t, e]:\n    seq t\n    p = softmax[d: x < 1](x)\n    y = sum[d](p * v)\n",
     {"b": 2, "t": 5, "d": 7, "e": 3}),
    ("layer bits(x[b, t, d]) -> c[b, t]: int, n[b, t, d]: bool:\n    seq t\n    n = x > 0 and x < 1\n"
     "    c = sum[d](n * 2 ^ d) // 3 % 5\n", {"b": 2, "t": 5, "d": 7}),
    ("layer filter(k[t], x[t, d]) -> y[t, d], m[t]:\n    seq t\n    y = sum[s: s <= t](k[t = t-s] * x[t=s])\n"
     "    m = max[s: t <= s](k[t=s])\n", {"t": 9, "d": 5}),
    ("layer none(x[d]) -> y[d]:\n    y = sqrt(abs(x)) - relu(x) + min(x, 0.5)\n", {"d": 23}),
    ("layer channel_last(x[b, d, t]) -> y[b, d, t]:\n    seq t\n    y = 0.5 * y[t-1] + x\n", {"b": 2, "d": 19, "t": 9}),
], ids=lambda v: v.split("(")[0].split()[1] if isinstance(v, str) else "")  # fmt: skip
def test_constructs(text: str, sizes: dict[str, int]) -> None:
    check(program(text), sizes)
    check(program(text), sizes, "f32", seed=1)


def test_batch_and_length_are_not_compiled_in() -> None:
    p = program(SCAN)
    texts = {CompiledProgram(p, {"b": b, "t": t, "d": d, "n": 4}).stages.text for b, t, d in ((1, 1, 1), (3, 70, 33))}
    assert len(texts) == 1


def test_any_stride() -> None:
    p = program(SCAN)
    inputs = random_inputs(p, {"b": 2, "t": 9, "d": 20, "n": 4})
    expected = interpret(p, inputs)["y"]
    turned = dict(inputs)
    turned["x"] = np.ascontiguousarray(inputs["x"].transpose(0, 2, 1)).transpose(0, 2, 1)
    turned["a"] = np.repeat(inputs["a"], 2, axis=2)[:, :, ::2]
    turned["B"] = np.broadcast_to(inputs["B"][:1], inputs["B"].shape)
    inputs["B"] = np.ascontiguousarray(turned["B"])
    expected = interpret(p, inputs)["y"]
    np.testing.assert_allclose(CompiledProgram(p, {"b": 2, "t": 9, "d": 20, "n": 4})(turned)["y"], expected, rtol=1e-11)


def test_threads_do_not_change_a_bit() -> None:
    p = program(SCAN)
    sizes = {"b": 3, "t": 300, "d": 100, "n": 8}
    built = CompiledProgram(p, sizes, "f32")
    inputs = random_inputs(p, sizes)
    once = built(inputs, threads=1)["y"]
    for threads in (2, 3, 5):
        assert (built(inputs, threads=threads)["y"] == once).all()


def test_nan_and_infinity_behave() -> None:
    p = program("layer f(x[d]) -> y[d], s[d], e[d]:\n    y = sigmoid(x)\n    s = softplus(x)\n    e = exp(x)\n")
    x = np.array([np.nan, np.inf, -np.inf, 0.0, 100.0, -200.0, 88.5])
    single = np.float32
    found = CompiledProgram(p, {"d": 7}, "f32")({"x": x})
    for name, want in interpret(p, {"x": x}).items():
        with np.errstate(over="ignore"):
            np.testing.assert_allclose(found[name], want.astype(single), rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("text, words", [
    ("layer f(q[t], v[t]) -> y[t]:\n    seq t\n"
     "    p = softmax[s: s <= t](q * v[t=s])\n    y = sum[s](p * v[t=s])\n", "softmax"),
    ("layer f(c[t]: int, v[t]) -> y[t]:\n    seq t\n    y = sum[s: c[t=s] == c](v[t=s])\n", "equal codes"),
    ("layer f(x[t]) -> y[t]: int:\n    y = argsort[t](x)\n", "a sort"),
    ("layer f(x[e]) -> y[e]:\n    y = hadamard[e](x)\n", "Hadamard"),
])  # fmt: skip
def test_what_has_no_strategy_says_so(text: str, words: str) -> None:
    p = program(text)
    with pytest.raises(Unsupported, match=words) as caught:
        CompiledProgram(p, {a.name: 4 for a in p.axes})
    assert "equation `" in str(caught.value) and "^" in str(caught.value)
