"""Derivatives by differences, in float64: what a gradient must agree with.

    (f(x + h v) - f(x - h v)) / 2 h   at three steps h, extrapolated to h = 0

The last extrapolation tells how far the one before was off, and that is the tolerance. Choices are held (``Tape``),
so that corners do not disturb, and what has a ``backward:`` of its own moves as that states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ssmc import passes
from ssmc.errors import Unsupported
from ssmc.ir import Apply, CustomGradient, Equation, Opaque, Program, Read, Tensor, dependence, walk

from .evaluate import Array, Arrays, Functions, Tape, run

STEPS = (2.0**-7, 2.0**-13)
UNIT = 2.0**-53
# Of the size of a derivative: where less is in doubt, no other step is tried.
GOOD = 1e-8


@dataclass(frozen=True)
class Tangent:
    """How the outputs move along a direction, and by how much that may be wrong."""

    moves: Arrays
    errors: Arrays

    @property
    def doubt(self) -> float:
        """How wrong it may be in all."""
        return sum(float(np.nan_to_num(e, nan=np.inf).sum()) for e in self.errors.values())

    @property
    def size(self) -> float:
        return sum(float(np.abs(m).sum()) for m in self.moves.values())


class Curve:
    """A function of arrays near some of them, given by a Program and held choices."""

    def __init__(self, program: Program, inputs: Mapping[str, Array], functions: Functions | None = None) -> None:
        self.program, self.functions = stated(program, inputs, functions or {})
        self.inputs = dict(inputs)
        self.tape = Tape()
        self.values = self.tape.record(self.program, self.inputs, self.functions)

    def at(self, step: float, direction: Mapping[str, Array]) -> Arrays:
        moved = {name: self.inputs[name] + step * along for name, along in direction.items()}
        return self.tape.replay(self.program, {**self.inputs, **moved}, self.functions)

    def tangent(self, direction: Mapping[str, Array]) -> Tangent:
        """The derivative of the outputs along ``direction``; at a smaller step where the first says little."""
        largest = max((float(np.abs(self.inputs[name]).max(initial=0)) for name in direction), default=0.0)
        found = tangent(self.at, direction, STEPS[0], largest)
        if found.doubt <= GOOD * found.size:
            return found
        other = tangent(self.at, direction, STEPS[1], largest)
        return min(found, other, key=lambda t: t.doubt)


def tangent(
    at: Callable[[float, Mapping[str, Array]], Arrays], direction: Mapping[str, Array], step: float, largest: float
) -> Tangent:
    """The derivative at 0 of ``at(step, direction)``, by differences at ``step``, a half and a quarter of it.

    What moves is rounded, and so is what comes out: inputs are up to ``largest``, and outputs move by their slopes.
    """
    sides = [(at(step / k, direction), at(-step / k, direction)) for k in (1, 2, 4)]
    moves, errors = {}, {}
    for name, right in sides[0][0].items():
        if right.dtype.kind not in "fc":
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            slopes = [(a[name] - b[name]) / (2 * step / k) for k, (a, b) in zip((1, 2, 4), sides, strict=True)]
            once = [(4 * slopes[i + 1] - slopes[i]) / 3 for i in range(2)]
            moves[name] = (16 * once[1] - once[0]) / 15
            rounded = np.abs(right) + largest * np.abs(moves[name])
            errors[name] = np.abs(moves[name] - once[1]) + 16 * UNIT * rounded / (step / 4)
    return Tangent(moves, errors)


# ---------------------------------------------------------------- gradient blocks


def stated(program: Program, inputs: Mapping[str, Array], functions: Functions) -> tuple[Program, Functions]:
    """``program`` with everything that has a ``backward:`` block replaced by a map that is the block's transpose.

    Near ``inputs`` it has the same value, and its true derivative is what the block states.
    """
    meanings: dict[str, Callable[..., Any]] = dict(functions)
    if not program.customs:
        return program, meanings
    in_circles = {name for loop in dependence(program).recurrences for name in loop.equations()}
    values = run(program, inputs, functions, keep="all")
    made: dict[str, Equation] = {}
    opaques: list[Opaque] = []
    for block in program.customs:
        if in_circles & set(block.outputs):
            raise Unsupported(f"the gradient block of {block.outputs[0]!r} stands in a recurrence")
        for name in block.outputs:
            equation = program.equation(name)
            function = f"stated.{name}"
            meanings[function] = _affine(program, block, name, values)
            parameters = tuple(replace(program.tensors()[n], name=f"p.{n}") for n in block.inputs)
            opaques.append(Opaque(function, parameters, replace(equation.tensor, name="r")))
            made[name] = replace(equation, expr=Apply(function, block.inputs))
    equations = tuple(made.get(e.name, e) for e in program.equations)
    result = replace(program, equations=equations, opaques=(*program.opaques, *opaques), customs=())
    return result, meanings


def _affine(program: Program, block: CustomGradient, output: str, values: Mapping[str, Array]) -> Callable[..., Array]:
    """``value + transpose of the block (inputs - their values)`` for one output of a block."""
    columns = list(_columns(program, block, output, values))

    def meaning(*now: Array) -> Array:
        moves = {name: array - values[name] for name, array in zip(block.inputs, now, strict=True)}
        result = np.array(values[output])
        for place, direction, adjoints in columns:
            along = sum(float(np.real(np.vdot(adjoints[f"d.{name}"], move))) for name, move in moves.items())
            result[place] += along * direction
        return result

    return meaning


def _columns(program: Program, block: CustomGradient, output: str, values: Mapping[str, Array]) -> Any:
    """What the block gives for each unit adjoint of one output, the other outputs having none."""
    own = {equation.name for equation in block.equations}
    seeds = {f"d.{name}": program.tensors()[name] for name in block.outputs}
    read = {n.tensor for e in block.equations for n in walk(e.expr) if isinstance(n, Read)}
    known = [t for t in program.tensors().values() if t.name in read - own and t.name not in seeds]
    adjoints = [Tensor(name, t.axes, t.dtype) for name, t in seeds.items()]
    alone = passes.tidied(
        replace(
            program,
            inputs=(*known, *adjoints),
            outputs=tuple(f"d.{name}" for name in block.inputs),
            equations=block.equations,
            extensions=tuple(x for x in program.extensions if x.tensor in {t.name for t in known}),
            customs=(),
            requirements=(),
        )
    )
    given = {t.name: values[t.name] for t in known} | {n: np.zeros_like(values[t.name]) for n, t in seeds.items()}
    target = given[f"d.{output}"] = np.zeros_like(values[output])
    for place in np.ndindex(target.shape):
        for direction in (1.0, 1j) if target.dtype.kind == "c" else (1.0,):
            target[place] = direction
            yield place, direction, run(alone, given)
            target[place] = 0


def inner(a: Mapping[str, Array], b: Mapping[str, Array]) -> float:
    """The real inner product, with PyTorch's convention for complex numbers."""
    return float(sum(np.real(np.vdot(a[name], b[name])) for name in a))


def directions(draw: np.random.Generator, arrays: Mapping[str, Array], names: Sequence[str]) -> Arrays:
    """A random direction for each of the arrays."""
    found: Arrays = {}
    for name in names:
        value = arrays[name]
        move = draw.uniform(-1, 1, value.shape)
        found[name] = np.asarray(move + 1j * draw.uniform(-1, 1, value.shape) if value.dtype.kind == "c" else move)
    return found
