"""Forward derivatives: against differences, against the gradient, twice, and as text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st

from ssmc.dsl import Choice, elaborate, module_from_text, read_program
from ssmc.errors import Unsupported, UserError
from ssmc.ir import CustomGradient, Program, print_program, verify
from ssmc.ir.interpret import interpret
from ssmc.passes import differentiable, grad, jvp, pack, reverse, step, tangent_names
from tests.building import equation, fold, index, program, read, size, tensor
from tests.library_cases import LIBRARY, Case
from tests.passes.directions import (
    assert_slopes,
    assert_transposed,
    backward,
    forward,
    inner,
    library_inputs,
    random_like,
)
from tests.strategies import CAUSAL, extents, inputs_for, programs

SAMPLED = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MOVING = [case for case in LIBRARY if differentiable(case.program())[1]]
STILL = [case for case in LIBRARY if case not in MOVING]
STATED = ("yoso", "yoso_sampled", "yoso_sampled_once", "yoso_expectation", "yoso_attention(tau=3)")  # not slopes


def layer(text: str) -> Program:
    return elaborate(module_from_text(text), None, Choice())


# ---------------------------------------------------------------- the library


@pytest.mark.parametrize("case", MOVING, ids=lambda case: case.name)
def test_layers_move_forward_as_they_do_backward(case: Case) -> None:
    """Layers with a gradient block too."""
    given = case.program()
    assert_transposed(given, library_inputs(given, case.sizes))


@pytest.mark.parametrize("case", [c for c in MOVING if not c.name.startswith(STATED)], ids=lambda case: case.name)
def test_layers_move_as_differences_say(case: Case) -> None:
    given = case.program()
    assert_slopes(given, library_inputs(given, case.sizes))


@pytest.mark.parametrize("case", MOVING, ids=lambda case: case.name)
def test_names_and_text(case: Case) -> None:
    given = case.program()
    inputs, outputs = differentiable(given)
    names = tangent_names(given)
    for primal in (False, True):
        derived = jvp(given, primal=primal)
        verify(derived)
        assert [t.name for t in derived.inputs] == [t.name for t in given.inputs] + [names[n] for n in inputs]
        tangents = tuple(names[n] for n in outputs)
        assert derived.outputs == (given.outputs + tangents if primal else tangents)
        assert read_program(print_program(derived)) == derived


@pytest.mark.parametrize("case", STILL, ids=lambda case: case.name)
def test_a_layer_of_whole_numbers_does_not_move(case: Case) -> None:
    with pytest.raises(Unsupported, match=f"no real or complex numbers in '{case.program().outputs[0]}'"):
        jvp(case.program())


def test_it_reads_like_a_paper() -> None:
    given = layer(
        "layer f(x[b, t], a[b, t], h0[b]) -> y[b, t]:\n"
        "    seq t\n"
        "    h = a * h[t-1] + x\n"
        "    h[t<0] = h0\n"
        "    y = where(x > 0, tanh(h), 2 * h)\n"
    )
    assert print_program(jvp(given)).partition(":\n")[2] == (
        "    seq t\n"
        "    h[b, t] = a * h[t-1] + x\n"
        "    h[t<0] = h0\n"
        "    dot.h[b, t] = h[t-1] * dot.a + a * dot.h[t-1] + dot.x\n"
        "    dot.h[t<0] = dot.h0\n"
        "    dot.y[b, t] = where(x > 0, (1.0 - tanh(h) * tanh(h)) * dot.h, 2 * dot.h)\n"
    )


# ---------------------------------------------------------------- random programs


def drawn(given: Program, data: st.DataObject, longest: int = 7) -> dict[str, np.ndarray]:
    note(print_program(given))
    assume(differentiable(given)[1])
    return inputs_for(given, data.draw(extents(given, longest)), np.random.default_rng(0))


@SAMPLED
@given(programs(), st.data())
def test_forward_is_the_transpose_of_backward(given: Program, data: st.DataObject) -> None:
    assert_transposed(given, drawn(given, data))


@SAMPLED
@given(programs(), st.data())
def test_forward_is_what_differences_say(given: Program, data: st.DataObject) -> None:
    assert_slopes(given, drawn(given, data), tolerance=1e-5)


@SAMPLED
@given(programs())
def test_tangents_are_valid_and_read_back(given: Program) -> None:
    note(print_program(given))
    assume(differentiable(given)[1])
    derived = jvp(given, primal=True)
    verify(derived)
    assert read_program(print_program(derived)) == derived


@settings(SAMPLED, max_examples=15)
@given(programs(CAUSAL), st.data())
def test_stepped_and_reversed_layers_move_too(given: Program, data: st.DataObject) -> None:
    derived = step(given, takes=True, gives=True)
    if data.draw(st.booleans(), label="reversed"):
        derived = reverse(derived)
    assert_transposed(derived, drawn(derived, data))


PACKED = ("causal_conv1d", "gated_delta", "local_attention(window=2", "s4d(disc", "selective_scan(no")


@pytest.mark.parametrize("case", [c for c in LIBRARY if c.name.startswith(PACKED)], ids=lambda case: case.name)
def test_packed_layers_move_too(case: Case) -> None:
    """With the state of three documents, of which one is empty."""
    derived = pack(step(case.program(), takes=True, gives=True))
    inputs = library_inputs(derived, {**case.sizes, "t.docs": 3})
    length = case.sizes["t"]
    inputs["t.start"], inputs["t.end"] = np.array([0, 2, 2]), np.array([2, 2, length])
    inputs["t.doc"] = np.where(np.arange(length) < 2, 0, 2)
    assert_transposed(derived, inputs)
    assert_slopes(derived, inputs)


# ---------------------------------------------------------------- twice


TWICE = ("affine_scan_complex", "gated_delta", "rg_lru_gated(no", "local_attention(window=2", "yoso_attention(tau=3)")
MARKED = [pytest.param(c, marks=() if c.name.startswith(TWICE) else pytest.mark.slow, id=c.name) for c in MOVING]


@pytest.mark.parametrize("case", MARKED)
def test_both_orders_of_differentiation_agree(case: Case) -> None:
    """With F(x) = <w, f'(x) v>: <u, F'(x)> by the gradient of tangents, and by tangents of the gradient."""
    given = case.program()
    x = library_inputs(given, case.sizes)
    able, outputs = differentiable(given)
    v, u = random_like(given, able, x, 2), random_like(given, able, x, 3)
    w = random_like(given, outputs, interpret(given, x), 4)
    tangents, gradient = jvp(given), grad(given)
    moving = {**x, **named(tangents, given, v)}
    first = backward(tangents, moving, dict(zip(tangents.outputs, w.values(), strict=True)))
    received = {**x, **named(gradient, given, w)}
    second = forward(gradient, received, u)
    one = inner({name: first[name] for name in able}, u)
    other = inner(dict(zip(able, second.values(), strict=True)), v)
    assert one == pytest.approx(other, rel=1e-9, abs=1e-9)


def named(derived: Program, given: Program, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(zip((t.name for t in derived.inputs[len(given.inputs) :]), values.values(), strict=True))


@settings(SAMPLED, max_examples=12)
@given(programs(), st.data())
def test_gradients_move_as_differences_say(given: Program, data: st.DataObject) -> None:
    inputs = drawn(given, data, longest=5)
    gradient = grad(given)
    w = random_like(given, differentiable(given)[1], interpret(given, inputs), 4)
    assert_slopes(gradient, {**inputs, **named(gradient, given, w)}, tolerance=1e-4)
    assert_transposed(gradient, {**inputs, **named(gradient, given, w)})


def test_tangents_of_tangents_have_names_of_their_own() -> None:
    given = layer("layer f(x[t]) -> y[t]:\n    y = exp(x)\n")
    twice = jvp(jvp(given))
    verify(twice)
    assert [t.name for t in twice.inputs] == ["x", "dot.x", "dot2.x", "dot2.dot.x"]
    x, v, u = (np.array([float(k)]) for k in (1, 2, 3))
    found = interpret(twice, {"x": x, "dot.x": v, "dot2.x": u, "dot2.dot.x": np.zeros(1)})
    assert found["dot2.dot.y"] == pytest.approx(np.exp(1) * 6)


# ---------------------------------------------------------------- rule by rule

RULES = {
    "where": "y = where(x > 0, x * a, exp(a))",
    "guarded": "y = where(x > 0, sqrt(x), 0) + where(k > 0, a / k, 1)",
    "smaller and larger": "y = min(x, a) * max(x, 0.25) + abs(x) + relu(a) + sign(x)",
    "power": "y = (x ^ 2 + 1) ^ a + 2 ^ x",
    "angles": "y = arctan2(x, a) * floor(3 * a) + real(k) * x",
    "product": "p[b] = prod[t: k > 0](x)\n    y = p * a",
    "product over several": "p[] = prod[b, t](x + 1)\n    y = p * a",
    "product with zeros": "p[b] = prod[t](where(k > 0, x, 0))\n    y = p * a",
    "largest": "p[b] = max[t: k > 0](x * a)\n    y = p * a",
    "largest over several": "p[] = max[b, t: k > 0](x * a) + min[b, t](x)\n    y = p + a",
    "logsumexp": "p[b] = logsumexp[t: k > 0](x * a)\n    y = where(p > -9, p, 0) * a",
    "softmax": "y = softmax[t: k > 0](x * a) * a",
    "mean": "p[t] = mean[b: k > 0](x * a)\n    y = p * mean[b, t](x)",
    "place": "p[b]: int = argmax[t](x)\n    y = x[t=p] * any[t](x > 0.5)",
    "gather": "y = x[t = k] + a[t = 2 * t] + x[t = t // 2]",
    "sorted": "p[b, t]: int = argsort[t](x)\n    y = x[t=p] * a",
    "joined": "w[b, m] = concat[m](x[t=m], a[t=m])\n    y = w[m = 2 * t] * x",
    "window": "y = sum[j < 3](x[t-j] * x[t+j] * c[d=j])",
    "window beyond the start": "x[t<0] = c[d = -t] * x[t=0]\n    y = sum[j < 3](x[t-j]) * a",
    "beyond the end": "x[t >= #t] = s * tanh(a[t = 2 * #t - 1 - t])\n    y = sum[j < 3](x[t+j]) * a",
    "before the start of another": "a[t<0] = max[d](c) * logsumexp[d](c) * sum[d](c) * prod[d](c)\n    y = x * a[t-1]",
    "softmax before the start": "h[b, t, d] = c * h[t-1] + x\n    h[t<0] = softmax[d](c)\n    y = sum[d](h * c)",
    "several largest before the start": "h = a * h[t-1]\n    h[t<0] = max[b, d](c * x[t=d])\n    y = h",
    "nonlinear": "h = tanh(a * h[t-1] + x * h[t-2])\n    h[t<0] = s\n    y = h * x",
    "mutual": "h = a * g[t-1] + x\n    g = sin(h) * g[t-1] + s\n    y = h + g",
    "reversed": "g = a[t+1] * g[t+1] + x\n    g[t >= #t] = s\n    y = g",
    "complex": "z = exp(complex(0, a)) * z[t-1] + complex(x, s)\n    y = re(z) * im(z) + abs(z) + abs(conj(z) * q)",
    "complex product": "p = prod[t](q * complex(x, a))\n    y = im(p) * a",
    "complex functions": "y = re(log(q + 2) * sqrt(q * x) * q ^ 2 / exp(q))",
    "magnitude of nothing": "y = abs(q * 0) + x",
    "extents": "y = x * #t + t * a",
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("seed", [0, 1])
def test_rules(name: str, seed: int) -> None:
    text = (
        "layer f(x[b, t], a[b, t], c[d], s[], q[b, t]: complex, k[b, t]: int) -> y[b, t]:\n"
        f"    seq t\n    {RULES[name]}\n"
    )
    given = layer(text)
    inputs = library_inputs(given, {"b": 2, "t": 4, "d": 4}, seed)
    inputs["a"] = np.abs(inputs["a"]) + 0.1
    derived = jvp(given, primal=True)
    verify(derived)
    assert read_program(print_program(derived)) == derived
    assert_slopes(given, inputs)
    if " the start" not in name:
        assert_transposed(given, inputs)


def test_what_is_not_chosen_contributes_nothing() -> None:
    """Where a slope is infinite or not a number, and a condition leaves it out."""
    given = layer(
        "layer f(x[t], k[t]: int) -> y[t], z[], m[]:\n"
        "    y = where(x > 0, sqrt(x) / x, 0) * where(k > 0, 1, log(x)) + max(sqrt(x), 1)\n"
        "    z = sum[t: x > 0](log(x)) + prod[t: x > 0](sqrt(x)) + logsumexp[t: x > 0](log(x))\n"
        "    m = max[t: k > 0](where(x > 0, sqrt(x), 0)) + sum[t](softmax[t: x > 0](sqrt(x)) * x)\n"
    )
    inputs = {"x": np.array([0.0, 0.0, 4.0]), "k": np.array([1, 1, 1])}
    found = forward(given, inputs, {"x": np.array([1.0, 1.0, 8.0])})
    assert found["y"].tolist() == [0.0, 0.0, -0.5 + 2.0]
    assert found["z"] == pytest.approx(2 + 2 + 2) and found["m"] == pytest.approx(2 + 8)


def test_some_inputs_stand_still() -> None:
    given = layer(
        "layer f(x[t], a[t], x0[]) -> y[t], n[t]:\n    seq t\n    x[t<0] = x0\n    y = a * x[t-1]\n    n = exp(x)\n"
    )
    derived = jvp(given, wrt=["x0"])
    verify(derived)
    assert [t.name for t in derived.inputs] == ["x", "a", "x0", "dot.x0"]
    found = interpret(derived, {"x": np.ones(3), "a": np.array([2.0, 3.0, 4.0]), "x0": 1.0, "dot.x0": 5.0})
    assert found["dot.y"].tolist() == [10.0, 0.0, 0.0] and found["dot.n"].tolist() == [0.0, 0.0, 0.0]


def test_no_such_input() -> None:
    given = layer("layer f(x[t], k[t]: int) -> y[t]:\n    y = x * k\n")
    for name in ("k", "y", "z"):
        with pytest.raises(UserError, match=f"'{name}' is no input with a gradient"):
            jvp(given, wrt=[name])


# ---------------------------------------------------------------- opaque functions

COUPLING = """fn F(x[b, t], w[t]) -> y[b, t]

layer coupled(x1[b, t], x2[b, t], w[t]) -> y1[b, t], y2[b, t]:
    y1 = F(x2, w) + x1
    y2 = x2 + F(y1, w)
"""


def opaque_meanings() -> dict[str, object]:
    """F = tanh(x) · w · cumulated x, and its derivatives."""

    def value(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return np.tanh(x) * w * x.sum(1, keepdims=True)

    def along_x(x: np.ndarray, w: np.ndarray, v: np.ndarray) -> np.ndarray:
        slope = (1 - np.tanh(x) ** 2) * w * x.sum(1, keepdims=True) * v
        return slope + np.tanh(x) * w * v.sum(1, keepdims=True)

    def along_w(x: np.ndarray, w: np.ndarray, v: np.ndarray) -> np.ndarray:
        return value(x, v)

    def to_x(x: np.ndarray, w: np.ndarray, g: np.ndarray) -> np.ndarray:
        slope = (1 - np.tanh(x) ** 2) * w * x.sum(1, keepdims=True) * g
        return slope + (np.tanh(x) * w * g).sum(1, keepdims=True)

    def to_w(x: np.ndarray, w: np.ndarray, g: np.ndarray) -> np.ndarray:
        return (value(x, np.ones_like(w)) * g).sum(0)

    return {"F": value, "F.jvp.x": along_x, "F.jvp.w": along_w, "F.vjp.x": to_x, "F.vjp.w": to_w}


def test_opaque_functions_bring_their_tangent() -> None:
    given = layer(COUPLING)
    inputs = library_inputs(given, {"b": 2, "t": 3})
    derived = jvp(given)
    verify(derived)
    assert read_program(print_program(derived)) == derived
    assert_slopes(given, inputs, opaque_meanings())  # type: ignore[arg-type]
    assert_transposed(given, inputs, opaque_meanings())  # type: ignore[arg-type]


# ---------------------------------------------------------------- gradient blocks


def test_functions_with_a_gradient_of_their_own() -> None:
    """The tangent is the transpose of the stated gradient, also where that takes conjugates."""
    given = layer(
        "fn f(u, v) -> s:\n    s = u * v\n    backward:\n        d.u = 2 * d.s * v\n"
        "        d.v = where(u > 0, -d.s, 3 * d.s)\n\n"
        "fn g(u) -> s: complex:\n    s = u ^ 2\n    backward:\n        d.u = 3i * d.s * conj(u) + re(d.s) * u\n\n"
        "fn e(u) -> s: complex:\n    s = u ^ 2\n    backward:\n        d.u = 3i * d.s * conj(u)\n\n"
        "layer main(x[t], q[t]: complex) -> y[t], z[t]: complex:\n    seq t\n"
        "    h = f(f(x, h[t-1]), 2 * x)\n    h[t<0] = 1\n    y = h * x\n    z = g(q * x) * e(q)\n"
    )
    assert_transposed(given, library_inputs(given, {"t": 4}))


BLOCK = """layer inner(x[b, t], w[t, d]) -> y[b, t], z[d]:
    seq t
    y = sum[d](w * x[t-1])
    z = sum[t, b](w * x)
    backward:
        twice[t, b] = 2 * d.y[t+1] * sum[d](w)
        d.x[b, t] = twice + sum[d](d.z * w) + 0.5 * mean[b](d.y)
        d.w[t, d] = where(t > 0, d.z, 0) * sum[b](x)

layer outer(x[b, t], w[t, d], a[d]) -> y[b, t], u[b, t]:
    p, q = inner(tanh(x), w * a)
    y = p * x + sum[d](q)
    u = p
"""


def test_gradient_blocks_are_transposed() -> None:
    given = layer(BLOCK + "")
    assert_transposed(given, library_inputs(given, {"b": 2, "t": 4, "d": 3}))
    module = module_from_text(BLOCK)
    outer = elaborate(module, "outer", Choice())
    derived = jvp(outer, primal=True)
    verify(derived)
    assert read_program(print_program(derived)) == derived
    assert_transposed(outer, library_inputs(outer, {"b": 2, "t": 4, "d": 3}))


def test_a_block_may_state_an_adjoint_with_other_axes_first() -> None:
    given = layer("layer f(x[b, t, d]) -> y[b, t, d]:\n    y = x\n    backward:\n        d.x = 2 * d.y\n")
    (block,) = given.customs
    (stated,) = block.equations
    turned = replace(given, customs=(replace(block, equations=(replace(stated, axes=("d", "b", "t")),)),))
    verify(turned)
    inputs = library_inputs(turned, {"b": 2, "t": 3, "d": 4})
    direction = random_like(turned, ["x"], inputs, 3)
    np.testing.assert_array_equal(forward(turned, inputs, direction)["y"], 2 * direction["x"])


def test_a_block_that_does_not_run_through_time_is_refused() -> None:
    """Its layer is a recurrence; its tangent would need all of the past at once."""
    given = program(
        [tensor("x t")],
        [
            equation("v t", 0.5 * read("y", index("t") - 1) + read("x", "t")),
            equation("y t", 2.0 * read("v", "t")),
        ],
        customs=(CustomGradient("odd", ("v",), ("y",), (equation("d.v t", fold("sum", "s", read("d.y", "s"))),)),),
        extents={"s": size("t")},
    )
    with pytest.raises(Unsupported, match="gradient block 'odd' cannot be transposed"):
        jvp(given)
