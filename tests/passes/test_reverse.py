"""A layer backwards is: flip, run, flip."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from ssmc.errors import Unsupported
from ssmc.ir import INT, REAL, Apply, CustomGradient, Equation, Opaque, Program, Transform, print_program
from ssmc.ir.interpret import interpret
from ssmc.passes import grad, reverse, step
from tests.building import before, equation, fold, index, op, program, read, size, tensor
from tests.library_cases import LOWERED, Case
from tests.passes.meanings import check_form, run_reversed, same
from tests.strategies import CAUSAL, EVERYTHING, extents, inputs_for, programs

SAMPLED = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
t, s = index("t"), index("s")


def check(forwards: Program, inputs: dict[str, np.ndarray], functions: dict[str, Any] | None = None) -> Program:
    backwards = reverse(forwards)
    check_form(backwards)
    same(interpret(backwards, inputs, functions), run_reversed(forwards, inputs, functions))
    return backwards


@SAMPLED
@given(programs(EVERYTHING), st.data())
def test_random_programs(forwards: Program, data: st.DataObject) -> None:
    note(print_program(forwards))
    sizes = data.draw(extents(forwards, longest=9))
    check(forwards, inputs_for(forwards, sizes, np.random.default_rng(0)))


@SAMPLED
@given(programs(CAUSAL), st.data())
def test_the_state_of_a_reversed_step_comes_from_its_end(forwards: Program, data: st.DataObject) -> None:
    note(print_program(forwards))
    first, later = step(forwards, takes=False, gives=True), step(forwards, takes=True, gives=True)
    sizes = data.draw(extents(later, longest=7))
    for stepped in (first, later):
        check(stepped, inputs_for(stepped, sizes, np.random.default_rng(0)))


@pytest.mark.parametrize("case", LOWERED, ids=lambda case: case.name)
def test_library(case: Case) -> None:
    program = case.program()
    if not program.sequence_axes:
        with pytest.raises(Unsupported, match="has 0 sequence axes, so it has no reversed form"):
            reverse(program)
        return
    again = reverse(reverse(program))
    inputs = inputs_for(program, case.sizes, np.random.default_rng(0))
    check(program, inputs)
    same(interpret(again, inputs), interpret(program, inputs))


def test_text_of_a_scan() -> None:
    given = program(
        [tensor("a t"), tensor("x t"), tensor("h0")],
        [equation("h t", read("a", "t") * read("h", t - 1) + read("x", "t") * t)],
        "h",
        extensions=[before("h", "t", read("h0"))],
    )
    assert (
        print_program(reverse(step(given, takes=True, gives=True)))
        == """\
layer test(a[t], x[t], h.state[h.past], t.offset[]: int) -> h[t], h.next[h.past], t.next_offset[]: int:
    seq t
    axis h.past < 1
    h[t] = a * h[t+1] + x * (#t - t - 1 + t.offset)
    h[t >= #t] = h.state[h.past=#t-t]
    h.next[h.past] = h[t=0]
    t.next_offset[]: int = t.offset + #t
"""
    )


def test_conditions_turn_around_with_their_axes() -> None:
    weight = fold("softmax", "s", read("q", "t") * read("k", "s"), (s <= t) & (t - s < 3))
    given = program(
        [tensor("q t"), tensor("k t")],
        [equation("p t s", weight), equation("y t", fold("sum", "s", read("p", "t", "s") * read("k", "s")))],
        extents={"s": size("t")},
    )
    backwards = check(given, {"q": np.arange(5.0), "k": np.cos(np.arange(5.0))})
    assert "softmax[s: t <= s and s < t + 3](q * k[t=s])" in print_program(backwards)


def test_an_index_that_is_asked_for_is_that_of_the_layer() -> None:
    """The first of equals is the first of the layer's own sequence, and a sort keeps its order."""
    first = fold("argmax", "s", read("code", "s"), s <= t)
    order = Transform("argsort", "t", (read("code", "t") % 2).expr)
    given = program(
        [tensor("code t", INT), tensor("x t")],
        [equation("i t", first, INT), equation("o t", order, INT), equation("y t", read("x", read("o", "t")))],
        "i o y",
        extents={"s": size("t")},
    )
    for code in ([1, 3, 3, 0, 3], [2, 2], [1, 0, 1, 0, 1, 0, 1], []):
        check(given, {"code": np.array(code, np.int64), "x": np.arange(len(code)) * 1.5})


def test_opaque_functions_see_the_layers_own_order() -> None:
    cumulated = Opaque("F", (tensor("a t"), tensor("w n")), tensor("r t"))
    given = program(
        [tensor("x t"), tensor("w n")],
        [equation("u t", 2.0 * read("x", "t")), Equation("y", ("t",), REAL, Apply("F", ("u", "w")))],
        opaques=(cumulated,),
    )
    functions = {"F": lambda a, w: np.cumsum(a) * w.sum()}
    check(given, {"x": np.arange(4.0), "w": np.ones(2)}, functions)


def test_gradients_and_gradient_blocks() -> None:
    block = CustomGradient("f", ("x",), ("y",), (equation("d.x t", 3.0 * t * read("d.y", "t")),))
    given = program([tensor("x t")], [equation("y t", read("x", t - 1) * t)], customs=(block,))
    plain = program([tensor("x t")], [equation("y t", read("x", t - 1) * t)])
    for forwards in (given, plain):
        inputs = {"x": np.arange(5.0), "d.y": np.cos(np.arange(5.0))}
        same(interpret(grad(reverse(forwards)), inputs), run_reversed(grad(forwards), inputs))


def test_state_and_gradients_of_attention_over_a_band() -> None:
    score = op("exp", read("q", "t") * read("k", "s"))
    given = program(
        [tensor("q t"), tensor("k t")],
        [equation("y t", fold("sum", "s", score * s, (s <= t) & (t - s < 3)))],
        extents={"s": size("t")},
    )
    stepped = step(given, takes=True, gives=True)
    rng = np.random.default_rng(1)
    inputs = {"q": rng.normal(size=5), "k": rng.normal(size=5), "k.state": rng.normal(size=2), "t.offset": np.array(2)}
    check(stepped, inputs)
    inputs |= {"d.y": rng.normal(size=5), "d.k.next": rng.normal(size=2)}
    same(interpret(grad(reverse(stepped)), inputs), run_reversed(grad(stepped), inputs))
