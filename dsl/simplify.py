"""What becomes of expressions in which absent inputs have turned into numbers.

``D * x + s`` is ``s`` when ``D`` is absent and counts as 0. Only numbers that stand for absent inputs
(and what follows from them) are simplified: what the author wrote stays as written.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from ssmc.ir import BOOL, COMPLEX, INT, REAL, DType, Number, join, result_type
from ssmc.source import Span

from .tree import Choose, Compute, Lit, Tree

_KEEPS_ZERO = frozenset(
    "expm1 log1p tanh sinh sin tan arcsin arctan erf sqrt silu gelu gelu_tanh relu abs sign real re conj".split()
)
_ZERO_TO_ONE = frozenset("exp exp2 cos cosh".split())
_FOLDED: dict[str, Callable[..., Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul,
    "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    "eq": operator.eq, "ne": operator.ne,
    "and": lambda a, b: a and b, "or": lambda a, b: a or b,
    "not": operator.not_, "neg": operator.neg,
}  # fmt: skip
_PYTHON: dict[DType, Callable[[Any], Number]] = {BOOL: bool, INT: int, REAL: float, COMPLEX: complex}


def number(value: Number, dtype: DType, span: Span, absent: bool = False, static: bool = False) -> Lit:
    """A literal whose Python value has the Python type of its element type."""
    return Lit(_PYTHON[dtype](value), dtype, span, absent, static)


def _absent(tree: Tree, value: Number | None = None) -> bool:
    return isinstance(tree, Lit) and tree.absent and (value is None or tree.value == value)


def compute(op: str, args: tuple[Tree, ...], span: Span) -> Tree:
    """``op`` applied to ``args``, without the numbers that stand for absent inputs where possible."""
    if not any(_absent(arg) for arg in args):
        return Compute(op, args, span)
    if all(isinstance(arg, Lit) and arg.absent for arg in args):
        folded = _fold(op, args, span)
        if folded is not None:
            return folded
    if len(args) == 2:
        simpler = _binary(op, args[0], args[1], span)
        if simpler is not None:
            return simpler
    return Compute(op, args, span)


def _fold(op: str, args: tuple[Tree, ...], span: Span) -> Lit | None:
    literals = [arg for arg in args if isinstance(arg, Lit)]
    dtype = result_type(op, tuple(arg.dtype for arg in literals))
    if op in _FOLDED:
        values = [arg.value for arg in literals]
        if join(*(arg.dtype for arg in literals)) is COMPLEX and op not in ("add", "sub", "mul", "neg", "eq", "ne"):
            return None
        if op in ("and", "or", "not") and any(arg.dtype is not BOOL for arg in literals):
            return None
        return number(_FOLDED[op](*values), dtype, span, absent=True)
    if op in _KEEPS_ZERO and literals[0].value == 0:
        return number(0, dtype, span, absent=True)
    if op in _ZERO_TO_ONE and literals[0].value == 0:
        return number(1, dtype, span, absent=True)
    return None


def _binary(op: str, a: Tree, b: Tree, span: Span) -> Tree | None:
    """One side is an absent number, the other is not."""
    match op:
        case "add":
            return b if _absent(a, 0) else a if _absent(b, 0) else None
        case "sub":
            return a if _absent(b, 0) else Compute("neg", (b,), span) if _absent(a, 0) else None
        case "mul":
            if _absent(a, 0) or _absent(b, 0):
                return a if _absent(a, 0) else b
            return b if _absent(a, 1) else a if _absent(b, 1) else None
        case "div":
            return a if _absent(a, 0) else None
        case "and":
            return (b if a.value else a) if isinstance(a, Lit) and a.absent else _kept(a, b, True)
        case "or":
            return (a if a.value else b) if isinstance(a, Lit) and a.absent else _kept(a, b, False)
    return None


def _kept(a: Tree, b: Tree, neutral: bool) -> Tree | None:
    """``a and true`` is ``a``, ``a and false`` is ``false``; the mirror image for ``or``."""
    return (a if b.value == neutral else b) if isinstance(b, Lit) and b.absent else None


def choose(condition: Tree, then: Tree, otherwise: Tree, span: Span) -> Tree:
    """``where``; decided when the condition stands for an absent input."""
    if isinstance(condition, Lit) and condition.absent and condition.dtype is BOOL:
        return then if condition.value else otherwise
    return Choose(condition, then, otherwise, span)
