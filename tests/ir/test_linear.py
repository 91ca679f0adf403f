"""Linear forms, what follows from conditions, and extents."""

from __future__ import annotations

import pytest

from ssmc.errors import InternalError, UserError
from ssmc.ir import (
    Index,
    Linear,
    Size,
    at_least,
    bind_extents,
    complete_extents,
    evaluate_int,
    facts,
    linear_form,
    lower_bound,
    print_expr,
    upper_bound,
)
from tests.building import Term, equation, index, op, program, read, size, tensor, where

t, s, j = index("t"), index("s"), index("j")


def form(term: Term) -> Linear:
    found = linear_form(term.expr)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "term, text",
    [
        (t - (t - j), "j"),
        (2 * (t - s) + 3 - t, "t - 2 * s + 3"),
        (-(t + 1) * 2, "-(2 * t) - 2"),
        (size("j") - 1 - j, "#j - j - 1"),
        (t - t, "0"),
    ],
)
def test_normal_form(term: Term, text: str) -> None:
    assert print_expr(form(term).expr()) == text
    assert linear_form(form(term).expr()) == form(term)


def test_what_is_not_linear() -> None:
    for term in (t * s, t // 2, read("k", t), op("minimum", t, s), op("real", t)):
        assert linear_form(term.expr) is None


def test_known_extents_are_used() -> None:
    found = linear_form((size("j") - t).expr, {"j": (2 * size("n")).expr})
    assert found == Linear(0, {Size("n"): 2, Index("t"): -1})


def test_facts_of_conditions() -> None:
    both = facts(((s <= t) & (t - s < 3)).expr)
    assert both == [form(t - s), form(2 - (t - s))]
    assert facts(op("not", op("or", t < 2, s > t)).expr) == [form(t - 2), form(t - s)]
    assert facts(t.eq(s).expr) == [form(s - t), form(t - s)]
    assert facts((t < 2).expr, holds=False) == [form(t - 2)]
    assert facts(op("or", t < 2, s > t).expr) == [] and facts(op("ne", t, s).expr) == []


def test_bounds() -> None:
    band = facts(((s <= t) & (t - s < 3)).expr)
    lag = form(t - s)
    assert lower_bound(lag, band) == Linear(0) and upper_bound(lag, band) == Linear(2)
    assert upper_bound(lag) == form(size("t") - 1) and lower_bound(lag) == form(1 - size("s"))
    symbolic = facts((t - s < size("w")).expr)
    assert upper_bound(lag, symbolic, avoid="t") == form(size("w") - 1)
    assert at_least(form(size("w") - 1), 0, frozenset("w")) and not at_least(form(size("w") - 1), 0)


def test_extents() -> None:
    given = program(
        [tensor("x t d")],
        [equation("y t", 1.0)],
        extents={"e": size("m") // 2, "m": where(size("d") > 2, 2 * size("d"), 1)},
    )
    assert bind_extents(given, {"x": (5, 3)}) == {"t": 5, "d": 3, "m": 6, "e": 3}
    assert complete_extents(given, {"t": 1, "d": 2})["e"] == 0
    negative = program([tensor("x t")], [equation("y t", 1.0)], extents={"m": size("t") - 3})
    with pytest.raises(UserError, match="the extent of axis 'm' is -1"):
        bind_extents(negative, {"x": (2,)})


def test_int_expressions() -> None:
    cases = {
        op("mod", -7, 3): 2, op("floordiv", -7, 2): -4, op("floordiv", 1, 0): 0, op("pow", 2, 5): 32,
        op("pow", 3, -1): 0, op("minimum", 2, size("t")): 2, op("and", size("t") > 3, True): 1,
    }  # fmt: skip
    for term, expected in cases.items():
        assert evaluate_int(term.expr, {"t": 9}) == expected
    with pytest.raises(InternalError, match="not an expression over extents"):
        evaluate_int(read("x").expr, {})
