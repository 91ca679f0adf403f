"""The gradient, and the gradient of what is derived: beside differences of the values themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ssmc import passes
from ssmc.ir import Program

from .cases import Case, Variant, largest
from .differences import UNIT, Curve, directions, inner
from .evaluate import Array, Arrays, run
from .properties import Bench
from .rows import Finding, Property, Source, compare
from .sizes import free_axes, lengths
from .subjects import shown, time_axis

DIFFERENCES = Source(
    "differences", "central differences of the equations at three steps, extrapolated; what that leaves"
)
ROUNDINGS = 256
DIRECTIONS = 2
MANY = 64


def check_gradient(
    label: str, program: Program, derived: Program, inputs: Mapping[str, Array], seed: int = 0
) -> Iterator[Finding]:
    """``derived``, the gradient of ``program``, beside differences: one finding for each input."""
    draw = np.random.default_rng(seed)
    names = passes.adjoint_names(program)
    sought, sources = passes.differentiable(program)
    curve = Curve(program, inputs)
    adjoints = directions(draw, curve.values, sources)
    found = run(derived, {**inputs, **{names[n]: v for n, v in adjoints.items()}})
    if not sought:
        return
    for number in range(DIRECTIONS):
        together = _along(curve, adjoints, {n: found[names[n]] for n in sought}, directions(draw, inputs, sought))
        if together[0] <= together[1]:
            yield Finding(f"{label}, direction {number + 1}", "all inputs", *together)
            continue
        for name in sought:
            yield Finding(
                label,
                names[name],
                *_along(curve, adjoints, {name: found[names[name]]}, directions(draw, inputs, [name])),
            )


def _along(curve: Curve, adjoints: Arrays, gradients: Arrays, along: Arrays) -> tuple[float, float, str]:
    """Error, tolerance and place of a gradient along a direction."""
    moves = curve.tangent(along)
    there = {name: moves.moves[name] for name in adjoints}
    expected, mine = inner(adjoints, there), inner(gradients, along)
    doubt = sum(float((np.abs(adjoints[n]) * moves.errors[n]).sum()) for n in adjoints)
    terms = [gradients[n] * along[n] for n in gradients] + [adjoints[n] * there[n] for n in adjoints]
    rounding = ROUNDINGS * UNIT * sum(float(np.abs(term).sum()) for term in terms)
    where = f"along a random direction: {mine:.9g}, expected {expected:.9g}"
    error = abs(mine - expected)
    return np.inf if np.isnan(error) else error, doubt + rounding, where


def _short(bench: Bench, variant: Variant) -> Iterator[Case]:
    """Cases around the look-back: gradients are costly to measure. The last is larger where something is decided
    from reals, as a code is: one such decision in many has to show."""
    times = variant.program.sequence_axes
    found = lengths(variant.program, variant.sizes({}) or {}, (5,), 9) if times else [0, 0]
    decided = False
    for n, length in enumerate([found[0], found[-1]]):
        case = bench.case(variant, n, **dict.fromkeys(times, length))
        if case is not None:
            decided |= bool(case.choices)
            yield case
    if decided and (case := _larger(bench, variant)) is not None:
        yield case


def _larger(bench: Bench, variant: Variant) -> Case | None:
    """A case with many rows along the first axis, which usually is the batch."""
    times = variant.program.sequence_axes
    first = next((axis for axis in free_axes(variant.program) if axis not in times), None)
    if first is None:
        return None
    return bench.case(variant, 5, **{**dict.fromkeys(times, 9), first: MANY})


def _gradient(bench: Bench, variant: Variant) -> Iterator[Finding]:
    derived = bench.derive(("grad", id(variant)), lambda: passes.grad(variant.program))
    for case in _short(bench, variant):
        label = ", ".join(filter(None, (variant.label, case.label)))
        yield from check_gradient(label, variant.program, derived, case.inputs)


def _through_state(bench: Bench, variant: Variant) -> Iterator[Finding]:
    """From the state that comes in to the state that goes out, and everything between."""
    time = time_axis(variant.program)
    program = bench.subject.step(variant, True)
    derived = bench.derive(("grad of step", id(variant)), lambda: passes.grad(program))
    for case in _short(bench, variant):
        length = case.sizes[time]
        _, state = bench.subject.pieces(case, [])
        carried = {t.name: state[shown(t.name)] for t in program.inputs if t.name not in case.inputs}
        inputs = {t.name: {**case.inputs, **carried}[t.name] for t in program.inputs}
        yield from check_gradient(f"{length} steps after a state", program, derived, inputs)


def _second(bench: Bench, variant: Variant) -> Iterator[Finding]:
    program = bench.derive(("grad", id(variant)), lambda: passes.grad(variant.program))
    derived = bench.derive(("grad of grad", id(variant)), lambda: passes.grad(program))
    *_, case = _short(bench, variant)
    draw = np.random.default_rng(7)
    names = passes.adjoint_names(variant.program)
    _, sources = passes.differentiable(variant.program)
    adjoints = directions(draw, case.outputs, sources)
    inputs = {**case.inputs, **{names[n]: v for n, v in adjoints.items()}}
    yield from check_gradient(case.label, program, derived, inputs)


# ---------------------------------------------------------------- tangents


def _tangent(bench: Bench, variant: Variant) -> Iterator[Finding]:
    """The derivative forward: each element beside differences, and the whole beside the gradient."""
    forward = bench.derive(("jvp", id(variant)), lambda: passes.jvp(variant.program))
    backward = bench.derive(("grad", id(variant)), lambda: passes.grad(variant.program))
    dotted, adjoint = passes.tangent_names(variant.program), passes.adjoint_names(variant.program)
    sought, sources = passes.differentiable(variant.program)
    for case in _short(bench, variant):
        label = ", ".join(filter(None, (variant.label, case.label)))
        draw = np.random.default_rng(3)
        along = directions(draw, case.inputs, sought)
        found = run(forward, {**case.inputs, **{dotted[n]: v for n, v in along.items()}})
        moves = Curve(variant.program, case.inputs).tangent(along)
        for name in sources:
            rounding = ROUNDINGS * UNIT * largest(moves.moves[name])
            allowed = float(np.max(moves.errors[name], initial=0)) + rounding
            yield from compare(
                label, {name: found[dotted[name]]}, {name: moves.moves[name]}, {name: allowed}.__getitem__
            )
        adjoints = directions(draw, case.outputs, sources)
        slopes = run(backward, {**case.inputs, **{adjoint[n]: v for n, v in adjoints.items()}})
        yield _dot_product(
            label, adjoints, {n: found[dotted[n]] for n in sources}, {n: slopes[adjoint[n]] for n in sought}, along
        )


def _dot_product(label: str, adjoints: Arrays, moves: Arrays, slopes: Arrays, along: Arrays) -> Finding:
    """The adjoints on how outputs move = the gradient on how inputs move; only rounding is between them."""
    forward, backward = inner(adjoints, moves), inner(slopes, along)
    terms = [adjoints[n] * moves[n] for n in moves] + [slopes[n] * along[n] for n in along]
    allowed = ROUNDINGS * UNIT * sum(float(np.abs(term).sum()) for term in terms)
    error = abs(forward - backward)
    where = f"forward {forward:.9g}, backward {backward:.9g}"
    return Finding(f"{label}, with the gradient", "dot product", np.inf if np.isnan(error) else error, allowed, where)


GRADIENT = Property("gradient", "of every input = differences", DIFFERENCES, _gradient, everywhere=True)
OF_STEP = Property("gradient of steps", "through the state in and out = differences", DIFFERENCES, _through_state)
TANGENT = Property("tangent", "jvp = differences, = gradient by dot product", DIFFERENCES, _tangent, everywhere=True)
SECOND = Property("second gradient", "gradient of the gradient = differences", DIFFERENCES, _second)
