"""What `pack` and `mask` refuse alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ssmc.errors import Unsupported, UserError
from ssmc.ir import REAL, Apply, CustomGradient, Equation, Opaque, Program, Transform
from ssmc.passes import mask, pack
from tests.building import equation, fold, index, program, read, size, tensor

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
