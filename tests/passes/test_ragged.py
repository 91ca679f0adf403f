"""What `pack` and `mask` do alike, construct by construct, and what both refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from ssmc.errors import Unsupported, UserError
from ssmc.ir import BOOL, INT, REAL, Apply, CustomGradient, Equation, Opaque, Program, Transform
from ssmc.passes import mask, pack
from tests.building import after, before, equation, fold, index, op, program, read, size, tensor
from tests.passes.test_mask import check as check_masked
from tests.passes.test_pack import check as check_packed

t, s = index("t"), index("s")
Check = Callable[..., Program]
Batch = tuple[str, ...]


def packed(given: Program, batch: Batch, sizes: Mapping[str, int] | None = None) -> Program:
    return check_packed(given, [[2, 0, 3], [3, 2, 0]] if batch else [4, 0, 1, 3], {"b": 2, **(sizes or {})}, batch)


def masked(given: Program, batch: Batch, sizes: Mapping[str, int] | None = None) -> Program:
    rows = [".xx.x..x", "xxxxx...", "........"]
    return check_masked(given, rows if batch else rows[:1], sizes or {}, batch)


def constructs(test: Callable[..., None]) -> Callable[..., None]:
    """The test for both forms, with sequences that are the same for the whole batch and with others for each entry."""
    by_batch = pytest.mark.parametrize("batch", [(), ("b",)])
    return by_batch(pytest.mark.parametrize("check", [packed, masked])(test))  # type: ignore[no-any-return]


@constructs
def test_folds_over_one_sequence(check: Check, batch: Batch) -> None:
    x = [tensor("x b t"), tensor("k b t", INT)]
    alias = {"s": size("t")}
    kinds = ("sum", "mean", "prod", "max", "min", "logsumexp")
    pooled = [equation(f"{kind}_ b", fold(kind, "t", read("x", "b", "t"))) for kind in kinds]
    centred = equation("y b t", read("x", "b", "t") - read("mean_", "b"))
    check(program(x, [*pooled, centred], "y mean_ max_", extents=alias), batch)
    shares = fold("softmax", "t", read("x", "b", "t"), read("k", "b", "t") > 0)
    for plain in (read("x", "b", "t") * t, op("real", t)):
        both = equation("z b t", shares + fold("softmax", "t", plain))
        check(program(x, [both], "z", extents=alias), batch)
    first = fold("argmax", "s", read("k", "b", "s") % 2, s <= t)
    last = fold("argmin", "t", read("k", "b", "t"))
    indices = [equation("y b t", first, INT), equation("z b", last, INT)]
    check(program(x, indices, "y z", extents=alias), batch)
    again = equation("y b t", fold("sum", "t", read("x", "b", "t") * t) + read("x", "b", "t"))
    check(program(x, [again]), batch)
    lagged = equation("y b", fold("sum", "t", read("x", "b", t - 1) * read("x", "b", "t")) / size("t"))
    check(program(x, [lagged], extensions=[before("x", "t", op("real", t))]), batch)
    pairs = fold("sum", "s", read("x", "b", s - 1) * read("x", "b", s + 2), (s < t) & (t - s < 3))
    check(program(x, [equation("y b t", pairs)], extents=alias), batch)


@constructs
def test_reads_from_both_ends_and_by_data(check: Check, batch: Batch) -> None:
    x = [tensor("x b t d"), tensor("k b t", INT), tensor("x0 b d"), tensor("w j")]
    outside = [before("x", "t", read("x0", "b", "d") * t), after("x", "t", read("x0", "b", "d") + t)]
    n, j = size("t"), index("j")
    reads = (t - 2, t + 2, n - 1 - t, 2 * t, n - 2, t // 2, read("k", "b", "t"), t - read("k", "b", "t"))
    for extensions in ([], outside):
        for found in reads:
            value = read("x", "b", found, index("d") + 1)
            check(program(x, [equation("y b t d", value)], extensions=extensions), batch, {"d": 3, "j": 1})
        for middle, taps in ((size("j") // 2, 4), (2, 5)):
            centred = fold("sum", "j", read("w", "j") * read("x", "b", t + j - middle, "d"))
            check(program(x, [equation("y b t d", centred)], extensions=extensions), batch, {"d": 2, "j": taps})
        ends = read("x", "b", n - 3, "d") * read("u", "b", 1, "d") + read("u", "b", n, "d") + read("x", "b", -1, "d")
        made = [equation("u b t d", 2.0 * read("x", "b", "t", "d")), equation("y b d", ends)]
        check(program(x, made, extensions=extensions), batch, {"d": 3, "j": 1})
    flag = [equation("f b t", read("k", "b", "t") > 0, BOOL), equation("y b", read("f", "b", n - 1), BOOL)]
    check(program(x, flag), batch, {"d": 3, "j": 1})


@constructs
def test_recurrences_that_look_far_back_or_ahead(check: Check, batch: Batch) -> None:
    x = [tensor("x b t"), tensor("h0 b")]
    for near, far in ((1, 1), (1, 3), (2, 3), (-1, -1), (-2, -3)):
        made = [
            equation("h b t", 0.5 * read("h", "b", t - near) + 0.25 * read("h", "b", t - far) + read("g", "b", "t")),
            equation("g b t", op("tanh", read("x", "b", "t") + read("g", "b", t - near))),
        ]
        side = before if near > 0 else after
        check(program(x, made, "h", extensions=[side("h", "t", read("h0", "b") * t)]), batch)


@constructs
def test_sorts_of_one_sequence(check: Check, batch: Batch) -> None:
    order = Transform("argsort", "t", (read("k", "b", "t") % 3).expr)
    made = [equation("o b t", order, INT), equation("y b t", read("x", "b", read("o", "b", "t")))]
    check(program([tensor("x b t"), tensor("k b t", INT)], made, "o y"), batch)


@constructs
def test_equations_that_lack_the_batch_axis_get_it(check: Check, batch: Batch) -> None:
    made = [equation("p t", op("cos", t)), equation("y b t", read("x", "b", "t") * read("p", "t"))]
    assert check(program([tensor("x b t")], made, "y p"), batch).equation("p").axes == (*batch, "t")


# ---------------------------------------------------------------- what is refused

X = [tensor("x b t")]
Y = equation("y b t", read("x", "b", "t"))
BLOCK = CustomGradient("f", ("x",), ("y",), (equation("d.x b t", read("d.y", "b", "t")),))
OPAQUE = Opaque("F", (tensor("a b t"),), tensor("r b t"))
REFUSED = (
    (program(X, [Y], sequence=""), "has 0 sequence axes, so it has no {form} form"),
    (program(X, [Y], require=[(size("t") % 4).eq(0)]), "no {form} form: it requires a fact about #t"),
    (
        program(X, [equation("y b m", read("x", "b", index("m") // 2))], extents={"m": 2 * size("t")}),
        "'y' has axis 'm', whose extent follows #t",
    ),
    (
        program(X, [equation("y b t", Transform("hadamard", "t", read("x", "b", "t").expr))]),
        "'y' transforms all of 't' at once",
    ),
    (
        program(X, [Equation("y", ("b", "t"), REAL, Apply("F", ("x",)))], opaques=(OPAQUE,)),
        "'y' applies the opaque function 'F' to whole sequences",
    ),
    (program(X, [Y], customs=(BLOCK,)), "the gradient block of 'y' speaks of whole sequences"),
    (pack(program(X, [Y])), "'t.doc' is there already: it is packed"),
)

by_form = pytest.mark.parametrize("rewrite, form", [(pack, "packed"), (mask, "masked")])


@by_form
@pytest.mark.parametrize("given, message", REFUSED, ids=lambda item: item if isinstance(item, str) else "")
def test_what_has_no_form(rewrite: Callable[..., Program], form: str, given: Program, message: str) -> None:
    with pytest.raises(Unsupported, match=message.format(form=form)):
        rewrite(given)


@by_form
def test_batches(rewrite: Callable[..., Program], form: str) -> None:
    mixed = program(X, [equation("y t", fold("sum", "b", read("x", "b", "t")))])
    rewrite(mixed, ())
    moved = program(X, [equation("y b t", read("x", index("b") - 1, "t"))])
    for given in (mixed, moved):
        with pytest.raises(Unsupported, match="'y' mixes what lies along 'b', where sequences differ"):
            rewrite(given, ("b",))
    for axis in ("c", "t"):
        with pytest.raises(UserError, match=f"'{axis}' is no batch axis"):
            rewrite(program(X, [Y]), (axis,))
