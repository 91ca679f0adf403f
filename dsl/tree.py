"""Expressions whose names are known, before axes and types are: between the ast and the IR.

Static choices are made, calls are inlined, names are those of the flat Program. What is still missing
is the index of every axis that an ``Access`` does not mention; ``lower`` adds it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from ssmc.ir import DType, Number
from ssmc.source import Span


@dataclass(frozen=True)
class Lit:
    """A number. ``absent`` marks one that stands for an input that is not there or a static choice,
    and what follows from it; such numbers are simplified away. ``static`` marks the value of a
    static parameter."""

    value: Number
    dtype: DType
    span: Span = field(compare=False, repr=False)
    absent: bool = False
    static: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Ax:
    """The index along an axis."""

    axis: str
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Ext:
    """The extent of an axis."""

    axis: str
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Place:
    """One item of an index: ``axis=value``, or ``value`` alone (axis None)."""

    axis: str | None
    value: Tree
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Access:
    """``tensor[places]``; axes that no place sets keep their own index."""

    tensor: str
    places: tuple[Place, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Compute:
    """An elementwise operation from ``ssmc.ir.OPERATIONS``."""

    op: str
    args: tuple[Tree, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Choose:
    """``where(condition, then, otherwise)``."""

    condition: Tree
    then: Tree
    otherwise: Tree
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Fold:
    """A reduction."""

    kind: str
    axes: tuple[str, ...]
    condition: Tree | None
    body: Tree
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Whole:
    """A whole-axis operation that keeps its axis."""

    kind: str
    axis: str
    body: Tree
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Join:
    """``concat[axis](parts)``."""

    axis: str
    parts: tuple[Tree, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Invoke:
    """An elementwise ``fn`` applied to values."""

    function: str
    args: tuple[Tree, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Outside:
    """An opaque ``fn`` applied to whole tensors; always a whole right side."""

    function: str
    args: tuple[str, ...]
    span: Span = field(compare=False, repr=False)


Tree: TypeAlias = Lit | Ax | Ext | Access | Compute | Choose | Fold | Whole | Join | Invoke | Outside


def below(tree: Tree) -> tuple[Tree, ...]:
    """The direct sub-expressions, those in brackets included."""
    match tree:
        case Access(places=places):
            return tuple(place.value for place in places)
        case Compute(args=args) | Invoke(args=args) | Join(parts=args):
            return args
        case Choose(condition=c, then=a, otherwise=b):
            return (c, a, b)
        case Fold(condition=c, body=body):
            return (body,) if c is None else (c, body)
        case Whole(body=body):
            return (body,)
        case _:
            return ()


def walk(tree: Tree) -> list[Tree]:
    """The expression and everything below it, parents first."""
    found = [tree]
    for node in found:
        found.extend(below(node))
    return found


def mentioned(tree: Tree) -> set[str]:
    """The axes whose names are written in it as values."""
    return {node.axis for node in walk(tree) if isinstance(node, Ax)}
