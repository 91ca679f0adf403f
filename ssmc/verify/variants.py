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
    """Fewer specialisations that still meet everything once: for those who have to compile each."""
    optional = [item.name for item in layer.signature.inputs if not item.required]
    given = [tensor.name for tensor in first.program.inputs]
    if optional:
        yield from _maybe(layer, first, "required inputs only", (), {}, first.statics)
    for number in range(1, max((len(item.alternatives) for item in layer.signature.inputs), default=1)):
        chosen = {
            item.name: item.alternatives[number] for item in layer.signature.inputs if len(item.alternatives) > number
        }
        label = ", ".join(f"{name}[{', '.join(axes)}]" for name, axes in chosen.items())
        yield from _maybe(layer, first, label, given, {**first.signatures, **chosen}, first.statics)
    yield from _other_statics(layer, first, given)


def _other_statics(layer: Layer, first: Variant, given: Sequence[str]) -> Iterator[Variant]:
    """Every other value of bools and enums."""
    for static in layer.signature.statics:
        now = {**{s.name: s.default for s in layer.signature.statics}, **first.statics}[static.name]
        values: Sequence[Any] = (True, False) if static.kind == "bool" else static.choices
        for value in values:
            if value != now:
                statics = {**first.statics, static.name: value}
                yield from _maybe(layer, first, f"{static.name} = {shown(value)}", given, first.signatures, statics)


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
