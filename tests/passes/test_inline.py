"""Inlining keeps the meaning."""

from __future__ import annotations

import numpy as np

from ssmc.ir import COMPLEX, INT, REAL, Call, Expr, Function, Read, print_program, verify
from ssmc.ir.interpret import interpret
from ssmc.passes.inline import inline
from tests.building import Term, before, equation, index, op, program, read, tensor

t = index("t")


def call(name: str, *args: Term | Read) -> Term:
    return Term(Call(name, tuple(a.expr if isinstance(a, Term) else a for a in args)))


def body(term: Term) -> Expr:
    return term.expr


def test_nested_calls_bindings_and_types() -> None:
    v, w, u = read("v"), read("w"), read("u")
    square = Function("square", ("v",), (), "r", body(v * v), REAL)
    both = Function("both", ("v", "w"), (("u", body(call("square", v) + w)),), "r", body(u * u - v), REAL)
    whole = Function("whole", ("v",), (), "r", body(op("int", v)), INT)
    wide = Function("wide", ("v",), (), "r", body(v + 1), COMPLEX)
    given = program(
        [tensor("x t"), tensor("k t", INT)],
        [
            equation("a t", call("both", call("square", read("x", "t")), read("k", "t"))),
            equation("n t", call("whole", read("x", "t")), INT),
            equation("c t", call("wide", read("x", t - 1)), COMPLEX),
            equation("i t", call("square", read("k", "t")) / 2),
        ],
        "a n c i",
        extensions=[before("x", "t", call("square", op("real", t)))],
        functions=(square, both, whole, wide),
    )
    verify(given)
    result = inline(given)
    verify(result)
    assert not result.functions and "square" not in print_program(result)
    inputs = {"x": np.array([0.5, -2.5, 3.0]), "k": np.array([1, 2, 3])}
    expected, found = interpret(given, inputs), interpret(result, inputs)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert [e.dtype for e in result.equations] == [e.dtype for e in given.equations]
