"""Each kind of recurrence in the table of constructs."""

from __future__ import annotations

import pytest

from ssmc.analysis import Recurrence, affine_form, classify
from ssmc.ir import COMPLEX, Program
from tests.building import after, equation, fold, index, op, program, read, tensor, where

t, j = index("t"), index("j")


def only(given: Program) -> Recurrence:
    (found,) = classify(given)
    return found


def test_selective_scan() -> None:
    h = op("exp", read("delta", "b", "t", "d") * read("A", "d", "n")) * read("h", "b", t - 1, "d", "n")
    update = read("delta", "b", "t", "d") * read("B", "b", "t", "n") * read("x", "b", "t", "d")
    given = program(
        [tensor("x b t d"), tensor("delta b t d"), tensor("A d n"), tensor("B b t n"), tensor("C b t n")],
        [
            equation("h b t d n", h + update),
            equation("y b t d", fold("sum", "n", read("C", "b", "t", "n") * read("h", "b", "t", "d", "n"))),
        ],
    )  # fmt: skip
    kind = only(given)
    assert kind.equations == ("h",) and kind.axis == "t" and kind.direction == 1
    assert kind.order is not None and kind.order.constant == 1
    assert kind.affine and kind.elementwise and not kind.time_invariant and not kind.matrix_shaped


@pytest.mark.parametrize("per_state", [False, True])
def test_matrix_shaped(per_state: bool) -> None:
    """A decay per head admits chunks of matrix products; one per state does not."""
    a = read("a", "b", "t", "h") if not per_state else read("a", "b", "t", "h") * read("w", "n")
    update = read("v", "b", "t", "h", "p") * read("B", "b", "t", "h", "n")
    given = program(
        [tensor("a b t h"), tensor("v b t h p"), tensor("B b t h n"), tensor("w n")],
        [
            equation("s b t h p n", a * read("s", "b", t - 1, "h", "p", "n") + update),
            equation("y b t h p", fold("sum", "n", read("B", "b", "t", "h", "n") * read("s", "b", "t", "h", "p", "n"))),
        ],
    )
    assert only(given).matrix_shaped is not per_state


def test_matrix_shaped_needs_contracted_readers_only() -> None:
    update = read("v", "t", "p") * read("k", "t", "n")
    state = equation("s t p n", read("s", t - 1, "p", "n") + update)
    y = equation("y t p", fold("sum", "n", read("k", "t", "n") * read("s", "t", "p", "n")))
    inputs = [tensor("v t p"), tensor("k t n")]
    assert only(program(inputs, [state, y])).matrix_shaped
    assert not only(program(inputs, [state, y], "y s")).matrix_shaped
    bilinear = equation("s t p n", read("s", t - 1, "p", "n") + op("tanh", update))
    assert not only(program(inputs, [bilinear, y])).matrix_shaped


def test_time_invariant_and_complex() -> None:
    h = read("a", "n") * read("h", t - 1, "n") + read("x", "t")
    given = program(
        [tensor("a n", COMPLEX), tensor("x t")],
        [equation("h t n", h, COMPLEX), equation("y t", op("re", fold("sum", "n", read("h", "t", "n"))))],
    )
    assert only(given).time_invariant and only(given).elementwise
    conjugated = equation("h t n", op("conj", read("h", t - 1, "n")) + read("x", "t"), COMPLEX)
    assert not only(program([tensor("a n", COMPLEX), tensor("x t")], [conjugated], "h")).affine


def test_shift_is_neither_elementwise_nor_contracting() -> None:
    shift = read("s", t - 1, index("n") - 1) + read("B", "n") * read("k", "t")
    kind = only(program([tensor("B n"), tensor("k t")], [equation("s t n", shift)], "s"))
    assert kind.affine and kind.shifts == ("n",) and not kind.elementwise and kind.time_invariant


def test_contracting_affine_and_not() -> None:
    past = fold("sum", "j", read("w", "i", "j") * read("h", t - 1, "j"))
    inputs = [tensor("w i j"), tensor("x t i")]
    kind = only(program(inputs, [equation("h t i", past + read("x", "t", "i"))], "h"))
    assert kind.affine and kind.contracts == ("j",) and not kind.elementwise and kind.time_invariant
    kind = only(program(inputs, [equation("h t i", op("tanh", past + read("x", "t", "i")))], "h"))
    assert not kind.affine


def test_conditions_keep_it_affine() -> None:
    reset = where(read("k", "t") > 0, 0.0, 0.9 * read("h", t - 1)) - read("h", t - 2) / 4 + read("x", "t")
    kind = only(program([tensor("k t"), tensor("x t")], [equation("h t", reset)], "h"))
    assert kind.elementwise and kind.order is not None and kind.order.constant == 2
    by_state = where(read("h", t - 1) > 0, 1.0, 2.0)
    assert not only(program([tensor("x t")], [equation("h t", by_state + read("x", "t"))], "h")).affine


def test_mutual_and_backwards() -> None:
    given = program(
        [tensor("x t")],
        [equation("u t", read("v", t + 1) + read("x", "t")), equation("v t", 2 * read("u", "t") - read("v", t + 3))],
        "u",
        extensions=[after("v", "t", 1.0)],
    )
    kind = only(given)
    assert kind.equations == ("u", "v") and kind.direction == -1 and kind.elementwise
    assert kind.order is not None and kind.order.constant == 3


def test_product_with_itself_is_not_affine() -> None:
    h = read("h", t - 1)
    assert affine_form((h * h).expr, ("h",)) is None
    form = affine_form((2 * (h - read("x", "t")) / 3).expr, ("h",))
    assert form is not None and len(form.terms) == 1 and form.rest is not None


def test_window_over_the_past() -> None:
    window = fold("sum", "j", read("w", "j") * read("h", t - 1 - j)) + read("x", "t")
    kind = only(program([tensor("w j"), tensor("x t")], [equation("h t", window)], "h"))
    assert kind.affine and kind.order is not None and not kind.order.is_constant
    assert kind.contracts == ("j",)
