"""ast + Choice → Program: what each construct of the language becomes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ssmc.dsl import Choice, check, elaborate, library_names, load_module, module_from_text, read_program, signature
from ssmc.dsl.check import choices
from ssmc.errors import UserError
from ssmc.ir import (
    BOOL,
    COMPLEX,
    INT,
    REAL,
    Const,
    Op,
    Program,
    Read,
    Reduce,
    Size,
    Where,
    print_expr,
    print_program,
    verify,
)
from ssmc.ir.interpret import interpret


def program(text: str, *, layer: str | None = None, present: set[str] | None = None, **more: Any) -> Program:
    """The verified Program of a text; it reads back equal."""
    chosen = Choice(
        more.get("statics", {}), None if present is None else frozenset(present), more.get("signatures", {})
    )
    module = module_from_text(text)
    assert check(module) == []
    found = elaborate(module, layer, chosen)
    verify(found)
    assert read_program(print_program(found)) == found
    return found


def layer(inputs: str, body: str, outputs: str = "y[b, t]", **more: Any) -> Program:
    lines = "".join(f"    {line}\n" for line in body.strip().split("\n"))
    return program(f"layer f({inputs}) -> {outputs}:\n{lines}", **more)


def equations(found: Program) -> dict[str, str]:
    tensors = found.tensors()
    return {f"{e.name}[{', '.join(e.axes)}]": print_expr(e.expr, tensors) for e in found.equations}


def values(found: Program, **inputs: Any) -> Any:
    """The first output, by the interpreter."""
    result = interpret(found, {name: np.asarray(value) for name, value in inputs.items()})
    return result[found.outputs[0]] if isinstance(result, dict) else result


LIBRARY = [(name, layer) for name in library_names() for layer in load_module(name).layers]


@pytest.mark.parametrize("name, layer", LIBRARY)
def test_library_layers_in_every_choice(name: str, layer: str) -> None:
    module = load_module(name)
    for choice in choices(module, module.definitions[layer]):
        found = elaborate(module, layer, choice)
        verify(found)
        assert read_program(print_program(found)) == found


# ---------------------------------------------------------------- axes


def test_axes_follow_from_the_right_side() -> None:
    found = layer("x[b, t, d], A[d, n], w[n]", "a = exp(A * x)\ny = sum[d, n](a * w)")
    assert found.equation("a").axes == ("b", "t", "d", "n")
    assert found.equation("y").axes == ("b", "t")


def test_axes_of_a_recurrence() -> None:
    found = layer("x[b, t, d], A[d, n], B[b, t, n]", "seq t\nh = exp(A) * h[t-1] + B * x", "h")
    assert found.equation("h").axes == ("b", "t", "d", "n")
    assert equations(found)["h[b, t, d, n]"] == "exp(A) * h[t-1] + B * x"


def test_recurrent_matrix_has_a_requirement() -> None:
    found = layer("x[b, t, d], W[d, k]", "seq t\nh = tanh(sum[k](W * h[t-1, d=k]) + x)", "h[b, t, d]")
    assert [print_expr(r.condition) for r in found.requirements] == ["#k == #d"]
    x, w = np.random.default_rng(0).normal(size=(2, 5, 3)), np.random.default_rng(1).normal(size=(3, 3))
    h = np.zeros((2, 3))
    for t in range(5):
        h = np.tanh(h @ w.T + x[:, t])
    np.testing.assert_allclose(values(found, x=x, W=w)[:, -1], h)


def test_a_renamed_index_takes_the_extent() -> None:
    found = layer("q[b, t, e], k[b, t, e]", "seq t\np = softmax[s: s <= t](sum[e](q * k[t=s]))\ny = sum[s](p * s)")
    assert found.axis("s").extent == Size("t") and not found.axis("s").sequence
    assert found.equation("p").axes == ("b", "t", "s")


def test_an_alias_of_an_alias_is_resolved() -> None:
    found = layer("x[b, t]", "a[b, s] = x[t=s]\nc[b, u] = a[s=u]\ny = sum[u](c) + x")
    assert found.axis("u").extent == Size("t")


def test_a_name_in_brackets_alone_introduces_an_axis() -> None:
    found = layer("x[b, t]", "a = x[t=s]\ny = sum[s](a) + x")
    assert found.equation("a").axes == ("b", "s")


def test_stated_extents() -> None:
    text = (
        "layer f(x[b, t], *, w: int) -> y[b, t]:\n    seq t\n    axis i < 2 * w\n"
        "    y = sum[i](x[t-i]) + sum[j < w](x[t-j])\n"
    )
    found = program(text, statics={"w": 3})
    assert found.axis("i").extent == Const(6, INT) and found.axis("j").extent == Const(3, INT)


# ---------------------------------------------------------------- splits


def test_split_reads_parts_by_division() -> None:
    found = layer("x[b, d], w[g]", "axis d = (g r)\ny = x * w", "y[b, d]")
    assert equations(found)["y[b, d]"] == "x * w[g = d // #r]"
    assert [print_expr(r.condition) for r in found.requirements] == ["#d % #g == 0"]
    x = np.arange(6.0).reshape(1, 6)
    np.testing.assert_allclose(values(found, x=x, w=[1.0, 10.0]), [[0, 1, 2, 30, 40, 50]])


def test_split_merges() -> None:
    found = layer("x[b, d], w[g]", "axis d = (g r)\ny[b, g, r] = x * w", "y[b, g, r]")
    assert equations(found)["y[b, g, r]"] == "x[d = g * #r + r] * w"


def test_sum_over_a_part_of_a_split() -> None:
    found = layer("x[b, d], w[g]", "axis d = (g r)\ns = sum[r](x)\ny = x / s * w", "y[b, d]")
    assert found.equation("s").axes == ("b", "g")
    x = np.arange(1.0, 7.0).reshape(1, 6)
    np.testing.assert_allclose(values(found, x=x, w=[1.0, 1.0]), x / np.repeat([[6.0, 15.0]], 3, axis=1))
    inside = layer("x[b, d], w[g]", "axis d = (g r)\ny = x / sum[r](x) * w", "y[b, d]")
    np.testing.assert_allclose(values(inside, x=x, w=[1.0, 1.0]), x / np.repeat([[6.0, 15.0]], 3, axis=1))


def test_unused_split_vanishes() -> None:
    text = (
        "layer f(x[b, d], B: [d] | [g, d]) -> y[b, d]:\n    axis d = (g r)\n"
        "    C = B when not carries(B, g) else B * g\n    y = x * C\n"
    )
    assert {a.name for a in program(text).axes} == {"b", "d"}
    wide = program(text, signatures={"B": ("g", "d")})
    assert {a.name for a in wide.axes} == {"b", "d", "g", "r"}


def test_three_known_extents_of_a_split_must_agree() -> None:
    found = layer("x[b, d], w[g], v[r]", "axis d = (g r)\ny = x * w * v", "y[b, d]")
    assert [print_expr(r.condition) for r in found.requirements] == ["#d == #g * #r"]


# ---------------------------------------------------------------- statics and absence


def test_absent_inputs_leave_no_trace() -> None:
    text = (
        "layer f(x[t], D[t] = 0, w[t] = 1, m[t]: bool = true, z[t]?, h0[] = 0) -> y[t]:\n    seq t\n"
        "    h = exp(D) * h[t-1] + x * w\n    h[t<0] = h0\n    s = where(m, h, 0) + D * x\n"
        "    y = s * silu(z) when given(z) else s\n"
    )
    found = program(text, present=set())
    assert equations(found) == {"h[t]": "h[t-1] + x", "s[t]": "h", "y[t]": "s"}
    assert found.extensions == () and [t.name for t in found.inputs] == ["x"]
    full = program(text)
    assert equations(full)["s[t]"] == "where(m, h, 0) + D * x" and len(full.extensions) == 1


def test_what_the_author_wrote_is_not_simplified() -> None:
    assert equations(layer("x[b, t]", "y = 0 * x + 1 * x"))["y[b, t]"] == "0 * x + 1 * x"


def test_static_choice() -> None:
    text = (
        "layer f(x[t], *, kind: enum(tanh, relu) = relu, n: int = 3, on: bool = true) -> y[t]:\n"
        "    a = tanh(x) when kind == tanh else relu(x)\n    y = a * n when on and n > 2 else a\n"
    )
    assert equations(program(text)) == {"a[t]": "relu(x)", "y[t]": "a * 3"}
    assert equations(program(text, statics={"kind": "tanh", "on": False})) == {"a[t]": "tanh(x)", "y[t]": "a"}


def test_static_bools_in_conditions_are_decided() -> None:
    text = "layer f(x[t], *, causal: bool = true) -> y[t]:\n    seq t\n    y = sum[s: s <= t or not causal](x[t=s])\n"
    assert equations(program(text))["y[t]"] == "sum[s: s <= t](x[t=s])"
    assert equations(program(text, statics={"causal": False}))["y[t]"] == "sum[s](x[t=s])"


def test_default_of_a_complex_input() -> None:
    found = layer("x[b, t]: complex, B[t]: complex = 1, C[t]: complex = 2i", "y = re(x / B + C)", present=set())
    assert equations(found)["y[b, t]"] == "re(x / 1.0 + 2.0i)"


# ---------------------------------------------------------------- expressions


def test_literals_keep_their_type() -> None:
    found = layer("x[b, t]", "y = x * 2 + 0.5 * re(2i) + pi")
    constants = {(c.value, c.dtype) for c in _constants(found)}
    assert constants == {(2, INT), (0.5, REAL), (2j, COMPLEX), (math.pi, REAL)}


def _constants(found: Program) -> list[Const]:
    from ssmc.ir import walk

    return [n for e in found.equations for n in walk(e.expr) if isinstance(n, Const)]


def test_element_types_are_inferred() -> None:
    found = layer(
        "x[b, t], c[b, t]: complex, n[b, t]: int",
        "a = x > 0\nm = a + n\nk = n // 2\nq = n / 2\nz = c * x\ny = re(z) + q + k + m",
    )
    types = {e.name: e.dtype for e in found.equations}
    assert types == {"a": BOOL, "m": INT, "k": INT, "q": REAL, "z": COMPLEX, "y": REAL}


def test_the_type_of_a_recurrence_climbs() -> None:
    found = layer("x[b, t], a[]: complex", "seq t\nh = a * h[t-1] + x\nn = n[t-1] + 1\ny = re(h) * n")
    assert found.equation("h").dtype is COMPLEX and found.equation("n").dtype is INT


def test_indexing_a_value_gives_it_an_equation() -> None:
    found = layer("x[b, t]", "seq t\ny = sigmoid(x)[t-1] + (x * x)[t-2]")
    assert equations(found) == {"_1[b, t]": "sigmoid(x)", "_2[b, t]": "x * x", "y[b, t]": "_1[t-1] + _2[t-2]"}
    assert values(found, x=[[0.0, 0.0]])[0].tolist() == [0, 0.5]


def test_concat_becomes_a_choice_of_index() -> None:
    found = layer("a[b, e], c[b, f]", "y = concat[m](a[e=m], 2 * c[f=m], a[e=m])", "y[b, m]")
    assert isinstance(found.equation("y").expr, Where)
    assert print_expr(found.axis("m").extent or Const(0, INT)) == "#e + #f + #e"
    assert values(found, a=[[1.0, 2.0]], c=[[3.0]]).tolist() == [[1, 2, 6, 1, 2]]


def test_clamp_and_power() -> None:
    found = layer("x[b, t]", "y = clamp(x, -1, 1) ^ 2")
    assert equations(found)["y[b, t]"] == "min(max(x, -1), 1) ^ 2"


def test_a_reduction_over_the_axis_of_the_equation() -> None:
    found = layer("x[b, t]", "y = x - mean[t](x)")
    assert values(found, x=[[1.0, 3.0]]).tolist() == [[-1, 1]]


def test_backwards_recurrence_with_an_extension() -> None:
    found = layer("a[b, t], x[b, t], g0[b]", "seq t\ny = a[t+1] * y[t+1] + x\ny[t >= #t] = g0\na[t >= #t] = 1")
    assert {(e.tensor, e.side) for e in found.extensions} == {("y", "after"), ("a", "after")}
    assert values(found, a=[[9.0, 2.0]], x=[[1.0, 1.0]], g0=[10.0]).tolist() == [[23, 11]]


def test_gather_and_argsort() -> None:
    found = layer("x[b, t], c[b, t]: int", "o = argsort[t](x)\ny = x[t=o] + x[t=c]")
    assert found.equation("o").dtype is INT
    assert values(found, x=[[3.0, 1.0]], c=[[1, 7]]).tolist() == [[2, 3]]


# ---------------------------------------------------------------- calls

CELL = "layer cell(x[d], h[d], a[d]) -> n[d]:\n    n = a * h + x\n\n"


def test_a_call_is_lifted_and_recurs_through_time() -> None:
    found = program(
        CELL + "layer f(x[b, t, d], a[d]) -> h[b, t, d]:\n    seq t\n    h = cell(x, h[t-1], a)\n", layer="f"
    )
    assert equations(found) == {
        "cell.h[b, t, d]": "h[t-1]",
        "cell.n[b, t, d]": "a * cell.h + x",
        "h[b, t, d]": "cell.n",
    }


def test_second_call_gets_a_number_and_axes_a_path() -> None:
    conv = "layer conv(x[b, t], *, w: int) -> y[b, t]:\n    seq t\n    y = sum[j < w](x[t-j])\n\n"
    found = program(conv + "layer f(x[b, t]) -> y[b, t]:\n    y = conv(x, w=2) + conv(x, w=3)\n", layer="f")
    assert [e.name for e in found.equations] == ["conv.y", "conv_2.y", "y"]
    assert found.axis("conv.j").extent == Const(2, INT) and found.axis("conv_2.j").extent == Const(3, INT)
    assert found.axis("t").sequence


def test_axes_are_renamed() -> None:
    scale = "layer scale(x[t, d], w[d]) -> y[t, d]:\n    y = x * w / sum[d](w)\n\n"
    found = program(scale + "layer f(x[b, t, h], w[h]) -> y[b, t, h]:\n    y = scale(x, w)[d=h]\n", layer="f")
    assert equations(found)["scale.y[b, t, h]"] == "x * w / sum[h](w)"


def test_output_axes_match_the_caller_by_name() -> None:
    text = (
        "layer taps(w[d]) -> K[d, l]:\n    K[d, l < 3] = w * l\n\n"
        "layer f(x[b, d], w[d]) -> y[b, d]:\n    y = x * sum[l](taps(w))\n"
    )
    found = program(text, layer="f")
    assert found.axis("l").extent == Const(3, INT)


def test_a_missing_axis_is_the_same_along_it() -> None:
    text = (
        "layer g(x[b, t], p[b, t]: int) -> y[b, t]:\n    seq t\n    y = x * p[t-1]\n\n"
        "layer f(x[b, t]) -> y[b, t]:\n    seq t\n    y = g(x, t) + g(x, 2)\n"
    )
    found = program(text, layer="f")
    assert found.equation("g.p").axes == ("b", "t")
    assert values(found, x=[[1.0, 1.0, 1.0]]).tolist() == [[0, 2, 3]]


def test_absence_is_passed_on() -> None:
    text = (
        "layer g(x[t], D[t] = 0, z[t]?) -> y[t]:\n    s = x + D\n    y = s * z when given(z) else s\n\n"
        "layer f(x[t], D[t] = 0, z[t]?) -> y[t]:\n    y = g(x, D, z=z)\n"
    )
    assert equations(program(text, layer="f", present=set()))["g.s[t]"] == "x"
    assert equations(program(text, layer="f"))["g.y[t]"] == "g.s * z"


def test_signatures_are_chosen_by_the_axes_of_the_argument() -> None:
    text = (
        "layer g(x[b, t], w: [t] | [b, t]) -> y[b, t]:\n    y = x * w when carries(w, b) else x + w\n\n"
        "layer f(x[b, t], v[t]) -> y[b, t]:\n    u = v * 2\n    w = x * v\n    y = g(x, u) + g(x, w) + g(x, later)\n"
        "    later = w + 1\n"
    )
    found = equations(program(text, layer="f"))
    assert (found["g.y[b, t]"], found["g_2.y[b, t]"], found["g_3.y[b, t]"]) == ("x + u", "x * w", "x * later")


def test_several_outputs_and_statics() -> None:
    text = (
        "layer g(x[t], *, k: enum(a, b) = a, n: int = 1) -> y[t], s[t]: int:\n"
        "    y = x * n when k == a else x\n    s = int(x)\n\n"
        "layer f(x[t], *, k: enum(a, b) = b, m: int = 2) -> y[t], s[t]: int:\n    y, s = g(x, k=k, n=m + 1)\n"
    )
    assert equations(program(text, layer="f", statics={"k": "a"}))["g.y[t]"] == "x * 3"
    assert program(text, layer="f").equation("s").dtype is INT


def test_extensions_come_along() -> None:
    text = (
        "layer g(x[b, t], x0[b]) -> y[b, t]:\n    seq t\n    y = x[t-1]\n    x[t<0] = x0\n\n"
        "layer f(x[b, t], x0[b]) -> y[b, t]:\n    y = g(2 * x, x0) + g(x, 3 * x0)\n"
    )
    found = program(text, layer="f")
    assert [e.tensor for e in found.extensions] == ["g.x", "g_2.x"]
    assert values(found, x=[[1.0, 2.0]], x0=[1.0]).tolist() == [[4, 3]]


# ---------------------------------------------------------------- functions and gradients

ROOT = (
    "fn root(v, *, least: real = 1e-6) -> s:\n    s = sqrt(v)\n"
    "    backward:\n        slope = sqrt(max(4 * v, least))\n        d.v = d.s / slope\n\n"
)


def test_elementwise_function() -> None:
    found = program(ROOT + "layer f(x[t]) -> y[t]:\n    y = root(x) + root(2 * x) + root(x, least=0.5)\n", layer="f")
    assert [f.name for f in found.functions] == ["root", "root_2"]
    (parameter, adjoint) = found.functions[0].backward[0]
    assert parameter == "v" and print_expr(adjoint) == "d.s[] / sqrt(max(4 * v[], 1e-06))"
    assert equations(found)["y[t]"] == "root(x) + root(2 * x) + root_2(x)"


def test_functions_call_functions() -> None:
    text = "fn g(v) -> s:\n    s = h(v) + 1\n\nfn h(v) -> s:\n    a = v * 2\n    s = a * a\n\n"
    found = program(text + "layer f(x[t]) -> y[t]:\n    y = g(x)\n", layer="f")
    assert [f.name for f in found.functions] == ["h", "g"]
    assert values(found, x=[1.0, 2.0]).tolist() == [5, 17]


def test_complex_function() -> None:
    text = "fn g(v) -> s: complex:\n    s = conj(v) * v\n\nlayer f(x[t]: complex) -> y[t]:\n    y = re(g(x))\n"
    assert program(text, layer="f").functions[0].dtype is COMPLEX


def test_opaque_function() -> None:
    text = (
        "fn F(x[b, t]) -> y[b, t]\n\nlayer f(x1[b, t], x2[b, t]) -> y1[b, t], y2[b, t]:\n"
        "    y1 = x1 + F(x2)\n    y2 = F(2 * y1)\n"
    )
    found = program(text, layer="f")
    assert [e.name for e in found.equations] == ["F.y", "y1", "F.x", "y2"]
    assert equations(found)["y2[b, t]"] == "F(F.x)"


def test_backward_block_of_a_called_layer() -> None:
    text = (
        "layer g(x[t, d], w[d], n[]: int) -> y[t, d]:\n    a = x * w\n    y = a * n\n    backward:\n"
        "        u = d.y * n\n        d.x = u * w\n        d.w = sum[t](u * x)\n\n"
        "layer f(x[b, t, d], w[d], n[]: int) -> y[b, t, d]:\n    y = g(x, w, n) + 1\n"
    )
    found = program(text, layer="f")
    (custom,) = found.customs
    assert (custom.name, custom.inputs, custom.outputs) == ("g", ("g.x", "g.w"), ("g.y",))
    shapes = {e.name: e.axes for e in custom.equations}
    assert shapes["d.g.x"] == found.equation("g.x").axes and shapes["d.g.w"] == ("d",)
    adjoint = custom.equations[-1].expr
    assert isinstance(adjoint, Reduce) and adjoint.axes == ("b",)  # the lifted axis is summed over


def test_backward_block_of_the_layer_itself() -> None:
    found = layer("x[b, t], m[t]: bool = true", "y = where(m, 2 * x, 0)\nbackward:\n    d.x = where(m, 2 * d.y, 0)")
    (custom,) = found.customs
    assert (custom.name, custom.inputs, custom.outputs) == ("f", ("x",), ("y",))
    assert isinstance(custom.equations[0].expr, Where)


# ---------------------------------------------------------------- faces


def test_signature_needs_no_elaboration() -> None:
    found = signature(load_module("selective_scan"))
    by_name = {i.name: i for i in found.inputs}
    assert by_name["B"].alternatives == (("b", "t", "n"), ("b", "t", "g", "n"), ("d", "n"))
    assert by_name["D"].default == 0 and by_name["z"].optional and by_name["x"].required
    assert [(s.name, s.kind, s.default) for s in found.statics] == [("softplus_dt", "bool", True)]
    assert [(o.name, o.axes, o.dtype) for o in found.outputs] == [("y", ("b", "t", "d"), REAL)]
    assert found.doc.startswith("Mamba")


def test_every_node_has_a_span() -> None:
    from ssmc.ir import walk

    for name in ("selective_scan", "local_attention", "reformer"):
        found = elaborate(load_module(name))
        nodes = [n for e in found.equations for n in walk(e.expr)]
        assert all(n.span is not None for n in (*nodes, *found.equations, *found.axes, *found.inputs))


def test_unknown_layers() -> None:
    module = load_module("norms")
    with pytest.raises(UserError, match="did you mean `rms_norm`"):
        elaborate(module, "rms_nrom")
    with pytest.raises(UserError, match="defines no layer"):
        elaborate(module_from_text("fn F(x[t]) -> y[t]\n"))


def test_a_module_with_syntax_errors_loads_but_is_not_elaborated() -> None:
    module = module_from_text("layer f(x[t]) -> y[t]:\n    require 1 +\n    y = 2 * x\n")
    assert len(check(module)) == 1
    for use in (elaborate, signature):
        with pytest.raises(UserError, match="ends too early"):
            use(module)


def test_circular_imports_are_fine(tmp_path: Any) -> None:
    (tmp_path / "a.ssm").write_text(
        "from b import g\n\nlayer f(x[t]) -> y[t]:\n    y = g(x)\n\nlayer h(x[t]) -> y[t]:\n    y = 2 * x\n"
    )
    (tmp_path / "b.ssm").write_text("from a import h\n\nlayer g(x[t]) -> y[t]:\n    y = h(x) + 1\n")
    module = load_module(tmp_path / "a.ssm")
    assert check(module) == []
    assert [e.name for e in elaborate(module).equations] == ["g.h.y", "g.y", "y"]


def test_printed_read_has_op_shape() -> None:
    found = read_program("layer f(x[t]) -> y[t]:\n    y[t] = x[t - 1] * -(1) + -1\n")
    assert found.equation("y").expr == Op(
        "add",
        (Op("mul", (Read("x", (Op("sub", (_t(), Const(1, INT))),)), Op("neg", (Const(1, INT),)))), Const(-1, INT)),
    )


def _t() -> Any:
    from ssmc.ir import Index

    return Index("t")
