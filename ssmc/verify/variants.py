"""The specialisations of a layer that are looked at.

The usual one has every input, the first signature of each, and the static parameters as given. Beside it: no
optional input at all, each optional input left out, every other signature, every other value of bools and enums.
Whole numbers that only make things long (a window of 2048) are made small unless they were chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ssmc.errors import UserError

from .cases import Variant
from .sizes import look_back_of, points
from .subjects import Layer

LONGEST_LOOK_BACK = 24
LARGEST_EXTENT = 16
MODERATE = 20_000
SHORT = (4, 2, 8, 3, 16, 1)


def usual(
    layer: Layer,
    present: Sequence[str] | None = None,
    signatures: Mapping[str, Sequence[str]] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Variant:
    """The specialisation that gets the whole table, at extents near ``sizes``; UserError if the layer has none."""
    chosen = {name: tuple(axes) for name, axes in (signatures or {}).items()}
    statics = dict(layer.statics)
    asked = sizes or {}
    found = _variant(layer, "", present, chosen, statics, asked)
    ints = {s.name: s.default for s in layer.signature.statics if s.kind == "int" and s.name not in statics}
    if not ints or _is_small(found):
        return found
    candidates = [found]
    for value in SHORT:
        try:
            smaller = {name: min(int(default or value), value) for name, default in ints.items()}
            other = _variant(layer, "", present, chosen, {**statics, **smaller}, asked)
        except UserError:
            continue
        if _bulk(other) < MODERATE:
            return other
        candidates.append(other)
    return min(candidates, key=_bulk)


def others(layer: Layer, first: Variant) -> Iterator[Variant]:
    """Specialisations that differ from the usual one in one thing each."""
    optional = [item.name for item in layer.signature.inputs if not item.required]
    given = {tensor.name for tensor in first.program.inputs}
    if optional:
        yield from _maybe(layer, first, "required inputs only", (), {}, first.statics)
    if len(optional) > 1:
        for name in optional:
            yield from _maybe(
                layer, first, f"without {name}", [n for n in optional if n != name], first.signatures, first.statics
            )
    for item in layer.signature.inputs:
        for axes in item.alternatives[1:]:
            chosen = {**first.signatures, item.name: axes}
            yield from _maybe(layer, first, f"{item.name}[{', '.join(axes)}]", list(given), chosen, first.statics)
    yield from _other_statics(layer, first, list(given))


def covering(layer: Layer, first: Variant) -> Iterator[Variant]:
    """Fewer specialisations that still meet everything once, for those who have to compile each: every one differs
    from the usual one in as much as it can."""
    given = [tensor.name for tensor in first.program.inputs]
    changes = [_changes(layer, first, number) for number in range(_most(layer))]
    for number, (signatures, statics) in enumerate(changes):
        # Inputs whose other signature is wanted have to be there.
        optional = {item.name for item in layer.signature.inputs if not item.required}
        kept = [name for name in given if number or name in signatures or name not in optional]
        absent = [name for name in given if name not in kept]
        parts = [f"without {', '.join(absent)}"] if absent else []
        parts += [f"{name}[{', '.join(axes)}]" for name, axes in signatures.items()]
        parts += [f"{name} = {shown(value)}" for name, value in statics.items()]
        chosen, label = {**first.signatures, **signatures}, ", ".join(parts)
        together = list(_maybe(layer, first, label, kept, chosen, {**first.statics, **statics})) if parts else []
        yield from together or _one_by_one(layer, first, signatures, statics, bool(absent))


def _one_by_one(
    layer: Layer, first: Variant, signatures: Mapping[str, Any], statics: Mapping[str, Any], fewer: bool
) -> Iterator[Variant]:
    """The same changes, each alone."""
    given = [tensor.name for tensor in first.program.inputs]
    if fewer:
        yield from _maybe(layer, first, "required inputs only", (), first.signatures, first.statics)
    for name, axes in signatures.items():
        chosen = {**first.signatures, name: axes}
        yield from _maybe(layer, first, f"{name}[{', '.join(axes)}]", given, chosen, first.statics)
    for name, value in statics.items():
        changed = {**first.statics, name: value}
        yield from _maybe(layer, first, f"{name} = {shown(value)}", given, first.signatures, changed)


def _changes(layer: Layer, first: Variant, number: int) -> tuple[dict[str, tuple[str, ...]], dict[str, Any]]:
    """Of every input the signature, of every bool and enum the value, that comes next after so many others."""
    signatures = {
        item.name: item.alternatives[number + 1]
        for item in layer.signature.inputs
        if len(item.alternatives) > number + 1
    }
    statics = {name: values[number] for name, values in _values(layer, first).items() if len(values) > number}
    return signatures, statics


def _most(layer: Layer) -> int:
    """How many specialisations there have to be at least."""
    signatures = [len(item.alternatives) - 1 for item in layer.signature.inputs]
    values = [2 if static.kind == "bool" else len(static.choices) for static in layer.signature.statics]
    optional = any(not item.required for item in layer.signature.inputs)
    return max([int(optional), *signatures, *(n - 1 for n in values)], default=0)


def _values(layer: Layer, first: Variant) -> dict[str, list[Any]]:
    """Every other value of bools and enums."""
    found = {}
    for static in layer.signature.statics:
        now = {**{s.name: s.default for s in layer.signature.statics}, **first.statics}[static.name]
        values: Sequence[Any] = (True, False) if static.kind == "bool" else static.choices
        found[static.name] = [value for value in values if value != now]
    return found


def _other_statics(layer: Layer, first: Variant, given: Sequence[str]) -> Iterator[Variant]:
    """Every other value of bools and enums."""
    for name, values in _values(layer, first).items():
        for value in values:
            statics = {**first.statics, name: value}
            yield from _maybe(layer, first, f"{name} = {shown(value)}", given, first.signatures, statics)


def shown(value: Any) -> str:
    """A static value as ``.ssm`` spells it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _maybe(
    layer: Layer,
    first: Variant,
    label: str,
    present: Sequence[str],
    signatures: Mapping[str, Any],
    statics: Mapping[str, Any],
) -> Iterator[Variant]:
    """The specialisation, if the layer has it."""
    try:
        found = replace(_variant(layer, label, present, signatures, statics, first.asked), like=first)
    except UserError:
        return
    if found.sizes({}) is not None:
        yield found


def _variant(
    layer: Layer,
    label: str,
    present: Sequence[str] | None,
    signatures: Mapping[str, Any],
    statics: Mapping[str, Any],
    asked: Mapping[str, int],
) -> Variant:
    own = {name: value for name, value in statics.items() if layer.statics.get(name) != value}
    program = layer.program(present, signatures, **own)
    changed = ", ".join(f"{name} = {shown(value)}" for name, value in own.items())
    unknown = [axis for axis in asked if axis not in {a.name for a in program.axes}]
    if unknown and not label:
        raise UserError(f"{layer.name} has no axis {unknown[0]!r}", expected=", ".join(a.name for a in program.axes))
    return Variant(label, program, own, dict(signatures), changed, dict(asked))


def _is_small(variant: Variant) -> bool:
    """Whether a case of the specialisation is soon computed."""
    sizes = variant.sizes({})
    if sizes is None:
        return False
    return (
        max(sizes.values(), default=0) <= LARGEST_EXTENT and look_back_of(variant.program, sizes) <= LONGEST_LOOK_BACK
    )


def _bulk(variant: Variant) -> float:
    """How much work a case of the specialisation is, roughly."""
    sizes = variant.sizes({})
    if sizes is None:
        return math.inf
    largest = max(points(e.axes, sizes) for e in variant.program.equations)
    return largest + sum(sizes.values()) + look_back_of(variant.program, sizes)
