"""How far back, or ahead, every tensor is read along every sequence axis.

A read sees the facts of the conditions around it (``accesses``) and, beyond them, the facts that hold
wherever its equation is itself read: ``score[t, s] = sum[e](q * k[t=s])`` reads the future of ``k``,
but nobody looks at ``score`` except under ``s <= t and t - s < W``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ssmc.ir import (
    INT,
    Access,
    Accesses,
    Const,
    Equation,
    Expr,
    Index,
    Lag,
    Linear,
    Op,
    Program,
    Size,
    at_least,
    dependence,
    linear_form,
    lower_bound,
)


@dataclass(frozen=True)
class LookBack:
    """The reads of ``tensor`` along ``axis`` that are not here and now, each with its lag; None
    where the reader has no index along the axis, and so reads all of it."""

    tensor: str
    axis: str
    reads: tuple[tuple[Access, Lag | None], ...] = ()

    @property
    def lags(self) -> tuple[Lag, ...]:
        return tuple(lag for _, lag in self.reads if lag is not None)

    @property
    def whole(self) -> bool:
        """Whether some reader reads all of the axis."""
        return any(lag is None for _, lag in self.reads)

    @property
    def past(self) -> tuple[Linear, ...] | None:
        """The longest lags, as forms over sizes of which the greatest counts; None: unbounded."""
        return _greatest([lag.high for lag in self.lags], self.axis)

    @property
    def future(self) -> tuple[Linear, ...] | None:
        """The furthest reads ahead, likewise; None: unbounded."""
        return _greatest([-lag.low for lag in self.lags], self.axis)

    @property
    def data_dependent(self) -> bool:
        """Whether some index depends on data, so that it may lie anywhere."""
        return any(not lag.known for lag in self.lags)

    @property
    def causal(self) -> bool:
        """Whether nothing later is ever read."""
        return not self.whole and all(lag.known and lag.is_past() for lag in self.lags)

    @property
    def depth(self) -> Expr | None:
        """How many earlier values are needed, an expression over sizes; None: all of them."""
        past = self.past
        if past is None or self.whole or self.data_dependent:
            return None
        return longest(past, self._inhabited())

    def _inhabited(self) -> frozenset[str]:
        return frozenset.intersection(*(lag.inhabited for lag in self.lags)) if self.lags else frozenset()


def longest(forms: Iterable[Linear], inhabited: frozenset[str] = frozenset(), given: Iterable[Linear] = ()) -> Expr:
    """The greatest of some lags, at least 0, as an expression; the axes in ``inhabited`` are not empty, and the
    forms in ``given`` are ≥ 0."""
    forms = tuple(forms)
    constant = max((form.constant for form in forms if form.is_constant), default=0)
    result: Expr = Const(max(constant, 0), INT)
    for form in dict.fromkeys(form for form in forms if not form.is_constant):
        least = at_least(lower_bound(form, given, {}), max(constant, 0), inhabited)
        bare = least and result == Const(max(constant, 0), INT)
        result = form.expr() if bare else Op("maximum", (result, form.expr()))
    return result


def look_back(program: Program) -> dict[tuple[str, str], LookBack]:
    """For every tensor and each of its sequence axes, how far back it is read."""
    accesses = Accesses(program)
    tensors = program.tensors()
    found = {
        (name, axis): LookBack(name, axis)
        for name, tensor in tensors.items()
        for axis in tensor.axes
        if axis in program.sequence_axes
    }
    for access in demanded_accesses(program, accesses):
        for axis in tensors[access.tensor].axes:
            if axis not in program.sequence_axes:
                continue
            old = found[access.tensor, axis]
            lag = accesses.lag(access, axis)
            if lag is None or lag.constant != 0:
                found[access.tensor, axis] = replace(old, reads=(*old.reads, (access, lag)))
    return found


def demanded_accesses(program: Program, accesses: Accesses | None = None) -> list[Access]:
    """Every read, knowing also what holds wherever the value of its equation is used."""
    accesses = accesses or Accesses(program)
    regions = demanded_regions(program, accesses)
    return [access for equation in program.equations for access in accesses.of(equation, regions[equation.name])]


def demanded_regions(program: Program, accesses: Accesses) -> dict[str, tuple[Linear, ...]]:
    """For each equation, forms over its axes that are ≥ 0 wherever it is read; last readers first."""
    readers: dict[str, list[Access]] = {equation.name: [] for equation in program.equations}
    regions: dict[str, tuple[Linear, ...]] = {}
    for step in reversed(dependence(program).order):
        names = (step,) if isinstance(step, str) else step.equations()
        for name in names:
            needed_everywhere = name in program.outputs or not isinstance(step, str)
            equation = program.equation(name)
            regions[name] = () if needed_everywhere else _shared_facts(equation, readers[name], accesses.extents)
        for name in names:
            for access in accesses.of(program.equation(name), regions[name]):
                if access.tensor in readers:
                    readers[access.tensor].append(access)
    return regions


def _shared_facts(equation: Equation, reads: list[Access], extents: Mapping[str, Expr]) -> tuple[Linear, ...]:
    """Facts that hold at every read of ``equation``, over its own axes."""
    if not reads:
        return ()
    sides = [_in_terms_of(equation.axes, access, extents) for access in reads]
    return tuple(
        fact
        for fact in dict.fromkeys(sides[0])
        if all(at_least(lower_bound(fact, other, extents), 0) for other in sides[1:])
    )


def _in_terms_of(axes: Iterable[str], access: Access, extents: Mapping[str, Expr]) -> list[Linear]:
    """The facts at a read, with the reader's indices expressed by those of the tensor read."""
    solved: dict[Index, Linear] = {}
    for axis, index in zip(axes, access.read.indices, strict=True):
        form = linear_form(index, extents)
        if form is not None and len(form.axes) == 1:
            (name,) = form.axes
            if form.coefficient(Index(name)) == 1:
                solved[Index(name)] = Linear(0, {Index(axis): 1}) - form.without(Index(name))
    found = []
    for fact in access.given:
        if all(Index(name) in solved for name in fact.axes):
            moved = Linear(fact.constant, {s: k for s, k in fact.terms.items() if isinstance(s, Size)})
            for symbol, k in fact.terms.items():
                if isinstance(symbol, Index):
                    moved = moved + solved[symbol].scaled(k)
            found.append(moved)
    return found


def _greatest(forms: list[Linear], axis: str) -> tuple[Linear, ...] | None:
    """The forms that may be the greatest, without repetition; None if one grows with the axis itself."""
    if any(form.coefficient(Size(axis)) for form in forms):
        return None
    constant = max((form.constant for form in forms if form.is_constant), default=None)
    kept = () if constant is None else (Linear(constant),)
    return kept + tuple(dict.fromkeys(form for form in forms if not form.is_constant))
