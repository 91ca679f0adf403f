"""Programs as text: what they look like, and that they read back equal."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from ssmc.dsl import read_program
from ssmc.ir import (
    BOOL,
    COMPLEX,
    INT,
    REAL,
    Apply,
    Call,
    Const,
    CustomGradient,
    Equation,
    Expr,
    Function,
    Op,
    Opaque,
    Program,
    print_expr,
    print_program,
    verify,
)
from tests.building import Term, after, before, equation, fold, index, op, program, read, size, tensor, where
from tests.strategies import programs

t, s, d = index("t"), index("s"), index("d")
a, b, c = read("a"), read("b"), read("c")


def test_a_program_reads_like_a_paper() -> None:
    window = fold("sum", "j", read("w", "d", "j") * read("x", "b", t - index("j"), "d"))
    code = read("code", "b", "t")
    given = program(
        [tensor("x b t d"), tensor("w d j"), tensor("h0 b d"), tensor("code b t", INT), tensor("z m", COMPLEX)],
        [
            equation("h b t d", 0.9 * read("h", "b", t - 1, "d") + window),
            equation("p b t s", fold("softmax", "s", read("x", "b", "s", 0), (s <= t) & (t - s < 4))),
            equation("y b t d", where(code > 0, read("h", "b", "t", code), -read("h", "b", "t", "d"))),
            equation("n", size("t") * 2, INT),
        ],
        "y n",
        extents={"s": size("t"), "j": 3},
        extensions=[before("h", "t", read("h0", "b", "d"))],
        require=[(size("t") % 2).eq(0)],
        doc="Two lines\nof text.",
    )
    verify(given)
    assert (
        print_program(given)
        == '''\
layer test(x[b, t, d], w[d, j], h0[b, d], code[b, t]: int, z[m]: complex) -> y[b, t, d], n[]: int:
    """Two lines
    of text."""
    seq t
    axis j < 3
    axis s < #t
    require #t % 2 == 0
    h[b, t, d] = 0.9 * h[t-1] + sum[j](w * x[t-j])
    h[t<0] = h0
    p[b, t, s] = softmax[s: s <= t and t - s < 4](x[t=s, d=0])
    y[b, t, d] = where(code > 0, h[d=code], -h)
    n[]: int = #t * 2
'''
    )
    assert read_program(print_program(given)) == given


EXPRESSIONS: list[tuple[Term, str]] = [
    (a + b * c, "a[] + b[] * c[]"),
    ((a + b) * c, "(a[] + b[]) * c[]"),
    (a - (b - c), "a[] - (b[] - c[])"),
    (a - b - c, "a[] - b[] - c[]"),
    (a / (b * c), "a[] / (b[] * c[])"),
    (op("pow", a, op("pow", b, c)), "a[] ^ b[] ^ c[]"),
    (op("pow", op("pow", a, b), c), "(a[] ^ b[]) ^ c[]"),
    (op("pow", -a, b), "(-a[]) ^ b[]"),
    (-op("pow", a, b), "-a[] ^ b[]"),
    (op("pow", a, -b), "a[] ^ -b[]"),
    (op("neg", -a), "-(-a[])"),
    (-(a + b), "-(a[] + b[])"),
    (-a * b, "-a[] * b[]"),
    (a * -b, "a[] * -b[]"),
    (op("and", op("or", a < b, a > b), op("not", a <= b)), "(a[] < b[] or a[] > b[]) and not a[] <= b[]"),
    (op("not", op("and", a < b, b < c)), "not (a[] < b[] and b[] < c[])"),
    (op("eq", op("lt", a, b), b < c), "(a[] < b[]) == (b[] < c[])"),
    (op("minimum", a, op("maximum", b, 0.0)), "min(a[], max(b[], 0.0))"),
]


@pytest.mark.parametrize("term, text", EXPRESSIONS)
def test_parentheses_only_where_needed(term: Term, text: str) -> None:
    assert print_expr(term.expr) == text


CONSTANTS = [
    (Const(1, INT), "1"), (Const(-1, INT), "-1"), (Const(1.0, REAL), "1.0"), (Const(-0.5, REAL), "-0.5"),
    (Const(1e-6, REAL), "1e-06"), (Const(1e22, REAL), "1e+22"), (Const(float("inf"), REAL), "inf"),
    (Const(-float("inf"), REAL), "-inf"), (Const(True, BOOL), "true"), (Const(2j, COMPLEX), "2.0i"),
    (Const(-2j, COMPLEX), "-2.0i"), (Op("neg", (Const(1, INT),)), "-(1)"),
    (Op("neg", (Const(-1.5, REAL),)), "-(-1.5)"), (Op("pow", (Const(-1, INT), Const(2, INT))), "(-1) ^ 2"),
    (Op("sub", (Const(1, INT), Const(-2, INT))), "1 - -2"),
]  # fmt: skip


@pytest.mark.parametrize("expr, text", CONSTANTS)
def test_constants_keep_type_and_value(expr: Expr, text: str) -> None:
    assert print_expr(expr) == text
    dtype = expr.dtype if isinstance(expr, Const) else REAL if "." in text else INT
    given = program([tensor("x t")], [Equation("y", (), dtype, expr)])
    assert read_program(print_program(given)) == given


@pytest.mark.parametrize(
    "term, text",
    [
        (read("m", d, t), "m[t=d, d=t]"),
        (read("m", t - 1, d + 1), "m[t-1, d+1]"),
        (read("m", 2 * t - size("n"), 0), "m[2 * t - #n, d=0]"),
        (read("m", t + d, d), "m[t=t+d]"),
        (read("m", size("d") - 1 - t, d), "m[t = #d - 1 - t]"),
        (read("m", read("k", "t") - 1, d), "m[t = k - 1]"),
        (read("m", t, read("k", t - 1)), "m[d=k[t-1]]"),
    ],
)
def test_indices(term: Term, text: str) -> None:
    given = program([tensor("m t d"), tensor("k t", INT), tensor("v n")], [equation("y t d", term)])
    verify(given)
    assert text in print_program(given)
    assert read_program(print_program(given)) == given


def test_functions_opaques_and_gradients() -> None:
    v = read("v")
    clipped = Function(
        "clipped", ("v",), (("u", (v * v).expr),), "r", op("sqrt", read("u")).expr, REAL,
        (("v", (read("d.r") / op("maximum", read("r"), 1e-6)).expr),),
    )  # fmt: skip
    given = program(
        [tensor("x t d"), tensor("w d")],
        [
            equation("f.y t d", Call("clipped", ((read("x", "t", "d") * read("w", "d")).expr,))),
            equation("g t d", Apply("F", ("f.y",))),
            equation("y t d", read("g", t - 1, "d")),
        ],
        functions=(clipped,),
        opaques=(Opaque("F", (tensor("p t d"),), tensor("q t d")),),
        extensions=[before("f.y", "t", 0.0), before("g", "t", 1.0), after("g", "t", t * 0.5)],
        customs=(CustomGradient(
            "f", ("x", "w"), ("f.y",),
            (
                equation("scaled t d", 2.0 * read("d.f.y", "t", "d")),
                equation("d.x t d", read("scaled", "t", "d") * read("w", "d")),
                equation("d.w d", fold("sum", "t", read("scaled", "t", "d"))),
            ),
        ),),
    )  # fmt: skip
    verify(given)
    text = print_program(given)
    assert "backward f.y from x, w:" in text and "d.v = d.r / max(r, 1e-06)" in text
    assert "fn F(p[t, d]) -> q[t, d]\n" in text
    assert read_program(text) == given


def test_a_long_signature_is_wrapped() -> None:
    inputs = [tensor(f"a_rather_long_name_{i} b t d") for i in range(8)]
    given = program(inputs, [equation("y b t d", read("a_rather_long_name_0", "b", "t", "d"))])
    assert max(map(len, print_program(given).split("\n"))) <= 100
    assert read_program(print_program(given)) == given


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs())
def test_round_trip(program: Program) -> None:
    text = print_program(program)
    again = read_program(text)
    assert again == program, text
    assert print_program(again) == text
