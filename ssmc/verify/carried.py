"""The properties of state that goes through a derived form: backwards, into documents, across gaps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from ssmc import passes
from ssmc.ir import Program

from .cases import Case, Variant
from .evaluate import Array, Arrays, run
from .forms import batch_axis, document_lengths, masks
from .meaning import Documents, closed_up, ends, final_state, part, turned
from .properties import Bench
from .rows import ROUNDOFF, Finding, Property, compare
from .sequences import packed_cases
from .sizes import look_back_of
from .subjects import GIVEN, STATES, Derived, pairs, taken, time_axis


def _everything(program: Program, inputs: Mapping[str, Array]) -> Arrays:
    return run(program, inputs, keep="all")


@dataclass(frozen=True, eq=False)
class Carried:
    """A case, along its sequence axis. States come from the interpreter."""

    bench: Bench
    case: Case
    time: str

    def tolerance(self, name: str) -> float:
        return self.case.tolerance(name, self.bench.storage)

    def stretch(self, start: int, end: int) -> Arrays:
        """The inputs from ``start`` to ``end``."""
        return {t.name: part(self.case.inputs[t.name], t.axes, self.time, start, end) for t in self.case.program.inputs}

    def outputs(self, values: Mapping[str, Array], start: int, end: int) -> Arrays:
        """Of outputs that have the sequence axis what lies from ``start`` to ``end``."""
        axes = {name: self.case.program.equation(name).axes for name in self.case.program.outputs}
        return {n: part(values[n], a, self.time, start, end) for n, a in axes.items() if self.time in a}

    def state_after(self, inputs: Arrays, length: int) -> Arrays:
        """The state after these inputs, under the names by which a stepped Program takes it."""
        case = Case("", self.case.variant, {**self.case.sizes, self.time: length}, inputs)
        _, state = Derived(self.bench.made).pieces(case, [])
        return {f"{self.time}.offset" if name == self.time else f"{name}.state": value for name, value in state.items()}

    def form(self, program: Program, given: Mapping[str, Array], backwards: bool = False) -> Arrays:
        """What the subject gives for a derived Program."""
        _, found = next(self.bench.subject.forms(self.case.variant, program, given, backwards))
        made: Arrays = found
        return made

    def ends(self, label: str, whole: Mapping[str, Array], found: Mapping[str, Array]) -> Iterator[Finding]:
        """The state ``X.next`` in ``found`` beside the last values of the whole."""
        given = {name.removesuffix(".next").removesuffix(".next_offset"): value for name, value in found.items()}
        mine, expected = ends(self.case.program, self.time, given, self.state(whole))
        yield from compare(f"{label}, final state", mine, expected, self.tolerance)

    def state(self, whole: Mapping[str, Array]) -> Arrays:
        return final_state(self.case.program, whole, self.case.sizes, self.time)


def carried(bench: Bench, variant: Variant) -> Iterator[Carried]:
    for case in packed_cases(bench, variant, 1):
        yield Carried(bench, case, time_axis(variant.program))


def _step(bench: Bench, variant: Variant, takes: bool) -> Program:
    return Derived(bench.made).step(variant, takes)


# ---------------------------------------------------------------- backwards


def _backwards(bench: Bench, variant: Variant) -> Iterator[Finding]:
    """From the last piece to the first, the state handed on."""

    def reversed_step(takes: bool) -> Program:
        made: Program = bench.derive(
            ("reverse step", takes, id(variant)), lambda: passes.reverse(_step(bench, variant, takes))
        )
        return made

    steps = [reversed_step(False), reversed_step(True)]
    for one in carried(bench, variant):
        length = one.case.sizes[one.time]
        expected = one.outputs(turned(one.case.program, one.time, one.case.inputs, _everything), 0, length)
        for split in (1, length // 2, length - 1, length):
            state: Arrays = {}
            found: list[Arrays] = []
            for program, (start, end) in zip(steps, reversed(list(pairs([split], length))), strict=True):
                given = {**one.stretch(start, end), **state}
                made = one.form(program, given, True)
                state = {taken(n): v for n, v in made.items() if n not in variant.program.outputs}
                found.insert(0, made)
            joined = {
                name: np.concatenate(
                    [piece[name] for piece in found], variant.program.equation(name).axes.index(one.time)
                )
                for name in expected
            }
            yield from compare(f"pieces of {length - split} and {split}", joined, expected, one.tolerance)


# ---------------------------------------------------------------- documents


@dataclass(frozen=True, eq=False)
class _Document:
    """A document whose first ``begun`` tokens were run before."""

    begun: int
    length: int
    rest: Arrays
    state: Arrays
    whole: Arrays


def _documents(bench: Bench, variant: Variant) -> Iterator[Finding]:
    """Each document began elsewhere: it is given the state of its beginning and returns that of its end."""
    step = _step(bench, variant, True)
    program = bench.derive(("pack step", id(variant)), lambda: passes.pack(step))
    for one in carried(bench, variant):
        window = min(look_back_of(one.case.program, one.case.sizes), 6)
        for lengths in document_lengths(one.case.sizes[one.time], window):
            stretches = list(Documents((lengths,)).stretches())
            for turn in range(2):
                documents = [_begun(one, start, end, number + turn) for _, number, start, end in stretches]
                yield from _going_on(one, program, documents)


def _begun(one: Carried, start: int, end: int, number: int) -> _Document:
    """A document that was half done before, or done altogether."""
    begun = (end - start) // 2 if number % 2 else end - start
    whole = _everything(one.case.program, one.stretch(start, end))
    state = one.state_after(one.stretch(start, start + begun), begun)
    return _Document(begun, end - start, one.stretch(start + begun, end), state, whole)


def _going_on(one: Carried, program: Program, documents: list[_Document]) -> Iterator[Finding]:
    """What is left of the documents, packed, with a state for each."""
    left = Documents((tuple(d.length - d.begun for d in documents),))
    axes = {t.name: t.axes for t in program.tensors().values()}
    found = one.form(program, _together(one, program, documents))
    for (_, number, start, end), document in zip(left.stretches(), documents, strict=True):
        label = f"document {number} of {document.length} tokens, {document.begun} before"
        expected = one.outputs(document.whole, document.begun, document.length)
        yield from compare(label, one.outputs(found, start, end), expected, one.tolerance)
        own = {n: v.take(number, axes[n].index(f"{one.time}.docs")) for n, v in found.items() if n.endswith(GIVEN)}
        yield from one.ends(label, document.whole, own)


def _together(one: Carried, program: Program, documents: list[_Document]) -> Arrays:
    """The inputs of a packed Program that goes on with these documents."""
    axes = {t.name: t.axes for t in program.inputs}
    given = Documents((tuple(d.length - d.begun for d in documents),)).inputs(one.time)
    for t in one.case.program.inputs:
        parts = [d.rest[t.name] for d in documents]
        given[t.name] = np.concatenate(parts, t.axes.index(one.time)) if one.time in t.axes else parts[0]
    for name in documents[0].state:
        given[name] = np.stack([d.state[name] for d in documents], axes[name].index(f"{one.time}.docs"))
    return given


def packed_inputs(one: Carried, program: Program) -> Arrays:
    """The inputs of a packed Program with a state for each document, or with none: some documents are half done
    before, some done, some empty."""
    length = one.case.sizes[one.time]
    lengths = document_lengths(length, min(look_back_of(one.case.program, one.case.sizes), 6))[1]
    if not any(t.name.endswith(STATES) for t in program.inputs):
        return {**one.case.inputs, **Documents((lengths,)).inputs(one.time)}
    stretches = list(Documents((lengths,)).stretches())
    return _together(one, program, [_begun(one, start, end, number) for _, number, start, end in stretches])


# ---------------------------------------------------------------- gaps


def _gaps(bench: Bench, variant: Variant) -> Iterator[Finding]:
    """A sequence goes on with gaps: its valid tokens continue it, and the state is that after the last of them."""
    time = time_axis(variant.program)
    batch = batch_axis(variant.program, time)
    step = _step(bench, variant, True)
    program = bench.derive(("mask step", id(variant)), lambda: passes.mask(step, (batch,) if batch else ()))
    for one in carried(bench, variant):
        begun = _begun_before(one, program)
        for label in masks(one.case.sizes[time] - begun):
            yield from _with_gaps(one, program, masked_inputs(one, program, label, batch), begun, label, batch)


def _begun_before(one: Carried, program: Program) -> int:
    """How many tokens came before what a Program with a state goes on with."""
    return one.case.sizes[one.time] // 2 if any(t.name.endswith(STATES) for t in program.inputs) else 0


def masked_inputs(one: Carried, program: Program, label: str, batch: str | None) -> Arrays:
    """The inputs of a masked Program that goes on in the middle of the sequence, if it takes a state: a position for
    each row, though all have come equally far."""
    length, begun = one.case.sizes[one.time], _begun_before(one, program)
    state = one.state_after(one.stretch(0, begun), begun) if begun else {}
    holds = masks(length - begun)[label]
    rows = [np.roll(holds, row) for row in range(one.case.sizes[batch])] if batch else [holds]
    given = {**one.stretch(begun, length), **state, f"{one.time}.valid": np.stack(rows) if batch else holds}
    position = next((t for t in program.inputs if t.name == f"{one.time}.offset"), None)
    if position is not None:
        given[position.name] = np.full([one.case.sizes[a] for a in position.axes], given[position.name])
    return given


def _with_gaps(
    one: Carried, program: Program, given: Arrays, begun: int, label: str, batch: str | None
) -> Iterator[Finding]:
    case, time = one.case, one.time
    found = one.form(program, given)
    valid = given[f"{time}.valid"]
    from_start = np.concatenate([np.ones((*valid.shape[:-1], begun), np.bool_), valid], -1)
    expected, wholes = closed_up(case.program, time, case.inputs, from_start, batch, _everything)
    outputs = one.outputs(expected, begun, case.sizes[time])
    yield from compare(label, {n: found[n] for n in outputs}, outputs, one.tolerance)
    axes = {name: program.equation(name).axes for name in found}
    for row, whole in enumerate(wholes):
        own = {n: v.take([row], axes[n].index(batch)) if batch in axes[n] else v for n, v in found.items()}
        yield from one.ends(f"{label}, row {row}", whole, own)


# ---------------------------------------------------------------- after some tokens


def _at_the_end(name: str) -> str:
    """What is called ``name`` on the way, as it is called at the end."""
    for here, there in ((".at_offset", ".next_offset"), (".at", ".next")):
        if name.endswith(here):
            return name.removesuffix(here) + there
    return name


def _on_the_way(bench: Bench, variant: Variant) -> Iterator[Finding]:
    """The state after each token, of a sequence from its start and of one that goes on."""
    # Machine code that takes a state is enough; what has none is compiled anew.
    for takes in (False, True) if isinstance(bench.subject, Derived) else (True,):
        step = _step(bench, variant, takes)
        program = bench.derive(("states_at", takes, id(variant)), partial(passes.states_at, step))
        for one in carried(bench, variant):
            length = one.case.sizes[one.time]
            begun = length // 2 if takes else 0
            given = one.stretch(begun, length)
            if takes:
                given |= one.state_after(one.stretch(0, begun), begun)
            stops = [*range(length - begun + 1), 1, 0]
            given[f"{one.time}.at"] = np.array(stops)
            found = one.form(program, given)
            axes = {name: program.equation(name).axes for name in found}
            for number, stop in enumerate(stops):
                own = {
                    _at_the_end(name): value.take(number, axes[name].index(f"{one.time}.stops"))
                    for name, value in found.items()
                    if f"{one.time}.stops" in axes[name]
                }
                whole = _everything(one.case.program, one.stretch(0, begun + stop))
                yield from one.ends(f"after {stop} tokens" + f" and {begun} before" * takes, whole, own)


STATES_AT = Property("state on the way", "after each token = at the end of so many", ROUNDOFF, _on_the_way)
BACKWARDS_STATE = Property("backwards, state", "from the last piece to the first = at once", ROUNDOFF, _backwards)
PACKED_STATE = Property("packed, state", "a state for each document, in and out", ROUNDOFF, _documents)
PADDED_STATE = Property("padded, state", "gaps after a state; the state after them", ROUNDOFF, _gaps)
