"""What a layer carries from one call to the next, along one sequence axis.

Of every tensor read at a lag, its last values; of every position used in a value, a counter; of
every unbounded read, a history that grows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ssmc.ir import Equation, Expr, Index, Program, Read, Size, children

from .lookback import look_back


@dataclass(frozen=True)
class StateTensor:
    """The last ``depth`` values of ``name`` along ``axis``; with ``depth`` None, all of them."""

    name: str
    axis: str
    axes: tuple[str, ...]
    depth: Expr | None

    @property
    def growing(self) -> bool:
        return self.depth is None


@dataclass(frozen=True)
class Counter:
    """How many indices of ``axis`` came before."""

    axis: str


def carried_state(program: Program) -> tuple[StateTensor | Counter, ...]:
    """The state of ``program``: tensors in the order of the Program, then counters."""
    tensors = program.tensors()
    found: list[StateTensor | Counter] = []
    for (name, axis), look in look_back(program).items():
        ahead = all(lag is not None and lag.is_future() for _, lag in look.reads)
        if not ahead:
            found.append(StateTensor(name, axis, tensors[name].axes, look.depth))
    found += [Counter(axis) for axis in program.sequence_axes if any(position_uses(program, axis))]
    return tuple(found)


def position_uses(program: Program, axis: str) -> Iterator[Equation]:
    """Equations with a value that depends on the position along ``axis``, not only on what is there.

    In ``x[t-1]`` the position does not enter the value: it says which element of axis t is read.
    """
    tensors = program.tensors()

    def used(expr: Expr, selects: bool = False) -> bool:
        if isinstance(expr, Index):
            return expr.axis == axis and not selects
        if isinstance(expr, Read):
            pairs = zip(tensors[expr.tensor].axes, expr.indices, strict=True)
            return any(used(index, own == axis) for own, index in pairs)
        return any(used(item, selects) for item in children(expr))

    return (equation for equation in program.equations if used(equation.expr))


def size_uses(program: Program, axis: str) -> Iterator[Equation]:
    """Equations with a value that depends on the extent of ``axis``."""

    def used(expr: Expr) -> bool:
        return expr == Size(axis) or any(map(used, children(expr)))

    return (equation for equation in program.equations if used(equation.expr))
