"""Equations may refer to each other in a circle only through time: which circles do not, and why.

The rule is that of ``ssmc.ir.dependence``: some sequence axis is never read ahead (or never back) in
the circle and sometimes strictly earlier; what is left without the earlier reads obeys the same rule.
This module finds every circle that breaks it, and says which reads are to blame.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ssmc.ir import Access, Accesses, Index, Lag, Linear, Program, linear_form, outside_reads

from .problems import Problems, listed


@dataclass(frozen=True)
class _Edge:
    """``reader`` reads ``tensor``."""

    reader: str
    tensor: str
    access: Access


def check_circles(program: Program, problems: Problems) -> None:
    """Report every circle of equations, or of those of a backward block, that no order of evaluation
    breaks."""
    if not _extensions_end(program, problems):
        return
    _Circles(program, problems).check()
    for custom in program.customs:
        tensors = program.tensors()
        outer = [replace(tensors[name], name=f"d.{name}") for name in custom.outputs if name in tensors]
        known = (*tensors.values(), *outer)
        _Circles(replace(program, inputs=known, equations=custom.equations, extensions=()), problems).check()


def _extensions_end(program: Program, problems: Problems) -> bool:
    """Whether no extensions refer to what is outside each other's tensors in a circle; report those that do."""
    outside = {x: outside_reads(program, x) for x in program.extensions}
    needs: dict[str, list[str]] = {x.tensor: [] for x in program.extensions}
    for extension, reads in outside.items():
        needs[extension.tensor] += [read.tensor for read in reads if read.tensor in needs]
    found = _in_circles(needs)
    for circle in found:
        extension, read = next(
            (x, r) for x, reads in outside.items() if x.tensor in circle for r in reads if r.tensor in circle
        )
        what = "itself" if read.tensor == extension.tensor else f"what is outside `{read.tensor}`, in a circle"
        problems.add(
            f"what is outside `{extension.tensor}` refers to {what}",
            read.span or extension.span,
            "values that certainly lie inside, or other tensors",
            f"read `copy = {read.tensor}`, which is 0 outside",
        )
    return not found


class _Circles:
    def __init__(self, program: Program, problems: Problems) -> None:
        self.program = program
        self.problems = problems
        self.accesses = Accesses(program)
        self.axes = {e.name: e.axes for e in program.equations}

    def check(self) -> None:
        names = list(self.axes)
        edges = [
            _Edge(equation.name, access.tensor, access)
            for equation in self.program.equations
            for access in self.accesses.of(equation)
            if access.tensor in self.axes
        ]
        self._check(names, edges)

    def _check(self, names: list[str], edges: list[_Edge]) -> None:
        for circle in circles(names, edges):
            inside = [e for e in edges if e.reader in circle and e.tensor in circle]
            left = self._without_lags(inside)
            if left is None:
                self._blame([n for n in names if n in circle], inside)
            else:
                self._check([n for n in names if n in circle], left)

    def _without_lags(self, edges: list[_Edge]) -> list[_Edge] | None:
        """The reads at the same index, when the others run one way along some sequence axis."""
        for axis in self.program.sequence_axes:
            lags = self._lags(edges, axis)
            if lags is None:
                continue
            for passed in (Lag.is_past, Lag.is_future):
                if all(passed(lag) for lag in lags) and any(passed(lag, 1) for lag in lags):
                    return [e for e, lag in zip(edges, lags, strict=True) if not passed(lag, 1)]
        return None

    def _lags(self, edges: list[_Edge], axis: str) -> list[Lag] | None:
        if any(axis not in self.axes[name] for e in edges for name in (e.reader, e.tensor)):
            return None
        lags = [self.accesses.lag(e.access, axis) for e in edges]
        return None if any(lag is None for lag in lags) else [lag for lag in lags if lag is not None]

    # ------------------------------------------------------------ explanations

    def _blame(self, names: list[str], edges: list[_Edge]) -> None:
        """Say what is wrong with a circle, at the read that is to blame."""
        who = f"`{names[0]}` depends on itself"
        if len(names) > 1:
            who = f"{listed(names)} depend on each other in a circle"
        for axis in self.program.sequence_axes:
            lags = self._lags(edges, axis)
            if lags is not None and self._mixed(who, axis, edges, lags):
                return
        seq = (self.program.sequence_axes or ("t",))[0]
        for edge in edges:
            along = self._shifted_axis(edge.access)
            if along is not None:
                message = f"{who} along `{along}`, which is not a sequence axis"
                self.problems.add(message, edge.access.read.span, hint=f"declare it: `seq {along}`")
                return
        edge, lag = self._least(edges, seq)
        if lag is not None and not lag.known:
            hint = f"read an earlier value, `{edge.tensor}[{seq}-1]`"
            message = f"{who}, at an index that depends on data"
            self.problems.add(message, edge.access.read.span, "an index known to be earlier", hint)
            return
        hint = f"read an earlier value, `{edge.tensor}[{seq}-1]`"
        if lag is not None and lag.constant is None:
            hint += ", or make the condition strict, `s < t`"
        expected = "every circle to pass through an earlier index of a sequence axis"
        self.problems.add(f"{who} without a lag", edge.access.read.span, expected, hint)

    def _mixed(self, who: str, axis: str, edges: list[_Edge], lags: list[Lag]) -> bool:
        past = [e for e, lag in zip(edges, lags, strict=True) if lag.known and lag.is_past(1)]
        future = [e for e, lag in zip(edges, lags, strict=True) if lag.known and lag.is_future(1)]
        if not past or not future:
            return False
        hint = "split it into one recurrence forwards and one backwards, and join their values"
        message = f"{who} at earlier and at later indices of `{axis}`"
        self.problems.add(message, future[0].access.read.span, "its past or its future, not both", hint)
        return True

    def _shifted_axis(self, access: Access) -> str | None:
        """An axis, not a sequence axis, at which a read is shifted by a constant."""
        axes = self.axes[access.tensor]
        for axis, index in zip(axes, access.read.indices, strict=True):
            form = linear_form(index)
            if form is None or axis in self.program.sequence_axes:
                continue
            shift = form - Linear(0, {Index(axis): 1})
            if shift.is_constant and shift.constant:
                return axis
        return None

    def _least(self, edges: list[_Edge], axis: str) -> tuple[_Edge, Lag | None]:
        """The first read that is not certainly earlier along ``axis``."""
        for edge in edges:
            lag = self.accesses.lag(edge.access, axis) if axis in self.axes[edge.tensor] else None
            if lag is None or not lag.is_past(1):
                return edge, lag
        return edges[0], None


def circles(names: Iterable[str], edges: Iterable[_Edge]) -> list[set[str]]:
    """The sets of names that read each other in circles (strongly connected, Tarjan 1972), iteratively."""
    reads: dict[str, list[str]] = {name: [] for name in names}
    for edge in edges:
        if edge.reader in reads and edge.tensor in reads:
            reads[edge.reader].append(edge.tensor)
    return _in_circles(reads)


def _in_circles(reads: Mapping[str, list[str]]) -> list[set[str]]:
    components = _components(reads)
    return [c for c in components if len(c) > 1 or any(name in reads[name] for name in c)]


def _components(reads: Mapping[str, list[str]]) -> list[set[str]]:
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    open_names: list[str] = []
    found: list[set[str]] = []
    for root in reads:
        if root in order:
            continue
        work = [(root, iter(reads[root]))]
        order[root] = low[root] = len(order)
        open_names.append(root)
        while work:
            name, rest = work[-1]
            step = next((other for other in rest if other not in order or other in open_names), None)
            if step is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[name])
                if low[name] == order[name]:
                    cut = open_names.index(name)
                    found.append(set(open_names[cut:]))
                    del open_names[cut:]
            elif step in order:
                low[name] = min(low[name], order[step])
            else:
                order[step] = low[step] = len(order)
                open_names.append(step)
                work.append((step, iter(reads[step])))
    return found
