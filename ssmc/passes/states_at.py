"""Program → Program: the state of a stepped layer after some of its indices, instead of after the last.

    h.next = h[t = #t-1]
  = h.at[t.stops] = where(t.at > 0, sum[t: t == t.at - 1](h), h.state)

The further input `t.at` says, for each of an axis `t.stops`, how many indices of the array have been gone through:
0 … #t. What is given is the state that a call on so many would give: `X.at` in place of `X.next`, `t.at_offset` in
place of `t.next_offset`, with the axis `t.stops` after the batch axes, else in front. After 0 it is the state that
came in, after #t that which would go out. After `mask`, indices count padding too; before it, only tokens.

Each prefix is a document that begins at 0, so that this is `pack` for the equations of the state: a value that the
layer computes is a sum that a loop over time can gather on its way, one of an input is read where it lies.

Precondition: the layer gives a state, and says it by #t: this goes before `reverse` and `pack`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ssmc.ir import INT, Axis, Equation, Expr, Index, Linear, Program, Tensor, sizes_used

from .local import Place, sequence_of
from .pack import Packing
from .ragged import Kind
from .tidy import tidied

_NAMES = {".next": ".at", ".next_offset": ".at_offset"}


def states_at(program: Program, batch: Sequence[str] = ()) -> Program:
    """``program``, made by `step` to give its state, with the states after `t.at` indices instead.

    Args:
        batch: the axes along which `t.at` varies beside `t.stops`: none when all rows share it.

    Raises Unsupported for a Program that gives no state at its end; UserError for a wrong ``batch``.
    """
    return _Prefixes(program, sequence_of(program, "states-at"), tuple(batch)).run()


def gives_state(program: Program) -> bool:
    """Whether ``program`` says what its state is at the end."""
    return any(map(_renamed, program.outputs))


def _renamed(name: str) -> str | None:
    """What the state after some indices is called that is ``name`` at the end."""
    for suffix, other in _NAMES.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix) + other
    return None


@dataclass
class _Prefixes(Packing):
    form = "states-at"
    axis = "stops"

    def run(self) -> Program:
        self.check_batch()
        at, stops = f"{self.time}.at", self.docs
        if taken := [name for name in (at, stops) if name in self.names.taken]:
            raise self.refused(f"{taken[0]!r} is there already")
        given = {name: made for name in self.program.outputs if (made := _renamed(name)) is not None}
        if not given:
            raise self.refused("it gives no state", hint="`step` with `gives` first")
        self.names.taken.update((at, stops, *given.values()))
        self.states = frozenset()
        self.kinds = {name: self._kind(name, given) for name in self.tensors}
        equations = [self._at(e, given[e.name]) if e.name in given else e for e in self.program.equations]
        result = replace(
            self.program,
            axes=(*self.program.axes, Axis(stops), *self.axes),
            inputs=(*self.program.inputs, Tensor(at, (*self.batch, stops), INT)),
            outputs=tuple(given.get(name, name) for name in self.program.outputs),
            equations=tuple(equations),
        )
        return tidied(result)

    def _kind(self, name: str, given: dict[str, str]) -> Kind:
        if name in given:
            return Kind.ROW
        return Kind.TOKEN if set(self.tensors[name].axes) & self.alike else Kind.FREE

    def _at(self, equation: Equation, name: str) -> Equation:
        if not sizes_used(equation.expr) & self.alike:
            self.current = equation
            raise self.refused(f"{self.here} is not said to be at the end of the sequence")
        expr = self.equation_expr(equation)
        return replace(equation, name=name, axes=self.row_axes(equation.axes), expr=expr)

    # ------------------------------------------------------------ where prefixes lie

    def first(self, place: Place) -> Linear:
        return Linear()

    def last(self, place: Place) -> Linear:
        return self.symbol(self.known(f"{self.time}.at", place, Index(self.docs))) - 1

    def same(self, one: Place, other: Place) -> Expr | None:
        return None
