"""Program → Plan: which equations share a kernel, and along which axes it runs how.

A kernel is a grid over its *parallel* axes, one of which may be the *lane* axis (vectorised), then a
loop over *time* if its equations know a sequence, then loops over *inner* axes (state, taps, channels
that are contracted). An axis is parallel when no equation of the kernel folds it and no value made
inside is read at another index along it. Two units share a kernel unless that

* loses a parallel axis of either side, other than time under a recurrence and axes that the second
  unit folds out of values the first one makes (that saves their trip through memory), or
* repeats a reduction or recurrence along an axis that it does not have.

Extents of inner axes are compiled in; those of parallel axes and time never are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ssmc.errors import Unsupported
from ssmc.ir import (
    OPERATIONS,
    Apply,
    Const,
    Equation,
    Expr,
    Index,
    Op,
    Program,
    Read,
    Reduce,
    Transform,
    free_axes,
    substitute,
    walk,
)

from .partial import group_sum
from .ranges import Ranges
from .recompute import CHUNK, entry_of, snapshot_of
from .tables import table_of

_CHEAP_FLOPS = 8


@dataclass(frozen=True)
class PlanOptions:
    """What a tuner may change.

    ``lanes``: channels per block (0: the target's default). ``tile``: time steps per tile when the
    state is tiled (0: never). ``states``: state entries kept in registers at a time.
    """

    lanes: int = 0
    tile: int = 64
    states: int = 0


@dataclass(frozen=True)
class KernelPlan:
    """One kernel. ``carried`` maps each value read at a lag to its longest lag; ``stored`` are the
    values written to memory; ``finals`` are equations that read carried values after the last step.

    ``rebuilt`` are recurrences that run upwards through each chunk of time before the kernel runs
    backwards through it (see ``recompute``), ``snapshots`` what is written at the start of each chunk,
    ``sums`` folds over groups of lanes (see ``partial``), ``tables`` sums by code (see ``tables``)."""

    name: str
    equations: tuple[str, ...]
    parallel: tuple[str, ...]
    lane: str | None
    time: str | None
    reverse: bool
    recurrent: bool
    inner: tuple[str, ...]
    carried: Mapping[str, int]
    stored: tuple[str, ...]
    finals: tuple[str, ...]
    rebuilt: tuple[str, ...] = ()
    snapshots: tuple[str, ...] = ()
    sums: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()

    @property
    def chunk(self) -> int:
        """Steps of a chunk of time, where chunks are told apart; else 0."""
        return CHUNK if self.rebuilt or self.snapshots or self.sums else 0

    def describe(self) -> str:
        """A few lines for people."""
        order = "backwards" if self.reverse else "in order" if self.recurrent else "in blocks"
        rows = [
            ("computes", ", ".join(self.equations)),
            ("grid", " × ".join((*self.parallel, f"{self.lane} (lanes)") if self.lane else self.parallel) or "–"),
            ("time", f"{self.time}, {order}" if self.time else "–"),
            ("inner loops", ", ".join(self.inner) or "–"),
            ("carries", ", ".join(f"{n} × {k}" for n, k in self.carried.items()) or "–"),
            ("stores", ", ".join(self.stored)),
        ]
        if self.tables:
            rows.append(("adds up", f"{', '.join(self.tables)}, in the order of time"))
        if self.rebuilt:
            rows.insert(3, ("rebuilds", f"{', '.join(self.rebuilt)}, {CHUNK} steps at a time"))
        return "\n".join([f"kernel {self.name}", *(f"  {key:<12} {text}" for key, text in rows)])


@dataclass(frozen=True)
class Plan:
    """Kernels in order, the values that pass between them through memory, and compiled-in extents."""

    program: Program
    kernels: tuple[KernelPlan, ...]
    workspaces: tuple[str, ...]
    fixed: Mapping[str, int]
    options: PlanOptions

    def describe(self) -> str:
        lines = [k.describe() for k in self.kernels]
        if self.workspaces:
            lines.append("through memory: " + ", ".join(self.workspaces))
        if self.fixed:
            lines.append("compiled in: " + ", ".join(f"#{a} = {n}" for a, n in self.fixed.items()))
        return "\n".join(lines)


@dataclass
class _Unit:
    """Equations that must stay together: one, or a recurrence."""

    equations: list[Equation]
    time: str | None = None
    reverse: bool = False
    recurrent: bool = False
    rebuilt: list[str] = field(default_factory=list)
    recurring: list[str] = field(default_factory=list)

    @property
    def names(self) -> set[str]:
        return {e.name for e in self.equations}


def reads(expr: Expr) -> list[Read]:
    return [node for node in walk(expr) if isinstance(node, Read)]


def folded_axes(expr: Expr) -> set[str]:
    """Axes that some reduction in the expression runs over."""
    return {a for node in walk(expr) if isinstance(node, Reduce) for a in node.axes}


def plan(
    program: Program, sizes: Mapping[str, int], options: PlanOptions | None = None,
    fixed: frozenset[str] = frozenset(),
) -> Plan:  # fmt: skip
    """Plan an inlined Program for a CPU-like target.

    Args:
        program: no ``Call`` nodes left (see ``inline``).
        sizes: extents of the axes bound by inputs; only those of inner axes matter.
        options: see ``PlanOptions``.
        fixed: axes whose extents are compiled in, whatever they are used for.

    Raises:
        Unsupported: an equation has no strategy here; the message names it.
    """
    extents = Ranges(program, sizes)
    planner = _Planner(program, extents)
    groups = planner.group(planner.units())
    produced_by = {e.name: i for i, g in enumerate(groups) for e in g.equations}
    crossing = {
        r.tensor
        for i, g in enumerate(groups)
        for e in g.equations
        for r in planner.all_reads(e)
        if r.tensor in produced_by and produced_by[r.tensor] != i
    }
    kernels = tuple(planner.kernel(i, g, crossing) for i, g in enumerate(groups))
    inner = {a for k in kernels for a in k.inner}
    free = _free(program, kernels) - fixed - extents.baked
    known = {a: extents.value(a) for a in sorted((inner - free) | extents.baked) if not extents.varies(a)}
    workspaces = tuple(n for n in produced_by if n in crossing and n not in program.outputs)
    return Plan(program, kernels, workspaces, known, options or PlanOptions())


def _free(program: Program, kernels: tuple[KernelPlan, ...]) -> set[str]:
    """Axes that some kernels only fold, out of memory, and others spread over their grids (batches): their
    extents need not be compiled in."""
    grids = {a for k in kernels for a in (*k.parallel, k.lane)} | {
        found[1] for e in program.equations if (found := group_sum(e)) is not None
    }
    tables = [table for e in program.equations if (table := table_of(program, e)) is not None]
    grids |= {a for table in tables for a in (*table.places, *table.bound)}
    held = {
        a for k in kernels for e in k.equations if e not in (*k.sums, *k.tables)
        for a in program.equation(e).axes if a in k.inner
    }  # fmt: skip
    return {a for k in kernels for a in k.inner if a in grids} - held


def planner_for(program: Program, ranges: Ranges) -> _Planner:
    """A planner that has looked at the equations of a Program."""
    planner = _Planner(program, ranges)
    planner.units()
    return planner


class _Planner:
    def __init__(self, program: Program, extents: Ranges) -> None:
        self.program = program
        self.extents = extents
        self.tensors = program.tensors()
        self.produced = {e.name: e for e in program.equations}
        self.sums = {e.name: found for e in program.equations if (found := group_sum(e)) is not None}
        self.tables = {e.name: table for e in program.equations if (table := table_of(program, e)) is not None}
        self.snapshots = {e.name: shot for e in program.equations if (shot := snapshot_of(program, e)) is not None}
        self.rebuildable: set[str] = set()
        self._cheap: dict[str, bool] = {}
        self.extensions: dict[str, list[Expr]] = {}
        for item in program.extensions:
            self.extensions.setdefault(item.tensor, []).append(item.expr)

    # ------------------------------------------------------------ reading

    def all_reads(self, equation: Equation) -> list[Read]:
        """Reads of an equation, its extensions and those of what it reads."""
        found = reads(equation.expr)
        for tensor in {equation.name, *(r.tensor for r in found)}:
            for expr in self.extensions.get(tensor, ()):
                found += [r for r in reads(expr) if r.tensor != equation.name]
        return found

    def reads_made(self, equation: Equation) -> list[Read]:
        """Reads of an equation as a kernel makes them: a cheap value elsewhere is computed again there."""
        found: list[Read] = []
        for read in self.all_reads(equation):
            found += self._through_cheap(read)
        return found

    def _through_cheap(self, read: Read) -> list[Read]:
        if self.is_identity(read) or not self.is_cheap(read.tensor):
            return [read]
        cheap = self.produced[read.tensor]
        there = substitute(cheap.expr, dict(zip(cheap.axes, read.indices, strict=True)))
        return [read, *(made for inner in reads(there) for made in self._through_cheap(inner))]

    def lag(self, read: Read, axis: str) -> tuple[int, int] | None:
        """How far back along ``axis`` a read looks, at least and at most; None when not static."""
        position = self.tensors[read.tensor].axes.index(axis)
        return self.extents.offset(Index(axis), read.indices[position])

    def is_final(self, read: Read, axis: str, reverse: bool) -> int | None:
        """How many steps before the end of the way a read looks: at ``#axis - k`` or, backwards, at ``k - 1``."""
        position = self.tensors[read.tensor].axes.index(axis)
        if reverse:
            index = read.indices[position]
            return int(index.value.real) + 1 if isinstance(index, Const) and index.value.real >= 0 else None
        bounds = self.extents.from_end(axis, read.indices[position])
        return bounds[1] if bounds and bounds[0] >= 1 else None

    def is_cheap(self, name: str) -> bool:
        """A map of inputs so cheap that every reader may compute it again."""
        if name not in self._cheap:
            self._cheap[name] = self._costs_little(name)
        return self._cheap[name]

    def _costs_little(self, name: str) -> bool:
        equation = self.produced.get(name)
        if equation is None or name in self.program.outputs or self.depends_on_itself(name):
            return False
        flops = 0
        for node in walk(equation.expr):
            if isinstance(node, (Reduce, Transform, Apply)):
                return False
            if isinstance(node, Op):
                row = OPERATIONS[node.op]
                flops += row.flops + 100 * row.exponentials
            if isinstance(node, Read) and node.tensor in self.produced:
                if not self.is_identity(node) or not self.is_cheap(node.tensor):
                    return False
        return flops <= _CHEAP_FLOPS

    def depends_on_itself(self, name: str) -> bool:
        return any(name in group and (len(group) > 1 or self._self_loop(name)) for group in self._components)

    def is_identity(self, read: Read) -> bool:
        axes = self.tensors[read.tensor].axes
        return all(i == Index(a) for a, i in zip(axes, read.indices, strict=True))

    # ------------------------------------------------------------ units

    def units(self) -> list[_Unit]:
        """Strongly connected equations in an order in which each comes after what it reads."""
        import networkx

        graph = networkx.DiGraph()
        graph.add_nodes_from(e.name for e in self.program.equations)
        for equation in self.program.equations:
            for read in self.all_reads(equation):
                if read.tensor in self.produced:
                    graph.add_edge(read.tensor, equation.name)
        self._graph = graph
        self._components = [frozenset(c) for c in networkx.strongly_connected_components(graph)]
        order = {e.name: i for i, e in enumerate(self.program.equations)}
        condensed = networkx.condensation(graph, self._components)
        rank = {n: min(order[m] for m in condensed.nodes[n]["members"]) for n in condensed}
        found = []
        for node in networkx.lexicographical_topological_sort(condensed, key=rank.__getitem__):
            names = condensed.nodes[node]["members"]
            found.append(self._unit([e for e in self.program.equations if e.name in names]))
        return found

    def _self_loop(self, name: str) -> bool:
        return bool(self._graph.has_edge(name, name))

    def _unit(self, equations: list[Equation]) -> _Unit:
        unit = _Unit(equations)
        for equation in equations:
            self._refuse(equation)
        unit.recurrent = len(equations) > 1 or self._self_loop(equations[0].name)
        if unit.recurrent:
            self._orient(unit)
            unit.recurring = [e.name for e in equations]
            if not unit.reverse and self._has_entries(unit):
                self.rebuildable |= unit.names
        return unit

    def _has_entries(self, unit: _Unit) -> bool:
        """Whether every look back comes with what is saved at the start of a chunk of time."""
        for equation in unit.equations:
            entered = [entry[0] for node in walk(equation.expr) if (entry := entry_of(node)) is not None]
            for read in reads(equation.expr):
                if read.tensor in unit.names and self.lag(read, str(unit.time)) != (0, 0) and read not in entered:
                    return False
        return True

    def _orient(self, unit: _Unit) -> None:
        """Find the axis that the recurrence runs along, and which way."""
        for axis in self.program.sequence_axes:
            lags = []
            for equation in unit.equations:
                for read in reads(equation.expr):
                    if read.tensor in unit.names and axis in self.tensors[read.tensor].axes:
                        lag = self.lag(read, axis)
                        if lag is None:
                            raise Unsupported(
                                f"equation `{equation.name}` reads its own past at a distance that is not static",
                                span=read.span, expected="a constant lag such as `h[t-1]`",
                            )  # fmt: skip
                        lags.append(lag)
            if any(lag != (0, 0) for lag in lags):
                unit.time, unit.reverse = axis, any(low < 0 for low, _ in lags)
                return
        first = unit.equations[0]
        raise Unsupported(f"equation `{first.name}` recurs along more than one axis, which has no strategy on this "
                          "target yet", span=first.span)  # fmt: skip

    def _refuse(self, equation: Equation) -> None:
        """Say Unsupported for what has no strategy on this target."""

        def no(what: str, node: Expr, hint: str = "the interpreter runs it: `ssmc.ir.interpret`") -> Unsupported:
            return Unsupported(
                f"equation `{equation.name}`: {what} has no strategy on this target yet",
                span=getattr(node, "span", None) or equation.span, hint=hint,
            )  # fmt: skip

        for node in walk(equation.expr):
            if isinstance(node, Transform):
                raise no("a sort" if node.kind == "argsort" else "a Hadamard transform", node)
            if isinstance(node, Apply):
                raise no(f"the opaque function `{node.function}`", node)
            if not isinstance(node, Reduce):
                continue
            long = [a for a in node.axes if self.extents.varies(a) and self.extents.is_time(a)]
            if node.condition is not None and self._equal_codes(node):
                raise no("a sum over equal codes", node)
            if long and node.kind in ("softmax", "logsumexp"):
                raise no(f"a {node.kind} over the sequence axis `{long[0]}`", node)

    def _equal_codes(self, node: Reduce) -> bool:
        """Whether the condition joins what is folded with other points, on equality of integer data."""
        assert node.condition is not None
        for part in walk(node.condition):
            if isinstance(part, Op) and part.op == "eq":
                joined = [any(self._reads_whole(side, a) for a in node.axes) for side in part.args]
                outside = [bool(reads(side)) and not free_axes(side) & set(node.axes) for side in part.args]
                if any(joined) and any(outside):
                    return True
        return False

    def _reads_whole(self, expr: Expr, axis: str) -> bool:
        """Whether something is read all along a bound axis (a tap of a window is not)."""
        return any(Index(axis) in r.indices for r in reads(expr))

    # ------------------------------------------------------------ grouping

    def group(self, units: list[_Unit]) -> list[_Unit]:
        """Put each unit into the first kernel that may hold it, or into a new one."""
        groups: list[_Unit] = []
        home: dict[str, int] = {}
        for unit in units:
            needs = {r.tensor for e in unit.equations for r in self.all_reads(e)} - unit.names
            first = max((home[n] for n in needs if n in home), default=0)
            place = self._final_home(unit, home, groups)
            if place is None:
                for place in range(first, len(groups)):
                    if (merged := self._merged(groups[place], unit)) is not None:
                        groups[place] = merged
                        break
                else:
                    place = len(groups)
                    groups.append(unit)
            else:
                groups[place].equations.extend(unit.equations)
            home.update((name, place) for name in unit.names)
        return groups

    def _final_home(self, unit: _Unit, home: dict[str, int], groups: list[_Unit]) -> int | None:
        """The kernel whose carried values a unit reads after the last step or at the start of each chunk, if
        that is all it does."""
        places = set()
        for equation in unit.equations:
            for read in self.reads_made(equation):
                if read.tensor not in home or self.is_cheap(read.tensor):
                    continue
                group = groups[home[read.tensor]]
                axes = [a for a in self.tensors[read.tensor].axes if a in self.program.sequence_axes]
                if not axes or any(a in self.axes_of(equation) for a in axes):
                    return None
                if not self._is_snapshot(equation, group) and any(
                    self.is_final(read, a, group.reverse) is None for a in axes
                ):
                    return None
                places.add(home[read.tensor])
        if len(places) != 1:
            return None
        place = places.pop()
        after = self.parallel(replace(groups[place], equations=[*groups[place].equations, *unit.equations]))
        if not set(self.parallel(groups[place])) - set(self.program.sequence_axes) <= set(after):
            return None  # it reads other points of the grid
        return place

    def _is_snapshot(self, equation: Equation, group: _Unit) -> bool:
        found = self.snapshots.get(equation.name)
        return found is not None and found[0].tensor in group.recurring and not group.reverse

    def _merged(self, group: _Unit, unit: _Unit) -> _Unit | None:
        """Both in one kernel, if that is possible and repeats nothing."""
        merged = self._turned(group, unit)
        if merged is None or not self._lags_fit(merged):
            return None
        whole = group.names & (self.sums.keys() | self.tables.keys())
        if any(r.tensor in whole for e in unit.equations for r in self.all_reads(e)):
            return None  # such a sum is complete only when its kernel is done
        if self._fills_outside_time(merged):
            return None
        before, alone, after = self.parallel(group), self.parallel(unit), self.parallel(merged)
        time = {merged.time} if merged.recurrent else set()
        within = self._folded(merged) if merged.rebuilt else set()
        followed = self._followed(group, unit) - set(before)
        if not set(alone) - time - within - followed <= set(after) or (within and not set(after) - time):
            return None
        if not set(before) - time - self._folds_of(group, unit, merged) <= set(after):
            return None
        return None if any(self._repeats(e, after, time) for e in merged.equations) else merged

    def _fills_outside_time(self, unit: _Unit) -> bool:
        """Whether a table that is filled once would be filled in every step."""
        timed = any(a in self.program.sequence_axes for e in unit.equations for a in self.axes_of(e))
        return timed and any(self.tables[n].time is None for n in unit.names & self.tables.keys())

    def _turned(self, group: _Unit, unit: _Unit) -> _Unit | None:
        """Both together, running the way of their recurrences; where those oppose each other, the ones that
        run upwards are rebuilt chunk by chunk. None if they cannot be."""
        source = unit if unit.recurrent else group
        merged = _Unit([*group.equations, *unit.equations], source.time, source.reverse,
                       group.recurrent or unit.recurrent, [*group.rebuilt, *unit.rebuilt],
                       [*group.recurring, *unit.recurring])  # fmt: skip
        if not (group.recurrent and unit.recurrent) or (group.time, group.reverse) == (unit.time, unit.reverse):
            return merged
        upwards = unit if group.reverse else group
        if group.time != unit.time or not set(upwards.recurring) <= self.rebuildable:
            return None
        return replace(merged, reverse=True, rebuilt=[*merged.rebuilt, *upwards.recurring])

    def _folded(self, unit: _Unit) -> set[str]:
        """Axes that the unit runs through inside a step."""
        return set().union(*(self.folded(e) for e in unit.equations)) - {unit.time}

    def folded(self, equation: Equation) -> set[str]:
        """Axes that an equation folds at one point of a kernel: not the lanes of a sum over groups of them."""
        found = self.sums.get(equation.name)
        folds = folded_axes(found[2]) if found else folded_axes(equation.expr)
        table = self.tables.get(equation.name)
        return folds - {table.time} if table else folds

    def axes_of(self, equation: Equation) -> tuple[str, ...]:
        """The axes along which a kernel computes an equation: a sum over groups of lanes along the lanes, a table
        along what it is filled from."""
        if equation.name in self.sums:
            lane, group, _ = self.sums[equation.name]
            return tuple(lane if a == group else a for a in equation.axes)
        if equation.name in self.tables:
            table = self.tables[equation.name]
            own = tuple(a for a in equation.axes if a not in table.places)
            return (table.time, *own) if table.time else own
        if equation.name in self.snapshots:
            return tuple(a for a in equation.axes if a != self.snapshots[equation.name][1])
        return equation.axes

    def _folds_of(self, group: _Unit, unit: _Unit, merged: _Unit) -> set[str]:
        """Axes that the unit folds out of values made by the group: step by step where steps follow each other."""
        found: set[str] = set()
        for equation in unit.equations:
            if merged.recurrent and merged.time not in equation.axes:
                continue
            for node in walk(equation.expr):
                if isinstance(node, Reduce) and any(r.tensor in group.names for r in reads(node.body)):
                    found |= set(node.axes)
        return found

    def _followed(self, group: _Unit, unit: _Unit) -> set[str]:
        """Axes of what the unit reads of the group's recurrences at every step: of states, which are large."""
        found: set[str] = set()
        for equation in unit.equations:
            for read in self.all_reads(equation):
                if read.tensor in group.recurring and group.time in self.axes_of(equation):
                    found |= set(self.tensors[read.tensor].axes)
        return found

    def _repeats(self, equation: Equation, parallel: tuple[str, ...], time: set[str | None]) -> bool:
        """Whether the kernel would compute a costly equation once for every point of a missing axis."""
        if not set(parallel) - set(self.axes_of(equation)) - time or equation.name in self.snapshots:
            return False
        heavy = equation.name in self.program.outputs or any(isinstance(n, Reduce) for n in walk(equation.expr))
        return heavy or self.depends_on_itself(equation.name)

    def _lags_fit(self, merged: _Unit) -> bool:
        """Reads of the kernel's own values along a sequence axis must be at static lags, one way; what is
        rebuilt is there for every step of the chunk and a few before it."""
        way = (merged.time, merged.reverse) if merged.recurrent else None
        for equation in merged.equations:
            for read in self.reads_made(equation):
                if read.tensor not in merged.names or self.is_cheap(read.tensor):
                    continue
                for axis in self.tensors[read.tensor].axes:
                    if axis not in self.program.sequence_axes:
                        continue
                    if axis not in self.axes_of(equation):
                        if self._is_snapshot(equation, merged) or self.is_final(read, axis, merged.reverse):
                            continue
                        return False
                    lag = self.lag(read, axis)
                    if lag is None or lag[0] < 0 < lag[1]:
                        return False
                    if read.tensor in merged.rebuilt:
                        if lag[0] < 0 or lag[1] > CHUNK:
                            return False
                    elif lag != (0, 0):
                        if way is not None and way != (axis, lag[0] < 0):
                            return False
                        way = (axis, lag[0] < 0)
        return True

    def parallel(self, unit: _Unit) -> tuple[str, ...]:
        """Axes along which points are independent, in order of first appearance."""
        bad: set[str] = {unit.time} if unit.recurrent and unit.time else set()
        for equation in unit.equations:
            bad |= self.folded(equation)
            if equation.name in self.tables:
                bad.add(str(self.tables[equation.name].time))
            for read in self.reads_made(equation):
                if read.tensor not in unit.names or self.is_cheap(read.tensor):
                    continue
                axes = self.tensors[read.tensor].axes
                bad |= {a for a, i in zip(axes, read.indices, strict=True) if i != Index(a) and a != unit.time}
        order = dict.fromkeys(a for e in unit.equations for a in self.axes_of(e))
        return tuple(a for a in order if a not in bad)

    # ------------------------------------------------------------ kernels

    def kernel(self, number: int, group: _Unit, crossing: set[str]) -> KernelPlan:
        """Settle the axes of one group of equations."""
        carried, finals = self._carried(group)
        if carried and not group.recurrent:
            group.recurrent = True
        snapshots = tuple(e.name for e in group.equations if self._is_snapshot(e, group))
        aside = {*finals, *snapshots}
        main = replace(group, equations=[e for e in group.equations if e.name not in aside] or group.equations)
        parallel = self.parallel(main)
        known = (a for e in main.equations for a in self.axes_of(e) if a in self.program.sequence_axes)
        time = group.time or next(known, None)
        stored = tuple(e.name for e in group.equations if e.name in crossing or e.name in self.program.outputs)
        sums = tuple(e.name for e in group.equations if e.name in self.sums)
        tables = {e.name: self.tables[e.name] for e in group.equations if e.name in self.tables}
        grid = tuple(a for a in parallel if a != time)
        inner = dict.fromkeys(
            a for e in group.equations for a in (*self.axes_of(e), *sorted(self.folded(e)), *e.axes)
            if a not in grid and a != time and (e.name in tables or a in self.axes_of(e) or a in self.folded(e))
        )  # fmt: skip
        ordered = group.recurrent or any(table.time for table in tables.values())
        lane = self.sums[sums[0]][0] if sums else self._lane(main, grid, stored, time)
        return KernelPlan(
            f"k{number}", tuple(e.name for e in group.equations), tuple(a for a in grid if a != lane), lane, time,
            group.reverse, ordered, tuple(inner), carried, stored, finals, tuple(group.rebuilt), snapshots, sums,
            tuple(tables),
        )  # fmt: skip

    def _carried(self, group: _Unit) -> tuple[dict[str, int], tuple[str, ...]]:
        """Values of the group that are read at a lag, with the longest; equations that read them at the end."""
        carried: dict[str, int] = {}
        finals = []
        for equation in group.equations:
            if self._is_snapshot(equation, group):
                continue
            for read in self.reads_made(equation):
                if read.tensor not in group.names:
                    continue
                for axis in self.tensors[read.tensor].axes:
                    if axis not in self.program.sequence_axes:
                        continue
                    lag = self.lag(read, axis) if axis in self.axes_of(equation) else None
                    if lag is not None and lag != (0, 0) and not self.is_cheap(read.tensor):
                        if read.tensor not in group.rebuilt:
                            group.time, group.reverse = axis, lag[0] < 0
                        carried[read.tensor] = max(carried.get(read.tensor, 0), -lag[0], lag[1])
                    if (
                        axis not in self.axes_of(equation)
                        and (depth := self.is_final(read, axis, group.reverse)) is not None
                    ):
                        group.time = axis
                        carried[read.tensor] = max(carried.get(read.tensor, 0), depth)
                        finals.append(equation.name)
        return carried, tuple(dict.fromkeys(finals))

    def _lane(self, unit: _Unit, grid: tuple[str, ...], stored: tuple[str, ...], time: str | None) -> str | None:
        """The axis to vectorise: the last one of what is stored, time aside, if it is parallel."""
        votes: dict[str, int] = {}
        for equation in unit.equations:
            axes = [a for a in self.axes_of(equation) if a != time]
            if axes and equation.name in stored and axes[-1] in grid:
                votes[axes[-1]] = votes.get(axes[-1], 0) + len(equation.axes)
        return max(votes, key=lambda a: votes[a], default=None)
