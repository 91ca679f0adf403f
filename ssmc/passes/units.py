"""Program → units: equations that must stay together, which are recurrences or single equations.

    h = a * h[t-1] + x;  y = C * h   =   {h, along t}, {y}

Each unit comes after those that it reads. A recurrence runs along one sequence axis, one way, and reads its own
past at static lags.

Precondition: no ``Call`` nodes are left. What has no strategy is refused here, with the equation's name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ssmc.errors import Unsupported
from ssmc.ir import COMPLEX, Apply, Equation, Expr, Index, Op, Reduce, Transform, free_axes, type_of, walk

from .parts import CUT, PART, entry_of_part, steps_of_parts
from .reading import Reading, reads
from .recompute import entry_of


@dataclass
class Unit:
    """Equations that run together, recurrences among them (``recurring``) along ``time``. Those in ``rebuilt`` run
    upwards through each chunk of time before the others run backwards through it; ``rebuildable`` says that the
    recurrences may. They do not depend on other parts of time if there is an axis ``parts``, of parts or of the cuts
    between them (see ``parts``)."""

    equations: list[Equation]
    time: str | None = None
    reverse: bool = False
    recurrent: bool = False
    rebuilt: list[str] = field(default_factory=list)
    recurring: list[str] = field(default_factory=list)
    rebuildable: bool = True
    parts: str = ""

    @property
    def names(self) -> set[str]:
        return {e.name for e in self.equations}


def units(reading: Reading) -> list[Unit]:
    """Strongly connected equations in an order in which each comes after what it reads.

    Raises:
        Unsupported: an equation has no strategy; the message names it.
    """
    import networkx

    equations = reading.program.equations
    order = {e.name: i for i, e in enumerate(equations)}
    condensed = networkx.condensation(reading.graph, reading.components)
    members = {n: condensed.nodes[n]["members"] for n in condensed}
    rank = {n: min(order[name] for name in members[n]) for n in condensed}
    found = []
    for node in networkx.lexicographical_topological_sort(condensed, key=rank.__getitem__):
        found.append(_unit(reading, [e for e in equations if e.name in members[node]]))
    return found


def parallel(reading: Reading, unit: Unit) -> tuple[str, ...]:
    """Axes along which points are independent, in order of first appearance."""
    bad: set[str] = {unit.time} if unit.recurrent and unit.time else set()
    if unit.parts.endswith(CUT):
        bad |= reading.states  # as where the states are folded: what they share is computed once
    for equation in unit.equations:
        bad |= reading.folded(equation)
        if equation.name in reading.tables:
            bad.add(str(reading.tables[equation.name].time))
        for read in reading.reads_made(equation):
            if read.tensor not in unit.names or reading.is_cheap(read.tensor):
                continue
            axes = reading.tensors[read.tensor].axes
            bad |= {a for a, i in zip(axes, read.indices, strict=True) if i != Index(a) and a != unit.time}
    order = dict.fromkeys(a for e in unit.equations for a in reading.axes_of(e))
    return tuple(a for a in order if a not in bad)


def is_snapshot(reading: Reading, equation: Equation, unit: Unit) -> bool:
    """Whether the equation saves values of the unit's recurrences at the starts of chunks of time."""
    found = reading.snapshots.get(equation.name)
    return found is not None and found[0].tensor in unit.recurring and not unit.reverse


def _unit(reading: Reading, equations: list[Equation]) -> Unit:
    for equation in equations:
        _refuse(reading, equation)
    unit = Unit(equations, recurrent=reading.depends_on_itself(equations[0].name))
    if unit.recurrent:
        _orient(reading, unit)
        unit.recurring = [e.name for e in equations]
        unit.rebuildable = not unit.reverse and _has_entries(reading, unit)
        if _in_parts(reading, unit):
            unit.parts = f"{unit.time}{CUT if unit.names <= reading.summaries else PART}"
    return unit


def _orient(reading: Reading, unit: Unit) -> None:
    """Find the axis that the recurrence runs along, and which way."""
    for axis in reading.program.sequence_axes:
        lags = []
        for equation in unit.equations:
            for read in reads(equation.expr):
                if read.tensor in unit.names and axis in reading.tensors[read.tensor].axes:
                    lag = reading.lag(read, axis)
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


def _has_entries(reading: Reading, unit: Unit) -> bool:
    """Whether every look back comes with what is saved at the start of a chunk of time."""
    for equation in unit.equations:
        entered = [entry[0] for node in walk(equation.expr) if (entry := entry_of(node)) is not None]
        for read in reads(equation.expr):
            if read.tensor in unit.names and reading.lag(read, str(unit.time)) != (0, 0) and read not in entered:
                return False
    return True


def _in_parts(reading: Reading, unit: Unit) -> bool:
    """Whether the Program has parts of time, and no look back leaves one."""
    time = str(unit.time)
    steps = steps_of_parts(reading.program, time)
    return steps is not None and all(stays_in_part(reading, e, unit.names, time, steps) for e in unit.equations)


def stays_in_part(reading: Reading, equation: Equation, names: set[str], time: str, steps: Expr) -> bool:
    """Whether an equation reads none of these tensors at a step of another part."""
    entered = [entry[0] for node in walk(equation.expr) if (entry := entry_of_part(node, time, steps)) is not None]
    for read in reads(equation.expr):
        if read.tensor not in names or reading.is_cheap(read.tensor) or read in entered:
            continue
        if time in reading.tensors[read.tensor].axes and reading.lag(read, time) != (0, 0):
            return False
    return True


def _refuse(reading: Reading, equation: Equation) -> None:
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
        if node.kind == "prod" and type_of(node.body, reading.tensors) is COMPLEX:
            raise no("a product of complex values", node)
        long = [a for a in node.axes if reading.extents.varies(a) and reading.extents.is_time(a)]
        if node.condition is not None and _equal_codes(node):
            raise no("a sum over equal codes", node)
        if long and node.kind in ("softmax", "logsumexp"):
            raise no(f"a {node.kind} over the sequence axis `{long[0]}`", node)


def _equal_codes(node: Reduce) -> bool:
    """Whether the condition joins what is folded with other points, on equality of integer data."""
    assert node.condition is not None
    for part in walk(node.condition):
        if isinstance(part, Op) and part.op == "eq":
            joined = [any(_reads_whole(side, a) for a in node.axes) for side in part.args]
            outside = [bool(reads(side)) and not free_axes(side) & set(node.axes) for side in part.args]
            if any(joined) and any(outside):
                return True
    return False


def _reads_whole(expr: Expr, axis: str) -> bool:
    """Whether something is read all along a bound axis (a tap of a window is not)."""
    return any(Index(axis) in r.indices for r in reads(expr))
