"""Program → Program: sums over time that are gathered on the way back which a window takes through it anyway.

    dx[t] = sum[k](w * s[t+k]);  A = sum[t](s * x[t-k])   =   A.swept = A.swept[t+1] + s * x[t-k];  A = A.swept[t=0]

Each step then makes ``s`` once, and keeps as much of it as the window reaches ahead: it never goes through memory.
What the window is read by comes last, so that its kernel runs through time by then.

Precondition: the Program has no recurrence (``partial`` does this for those that it rebuilds), and its processor has
few threads: steps that run one after the other are none for it to lose.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from ssmc.ir import Index, Program, Read, Reduce, rewrite, type_of, walk
from ssmc.ir.loops import LANE_GROUP

from .partial import swept
from .ranges import Ranges
from .reading import Reading, reads

MOST_AHEAD = 16  # steps that a window may reach: what it keeps, and the sum of each tap, stays near


def sweep(program: Program, sizes: Mapping[str, int], together: int = LANE_GROUP) -> Program:
    """The Program with such sums gathered on the way; unchanged where there are none, where something recurs, or where
    no channels lie side by side.

    Args:
        sizes: extents of the axes that inputs bind.
        together: channels whose sum is one part.
    """
    reading = Reading(program, Ranges(program, dict(sizes)))
    if any(reading.depends_on_itself(name) for name in reading.produced):
        return program
    for time in program.sequence_axes:
        ahead = _read_ahead(reading, time)
        readers = {reader for name in ahead for reader in ahead[name]}
        named = _named(program, ahead.keys())
        if readers and _summed(named, time, set(ahead)):
            made = [e for e in named.equations if e.name in ahead.keys() | readers]
            done = swept(named, time, made, sizes, together, frozenset(ahead))
            if done is not named:
                return replace(done, equations=tuple(sorted(done.equations, key=lambda e: e.name in readers)))
    return program


def _named(program: Program, names: Collection[str]) -> Program:
    """The Program, in which what is equal to one of these values is a read of it."""
    tensors = program.tensors()
    made = {
        e.expr: Read(e.name, tuple(map(Index, e.axes)))
        for e in program.equations
        if e.name in names and type_of(e.expr, tensors) is e.dtype
    }
    equations = [
        e if e.name in names else replace(e, expr=rewrite(e.expr, lambda node: made.get(node)))
        for e in program.equations
    ]
    return replace(program, equations=tuple(equations))


def _read_ahead(reading: Reading, time: str) -> dict[str, set[str]]:
    """Values of later steps that equations read, within a window whose width is known, and which those are."""
    found: dict[str, set[str]] = {}
    for equation in reading.program.equations:
        for read in reads(equation.expr) if time in equation.axes else ():
            if time not in reading.tensors[read.tensor].axes or reading.is_cheap(read.tensor):
                continue
            lag = reading.lag(read, time)
            if lag is not None and -MOST_AHEAD <= lag[0] < 0 and lag[1] <= 0:
                found.setdefault(read.tensor, set()).add(equation.name)
    return found


def _summed(program: Program, time: str, names: set[str]) -> bool:
    """Whether something adds up any of these over time."""
    folds = [n for e in program.equations if time not in e.axes for n in walk(e.expr) if isinstance(n, Reduce)]
    return any(time in f.axes and any(r.tensor in names for r in reads(f.body)) for f in folds)
