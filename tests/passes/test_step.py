"""A sequence in pieces is the same as the sequence whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ssmc.errors import Unsupported
from ssmc.ir import COMPLEX, INT, Apply, Opaque, Program, print_program
from ssmc.passes.step import step
from tests.building import Term, after, before, equation, fold, index, op, program, read, size, tensor, where
from tests.passes.continuation import check_continuation

t, s, j = index("t"), index("s"), index("j")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("taps", [1, 2, 4])
def test_window_with_taps_of_any_number(length: int, taps: int, rng: np.random.Generator) -> None:
    """Pieces are shorter than the look-back, and the initial values come from an input."""
    window = fold("sum", "j", read("w", "j", "d") * read("x", "b", t - (size("j") - 1 - j), "d"))
    given = program(
        [tensor("x b t d"), tensor("w j d"), tensor("x0 b k d")],
        [equation("y b t d", op("silu", window))],
        extensions=[before("x", "t", read("x0", "b", size("k") + t, "d"))],
    )
    inputs = {"x": (2, length, 3), "w": (taps, 3), "x0": (2, taps - 1, 3)}
    check_continuation(given, {name: rng.normal(size=shape) for name, shape in inputs.items()})


def test_recurrences_with_several_lags_and_initial_state(rng: np.random.Generator) -> None:
    given = program(
        [tensor("a b t n", COMPLEX), tensor("x b t"), tensor("h0 b n", COMPLEX)],
        [
            equation("h b t n", read("a", "b", "t", "n") * read("h", "b", t - 1, "n") + read("u", "b", t - 2), COMPLEX),
            equation("u b t", op("tanh", read("x", "b", "t")) + 0.3 * read("u", "b", t - 3)),
            equation("y b t", op("re", fold("sum", "n", read("h", "b", "t", "n")))),
        ],
        "y u",
        extensions=[before("h", "t", read("h0", "b", "n"))],
    )
    a = np.exp(1j * rng.normal(size=(2, 7, 3)))
    check_continuation(given, {"a": a, "x": rng.normal(size=(2, 7)), "h0": rng.normal(size=(2, 3))})
    later = step(given, takes=True, gives=True)
    assert [tensor.name for tensor in later.inputs] == ["a", "x", "u.state", "h.state"] or [
        tensor.name for tensor in later.inputs
    ] == ["a", "x", "h.state", "u.state"]
    assert "h0" not in print_program(later)


def attention(condition: Term, heads: bool = True) -> Program:
    score = fold("sum", "e", read("q", "b", "t", "e") * read("turned", "b", "s", "e"))
    return program(
        [tensor("q b t e"), tensor("k b t e"), tensor("v b t f"), tensor("mark b t", INT)],
        [
            equation("turned b t e", read("k", "b", "t", "e") * op("cos", 0.1 * t)),
            equation("score b t s", score),
            equation("p b t s", fold("softmax", "s", read("score", "b", "t", "s"), condition)),
            equation("y b t f", fold("sum", "s", read("p", "b", "t", "s") * read("v", "b", "s", "f"))),
        ],
        extents={"s": size("t")},
    )


@pytest.mark.parametrize("window", [1, 2, 3, 6])
def test_banded_attention(window: int, rng: np.random.Generator) -> None:
    """Rotated keys are carried, positions count on, and the band counts from the true start."""
    shapes: dict[str, tuple[int, ...]] = {"q": (2, 5, 3), "k": (2, 5, 3), "v": (2, 5, 2)}
    inputs: dict[str, Any] = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    inputs["mark"] = rng.integers(0, 2, size=(2, 5))
    plain = (s <= t) & (t - s < window)
    check_continuation(attention(plain), inputs)
    check_continuation(attention(plain & read("mark", "b", "s").eq(1)), inputs)
    check_continuation(attention(plain & (t - s <= read("mark", "b", "t"))), inputs)
    check_continuation(attention((s > t - window) & op("ge", t, s) & (s >= 1)), inputs)


def test_a_key_sequence_under_another_name(rng: np.random.Generator) -> None:
    """``ks[s] = k[t=s]`` is a sequence too: it is carried like any other."""
    score = read("q", "t") * read("ks", "s")
    given = program(
        [tensor("q t"), tensor("k t")],
        [
            equation("ks s", op("exp", read("k", "s")) * s),
            equation("y t", fold("max", "s", score, (s <= t) & (t - s < 3))),
        ],
        extents={"s": size("t")},
    )
    check_continuation(given, {"q": rng.normal(size=6), "k": rng.normal(size=6)})


def test_a_filter_as_long_as_it_likes(rng: np.random.Generator) -> None:
    """The band comes from the tensor's own extent: a filter is zero beyond its end."""
    filtered = fold("sum", "s", read("K", t - s) * read("x", "s"), (s <= t) & (t - s < size("l")))
    given = program([tensor("x t"), tensor("K l")], [equation("y t", filtered)], extents={"s": size("t")})
    untold = fold("sum", "s", read("K", t - s) * read("x", "s"))
    as_short = program([tensor("x t"), tensor("K l")], [equation("y t", untold)], extents={"s": size("t")})
    for filter_of in (given, as_short):
        check_continuation(filter_of, {"x": rng.normal(size=6), "K": rng.normal(size=4)})
        check_continuation(filter_of, {"x": rng.normal(size=3), "K": rng.normal(size=5)})


def test_positions_in_values_and_in_tables(rng: np.random.Generator) -> None:
    given = program(
        [tensor("x t"), tensor("table p")],
        [
            equation("y t", read("x", "t") * t + read("table", t)),
            equation("n t", where(op("ge", t, 3), t % 2, 7), INT),
        ],
        "y n",
    )
    check_continuation(given, {"x": rng.normal(size=6), "table": rng.normal(size=4)})
    later = step(given, takes=True, gives=True)
    assert later.outputs == ("y", "n", "t.next_offset") and later.inputs[-1].name == "t.offset"


def test_without_giving_or_taking() -> None:
    given = program([tensor("x t")], [equation("y t", read("x", t - 1))])
    assert step(given, takes=False, gives=False) == given
    assert step(given, takes=True, gives=False).outputs == ("y",)
    assert [i.name for i in step(given, takes=False, gives=True).inputs] == ["x"]


def refuse(given: Program, message: str) -> None:
    for takes, gives in ((True, True), (True, False), (False, True)):
        with pytest.raises(Unsupported, match=message):
            step(given, takes, gives)


def test_what_has_no_step_form() -> None:
    x = [tensor("x t")]
    alias = {"s": size("t")}
    refuse(
        program(x, [equation("y t", read("y", t + 1) + read("x", "t"))], extensions=[after("y", "t", 1.0)]),
        "'y' runs backwards along 't'",
    )
    refuse(program(x, [equation("y t", read("x", "t") / size("t"))]), "'y' uses #t, the length")
    refuse(program(x, [equation("y t", read("x", t + 1))]), "'y' reads 'x' later in 't'")
    refuse(program(x, [equation("y", fold("sum", "t", read("x", "t")))]), "'y' reads 'x' along all of 't'")
    refuse(
        program([tensor("x t"), tensor("k t", INT)], [equation("y t", read("x", read("k", "t")))]),
        "'y' reads 'x' at an index of 't' that depends on data",
    )
    history = fold("sum", "s", read("x", "s"), s <= t)
    refuse(program(x, [equation("y t", history)], extents=alias), "'y' reads 'x' at every earlier index of 't'")
    both = fold("sum", "s", read("x", "s"))
    refuse(program(x, [equation("y t", both)], extents=alias), "'y' reads 'x' later in 't'")
    refuse(program(x, [equation("y t s", read("x", "t") * s)], extents=alias), "axis 's' is as long as the whole")
    refuse(program(x, [equation("y t", read("x", "t"))], require=[(size("t") % 4).eq(0)]), "requires a fact about #t")
    even = fold("softmax", "t", 1.0)
    refuse(program(x, [equation("y t", even)]), "'y' runs over all of 't'")
    opaque = Opaque("F", (tensor("a t"),), tensor("r t"))
    refuse(program(x, [equation("y t", Apply("F", ("x",)))], opaques=(opaque,)), "'y' reads 'x' along all of 't'")
    refuse(program(x, [equation("y t", read("x", "t"))], sequence=""), "has 0 sequence axes")
    last = fold("argmax", "s", read("x", "s"), (s <= t) & (t - s < 3))
    refuse(program(x, [equation("y t", last, INT)], extents=alias), "no step form: ")
