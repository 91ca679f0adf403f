"""Which equation needs which, at what lag, and an order in which all can be evaluated.

Strongly connected equations form a recurrence. It runs along a sequence axis on which no member
reads ahead (or none reads back) and some read is strictly earlier; the equations that remain
connected at one index of that axis form a recurrence along another axis, and so on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ssmc.errors import UserError

from .accesses import Access, Accesses, Lag
from .program import Program

if TYPE_CHECKING:
    import networkx


@dataclass(frozen=True)
class Loop:
    """Equations evaluated index by index along ``axis``, upwards (+1) or downwards (−1)."""

    axis: str
    direction: int
    body: tuple[Step, ...]

    def equations(self) -> tuple[str, ...]:
        """All equations in the loop, nested ones included, in order."""
        return tuple(name for step in self.body for name in ((step,) if isinstance(step, str) else step.equations()))


Step: TypeAlias = str | Loop


@dataclass(frozen=True)
class Dependence:
    """The graph of equations (an edge from what is read to its reader, with its ``accesses``) and
    ``order``, the schedule: each step is an equation, evaluated whole, or a loop."""

    graph: networkx.DiGraph
    order: tuple[Step, ...]

    @property
    def recurrences(self) -> tuple[Loop, ...]:
        """The outermost loops, in order."""
        return tuple(step for step in self.order if isinstance(step, Loop))


def dependence(program: Program) -> Dependence:
    """The dependence of ``program``; UserError for a circle that no order of evaluation breaks."""
    import networkx

    accesses = Accesses(program)
    graph = networkx.DiGraph()
    graph.add_nodes_from(equation.name for equation in program.equations)
    for equation in program.equations:
        for access in accesses.of(equation):
            if access.tensor not in graph:
                continue
            if not graph.has_edge(access.tensor, equation.name):
                graph.add_edge(access.tensor, equation.name, accesses=[])
            graph[access.tensor][equation.name]["accesses"].append(access)
    return Dependence(graph, _ordered(program, accesses, graph))


def _ordered(program: Program, accesses: Accesses, graph: networkx.DiGraph) -> tuple[Step, ...]:
    """Components in topological order; ties go to the one written first, so that order is stable."""
    import networkx

    place = {equation.name: i for i, equation in enumerate(program.equations)}
    condensed = networkx.condensation(graph)
    members = condensed.nodes(data="members")
    first = {node: min(place[name] for name in names) for node, names in members}
    order: list[Step] = []
    for node in networkx.lexicographical_topological_sort(condensed, key=first.__getitem__):
        names = sorted(members[node], key=place.__getitem__)
        if len(names) == 1 and not graph.has_edge(names[0], names[0]):
            order.append(names[0])
        else:
            order.append(_loop(program, accesses, graph.subgraph(names)))
    return tuple(order)


def _loop(program: Program, accesses: Accesses, graph: networkx.DiGraph) -> Loop:
    """The loop that runs one strongly connected component."""
    import networkx

    edges = [(*edge, access) for *edge, found in graph.edges(data="accesses") for access in found]
    for axis in program.sequence_axes:
        lags = _lags(program, accesses, graph, axis, (access for _, _, access in edges))
        if lags is None:
            continue
        for direction, passed in ((1, Lag.is_past), (-1, Lag.is_future)):
            if all(passed(lag) for lag in lags) and any(passed(lag, 1) for lag in lags):
                left = networkx.DiGraph()
                left.add_nodes_from(graph)
                for (source, reader, access), lag in zip(edges, lags, strict=True):
                    if not passed(lag, 1):
                        if not left.has_edge(source, reader):
                            left.add_edge(source, reader, accesses=[])
                        left[source][reader]["accesses"].append(access)
                return Loop(axis, direction, _ordered(program, accesses, left))
    raise _circle(program, accesses, graph)


def _lags(
    program: Program, accesses: Accesses, graph: networkx.DiGraph, axis: str, edges: Iterable[Access]
) -> list[Lag] | None:
    """The lag of every edge along ``axis``; None if some member does not have that axis."""
    if any(axis not in program.equation(name).axes for name in graph):
        return None
    lags = [accesses.lag(access, axis) for access in edges]
    return None if any(lag is None for lag in lags) else [lag for lag in lags if lag is not None]


def _circle(program: Program, accesses: Accesses, graph: networkx.DiGraph) -> UserError:
    """Say which equations refer to each other, and why no order evaluates them."""
    names = sorted(graph, key=lambda name: [e.name for e in program.equations].index(name))
    span = program.equation(names[0]).span
    listed = ", ".join(repr(name) for name in names)
    who = f"{listed} refers to itself" if len(names) == 1 else f"{listed} refer to each other"
    for axis in program.sequence_axes:
        found = (access for *_, edge in graph.edges(data="accesses") for access in edge)
        lags = _lags(program, accesses, graph, axis, found) or []
        if any(lag.known and lag.is_past(1) for lag in lags) and any(lag.known and lag.is_future(1) for lag in lags):
            return UserError(
                f"{who} at earlier and at later indices of {axis!r}",
                span=span,
                expected="a recurrence that reads its past or its future, not both",
                hint="split it into one recurrence forwards and one backwards",
            )
    return UserError(
        f"{who} without a lag",
        span=span,
        expected="every circle of equations to pass through an earlier index of a sequence axis",
        hint=f"read an earlier value, as in {names[0]}[{(program.sequence_axes or ('t',))[0]}-1]",
    )
