"""Every read of an equation with what is known where it happens, and how far back it reaches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from .linear import Linear, at_least, facts, known_extents, linear_form, lower_bound, upper_bound
from .program import (
    Apply,
    Const,
    Equation,
    Expr,
    Index,
    Op,
    Program,
    Read,
    Reduce,
    Size,
    Tensor,
    Transform,
    Where,
    children,
    substitute,
)
from .types import INT


@dataclass(frozen=True)
class Access:
    """``read`` as it happens in ``reader``: ``given`` forms are ≥ 0 there, and reductions and
    whole-axis operations around it run through the ``hidden`` axes, so that their index is not the
    reader's."""

    reader: Equation
    read: Read
    given: tuple[Linear, ...] = ()
    hidden: frozenset[str] = frozenset()

    @property
    def tensor(self) -> str:
        return self.read.tensor


@dataclass(frozen=True)
class Lag:
    """``low ≤ index of the reader − index read ≤ high`` along one axis; forms over sizes.

    ``known`` is False when the index depends on data: the bounds then only say that it is in range.
    """

    low: Linear
    high: Linear
    known: bool = True
    inhabited: frozenset[str] = frozenset()

    @property
    def constant(self) -> int | None:
        """The lag when it is one number, as in ``h[t-1]``."""
        return self.low.constant if self.low == self.high and self.low.is_constant else None

    def is_past(self, by: int = 0) -> bool:
        """Whether every read is at least ``by`` steps back."""
        return at_least(self.low, by, self.inhabited)

    def is_future(self, by: int = 0) -> bool:
        """Whether every read is at least ``by`` steps ahead."""
        return at_least(-self.high, by, self.inhabited)


@dataclass(frozen=True)
class _Place:
    """What holds around a sub-expression."""

    given: tuple[Linear, ...] = ()
    hidden: frozenset[str] = frozenset()

    def knowing(self, found: list[Linear]) -> _Place:
        return _Place(self.given + tuple(found), self.hidden)

    def inside(self, axes: frozenset[str]) -> _Place:
        """Below a reduction or a whole-axis operation, which runs through its axes anew: facts about
        them no longer hold."""
        return _Place(tuple(f for f in self.given if not f.axes & axes), self.hidden | axes)


@dataclass(frozen=True)
class Accesses:
    """The reads of a Program's equations, reads made by extension equations included."""

    program: Program
    tensors: Mapping[str, Tensor] = field(init=False)
    equations: Mapping[str, Equation] = field(init=False)
    extents: Mapping[str, Expr] = field(init=False)
    required: tuple[Linear, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", self.program.tensors())
        object.__setattr__(self, "equations", {item.name: item for item in self.program.equations})
        object.__setattr__(self, "extents", known_extents(self.program))
        required = (facts(item.condition, self.extents) for item in self.program.requirements)
        object.__setattr__(self, "required", tuple(fact for found in required for fact in found))

    def of(self, equation: Equation, given: tuple[Linear, ...] = ()) -> list[Access]:
        """Every read that ``equation`` makes where the forms in ``given``, over its axes, are ≥ 0,
        except those that are certainly out of range."""
        if isinstance(equation.expr, Apply):
            whole = (Read(name, tuple(map(Index, self.tensors[name].axes))) for name in equation.expr.args)
            return [Access(equation, read, (), frozenset(self.tensors[read.tensor].axes)) for read in whole]
        return list(self._below(equation, equation.expr, _Place(self.required + given)))

    def _below(self, equation: Equation, expr: Expr, place: _Place) -> Iterator[Access]:
        match expr:
            case Where(condition=c, then=a, otherwise=b):
                yield from self._below(equation, c, place)
                yield from self._below(equation, a, place.knowing(facts(c, self.extents)))
                yield from self._below(equation, b, place.knowing(facts(c, self.extents, holds=False)))
            case Reduce(condition=c, body=body):
                inner = place.inside(frozenset(expr.axes))
                known = [] if c is None else facts(c, self.extents)
                if expr.kind == "sum":
                    known += [f for part in self.support(body) for f in facts(part, self.extents)]
                if c is not None:
                    yield from self._below(equation, c, inner)
                yield from self._below(equation, body, inner.knowing(known))
            case Transform(axis=axis, body=body):
                yield from self._below(equation, body, place.inside(frozenset((axis,))))
            case Read():
                yield from self._read(equation, expr, place)
                for index in expr.indices:
                    yield from self._below(equation, index, place)
            case _:
                for item in children(expr):
                    yield from self._below(equation, item, place)

    def _read(self, equation: Equation, read: Read, place: _Place) -> Iterator[Access]:
        if read.tensor not in self.tensors:
            return
        access = Access(equation, read, place.given, place.hidden)
        tensor = self.tensors[read.tensor]
        if not self._certainly_outside(access):
            yield access
        for extension in self.program.extensions:
            if extension.tensor != read.tensor:
                continue
            index = read.indices[tensor.axes.index(extension.axis)]
            form = linear_form(index, self.extents)
            fact = None
            if form is not None:
                last = linear_form(Size(extension.axis), self.extents)
                assert last is not None
                fact = -form - 1 if extension.side == "before" else form - last
                if at_least(-upper_bound(fact, place.given, self.extents), 1):
                    continue  # never outside on that side
            where = dict(zip(tensor.axes, read.indices, strict=True))
            try:
                there = substitute(extension.expr, where)
            except ValueError:  # no one expression: say only that these tensors are read
                yield from self._below(equation, extension.expr, place.inside(frozenset(tensor.axes)))
            else:
                yield from self._below(equation, there, place.knowing([fact] if fact else []))

    def _certainly_outside(self, access: Access) -> bool:
        for axis, index in zip(self.tensors[access.tensor].axes, access.read.indices, strict=True):
            form = linear_form(index, self.extents)
            if form is None:
                continue
            size = linear_form(Size(axis), self.extents)
            assert size is not None
            if at_least(-upper_bound(form, access.given, self.extents), 1):
                return True
            if at_least(lower_bound(form - size, access.given, self.extents), 0):
                return True
        return False

    def lag(self, access: Access, axis: str) -> Lag | None:
        """How far ``access`` reads back along ``axis`` of its tensor; None when the reader has no
        index along it, so that the whole axis is read."""
        if axis not in access.reader.axes or axis in access.hidden:
            return None
        index = access.read.indices[self.tensors[access.tensor].axes.index(axis)]
        inhabited = frozenset(access.reader.axes) | access.hidden
        form = linear_form(index, self.extents)
        if form is None:
            last = linear_form(Size(axis), self.extents)
            assert last is not None
            return Lag(-(last - 1), last - 1, False, inhabited)
        back = Linear(0, {Index(axis): 1}) - form
        low = lower_bound(back, access.given, self.extents, avoid=axis)
        return Lag(low, upper_bound(back, access.given, self.extents, avoid=axis), True, inhabited)

    def support(self, expr: Expr, follow: bool = True) -> list[Expr]:
        """Conditions outside which ``expr`` is certainly 0, so that a sum need not look there.

        This is how ``sum[s](p * v[t=s])`` inherits the condition of ``p = softmax[s: …](…)``: with
        ``follow`` the equations of tensors that ``expr`` reads are looked at too.
        """
        match expr:
            case Op(op="mul", args=args):
                return [part for arg in args for part in self.support(arg, follow)]
            case Op(op="div" | "neg", args=args):
                return self.support(args[0], follow)
            case Where(condition=c, then=a, otherwise=Const(value=0)):
                return [c, *self.support(a, follow)]
            case Reduce(kind="softmax", condition=c) if c is not None:
                return [c]
            case Read(tensor=name, indices=indices) if name in self.tensors:
                found = self._in_range(expr)
                if follow and name in self.equations:
                    defined = self.equations[name]
                    where = dict(zip(defined.axes, indices, strict=True))
                    with contextlib.suppress(ValueError):
                        found += [substitute(part, where) for part in self.support(defined.expr, False)]
                return found
            case _:
                return []

    def _in_range(self, read: Read) -> list[Expr]:
        """That computed indices lie on their axes: ``K[l=t-s]`` is 0 beyond the end of the filter."""
        found: list[Expr] = []
        for axis, index in zip(self.tensors[read.tensor].axes, read.indices, strict=True):
            extended = any((x.tensor, x.axis) == (read.tensor, axis) for x in self.program.extensions)
            if not isinstance(index, Index) and linear_form(index) is not None and not extended:
                found += [Op("ge", (index, Const(0, INT))), Op("lt", (index, Size(axis)))]
        return found
