"""Program → Program: the same layer on a piece of a sequence, with what came before as state.

    y = sum[j < 3](w * x[t-j])
  = y = sum[j < 3](w * x[t-j]);   x[t<0] = x.state[x.past = #x.past + t];   x.next = x[t = #t - #x.past + x.past]

For every tensor that is read at a lag of up to k, the last k values are carried: ``X.state`` continues
the sequence to the left, in place of what the layer says is there, and ``X.next`` is what the next piece
needs. A piece shorter than k reads part of ``X.next`` from the state, with no case distinction. Where
positions enter values, ``t.offset`` counts the indices before the piece.

Precondition: along its sequence axis the layer reads nothing ahead, nothing at an index that data
decides, no more than a bounded number of steps back, and its extent enters no value; else Unsupported,
naming the equation. Bands are rewritten to lags first (``banded``). Gradient blocks (``backward:``) do
not survive: they do not say what flows into the state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ssmc.analysis import LookBack, look_back, position_uses, size_uses
from ssmc.errors import Unsupported
from ssmc.ir import (
    INT,
    Access,
    Axis,
    Equation,
    Expr,
    Extension,
    Index,
    Lag,
    Op,
    Program,
    Read,
    Size,
    Tensor,
    children,
    dependence,
    sizes_used,
    with_children,
)
from ssmc.source import Span

from .banded import banded
from .local import sequence_of
from .tidy import axes_used, bound_in, tensors_read, tidied


def step(program: Program, takes: bool, gives: bool) -> Program:
    """``program`` for one piece of a sequence: with ``takes`` it continues a state given by further
    inputs ``X.state`` (and ``t.offset``), with ``gives`` it also returns it, as ``X.next`` (and
    ``t.next_offset``). Inputs that only said what is before the start are gone when it takes a state.

    Raises Unsupported for a layer that cannot run piece by piece.
    """
    time = sequence_of(program, "step")
    program = banded(replace(program, customs=()), time)
    looks = [look for (_, axis), look in look_back(program).items() if axis == time]
    _check_causal(program, time, looks)
    carried = [_Carried(program, time, look) for look in looks if look.reads]
    positions = any(True for _ in position_uses(program, time))
    if takes:
        program = _continued(program, time, carried, positions)
    if gives:
        program = _returning(program, time, carried, positions and takes, positions)
    return tidied(program)


# ---------------------------------------------------------------- what cannot be stepped


def _check_causal(program: Program, time: str, looks: list[LookBack]) -> None:
    for loop in dependence(program).recurrences:
        if loop.axis == time and loop.direction < 0:
            names = ", ".join(map(repr, loop.equations()))
            raise _refused(program.equation(loop.equations()[0]), f"{names} runs backwards along {time!r}")
    for look in looks:
        for access, lag in look.reads:
            _check_access(access, lag, time)
    for equation in size_uses(program, time):
        raise _refused(equation, f"{equation.name!r} uses #{time}, the length of the whole sequence")
    for equation in program.equations:
        if time in bound_in(equation.expr):
            raise _refused(equation, f"{equation.name!r} runs over all of {time!r}")
    for requirement in program.requirements:
        if time in sizes_used(requirement.condition):
            raise Unsupported(
                f"{program.name} requires a fact about #{time}, which a piece of the sequence need not meet",
                span=requirement.span,
            )
    used = axes_used(program)
    for axis in program.axes:
        if axis.extent is not None and time in sizes_used(axis.extent) and axis.name in used:
            found = (e for e in program.equations if axis.name in e.axes or axis.name in bound_in(e.expr))
            raise _refused(next(found), f"axis {axis.name!r} is as long as the whole sequence")


def _check_access(access: Access, lag: Lag | None, time: str) -> None:
    """Raise Unsupported for a read that a piece of the sequence cannot serve."""
    reads = f"{access.reader.name!r} reads {access.tensor!r}"
    span = access.read.span
    if lag is None:
        raise _refused(access.reader, f"{reads} along all of {time!r}", span)
    if not lag.known:
        raise _refused(access.reader, f"{reads} at an index of {time!r} that depends on data", span)
    if not lag.is_past():
        raise _refused(access.reader, f"{reads} later in {time!r}", span)
    if Size(time) in lag.high.terms:
        hint = "bound it, as in `t - s < 256`: a history that grows is not carried yet"
        raise _refused(access.reader, f"{reads} at every earlier index of {time!r}", span, hint)


def _refused(equation: Equation, why: str, span: Span | None = None, hint: str = "") -> Unsupported:
    return Unsupported(f"no step form: {why}", span=span or equation.span, hint=hint)


# ---------------------------------------------------------------- what is carried


@dataclass(frozen=True)
class _Carried:
    """The names and axes of what is carried of one tensor."""

    program: Program
    time: str
    look: LookBack

    @property
    def tensor(self) -> Tensor:
        return self.program.tensors()[self.look.tensor]

    @property
    def past(self) -> Axis:
        """The axis of what is carried, oldest first."""
        return Axis(f"{self.tensor.name}.past", self.look.depth)

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(self.past.name if axis == self.time else axis for axis in self.tensor.axes)

    @property
    def state(self) -> Tensor:
        return Tensor(f"{self.tensor.name}.state", self.axes, self.tensor.dtype)

    def extension(self) -> Extension:
        """``X[t<0] = X.state[X.past = #X.past + t]``."""
        place = Op("add", (Size(self.past.name), Index(self.time)))
        indices = tuple(place if axis == self.time else Index(axis) for axis in self.tensor.axes)
        return Extension(self.tensor.name, self.time, "before", Read(self.state.name, indices))

    def next(self) -> Equation:
        """``X.next = X[t = #t - #X.past + X.past]``."""
        start = Op("sub", (Size(self.time), Size(self.past.name)))
        place = Op("add", (start, Index(self.past.name)))
        indices = tuple(place if axis == self.time else Index(axis) for axis in self.tensor.axes)
        read = Read(self.tensor.name, indices)
        return Equation(f"{self.tensor.name}.next", self.axes, self.tensor.dtype, read)


def _continued(program: Program, time: str, carried: list[_Carried], positions: bool) -> Program:
    """The Program reading a state before the start."""
    inputs = [item.state for item in carried]
    equations = program.equations
    if positions:
        offset = Tensor(f"{time}.offset", (), INT)
        inputs.append(offset)
        moved = _Moved(program, time, offset.name)
        equations = tuple(replace(e, expr=moved.expr(e.expr)) for e in equations)
    result = replace(
        program,
        axes=program.axes + tuple(item.past for item in carried),
        inputs=program.inputs + tuple(inputs),
        equations=equations,
        extensions=tuple(item.extension() for item in carried),
    )
    return _without_unused_inputs(program, result)


@dataclass(frozen=True)
class _Moved:
    """Adds the offset to every position that enters a value. In ``x[t-1]`` none does."""

    program: Program
    time: str
    offset: str

    def expr(self, expr: Expr, selects: bool = False) -> Expr:
        if expr == Index(self.time) and not selects:
            return Op("add", (expr, Read(self.offset, ())))
        if isinstance(expr, Read):
            axes = self.program.tensors()[expr.tensor].axes
            pairs = zip(axes, expr.indices, strict=True)
            return replace(expr, indices=tuple(self.expr(index, axis == self.time) for axis, index in pairs))
        return with_children(expr, tuple(self.expr(item, selects) for item in children(expr)))


def _returning(program: Program, time: str, carried: list[_Carried], offset: bool, positions: bool) -> Program:
    """The Program with what the next piece needs as further outputs."""
    equations = [item.next() for item in carried]
    if positions:
        length: Expr = Size(time)
        count = Op("add", (Read(f"{time}.offset", ()), length)) if offset else length
        equations.append(Equation(f"{time}.next_offset", (), INT, count))
    known = {axis.name for axis in program.axes}
    return replace(
        program,
        axes=program.axes + tuple(item.past for item in carried if item.past.name not in known),
        equations=program.equations + tuple(equations),
        outputs=program.outputs + tuple(equation.name for equation in equations),
    )


# ---------------------------------------------------------------- tidying


def _without_unused_inputs(before: Program, after: Program) -> Program:
    """Inputs that were read before and no longer are (initial states) are dropped."""
    gone = tensors_read(before) - tensors_read(after)
    return replace(after, inputs=tuple(tensor for tensor in after.inputs if tensor.name not in gone))
