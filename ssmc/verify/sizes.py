"""Extents for the axes of a Program: small, different from each other, and as the Program requires.

    require #d % #g == 0;   axis p < #a - 1      wanted d = 6, g = 4, a = 1   →   d = 8, g = 4, a = 2

What is required is met by changing one axis after another, each as little as possible.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from ssmc.analysis import look_back
from ssmc.errors import UserError
from ssmc.ir import Axis, Expr, Op, Program, Size, Transform, complete_extents, evaluate_int, sizes_used, walk

from .evaluate import Itself

Sizes = dict[str, int]

# For axes in the order in which the inputs name them; the first is usually the batch.
SMALL = (2, 6, 5, 3, 4, 4, 3, 2)
LARGEST = 4096
NEAREST_TRIED = 6


@dataclass(frozen=True)
class _Fact:
    """Something that extents must meet: the free axes that it is about, and whether it holds."""

    axes: frozenset[str]
    holds: Callable[[Mapping[str, int]], bool]


def free_axes(program: Program) -> tuple[str, ...]:
    """The axes whose extents inputs bind, in the order in which inputs name them."""
    free = {axis.name for axis in program.axes if axis.extent is None}
    return tuple(dict.fromkeys(a for tensor in program.inputs for a in tensor.axes if a in free))


def small(program: Program) -> Sizes:
    """A wanted extent for every free axis that is no sequence axis."""
    others = [axis for axis in free_axes(program) if axis not in program.sequence_axes]
    return {axis: SMALL[n % len(SMALL)] for n, axis in enumerate(others)}


def solve(program: Program, wanted: Mapping[str, int], held: frozenset[str] = frozenset()) -> Sizes | None:
    """Extents of all axes, near those wanted, that meet every requirement; axes in ``held`` stay as they are.

    None if none are found. Stated extents come out above 0 if they can.
    """
    start = {axis: wanted.get(axis, 3) for axis in free_axes(program)}
    for least in (1, 0):
        known = _repaired(start, _facts(program, least), held)
        if known is not None:
            try:
                return complete_extents(program, known)
            except UserError:
                continue
    return None


def _repaired(known: Sizes, facts: list[_Fact], held: frozenset[str]) -> Sizes | None:
    broken = next((fact for fact in facts if not fact.holds(known)), None)
    if broken is None:
        return known
    for axis in sorted(broken.axes - held, key=list(known).index, reverse=True):
        tried = 0
        for value in _near(known[axis]):
            other = {**known, axis: value}
            if not broken.holds(other):
                continue
            found = _repaired(other, facts, held | {axis})
            if found is not None:
                return found
            tried += 1
            if tried == NEAREST_TRIED:
                break
    return None


def _near(value: int) -> Iterator[int]:
    """Extents from 1, the nearest first."""
    for distance in range(1, LARGEST):
        yield value + distance
        if value - distance >= 1:
            yield value - distance


def _facts(program: Program, least: int) -> list[_Fact]:
    """Requirements, the stated extents, and what whole-axis operations need."""
    found = [
        _Fact(_roots(program, axis.name), _extent_check(program, axis, least))
        for axis in program.axes
        if axis.extent is not None
    ]
    for condition in (each for r in program.requirements for each in _conjuncts(r.condition)):
        axes = frozenset().union(*(_roots(program, a) for a in sizes_used(condition)))
        found.append(_Fact(axes, _condition_check(program, condition)))
    nodes = (node for equation in program.equations for node in walk(equation.expr))
    for axis in {n.axis for n in nodes if isinstance(n, Transform) and n.kind == "hadamard"}:
        found.append(_Fact(_roots(program, axis), _power_check(program, axis)))
    return found


def _conjuncts(condition: Expr) -> Iterator[Expr]:
    """Conditions that hold together: one extent at a time can be changed so that one of them does."""
    match condition:
        case Op(op="and", args=args):
            for each in args:
                yield from _conjuncts(each)
        case _:
            yield condition


def _extent_check(program: Program, axis: Axis, least: int) -> Callable[[Mapping[str, int]], bool]:
    return lambda known: _extent(program, axis.name, known) >= least


def _condition_check(program: Program, condition: Expr) -> Callable[[Mapping[str, int]], bool]:
    names = sizes_used(condition)
    return lambda known: bool(evaluate_int(condition, {name: _extent(program, name, known) for name in names}))


def _power_check(program: Program, axis: str) -> Callable[[Mapping[str, int]], bool]:
    def holds(known: Mapping[str, int]) -> bool:
        extent = _extent(program, axis, known)
        return extent > 0 and extent & (extent - 1) == 0

    return holds


def _extent(program: Program, name: str, known: Mapping[str, int]) -> int:
    """The extent of an axis, stated or known."""
    expr = program.axis(name).extent
    if expr is None:
        return known.get(name, 0)
    return evaluate_int(expr, {n: _extent(program, n, known) for n in sizes_used(expr)})


def _roots(program: Program, name: str) -> frozenset[str]:
    """The free axes that the extent of an axis follows from."""
    expr = program.axis(name).extent
    if expr is None:
        return frozenset((name,))
    below = [_roots(program, node.axis) for node in walk(expr) if isinstance(node, Size)]
    return frozenset().union(*below)


def points(axes: Iterable[str], sizes: Mapping[str, int]) -> int:
    """How many elements a tensor with these axes has."""
    return math.prod(sizes[axis] for axis in axes)


# ---------------------------------------------------------------- lengths


def look_back_of(program: Program, sizes: Mapping[str, int]) -> int:
    """How many time steps the layer looks at, the present one included; histories without bound left out."""
    return 1 + max((evaluate_int(depth, sizes) for depth in _depths(Itself(program))), default=0)


@lru_cache(maxsize=128)
def _depths(of: Itself) -> tuple[Expr, ...]:
    return tuple(look.depth for look in look_back(of.program).values() if look.reads and look.depth)


def lengths(program: Program, sizes: Mapping[str, int], further: tuple[int, ...], most: int) -> list[int]:
    """Awkward lengths: 1, those around the look-back, and ``further``; none above ``most``."""
    window = look_back_of(program, sizes)
    return sorted({n for n in (1, window - 1, window, window + 1, *further) if 0 < n <= most})
