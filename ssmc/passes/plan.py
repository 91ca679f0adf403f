"""Program → Plan: which equations share a kernel, and along which axes it runs how.

A kernel is a grid over its *parallel* axes, one of which may be the *lane* axis (vectorised), then a
loop over *time* if its equations know a sequence, then loops over *inner* axes (state, taps, channels
that are contracted). An axis is parallel when no equation of the kernel folds it and no value made
inside is read at another index along it. What shares a kernel is said in ``grouping``.

Extents of inner axes are compiled in; those of parallel axes and time never are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ssmc.ir import Expr, Index, Program, Reduce, print_expr, walk

from .grouping import grouped
from .options import PlanOptions
from .parts import ANY, CUT, beginning_of_part, steps_of_parts
from .ranges import Ranges
from .reading import Reading, reads
from .recompute import CHUNK
from .units import Unit, is_snapshot, parallel, units


@dataclass(frozen=True)
class Scan:
    """A recurrence as ``factor · past + rest``, None for 1 and 0. A ``total`` is read after its last step only."""

    factor: Expr | None
    rest: Expr | None
    total: bool


@dataclass(frozen=True)
class KernelPlan:
    """One kernel. ``carried`` maps each value read at a lag to its longest lag; ``stored`` are the
    values written to memory; ``finals`` are equations that read carried values after the last step.

    ``rebuilt`` are recurrences that run upwards through each chunk of time before the kernel runs
    backwards through it (see ``recompute``), ``snapshots`` what is written at the start of each chunk,
    ``sums`` folds over groups of lanes (see ``partial``), ``tables`` sums by code (see ``tables``). Where the kernel
    runs through parts of time at once, ``part`` is their axis, or that of the cuts between them, ``steps`` how long
    each is, and ``starts`` what each carried value is before the first step of a part. So many steps are taken
    ``at_once`` (0: one after the other), for which ``scans`` has the recurrences (see ``at_once``). It runs only where
    all axes in ``one`` have one index, and only where one of those in ``more`` has more, if there are any."""

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
    part: str | None = None
    steps: Expr | None = None
    starts: Mapping[str, Expr] = field(default_factory=dict)
    at_once: int = 0
    scans: Mapping[str, Scan] = field(default_factory=dict)
    one: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    @property
    def chunk(self) -> int:
        """Steps of a chunk of time, where chunks are told apart; else 0."""
        return CHUNK if self.rebuilt or self.snapshots or self.sums else 0

    def describe(self) -> str:
        """A few lines for people."""
        order = "backwards" if self.reverse else "in order" if self.recurrent else "in blocks"
        parts = f" through each part of {print_expr(self.steps)} steps ({self.part})" if self.steps else ""
        parts += f", {self.at_once} steps at once" if self.at_once else ""
        rows = [
            ("computes", ", ".join(self.equations)),
            ("grid", " × ".join((*self.parallel, f"{self.lane} (lanes)") if self.lane else self.parallel) or "–"),
            ("time", f"{self.time}, {order}{parts}" if self.time else "–"),
            ("inner loops", ", ".join(self.inner) or "–"),
            ("carries", ", ".join(f"{n} × {k}" for n, k in self.carried.items()) or "–"),
            ("stores", ", ".join(self.stored)),
        ]
        if self.tables:
            rows.append(("adds up", f"{', '.join(self.tables)}, in the order of time"))
        for words, total in (("scans", False), ("adds up", True)):
            if names := [name for name, scan in self.scans.items() if scan.total is total]:
                rows.append((words, f"{', '.join(names)}, along the steps"))
        if self.rebuilt:
            rows.insert(3, ("rebuilds", f"{', '.join(self.rebuilt)}, {CHUNK} steps at a time"))
        if self.one or self.more:
            where = [*(f"#{axis} = 1" for axis in self.one), " or ".join(f"#{axis} > 1" for axis in self.more)]
            rows.insert(0, ("where", ", ".join(filter(None, where))))
        return "\n".join([f"kernel {self.name}", *(f"  {key:<12} {text}" for key, text in rows)])


@dataclass(frozen=True)
class Plan:
    """Kernels in order, the values that pass between them through memory, and compiled-in extents; names of kernels
    that run in one launch, and how, where that is known. ``instead`` says why they run otherwise than ``options`` say,
    and how."""

    program: Program
    kernels: tuple[KernelPlan, ...]
    workspaces: tuple[str, ...]
    fixed: Mapping[str, int]
    options: PlanOptions
    joined: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    instead: str = ""

    def describe(self) -> str:
        lines = [k.describe() for k in self.kernels]
        for names, way in self.joined.items():
            lines.append(f"in one launch: {', '.join(names)} ({way.replace('_', ' ')})")
        if self.workspaces:
            lines.append("through memory: " + ", ".join(self.workspaces))
        if self.fixed:
            lines.append("compiled in: " + ", ".join(f"#{a} = {n}" for a, n in self.fixed.items()))
        if self.options.chosen:
            lines.append(f"options: {self.options}")
        if self.instead:
            lines.append(self.instead)
        return "\n".join(lines)


def plan(
    program: Program, sizes: Mapping[str, int], options: PlanOptions | None = None,
    fixed: frozenset[str] = frozenset(), prefix: str = "k",
) -> Plan:  # fmt: skip
    """Plan an inlined Program for a CPU-like target.

    Args:
        program: no ``Call`` nodes left (see ``inline``).
        sizes: extents of the axes bound by inputs; only those of inner axes matter.
        options: see ``PlanOptions``.
        fixed: axes whose extents are compiled in, whatever they are used for.
        prefix: what the names of kernels begin with.

    Raises:
        Unsupported: an equation has no strategy here; the message names it.
        MissingExtent: an extent is to be compiled in, and ``sizes`` does not say it.
    """
    extents = Ranges(program, sizes)
    reading = Reading(program, extents)
    groups = grouped(reading, units(reading))
    produced_by = {e.name: i for i, g in enumerate(groups) for e in g.equations}
    crossing = {
        r.tensor
        for i, g in enumerate(groups)
        for e in g.equations
        for r in reading.all_reads(e)
        if r.tensor in produced_by and produced_by[r.tensor] != i
    }
    kernels = tuple(_kernel(reading, f"{prefix}{i}", g, crossing) for i, g in enumerate(groups))
    inner = {a for k in kernels for a in k.inner}
    free = _free(reading, kernels) - fixed - extents.baked
    known = {a: extents.value(a) for a in sorted((inner - free) | extents.baked) if not extents.varies(a)}
    workspaces = tuple(n for n in produced_by if n in crossing and n not in program.outputs)
    return Plan(program, kernels, workspaces, known, options or PlanOptions())


def _free(reading: Reading, kernels: tuple[KernelPlan, ...]) -> set[str]:
    """Axes that some kernels only fold, out of memory, and others spread over their grids (batches): their
    extents need not be compiled in."""
    grids = {a for k in kernels for a in (*k.parallel, k.lane)} | {group for _, group, _ in reading.sums.values()}
    grids |= {a for table in reading.tables.values() for a in (*table.places, *table.bound)}
    held = {
        a for k in kernels for e in k.equations if e not in k.tables
        for a in reading.produced[e].axes if a in k.inner
    }  # fmt: skip
    return {a for k in kernels for a in k.inner if a in grids} - held


def _kernel(reading: Reading, name: str, group: Unit, crossing: set[str]) -> KernelPlan:
    """Settle the axes of one group of equations."""
    carried, finals = _carried(reading, group)
    if carried and not group.recurrent:
        group.recurrent = True
    snapshots = tuple(e.name for e in group.equations if is_snapshot(reading, e, group))
    aside = {*finals, *snapshots}
    main = replace(group, equations=[e for e in group.equations if e.name not in aside] or group.equations)
    known = (a for e in main.equations for a in reading.axes_of(e) if a in reading.program.sequence_axes)
    time = group.time or next(known, None)
    stored = tuple(e.name for e in group.equations if e.name in crossing or e.name in reading.program.outputs)
    sums = tuple(e.name for e in group.equations if e.name in reading.sums)
    tables = {e.name: reading.tables[e.name] for e in group.equations if e.name in reading.tables}
    grid = tuple(a for a in parallel(reading, main) if a != time)
    inner = dict.fromkeys(
        a for e in group.equations for a in (*reading.axes_of(e), *sorted(reading.folded(e)), *e.axes)
        if a not in grid and a != time and (e.name in tables or a in reading.axes_of(e) or a in reading.folded(e))
    )  # fmt: skip
    ordered = group.recurrent or any(table.time for table in tables.values())
    part, steps, starts = _parts(reading, group)
    lane = reading.sums[sums[0]][0] if sums else _lane(reading, group if part else main, grid, stored, time)
    if part is not None:
        grid, inner = (*grid, part), {a: None for a in inner if a != part}
    elif time and time.endswith(CUT) and all(time in reading.produced[name].axes for name in stored):
        # Where there are no cuts, there is nothing to carry.
        grid = (f"{time.removesuffix(CUT)}{ANY}", *grid)
    return KernelPlan(
        name, tuple(e.name for e in group.equations), tuple(a for a in grid if a != lane), lane, time,
        group.reverse, ordered, tuple(inner), carried, stored, finals, tuple(group.rebuilt), snapshots, sums,
        tuple(tables), part, steps, starts,
    )  # fmt: skip


def _parts(reading: Reading, group: Unit) -> tuple[str | None, Expr | None, dict[str, Expr]]:
    """The axis of the parts of time that run at once, how long each is, and what carried values each begins with."""
    time, starts = str(group.time), dict[str, Expr]()
    steps = steps_of_parts(reading.program, time) if group.parts else None
    if steps is None:
        return None, None, {}
    for equation in group.equations:
        for node in walk(equation.expr):
            begun = beginning_of_part(node, time, steps)
            if begun is None or begun[0].tensor not in group.names - set(group.rebuilt):
                continue
            pairs = zip(reading.tensors[begun[0].tensor].axes, begun[0].indices, strict=True)
            if all(index == Index(axis) for axis, index in pairs if axis != time):
                starts.setdefault(begun[0].tensor, begun[1])
    return group.parts, steps, starts


def _carried(reading: Reading, group: Unit) -> tuple[dict[str, int], tuple[str, ...]]:
    """Values of the group that are read at a lag, with the longest; equations that read them at the end."""
    carried: dict[str, int] = {}
    finals = []
    for equation in group.equations:
        if is_snapshot(reading, equation, group):
            continue
        for read, axis in reading.reads_along(equation):
            if read.tensor not in group.names:
                continue
            if axis in reading.axes_of(equation):
                lag = reading.lag(read, axis)
                if lag is not None and lag != (0, 0) and not reading.is_cheap(read.tensor):
                    if read.tensor not in group.rebuilt:
                        group.time, group.reverse = axis, lag[0] < 0
                    carried[read.tensor] = max(carried.get(read.tensor, 0), -lag[0], lag[1])
            elif (depth := reading.final(read, axis, group.reverse, group.parts)) is not None:
                group.time = axis
                carried[read.tensor] = max(carried.get(read.tensor, 0), depth)
                finals.append(equation.name)
    return carried, tuple(dict.fromkeys(finals))


def _lane(reading: Reading, unit: Unit, grid: tuple[str, ...], stored: tuple[str, ...], time: str | None) -> str | None:
    """The axis to vectorise: the last one of what is stored, time aside, if it is parallel."""
    votes: dict[str, int] = {}
    for equation in unit.equations:
        axes = [a for a in reading.axes_of(equation) if a != time]
        if axes and equation.name in stored and axes[-1] in grid:
            votes[axes[-1]] = votes.get(axes[-1], 0) + len(equation.axes)
    best = max(votes, key=lambda a: votes[a], default=None)
    if best is None:
        return None
    best = _read_along_memory(reading, unit, grid, best)
    return None if _folds_along_memory(reading, unit, best) else best


def _read_along_memory(reading: Reading, unit: Unit, grid: tuple[str, ...], lane: str) -> str:
    """``lane``, or the axis of the result along which all that is summed lies side by side in memory:

        dw[d, k] = sum[b, t](dy[b, t, d] * x[b, t-k, d])

    A sum is stored once, and reads at each of its steps.
    """
    if unit.recurrent:
        return lane
    folds = [node for e in unit.equations for node in walk(e.expr) if isinstance(node, Reduce)]
    made = [read for fold in folds for read in reads(fold)]
    # What has none of the result's axes is the same for all lanes.
    last = {r.indices[-1] for r in made if any(Index(a) in walk(index) for index in r.indices for a in grid)}
    along = next(iter(last)) if len(last) == 1 else None
    return along.axis if isinstance(along, Index) and along.axis in grid else lane


def _folds_along_memory(reading: Reading, unit: Unit, lane: str) -> bool:
    """Whether sums of products run along what lies side by side in memory, and ``lane`` across it:

        y[o] = sum[i](W[o, i] * x[i])

    Then neighbours of a sum are added as one vector, rather than sums of neighbouring o that read W far apart.
    """
    if unit.recurrent:
        return False
    across = False
    for equation in unit.equations:
        for fold in (node for node in walk(equation.expr) if isinstance(node, Reduce)):
            for read in reads(fold):
                last = read.indices[-1] if read.indices else None
                if last == Index(lane):
                    return False
                far = any(Index(lane) in walk(index) for index in read.indices[:-1])
                if far and isinstance(last, Index) and last.axis in fold.axes:
                    across = True
    return across
