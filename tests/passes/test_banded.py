"""Bands become windows; what is not a band stays."""

from __future__ import annotations

from ssmc.ir import INT, Program, print_program, verify
from ssmc.passes.banded import banded
from tests.building import Term, equation, fold, index, program, read, size, tensor

t, s = index("t"), index("s")


def attention(condition: Term, outputs: str = "y") -> Program:
    score = fold("sum", "e", read("q", "t", "e") * read("k", "s", "e")) - 0.5 * (t - s)
    return program(
        [tensor("q t e"), tensor("k t e"), tensor("v t f")],
        [
            equation("score t s", score),
            equation("p t s", fold("softmax", "s", read("score", "t", "s"), condition)),
            equation("y t f", fold("sum", "s", read("p", "t", "s") * read("v", "s", "f"))),
        ],
        outputs,
        extents={"s": size("t")},
    )


def test_attention_over_a_band() -> None:
    result = banded(attention((s <= t) & (t - s < 3)), "t")
    verify(result)
    assert (
        print_program(result)
        == """\
layer test(q[t, e], k[t, e], v[t, f]) -> y[t, f]:
    seq t
    axis s.back < 3
    score[t, s.back] = sum[e](q * k[t-s.back]) - 0.5 * s.back
    p[t, s.back] = softmax[s.back: s.back <= t](score)
    y[t, f] = sum[s.back: s.back <= t](p * v[t-s.back])
"""
    )


def test_what_is_not_a_band_is_left_alone() -> None:
    unbounded, ahead = attention(s <= t), attention(t - s < 3)
    seen = attention((s <= t) & (t - s < 3), "y score")
    assert [banded(p, "t") for p in (unbounded, ahead, seen)] == [unbounded, ahead, seen]
    best = fold("argmax", "s", read("v", "s"), (s <= t) & (t - s < 3))
    which = program([tensor("v t")], [equation("y t", best, INT)], extents={"s": size("t")})
    assert banded(which, "t") == which


def test_other_conditions_survive_and_the_widest_band_counts() -> None:
    first = fold("sum", "s", read("v", "s"), (s < t) & (t - s <= read("k", "t")) & (s > t - 4))
    second = fold("max", "s", read("v", "s"), (s <= t) & (s >= t - 7) & (read("k", "s") > 0))
    given = program(
        [tensor("v t"), tensor("k t", INT)],
        [equation("y t", first), equation("z t", second)],
        "y z",
        extents={"s": size("t")},
    )
    result = banded(given, "t")
    verify(result)
    text = print_program(result)
    assert "axis s.back < 8" in text
    assert "sum[s.back: s.back <= t and s.back > 0 and s.back <= k and s.back < 4](v[t-s.back])" in text
    assert "max[s.back: s.back <= t and k[t-s.back] > 0](v[t-s.back])" in text
