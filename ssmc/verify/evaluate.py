"""The interpreter with every operation disturbed a little, or with every choice held.

``disturbed`` is the yardstick of roundoff: an implementation that rounds each operation once errs about as much
as an evaluation in which each operation is off by a unit roundoff. ``Tape`` holds what must not move when a
derivative is measured: comparisons, the sides of a maximum, what an index is; and it gives functions with a
``backward:`` of their own the slope that they state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np

from ssmc.ir import Const, Expr, Function, Program, Step, dependence
from ssmc.ir.interpret import Evaluation, Points, interpret

Array: TypeAlias = np.ndarray[Any, Any]
Arrays: TypeAlias = dict[str, Array]
Functions: TypeAlias = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True, eq=False)
class Itself:
    """A Program as a key: only itself is equal to it."""

    program: Program

    def __hash__(self) -> int:
        return id(self.program)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Itself) and other.program is self.program


@lru_cache(maxsize=128)
def _order(of: Itself) -> tuple[Step, ...]:
    return dependence(of.program).order


def run(
    program: Program,
    inputs: Mapping[str, Any],
    functions: Functions | None = None,
    keep: Literal["outputs", "all"] = "outputs",
    evaluation: Callable[..., Evaluation] | None = None,
) -> Arrays:
    """As ``interpret``, which finds the order of evaluation anew each time; here a Program is run often."""
    return interpret(program, inputs, functions, keep, evaluation, _order(Itself(program)))


# What is decided from reals: its value jumps, so that rounding may change it altogether.
CHOICES = frozenset({"lt", "le", "gt", "ge", "eq", "ne", "floor", "ceil", "round", "int", "sign"})
# What comes out as exact as what went in.
EXACT = frozenset({"neg", "abs", "minimum", "maximum", "re", "im", "conj", "complex", "real", "relu", "int", "floor",
                   "ceil", "round", "sign"})  # fmt: skip


class _Watched(Evaluation):
    """An evaluation that is handed a watcher and hands it everything decided from reals."""

    def decided(self, args: tuple[Array, ...], found: Array) -> Array:
        """``found`` was decided from ``args``; what counts as its value."""
        return found

    def operation(self, op: str, args: tuple[Array, ...]) -> Array:
        found = super().operation(op, args)
        return self.decided(args, found) if op in CHOICES and any(a.dtype.kind in "fc" for a in args) else found

    def reduction(self, kind: str, body: Array, condition: Array | None, dims: tuple[int, ...]) -> Array:
        found = super().reduction(kind, body, condition, dims)
        return self.decided((body,), found) if kind in ("argmax", "argmin") and body.dtype.kind == "f" else found

    def transform(self, kind: str, body: Array, dim: int) -> Array:
        found = super().transform(kind, body, dim)
        return self.decided((body,), found) if kind == "argsort" and body.dtype.kind == "f" else found


# ---------------------------------------------------------------- roundoff


_HALF_STEP = 2.0**-24  # by so much of its value a literal is off in single precision


def _is_rounded(literal: Array) -> bool:
    return bool((literal.astype(np.complex64) != literal).any())


class _Disturbed(_Watched):
    """Each operation is off by ``scale`` of its value, up or down at random, each sum by that of all it adds, and
    literals that single precision has not by half a step of it, unless ``scale`` is finer; magnitudes above ``limit``
    are infinite."""

    def __init__(
        self, scale: float, limit: float, draw: np.random.Generator, choices: list[Array], *about: Any
    ) -> None:
        super().__init__(*about)
        self.scale, self.limit, self.draw, self.choices = scale, limit, draw, choices

    def decided(self, args: tuple[Array, ...], found: Array) -> Array:
        self.choices.append(found)
        return found

    def value(self, expr: Expr, at: Points) -> Array:
        found = super().value(expr, at)
        if isinstance(expr, Const) and self.scale > _HALF_STEP and found.dtype.kind in "fc" and _is_rounded(found):
            return found * (1 + self.draw.choice([-_HALF_STEP, _HALF_STEP]))
        return found

    def operation(self, op: str, args: tuple[Array, ...]) -> Array:
        found = super().operation(op, args)
        return found if op in EXACT else self._off(found)

    def reduction(self, kind: str, body: Array, condition: Array | None, dims: tuple[int, ...]) -> Array:
        found = super().reduction(kind, body, condition, dims)
        if kind in ("max", "min") or not self.scale or found.dtype.kind not in "fc":
            return found
        if kind in ("sum", "mean"):
            added = Evaluation.reduction(self, kind, np.abs(body), condition, dims)
            return found + self._noise(found) * added
        return self._off(found)

    def transform(self, kind: str, body: Array, dim: int) -> Array:
        return self._off(super().transform(kind, body, dim))

    def _off(self, found: Array) -> Array:
        if not self.scale or found.dtype.kind not in "fc":
            return found
        found = found + found * self._noise(found)
        beyond = np.abs(found) > self.limit
        return np.where(beyond, np.copysign(np.inf, found.real), found) if beyond.any() else found

    def _noise(self, found: Array) -> Array:
        return self._signs(found) + 1j * self._signs(found) if found.dtype.kind == "c" else self._signs(found)

    def _signs(self, found: Array) -> Array:
        """Up or down by all of ``scale``: an operation that matters most is never drawn nearly right."""
        return np.where(self.draw.integers(0, 2, found.shape) == 0, -self.scale, self.scale)


def disturbed(
    program: Program,
    inputs: Mapping[str, Any],
    scale: float,
    seed: int = 0,
    functions: Functions | None = None,
    limit: float = np.inf,
) -> tuple[Arrays, list[Array]]:
    """Every tensor of ``program`` with each operation off by ``scale`` of its value (0: as it is), and
    everything that was decided from reals on the way, in the order of evaluation. What exceeds ``limit`` is
    infinite, as in a narrower type."""
    choices: list[Array] = []
    draw = np.random.default_rng(seed)
    values = run(
        program, inputs, functions, "all", evaluation=lambda *about: _Disturbed(scale, limit, draw, choices, *about)
    )
    return values, choices


# ---------------------------------------------------------------- derivatives


@dataclass
class Tape:
    """What one evaluation decided, to be decided alike in others; see the module's head.

    The same Program at the same extents is evaluated in the same order, so one list serves.
    """

    recorded: list[Any] = field(default_factory=list)

    def record(self, program: Program, inputs: Mapping[str, Any], functions: Functions | None = None) -> Arrays:
        """The outputs of ``program``; from now on every choice is the one made here."""
        self.recorded.clear()
        return run(program, inputs, functions, evaluation=lambda *about: _Recording(self.recorded, *about))

    def replay(self, program: Program, inputs: Mapping[str, Any], functions: Functions | None = None) -> Arrays:
        """The outputs of the same Program at the same extents, near the inputs that were recorded."""
        return run(program, inputs, functions, evaluation=lambda *about: _Replaying(self.recorded, *about))


class _Recording(_Watched):
    def __init__(self, tape: list[Any], *about: Any) -> None:
        super().__init__(*about)
        self.tape = tape

    def decided(self, args: tuple[Array, ...], found: Array) -> Array:
        self.tape.append(found)
        return found

    def operation(self, op: str, args: tuple[Array, ...]) -> Array:
        self._sides(op, args)
        return super().operation(op, args)

    def _sides(self, op: str, args: tuple[Array, ...]) -> None:
        """Which side of its corner a function with a corner is on; ties go to the first."""
        if not _has_corner(op, args):
            return
        if op in ("maximum", "minimum"):
            self.tape.append(args[0] >= args[1] if op == "maximum" else args[0] <= args[1])
        else:
            self.tape.append(np.sign(args[0]))

    def reduction(self, kind: str, body: Array, condition: Array | None, dims: tuple[int, ...]) -> Array:
        found = super().reduction(kind, body, condition, dims)
        if kind in ("max", "min"):
            self.tape.append(_first_hit(body, found, condition, dims))
        return found

    def call(self, name: str, args: list[Array], at: Points) -> Array:
        found = super().call(name, args, at)
        function = self.functions[name]
        if function.backward:
            mark = len(self.tape)
            slopes = _slopes(self, function, args, at)
            del self.tape[mark:]
            self.tape.append((args, found, slopes))
        return found


def _has_corner(op: str, args: tuple[Array, ...]) -> bool:
    """Whether an operation has a corner at which its derivative jumps, for arguments of these types."""
    kinds = {arg.dtype.kind for arg in args}
    return op in ("maximum", "minimum", "abs", "relu") and "f" in kinds and "c" not in kinds


def _first_hit(body: Array, found: Array, condition: Array | None, dims: tuple[int, ...]) -> Array:
    """True at the first point along ``dims`` that holds the extreme."""
    hit = body == found
    if condition is not None:
        hit = hit & condition
    moved = np.moveaxis(hit, dims, range(-len(dims), 0))
    flat = moved.reshape(*moved.shape[: moved.ndim - len(dims)], -1)
    first = flat & (np.cumsum(flat, axis=-1) == 1)
    return np.moveaxis(first.reshape(moved.shape), range(-len(dims), 0), dims)


def _slopes(evaluation: Evaluation, function: Function, args: list[Array], at: Points) -> list[Array]:
    """The derivative of an elementwise function for each parameter, as its ``backward:`` states it."""
    values = dict(zip(function.parameters, args, strict=True))
    for binding, expr in function.bindings:
        values[binding] = evaluation.value(expr, Points(at.shape, at.index, dict(values)))
    values[function.result_name] = evaluation.value(function.result, Points(at.shape, at.index, dict(values)))
    values[f"d.{function.result_name}"] = np.ones((1,) * len(at.shape))
    inside = Points(at.shape, at.index, values)
    return [evaluation.value(dict(function.backward)[name], inside) for name in function.parameters]


class _Replaying(_Watched):
    def __init__(self, tape: list[Any], *about: Any) -> None:
        super().__init__(*about)
        self.left = iter(tape)

    def decided(self, args: tuple[Array, ...], found: Array) -> Array:
        held: Array = next(self.left)
        return held

    def operation(self, op: str, args: tuple[Array, ...]) -> Array:
        if not _has_corner(op, args):
            return super().operation(op, args)
        side = next(self.left)
        if op in ("maximum", "minimum"):
            return np.where(side, *args)
        return args[0] * (side if op == "abs" else np.maximum(side, 0))

    def reduction(self, kind: str, body: Array, condition: Array | None, dims: tuple[int, ...]) -> Array:
        found = super().reduction(kind, body, condition, dims)
        if kind not in ("max", "min"):
            return found
        hit = next(self.left)
        chosen = np.where(hit, body, 0).sum(axis=dims, keepdims=True)
        return np.where(hit.any(axis=dims, keepdims=True), chosen, found)

    def call(self, name: str, args: list[Array], at: Points) -> Array:
        if not self.functions[name].backward:
            return super().call(name, args, at)
        super().call(name, args, at)  # for what is held inside it
        before, found, slopes = next(self.left)
        moves = (np.conj(s) * (now - then) for s, now, then in zip(slopes, args, before, strict=True))
        result: Array = found + sum(moves)
        return result
