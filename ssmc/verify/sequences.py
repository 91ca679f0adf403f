"""The properties of a layer run backwards, on packed documents, and on sequences with gaps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from ssmc import passes

from .cases import Case, Variant
from .forms import derived_forms, packed_length
from .gradients import DIFFERENCES, check_gradient
from .properties import Bench
from .rows import ROUNDOFF, Finding, Property, compare
from .subjects import time_axis

SEEDS = 2
# Measuring a gradient takes a while: of the forms of one kind, so many.
MEASURED = 3

Check = Callable[[Bench, Variant], Iterator[Finding]]


def packed_cases(bench: Bench, variant: Variant, seeds: int = SEEDS) -> Iterator[Case]:
    """Cases with room for documents and gaps."""
    time = time_axis(variant.program)
    for seed in range(seeds):
        case = bench.case(variant, seed, **{time: packed_length(variant)})
        if case is not None:
            yield case


def _values(kind: str) -> Check:
    """Whether the derived form gives what it means."""

    def check(bench: Bench, variant: Variant) -> Iterator[Finding]:
        for case in packed_cases(bench, variant, 1 if variant.label else SEEDS):
            for form in derived_forms(bench, variant, kind, case):
                tolerance = partial(form.tolerance, storage=bench.storage)
                for way, found in bench.subject.forms(variant, form.program, form.inputs, kind == "reverse"):
                    label = ", ".join(filter(None, (variant.label, form.label, way)))
                    yield from compare(label, form.spread_out(found), form.expected, tolerance)

    return check


def _gradients(kind: str) -> Check:
    """Whether the gradient of the derived form is that of its value."""

    def check(bench: Bench, variant: Variant) -> Iterator[Finding]:
        for case in packed_cases(bench, variant, 1):
            for form in derived_forms(bench, variant, kind, case)[:MEASURED]:
                derived = bench.derive(("grad", id(form.program)), partial(passes.grad, form.program))
                yield from check_gradient(form.label, form.program, derived, form.inputs)

    return check


BACKWARDS = Property("backwards", "turn, run, turn", ROUNDOFF, _values("reverse"), everywhere=True)
PACKED = Property("packed", "cut, run each, join; empty documents too", ROUNDOFF, _values("pack"), everywhere=True)
PACKED_ROWS = Property("packed rows", "documents of each row's own", ROUNDOFF, _values("pack rows"))
PADDED = Property("padded", "anywhere: close up, run, put back", ROUNDOFF, _values("mask"), everywhere=True)
OF_BACKWARDS = Property("gradient, backwards", "of every input = differences", DIFFERENCES, _gradients("reverse"))
OF_PACKED = Property("gradient, packed", "of every input = differences", DIFFERENCES, _gradients("pack"))
OF_PADDED = Property("gradient, padded", "of every input = differences", DIFFERENCES, _gradients("mask"))
