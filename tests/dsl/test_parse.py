"""Text → ast: spans, names, documentation, precedence, the cache of the parser."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssmc.dsl import ast
from ssmc.dsl.lexer import tokenize
from ssmc.dsl.parse import parse
from ssmc.source import Source


def parsed(text: str) -> ast.File:
    found = parse(Source("<test>", text))
    assert not found.diagnostics, [d.render() for d in found.diagnostics]
    return found.file


def expression(text: str) -> ast.Expr:
    (definition,) = parsed(f"layer f(x[t]) -> y[t]:\n    y = {text}\n").definitions
    assert definition.body is not None
    (statement,) = definition.body
    assert isinstance(statement, ast.Equation)
    return statement.expr


def shape(expr: ast.Expr) -> str:
    """The expression with every grouping shown."""
    match expr:
        case ast.Literal(value=value):
            return str(value)
        case ast.Name(text=text):
            return text
        case ast.Extent(axis=axis):
            return f"#{axis}"
        case ast.Unary(op=op, operand=a):
            return f"({op} {shape(a)})"
        case ast.Binary(op=op, left=a, right=b):
            return f"({shape(a)} {op} {shape(b)})"
        case ast.When(then=a, condition=c, otherwise=b):
            return f"({shape(a)} when {shape(c)} else {shape(b)})"
        case ast.Bracket(base=base, items=items):
            return f"{shape(base)}[{', '.join(shape(i.value) for i in items)}]"
        case ast.Call(function=function, arguments=items):
            return f"{shape(function)}({', '.join(shape(i.value) for i in items)})"
        case ast.Group(inner=inner):
            return f"<{shape(inner)}>"
    raise AssertionError(expr)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a + b * c", "(a + (b * c))"),
        ("a - b - c", "((a - b) - c)"),
        ("-a ^ b", "(- (a ^ b))"),
        ("a ^ b ^ c", "(a ^ (b ^ c))"),
        ("a ^ -b", "(a ^ (- b))"),
        ("-a * b", "((- a) * b)"),
        ("-2 * b", "(-2 * b)"),
        ("-(2) * b", "((- <2>) * b)"),
        ("-2 ^ 2", "(- (2 ^ 2))"),
        ("a // b % c", "((a // b) % c)"),
        ("not a and b or c", "(((not a) and b) or c)"),
        ("not a < b", "(not (a < b))"),
        ("a when b else c when d else e", "(a when b else (c when d else e))"),
        ("a + b when c or d else e", "((a + b) when (c or d) else e)"),
        ("sum[n](c * h)[t-1]", "sum[n]((c * h))[(t - 1)]"),
        ("(f(x))[d=h]", "<f(x)>[h]"),
        ("f(x)[d=h]", "f(x)[h]"),
        ("(a + b)[t-1]", "(a + b)[(t - 1)]"),
        ("#t * 2i", "(#t * 2j)"),
    ],
)
def test_precedence(text: str, expected: str) -> None:
    assert shape(expression(text)) == expected


def test_spans_point_at_what_was_written() -> None:
    text = "layer f(x[t]) -> y[t]:\n    y = exp(x + 1) * x[t-1]\n"
    (definition,) = parsed(text).definitions
    assert definition.body is not None
    (equation,) = definition.body
    assert isinstance(equation, ast.Equation) and isinstance(equation.expr, ast.Binary)
    written = [text[s.start : s.end] for s in (equation.expr.left.span, equation.expr.right.span, equation.span)]
    assert written == ["exp(x + 1)", "x[t-1]", "y = exp(x + 1) * x[t-1]"]


def test_names_are_normalised_and_may_have_dots() -> None:
    composed, decomposed = "layer f(caf\u00e9[t]) -> y[t]:", "    y = cafe\u0301 + d.y.z"
    (definition,) = parsed(f"{composed}\n{decomposed}\n").definitions
    assert definition.body is not None
    (equation,) = definition.body
    assert isinstance(equation, ast.Equation)
    assert shape(equation.expr) == "(caf\u00e9 + d.y.z)"


def test_documentation_is_tidied() -> None:
    text = (
        '"""File."""\n\nlayer f(x[t]) -> y[t]:\n    """First.\n\n      More,\n    and less.\n    """\n    y = 2 * x\n'
    )
    file = parsed(text)
    assert file.doc == "File."
    assert file.definitions[0].doc == "First.\n\n  More,\nand less."


def test_lines_inside_brackets_and_comments() -> None:
    header = "layer f(  # the first\n    x[t],\n\n    w[t],  # and the last\n) -> y[t]:\n"
    text = header + "    # a comment\n\n    y = (\n  x\n+ w)\n"
    assert len(parsed(text).definitions[0].inputs) == 2
    assert [c.text for c in tokenize(text).comments] == ["# the first", "# and the last", "# a comment"]


def test_statements() -> None:
    body = (
        "    seq t, u\n    axis i < 2 * #t\n    axis d = (g r)\n    require #d % 2 == 0\n    h[t<0] = 0\n"
        "    w[m < 2, t]: complex = 1\n    a, b = f(x)\n    backward:\n        d.x = d.y\n"
        "    backward f.y from f.x, f.w:\n        d.f.x = 1\n"
    )
    (definition,) = parsed(f"layer f(x[t]) -> y[t]:\n{body}").definitions
    kinds = [type(s).__name__ for s in definition.body or ()]
    assert kinds == ["Seq", "AxisExtent", "Split", "Require", *["Equation"] * 3, "Backward", "Backward"]
    assert definition.body is not None
    named = definition.body[-1]
    assert isinstance(named, ast.Backward)
    assert [n.text for n in (*named.outputs, *named.inputs)] == ["f.y", "f.x", "f.w"]


def test_headers() -> None:
    text = (
        "layer f(x[t], code[b]: int, B: complex [d, n] | [t], D[d] = -0.5, z[t]?, s[]: bool?,\n"
        "    *, n: int, kind: enum(a, b) = a) -> y[t], c: int:\n    y = x\n"
    )
    (definition,) = parsed(text).definitions
    x, code, b, d, z, s = definition.inputs
    assert [len(p.signatures or ()) for p in definition.inputs] == [1, 1, 2, 1, 1, 1]
    assert b.dtype == ast.Name("complex", b.span) and code.dtype is not None
    assert isinstance(d.default, ast.Literal) and d.default.value == -0.5
    assert [p.optional for p in (x, z, s)] == [False, True, True]
    assert [c.text for c in definition.statics[1].choices] == ["a", "b"]
    assert [o.axes is None for o in definition.outputs] == [False, True]


def test_going_on_after_an_error() -> None:
    text = "layer f(x[t) -> y[t]:\n    y = 2 * * x\n\nlayer g(x[t]) -> y[t]:\n    a = 1 +\n    y = x )\n    z = 3\n"
    found = parse(Source("<test>", text))
    assert [d.span.line for d in found.diagnostics if d.span] == [1, 5, 6]
    assert [b.name for b in found.file.broken] == ["f"]
    assert [d.name.text for d in found.file.definitions] == ["g"]


def test_cache_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """Silently without a cache, with a broken one, and with a good one."""
    code = "from ssmc.dsl import module_from_text as m; print(m('layer f(x[t]) -> y[t]:\\n    y = x + 1\\n').layers)"
    blocked = tmp_path / "file"
    blocked.write_text("")
    fresh = tmp_path / "cache"
    for folder in (blocked / "below", fresh, fresh):
        environment = {**os.environ, "SSMC_CACHE_DIR": str(folder)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == ("('f',)\n", "")
    (table,) = fresh.iterdir()
    table.write_bytes(b"broken")
    environment = {**os.environ, "SSMC_CACHE_DIR": str(fresh)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("('f',)\n", "")


def test_checking_loads_nothing_heavy() -> None:
    code = (
        "import sys; from ssmc.dsl import check, load_module; assert not check(load_module('selective_scan'));"
        "print(sorted({'numpy', 'torch', 'sympy', 'networkx', 'lark'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
