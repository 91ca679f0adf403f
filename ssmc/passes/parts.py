"""How a Program says that time is cut into parts, and what of it a plan recognises.

    h = a * where(t % K >= 1, h[t-1], start[t.part = t // K]) + x          the entry of each part is known
    end[t.part] = h[t = min(t.part * K + K - 1, #t - 1)]                   what the last step of each part leaves

Backwards in time the condition is ``(t+1) % K >= 1`` and the end ``h[t = t.part * K]``. Parts of a recurrence that
has such entries do not depend on each other: one kernel may run all of them at once. ``chunks`` writes Programs so.
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

PART = ".part"


def part_axis(time: str, steps: int) -> Axis:
    """The axis of the parts of ``time``, each of so many steps; the last may have fewer. One part follows another."""
    count = Op("floordiv", (Op("add", (Size(time), _int(steps - 1))), _int(steps)))
    return Axis(f"{time}{PART}", count, sequence=True)


def steps_of_parts(program: Program, time: str) -> int:
    """Steps of a part of ``time``; 0 where the Program has no parts."""
    for axis in program.axes:
        match axis.extent:
            case Op(op="floordiv", args=(Op(op="add", args=(Size(axis=of), Const())), Const(value=steps))):
                if axis.name == f"{time}{PART}" and of == time:
                    return int(steps.real)
    return 0


def entered(past: Read, start: Expr, time: str, steps: int, reverse: bool) -> Where:
    """``past``, of one step back, or ``start`` where that is a step of another part."""
    present = Op("add", (Index(time), _int(1))) if reverse else Index(time)
    return Where(Op("ge", (Op("mod", (present, _int(steps))), _int(1))), past, start)


def entry_of_part(expr: Expr, time: str, steps: int) -> tuple[Read, Expr] | None:
    """The lagged read and the other value of an expression that reads nothing of another part of so many steps, or of
    pieces of parts."""
    entry = _entry(expr, time)
    return None if entry is None or steps % entry[2] else entry[:2]


def beginning_of_part(expr: Expr, time: str, steps: int) -> tuple[Read, Expr] | None:
    """The lagged read, and what stands for it in the first step of each part, over the axis of parts; None where parts
    do not begin so."""
    entry = _entry(expr, time)
    if entry is None or entry[2] != steps:
        return None
    number = Op("floordiv", (Index(time), _int(steps)))
    start = rewrite(entry[1], lambda e: Index(f"{time}{PART}") if e == number else None)
    return None if time in free_axes(start) else (entry[0], start)


def _entry(expr: Expr, time: str) -> tuple[Read, Expr, int] | None:
    """The lagged read, the other value, and after how many steps it is read again."""
    match expr:
        case Where(
            condition=Op(op="ge", args=(Op(op="mod", args=(present, Const(value=int() as each))), Const(value=1))),
            then=Read() as past,
            otherwise=start,
        ) if each > 0:
            back, ahead = Op("sub", (Index(time), _int(1))), Op("add", (Index(time), _int(1)))
            if (present == Index(time) and back in past.indices) or (present == ahead and ahead in past.indices):
                return past, start, each
    return None


def last_step(time: str, steps: int, reverse: bool) -> Expr:
    """The index of the step that comes last in a part."""
    first = Op("mul", (Index(f"{time}{PART}"), _int(steps)))
    if reverse:
        return first
    return Op("minimum", (Op("add", (first, _int(steps - 1))), Op("sub", (Size(time), _int(1)))))


def end_of_part(program: Program, equation: Equation) -> str | None:
    """The axis of parts of an equation that is what the last step of each part leaves."""
    if not isinstance(equation.expr, Read):
        return None
    for axis, index in zip(program.tensors()[equation.expr.tensor].axes, equation.expr.indices, strict=True):
        steps = steps_of_parts(program, axis) if f"{axis}{PART}" in equation.axes else 0
        if steps and index in (last_step(axis, steps, False), last_step(axis, steps, True)):
            return f"{axis}{PART}"
    return None


def folded_states(program: Program, recurrent: Collection[str]) -> set[str]:
    """The axes of states: those that are folded out of recurrences, but for channels whose sums are gathered."""
    folding = [e for e in program.equations if group_sum(e) is None]
    folds = [node for e in folding for node in walk(e.expr) if isinstance(node, Reduce)]
    carrying = [f for f in folds if any(isinstance(n, Read) and n.tensor in recurrent for n in walk(f.body))]
    return {axis for fold in carrying for axis in fold.axes}


def _int(value: int) -> Const:
    return Const(value, INT)
