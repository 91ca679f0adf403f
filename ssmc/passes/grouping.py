"""Units → groups of units, each of which one kernel computes.

Two units share a kernel unless that

* loses a parallel axis of either side, other than time under a recurrence and axes that the second
  unit folds out of values the first one makes (that saves their trip through memory),
* repeats a reduction or recurrence along an axis that it does not have, or
* reads in its steps what the first one knows only after its last step.

Units that read only what a recurrence is after its last step, or at the start of each chunk of time, join its
kernel.
"""

from __future__ import annotations

from dataclasses import replace

from ssmc.ir import Equation, Reduce, walk

from .partial import SWEPT
from .parts import CUT, steps_of_parts
from .reading import Reading, reads
from .recompute import saved_depth
from .units import Unit, is_snapshot, parallel, stays_in_part


def grouped(reading: Reading, units: list[Unit]) -> list[Unit]:
    """Each unit in the first kernel that may hold it, or in a new one."""
    groups: list[Unit] = []
    home: dict[str, int] = {}
    for unit in units:
        needs = {r.tensor for e in unit.equations for r in reading.all_reads(e)} - unit.names
        first = max((home[n] for n in needs if n in home), default=0)
        place = _final_home(reading, unit, home, groups)
        if place is None:
            for name in unit.names & reading.snapshots.keys():
                del reading.snapshots[name]  # its recurrence's kernel cannot save it: it reads what that one stored
            for place in range(first, len(groups)):
                if (merged := _merged(reading, groups[place], unit)) is not None:
                    groups[place] = merged
                    break
            else:
                place = len(groups)
                groups.append(unit)
        else:
            groups[place].equations.extend(unit.equations)
        home.update((name, place) for name in unit.names)
    return groups


def _final_home(reading: Reading, unit: Unit, home: dict[str, int], groups: list[Unit]) -> int | None:
    """The kernel whose carried values a unit reads after the last step or at the start of each chunk, if
    that is all it does."""
    places = set()
    for equation in unit.equations:
        # What stands for a recurrence before its first step is among its carried values when a snapshot is taken.
        made = reads(equation.expr) if equation.name in reading.snapshots else reading.reads_made(equation)
        for read in made:
            if read.tensor not in home or reading.is_cheap(read.tensor):
                continue
            group = groups[home[read.tensor]]
            axes = [a for a in reading.tensors[read.tensor].axes if a in reading.program.sequence_axes]
            if not axes or any(a in reading.axes_of(equation) for a in axes):
                return None
            if not is_snapshot(reading, equation, group) and any(
                reading.final(read, a, group.reverse, group.parts) is None for a in axes
            ):
                return None
            places.add(home[read.tensor])
    if len(places) != 1:
        return None
    place = places.pop()
    after = parallel(reading, replace(groups[place], equations=[*groups[place].equations, *unit.equations]))
    if not set(parallel(reading, groups[place])) - set(reading.program.sequence_axes) <= set(after):
        return None  # it reads other points of the grid
    return place


def _merged(reading: Reading, group: Unit, unit: Unit) -> Unit | None:
    """Both in one kernel, if that is possible and repeats nothing."""
    merged = _turned(group, unit)
    if merged is None or not _lags_fit(reading, merged) or not _rebuilt_alone(reading, merged):
        return None
    whole = group.names & (reading.sums.keys() | reading.tables.keys())
    if any(r.tensor in whole for e in unit.equations for r in reading.all_reads(e)):
        return None  # such a sum is complete only when its kernel is done
    if _needs_later(reading, group, unit) or not _keeps_to_parts(reading, group, unit, merged):
        return None
    if _fills_outside_time(reading, merged):
        return None
    before, alone, after = parallel(reading, group), parallel(reading, unit), parallel(reading, merged)
    time = {merged.time} if merged.recurrent else set()
    gathers = merged.rebuilt or all(SWEPT in name for name in unit.names)
    within = _folded(reading, merged) if gathers else set()
    followed = _followed(reading, group, unit) - set(before)
    if not set(alone) - time - within - followed <= set(after) or (within and not set(after) - time):
        return None
    if not set(before) - time - _folds_of(group, unit, merged) <= set(after):
        return None
    return None if any(_repeats(reading, e, after, time) for e in merged.equations) else merged


def _rebuilt_alone(reading: Reading, unit: Unit) -> bool:
    """Whether what runs upwards through a chunk, before the others run backwards through it, follows from none of
    those."""
    import networkx

    within, others = reading.graph.subgraph(unit.names), set(unit.recurring) - set(unit.rebuilt)
    return not any(networkx.ancestors(within, name) & others for name in unit.rebuilt)


def _needs_later(reading: Reading, group: Unit, unit: Unit) -> bool:
    """Whether a step of the unit reads what the group knows only after its last step."""
    sequence, late = set(reading.program.sequence_axes), set[str]()
    within = sequence - {group.parts}
    for equation in group.equations:
        if within & set(reading.axes_of(equation)) or equation.name in reading.snapshots:
            continue
        made = [r.tensor for r in reading.reads_made(equation) if r.tensor in group.names]
        if any(name in late or within & set(reading.tensors[name].axes) for name in made):
            late.add(equation.name)
    steps = [e for e in unit.equations if sequence & set(reading.axes_of(e))]
    return any(r.tensor in late for e in steps for r in reading.all_reads(e))


def _keeps_to_parts(reading: Reading, group: Unit, unit: Unit, merged: Unit) -> bool:
    """Whether both run in parts of time if one does, and no part needs another. Nothing joins what is there only for
    what parts leave unless it is, too, or reads of it: it would be kept in memory until it is wanted."""
    if group.recurrent and unit.recurrent and group.parts != unit.parts:
        return False
    summary = reading.summaries | reading.ends.keys()
    mixed = group.names <= summary and not unit.names <= summary
    if merged.parts.endswith(CUT) and not (merged.names <= summary and reading.before_same_cuts(merged.names)):
        return False  # what comes last in time comes before no cut
    if mixed and not any(read.tensor in group.names for e in unit.equations for read in reading.all_reads(e)):
        return False
    if not merged.parts:
        return True
    time = str(merged.time)
    steps, own = steps_of_parts(reading.program, time), merged.names - set(merged.rebuilt)
    if steps is None or any(reading.tables[name].time for name in merged.names & reading.tables.keys()):
        return False
    return all(time not in reading.axes_of(e) or stays_in_part(reading, e, own, time, steps) for e in merged.equations)


def _fills_outside_time(reading: Reading, unit: Unit) -> bool:
    """Whether a table that is filled once would be filled in every step."""
    timed = any(a in reading.program.sequence_axes for e in unit.equations for a in reading.axes_of(e))
    return timed and any(reading.tables[n].time is None for n in unit.names & reading.tables.keys())


def _turned(group: Unit, unit: Unit) -> Unit | None:
    """Both together, running the way of their recurrences; where those oppose each other, the ones that
    run upwards are rebuilt chunk by chunk. None if they cannot be."""
    source = unit if unit.recurrent else group
    merged = Unit(
        [*group.equations, *unit.equations], source.time, source.reverse, group.recurrent or unit.recurrent,
        [*group.rebuilt, *unit.rebuilt], [*group.recurring, *unit.recurring], group.rebuildable and unit.rebuildable,
        source.parts,
    )  # fmt: skip
    if not (group.recurrent and unit.recurrent) or (group.time, group.reverse) == (unit.time, unit.reverse):
        return merged
    upwards = unit if group.reverse else group
    if group.time != unit.time or not upwards.rebuildable:
        return None
    return replace(merged, reverse=True, rebuilt=[*merged.rebuilt, *upwards.recurring])


def _folded(reading: Reading, unit: Unit) -> set[str]:
    """Axes that the unit runs through inside a step."""
    return set().union(*(reading.folded(e) for e in unit.equations)) - {unit.time}


def _folds_of(group: Unit, unit: Unit, merged: Unit) -> set[str]:
    """Axes that the unit folds out of values made by the group: step by step where steps follow each other."""
    found: set[str] = set()
    for equation in unit.equations:
        if merged.recurrent and merged.time not in equation.axes:
            continue
        for node in walk(equation.expr):
            if isinstance(node, Reduce) and any(r.tensor in group.names for r in reads(node.body)):
                found |= set(node.axes)
    return found


def _followed(reading: Reading, group: Unit, unit: Unit) -> set[str]:
    """Axes of what the unit reads of the group's recurrences at every step: of states, which are large."""
    found: set[str] = set()
    for equation in unit.equations:
        for read in reading.all_reads(equation):
            if read.tensor in group.recurring and group.time in reading.axes_of(equation):
                found |= set(reading.tensors[read.tensor].axes)
    return found


def _repeats(reading: Reading, equation: Equation, along: tuple[str, ...], time: set[str | None]) -> bool:
    """Whether the kernel would compute a costly equation once for every point of a missing axis."""
    if not set(along) - set(reading.axes_of(equation)) - time or equation.name in reading.snapshots:
        return False
    heavy = equation.name in reading.program.outputs or any(isinstance(n, Reduce) for n in walk(equation.expr))
    return heavy or reading.depends_on_itself(equation.name)


def _lags_fit(reading: Reading, merged: Unit) -> bool:
    """Reads of the kernel's own values along a sequence axis must be at static lags, one way; what is
    rebuilt is there for every step of the chunk and for those before it that were saved."""
    way = (merged.time, merged.reverse) if merged.recurrent else None
    for equation in merged.equations:
        for read, axis in reading.reads_along(equation):
            if read.tensor not in merged.names or reading.is_cheap(read.tensor):
                continue
            if axis not in reading.axes_of(equation):
                if is_snapshot(reading, equation, merged) or reading.final(read, axis, merged.reverse, merged.parts):
                    continue
                return False
            lag = reading.lag(read, axis)
            if lag is None or lag[0] < 0 < lag[1]:
                return False
            if read.tensor in merged.rebuilt:
                if lag[0] < 0 or lag[1] > saved_depth(reading.program, read.tensor):
                    return False
            elif lag != (0, 0):
                if way is not None and way != (axis, lag[0] < 0):
                    return False
                way = (axis, lag[0] < 0)
    return True
