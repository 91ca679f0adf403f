"""The Program: equations over named axes, one frozen node per idea.

A Program is monomorphic: static parameters are numbers, optional inputs are present or gone,
signatures are chosen (``dsl.elaborate`` does this). Every axis name means one extent throughout a
Program, bound axes of reductions included. Every tensor read states an index for every axis, so
``h[t-1]`` is ``Read("h", (Index("b"), t - 1, ...))``. Spans never take part in equality.

Reading outside an axis yields 0 of the tensor that is read, unless an ``Extension`` says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from ssmc.source import Span

from .ops import REDUCTIONS, TRANSFORMS, result_type
from .types import INT, DType

Number: TypeAlias = bool | int | float | complex


def _span() -> Span | None:
    return field(default=None, compare=False, repr=False)


# ---------------------------------------------------------------- expressions


@dataclass(frozen=True)
class Const:
    """A literal; ``dtype`` tells 1 from 1.0."""

    value: Number
    dtype: DType
    span: Span | None = _span()


@dataclass(frozen=True)
class Index:
    """The integer index along an axis; along a sequence axis it is the position."""

    axis: str
    span: Span | None = _span()


@dataclass(frozen=True)
class Size:
    """The extent of an axis, ``#axis``; an int."""

    axis: str
    span: Span | None = _span()


@dataclass(frozen=True)
class Read:
    """An element of ``tensor``, one int expression per axis, in the tensor's axis order."""

    tensor: str
    indices: tuple[Expr, ...]
    span: Span | None = _span()


@dataclass(frozen=True)
class Op:
    """An elementwise operation from ``ops.OPERATIONS``."""

    op: str
    args: tuple[Expr, ...]
    span: Span | None = _span()


@dataclass(frozen=True)
class Where:
    """``then`` where ``condition`` holds, else ``otherwise``; the other side is not evaluated."""

    condition: Expr
    then: Expr
    otherwise: Expr
    span: Span | None = _span()


@dataclass(frozen=True)
class Reduce:
    """``body`` folded over ``axes`` where ``condition`` holds; a kind from ``ops.REDUCTIONS``.

    ``softmax`` keeps its one axis: its value varies along it, and is 0 outside the condition.
    """

    kind: str
    axes: tuple[str, ...]
    condition: Expr | None
    body: Expr
    span: Span | None = _span()


@dataclass(frozen=True)
class Transform:
    """A whole-axis operation that keeps its axis; a kind from ``ops.TRANSFORMS``."""

    kind: str
    axis: str
    body: Expr
    span: Span | None = _span()


@dataclass(frozen=True)
class Call:
    """An elementwise ``fn`` of the Program applied to values."""

    function: str
    args: tuple[Expr, ...]
    span: Span | None = _span()


@dataclass(frozen=True)
class Apply:
    """An opaque function applied to whole tensors; only as the whole right side of an equation."""

    function: str
    args: tuple[str, ...]
    span: Span | None = _span()


Expr: TypeAlias = Const | Index | Size | Read | Op | Where | Reduce | Transform | Call | Apply


# ---------------------------------------------------------------- declarations


@dataclass(frozen=True)
class Axis:
    """A named axis. ``extent`` is an int expression over ``Size`` of other axes and constants;
    ``None`` means that the shape of an input binds it."""

    name: str
    extent: Expr | None = None
    sequence: bool = False
    span: Span | None = _span()


@dataclass(frozen=True)
class Tensor:
    """An input, or the type of an equation: name, axes in order, element type."""

    name: str
    axes: tuple[str, ...]
    dtype: DType
    span: Span | None = _span()


@dataclass(frozen=True)
class Equation:
    """``name[axes] = expr``: one value at each point of the axes."""

    name: str
    axes: tuple[str, ...]
    dtype: DType
    expr: Expr
    span: Span | None = _span()

    @property
    def tensor(self) -> Tensor:
        return Tensor(self.name, self.axes, self.dtype, self.span)


@dataclass(frozen=True)
class Extension:
    """The value of ``tensor`` outside sequence axis ``axis``: ``h[t<0] = expr`` (side "before")
    or ``g[t >= #t] = expr`` (side "after"). In ``expr``, ``Index(axis)`` is the index outside."""

    tensor: str
    axis: str
    side: str
    expr: Expr
    span: Span | None = _span()


@dataclass(frozen=True)
class Function:
    """An elementwise ``fn``: ``bindings`` in order, then ``result``. Parameters and bindings are
    read as ``Read(name, ())``. ``backward`` holds one (parameter, expr) pair per parameter, where
    ``Read("d.<result_name>", ())`` is the adjoint of the result; empty when it is derived."""

    name: str
    parameters: tuple[str, ...]
    bindings: tuple[tuple[str, Expr], ...]
    result_name: str
    result: Expr
    dtype: DType
    backward: tuple[tuple[str, Expr], ...] = ()
    span: Span | None = _span()


@dataclass(frozen=True)
class Opaque:
    """A function whose meaning the caller supplies; its axes are exactly these."""

    name: str
    parameters: tuple[Tensor, ...]
    result: Tensor
    span: Span | None = _span()


@dataclass(frozen=True)
class CustomGradient:
    """A ``backward:`` block: adjoints of ``inputs`` (named ``d.<input>``) given those of
    ``outputs`` (``d.<output>``), replacing what would be derived for the equations between."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    equations: tuple[Equation, ...]
    span: Span | None = _span()


@dataclass(frozen=True)
class Requirement:
    """A fact about extents that every call must meet."""

    condition: Expr
    span: Span | None = _span()


@dataclass(frozen=True)
class Program:
    """One layer, ready to be interpreted, derived from, planned and lowered."""

    name: str
    axes: tuple[Axis, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    equations: tuple[Equation, ...]
    extensions: tuple[Extension, ...] = ()
    functions: tuple[Function, ...] = ()
    opaques: tuple[Opaque, ...] = ()
    customs: tuple[CustomGradient, ...] = ()
    requirements: tuple[Requirement, ...] = ()
    doc: str = ""
    span: Span | None = _span()

    def axis(self, name: str) -> Axis:
        """The axis of that name; KeyError if there is none."""
        return _by_name(self.axes, name)

    def equation(self, name: str) -> Equation:
        """The equation that defines ``name``; KeyError for inputs and unknown names."""
        return _by_name(self.equations, name)

    def function(self, name: str) -> Function:
        return _by_name(self.functions, name)

    def tensors(self) -> dict[str, Tensor]:
        """Inputs, then equations, by name."""
        found = {t.name: t for t in self.inputs}
        found.update((e.name, e.tensor) for e in self.equations)
        return found

    def extension(self, tensor: str, axis: str, side: str) -> Extension | None:
        """What is read outside ``axis`` of ``tensor`` on that side, if an equation says so."""
        for item in self.extensions:
            if (item.tensor, item.axis, item.side) == (tensor, axis, side):
                return item
        return None

    @property
    def sequence_axes(self) -> tuple[str, ...]:
        return tuple(a.name for a in self.axes if a.sequence)


def _by_name(items: tuple, name: str):  # type: ignore[type-arg, no-untyped-def]
    for item in items:
        if item.name == name:
            return item
    raise KeyError(name)


# ---------------------------------------------------------------- walking


def children(expr: Expr) -> tuple[Expr, ...]:
    """The direct sub-expressions, conditions before bodies."""
    match expr:
        case Read(indices=items):
            return items
        case Op(args=items) | Call(args=items):
            return items
        case Where(condition=c, then=a, otherwise=b):
            return (c, a, b)
        case Reduce(condition=c, body=body):
            return (body,) if c is None else (c, body)
        case Transform(body=body):
            return (body,)
        case _:
            return ()


def with_children(expr: Expr, items: tuple[Expr, ...]) -> Expr:
    """The same node over other sub-expressions, in the order of ``children``."""
    match expr:
        case Read():
            return replace(expr, indices=items)
        case Op() | Call():
            return replace(expr, args=items)
        case Where():
            return replace(expr, condition=items[0], then=items[1], otherwise=items[2])
        case Reduce(condition=None) | Transform():
            return replace(expr, body=items[0])
        case Reduce():
            return replace(expr, condition=items[0], body=items[1])
        case _:
            return expr


def walk(expr: Expr) -> Iterator[Expr]:
    """The expression and everything below it, parents first."""
    stack = [expr]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(children(node)))


def rewrite(expr: Expr, rule: Callable[[Expr], Expr | None]) -> Expr:
    """Bottom-up replacement: ``rule`` sees each rebuilt node and returns another, or None to keep it."""
    below = children(expr)
    rebuilt = tuple(rewrite(item, rule) for item in below)
    node = expr if all(a is b for a, b in zip(below, rebuilt, strict=True)) else with_children(expr, rebuilt)
    changed = rule(node)
    return node if changed is None else changed


def bound_axes(expr: Expr) -> frozenset[str]:
    """Axes that this very node binds for its sub-expressions and hides from outside."""
    if isinstance(expr, Reduce) and not REDUCTIONS[expr.kind].keeps_axis:
        return frozenset(expr.axes)
    return frozenset()


def free_axes(expr: Expr) -> frozenset[str]:
    """Axes along which the value varies: every index used and not bound inside."""
    if isinstance(expr, Index):
        return frozenset((expr.axis,))
    found: frozenset[str] = frozenset().union(*(free_axes(item) for item in children(expr)))
    if isinstance(expr, Transform):
        found |= {expr.axis}
    if isinstance(expr, Reduce) and REDUCTIONS[expr.kind].keeps_axis:
        found |= set(expr.axes)
    return found - bound_axes(expr)


def substitute(expr: Expr, indices: Mapping[str, Expr]) -> Expr:
    """Replace every free ``Index(axis)`` by ``indices[axis]``, simultaneously.

    ValueError where no expression says it: when a reduction inside binds an axis of a value put
    there, or when an axis that a softmax or transform keeps would become more than another axis.
    """
    if isinstance(expr, Index):
        return indices.get(expr.axis, expr)
    kept = _kept(expr)
    if kept and kept in indices:
        target = indices[kept]
        if not isinstance(target, Index):
            raise ValueError(f"the axis {kept!r} of a whole-axis operation cannot be computed")
        match expr:
            case Reduce():
                expr = replace(expr, axes=(target.axis,))
            case Transform():
                expr = replace(expr, axis=target.axis)
    bound = bound_axes(expr)
    if bound:
        inner = {axis: value for axis, value in indices.items() if axis not in bound and axis in free_axes(expr)}
        captured = {axis for value in inner.values() for axis in free_axes(value)} & bound
        if captured:
            raise ValueError(f"a reduction binds {sorted(captured)}, which the indices put inside it use")
        indices = inner
    below = children(expr)
    rebuilt = tuple(substitute(item, indices) for item in below)
    return expr if all(a is b for a, b in zip(below, rebuilt, strict=True)) else with_children(expr, rebuilt)


def rebound(reduce: Reduce, names: Mapping[str, str]) -> Reduce:
    """The same reduction, over axes that are called as ``names`` says."""
    renamed: dict[str, Expr] = {axis: Index(name) for axis, name in names.items()}
    condition = None if reduce.condition is None else substitute(reduce.condition, renamed)
    axes = tuple(names.get(axis, axis) for axis in reduce.axes)
    return replace(reduce, axes=axes, condition=condition, body=substitute(reduce.body, renamed))


def _kept(expr: Expr) -> str | None:
    """The axis that a whole-axis operation keeps."""
    if isinstance(expr, Transform):
        return expr.axis
    return expr.axes[0] if isinstance(expr, Reduce) and REDUCTIONS[expr.kind].keeps_axis else None


def type_of(expr: Expr, tensors: Mapping[str, Tensor], functions: Mapping[str, Function] | None = None) -> DType:
    """The element type of an expression whose reads are all in ``tensors``."""

    def of(item: Expr) -> DType:
        return type_of(item, tensors, functions)

    match expr:
        case Const(dtype=dtype):
            return dtype
        case Index() | Size():
            return INT
        case Read(tensor=name):
            return tensors[name].dtype
        case Op(op=op, args=args):
            return result_type(op, tuple(of(a) for a in args))
        case Where(then=a, otherwise=b):
            return max(of(a), of(b), key=lambda t: t.rank)
        case Reduce(kind=kind, body=body):
            return reduced_type(kind, of(body))
        case Transform(kind=kind, body=body):
            return INT if kind == "argsort" else result_type("add", (of(body),))
        case Call(function=name):
            return (functions or {})[name].dtype
    raise TypeError(f"no element type: {expr!r}")


def reduced_type(kind: str, body: DType) -> DType:
    """The element type of a reduction of values of type ``body``."""
    row = REDUCTIONS[kind]
    if isinstance(row.yields, DType):
        return row.yields
    return result_type("div" if row.yields.name == "AT_LEAST_REAL" else "add", (body, body))


__all__ = [
    "TRANSFORMS", "Apply", "Axis", "Call", "Const", "CustomGradient", "Equation", "Expr", "Extension",
    "Function", "Index", "Number", "Op", "Opaque", "Program", "Read", "Reduce", "Requirement", "Size",
    "Tensor", "Transform", "Where", "bound_axes", "children", "free_axes", "reduced_type", "rewrite",
    "substitute", "type_of", "walk", "with_children",
]  # fmt: skip
