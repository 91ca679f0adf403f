"""What becomes of expressions in which absent inputs have turned into numbers.

``D * x + s`` is ``s`` when ``D`` is absent and counts as 0. Only numbers that stand for absent inputs
(and what follows from them) are simplified: what the author wrote stays as written.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ssmc.ir import BOOL, COMPLEX, INT, REAL, DType, Number, join, result_type
from ssmc.source import Span

from .flat import Build, Outer
from .tree import Access, Choose, Compute, Fold, Invoke, Join, Lit, Outside, Place, Tree, Whole

_ZERO_AT_ZERO = "expm1 log1p tanh sinh sin tan arcsin arctan erf sqrt silu gelu gelu_tanh relu abs sign real re conj"
_KEEPS_ZERO = frozenset(_ZERO_AT_ZERO.split())
_ZERO_TO_ONE = frozenset(("exp", "exp2", "cos", "cosh"))
_FOLDED: dict[str, Callable[..., Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul,
    "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    "eq": operator.eq, "ne": operator.ne,
    "and": lambda a, b: a and b, "or": lambda a, b: a or b,
    "not": operator.not_, "neg": operator.neg,
}  # fmt: skip
_PYTHON: dict[DType, Callable[[Any], Number]] = {BOOL: bool, INT: int, REAL: float, COMPLEX: complex}


def number(value: Number, dtype: DType, span: Span, absent: bool = False, static: bool = False) -> Lit:
    """A literal whose Python value has the Python type of its element type; complex ones are imaginary."""
    if dtype is COMPLEX and not complex(value).imag:
        value, dtype = complex(value).real, REAL
    return Lit(_PYTHON[dtype](value), dtype, span, absent, static)


def _absent(tree: Tree, value: Number | None = None) -> bool:
    return isinstance(tree, Lit) and tree.absent and (value is None or tree.value == value)


def compute(op: str, args: tuple[Tree, ...], span: Span) -> Tree:
    """``op`` applied to ``args``, without the numbers that stand for absent inputs where possible."""
    if not any(_absent(arg) for arg in args):
        return _fold_static(op, args, span) or Compute(op, args, span)
    if all(isinstance(arg, Lit) and arg.absent for arg in args):
        folded = _fold(op, args, span)
        if folded is not None:
            return folded
    if len(args) == 2:
        simpler = _binary(op, args[0], args[1], span)
        if simpler is not None:
            return simpler
    return Compute(op, args, span)


def _fold_static(op: str, args: tuple[Tree, ...], span: Span) -> Lit | None:
    """Integer arithmetic with static parameters, done: ``before * chunk``."""
    literals = [arg for arg in args if isinstance(arg, Lit) and arg.dtype is INT]
    if len(literals) < len(args) or op not in ("add", "sub", "mul", "neg") or not any(a.static for a in literals):
        return None
    result = _FOLDED[op](*(arg.value for arg in literals))
    return Lit(result, INT, span, static=True) if abs(result) < 2**63 else None


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


def fold(kind: str, axes: tuple[str, ...], condition: Tree | None, body: Tree, span: Span) -> Tree:
    """A reduction; an absent input makes its condition true or its sum 0."""
    if isinstance(condition, Lit) and condition.absent and condition.value is True:
        condition = None
    if kind == "sum" and _absent(body, 0) and isinstance(body, Lit):
        return number(0, body.dtype, span, absent=True)
    return Fold(kind, axes, condition, body, span)


def propagate(build: Build, keep: set[str]) -> None:
    """Put equations that became mere numbers into those that read them, and leave them out."""
    keep = keep | {o.tensor for o in build.outers} | {n for b in build.blocks for n in (*b.inputs, *b.outputs)}
    while True:
        known = {
            flat.name: flat.tree
            for flat in build.flats.values()
            if _absent(flat.tree) and flat.axes is None and flat.dtype is None and flat.like is None
            and flat.name not in keep
        }  # fmt: skip
        if not known:
            return
        for name in known:
            del build.flats[name]
        for flat in build.flats.values():
            flat.tree = rebuilt(flat.tree, known)
        build.outers = [
            Outer(o.tensor, o.axis, o.side, rebuilt(o.tree, known), o.span, o.key, o.shown) for o in build.outers
        ]
        build.promises = [p for p in build.promises if p.tensor not in known]


def drop_copies(build: Build, axes_of: Callable[[str], set[str]]) -> None:
    """Take out the equations that only name a tensor anew, with the same axes."""
    names: dict[str, str] = {}
    spans: dict[str, Span] = {}
    for flat in build.flats.values():
        if flat.name in {o.tensor for o in build.outers}:
            continue
        if flat.copy and isinstance(flat.tree, Access) and axes_of(flat.name) == axes_of(flat.tree.tensor):
            names[flat.name], spans[flat.name] = flat.tree.tensor, flat.span
    for name in names:
        del build.flats[name]

    def end(name: str) -> str:
        while name in names:
            name = names[name]
        return name

    build.promises = [replace(p, tensor=end(p.tensor)) for p in build.promises]
    known: dict[str, Tree] = {name: Access(end(name), (), spans[name]) for name in names}
    for flat in build.flats.values():
        flat.tree = rebuilt(flat.tree, known)
    build.outers = [
        Outer(end(o.tensor), o.axis, o.side, rebuilt(o.tree, known), o.span, o.key, o.shown) for o in build.outers
    ]


def rebuilt(tree: Tree, known: dict[str, Tree]) -> Tree:
    """The tree with reads of ``known`` tensors replaced, simplified where that allows it."""
    match tree:
        case Access(tensor=name, places=places, span=span):
            new = known.get(name)
            if new is not None and not isinstance(new, Access):
                return new
            inner = tuple(Place(p.axis, rebuilt(p.value, known), p.span) for p in places)
            return Access(name if new is None else new.tensor, inner, span)
        case Outside(function=function, args=args, span=span):
            named = {a: known.get(a) for a in args}
            new_names = ((a, named[a]) for a in args)
            return Outside(function, tuple(n.tensor if isinstance(n, Access) else a for a, n in new_names), span)
        case Compute(op=op, args=args, span=span):
            return compute(op, tuple(rebuilt(a, known) for a in args), span)
        case Choose(condition=c, then=a, otherwise=b, span=span):
            return choose(rebuilt(c, known), rebuilt(a, known), rebuilt(b, known), span)
        case Fold(kind=kind, axes=axes, condition=c, body=body, span=span):
            return fold(kind, axes, None if c is None else rebuilt(c, known), rebuilt(body, known), span)
        case Whole(kind=kind, axis=axis, body=body, span=span):
            return Whole(kind, axis, rebuilt(body, known), span)
        case Join(axis=axis, parts=parts, span=span):
            return Join(axis, tuple(rebuilt(p, known) for p in parts), span)
        case Invoke(function=function, args=args, span=span):
            return Invoke(function, tuple(rebuilt(a, known) for a in args), span)
    return tree
