"""How a Program says that time is cut into parts, and what of it a plan recognises.

    h = a * where(t % K >= 1, h[t-1], start[t.cut = t // K - 1]) + x       each part begins with what is known at a cut
    end[t.cut]  = h[t = t.cut * K + K - 1]                                 what is left at each cut between two parts
    end[t.part] = h[t = min(t.part * K + K - 1, #t - 1)]                   what is left at the end of each part

Backwards in time the condition is ``(t+1) % K >= 1``, the start ``start[t.cut = t // K]`` and the ends are
``h[t = (t.cut + 1) * K]`` and ``h[t = t.part * K]``. Parts of a recurrence that has such entries do not depend on each
other: one kernel may run all of them at once, or, if only cuts are asked for, all but the one that comes last. K is a
number or the extent of an axis, always a multiple of ``CHUNK``. ``chunks`` writes Programs so.
"""

from __future__ import annotations

from collections.abc import Collection

from ssmc.ir import (
    INT,
    Axis,
    Const,
    Equation,
    Expr,
    Index,
    Op,
    Program,
    Read,
    Reduce,
    Size,
    Where,
    free_axes,
    rewrite,
    walk,
)

from .partial import group_sum
from .recompute import CHUNK

PART, CUT, STEPS, ANY = ".part", ".cut", ".steps", ".any"


def axes_of_parts(time: str, steps: Expr) -> list[Axis]:
    """The axes of the parts of ``time``, each of so many steps, of the cuts between them, and of one point if there are
    any. The last part may have fewer steps; where there are none, one part has none."""
    count = Op("floordiv", (_plus(Size(time), steps, -1), steps))
    parts = Axis(f"{time}{PART}", Op("maximum", (count, _int(1))), sequence=True)
    cuts = Axis(f"{time}{CUT}", Op("sub", (Size(parts.name), _int(1))), sequence=True)
    return [parts, cuts, Axis(f"{time}{ANY}", Op("minimum", (Size(cuts.name), _int(1))), sequence=True)]


def steps_of_parts(program: Program, time: str) -> Expr | None:
    """Steps of a part of ``time``; None where the Program has no parts."""
    for axis in program.axes:
        match axis.extent:
            case Op(op="maximum", args=(Op(op="floordiv", args=(_, steps)), Const(value=1))):
                if axis.name == f"{time}{PART}":
                    return steps
    return None


def number_of_part(time: str, steps: Expr) -> Expr:
    """The part in which a step is."""
    return Op("floordiv", (Index(time), steps))


def entered(past: Read, start: Expr, time: str, steps: Expr, reverse: bool) -> Where:
    """``past``, of one step back, or ``start`` where that is a step of another part."""
    present = Op("add", (Index(time), _int(1))) if reverse else Index(time)
    return Where(Op("ge", (Op("mod", (present, steps)), _int(1))), past, start)


def entry_of_part(expr: Expr, time: str, steps: Expr) -> tuple[Read, Expr] | None:
    """The lagged read and the other value of an expression that reads nothing of another part of so many steps, or of
    pieces of parts."""
    entry = _entry(expr, time)
    return entry[:2] if entry is not None and _divides(entry[2], steps) else None


def beginning_of_part(expr: Expr, time: str, steps: Expr) -> tuple[Read, Expr] | None:
    """The lagged read, and what stands for it in the first step of each part, over the axis of parts; None where parts
    do not begin so."""
    entry = _entry(expr, time)
    if entry is None or entry[2] != steps:
        return None
    number = number_of_part(time, steps)
    start = rewrite(entry[1], lambda e: Index(f"{time}{PART}") if e == number else None)
    return None if time in free_axes(start) else (entry[0], start)


def _entry(expr: Expr, time: str) -> tuple[Read, Expr, Expr] | None:
    """The lagged read, the other value, and after how many steps it is read again."""
    match expr:
        case Where(
            condition=Op(op="ge", args=(Op(op="mod", args=(present, each)), Const(value=1))),
            then=Read() as past,
            otherwise=start,
        ):
            back, ahead = Op("sub", (Index(time), _int(1))), Op("add", (Index(time), _int(1)))
            if (present == Index(time) and back in past.indices) or (present == ahead and ahead in past.indices):
                return past, start, each
    return None


def _divides(each: Expr, steps: Expr) -> bool:
    """Whether parts of ``steps`` begin where pieces of ``each`` steps do."""
    if not isinstance(each, Const) or not isinstance(each.value, int) or each.value < 1:
        return each == steps
    known = steps.value if isinstance(steps, Const) else CHUNK
    return isinstance(known, int) and known % each.value == 0


def last_step(time: str, steps: Expr, reverse: bool, axis: str) -> Expr:
    """The index of the step that comes last: in the part ``axis``, or before the cut ``axis``."""
    if axis.endswith(CUT):
        first = Op("mul", (Op("add", (Index(axis), _int(1))), steps))
        return first if reverse else Op("sub", (first, _int(1)))
    first = Op("mul", (Index(axis), steps))
    return first if reverse else Op("minimum", (_plus(first, steps, -1), Op("sub", (Size(time), _int(1)))))


def end_of_part(program: Program, equation: Equation) -> str | None:
    """The axis of parts or cuts of an equation that is what the last step of each part leaves."""
    if not isinstance(equation.expr, Read):
        return None
    for time, index in zip(program.tensors()[equation.expr.tensor].axes, equation.expr.indices, strict=True):
        steps = steps_of_parts(program, time)
        for axis in (f"{time}{PART}", f"{time}{CUT}"):
            if steps and axis in equation.axes and index in (
                last_step(time, steps, False, axis), last_step(time, steps, True, axis)
            ):  # fmt: skip
                return axis
    return None


def folded_states(program: Program, recurrent: Collection[str]) -> set[str]:
    """The axes of states: those that are folded out of recurrences, but for channels whose sums are gathered."""
    folding = [e for e in program.equations if group_sum(e) is None]
    folds = [node for e in folding for node in walk(e.expr) if isinstance(node, Reduce)]
    carrying = [f for f in folds if any(isinstance(n, Read) and n.tensor in recurrent for n in walk(f.body))]
    return {axis for fold in carrying for axis in fold.axes}


def _plus(a: Expr, b: Expr, more: int) -> Expr:
    """a + b + more."""
    if isinstance(b, Const) and isinstance(b.value, int):
        return Op("add", (a, _int(b.value + more)))
    return Op("sub", (Op("add", (a, b)), _int(-more)))


def _int(value: int) -> Const:
    return Const(value, INT)
