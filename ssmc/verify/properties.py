"""The properties that hold of a layer run whole, in pieces, and at awkward sizes.

Each is asked of one subject and one specialisation at a time; what is expected is always the interpreter's word on
the Program as written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ssmc.dsl import read_program
from ssmc.errors import UserError
from ssmc.ir import Program, print_program

from .cases import Case, Variant, make_case
from .evaluate import Arrays
from .meaning import ends, final_state, pieces_of
from .rows import EXACT, ROUNDOFF, Finding, Property, compare, equal
from .sizes import free_axes, lengths
from .subjects import time_axis

LENGTHS = (63, 64, 65, 67)
LONGEST = 300
PIECES = (1, 3, 16, 64)
# Extents of what runs across vector lanes: none left over, one, and some.
WIDTHS = (1, 16, 17, 35)


@dataclass
class Bench:
    """A subject and the cases that it is asked about; cases are shared by the properties and subjects."""

    subject: Any
    book: dict[Any, Case | None] = field(default_factory=dict)
    seed: int = 0
    compiled_in: dict[Any, frozenset[str]] = field(default_factory=dict)

    made: dict[Any, Program] = field(default_factory=dict)

    @property
    def storage(self) -> str:
        return str(self.subject.storage)

    @property
    def kept(self) -> str:
        """The storage that inputs are rounded to: single precision serves double, too."""
        return "f32" if self.storage == "f64" else self.storage

    def derive(self, key: Any, make: Callable[[], Program]) -> Program:
        """A derived Program, made once."""
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def case(self, variant: Variant, seed: int = 0, /, **chosen: int) -> Case | None:
        """The case at the extents chosen, made once; inputs are such that the storage holds them exactly."""
        key = (id(variant), tuple(sorted(chosen.items())), seed, self.kept)
        if key not in self.book:
            self.book[key] = make_case(variant, chosen, self.seed + seed, self.kept)
        return self.book[key]

    def at_lengths(self, variant: Variant, further: Sequence[int], most: int = LONGEST) -> Iterator[Case]:
        """Cases at awkward lengths: of all sequence axes together, or of each axis where there are none."""
        times = variant.program.sequence_axes
        for n, length in enumerate(lengths(variant.program, variant.sizes({}) or {}, tuple(further), most)):
            for axes in [times] if times else [(axis,) for axis in self.free(variant)]:
                case = self.case(variant, n, **dict.fromkeys(axes, length))
                if case is not None:
                    yield case

    def at_widths(self, variant: Variant) -> Iterator[Case]:
        """Cases at awkward extents of each axis that is neither compiled in nor a sequence axis."""
        times = dict.fromkeys(variant.program.sequence_axes, 5)
        for n, width in enumerate(WIDTHS):
            for axis in self.free(variant):
                case = self.case(variant, n, **{**times, axis: width})
                if case is not None:
                    yield case

    def free(self, variant: Variant) -> list[str]:
        """Free axes, sequence axes and those that are compiled in excepted."""
        fixed = self.compiled_in.get(id(variant), frozenset()) | set(variant.program.sequence_axes)
        return [axis for axis in free_axes(variant.program) if axis not in fixed]

    def check(self, case: Case, found: Arrays, expected: Arrays | None = None, label: str = "") -> Iterator[Finding]:
        """``found`` beside what the interpreter says."""
        name = ", ".join(filter(None, (case.variant.label, case.label, label)))
        wanted = case.outputs if expected is None else expected
        yield from compare(name, found, wanted, lambda t: case.tolerance(t, self.storage))


# ---------------------------------------------------------------- whole


def _lengths(bench: Bench, variant: Variant) -> Iterator[Finding]:
    for case in bench.at_lengths(variant, LENGTHS):
        yield from bench.check(case, bench.subject.whole(case))


def _widths(bench: Bench, variant: Variant) -> Iterator[Finding]:
    for case in bench.at_widths(variant):
        yield from bench.check(case, bench.subject.whole(case))


def _small(bench: Bench, variant: Variant) -> Iterator[Finding]:
    for seed in range(3):
        case = bench.case(variant, seed)
        if case is not None:
            yield from bench.check(case, bench.subject.whole(case))


# ---------------------------------------------------------------- in pieces


def _in_pieces(bench: Bench, case: Case, cuts: Sequence[int], label: str) -> Iterator[Finding]:
    time = time_axis(case.program)
    found, state = bench.subject.pieces(case, cuts)
    yield from bench.check(case, found, label=label)
    mine, expected = ends(case.program, time, state, final_state(case.program, case.values, case.sizes, time))
    yield from bench.check(case, mine, expected, f"{label}, final state")


def _one_by_one(bench: Bench, variant: Variant) -> Iterator[Finding]:
    time_axis(variant.program)
    for case in bench.at_lengths(variant, (7,), most=40):
        yield from _in_pieces(bench, case, pieces_of(case.sizes[time_axis(case.program)], 1), "one by one")


def _pieces(bench: Bench, variant: Variant) -> Iterator[Finding]:
    case = bench.case(variant, 0, **{time_axis(variant.program): 67})
    if case is not None:
        for size in PIECES:
            yield from _in_pieces(bench, case, pieces_of(67, size), f"pieces of {size}")


def _split(bench: Bench, variant: Variant) -> Iterator[Finding]:
    time = time_axis(variant.program)
    window = lengths(variant.program, variant.sizes({}) or {}, (5,), 12)[-1]
    for seed in range(2):
        case = bench.case(variant, seed, **{time: window})
        if case is not None:
            for cut in range(window + 1):
                yield from _in_pieces(bench, case, [cut], f"split at {cut}")


# ---------------------------------------------------------------- text


def _printed(bench: Bench, variant: Variant) -> Iterator[Finding]:
    """Everything that was derived so far, of any specialisation."""
    for name, program in {("layer",): variant.program, **bench.made}.items():
        text = print_program(program)
        label = " ".join(part for part in name if isinstance(part, str))
        try:
            same = read_program(text) == program
        except UserError as error:
            yield equal(label, program.name, False, error.diagnostics[0].message)
        else:
            yield equal(label, program.name, same, "another Program is read back")


PRINTED = Property("printed", "each derived Program reads back as itself", EXACT, _printed)
PREPARED = Property("prepared", "inlined, lifted, folds apart = as written", ROUNDOFF, _small, everywhere=True)
AT_LENGTHS = Property("lengths", "at 1, around the look-back, 63, 64, 65, 67", ROUNDOFF, _lengths)
AT_WIDTHS = Property("widths", "other axes of 1, 16, 17, 35", ROUNDOFF, _widths)
FORWARD = Property("forward", "outputs = the equations, three draws", ROUNDOFF, _small)
OTHERS = Property("others", "other inputs, signatures, static parameters", ROUNDOFF, _small, others=True, once=True)
STEP = Property("step by step", "one token at a time = all at once", ROUNDOFF, _one_by_one)
CHUNKS = Property("pieces", "pieces of 1, 3, 16, 64 = all at once", ROUNDOFF, _pieces)
SPLIT = Property("split", "split and continued at every boundary", ROUNDOFF, _split)
