"""Static facts: the values of static parameters, ``given``, ``carries``, and what follows from them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

from . import ast
from .choice import StaticValue
from .problems import Problems, listed, nearest
from .signature import StaticSignature

_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    "//": operator.floordiv, "%": operator.mod, "^": operator.pow,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_TOO_LARGE = 2**63


class NotStatic(Exception):
    """The expression depends on data, extents or indices; ``node`` is the part that does."""

    def __init__(self, node: ast.Expr) -> None:
        self.node = node
        super().__init__("not static")


class Facts:
    """What is fixed in one frame: statics by name, presence of inputs, the chosen signatures."""

    def __init__(
        self,
        statics: Mapping[str, StaticValue],
        kinds: Mapping[str, StaticSignature],
        absent: Collection[str],
        signatures: Mapping[str, tuple[str, ...]],
        problems: Problems,
    ) -> None:
        self.statics = statics
        self.kinds = kinds
        self.absent = absent
        self.signatures = signatures
        self.problems = problems

    def value(self, expr: ast.Expr, choices: Collection[str] = ()) -> StaticValue:
        """The value of a static expression; names in ``choices`` stand for themselves. NotStatic
        (with the part that is not) or Abandon (reported)."""
        match expr:
            case ast.Group(inner=inner):
                return self.value(inner, choices)
            case ast.Literal(value=value) if not isinstance(value, complex):
                return value
            case ast.Name(text=name):
                return self._name(expr, name, choices)
            case ast.Given(name=name):
                return self.given(name)
            case ast.Carries(name=name, axis=axis):
                return self.carries(name, axis)
            case ast.Unary(op=op, operand=operand):
                inner_value = self.value(operand)
                if isinstance(inner_value, str):
                    raise self._mistyped(expr)
                return (not inner_value) if op == "not" else -inner_value
            case ast.Binary():
                return self._binary(expr)
            case ast.When(then=a, condition=c, otherwise=b):
                return self.value(a if self.truth(c) else b, choices)
        raise NotStatic(expr)

    def truth(self, expr: ast.Expr) -> bool:
        """The value of a static condition."""
        found = self.value(expr)
        if not isinstance(found, bool):
            raise self.problems.abandon(
                "this static condition is not a bool", expr.span, "true or false", "compare it: `window > 0`"
            )
        return found

    def given(self, name: ast.Name) -> bool:
        if name.text not in self.signatures:
            hint = nearest(name.text, self.signatures) or "`given` asks whether an input is present"
            raise self.problems.abandon(f"`{name.text}` is not an input", name.span, "an input", hint)
        return name.text not in self.absent

    def carries(self, name: ast.Name, axis: ast.Name) -> bool:
        if name.text not in self.signatures:
            hint = nearest(name.text, self.signatures) or "`carries(B, t)` asks whether input `B` has axis `t`"
            raise self.problems.abandon(f"`{name.text}` is not an input", name.span, "an input", hint)
        return axis.text in self.signatures[name.text]

    def is_static(self, expr: ast.Expr) -> bool:
        """Whether an expression is made of static facts, at least one, and nothing else."""
        facts = False
        stack = [expr]
        while stack:
            node = stack.pop()
            match node:
                case ast.Name(text=name):
                    if name not in self.statics:
                        return False
                    facts = True
                case ast.Given() | ast.Carries():
                    facts = True
                case ast.Literal() | ast.Unary() | ast.Binary() | ast.Group():
                    stack.extend(ast.parts(node))
                case _:
                    return False
        return facts

    def _name(self, expr: ast.Name, name: str, choices: Collection[str]) -> StaticValue:
        if name in self.statics:
            return self.statics[name]
        if name in choices:
            return name
        raise NotStatic(expr)

    def _binary(self, expr: ast.Binary) -> StaticValue:
        if expr.op in ("and", "or"):
            left, right = self.truth(expr.left), self.truth(expr.right)
            return (left and right) if expr.op == "and" else (left or right)
        if expr.op in ("==", "!="):
            enum = self._enum_comparison(expr)
            if enum is not None:
                return enum
        a, b = self.value(expr.left), self.value(expr.right)
        if isinstance(a, str) or isinstance(b, str):
            raise self._mistyped(expr)
        try:
            found: StaticValue = _OPERATIONS[expr.op](a, b)
        except (ZeroDivisionError, OverflowError, ValueError):
            message = "this static value cannot be computed"
            raise self.problems.abandon(message, expr.span, hint="check for a zero") from None
        if isinstance(found, complex) or (isinstance(found, int) and abs(found) >= _TOO_LARGE):
            raise self.problems.abandon("this static value is too large", expr.span, "a value below 2^63")
        return found

    def _enum_comparison(self, expr: ast.Binary) -> bool | None:
        """``disc == zoh``: the other side of an enum is one of its choices."""
        for one, other in ((expr.left, expr.right), (expr.right, expr.left)):
            if isinstance(one, ast.Name) and one.text in self.kinds and self.kinds[one.text].kind == "enum":
                choices = self.kinds[one.text].choices
                if isinstance(other, ast.Name) and other.text not in choices and other.text not in self.statics:
                    hint = nearest(other.text, choices) or f"write `{one.text} == {choices[0]}`"
                    message = f"`{other.text}` is not a choice of `{one.text}`"
                    raise self.problems.abandon(message, other.span, listed(choices, "or"), hint)
                equal = self.value(one) == self.value(other, choices)
                return equal if expr.op == "==" else not equal
        return None

    def _mistyped(self, expr: ast.Expr) -> Exception:
        return self.problems.abandon(
            "an enum can only be compared", expr.span, "`==` or `!=`", "write `kind == choice`"
        )


def fits(value: object, kind: StaticSignature) -> bool:
    """Whether a value may be given for a static parameter."""
    match kind.kind:
        case "bool":
            return isinstance(value, bool)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _TOO_LARGE
        case "real":
            return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str) and value in kind.choices


def converted(value: StaticValue, kind: StaticSignature) -> StaticValue:
    """An int given for a real, as a real."""
    return float(value) if kind.kind == "real" else value
