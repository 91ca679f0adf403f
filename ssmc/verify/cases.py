"""What is looked at: a specialisation of the layer, extents, inputs, and what the interpreter says of them.

A tolerance is what the interpreter itself errs by when each operation is off by ``SAFETY`` unit roundoffs of the
precision in question, and the rounding of what is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from ssmc.ir import Program

from .evaluate import Array, Arrays, disturbed
from .inputs import draw_inputs, settle
from .sizes import Sizes, small, solve

SAFETY = 16
UNIT = {"f64": 2.0**-53, "f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8}
COMPUTED_IN = {"f64": "f64", "f32": "f32", "f16": "f32", "bf16": "f32"}
DISTURBANCES = 2
SEEDS_TRIED = 6
# Values above are not of moderate size: their square may be infinite in single precision.
LARGEST = 1e12
# Extents at which it is decided how inputs are drawn: long enough for what grows to show.
LONG = 67


@dataclass(frozen=True, eq=False)
class Variant:
    """One specialisation of a layer: what to call it, which inputs it is given, and its Program. Inputs are drawn as
    for the one that it is ``like``, if that will do."""

    label: str
    program: Program
    statics: Mapping[str, Any] = field(default_factory=dict)
    signatures: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    changed: str = ""
    asked: Mapping[str, int] = field(default_factory=dict)
    like: Variant | None = None

    @cached_property
    def wanted(self) -> Sizes:
        """Extents of all free axes in a small case."""
        times = dict.fromkeys(self.program.sequence_axes, 7)
        wanted = {**small(self.program), **times, **self.asked}
        solved = solve(self.program, wanted, frozenset(self.asked) & set(wanted)) or wanted
        return {axis: solved[axis] for axis in wanted}

    @cached_property
    def kinds(self) -> dict[str, str]:
        """How each input is drawn."""
        sizes = self.sizes(dict.fromkeys(self.program.sequence_axes, LONG))
        return settle(self.program, sizes, self.like.kinds if self.like else None) if sizes else {}

    def sizes(self, chosen: Mapping[str, int]) -> Sizes | None:
        """Extents of all axes with those chosen, if there are any that meet every requirement."""
        return solve(self.program, {**self.wanted, **chosen}, frozenset(chosen))

    def over(self, program: Program) -> Variant:
        """Another Program of the same specialisation, such as one derived from it."""
        return replace(self, program=program)


@dataclass(frozen=True, eq=False)
class Case:
    """A Program at some extents with inputs, and its meaning there; ``label`` says which case it is."""

    label: str
    variant: Variant
    sizes: Sizes
    inputs: Arrays
    steady: bool = True

    @property
    def program(self) -> Program:
        return self.variant.program

    @cached_property
    def evaluation(self) -> tuple[Arrays, list[Array]]:
        return disturbed(self.program, self.inputs, 0)

    @property
    def values(self) -> Arrays:
        """Every tensor, as the interpreter computes it."""
        return self.evaluation[0]

    @property
    def choices(self) -> list[Array]:
        """Everything that is decided from reals."""
        return self.evaluation[1]

    @property
    def outputs(self) -> Arrays:
        return {name: self.values[name] for name in self.program.outputs}

    @cached_property
    def spread(self) -> dict[str, float]:
        """For each tensor, what single precision errs by, times ``SAFETY``."""
        found = dict.fromkeys(self.values, 0.0)
        for seed in range(DISTURBANCES):
            other, _ = disturbed(self.program, self.inputs, SAFETY * UNIT["f32"], seed)
            for name, value in self.values.items():
                found[name] = max(found[name], largest(difference(other[name], value)))
        return found

    def tolerance(self, name: str, storage: str) -> float:
        """How far ``name`` may be off when it is computed for inputs of that storage and stored so."""
        value = self.values.get(name)
        if value is None or value.dtype.kind not in "fc":  # a position is no tensor
            return 0.0
        unit = UNIT[COMPUTED_IN[storage]]
        computed = self.spread[name] * unit / UNIT["f32"]
        return computed + (4 * unit + (UNIT[storage] if storage in ("f16", "bf16") else 0)) * largest(value)


def make_case(variant: Variant, chosen: Mapping[str, int], seed: int, storage: str = "f32") -> Case | None:
    """A case at the extents chosen; None if the Program has none such.

    Of several seeds the first at which values are of moderate size and nothing that is decided from reals changes
    when they are rounded.
    """
    sizes = variant.sizes(chosen)
    if sizes is None:
        return None
    name = ", ".join(f"{axis} = {sizes[axis]}" for axis in chosen) or "small"
    first = None
    for attempt in range(SEEDS_TRIED):
        inputs = draw_inputs(variant.program, sizes, seed + 101 * attempt, variant.kinds, storage)
        case = Case(name, variant, sizes, inputs)
        first = first or case
        if is_steady(case):
            return case
    return replace(first, steady=False) if first else None


def is_steady(case: Case) -> bool:
    """Whether values are of moderate size, and no choice changes when every operation is disturbed by as much as the
    tolerance allows for."""
    if any(largest(value) > LARGEST for value in case.values.values() if value.dtype.kind in "fc"):
        return False
    if not case.choices:
        return True
    _, others = disturbed(case.program, case.inputs, SAFETY * UNIT["f32"], 0)
    return all(np.array_equal(a, b) for a, b in zip(case.choices, others, strict=True))


# ---------------------------------------------------------------- differences


def difference(found: Array, expected: Array) -> Array:
    """How far apart two arrays are, element by element; infinite where only one is a number, or another infinity."""
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(np.asarray(found, np.result_type(expected, np.float64)) - expected)
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    return np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))


def largest(array: Array) -> float:
    """The largest magnitude of what is finite; 0 for nothing."""
    finite = np.abs(array[np.isfinite(array)]) if array.size else array
    return float(finite.max()) if finite.size else 0.0
