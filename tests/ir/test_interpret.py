"""Each construct of the language against the same thing written in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ssmc.errors import UserError
from ssmc.ir import BOOL, COMPLEX, INT, REAL, Apply, Call, Function, Opaque, Program, Read, Transform, verify
from ssmc.ir import interpret as module
from ssmc.ir.interpret import interpret
from tests.building import (
    after,
    before,
    equation,
    fold,
    index,
    op,
    program,
    read,
    size,
    tensor,
    where,
)

t, s, j, n = index("t"), index("s"), index("j"), index("n")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def run(given: Program, **inputs: Any) -> np.ndarray:
    verify(given)
    result = interpret(given, inputs)
    return result[given.outputs[0]]


# ---------------------------------------------------------------- maps and axes


def test_broadcasting_is_by_name(rng: np.random.Generator) -> None:
    """Equal extents everywhere, so that aligning by position would go unnoticed otherwise."""
    x, w = rng.normal(size=(3, 3, 3)), rng.normal(size=(3, 3))
    given = program(
        [tensor("x b t d"), tensor("w d b")],
        [equation("y d t b", read("x", "b", "t", "d") * read("w", "d", "b"))],
    )
    np.testing.assert_array_equal(run(given, x=x, w=w), np.einsum("btd,db->dtb", x, w))


def test_left_side_may_have_more_axes(rng: np.random.Generator) -> None:
    given = program([tensor("x t"), tensor("w d")], [equation("y t d", read("x", "t"))])
    x = rng.normal(size=5)
    np.testing.assert_array_equal(run(given, x=x, w=np.zeros(2)), np.repeat(x[:, None], 2, 1))


def test_indices_and_sizes_are_ints() -> None:
    given = program([tensor("x t"), tensor("w d")], [equation("y t d", t * size("d") + index("d"), INT)])
    result = run(given, x=np.zeros(4), w=np.zeros(3))
    assert result.dtype == np.int64
    np.testing.assert_array_equal(result, np.arange(12).reshape(4, 3))


def test_scalars() -> None:
    given = program([tensor("x"), tensor("k", INT)], [equation("y", read("x") / read("k"))], sequence="")
    assert run(given, x=3.0, k=4) == 0.75


# ---------------------------------------------------------------- indexing


@pytest.mark.parametrize("extent", [1, 2, 3, 4, 7])
def test_window_reads_zero_outside(extent: int, rng: np.random.Generator) -> None:
    x, w = rng.normal(size=(2, extent)), rng.normal(size=3)
    given = program(
        [tensor("x b t"), tensor("w j")],
        [equation("y b t", fold("sum", "j", read("w", "j") * read("x", "b", t - j)))],
    )
    padded = np.pad(x, ((0, 0), (2, 0)))
    expected = sum(w[k] * padded[:, 2 - k : 2 - k + extent] for k in range(3))
    np.testing.assert_allclose(run(given, x=x, w=w), expected, atol=1e-15)


def test_gather_by_data_never_faults(rng: np.random.Generator) -> None:
    table, token = rng.normal(size=(4, 2)), np.array([0, 3, 4, -1, 2, 10**15])
    given = program(
        [tensor("E c d"), tensor("token t", INT)],
        [equation("y t d", read("E", read("token", "t"), "d"))],
    )
    expected = np.where(((token >= 0) & (token < 4))[:, None], table[token.clip(0, 3)], 0)
    np.testing.assert_array_equal(run(given, E=table, token=token), expected)


def test_renaming_and_transposing(rng: np.random.Generator) -> None:
    x = rng.normal(size=(3, 3))
    given = program([tensor("x i j")], [equation("y i j", read("x", "j", "i"))], sequence="")
    np.testing.assert_array_equal(run(given, x=x), x.T)
    diagonal = program([tensor("x i j")], [equation("y i", read("x", "i", "i"))], sequence="")
    np.testing.assert_array_equal(run(diagonal, x=x), np.diag(x))


def test_extensions_on_both_sides(rng: np.random.Generator) -> None:
    x, x0 = rng.normal(size=(2, 5)), rng.normal(size=(3, 2))
    given = program(
        [tensor("x b t"), tensor("x0 k b")],
        [equation("y b t", read("x", "b", t - 2) + read("x", "b", t + 1))],
        extensions=[before("x", "t", read("x0", size("k") + t, "b")), after("x", "t", (t - size("t") + 7) * 1.0)],
    )
    whole = np.concatenate([x0.T, x, np.full((2, 1), 7.0)], axis=1)
    np.testing.assert_allclose(run(given, x=x, x0=x0), whole[:, 1:6] + whole[:, 4:9])


def test_several_indices_out_of_range_read_zero_despite_an_extension() -> None:
    given = program(
        [tensor("x t d")],
        [equation("y t d", read("x", t - 1, index("d") - 1))],
        extensions=[before("x", "t", op("real", 5))],
    )
    np.testing.assert_array_equal(run(given, x=np.ones((2, 2))), [[0, 5], [0, 1]])


def test_empty_axes() -> None:
    given = program(
        [tensor("x t d"), tensor("w n")],
        [
            equation("p t d", read("x", t - 1, "d")),
            equation("h t d", read("h", t - 1, "d") + read("p", "t", "d")),
            equation("y d", fold("sum", "t", read("h", "t", "d")) + fold("sum", "n", read("w", "n"))),
        ],
    )
    np.testing.assert_array_equal(run(given, x=np.ones((0, 3)), w=np.ones(0)), np.zeros(3))
    assert run(given, x=np.ones((4, 0)), w=np.ones(2)).shape == (0,)


# ---------------------------------------------------------------- recurrences


def test_recurrence_with_initial_state(rng: np.random.Generator) -> None:
    a, b, h0 = rng.uniform(size=(2, 7, 3)), rng.normal(size=(2, 7, 3)), rng.normal(size=(2, 3))
    given = program(
        [tensor("a b t d"), tensor("x b t d"), tensor("h0 b d")],
        [equation("y b t d", read("a", "b", "t", "d") * read("y", "b", t - 1, "d") + read("x", "b", "t", "d"))],
        extensions=[before("y", "t", read("h0", "b", "d"))],
    )
    h, expected = h0, []
    for i in range(7):
        h = a[:, i] * h + b[:, i]
        expected.append(h)
    np.testing.assert_allclose(run(given, a=a, x=b, h0=h0), np.stack(expected, 1))


def test_recurrence_backwards(rng: np.random.Generator) -> None:
    x, end = rng.normal(size=9), rng.normal()
    given = program(
        [tensor("x t"), tensor("end")],
        [equation("y t", 0.5 * read("y", t + 1) + read("x", "t"))],
        extensions=[after("y", "t", read("end"))],
    )
    g, expected = end, np.zeros(9)
    for i in reversed(range(9)):
        g = 0.5 * g + x[i]
        expected[i] = g
    np.testing.assert_allclose(run(given, x=x, end=end), expected)


def test_mutual_recurrence_in_any_order(rng: np.random.Generator) -> None:
    x = rng.normal(size=11)
    given = program(
        [tensor("x t")],
        [
            equation("y t", read("u", "t") + read("v", t - 2)),
            equation("v t", op("tanh", read("u", "t")) - read("v", t - 3)),
            equation("u t", read("x", "t") + 0.5 * read("v", t - 1)),
        ],
    )
    u, v = np.zeros(11), np.zeros(11)
    for i in range(11):
        u[i] = x[i] + 0.5 * (v[i - 1] if i >= 1 else 0)
        v[i] = np.tanh(u[i]) - (v[i - 3] if i >= 3 else 0)
    expected = u + np.pad(v, (2, 0))[:11]
    np.testing.assert_allclose(run(given, x=x), expected)


def test_recurrence_along_two_axes(rng: np.random.Generator) -> None:
    """Counting lattice paths: each point depends on the one above and the one to the left."""
    start = where((index("t").eq(0)) & (index("u").eq(0)), 1.0, 0.0)
    given = program(
        [tensor("x t u")],
        [equation("y t u", read("y", t - 1, "u") + read("y", "t", index("u") - 1) + start)],
        sequence="t u",
    )
    result = run(given, x=np.zeros((5, 6)))
    assert result[4, 5] == 126 and result[2, 2] == 6


def test_recurrence_over_its_whole_past(rng: np.random.Generator) -> None:
    x = rng.normal(size=6)
    given = program(
        [tensor("x t")],
        [equation("y t", read("x", "t") + fold("sum", "s", read("y", "s"), s < t))],
        extents={"s": size("t")},
    )
    expected = np.zeros(6)
    for i in range(6):
        expected[i] = x[i] + expected[:i].sum()
    np.testing.assert_allclose(run(given, x=x), expected)


def test_recurrence_that_contracts(rng: np.random.Generator) -> None:
    x, w = rng.normal(size=(8, 3)), rng.normal(size=(3, 3))
    h = fold("sum", "j", read("w", "i", "j") * read("y", t - 1, "j"))
    given = program([tensor("x t i"), tensor("w i j")], [equation("y t i", op("tanh", h + read("x", "t", "i")))])
    state, expected = np.zeros(3), []
    for i in range(8):
        state = np.tanh(w @ state + x[i])
        expected.append(state)
    np.testing.assert_allclose(run(given, x=x, w=w), np.stack(expected))


# ---------------------------------------------------------------- conditions


def test_the_side_not_chosen_never_leaks() -> None:
    x = np.array([0.0, 1.0, -2.0])
    safe = where(read("x", "t") > 0, op("log", read("x", "t")), 0.0)
    inverses = fold("sum", "n", op("div", 1, read("x", "n")), read("x", "n") > 0)
    given = program([tensor("x t")], [equation("y t", 0.0 * safe + inverses)], extents={"n": size("t")})
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(run(given, x=x), [1.0, 1.0, 1.0])


def test_reductions_over_no_points() -> None:
    expected = {
        "sum": 0, "prod": 1, "mean": 0, "max": -np.inf, "min": np.inf, "argmax": -1, "argmin": -1,
        "any": False, "all": True, "logsumexp": -np.inf, "softmax": 0,
    }  # fmt: skip
    for kind, value in expected.items():
        body = read("x", "n") > 0 if kind in ("any", "all") else read("x", "n")
        dtype = BOOL if kind in ("any", "all") else INT if kind.startswith("arg") else REAL
        axes = "y n" if kind == "softmax" else "y"
        given = program([tensor("x n")], [equation(axes, fold(kind, "n", body, n > 99), dtype)], sequence="")
        for extent in (0, 3):
            assert (run(given, x=np.full(extent, np.nan)) == value).all(), kind
    given = program([tensor("k n", INT)], [equation("y", fold("max", "n", read("k", "n"), n > 99), INT)], sequence="")
    assert run(given, k=np.arange(3)) == -(2**63)


def test_reductions_under_a_condition(rng: np.random.Generator) -> None:
    x = rng.normal(size=(4, 9))
    keep = x > -0.5
    chosen = read("x", "b", "n") > -0.5
    for kind, fold_of in {
        "sum": np.sum, "prod": np.prod, "mean": np.mean, "max": np.max, "min": np.min,
        "logsumexp": lambda v: np.log(np.exp(v).sum()),
    }.items():  # fmt: skip
        given = program([tensor("x b n")], [equation("y b", fold(kind, "n", read("x", "b", "n"), chosen))], sequence="")
        expected = [fold_of(row[mask]) for row, mask in zip(x, keep, strict=True)]
        np.testing.assert_allclose(run(given, x=x), expected, err_msg=kind)


def test_ties_go_to_the_first_and_infinities_count() -> None:
    x = np.array([[-np.inf, 2, 2, 1], [np.inf, 5, np.inf, np.inf], [-np.inf, -np.inf, -np.inf, -np.inf]])
    body, given = read("x", "b", "n"), {}
    for kind in ("argmax", "argmin"):
        given[kind] = program([tensor("x b n")], [equation("y b", fold(kind, "n", body, n > 0), INT)], sequence="")
    np.testing.assert_array_equal(run(given["argmax"], x=x), [1, 2, 1])
    np.testing.assert_array_equal(run(given["argmin"], x=x), [3, 1, 1])


def test_several_axes_and_a_body_without_them(rng: np.random.Generator) -> None:
    x = rng.normal(size=(3, 4, 5))
    given = program([tensor("x b i j")], [equation("y b", fold("sum", "j i", read("x", "b", "i", "j")))], sequence="")
    np.testing.assert_allclose(run(given, x=x), x.sum((1, 2)))
    count = program([tensor("x b i j")], [equation("y b", fold("sum", "j i", 1), INT)], sequence="")
    np.testing.assert_array_equal(run(count, x=x), [20, 20, 20])


def test_a_reduction_hides_the_axis_of_its_equation(rng: np.random.Generator) -> None:
    x = rng.normal(size=(3, 4))
    mean = fold("mean", "d", read("x", "t", "d"))
    given = program([tensor("x t d")], [equation("y t d", read("x", "t", "d") - mean)])
    np.testing.assert_allclose(run(given, x=x), x - x.mean(1, keepdims=True))


def test_softmax_keeps_its_axis_and_is_stable(rng: np.random.Generator) -> None:
    x = 1000 * rng.normal(size=(5, 5))
    causal = fold("softmax", "s", read("x", "t", "s"), s <= t)
    given = program([tensor("x t s")], [equation("y t s", causal)])
    score = np.where(np.tri(5, dtype=bool), x, -np.inf)
    weights = np.exp(score - score.max(1, keepdims=True))
    np.testing.assert_allclose(run(given, x=x), weights / weights.sum(1, keepdims=True))


def test_softmax_of_what_a_loop_makes(rng: np.random.Generator) -> None:
    """The kept axis is the sequence itself: only one index of it is looked at in each step."""
    x = rng.normal(size=6)
    share = fold("softmax", "t", read("x", "t"))
    given = program([tensor("x t")], [equation("y t", share + 0.5 * read("y", t - 1))])
    p = np.exp(x) / np.exp(x).sum()
    expected = np.zeros(6)
    for i in range(6):
        expected[i] = p[i] + 0.5 * (expected[i - 1] if i else 0)
    np.testing.assert_allclose(run(given, x=x), expected)


def test_blocks_do_not_change_the_result(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k = rng.normal(size=(2, 13, 3)), rng.normal(size=(2, 13, 3))
    score = fold("sum", "e", read("q", "b", "t", "e") * read("k", "b", "s", "e"))
    given = program(
        [tensor("q b t e"), tensor("k b s e")],
        [
            equation("p b t s", fold("softmax", "s", score, s <= t)),
            equation("y b t", fold("sum", "s", read("p", "b", "t", "s") * s)),
        ],
    )
    whole = run(given, q=q, k=k)
    for most in (500, 30, 1):
        monkeypatch.setattr(module, "MOST_POINTS", most)
        np.testing.assert_allclose(run(given, q=q, k=k), whole, rtol=1e-14)


# ---------------------------------------------------------------- whole-axis operations, functions


def test_hadamard_and_argsort(rng: np.random.Generator) -> None:
    x = rng.normal(size=(3, 8))
    h2 = np.array([[1, 1], [1, -1]])
    h8 = np.kron(np.kron(h2, h2), h2)
    given = program([tensor("x b e")], [equation("y b e", Transform("hadamard", "e", Read("x", index_pair())))])
    np.testing.assert_allclose(run(given, x=x), x @ h8)
    with pytest.raises(UserError, match="extent 6"):
        run(given, x=np.zeros((3, 6)))
    key = np.array([[2, 1, 2, 1, 0, 2, 2, 1]] * 3)
    order = program([tensor("x b e")], [equation("y b e", Transform("argsort", "e", Read("x", index_pair())), INT)])
    np.testing.assert_array_equal(run(order, x=key), np.argsort(key, axis=1, kind="stable"))


def index_pair() -> tuple[Any, Any]:
    return index("b").expr, index("e").expr


def test_elementwise_function() -> None:
    body = (read("v") * read("w")).expr
    square = Function("weighted_square", ("v", "w"), (("u", body),), "r", (read("u") * read("v")).expr, REAL)
    call = Call("weighted_square", (read("x", "t").expr, read("k", "d").expr))
    given = program([tensor("x t"), tensor("k d", INT)], [equation("y t d", call)], functions=(square,))
    x, k = np.arange(3.0), np.arange(2)
    np.testing.assert_array_equal(run(given, x=x, k=k), x[:, None] ** 2 * k)


def test_opaque_function() -> None:
    opaque = Opaque("F", (tensor("a t d"),), tensor("r t d"))
    given = program([tensor("x t d")], [equation("y t d", Apply("F", ("x",)))], opaques=(opaque,))
    x = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(interpret(given, {"x": x}, {"F": lambda a: a[::-1]})["y"], x[::-1])
    with pytest.raises(UserError, match="no meaning is given for the opaque function 'F'"):
        interpret(given, {"x": x})
    with pytest.raises(UserError, match="returned shape"):
        interpret(given, {"x": x}, {"F": lambda a: a[0]})


def test_complex_recurrence(rng: np.random.Generator) -> None:
    a = 0.9 * np.exp(1j * rng.normal(size=4))
    x = rng.normal(size=7)
    given = program(
        [tensor("a n", COMPLEX), tensor("x t")],
        [
            equation("h t n", read("a", "n") * read("h", t - 1, "n") + read("x", "t"), COMPLEX),
            equation("y t", 2 * op("re", fold("sum", "n", read("h", "t", "n")))),
        ],
    )
    powers = np.array([[sum(a[m] ** (i - k) * x[k] for k in range(i + 1)) for m in range(4)] for i in range(7)])
    np.testing.assert_allclose(run(given, a=a, x=x), 2 * powers.sum(1).real)


def test_keep_all() -> None:
    given = program([tensor("x t")], [equation("u t", read("x", "t") + 1), equation("y t", read("u", "t") * 2)])
    assert set(interpret(given, {"x": np.zeros(2)}, keep="all")) == {"x", "u", "y"}


# ---------------------------------------------------------------- arguments


def test_wrong_arguments_are_named() -> None:
    given = program(
        [tensor("x b t"), tensor("w t d"), tensor("k d", INT)],
        [equation("y b t", read("x", "b", "t"))],
        extents={"d": 3},
        require=[(size("t") % 2).eq(0)],
    )
    good = {"x": np.zeros((2, 4)), "w": np.zeros((4, 3)), "k": np.zeros(3, np.int32)}
    assert interpret(given, good)["y"].shape == (2, 4)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"x": np.zeros(4)}, "'x' has 1 axes"),
        ({"w": np.zeros((5, 3))}, r"axis 't' of 'w' has extent 5(.|\n)*expected: 4, as in 'x'"),
        ({"w": np.zeros((4, 2)), "k": np.zeros(2, int)}, r"axis 'd' of 'w' has extent 2(.|\n)*expected: 3"),
        ({"k": np.zeros(3)}, r"'k' holds float64 values(.|\n)*expected: int"),
        ({"x": np.zeros((2, 5)), "w": np.zeros((5, 3))}, r"requirement not met: #t % 2 == 0(.|\n)*#t = 5"),
        ({"z": np.zeros(1)}, "no input 'z'"),
    ]
    for change, message in wrong:
        with pytest.raises(UserError, match=message):
            interpret(given, {**good, **change})
    with pytest.raises(UserError, match="argument 'w' is missing"):
        interpret(given, {"x": good["x"], "k": good["k"]})


def test_circles_are_refused() -> None:
    circle = program([tensor("x t")], [equation("y t", read("u", "t")), equation("u t", read("y", "t"))])
    with pytest.raises(UserError, match="'y', 'u' refer to each other without a lag"):
        interpret(circle, {"x": np.zeros(3)})
    both = program([tensor("x t")], [equation("y t", read("y", t - 1) + read("y", t + 1))])
    with pytest.raises(UserError, match="'y' refers to itself at earlier and at later indices of 't'"):
        interpret(both, {"x": np.zeros(3)})
    gathered = program([tensor("k t", INT)], [equation("y t", read("y", read("k", "t")))])
    with pytest.raises(UserError, match="without a lag"):
        interpret(gathered, {"k": np.zeros(3, int)})
