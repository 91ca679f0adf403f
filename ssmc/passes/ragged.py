"""Sequences of lengths of their own in one array: what `pack` and `mask` have in common.

A tensor holds something for each token, for each row (a whole sequence: a document, or the valid tokens of one
batch entry), or for neither (weights). An equation is one of rows when it depends on a sequence and has no axis
along it. Where sequences differ along the ``batch`` axes, an equation that has to know where its sequence lies
varies along them too, and gets those it lacks in front.

Precondition: the length enters only values, indices and the ranges of reductions. A fact required of #t, an axis
whose extent is computed from #t, an opaque function or a Hadamard transform along the sequence, a gradient block,
and whatever mixes rows whose sequences differ are refused, naming the equation.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum

from ssmc.errors import Unsupported, UserError
from ssmc.ir import (
    INT,
    Apply,
    Axis,
    Equation,
    Expr,
    Index,
    Op,
    Program,
    Read,
    Reduce,
    Size,
    Tensor,
    rebound,
    sizes_used,
)

from .algebra import together
from .local import Local, Place, is_zero, keeps_axis, where, zero
from .tidy import axes_used, bound_in, reads_of


class Kind(Enum):
    """What a tensor has one value for."""

    FREE = "all sequences"
    ROW = "each sequence"
    TOKEN = "each index of a sequence"


def state_inputs(program: Program, time: str) -> frozenset[str]:
    """The inputs of a stepped Program that hold what came before: ``X.state`` and ``t.offset``."""
    along = {f"{name}.state" for name, tensor in program.tensors().items() if time in tensor.axes}
    return frozenset(t.name for t in program.inputs if t.name in along | {f"{time}.offset"})


def leading_axes(program: Program, time: str) -> tuple[str, ...]:
    """The axes with which all inputs along the sequence begin: those of a batch."""
    found: tuple[str, ...] | None = None
    for tensor in program.inputs:
        if time in tensor.axes:
            before = tensor.axes[: tensor.axes.index(time)]
            together = before if found is None else found
            pairs = zip(before, together, strict=False)
            found = tuple(axis for axis, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return found or ()


@dataclass
class Ragged(Local):
    """One attempt at rewriting a Program, knowing the equations that are ``lifted`` to the batch axes they lack;
    those that should have been are in ``missing`` afterwards."""

    batch: tuple[str, ...]
    lifted: frozenset[str] = frozenset()

    missing: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.states = state_inputs(self.program, self.time)
        self.kinds = _kinds(self.program, self.alike, self.states)

    # ------------------------------------------------------------ the whole

    def equations(self) -> list[Equation]:
        """The equations of the layer, rewritten, each after those made for it."""
        result: list[Equation] = []
        for equation in self.program.equations:
            if self.kinds[equation.name] is not Kind.FREE:
                expr = self.equation_expr(equation)
                result += self.made
                self.made.clear()
                equation = replace(equation, axes=self.axes_of(equation.name), expr=expr)
            result.append(equation)
        return result

    def inputs(self) -> tuple[Tensor, ...]:
        """The inputs of the layer, with the axes they got."""
        return tuple(replace(tensor, axes=self.axes_of(tensor.name)) for tensor in self.program.inputs)

    def check(self) -> None:
        """Raise UserError for batch axes that are none, Unsupported for what has no such form."""
        program = self.program
        self.check_batch()
        for custom in program.customs:
            why = f"the gradient block of {', '.join(map(repr, custom.outputs))} speaks of whole sequences"
            raise self.refused(why, custom.span)
        for requirement in program.requirements:
            if sizes_used(requirement.condition) & self.alike:
                raise self.refused(f"it requires a fact about #{self.time}, which each sequence would have to meet",
                                   requirement.span)  # fmt: skip
        self._check_extents()
        for equation in program.equations:
            if isinstance(equation.expr, Apply) and self.kinds[equation.name] is not Kind.FREE:
                what = f"the opaque function {equation.expr.function!r}"
                raise self.refused(f"{equation.name!r} applies {what} to whole sequences", equation.span)

    def check_batch(self) -> None:
        """Raise UserError for batch axes that are none."""
        bound = {axis for tensor in self.program.inputs for axis in tensor.axes} - self.alike
        for axis in self.batch:
            if axis not in bound:
                expected = ", ".join(sorted(bound)) or "none"
                raise UserError(f"{self.program.name}: {axis!r} is no batch axis", expected=expected)

    def _check_extents(self) -> None:
        program, used = self.program, axes_used(self.program)
        for axis in program.axes:
            if axis.extent is None or axis.name not in used:
                continue
            if axis.name in self.alike and not isinstance(axis.extent, Size):
                raise self.refused(f"the length of {axis.name!r} is stated", axis.span)
            if axis.name not in self.alike and sizes_used(axis.extent) & self.alike:
                found = (e for e in program.equations if axis.name in e.axes or axis.name in bound_in(e.expr))
                first = next(found, None)
                who = f"{first.name!r} has axis {axis.name!r}, " if first else f"axis {axis.name!r} is one "
                raise self.refused(f"{who}whose extent follows #{self.time}", first.span if first else axis.span)

    # ------------------------------------------------------------ axes and rows

    def axes_of(self, name: str) -> tuple[str, ...]:
        """The axes of a tensor of the layer afterwards."""
        axes = self.tensors[name].axes
        if name in self.lifted or name in self.states or self.kinds[name] is Kind.ROW:
            return self.row_axes(axes) if self.kinds[name] is Kind.ROW else self.with_batch(axes)
        return axes

    def with_batch(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        """``axes`` with the batch axes they lack in front."""
        return (*(axis for axis in self.batch if axis not in axes), *axes)

    def row_axes(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        """The axes of something that each sequence has."""
        return self.with_batch(axes)

    def rows(self, place: Place) -> dict[str, Expr]:
        """The indices along the batch axes of the sequence in question."""
        assert self.current is not None
        for axis in self.batch:
            if axis in place.bound:
                raise self._mixes(axis)
        if not set(self.batch) <= set(self.current.axes):
            self.missing.add(self.current.name)
        return {axis: Index(axis) for axis in self.batch}

    def _mixes(self, axis: str) -> Unsupported:
        return self.refused(f"{self.here} mixes what lies along {axis!r}, where sequences differ")

    def known(self, name: str, place: Place, index: Expr) -> Read:
        """``name[batch, index]``, one of the tensors that say where sequences lie."""
        rows = self.rows(place)
        return Read(name, (*(rows[axis] for axis in self.batch), index))

    def other_axis(self, axis: str, place: Place) -> str | None:
        """Another axis along the sequence that has an index here."""
        assert self.current is not None
        return next((a for a in (*self.current.axes, *place.bound) if a in self.alike and a != axis), None)

    # ------------------------------------------------------------ parts of expressions

    def expr(self, expr: Expr, place: Place) -> Expr:
        if isinstance(expr, Reduce) and set(expr.axes) & self.alike and not keeps_axis(expr):
            expr = self._unshadowed(expr, place)
        return super().expr(expr, place)

    def _unshadowed(self, reduce: Reduce, place: Place) -> Reduce:
        """The same reduction over axes that have no other index around it."""
        assert self.current is not None
        hidden = {*self.current.axes, *place.bound}
        names = {axis: self.like(f"{axis}.all") for axis in reduce.axes if axis in self.alike and axis in hidden}
        return rebound(reduce, names) if names else reduce

    def like(self, base: str) -> str:
        """A new axis as long as the sequence."""
        name = self.names.new(base)
        self.axes.append(Axis(name, Size(self.time)))
        self.extents[name] = Size(self.time)
        self.alike |= {name}
        return name

    def read(self, read: Read, place: Place) -> Expr:
        kind = self.kinds[read.tensor]
        if kind is not Kind.FREE:
            for axis, index in zip(self.tensors[read.tensor].axes, read.indices, strict=True):
                if axis in self.batch and (index != Index(axis) or axis in place.bound):
                    raise self._mixes(axis)
        if kind is Kind.TOKEN:
            return self.token(read, place)
        indices = tuple(self.expr(index, place) for index in read.indices)
        return replace(read, indices=indices) if kind is Kind.FREE else self.row(read, indices, place)

    @abstractmethod
    def token(self, read: Read, place: Place) -> Expr:
        """A read of a tensor along the sequence."""

    @abstractmethod
    def row(self, read: Read, indices: tuple[Expr, ...], place: Place) -> Expr:
        """A read of a tensor of rows, whose indices are rewritten."""

    def with_rows(self, read: Read, indices: Iterable[Expr], place: Place) -> Read:
        """A read with the batch indices that its tensor got."""
        axes, now = self.tensors[read.tensor].axes, self.axes_of(read.tensor)
        found = dict(zip(axes, indices, strict=True))
        if now != axes:
            found = {**self.rows(place), **found}
        return replace(read, indices=tuple(found[axis] for axis in now))

    def outside(
        self, read: Read, inner: Expr, low: Expr | None, high: Expr | None, others: list[Expr], place: Place
    ) -> Expr:
        """``inner`` where the index along the sequence meets ``low`` and ``high``, else what the layer reads there;
        0 where one of ``others`` fails."""
        none = zero(self.tensors[read.tensor].dtype)
        before = none if low is None else self.beyond(read, "before", place)
        after = none if high is None else self.beyond(read, "after", place)
        inner = where(together(others), inner, none)
        if is_zero(before) and is_zero(after):
            return where(together(part for part in (low, high) if part is not None), inner, none)
        guard = together((*others, *self._others_in_range(read, place)))
        before, after = (side if is_zero(side) else where(guard, side, none) for side in (before, after))
        return where(low, where(high, inner, after), before)

    def where_inside(self, read: Read, value: Expr, place: Place) -> Expr:
        """``value``, read outside the sequence, where all other indices lie inside; else 0."""
        none = zero(self.tensors[read.tensor].dtype)
        return value if is_zero(value) else where(together(self._others_in_range(read, place)), value, none)

    def _others_in_range(self, read: Read, place: Place) -> list[Expr]:
        """That the indices along other axes lie inside: an extension is read nowhere else."""
        found: list[Expr] = []
        for axis, index in zip(self.tensors[read.tensor].axes, read.indices, strict=True):
            if axis in self.alike or index == Index(axis) or self._ends_with(read.tensor, axis):
                continue
            low, high = self.is_inside(index, axis, place)
            moved = self.expr(index, place)
            found += [] if low else [Op("ge", (moved, zero(INT)))]
            found += [] if high else [Op("lt", (moved, Size(axis)))]
        return found

    def _ends_with(self, name: str, axis: str) -> bool:
        """Whether what is outside a tensor is itself 0 outside ``axis``."""
        for extension in self.program.extensions:
            if extension.tensor == name:
                read = extension.expr
                if not isinstance(read, Read) or Index(axis) not in read.indices:
                    return False
                if self.tensors[read.tensor].axes[read.indices.index(Index(axis))] != axis:
                    return False
        return True


def _kinds(program: Program, alike: frozenset[str], states: frozenset[str]) -> dict[str, Kind]:
    """What each tensor has one value for."""
    kinds: dict[str, Kind] = {}
    for tensor in program.tensors().values():
        along = bool(set(tensor.axes) & alike)
        kinds[tensor.name] = Kind.TOKEN if along else Kind.ROW if tensor.name in states else Kind.FREE
    changed = True
    while changed:
        changed = False
        for equation in program.equations:
            if kinds[equation.name] is Kind.FREE and _depends(program, equation, alike, kinds):
                kinds[equation.name] = Kind.ROW
                changed = True
    return kinds


def _depends(program: Program, equation: Equation, alike: frozenset[str], kinds: dict[str, Kind]) -> bool:
    """Whether an equation without an axis along the sequence depends on it."""
    if any(kinds[name] is not Kind.FREE for name in reads_of(equation.expr)):
        return True
    return bool((sizes_used(equation.expr) | bound_in(equation.expr)) & alike)
