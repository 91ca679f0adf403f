"""Grammar rules → ast nodes: one method per rule of ``grammar.lark``, called bottom-up by the parser.

Every method gets its children in order, with all tokens kept: a ``Word`` is a token that knows its
span, everything else is a node or a list made here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

from ssmc.errors import Diagnostic
from ssmc.ir import BOOL, COMPLEX, INT, REAL
from ssmc.source import Span

from . import ast
from .lexer import NESTING

Children: TypeAlias = list[Any]
_INT_LIMIT = 2**63


class Word(str):
    """The text of a token, normalised, with the name of its terminal and its span."""

    __slots__ = ("span", "type")
    type: str
    span: Span


class TooDeep(Exception):
    """An expression nests deeper than the language allows."""

    def __init__(self, span: Span) -> None:
        self.span = span
        super().__init__("nesting")


class BadLiteral(Exception):
    """A number that no value of the language can hold."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic
        super().__init__(diagnostic.message)


def _span(children: Children) -> Span:
    first: Span = children[0].span
    last: Span = children[-1].span
    return Span(first.source, first.start, last.end)


def _name(word: Word) -> ast.Name:
    return ast.Name(str(word), word.span)


def _names(children: Iterable[Any]) -> tuple[ast.Name, ...]:
    return tuple(_name(c) for c in children if isinstance(c, Word) and c.type == "NAME")


def _deeper(span: Span, *below: ast.Expr) -> int:
    depth = 1 + max(item.depth for item in below)
    if depth > NESTING:
        raise TooDeep(span)
    return depth


def _tidy(doc: str) -> str:
    """Documentation without its quotes, common indentation and outer blank lines."""
    lines = doc[3:-3].split("\n")
    indents = [len(line) - len(line.lstrip(" ")) for line in lines[1:] if line.strip()]
    cut = min(indents, default=0)
    lines = [lines[0].strip()] + [line[cut:].rstrip() for line in lines[1:]]
    return "\n".join(lines).strip("\n").rstrip()


class _Axes(NamedTuple):
    """``[b, t, d]``."""

    names: tuple[ast.Name, ...]
    span: Span


class _Type(NamedTuple):
    """What stands behind the colon of a parameter: a type, the choices of an enum, signatures."""

    dtype: ast.Name | None = None
    choices: tuple[ast.Name, ...] = ()
    signatures: tuple[tuple[ast.Name, ...], ...] | None = None


class _Index(NamedTuple):
    """``[items: condition]``."""

    items: tuple[ast.Item, ...]
    condition: ast.Expr | None
    span: Span


class Builder:
    """One method per rule; ``grammar.Machine`` finds them by name."""

    # ------------------------------------------------------------ files

    def start(self, children: Children) -> ast.File:
        doc = _tidy(str(children[0])) if children and isinstance(children[0], Word) else ""
        imports = tuple(i for c in children if isinstance(c, list) for i in c)
        definitions = tuple(c for c in children if isinstance(c, ast.Definition))
        broken = tuple(c for c in children if isinstance(c, ast.Broken))
        return ast.File(doc, imports, definitions, broken)

    def import_name(self, children: Children) -> list[ast.Name]:
        return [_name(children[0]), _name(children[-1])]

    def import_line(self, children: Children) -> list[ast.Import]:
        module = _name(children[1])
        pairs = [c for c in children if isinstance(c, list)]
        return [ast.Import(module, name, alias, name.span.join(alias.span)) for name, alias in pairs]

    def broken(self, children: Children) -> ast.Broken:
        return ast.Broken(str(children[0]), children[0].span)

    # ------------------------------------------------------------ definitions

    def layer(self, children: Children) -> ast.Definition:
        return self._definition("layer", children)

    def function(self, children: Children) -> ast.Definition:
        return self._definition("fn", children)

    def opaque(self, children: Children) -> ast.Definition:
        return self._definition("fn", children)

    def _definition(self, kind: str, children: Children) -> ast.Definition:
        inputs, statics = children[2]
        doc, body = children[-1] if isinstance(children[-1], tuple) else ("", None)
        span = children[0].span.join(children[1].span)
        return ast.Definition(kind, _name(children[1]), inputs, statics, children[4], doc, body, span)

    def parameters(self, children: Children) -> tuple[tuple[ast.Parameter, ...], tuple[ast.Parameter, ...]]:
        inputs: list[ast.Parameter] = []
        statics: list[ast.Parameter] = []
        current = inputs
        for child in children:
            if isinstance(child, ast.Parameter):
                current.append(child)
            elif child == "*":
                if current is statics:
                    hint = "one `*` stands before the static parameters"
                    raise BadLiteral(Diagnostic("a second `*`", child.span, hint=hint))
                current = statics
        return tuple(inputs), tuple(statics)

    def star(self, children: Children) -> Word:
        word: Word = children[0]
        return word

    def optional(self, children: Children) -> bool:
        return True

    def parameter(self, children: Children) -> ast.Parameter:
        name = _name(children[0])
        axes = next((c for c in children if isinstance(c, _Axes)), None)
        written = next((c for c in children if isinstance(c, _Type)), _Type())
        if axes is not None and written.signatures is not None:
            hint = "write `name[axes]`, or `name: [axes] | [axes]`"
            raise BadLiteral(Diagnostic(f"the axes of `{name.text}` are written twice", axes.span, hint=hint))
        signatures = written.signatures if axes is None else (axes.names,)
        optional = any(c is True for c in children)
        equals = len(children) > 2 and isinstance(children[-2], Word) and children[-2] == "="
        default = children[-1] if equals else None
        return ast.Parameter(name, signatures, written.dtype, written.choices, optional, default, name.span)

    def type(self, children: Children) -> _Type:
        return _Type(_name(children[0]))

    def enum_type(self, children: Children) -> _Type:
        return _Type(_name(children[0]), children[2])

    def signature_type(self, children: Children) -> _Type:
        dtype = _name(children[0]) if isinstance(children[0], Word) else None
        return _Type(dtype, (), tuple(c.names for c in children if isinstance(c, _Axes)))

    def axes(self, children: Children) -> _Axes:
        return _Axes(children[1] if len(children) == 3 else (), _span(children[:1] + children[-1:]))

    def name_list(self, children: Children) -> tuple[ast.Name, ...]:
        return _names(children)

    def outputs(self, children: Children) -> tuple[ast.Output, ...]:
        return tuple(c for c in children if isinstance(c, ast.Output))

    def output(self, children: Children) -> ast.Output:
        axes = next((c.names for c in children if isinstance(c, _Axes)), None)
        typed = len(children) > 2 and isinstance(children[-1], Word)
        return ast.Output(_name(children[0]), axes, _name(children[-1]) if typed else None, children[0].span)

    # ------------------------------------------------------------ statements

    def body(self, children: Children) -> tuple[str, tuple[ast.Statement, ...]]:
        doc = next((_tidy(str(c)) for c in children if isinstance(c, Word) and c.type == "DOC"), "")
        return doc, tuple(c for c in children if not isinstance(c, Word))

    def empty_body(self, children: Children) -> tuple[str, tuple[ast.Statement, ...]]:
        return self.body(children)

    def seq(self, children: Children) -> ast.Seq:
        return ast.Seq(_names(children), _span(children[:-1]))

    def axis_extent(self, children: Children) -> ast.AxisExtent:
        return ast.AxisExtent(_name(children[1]), children[3], _span(children[:-1]))

    def split(self, children: Children) -> ast.Split:
        return ast.Split(_name(children[1]), _names(children[3:]), _span(children[:-1]))

    def require(self, children: Children) -> ast.Require:
        return ast.Require(children[1], _span(children[:-1]))

    def equation(self, children: Children) -> ast.Equation:
        targets = tuple(c for c in children if isinstance(c, ast.Target))
        dtype = _names(children)
        return ast.Equation(targets, dtype[0] if dtype else None, children[-2], _span(children[:-1]))

    def target(self, children: Children) -> ast.Target:
        index = children[1] if len(children) > 1 else None
        if index is not None and index.condition is not None:
            hint = "conditions belong to reductions, `sum[s: s <= t](…)`, or to `where`"
            raise BadLiteral(Diagnostic("a condition on the left side", index.condition.span, hint=hint))
        return ast.Target(_name(children[0]), index.items if index else None, _span(children))

    def backward(self, children: Children) -> ast.Backward:
        return ast.Backward((), (), children[-1][1], children[0].span)

    def named_backward(self, children: Children) -> ast.Backward:
        cut = next(i for i, c in enumerate(children) if isinstance(c, Word) and c.type == "FROM")
        return ast.Backward(_names(children[:cut]), _names(children[cut:]), children[-1][1], children[0].span)

    # ------------------------------------------------------------ expressions

    def when(self, children: Children) -> ast.Expr:
        then, _, condition, _, otherwise = children
        span = _span(children)
        return ast.When(then, condition, otherwise, span, _deeper(span, then, condition, otherwise))

    def binary(self, children: Children) -> ast.Expr:
        left, op, right = children
        span = _span(children)
        return ast.Binary(str(op), left, right, span, _deeper(op.span, left, right))

    def unary(self, children: Children) -> ast.Expr:
        op, operand = children
        span = _span(children)
        if op == "-" and isinstance(operand, ast.Literal) and operand.dtype is not BOOL:
            return ast.Literal(-operand.value, operand.dtype, span)
        return ast.Unary(str(op), operand, span, _deeper(op.span, operand))

    def bracket(self, children: Children) -> ast.Expr:
        base, index = children
        below = [item.value for item in index.items] + ([index.condition] if index.condition else [])
        span = _span(children)
        return ast.Bracket(base, index.items, index.condition, span, _deeper(index.span, base, *below))

    def index(self, children: Children) -> _Index:
        items = tuple(c for c in children if isinstance(c, ast.Item))
        colon = len(children) > 2 and isinstance(children[-3], Word) and children[-3] == ":"
        return _Index(items, children[-2] if colon else None, _span(children))

    def call(self, children: Children) -> ast.Expr:
        arguments = tuple(c for c in children if isinstance(c, ast.Item))
        span = _span(children)
        depth = _deeper(span, children[0], *(item.value for item in arguments))
        return ast.Call(children[0], arguments, span, depth)

    def item(self, children: Children) -> ast.Item:
        return ast.Item(None, children[0], children[0].span)

    def named_item(self, children: Children) -> ast.Item:
        return ast.Item(_name(children[0]), children[2], _span(children))

    def group(self, children: Children) -> ast.Expr:
        inner: ast.Expr = children[1]
        if isinstance(inner, ast.Call | ast.Literal):
            return ast.Group(inner, inner.span, _deeper(inner.span, inner))
        return inner

    def literal(self, children: Children) -> ast.Literal:
        word: Word = children[0]
        match word.type:
            case "NUMBER":
                return _number(word)
            case "TRUE" | "FALSE":
                return ast.Literal(word.type == "TRUE", BOOL, word.span)
            case "PI":
                return ast.Literal(math.pi, REAL, word.span)
        return ast.Literal(math.inf, REAL, word.span)

    def name(self, children: Children) -> ast.Name:
        return _name(children[0])

    def extent(self, children: Children) -> ast.Extent:
        return ast.Extent(str(children[0]), children[0].span)

    def given(self, children: Children) -> ast.Given:
        return ast.Given(_name(children[2]), _span(children))

    def carries(self, children: Children) -> ast.Carries:
        return ast.Carries(_name(children[2]), _name(children[4]), _span(children))


def _number(word: Word) -> ast.Literal:
    text = str(word)
    if text.endswith("i"):
        return ast.Literal(complex(0, _finite(text[:-1], word)), COMPLEX, word.span)
    if text.isdigit():
        if len(text) > 19 or int(text) >= _INT_LIMIT:
            raise BadLiteral(
                Diagnostic(
                    f"`{text[:24]}` does not fit in 64 bits", word.span, "an int below 2^63", "write a real: 1e20"
                )
            )
        return ast.Literal(int(text), INT, word.span)
    return ast.Literal(_finite(text, word), REAL, word.span)


def _finite(text: str, word: Word) -> float:
    value = float(text)
    if math.isinf(value):
        raise BadLiteral(Diagnostic(f"`{text[:24]}` is too large for a real", word.span, hint="write `inf`"))
    return value
