"""The whole table of a layer: which subjects, which specialisations, which properties, in which order."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ssmc.backends import default_storage, target_named
from ssmc.compiler import TARGETS, stages
from ssmc.errors import Unsupported, UserError

from . import arranged, carried, gradients, machine, properties, sequences, training
from .cases import Variant
from .properties import Bench
from .rows import DOES_NOT_APPLY, EXACT, Property, Row, judge
from .sizes import look_back_of
from .subjects import WORDS, Compiled, Derived, Layer
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


def _of_machine_code(*found: Property) -> tuple[Property, ...]:
    """Properties of derived forms, of the usual specialisation alone: each form has to be compiled."""
    return tuple(replace(item, everywhere=False, once=True) for item in found)


# In groups that run the same machine code.
OF_MACHINE_CODE: tuple[tuple[Property, ...], ...] = (
    (
        properties.FORWARD,
        properties.AT_LENGTHS,
        properties.AT_WIDTHS,
        properties.STEP,
        properties.CHUNKS,
        properties.SPLIT,
        machine.BITS,
        machine.MEMORY,
        machine.FAR_APART,
        machine.EXTREME,
    ),
    _of_machine_code(sequences.BACKWARDS, sequences.PACKED, sequences.PACKED_ROWS, sequences.PADDED),
    _of_machine_code(carried.STATES_AT),
    (training.TANGENT,),
    (training.GRADIENT, training.BITS, training.MEMORY, training.EXTREME),
    (arranged.OF_STEPS,),
    (arranged.OF_BACKWARDS,),
    (arranged.OF_PACKED,),
    (arranged.OF_PADDED,),
    (properties.OTHERS, training.OTHERS, training.SECOND),
)
_NAMES = tuple(item.name for group in OF_MACHINE_CODE for item in group)


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
    """A part of the table that can be found out alone: the equations, or a group of properties of machine code for
    one storage. What is asked once for a target is asked for the first."""

    target: str = ""
    storage: str = ""
    group: int = 0
    first: bool = True

    @property
    def label(self) -> str:
        return f"{self.target}, {WORDS[self.storage]}" if self.target else "equations"

    @property
    def properties(self) -> tuple[Property, ...]:
        if not self.target:
            return OF_EQUATIONS
        return tuple(item for item in OF_MACHINE_CODE[self.group] if self.first or not item.once)


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
        """The equations, then what takes longest, so that processes that share the parts end together."""
        found = [Part()]
        for target in self.asked.targets:
            for group in reversed(range(len(OF_MACHINE_CODE))):
                for storage in self.asked.storages:
                    found.append(Part(target, storage, group, storage == self.asked.storages[0]))
        return [part for part in found if any(item.name in self.asked.wanted for item in part.properties)]

    def rows(self, part: Part) -> list[Row]:
        """What is found of one part."""
        wanted = [item for item in part.properties if item.name in self.asked.wanted]
        if not part.target:
            bench = Bench(Derived(self.made), self.book, self.asked.seed, made=self.made)
            return self._judged(bench, wanted, self.rest)
        subject = Compiled(self.asked.layer, part.target, part.storage)
        try:
            fixed = self._compiled_in(subject)
        except Unsupported as refusal:
            nothing = Property("compiled", "is there machine code at all", EXACT, lambda *_: ())
            message = refusal.diagnostics[0].message
            return [Row(subject.label, nothing.name, nothing.compared, EXACT, 0, None, DOES_NOT_APPLY, message)]
        bench = Bench(subject, self.book, self.asked.seed, {id(self.main): fixed}, self.made)
        return self._judged(bench, wanted, self.covering)

    def _judged(self, bench: Bench, properties: Iterable[Property], rest: Sequence[Variant]) -> list[Row]:
        found = []
        for item in properties:
            variants = [*[self.main] * (not item.others), *(rest if item.everywhere or item.others else ())]
            if item.least:
                variants = [*rest, self.main][:1]
            if variants:
                looks = [(v.label, partial(item.check, bench, v)) for v in variants]
                found.append(judge(bench.subject.label, item, looks))
        return found

    def _compiled_in(self, subject: Compiled) -> frozenset[str]:
        """The axes whose extents are part of the machine code; Unsupported if there is no such code."""
        _ = subject.device
        program, sizes = self.main.program, self.main.sizes({}) or {}
        own = {axis: sizes[axis] for tensor in program.inputs for axis in tensor.axes}
        done = stages(program, subject.target, default_storage(program, subject.storage), own, self.asked.layer.plan)
        return frozenset(done.plan.fixed)

    def about(self) -> tuple[tuple[str, str], ...]:
        """What the table says before its rows."""
        program, sizes = self.main.program, self.main.sizes({}) or {}
        found = [
            ("layer", self.asked.layer.name),
            ("small case", ", ".join(f"#{axis} = {extent}" for axis, extent in sizes.items()) or "no axes"),
        ]
        if self.asked.layer.plan.chosen:
            found.append(("plan", str(self.asked.layer.plan)))
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
        targets: what to compile for; by default every target there is, of those that the layer's plan concerns.
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
    known = dict.fromkeys((*(item.name for item in OF_EQUATIONS), *_NAMES))
    for name in only or ():
        if name not in known:
            raise UserError(f"there is no property {name!r}", expected=", ".join(known))
    chosen = tuple(layer.plan.concerns(TARGETS) if targets is None else targets)
    for target in chosen:
        layer.plan.check(target_named(target).name)
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
    if not table.parts():
        raise UserError(
            f"{only[0]!r} is a property of machine code" if only else "no property is named", hint="name a target"
        )
    found = shared(table, table.parts(), jobs) if jobs > 1 else [table.rows(part) for part in table.parts()]
    rows = _in_order([row for part in found for row in part])
    return Verification(layer.name, table.about(), tuple(rows), time.perf_counter() - begun)


def _in_order(rows: list[Row]) -> list[Row]:
    """By subject, then as the properties are listed; what does not apply for the reason that is given under the
    equations already is not said again, nor that there is no machine code."""
    order = {name: n for n, name in enumerate(_NAMES)}
    subjects = list(dict.fromkeys(row.subject for row in rows))
    said = {(row.name, row.note) for row in rows if row.subject == subjects[0] and row.verdict == DOES_NOT_APPLY}
    first = [row for row in rows if row.subject == subjects[0]]
    rest = [row for row in dict.fromkeys(rows) if row.subject != subjects[0] and (row.name, row.note) not in said]
    return first + sorted(rest, key=lambda row: (subjects.index(row.subject), order.get(row.name, -1)))
