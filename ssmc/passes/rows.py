"""Program → Program: each batch entry of a stepped layer has come to a position of its own.

    turned[t] = cos(t + t.offset)        =    turned[b, t] = cos(t + t.offset[b])

A call on padded sequences returns one `t.offset` for each batch entry (see `mask`); this is the layer that goes on
from there without padding. What depends on the offset varies along the batch axes and gets those it lacks in front.

Precondition: nothing that depends on the offset mixes batch entries, else Unsupported, naming the equation. A Program
without `t.offset` is returned as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ssmc.errors import Unsupported
from ssmc.ir import Equation, Expr, Index, Program, Read, Reduce, Transform, children, with_children

from .local import sequence_of
from .ragged import leading_axes
from .tidy import reads_of


def rows(program: Program, batch: Sequence[str] | None = None) -> Program:
    """``program``, made by `step`, with `t.offset` (and `t.next_offset`) along the ``batch`` axes; by default those
    with which all inputs along the sequence begin."""
    if batch is None:
        batch = leading_axes(program, sequence_of(program, "batched"))
    offsets = {f"{time}.offset" for time in program.sequence_axes} & {tensor.name for tensor in program.inputs}
    lifted = _Lifted(program, tuple(batch), _dependent(program, offsets))
    lifted.check()
    return replace(
        program,
        inputs=tuple(replace(tensor, axes=lifted.axes(tensor.name, tensor.axes)) for tensor in program.inputs),
        equations=tuple(lifted.equation(equation) for equation in program.equations),
        extensions=tuple(replace(x, expr=lifted.expr(x.expr, x.tensor)) for x in program.extensions),
    )


def _dependent(program: Program, offsets: set[str]) -> frozenset[str]:
    """The tensors that vary with the offset, and the states that hold such."""
    found = set(offsets)
    carried = {tensor.name for tensor in program.inputs if tensor.name.endswith(".state")}
    while True:
        more = {e.name for e in program.equations if found & set(reads_of(e.expr))}
        more |= {x.tensor for x in program.extensions if found & set(reads_of(x.expr))}
        more |= carried & {f"{name.removesuffix('.next')}.state" for name in more if name.endswith(".next")}
        if more <= found:
            return frozenset(found)
        found |= more


@dataclass(frozen=True)
class _Lifted:
    """The rewrite of one Program, knowing the ``names`` that vary along the batch axes."""

    program: Program
    batch: tuple[str, ...]
    names: frozenset[str]

    def check(self) -> None:
        """Raise Unsupported for an input of the layer that would have to vary along the batch."""
        for tensor in self.program.inputs:
            carried = tensor.name.endswith((".state", ".offset"))
            if tensor.name in self.names and not carried and self._lacking(tensor.axes):
                raise Unsupported(f"{tensor.name!r} has no axis {self._lacking(tensor.axes)[0]!r}, along which what "
                                  "was before it differs", span=tensor.span)  # fmt: skip

    def axes(self, name: str, axes: tuple[str, ...]) -> tuple[str, ...]:
        return (*self._lacking(axes), *axes) if name in self.names else axes

    def _lacking(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(axis for axis in self.batch if axis not in axes)

    def equation(self, equation: Equation) -> Equation:
        axes = self.axes(equation.name, equation.axes)
        return replace(equation, axes=axes, expr=self.expr(equation.expr, equation.name))

    def expr(self, expr: Expr, reader: str, bound: frozenset[str] = frozenset()) -> Expr:
        if isinstance(expr, Reduce | Transform):
            bound |= {expr.axis} if isinstance(expr, Transform) else set(expr.axes)
        expr = with_children(expr, tuple(self.expr(item, reader, bound) for item in children(expr)))
        if not isinstance(expr, Read) or expr.tensor not in self.names:
            return expr
        axes = self.program.tensors()[expr.tensor].axes
        for axis, index in zip(axes, expr.indices, strict=True):
            if axis in self.batch and index != Index(axis):
                raise self._mixes(reader, axis, expr)
        if mixed := bound & set(self.batch):
            raise self._mixes(reader, min(mixed), expr)
        return replace(expr, indices=(*map(Index, self._lacking(axes)), *expr.indices))

    def _mixes(self, reader: str, axis: str, read: Read) -> Unsupported:
        return Unsupported(
            f"{reader!r} mixes what lies along {axis!r}, where positions differ",
            span=read.span or self.program.tensors()[reader].span,
        )
