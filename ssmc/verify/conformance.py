"""The whole table of a layer: which subjects, which specialisations, which properties, in which order."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ssmc.backends import default_storage, target_named
from ssmc.compiler import TARGETS, stages
from ssmc.errors import Unsupported, UserError

from . import carried, gradients, machine, properties, sequences, training
from .cases import Variant
from .properties import Bench
from .rows import DOES_NOT_APPLY, EXACT, Property, Row, judge
from .sizes import look_back_of
from .subjects import Compiled, Derived, Layer
from .table import Verification
from .variants import covering, others, usual
from .workers import shared

STORAGES = ("f32", "f64")

OF_EQUATIONS: tuple[Property, ...] = (
    properties.PREPARED,
    properties.STEP,
    properties.CHUNKS,
    properties.SPLIT,
    sequences.BACKWARDS,
    carried.BACKWARDS_STATE,
    sequences.PACKED,
    sequences.PACKED_ROWS,
    carried.PACKED_STATE,
    sequences.PADDED,
    carried.PADDED_STATE,
    carried.STATES_AT,
    gradients.GRADIENT,
    gradients.OF_STEP,
    sequences.OF_BACKWARDS,
    sequences.OF_PACKED,
    sequences.OF_PADDED,
    gradients.TANGENT,
    gradients.SECOND,
    properties.PRINTED,
)
OF_MACHINE_CODE: tuple[Property, ...] = (
    properties.FORWARD,
    properties.OTHERS,
    properties.AT_LENGTHS,
    properties.AT_WIDTHS,
    properties.STEP,
    properties.CHUNKS,
    properties.SPLIT,
    machine.BITS,
    machine.MEMORY,
    machine.FAR_APART,
    machine.EXTREME,
    training.GRADIENT,
    training.OTHERS,
    training.OF_STEPS,
    training.SECOND,
    training.TANGENT,
    training.BITS,
    training.MEMORY,
    training.EXTREME,
)


@dataclass(frozen=True)
class Asked:
    """What ``verify`` is asked; see there. ``wanted`` are the names of the properties."""

    layer: Layer
    targets: tuple[str, ...]
    storages: tuple[str, ...]
    present: tuple[str, ...] | None
    signatures: Mapping[str, tuple[str, ...]]
    sizes: Mapping[str, int]
    seed: int
    wanted: frozenset[str]


@dataclass(frozen=True)
class Part:
    """A part of the table that can be found out alone: the equations, or machine code for one storage, or what is
    asked once for a target."""

    target: str = ""
    storage: str = ""
    once: bool = False


class Conformance:
    """The table of a layer, part by part; what is computed for one is there for the others."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.main = usual(asked.layer, asked.present, asked.signatures, asked.sizes)
        if self.main.sizes({}) is None:
            raise UserError(
                f"{asked.layer.name}: no extents were found that meet its requirements", hint="give some as sizes"
            )
        alone = asked.present is not None or bool(asked.signatures)
        self.rest = [] if alone else list(others(asked.layer, self.main))
        self.covering = [] if alone else list(covering(asked.layer, self.main))
        self.book: dict[Any, Any] = {}
        self.made: dict[Any, Any] = {}

    def parts(self) -> list[Part]:
        """In the order of the table; what is asked once stands after the first storage."""
        found = [Part()]
        for target in self.asked.targets:
            for number, storage in enumerate(self.asked.storages):
                found.append(Part(target, storage))
                if number == 0:
                    found.append(Part(target, storage, once=True))
        return found

    def rows(self, part: Part) -> list[Row]:
        """What is found of one part."""
        if not part.target:
            bench = Bench(Derived(self.made), self.book, self.asked.seed, made=self.made)
            return self._judged(bench, self._wanted(OF_EQUATIONS), self.rest)
        properties = [item for item in self._wanted(OF_MACHINE_CODE) if item.once == part.once]
        if not properties:
            return []
        subject = Compiled(self.asked.layer, part.target, part.storage)
        try:
            fixed = self._compiled_in(subject)
        except Unsupported as refusal:
            nothing = Property("compiled", "is there machine code at all", EXACT, lambda *_: ())
            message = refusal.diagnostics[0].message
            refused = Row(subject.label, nothing.name, nothing.compared, EXACT, 0, None, DOES_NOT_APPLY, message)
            return [] if part.once else [refused]
        bench = Bench(subject, self.book, self.asked.seed, {id(self.main): fixed}, self.made)
        return self._judged(bench, properties, self.covering)

    def _wanted(self, properties: Iterable[Property]) -> list[Property]:
        return [item for item in properties if item.name in self.asked.wanted]

    def _judged(self, bench: Bench, properties: Iterable[Property], rest: Sequence[Variant]) -> list[Row]:
        found = []
        for item in properties:
            variants = [*[self.main] * (not item.others), *(rest if item.everywhere or item.others else ())]
            if variants:
                looks = [(v.label, partial(item.check, bench, v)) for v in variants]
                found.append(judge(bench.subject.label, item, looks))
        return found

    def _compiled_in(self, subject: Compiled) -> frozenset[str]:
        """The axes whose extents are part of the machine code; Unsupported if there is no such code."""
        _ = subject.device
        program, sizes = self.main.program, self.main.sizes({}) or {}
        own = {axis: sizes[axis] for tensor in program.inputs for axis in tensor.axes}
        done = stages(program, subject.target, default_storage(program, subject.storage), own)
        return frozenset(done.plan.fixed)

    def about(self) -> tuple[tuple[str, str], ...]:
        """What the table says before its rows."""
        program, sizes = self.main.program, self.main.sizes({}) or {}
        found = [
            ("layer", self.asked.layer.name),
            ("small case", ", ".join(f"#{axis} = {extent}" for axis, extent in sizes.items()) or "no axes"),
        ]
        if program.sequence_axes:
            found.append(("look-back", f"{look_back_of(program, sizes)} steps, the present one included"))
        if self.main.changed:
            found.append(("made small", self.main.changed))
        if self.rest:
            found.append(("also looked at", "; ".join(variant.label for variant in self.rest)))
        return tuple(found)


def verify(
    layer: Layer,
    targets: Sequence[str] | None = None,
    storages: Sequence[str] = STORAGES,
    present: Sequence[str] | None = None,
    signatures: Mapping[str, Sequence[str]] | None = None,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    only: Sequence[str] | None = None,
    jobs: int = 1,
) -> Verification:
    """Whether every variant of a layer agrees with every other, as a table.

    Args:
        layer: a loaded layer; static parameters that it was loaded with are kept, others may be made smaller.
        targets: what to compile for; by default every target there is.
        storages: how real inputs are stored, of ``f64 f32 bf16 f16``.
        present: the optional inputs that are given. With this or ``signatures`` only that specialisation is
            looked at; by default all inputs are given, and others are looked at too.
        signatures: the axes of inputs that have several signatures.
        sizes: extents of small cases; by default some that meet the requirements of the layer.
        seed: of the inputs that are drawn.
        only: the names of properties to look at; by default all.
        jobs: processes at work; those beside this one load the layer again.

    Raises:
        UserError: no such target, input or signature; a static parameter is missing; no extents meet what the
            layer requires.
        ToolchainError: no compiler.
    """
    begun = time.perf_counter()
    known = dict.fromkeys(item.name for item in (*OF_EQUATIONS, *OF_MACHINE_CODE))
    for name in only or ():
        if name not in known:
            raise UserError(f"there is no property {name!r}", expected=", ".join(known))
    chosen = tuple(TARGETS if targets is None else targets)
    for target in chosen:
        target_named(target)
    asked = Asked(
        layer,
        chosen,
        tuple(storages),
        None if present is None else tuple(present),
        {name: tuple(axes) for name, axes in (signatures or {}).items()},
        dict(sizes or {}),
        seed,
        frozenset(known if only is None else only),
    )
    table = Conformance(asked)
    found = shared(table, table.parts(), jobs) if jobs > 1 else [table.rows(part) for part in table.parts()]
    rows = _in_order([row for part in found for row in part])
    return Verification(layer.name, table.about(), tuple(rows), time.perf_counter() - begun)


def _in_order(rows: list[Row]) -> list[Row]:
    """By subject, then as the properties are listed; what does not apply for the reason that is given under the
    equations already is not said again."""
    order = {item.name: n for n, item in enumerate((*OF_EQUATIONS, *OF_MACHINE_CODE))}
    order |= {item.name: n for n, item in enumerate(OF_MACHINE_CODE)}
    subjects = list(dict.fromkeys(row.subject for row in rows))
    said = {(row.name, row.note) for row in rows if row.subject == subjects[0] and row.verdict == DOES_NOT_APPLY}
    kept = [row for row in rows if row.subject == subjects[0] or (row.name, row.note) not in said]
    first = [row for row in kept if row.subject == subjects[0]]
    rest = [row for row in kept if row.subject != subjects[0]]
    return first + sorted(rest, key=lambda row: (subjects.index(row.subject), order.get(row.name, -1)))
