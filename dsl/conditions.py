"""Conditions that hold nowhere, whatever the extents: ``s < 0``, ``s > t and s < t``."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ssmc.ir import (
    Const,
    Expr,
    Op,
    Program,
    Reduce,
    Where,
    at_least,
    conjuncts,
    facts,
    known_extents,
    upper_bound,
    walk,
)

from .problems import Problems

_WRITTEN = re.compile(r"-?\s*[0-9.]+|true|false")


def check_conditions(program: Program, problems: Problems) -> None:
    """Report every condition of a reduction or a ``where`` that can never hold.

    Only numbers written as such count: with other static parameters a condition may well hold.
    """
    extents = {a: e for a, e in known_extents(program).items() if _literal(e)}
    equations = [*program.equations, *(e for c in program.customs for e in c.equations)]
    for equation in equations:
        for node in walk(equation.expr):
            if not isinstance(node, Reduce | Where) or node.condition is None:
                continue
            if never(node.condition, extents) and _literal(node.condition):
                hint = "check the comparisons; an index starts at 0"
                problems.add("this condition never holds", node.condition.span, hint=hint)


def never(condition: Expr, extents: Mapping[str, Expr]) -> bool:
    """Whether a condition is certainly false, as far as comparisons of linear forms tell."""
    if isinstance(condition, Const):
        return condition.value is False
    if isinstance(condition, Op) and condition.op == "or":
        return all(never(part, extents) for part in condition.args)
    parts = conjuncts(condition)
    if len(parts) > 1 and any(never(part, extents) for part in parts):
        return True
    forms = facts(condition, extents)
    for form in forms:
        others = [f for f in forms if f is not form]
        if at_least(-upper_bound(form, others, extents), 1):
            return True
    return False


def _literal(expr: Expr) -> bool:
    """Whether every number in an expression is written there, not a static parameter's value."""
    return all(
        node.span is not None and _WRITTEN.fullmatch(node.span.source.text[node.span.start : node.span.end])
        for node in walk(expr)
        if isinstance(node, Const)
    )
