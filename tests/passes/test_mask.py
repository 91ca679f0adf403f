"""Padded sequences are: move valid tokens together, run, put them back; 0 elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st

from ssmc.errors import Unsupported
from ssmc.ir import (
    Program,
    complete_extents,
    print_program,
    verify,
)
from ssmc.ir.interpret import interpret
from ssmc.passes import mask, pack, reverse, rows, step
from tests.building import equation, fold, index, op, program, read, tensor
from tests.library_cases import Case
from tests.passes.meanings import LAYERS, check_form, check_gradient, documents_of, forms, run_masked, same
from tests.strategies import CAUSAL, EVERYTHING, extents, inputs_for, programs

SAMPLED = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
t = index("t")


def arguments(masked: Program, valid: Any, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Random inputs for a masked Program; ``valid`` is text, a row a line: x a token, . padding."""
    marks = np.array([[mark == "x" for mark in row] for row in valid], bool).reshape(len(valid), -1)
    if masked.tensors()["t.valid"].axes == ("t",):
        marks = marks[0]
    sizes = {**sizes, "b": len(valid), "t": marks.shape[-1]}
    sizes = complete_extents(masked, {axis.name: sizes[axis.name] for axis in masked.axes if axis.extent is None})
    return inputs_for(masked, sizes, np.random.default_rng(0)) | {"t.valid": marks}


def check(given: Program, valid: Any, sizes: Mapping[str, int], batch: tuple[str, ...] = ("b",)) -> Program:
    masked = mask(given, batch)
    check_form(masked)
    inputs = arguments(masked, valid, sizes)
    same(interpret(masked, inputs), run_masked(given, masked, inputs, batch))
    return masked


@st.composite
def padded(draw: st.DrawFn, rows: int, length: int) -> list[str]:
    """Padding at the start, at the end, in between, everywhere or nowhere."""
    n = length
    shapes = ["x" * n, "." * n, ("." * (n // 2)).ljust(n, "x"), ("x" * (n // 2)).ljust(n, "."), ("x." * n)[:n]]
    free = st.text("x.", min_size=n, max_size=n)
    return [draw(st.one_of(st.sampled_from(shapes), free)) for _ in range(rows)]


# ---------------------------------------------------------------- random Programs


def check_sampled(given: Program, data: st.DataObject) -> None:
    note(print_program(given))
    batch = data.draw(st.sampled_from(((), ("b",), ("b",))))
    try:
        note(print_program(mask(given, batch)))
    except Unsupported as error:
        note(str(error))
        assume(False)
    sizes = data.draw(extents(given, longest=9))
    check(given, data.draw(padded(sizes["b"], sizes["t"])), sizes, batch)


@SAMPLED
@given(programs(replace(EVERYTHING, most_equations=4)), st.data())
def test_random_programs(given: Program, data: st.DataObject) -> None:
    check_sampled(given, data)


@SAMPLED
@given(programs(CAUSAL), st.data())
def test_random_steps(given: Program, data: st.DataObject) -> None:
    """With a state in and out, forwards and backwards."""
    stepped = step(given, *data.draw(st.sampled_from(((False, True), (True, True)))))
    check_sampled(reverse(stepped) if data.draw(st.booleans()) else stepped, data)


# ---------------------------------------------------------------- the library


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_library(case: Case) -> None:
    program = case.program()
    if not program.sequence_axes:
        with pytest.raises(Unsupported, match="has 0 sequence axes, so it has no masked form"):
            mask(program)
        return
    for form in forms(program):
        check(form, ["..x.xx.x", "........", "xxx.....", "....xxxx"], case.sizes)


@pytest.mark.parametrize("valid", ["", ".", "x", "...", "xxx", ".x", "xx..x.", "..xxxxx.."])
def test_fewer_tokens_than_the_window(valid: str) -> None:
    for taps in (1, 4):
        case = Case("causal_conv1d", "causal_conv1d", {"d": 2, "k": taps, "j": taps - 1}, {}, ("seq_idx", "x0"))
        for form in (*forms(case.program()), reverse(step(case.program(), takes=True, gives=True))):
            check(form, [valid], case.sizes)


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_gradient(case: Case) -> None:
    program = case.program()
    if program.sequence_axes:
        masked = mask(forms(program)[-1])
        inputs = arguments(masked, [".x.xx", "xx..."][: case.sizes["b"]], case.sizes)
        check_gradient(masked, inputs, np.random.default_rng(1))


def test_padding_may_hold_anything() -> None:
    """Even what is not a number."""
    for case in LAYERS:
        program = case.program()
        if not program.sequence_axes:
            continue
        masked = mask(forms(program)[-1])
        inputs = arguments(masked, [".x.xx.", "xx...."], case.sizes)
        clean = interpret(masked, inputs)
        for item in masked.inputs:
            if inputs[item.name].dtype.kind in "fc" and "t" in item.axes:
                tokens = np.moveaxis(inputs[item.name], [item.axes.index("b"), item.axes.index("t")], [0, 1])
                tokens[~inputs["t.valid"]] = np.nan
        same(interpret(masked, inputs), clean, 0)


# ---------------------------------------------------------------- state


def test_padding_differs_along_the_leading_axes() -> None:
    y = equation("y b h t", read("x", "b", "h", "t") * read("k", "b", "t"))
    assert mask(program([tensor("x b h t"), tensor("k b t")], [y])).tensors()["t.valid"].axes == ("b", "t")
    y = equation("y b t", read("x", "b", "t") * read("k", "t"))
    assert mask(program([tensor("x b t"), tensor("k t")], [y])).tensors()["t.valid"].axes == ("t",)


def test_positions_of_their_own() -> None:
    """After a call with padding each row goes on from its own position: what depends on it gets the batch axis."""
    x = [tensor("x b t")]
    made = [equation("p t", op("cos", t)), equation("y b t", read("x", "b", "t") * read("p", t - 1))]
    stepped = step(program(x, made), takes=True, gives=True)
    each = rows(stepped)
    verify(each)
    assert {tensor.name: tensor.axes for tensor in each.inputs}["p.state"] == ("b", "p.past")
    assert each.equation("p").axes == ("b", "t") and each.equation("t.next_offset").axes == ("b",)
    rng = np.random.default_rng(0)
    given = {"x": rng.normal(size=(2, 3)), "p.state": rng.normal(size=(2, 1))}
    found = interpret(each, {**{n: given[n] for n in given}, "t.offset": np.array([4, 9])})
    for row, offset in enumerate((4, 9)):
        alone = {
            **given,
            "x": given["x"][row : row + 1],
            "p.state": given["p.state"][row],
            "t.offset": np.array(offset),
        }
        for name, array in interpret(stepped, alone).items():
            np.testing.assert_allclose(found[name][row], array[0] if name == "y" else array)
    plain = step(program(x, [equation("y b t", read("x", "b", t - 1))]), takes=True, gives=True)
    assert rows(plain) == plain
    mixed = program(x, [equation("y t", fold("sum", "b", read("x", "b", "t")) * t)])
    assert rows(step(mixed, takes=True, gives=False)).equation("y").axes == ("b", "t")
    mixed = program(x, [equation("y t", fold("sum", "b", read("x", "b", "t") * t))])
    with pytest.raises(Unsupported, match="'y' mixes what lies along 'b', where positions differ"):
        rows(step(mixed, takes=True, gives=False))


# ---------------------------------------------------------------- constructs


def test_text_of_a_window_and_a_recurrence() -> None:
    taps = fold("sum", "j", read("w", "j") * read("x", "b", t - index("j")))
    given = program(
        [tensor("x b t"), tensor("w j"), tensor("a b t")],
        [
            equation("u b t", taps),
            equation("h b t", read("a", "b", "t") * read("h", "b", t - 1) + read("u", "b", "t") * t),
        ],
        "h",
    )
    assert (
        print_program(mask(step(given, takes=True, gives=True)))
        == """\
layer test(
    x[b, t], w[j], a[b, t], x.state[b, x.past], h.state[b, h.past], t.offset[b]: int,
    t.valid[b, t]: bool,
) -> h[b, t], x.next[b, x.past], h.next[b, h.past], t.next_offset[b]: int:
    seq t
    axis x.past < #j - 1
    axis h.past < 1
    axis x.lags < #j - 1
    t.count[b, t]: int = t.count[t-1] + t.valid
    u[b, t] = sum[j](w * where(j > 0, x.last[x.lags=j-1, t-1], x))
    h.held[b, t] = where(t.valid, a * h.held[t-1] + u * (t.count - 1 + t.offset), h.held[t-1])
    h.held[t<0] = h.state[h.past=0]
    h[b, t] = where(t.valid, h.held, 0.0)
    x.next[b, x.past] = x.last[x.lags = #x.past - x.past - 1, t=#t-1]
    h.next[b, h.past] = h.held[t=#t-1]
    t.next_offset[b]: int = t.offset + t.count[t=#t-1]
    x.last[b, x.lags, t] = where(t.valid, where(x.lags == 0, x, x.last[x.lags-1, t-1]), x.last[t-1])
    x.last[t<0] = x.state[x.past = #j - x.lags - 2]
"""
    )


def test_what_is_masked_already() -> None:
    masked = mask(program([tensor("x b t")], [equation("y b t", read("x", "b", "t"))]))
    with pytest.raises(Unsupported, match="'t.valid' is there already: it is masked"):
        mask(masked)


def test_a_mask_inside_packed_documents() -> None:
    """Both at once: the documents are cut first, and their valid tokens moved together."""
    taps = fold("sum", "j", read("w", "j") * read("x", "b", t - index("j")))
    made = [equation("y b t", taps), equation("h b t", 0.5 * read("h", "b", t - 1) + read("y", "b", "t") * t)]
    masked = mask(program([tensor("x b t"), tensor("w j")], made, "h"))
    packed = pack(masked)
    verify(packed)
    inputs = arguments(masked, [".xx.x..x", "xxxxx..."], {"j": 3}) | {
        f"t.{n}": a for n, a in documents_of([3, 5]).items()
    }
    found = interpret(packed, inputs)["h"]
    for cut in (slice(0, 3), slice(3, 8)):
        alone = {name: inputs[name][:, cut] if name != "w" else inputs[name] for name in ("x", "w", "t.valid")}
        np.testing.assert_allclose(found[:, cut], interpret(masked, alone)["h"], 1e-12, 1e-12)
