"""Packed documents are: cut, run each, put together."""

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
)
from ssmc.ir.interpret import interpret
from ssmc.passes import pack, reverse, step
from tests.building import equation, fold, index, program, read, size, tensor
from tests.library_cases import Case
from tests.passes.meanings import LAYERS, check_form, check_gradient, documents_of, forms, run_packed, same
from tests.strategies import CAUSAL, EVERYTHING, extents, inputs_for, programs

SAMPLED = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
t = index("t")


def laid_out(lengths: list[list[int]] | list[int], time: str = "t") -> dict[str, np.ndarray]:
    """The inputs that say where documents lie, shared or for each row."""
    if not lengths or not isinstance(lengths[0], list):
        return {f"{time}.{name}": array for name, array in documents_of(lengths).items()}
    rows = [laid_out(row, time) for row in lengths]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def arguments(packed: Program, lengths: Any, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Random inputs for a packed Program on documents of these lengths."""
    where = laid_out(lengths)
    sizes = {**sizes, "t": where["t.doc"].shape[-1], "t.docs": where["t.start"].shape[-1]}
    sizes = complete_extents(packed, {axis.name: sizes[axis.name] for axis in packed.axes if axis.extent is None})
    others = replace(packed, inputs=tuple(tensor for tensor in packed.inputs if tensor.name not in where))
    return inputs_for(others, sizes, np.random.default_rng(0)) | where


def check(given: Program, lengths: Any, sizes: Mapping[str, int], batch: tuple[str, ...] = ()) -> Program:
    packed = pack(given, batch)
    check_form(packed)
    inputs = arguments(packed, lengths, sizes)
    same(interpret(packed, inputs), run_packed(given, packed, inputs, batch))
    return packed


@st.composite
def cuts(draw: st.DrawFn, rows: int | None) -> Any:
    """Lengths of documents, the same for all rows or in another order for each: some are empty."""
    first = draw(st.lists(st.sampled_from((0, 1, 2, 3, 5, 8)), min_size=1, max_size=4))
    return first if rows is None else [draw(st.permutations(first)) for _ in range(rows)]


# ---------------------------------------------------------------- random Programs


@SAMPLED
@given(programs(replace(EVERYTHING, most_equations=4)), st.data())
def test_random_programs(given: Program, data: st.DataObject) -> None:
    note(print_program(given))
    batch = data.draw(st.sampled_from(((), ("b",))))
    try:
        pack(given, batch)
    except Unsupported as error:
        note(str(error))
        assume(False)
    sizes = data.draw(extents(given, longest=1))
    check(given, data.draw(cuts(sizes["b"] if batch else None)), sizes, batch)


@SAMPLED
@given(programs(CAUSAL), st.data())
def test_random_steps(given: Program, data: st.DataObject) -> None:
    """With a state in and out, forwards and backwards."""
    stepped = step(given, *data.draw(st.sampled_from(((False, True), (True, True)))))
    if data.draw(st.booleans()):
        stepped = reverse(stepped)
    note(print_program(stepped))
    batch = data.draw(st.sampled_from(((), ("b",))))
    try:
        pack(stepped, batch)
    except Unsupported as error:
        assert "mixes what lies along 'b'" in str(error)
        assume(False)
    sizes = data.draw(extents(stepped, longest=1))
    check(stepped, data.draw(cuts(sizes["b"] if batch else None)), sizes, batch)


# ---------------------------------------------------------------- the library


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_library(case: Case) -> None:
    program = case.program()
    if not program.sequence_axes:
        with pytest.raises(Unsupported, match="has 0 sequence axes, so it has no packed form"):
            pack(program)
        return
    for form in forms(program):
        check(form, [3, 0, 1, 5, 2], case.sizes)
        check(form, [[3, 0, 1], [1, 3, 0]][: case.sizes["b"]], case.sizes, ("b",))


@pytest.mark.parametrize("lengths", [[0], [0, 0], [1], [1, 1, 1], [7], [2, 3, 4, 5], [0, 4, 0]])
def test_documents_shorter_than_the_window(lengths: list[int]) -> None:
    for taps in (1, 3, 4):
        case = Case("causal_conv1d", "causal_conv1d", {"b": 1, "d": 2, "k": taps, "j": taps - 1}, {}, ("seq_idx", "x0"))
        for form in (*forms(case.program()), reverse(step(case.program(), takes=True, gives=True))):
            check(form, lengths, case.sizes)


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_gradient(case: Case) -> None:
    program = case.program()
    if program.sequence_axes:
        form, rows = forms(program)[-1], case.sizes["b"]
        batch, lengths = ((), [3, 0, 1]) if rows == 1 else (("b",), [[3, 0, 1], [1, 3, 0]])
        packed = pack(form, batch)
        check_gradient(packed, arguments(packed, lengths, case.sizes), np.random.default_rng(1))


def test_nothing_leaks_into_the_next_document() -> None:
    """Not even what is not a number."""
    for case in LAYERS:
        program = case.program()
        if not program.sequence_axes:
            continue
        packed = pack(program)
        inputs = arguments(packed, [2, 3, 2], case.sizes)
        clean = interpret(packed, inputs)
        for name in (item.name for item in program.inputs if "t" in item.axes):
            if inputs[name].dtype.kind in "fc":
                axis = packed.tensors()[name].axes.index("t")
                np.moveaxis(inputs[name], axis, 0)[2:5] = np.nan
        for name, array in interpret(packed, inputs).items():
            axes = packed.tensors()[name].axes
            if "t" in axes:
                kept = [np.delete(a, range(2, 5), axes.index("t")) for a in (array, clean[name])]
                np.testing.assert_array_equal(*kept, err_msg=f"{case.name} {name}")


# ---------------------------------------------------------------- constructs


def test_text_of_a_window_and_a_recurrence() -> None:
    taps = fold("sum", "j", read("w", "j") * read("x", t - index("j")))
    given = program(
        [tensor("x t"), tensor("w j"), tensor("a t")],
        [equation("u t", taps), equation("h t", read("a", "t") * read("h", t - 1) + read("u", "t") * t)],
        "h",
    )
    assert (
        print_program(pack(step(given, takes=True, gives=True)))
        == """\
layer test(
    x[t], w[j], a[t], x.state[t.docs, x.past], h.state[t.docs, h.past], t.offset[t.docs]: int,
    t.doc[t]: int, t.start[t.docs]: int, t.end[t.docs]: int,
) -> h[t], x.next[t.docs, x.past], h.next[t.docs, h.past], t.next_offset[t.docs]: int:
    seq t
    axis x.past < #j - 1
    axis h.past < 1
    t.first[t]: int = t.start[t.docs=t.doc]
    t.last[t]: int = t.end[t.docs=t.doc] - 1
    u[t] = sum[j](w * where(t - j >= t.first, x[t-j], x.state[t.docs=t.doc, x.past = #j + t - t.first - j - 1]))
    h[t] = a * where(t > t.first, h[t-1], h.state[t.docs=t.doc, h.past=0]) + u * (t - t.first + t.offset[t.docs=t.doc])
    x.next[t.docs, x.past] = where(t.end + x.past - #j + 1 >= t.start, x[t = t.end + x.past - #j + 1], x.state[x.past = t.end + x.past - t.start])
    h.next[t.docs, h.past] = where(t.end > t.start, sum[t: t.doc == t.docs and t == t.last](h), h.state[h.past=0])
    t.next_offset[t.docs]: int = t.offset + (t.end - t.start)
"""  # noqa: E501
    )


def test_outputs_with_two_axes_along_the_sequence() -> None:
    pairs = equation("y b t s", read("x", "b", "t") * read("x", "b", "s"))
    with pytest.raises(Unsupported, match="output 'y' has two axes along the sequence"):
        pack(program([tensor("x b t")], [pairs], extents={"s": size("t")}))
