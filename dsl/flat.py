"""A Program in the making: equations over flat names, and the table of its axes."""

from __future__ import annotations

from dataclasses import dataclass, field

from ssmc.ir import DType, Function, Opaque, Tensor
from ssmc.source import Span

from .problems import Problems
from .tree import Tree

Key = tuple[float, ...]


@dataclass
class Flat:
    """One equation. ``axes`` are those stated (None: to be inferred); equations of an inlined layer
    may get further axes from its arguments, which are not among ``own``. ``block`` names the
    backward block it belongs to; ``like`` is a tensor whose axes it must have (``d.x`` has those of
    ``x``). ``key`` orders equations as written, inlined ones before their user. A ``copy`` only gives
    a tensor the name of a parameter, and goes when its axes are the same."""

    name: str
    tree: Tree
    span: Span
    key: Key
    axes: tuple[str, ...] | None = None
    dtype: DType | None = None
    own: frozenset[str] | None = None
    block: str | None = None
    like: str | None = None
    shown: str = ""
    copy: bool = False


@dataclass(frozen=True)
class Outer:
    """An extension equation: what ``tensor`` is outside ``axis`` on one side."""

    tensor: str
    axis: str
    side: str
    tree: Tree
    span: Span
    key: Key
    shown: str


@dataclass(frozen=True)
class Promise:
    """An argument of a call: the value of ``tensor`` must have ``axes`` (or be the same along those
    that it lacks, if the ``caller`` has them), and its type must fit ``dtype``."""

    tensor: str
    axes: tuple[str, ...]
    dtype: DType
    span: Span
    function: str
    parameter: str
    prefix: str
    caller: frozenset[str]


@dataclass(frozen=True)
class Block:
    """A backward block: its name, and the flat names it goes from and to."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    span: Span


@dataclass(frozen=True)
class Splitting:
    """``axis whole = (parts)``, parts from slow to fast."""

    whole: str
    parts: tuple[str, ...]
    span: Span


@dataclass
class AxisTable:
    """What is known of axes: where they are introduced, which inputs bind them, stated extents."""

    order: dict[str, Span] = field(default_factory=dict)
    bound: dict[str, str] = field(default_factory=dict)  # axis → the input that binds it
    stated: dict[str, tuple[Tree, Span]] = field(default_factory=dict)
    sequence: set[str] = field(default_factory=set)
    splits: list[Splitting] = field(default_factory=list)
    shown: dict[str, str] = field(default_factory=dict)  # as its own layer calls it

    def introduce(self, axis: str, span: Span, shown: str) -> None:
        self.order.setdefault(axis, span)
        self.shown.setdefault(axis, shown)

    def ordered(self, axes: set[str] | frozenset[str]) -> tuple[str, ...]:
        """Axes in the order of the Program: those of inputs first, then as introduced."""
        place = {axis: i for i, axis in enumerate((*self.bound, *self.order))}
        for i, axis in enumerate(self.bound):
            place[axis] = i
        return tuple(sorted(axes, key=lambda axis: place.get(axis, len(place))))

    def name(self, axis: str) -> str:
        return self.shown.get(axis, axis)


@dataclass
class Build:
    """Everything gathered while the frames of a layer and of what it calls are read."""

    problems: Problems
    verbatim: bool = False
    axes: AxisTable = field(default_factory=AxisTable)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    flats: dict[str, Flat] = field(default_factory=dict)
    outers: list[Outer] = field(default_factory=list)
    requirements: list[tuple[Tree, Span]] = field(default_factory=list)
    promises: list[Promise] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    functions: dict[str, Function] = field(default_factory=dict)
    function_keys: dict[object, str] = field(default_factory=dict)
    opaques: dict[str, Opaque] = field(default_factory=dict)
    opaque_keys: dict[object, str] = field(default_factory=dict)
    prefixes: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)

    def known(self, name: str) -> bool:
        return name in self.flats or name in self.inputs or name in self.broken

    def shown(self, tensor: str) -> str:
        """A tensor as its own layer calls it."""
        flat = self.flats.get(tensor)
        return flat.shown if flat is not None and flat.shown else tensor
