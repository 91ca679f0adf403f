"""Program → Program: of a recurrence, keep the values at the starts of chunks of time and rebuild the others.

    saving:      h.saved[t.chunk] = h[t = t.chunk * K - 1]
    rebuilding:  h = a * h[t-1] + x  =  a * where(t % K >= 1, h[t-1], h.saved[t.chunk = t // K]) + x

``saving`` is for the forward pass, ``rebuilding`` for the backward pass, which gets ``h.saved`` as an input: a
chunk then depends on nothing before it, so a plan may rebuild chunks in any order, the last one first.

Precondition: the recurrence runs upwards along a sequence axis and reads its own past at constant lags of at
most K. Other recurrences stay as they are. Whole numbers and truth values that follow from reals are kept
whole: rebuilt from rounded values they might come out differently.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ssmc.ir import (
    BOOL,
    INT,
    Access,
    Accesses,
    Axis,
    Const,
    Equation,
    Expr,
    Index,
    Op,
    Program,
    Read,
    Size,
    Tensor,
    Where,
    dependence,
    rewrite,
    walk,
)

from .tidy import reads_of, tidied

CHUNK = 32
SAVED = ".saved"


@dataclass(frozen=True)
class Kept:
    """What is kept of one tensor: its last ``depth`` values before each chunk of ``time``; all of it where
    ``depth`` is 0. ``made_by`` are the equations that it follows from, with their ``axes_used``: the layer may
    lack some that only its gradient names."""

    tensor: Tensor
    time: str
    depth: int
    last: str | None
    made_by: tuple[Equation, ...] = ()
    axes_used: tuple[Axis, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.tensor.name}{SAVED}"

    @property
    def axes(self) -> tuple[str, ...]:
        """Neighbours along the axis of the layer's channels (``last``) lie side by side."""
        if not self.depth:
            return self.tensor.axes
        own = [f"{self.time}.chunk" if axis == self.time else axis for axis in self.tensor.axes]
        if self.last in own:
            own = [*(axis for axis in own if axis != self.last), str(self.last)]
        return (f"{self.name}.past", *own) if self.depth > 1 else tuple(own)

    def extents(self) -> list[Axis]:
        """The axes that it introduces."""
        if not self.depth:
            return []
        count = Op("floordiv", (Op("add", (Size(self.time), _int(CHUNK - 1))), _int(CHUNK)))
        found = [Axis(f"{self.time}.chunk", count)]
        return [*found, Axis(f"{self.name}.past", _int(self.depth))] if self.depth > 1 else found

    def read(self, indices: dict[str, Expr], chunk: Expr, place: Expr) -> Read:
        """The value that is ``depth − place`` steps before a chunk."""
        here = {**indices, f"{self.time}.chunk": chunk, f"{self.name}.past": place}
        return Read(self.name, tuple(here.get(axis, Index(axis)) for axis in self.axes))


def kept_values(program: Program) -> tuple[Kept, ...]:
    """What the gradient ``program`` should be given, so that it need not run through all of time again: of values
    that the forward pass has too."""
    found: list[Kept] = []
    last, forward = _channels(program), _forward(program)
    for loop in dependence(program).recurrences:
        names = set(loop.equations())
        upwards = loop.direction > 0 and len(names) == len(loop.body) and names <= forward
        depths = _depths(program, names, loop.axis) if upwards else None
        if depths and max(depths.values()) <= CHUNK:
            tensors = program.tensors()
            found += [Kept(tensors[name], loop.axis, depth, last) for name, depth in depths.items()]
    discrete = [e for e in program.equations if e.name in forward and _is_discrete(program, e)]
    found += [Kept(e.tensor, "", 0, last) for e in discrete]
    return tuple(_with_definition(program, item) for item in found)


def _forward(program: Program) -> set[str]:
    """Equations of a gradient that do not depend on the adjoints that come in: the last that got a prefix."""
    numbers = {t.name: int(m[1] or 1) for t in program.inputs if (m := re.match(r"d(\d*)\.", t.name))}
    late = {name for name, number in numbers.items() if number == max(numbers.values())}
    uses = {e.name: _reads(program, e) for e in program.equations}
    changed = True
    while changed:
        more = {name for name, read in uses.items() if name not in late and read & late}
        late |= more
        changed = bool(more)
    return uses.keys() - late


def _reads(program: Program, equation: Equation) -> set[str]:
    """What an equation reads, extensions of that included."""
    read = set(reads_of(equation.expr))
    return read.union(*(reads_of(x.expr) for x in program.extensions if x.tensor in read))


def _with_definition(program: Program, kept: Kept) -> Kept:
    """Together with the equations that the value follows from."""
    needed = tidied(replace(program, outputs=(kept.tensor.name,)))
    return replace(kept, made_by=needed.equations, axes_used=needed.axes)


def saving(program: Program, kept: Iterable[Kept]) -> Program:
    """The forward pass that also returns what is kept."""
    kept = tuple(kept)
    known = set(program.tensors())
    missing = [item for item in kept if item.tensor.name not in known]
    equations = list({e.name: e for item in missing for e in item.made_by if e.name not in known}.values())
    for item in kept:
        if not item.depth:
            indices: tuple[Expr, ...] = tuple(Index(axis) for axis in item.tensor.axes)
        else:
            first = Op("mul", (Index(f"{item.time}.chunk"), _int(CHUNK)))
            back = Index(f"{item.name}.past") if item.depth > 1 else None
            place = Op("sub", (first, _int(item.depth)))
            index = Op("add", (place, back)) if back else place
            indices = tuple(index if axis == item.time else Index(axis) for axis in item.tensor.axes)
        equations.append(Equation(item.name, item.axes, item.tensor.dtype, Read(item.tensor.name, indices)))
    return replace(
        program,
        axes=_with_axes(program, kept, [axis for item in missing for axis in item.axes_used]),
        equations=program.equations + tuple(equations),
        outputs=program.outputs + tuple(item.name for item in kept),
    )


def rebuilding(program: Program, kept: Iterable[Kept]) -> Program:
    """The backward pass with what is kept as further inputs."""
    kept = tuple(kept)
    by_name = {item.tensor.name: item for item in kept}
    members = {name: set(loop.equations()) for loop in dependence(program).recurrences for name in loop.equations()}
    equations = []
    for equation in program.equations:
        whole = by_name.get(equation.name)
        if whole is not None and not whole.depth:
            expr: Expr = Read(whole.name, tuple(Index(axis) for axis in equation.axes))
        else:
            inside = members.get(equation.name, set())
            expr = rewrite(equation.expr, lambda e, inside=inside: _entered(e, by_name, inside))  # type: ignore[misc]
        equations.append(replace(equation, expr=expr))
    return replace(
        program,
        axes=_with_axes(program, kept),
        inputs=program.inputs + tuple(Tensor(item.name, item.axes, item.tensor.dtype) for item in kept),
        equations=tuple(equations),
    )


def saved_depth(program: Program, name: str) -> int:
    """How many values before each chunk ``program`` is given of a tensor that is rebuilt."""
    past = f"{name}{SAVED}.past"
    return next((int(a.extent.value.real) for a in program.axes if a.name == past and isinstance(a.extent, Const)), 1)


def entry_of(expr: Expr) -> tuple[Read, Read] | None:
    """The lagged read and the saved one of ``where(t % K >= k, h[t-k], h.saved[…])``."""
    match expr:
        case Where(
            condition=Op(op="ge", args=(Op(op="mod", args=(Index(), Const(value=chunk))), Const())),
            then=Read() as past,
            otherwise=Read() as saved,
        ) if chunk == CHUNK and saved.tensor == f"{past.tensor}{SAVED}":
            return past, saved
    return None


def snapshot_of(program: Program, equation: Equation) -> tuple[Read, str, Expr] | None:
    """The read, the chunk axis and the lag of ``h.saved[t.chunk] = h[t = t.chunk * K - lag]``."""
    match equation.expr:
        case Read(tensor=name, indices=indices) if equation.name == f"{name}{SAVED}":
            axes = program.tensors()[name].axes
            for axis, index in zip(axes, indices, strict=True):
                lag = _snapshot_lag(index, f"{axis}.chunk")
                if lag is not None:
                    return equation.expr, f"{axis}.chunk", lag
    return None


def _snapshot_lag(index: Expr, chunk: str) -> Expr | None:
    match index:
        case Op(op="add", args=(Op() as first, Index() as past)):
            lag = _snapshot_lag(first, chunk)
            return None if lag is None else Op("sub", (lag, past))
        case Op(op="sub", args=(Op(op="mul", args=(Index(axis=axis), Const(value=k))), lag)) if axis == chunk:
            return lag if k == CHUNK else None
    return None


def _int(value: int) -> Const:
    return Const(value, INT)


def _channels(program: Program) -> str | None:
    """The last axis, time aside, of the last input along a sequence: of a gradient, that of an adjoint."""
    for tensor in reversed(program.inputs):
        axes = [axis for axis in tensor.axes if axis not in program.sequence_axes]
        if axes and len(axes) < len(tensor.axes):
            return axes[-1]
    return None


def _depths(program: Program, names: set[str], time: str) -> dict[str, int] | None:
    """How far back each member of a recurrence is read by the others; None when that is not constant. Where further
    equations read it further back, and that is constant too, so far."""
    accesses = Accesses(program)
    found: dict[str, int] = {}
    further: dict[str, int] = {}
    for equation in program.equations:
        inside = equation.name in names
        for access in accesses.of(equation):
            if access.tensor not in names:
                continue
            lag = _constant_lag(accesses, access, time)
            if lag is None and inside:
                return None
            if inside and lag:
                found[access.tensor] = max(found.get(access.tensor, 0), lag)
            elif lag and 0 < lag <= CHUNK:
                further[access.tensor] = max(further.get(access.tensor, 0), lag)
    found = {name: max(depth, further.get(name, 0)) for name, depth in found.items()}
    return {name: found[name] for name in sorted(found)}


def _constant_lag(accesses: Accesses, access: Access, time: str) -> int | None:
    lag = accesses.lag(access, time)
    return lag.constant if lag is not None and lag.known else None


def _is_discrete(program: Program, equation: Equation) -> bool:
    """Whether an equation makes whole numbers of reals."""
    if equation.dtype not in (INT, BOOL):
        return False
    tensors = program.tensors()
    reads = [node for node in walk(equation.expr) if isinstance(node, Read)]
    return any(tensors[read.tensor].dtype not in (INT, BOOL) for read in reads)


def _entered(expr: Expr, kept: dict[str, Kept], inside: set[str]) -> Expr | None:
    """A lagged read inside a recurrence, from what is kept in the first steps of a chunk."""
    if not isinstance(expr, Read) or expr.tensor not in kept or expr.tensor not in inside:
        return None
    item = kept[expr.tensor]
    if not item.depth:
        return None
    indices = dict(zip(item.tensor.axes, expr.indices, strict=True))
    lag = _lag_of(indices.pop(item.time), item.time)
    if not lag:
        return None
    within = Op("mod", (Index(item.time), _int(CHUNK)))
    place = Op("add", (within, _int(item.depth - lag)))
    saved = item.read(indices, Op("floordiv", (Index(item.time), _int(CHUNK))), place)
    return Where(Op("ge", (within, _int(lag))), expr, saved)


def _lag_of(index: Expr, time: str) -> int:
    """k of t − k."""
    match index:
        case Op(op="sub", args=(Index(axis=axis), Const(value=k))) if axis == time:
            return int(k.real)
        case Op(op="add", args=(Index(axis=axis), Const(value=k))) if axis == time:
            return -int(k.real)
    return 0


def _with_axes(program: Program, kept: Iterable[Kept], further: Iterable[Axis] = ()) -> tuple[Axis, ...]:
    known = {axis.name for axis in program.axes}
    wanted = [*further, *(axis for item in kept for axis in item.extents())]
    new = {axis.name: axis for axis in wanted if axis.name not in known}
    return program.axes + tuple(new.values())
