"""What a ``.ssm`` text says, before anything is known about its names.

One frozen node per construct, each with the span it was written at. Names are NFC-normalised;
``Group`` keeps only those parentheses that change a meaning: around a call (whose brackets would
otherwise rename axes) and around a literal (whose minus would otherwise be part of it).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from ssmc.ir import DType, Number
from ssmc.source import Span

# ---------------------------------------------------------------- expressions


@dataclass(frozen=True)
class Literal:
    value: Number
    dtype: DType
    span: Span = field(compare=False, repr=False)
    depth: int = field(default=1, compare=False, repr=False)


@dataclass(frozen=True)
class Name:
    text: str
    span: Span = field(compare=False, repr=False)
    depth: int = field(default=1, compare=False, repr=False)


@dataclass(frozen=True)
class Extent:
    """``#axis``."""

    axis: str
    span: Span = field(compare=False, repr=False)
    depth: int = field(default=1, compare=False, repr=False)


@dataclass(frozen=True)
class Given:
    """``given(z)``."""

    name: Name
    span: Span = field(compare=False, repr=False)
    depth: int = field(default=1, compare=False, repr=False)


@dataclass(frozen=True)
class Carries:
    """``carries(B, t)``."""

    name: Name
    axis: Name
    span: Span = field(compare=False, repr=False)
    depth: int = field(default=1, compare=False, repr=False)


@dataclass(frozen=True)
class Unary:
    """``-a`` or ``not a``; ``op`` is the written symbol."""

    op: str
    operand: Expr
    span: Span = field(compare=False, repr=False)
    depth: int = field(default=1, compare=False, repr=False)


@dataclass(frozen=True)
class Binary:
    op: str
    left: Expr
    right: Expr
    span: Span = field(compare=False, repr=False)
    depth: int = field(default=1, compare=False, repr=False)


@dataclass(frozen=True)
class When:
    """``then when condition else otherwise``."""

    then: Expr
    condition: Expr
    otherwise: Expr
    span: Span = field(compare=False, repr=False)
    depth: int = field(default=1, compare=False, repr=False)


@dataclass(frozen=True)
class Item:
    """``value`` or ``name=value``, in brackets or among the arguments of a call."""

    name: Name | None
    value: Expr
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Bracket:
    """``base[items]`` or ``base[items: condition]``: an index, or the head of a reduction."""

    base: Expr
    items: tuple[Item, ...]
    condition: Expr | None
    span: Span = field(compare=False, repr=False)
    depth: int = field(default=1, compare=False, repr=False)


@dataclass(frozen=True)
class Call:
    function: Expr
    arguments: tuple[Item, ...]
    span: Span = field(compare=False, repr=False)
    depth: int = field(default=1, compare=False, repr=False)


@dataclass(frozen=True)
class Group:
    inner: Expr
    span: Span = field(compare=False, repr=False)
    depth: int = field(default=1, compare=False, repr=False)


Expr: TypeAlias = Literal | Name | Extent | Given | Carries | Unary | Binary | When | Bracket | Call | Group


def parts(expr: Expr) -> tuple[Expr, ...]:
    """The direct sub-expressions, in the order they are written."""
    match expr:
        case Unary(operand=a) | Group(inner=a):
            return (a,)
        case Binary(left=a, right=b):
            return (a, b)
        case When(then=a, condition=c, otherwise=b):
            return (a, c, b)
        case Bracket(base=base, items=items, condition=c):
            return (base, *(item.value for item in items), *(() if c is None else (c,)))
        case Call(function=f, arguments=items):
            return (f, *(item.value for item in items))
        case _:
            return ()


# ---------------------------------------------------------------- statements


@dataclass(frozen=True)
class Seq:
    axes: tuple[Name, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class AxisExtent:
    """``axis i < chunk``."""

    axis: Name
    extent: Expr
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Split:
    """``axis d = (g r)``."""

    whole: Name
    parts: tuple[Name, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Require:
    condition: Expr
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Target:
    """A name on the left of ``=``; ``items`` is None when no brackets were written."""

    name: Name
    items: tuple[Item, ...] | None
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Equation:
    targets: tuple[Target, ...]
    dtype: Name | None
    expr: Expr
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Backward:
    """A ``backward:`` block; ``outputs`` and ``inputs`` are named only in printed Programs."""

    outputs: tuple[Name, ...]
    inputs: tuple[Name, ...]
    body: tuple[Statement, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Broken:
    """A statement or definition that could not be read; its error has been reported."""

    name: str
    span: Span = field(compare=False, repr=False)


Statement: TypeAlias = Seq | AxisExtent | Split | Require | Equation | Backward | Broken


# ---------------------------------------------------------------- definitions


@dataclass(frozen=True)
class Parameter:
    """One input or static parameter, as written.

    ``signatures`` holds the alternatives of axes (one entry when they stand behind the name; None
    when no axes are written at all); ``dtype`` is the written type, ``choices`` those of an enum.
    """

    name: Name
    signatures: tuple[tuple[Name, ...], ...] | None
    dtype: Name | None
    choices: tuple[Name, ...]
    optional: bool
    default: Expr | None
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Output:
    name: Name
    axes: tuple[Name, ...] | None
    dtype: Name | None
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Definition:
    """A ``layer`` or an ``fn``; ``body`` is None for an opaque function."""

    kind: str
    name: Name
    inputs: tuple[Parameter, ...]
    statics: tuple[Parameter, ...]
    outputs: tuple[Output, ...]
    doc: str
    body: tuple[Statement, ...] | None
    span: Span = field(compare=False, repr=False)

    @property
    def broken(self) -> bool:
        """Whether some statement inside could not be read."""
        return any(isinstance(item, Broken) for item in flatten(self.body or ()))


@dataclass(frozen=True)
class Import:
    """``from module import name as alias``, one per imported name."""

    module: Name
    name: Name
    alias: Name
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class File:
    doc: str
    imports: tuple[Import, ...]
    definitions: tuple[Definition, ...]
    broken: tuple[Broken, ...]


def flatten(body: tuple[Statement, ...]) -> tuple[Statement, ...]:
    """The statements, with those inside ``backward`` blocks after their block."""
    found: list[Statement] = []
    for statement in body:
        found.append(statement)
        if isinstance(statement, Backward):
            found.extend(flatten(statement.body))
    return tuple(found)
