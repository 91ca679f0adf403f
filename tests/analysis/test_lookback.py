"""How far programs look back, and the state that follows."""

from __future__ import annotations

import pytest

from ssmc.analysis import Counter, LookBack, StateTensor, carried_state, look_back
from ssmc.ir import INT, Program, print_expr
from tests.building import before, equation, fold, index, op, program, read, size, tensor, where

t, s, j = index("t"), index("s"), index("j")


def of(given: Program, name: str) -> LookBack:
    return look_back(given)[name, "t"]


def depth(given: Program, name: str) -> str:
    found = of(given, name).depth
    return "all" if found is None else print_expr(found)


def test_constant_lags() -> None:
    given = program([tensor("x t")], [equation("y t", read("x", t - 3) + read("x", t - 1) + read("x", "t"))])
    assert depth(given, "x") == "3" and of(given, "x").causal
    assert depth(given, "y") == "0"


def test_windows() -> None:
    stated = fold("sum", "j", read("x", t - j))
    assert depth(program([tensor("x t")], [equation("y t", stated)], extents={"j": 4}), "x") == "3"
    taps = fold("sum", "j", read("w", "j") * read("x", t - (size("j") - 1 - j)))
    given = program([tensor("x t"), tensor("w j")], [equation("y t", taps)])
    assert depth(given, "x") == "#j - 1" and of(given, "x").causal
    both = program([tensor("x t"), tensor("w j")], [equation("y t", taps + read("x", t - 2))])
    assert depth(both, "x") == "max(2, #j - 1)"


@pytest.mark.parametrize("bound, expected", [(t - s < 5, "4"), (t - s <= 5, "5"), (s > t - 3, "2"), (s >= t, "0")])
def test_bands(bound: object, expected: str) -> None:
    banded = fold("sum", "s", read("x", "s"), (s <= t) & bound)  # type: ignore[operator]
    given = program([tensor("x t")], [equation("y t", banded)], extents={"s": size("t")})
    assert depth(given, "x") == expected and of(given, "x").causal


def test_unbounded_history_and_the_future() -> None:
    past = fold("sum", "s", read("x", "s"), s <= t)
    given = program([tensor("x t")], [equation("y t", past)], extents={"s": size("t")})
    assert depth(given, "x") == "all" and of(given, "x").causal and of(given, "x").past is None
    future = program([tensor("x t")], [equation("y t", fold("sum", "s", read("x", "s")))], extents={"s": size("t")})
    assert not of(future, "x").causal
    ahead = program([tensor("x t")], [equation("y t", read("x", t + 2))])
    assert not of(ahead, "x").causal and of(ahead, "x").lags[0].constant == -2
    first = program([tensor("x t")], [equation("y t", read("x", 0))])
    assert depth(first, "x") == "all" and of(first, "x").causal


def test_whole_reads_and_gathers() -> None:
    given = program([tensor("x t d")], [equation("y d", fold("sum", "t", read("x", "t", "d")))])
    assert of(given, "x").whole and not of(given, "x").causal
    gathered = program([tensor("x t"), tensor("k t", INT)], [equation("y t", read("x", read("k", "t")))])
    assert of(gathered, "x").data_dependent and not of(gathered, "x").causal


def attention(outputs: str = "y") -> Program:
    score = fold("sum", "e", read("q", "t", "e") * read("k", "s", "e"))
    return program(
        [tensor("q t e"), tensor("k t e"), tensor("v t f")],
        [
            equation("score t s", score),
            equation("p t s", fold("softmax", "s", read("score", "t", "s"), (s <= t) & (t - s < 3))),
            equation("y t f", fold("sum", "s", read("p", "t", "s") * read("v", "s", "f"))),
        ],
        outputs,
        extents={"s": size("t")},
    )


def test_a_condition_bounds_what_is_behind_it() -> None:
    """The band is written once, in the softmax: the score is read only inside it, the sum is 0 outside."""
    assert depth(attention(), "k") == "2" and of(attention(), "k").causal
    assert depth(attention(), "v") == "2" and of(attention(), "v").causal
    assert not of(attention("y score"), "k").causal, "an output is needed everywhere"


def test_a_condition_bounds_through_a_shifted_read() -> None:
    given = program(
        [tensor("x t")],
        [
            equation("u t s", read("x", "s")),
            equation("y t", fold("sum", "s", read("u", t - 1, "s"), (s < t) & (t - s < 4))),
        ],
        extents={"s": size("t")},
    )
    assert depth(given, "x") == "2", "u[t-1, s] has lags t-1-s from 0 to 2"
    assert depth(given, "u") == "1"


def test_guards() -> None:
    guarded = where(op("lt", j, 2), read("x", t - j), 0.0)
    given = program([tensor("x t")], [equation("y t", fold("sum", "j", guarded))], extents={"j": 9})
    assert depth(given, "x") == "1"


def test_state_of_a_recurrence_and_its_position() -> None:
    given = program(
        [tensor("x b t d"), tensor("h0 b d")],
        [
            equation("h b t d", 0.5 * read("h", "b", t - 1, "d") + read("x", "b", "t", "d")),
            equation("y b t d", read("h", "b", "t", "d") * t + read("x", "b", t - 2, "d")),
        ],
        extensions=[before("h", "t", read("h0", "b", "d"))],
    )
    found = carried_state(given)
    kept = [(item.name, print_expr(item.depth)) for item in found if isinstance(item, StateTensor) and item.depth]
    assert kept == [("x", "2"), ("h", "1")]
    assert found[-1] == Counter("t")
    history = program(
        [tensor("x t")], [equation("y t", fold("sum", "s", read("x", "s"), s < t))], extents={"s": size("t")}
    )
    assert carried_state(history) == (StateTensor("x", "t", ("t",), None), Counter("t"))


def test_an_index_that_only_selects_is_no_position() -> None:
    given = program([tensor("x t"), tensor("p n")], [equation("y t", read("x", t - 1))])
    assert not any(isinstance(item, Counter) for item in carried_state(given))
    table = program([tensor("x t"), tensor("p n")], [equation("y t", read("x", "t") + read("p", t))])
    assert Counter("t") in carried_state(table)
