"""Program → Program: many documents one after the other in one array.

    h = a * h[t-1] + x;   h[t<0] = h.state
  = h = a * where(t > t.first, h[t-1], h.state[t.docs = t.doc]) + x

What it means: cut the arrays into documents, run the layer on each, put the results one after the other. Further
inputs say where documents lie: `t.doc` is the document of each token, `t.start` and `t.end` its first index and
one past its last, for each document of an axis `t.docs`. They vary along the ``batch`` axes too, along which
documents differ. Every index i of the layer's own sequence is i + start in the array; where that leaves the
document the layer reads what it says is outside. What has one value for a sequence (a pooled output, the state that
goes in or out) has one for each document, along `t.docs`, which stands after the batch axes, else in front.

A value of one document at one index is written as a sum that a loop over time can gather on its way,

    h.next[t.docs] = sum[t: t.doc == t.docs and t == t.last](h)

unless it is an input's, which is read where it lies. Documents may be empty; they return their initial state.

Precondition: see `ragged`. Every token belongs to a document, and the tokens of a document lie side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ssmc.ir import (
    BOOL,
    INT,
    REAL,
    Axis,
    Const,
    Equation,
    Expr,
    Index,
    Linear,
    Op,
    Program,
    Read,
    Reduce,
    Tensor,
    Transform,
    Where,
    at_least,
    facts,
    free_axes,
    linear_form,
    lower_bound,
)

from .algebra import together
from .local import Place, keeps_axis, sequence_of, zero
from .ragged import Kind, Ragged
from .tidy import tidied


def pack(program: Program, batch: Sequence[str] = ()) -> Program:
    """``program`` on documents that lie one after the other.

    Args:
        batch: the leading axes along which documents differ: none when all rows share them.

    Raises Unsupported, naming the equation, for a layer that has no such form; UserError for a wrong ``batch``.
    """
    time = sequence_of(program, "packed")
    lifted: frozenset[str] = frozenset()
    while True:
        attempt = Packing(program, time, tuple(batch), lifted)
        result = attempt.run()
        if attempt.missing <= lifted:
            return result
        lifted |= attempt.missing


@dataclass
class Packing(Ragged):
    """One attempt; see `Ragged`."""

    form = "packed"
    axis = "docs"

    def run(self) -> Program:
        self.check()
        time, docs = self.time, self.docs
        ours = [f"{time}.{name}" for name in ("doc", "start", "end", "first", "last")] + [docs]
        if taken := [name for name in ours if name in self.names.taken]:
            raise self.refused(f"{taken[0]!r} is there already: it is packed")
        self.names.taken.update(ours)
        for name in self.program.outputs:
            if len(set(self.tensors[name].axes) & self.alike) > 1:
                raise self.refused(f"output {name!r} has two axes along the sequence", self.tensors[name].span)
        self.axes.append(Axis(docs))
        equations = self.equations()
        inputs = (
            Tensor(f"{time}.doc", (*self.batch, time), INT),
            Tensor(f"{time}.start", (*self.batch, docs), INT),
            Tensor(f"{time}.end", (*self.batch, docs), INT),
        )
        return tidied(
            replace(
                self.program,
                axes=(*self.program.axes, *self.axes),
                inputs=(*self.inputs(), *inputs),
                equations=(*self._bounds(), *equations),
                extensions=(),
            )
        )

    def _bounds(self) -> tuple[Equation, ...]:
        """For each token the first and the last index of its document."""
        rows = tuple(map(Index, self.batch))
        doc = Read(f"{self.time}.doc", (*rows, Index(self.time)))
        first: Expr = Read(f"{self.time}.start", (*rows, doc))
        last = Op("sub", (Read(f"{self.time}.end", (*rows, doc)), Const(1, INT)))
        axes = (*self.batch, self.time)
        return Equation(f"{self.time}.first", axes, INT, first), Equation(f"{self.time}.last", axes, INT, last)

    # ------------------------------------------------------------ where documents lie

    @property
    def docs(self) -> str:
        """The axis of documents."""
        return f"{self.time}.{self.axis}"

    def row_axes(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        axes = self.with_batch(axes)
        after = 1 + max((axes.index(axis) for axis in self.batch), default=-1)
        return (*axes[:after], self.docs, *axes[after:])

    def document(self, place: Place) -> Expr:
        """The number of the document in question."""
        if place.own is None:
            return Index(self.docs)
        return self.known(f"{self.time}.doc", place, Index(place.own))

    def first(self, place: Place) -> Linear:
        if place.own is None:
            return self.symbol(self.known(f"{self.time}.start", place, self.document(place)))
        return self.symbol(self.known(f"{self.time}.first", place, Index(place.own)))

    def last(self, place: Place) -> Linear:
        if place.own is None:
            return self.symbol(self.known(f"{self.time}.end", place, self.document(place))) - 1
        return self.symbol(self.known(f"{self.time}.last", place, Index(place.own)))

    def same(self, one: Place, other: Place) -> Expr | None:
        """That two places are in the same document."""
        return Op("eq", (self.document(one), self.document(other)))

    def position(self, axis: str, place: Place) -> Linear:
        return Linear(0, {Index(axis): 1}) - self.first(place)

    def length(self, place: Place) -> Linear:
        return self.last(place) - self.first(place) + 1

    # ------------------------------------------------------------ reads

    def row(self, read: Read, indices: tuple[Expr, ...], place: Place) -> Expr:
        found = dict(zip(self.tensors[read.tensor].axes, indices, strict=True))
        found |= {**self.rows(place), self.docs: self.document(place)}
        return replace(read, indices=tuple(found[axis] for axis in self.axes_of(read.tensor)))

    def token(self, read: Read, place: Place) -> Expr:
        computed = {
            axis: index
            for axis, index in zip(self.tensors[read.tensor].axes, read.indices, strict=True)
            if axis in self.alike and not self.is_plain(index)
        }
        others: list[Expr] = []
        low: Expr | None = None
        high: Expr | None = None
        for axis, index in computed.items():
            if axis == self.time:
                low, high = self._guards(index, axis, place)
            else:
                others += [part for part in self._guards(index, axis, place) if part is not None]
        if self._is_gathered(read, computed, place):
            value = self._summed(read, place)
            sides = ("before", "after")
            if not others and not any(self.program.extension(read.tensor, self.time, side) for side in sides):
                return value  # over no index it is 0
        else:
            value = self._element(read, place)
        return self.outside(read, value, low, high, others, place)

    def _placed(self, index: Expr, place: Place) -> Linear:
        """Where in the array an index of the layer's own sequence lies."""
        form = linear_form(index)
        local = self.symbol(self.expr(index, place)) if form is None else self.value(form, place)
        return local + self.first(place)

    def _guards(self, index: Expr, axis: str, place: Place) -> tuple[Expr | None, Expr | None]:
        """That an index lies at or after the first, and at or before the last of its document, where in doubt."""
        low, high = self.is_inside(index, axis, place)
        at = self._placed(index, place)
        return None if low else self._begun(at, place), None if high else self._not_ended(at, place)

    def _begun(self, at: Linear, place: Place) -> Expr:
        first = self.first(place)
        if (at - first).constant == -1:
            return self.compared("gt", at - first + 1)
        return Op("ge", (self.spelled(at), self.spelled(first)))

    def _not_ended(self, at: Linear, place: Place) -> Expr:
        last = self.last(place)
        if (last - at).constant == -1:
            return self.compared("lt", at - last - 1)
        return Op("le", (self.spelled(at), self.spelled(last)))

    def _element(self, read: Read, place: Place) -> Expr:
        indices = []
        for axis, index in zip(self.tensors[read.tensor].axes, read.indices, strict=True):
            if axis not in self.alike:
                indices.append(self.expr(index, place))
            else:
                indices.append(index if self.is_plain(index) else self.spelled(self._placed(index, place)))
        return self.with_rows(read, indices, place)

    def _is_gathered(self, read: Read, computed: dict[str, Expr], place: Place) -> bool:
        """Whether a value is picked out of the loop over time that makes it."""
        if place.own is not None or read.tensor not in self.defined or len(computed) != 1:
            return False
        (index,) = computed.values()
        form = linear_form(index)
        return form is not None and not form.axes & self.alike

    def _summed(self, read: Read, place: Place) -> Expr:
        """The element at one index of a document, as a sum over all tokens."""
        every = self.time if self.time not in place.bound else self.like(f"{self.time}.all")
        here = replace(place, own=every)
        indices: list[Expr] = list(read.indices)
        found: Expr | None = None
        for i, (axis, index) in enumerate(zip(self.tensors[read.tensor].axes, read.indices, strict=True)):
            if axis in self.alike and not self.is_plain(index):
                found = Op("eq", (Index(every), self.spelled(self._placed(index, here))))
                indices[i] = Index(every)
        assert found is not None
        condition = together(part for part in (self.same(here, place), found) if part is not None)
        value = self._element(replace(read, indices=tuple(indices)), here)
        kind = "any" if self.tensors[read.tensor].dtype is BOOL else "sum"
        return Reduce(kind, (every,), condition, value, read.span)

    # ------------------------------------------------------------ folds

    def fold(self, reduce: Reduce, place: Place) -> Expr:
        axes = [axis for axis in reduce.axes if axis in self.alike]
        if keeps_axis(reduce):
            return self._softmax(reduce, axes[0], place)
        members = [part for axis in axes for part in self._members(reduce, axis, place)]
        folded = self.folded(reduce, place.inside(reduce.axes), members)
        if reduce.kind not in ("argmax", "argmin"):
            return folded
        return Op("maximum", (self.spelled(self.symbol(folded) - self.first(place)), Const(-1, INT)))

    def _members(self, reduce: Reduce, axis: str, place: Place) -> list[Expr]:
        """That an index belongs to the document, as far as the condition does not say it."""
        known = [] if reduce.condition is None else facts(reduce.condition, self.extents)
        here = Linear(0, {Index(axis): 1})
        low, high = False, False
        if place.own is not None:
            ahead = here - Linear(0, {Index(place.own): 1})
            low = at_least(lower_bound(ahead, known, self.extents), 0)
            high = at_least(lower_bound(-ahead, known, self.extents), 0)
        found = [] if low else [self._begun(here, place)]
        return found if high else [*found, self._not_ended(here, place)]

    def _softmax(self, reduce: Reduce, axis: str, place: Place) -> Expr:
        """A softmax over the indices of one document."""
        around = self.other_axis(axis, place)
        if place.own != axis or around is not None:
            place = replace(place, own=around if place.own == axis else place.own)
            return self.folded(reduce, place.inside((axis,)), self._members(reduce, axis, place))
        total = self._total(reduce, axis, place)
        inner = place.inside((axis,))
        body = self.expr(reduce.body, inner)
        share = Op("exp", (Op("sub", (body, total)),))
        if reduce.condition is None:
            return share
        return Where(self.expr(reduce.condition, inner), share, zero(REAL))

    def _total(self, reduce: Reduce, axis: str, place: Place) -> Expr:
        """The logarithm of the sum under a softmax along the only axis of the sequence: one for each document."""
        outer = self.current
        assert outer is not None
        free = free_axes(reduce) - {axis}
        axes = tuple(a.name for a in self.program.axes if a.name in free)
        total = Tensor(self.names.new(f"{outer.name}.total"), axes, REAL)
        self.tensors[total.name], self.kinds[total.name] = total, Kind.ROW
        self.current = Equation(total.name, self.row_axes(axes), REAL, reduce, reduce.span)
        document = Place(None, self.required)
        members = self._members(reduce, axis, document)
        folded = self.folded(replace(reduce, kind="logsumexp"), document.inside((axis,)), members)
        self.made.append(replace(self.current, expr=folded))
        self.current = outer
        return self.row(Read(total.name, tuple(map(Index, axes))), tuple(map(Index, axes)), place)

    def transform(self, transform: Transform, place: Place) -> Expr:
        """A sort of each document: of everything by value and then, stably, by document."""
        axis = transform.axis
        if transform.kind != "argsort":
            raise self.refused(f"{self.here} transforms all of {axis!r} at once", transform.span)
        if place.own != axis or self.other_axis(axis, place) is not None:
            raise self.refused(f"{self.here} sorts along {axis!r} for each of several indices", transform.span)
        assert self.current is not None
        key = self.expr(transform.body, place.inside((axis,)))
        by_value = self.define(f"{self.current.name}.order", replace(transform, body=key))
        sorted_first = self.known(f"{self.time}.first", place, self._plain(by_value))
        by_document = self.define(f"{self.current.name}.order", Transform("argsort", axis, sorted_first))
        at = {axis: self._plain(by_document)}
        found = Read(by_value.name, tuple(at.get(a, Index(a)) for a in by_value.axes))
        return self.spelled(self.symbol(found) - self.first(place))

    def _plain(self, equation: Equation) -> Read:
        return Read(equation.name, tuple(map(Index, equation.axes)))
