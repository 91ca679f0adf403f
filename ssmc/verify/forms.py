"""The derived forms of a layer (backwards, packed, masked), each with inputs and with what it means.

A ``Form`` says what the derived Program is given and what must come out; the meaning is computed from the Program as
written (``meaning``), once as it is and twice disturbed, which gives the tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssmc import passes
from ssmc.ir import Program

from .cases import COMPUTED_IN, DISTURBANCES, SAFETY, UNIT, Case, Variant, difference, largest
from .evaluate import Array, Arrays, disturbed, run
from .meaning import Documents, Run, closed_up, packed, turned
from .sizes import look_back_of
from .subjects import time_axis


@dataclass(frozen=True, eq=False)
class Form:
    """A derived Program with inputs, what must come out, and what it errs by in single precision times ``SAFETY``."""

    label: str
    program: Program
    inputs: Arrays
    expected: Arrays
    spread: Mapping[str, float]

    def spread_out(self, found: Mapping[str, Array]) -> Arrays:
        """The outputs that are expected; what is the same for all documents, and has no axis of documents therefore,
        for each of them."""
        result = {name: found[name] for name in self.expected if name in found}
        for name, value in result.items():
            if value.ndim == self.expected[name].ndim - 1 and value.shape == self.expected[name].shape[1:]:
                result[name] = np.broadcast_to(value, self.expected[name].shape)
        return result

    def tolerance(self, name: str, storage: str) -> float:
        """As ``Case.tolerance``."""
        value = self.expected[name]
        if value.dtype.kind not in "fc":
            return 0.0
        unit = UNIT[COMPUTED_IN[storage]]
        stored = UNIT[storage] if storage in ("f16", "bf16") else 0
        return self.spread[name] * unit / UNIT["f32"] + (4 * unit + stored) * largest(value)


def meant(meaning: Callable[[Run], Arrays]) -> tuple[Arrays, dict[str, float]]:
    """What a meaning says, and how far it is off when its runs are disturbed."""
    expected = meaning(lambda program, inputs: run(program, inputs, keep="all"))
    spread = dict.fromkeys(expected, 0.0)
    for seed in range(DISTURBANCES):
        number = iter(range(1000 * seed, 1000 * (seed + 1)))
        other = meaning(lambda p, i: disturbed(p, i, SAFETY * UNIT["f32"], next(number))[0])  # noqa: B023
        for name, value in expected.items():
            spread[name] = max(spread[name], largest(difference(other[name], value)))
    return expected, spread


# ---------------------------------------------------------------- backwards


def reversed_forms(case: Case, derived: Program) -> Iterator[Form]:
    time = time_axis(case.program)
    expected, spread = meant(lambda run: turned(case.program, time, case.inputs, run))
    yield Form(f"{case.label}, backwards", derived, case.inputs, expected, spread)


# ---------------------------------------------------------------- packed


def packed_length(variant: Variant) -> int:
    """A length with room for documents around the look-back."""
    window = look_back_of(variant.program, variant.sizes({}) or {})
    return 2 * min(window, 6) + 4


def document_lengths(length: int, window: int) -> list[tuple[int, ...]]:
    """Documents that add up to ``length``: around the look-back, single tokens, empty ones in every place."""
    near = min(window, length)
    found = [(length,), (0, near, 0, length - near, 0), (1, 1, length - 2), (length - near + 1, near - 1)]
    return [lengths for lengths in dict.fromkeys(found) if min(lengths) >= 0]


def batch_axis(program: Program, time: str) -> str | None:
    """The axis that stands before the sequence axis in every input that has the sequence, if there is one."""
    places = [t.axes for t in program.inputs if time in t.axes]
    first = {axes[0] for axes in places}
    if len(first) != 1 or time in first:
        return None
    return first.pop()


def packed_forms(case: Case, derive: Callable[[tuple[str, ...]], Program], rows: bool) -> Iterator[Form]:
    """Documents that all rows share, or with ``rows`` documents of each row's own."""
    time = time_axis(case.program)
    length = case.sizes[time]
    window = min(look_back_of(case.program, case.sizes), 6)
    choices = document_lengths(length, window)
    batch = batch_axis(case.program, time) if rows else None
    if rows and batch is None:
        return
    for number, lengths in enumerate(choices):
        if batch is None:
            documents = Documents((lengths,))
        else:
            most = max(map(len, choices))
            turns = [choices[(number + row) % len(choices)] for row in range(case.sizes[batch])]
            documents = Documents(tuple((*t, *[0] * (most - len(t))) for t in turns), (batch,))
        yield _packed(case, time, derive(documents.batch), documents)


def _packed(case: Case, time: str, derived: Program, documents: Documents) -> Form:
    expected, spread = meant(lambda run: packed(case.program, time, case.inputs, documents, run))
    where = documents.inputs(time)
    label = "documents of " + "; ".join(", ".join(map(str, lengths)) for lengths in documents.lengths)
    return Form(label, derived, {**case.inputs, **where}, expected, spread)


# ---------------------------------------------------------------- masked


def masks(length: int) -> dict[str, Array]:
    """Where tokens are: padding on the left, on the right, in the middle, everywhere but at some, all over."""
    here = np.arange(length)
    third = max(1, length // 3)
    return {
        "padded left": here >= third,
        "padded right": here < length - third,
        "padded in the middle": (here < third) | (here >= length - third),
        "every second": here % 2 == 1,
        "no token at all": here < 0,
    }


def masked_forms(case: Case, derive: Callable[[tuple[str, ...]], Program]) -> Iterator[Form]:
    """One mask for all rows, and another for each row."""
    time = time_axis(case.program)
    batch = batch_axis(case.program, time)
    known = masks(case.sizes[time])
    for number, (label, holds) in enumerate(known.items()):
        if batch is None:
            valid = holds
        else:
            others = list(known.values())
            valid = np.stack([holds, *(others[(number + r) % len(others)] for r in range(1, case.sizes[batch]))])
        meaning = _masked(case, time, valid, batch)
        expected, spread = meant(meaning)
        program = derive((batch,) if batch else ())
        inputs = {**case.inputs, f"{time}.valid": valid}
        yield Form(label, program, inputs, expected, spread)


def _masked(case: Case, time: str, valid: Array, batch: str | None) -> Callable[[Run], Arrays]:
    return lambda run: closed_up(case.program, time, case.inputs, valid, batch, run)[0]


def derived_forms(bench: Any, variant: Variant, kind: str, case: Case) -> Sequence[Form]:
    """The forms of one kind, with Programs that ``bench`` derives once."""

    def derive(batch: tuple[str, ...]) -> Program:
        make = getattr(passes, kind.partition(" ")[0])
        made: Program = bench.derive((kind, batch, id(variant)), lambda: make(variant.program, batch))
        return made

    if kind == "reverse":
        program = bench.derive((kind, id(variant)), lambda: passes.reverse(variant.program))
        return list(reversed_forms(case, program))
    if kind == "mask":
        return list(masked_forms(case, derive))
    return list(packed_forms(case, derive, rows=kind == "pack rows"))
