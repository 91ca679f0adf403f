"""Each rule of a valid Program, broken once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ssmc.errors import InternalError
from ssmc.ir import (
    COMPLEX,
    INT,
    REAL,
    Apply,
    Axis,
    Call,
    Const,
    CustomGradient,
    Equation,
    Extension,
    Function,
    Op,
    Opaque,
    Program,
    Read,
    Reduce,
    Requirement,
    Transform,
    verify,
)
from tests.building import Term, before, equation, fold, index, op, program, read, size, tensor, where

t, d = index("t"), index("d")
X = read("x", "t", "d")


def good() -> Program:
    v = read("v")
    return program(
        [tensor("x t d"), tensor("k t", INT), tensor("z d", COMPLEX)],
        [
            equation("h t d", 0.5 * read("h", t - 1, "d") + X),
            equation("y t d", Call("double", (read("h", "t", "d").expr,))),
            equation("o t d", Apply("F", ("y",))),
        ],
        "y o",
        extensions=[before("h", "t", 0.0)],
        require=[size("t") > 0],
        extents={"m": 2 * size("d")},
        functions=(Function("double", ("v",), (), "r", (v + v).expr, REAL),),
        opaques=(Opaque("F", (tensor("p t d"),), tensor("q t d")),),
        customs=(CustomGradient("f", ("x",), ("h",), (equation("d.x t d", read("d.h", "t", "d")),)),),
    )


def test_the_good_one() -> None:
    verify(good())


def with_y(expr: object, axes: str = "t d", dtype: object = REAL) -> Callable[[Program], Program]:
    """The good Program with another right side for y."""
    inner = expr.expr if isinstance(expr, Term) else expr

    def change(given: Program) -> Program:
        equations = (given.equations[0], Equation("y", tuple(axes.split()), dtype, inner))  # type: ignore[arg-type]
        return replace(given, equations=equations, outputs=("y",))

    return change


def with_function(**changes: object) -> Callable[[Program], Program]:
    return lambda p: replace(p, functions=(replace(p.functions[0], **changes),))  # type: ignore[arg-type]


def extending(*extensions: Extension) -> Callable[[Program], Program]:
    return lambda p: replace(p, extensions=extensions)


CASES: list[tuple[str, Callable[[Program], Program]]] = [
    ("distinct names: x", lambda p: replace(p, inputs=(*p.inputs, tensor("x t")))),
    ("distinct names: t", lambda p: replace(p, inputs=(*p.inputs, tensor("t d")))),
    ("functions have distinct names: F", with_function(name="F")),
    ("outputs are distinct", lambda p: replace(p, outputs=("y", "y"))),
    ("an output is an equation: x", lambda p: replace(p, outputs=("x",))),
    ("the axes of 'w' are distinct", lambda p: replace(p, inputs=(*p.inputs, tensor("w t t")))),
    ("the axes of a tensor are declared", lambda p: replace(p, inputs=(*p.inputs, tensor("w q")))),
    ("has an extent or is an axis of an input", lambda p: replace(p, axes=(*p.axes, Axis("q")))),
    (
        "extents do not depend on each other in a circle",
        lambda p: replace(p, axes=(*p.axes, Axis("q", size("r").expr), Axis("r", size("q").expr))),
    ),
    ("the extent of 'q' is an expression over", lambda p: replace(p, axes=(*p.axes, Axis("q", read("k", 0).expr)))),
    ("a requirement is an int or a bool", lambda p: replace(p, requirements=(Requirement(Const(1.0, REAL)),))),
    ("what is read exists", with_y(read("w", "t"))),
    ("a read of 'x' has 2 indices", with_y(read("x", "t"))),
    ("an index is an int, not real", with_y(read("x", op("exp", 0), "d"))),
    ("index 'm' is bound around it", with_y(read("x", "t", "m"))),
    ("index 'd' is bound around it", with_y(X, "t")),
    ("a size is that of a declared axis", with_y(size("q"))),
    ("an operation is in the table", with_y(op("cube", X))),
    ("'exp' gets its arguments", with_y(op("exp", X, X))),
    ("'lt' takes at most real, not complex", with_y(op("real", read("z", "d") < 1))),
    ("'and' takes at most bool, not int", with_y(where(op("and", 1, True), 1.0, 0.0))),
    ("a condition is a bool", with_y(where(t, 1.0, 0.0))),
    ("'y' can hold its value, a complex", with_y(X * read("z", "d"))),
    ("a reduction is in the table", with_y(fold("median", "m", 1.0))),
    ("the axes of a reduction are declared", with_y(fold("sum", "q", 1.0))),
    ("the axes of a reduction are distinct", with_y(fold("sum", "m m", 1.0))),
    ("it has its axes", with_y(fold("argmax", "m d", 1.0))),
    ("it has its axes", with_y(Reduce("sum", (), None, X.expr))),
    ("axis 'm' is bound around the softmax that keeps it", with_y(fold("softmax", "m", 1.0))),
    ("axis 'm' is bound around the operation that keeps it", with_y(Transform("argsort", "m", X.expr), dtype=INT)),
    ("a whole-axis operation is in the table", with_y(Transform("fft", "d", X.expr))),
    ("'max' takes at most real", with_y(fold("max", "d", read("z", "d")), dtype=COMPLEX)),
    ("a real constant is written as one", with_y(Const(1, REAL))),
    ("a constant is a number", with_y(Const(float("nan"), REAL))),
    ("a complex constant is imaginary", with_y(Const(1 + 1j, COMPLEX), dtype=COMPLEX)),
    ("a function is declared", with_y(Call("triple", (X.expr,)))),
    ("'double' gets its arguments", with_y(Call("double", (X.expr, X.expr)))),
    ("'double' takes at most real", with_y(Call("double", (read("z", "d").expr,)))),
    ("an opaque function is a whole right side", with_y(Op("neg", (Apply("F", ("x",)),)))),
    ("an opaque function is declared", with_y(Apply("G", ("x",)))),
    ("an opaque function gets its arguments", with_y(Apply("F", ("x", "x")))),
    ("has the axes and type of its parameter", with_y(Apply("F", ("k",)))),
    ("has the axes and type that 'F' returns", with_y(Apply("F", ("x",)), "d t")),
    ("a function is elementwise", with_function(result=t.expr)),
    ("a function calls earlier functions", with_function(result=Call("double", (Read("v", ()),)))),
    ("what is read exists", with_function(result=Read("x", ()))),
    ("a backward equation is for a parameter", with_function(backward=(("w", Read("d.r", ())),))),
    ("an extension extends a tensor", extending(before("w", "t", 0.0))),
    ("an extension is along a sequence axis", extending(before("h", "d", 0.0))),
    ("an extension is before or after", extending(Extension("h", "t", "inside", Const(0.0, REAL)))),
    ("extensions differ", extending(before("h", "t", 0.0), before("h", "t", 1.0))),
    ("'h' can hold its extension", extending(before("h", "t", read("z", "d")))),
    (
        "extensions do not need each other in a circle",
        extending(before("x", "t", read("h", "t", "d")), before("h", "t", read("x", t - 1, "d"))),
    ),
    (
        "a custom gradient is between tensors",
        lambda p: replace(p, customs=(replace(p.customs[0], inputs=("w",)),)),
    ),
    (
        "custom gradient 'f' defines d.x like x",
        lambda p: replace(p, customs=(replace(p.customs[0], equations=()),)),
    ),
    (
        "circles of equations pass through time",
        lambda p: replace(p, equations=(equation("h t d", read("h", "t", "d") + X),), outputs=("h",)),
    ),
]


@pytest.mark.parametrize("message, change", CASES)
def test_each_rule(message: str, change: Callable[[Program], Program]) -> None:
    with pytest.raises(InternalError, match=message):
        verify(change(good()))
