"""The memory of a program's own: where in it each thing lies that a tile in registers cannot hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ssmc.ir import BOOL, INT, DType
from ssmc.ir.loops import padded

from .writer import Names

_ALIGNMENT = 128


@dataclass(frozen=True)
class Region:
    """``slots`` times one tile of ``type`` over the lanes (if ``lanes``) and inner ``axes``, from byte ``start`` on."""

    start: int
    type: DType
    slots: int
    lanes: int
    axes: tuple[str, ...]


class Memory:
    """Regions of one kernel by name: variables have their own, a part of a carried value is ``tensor part``."""

    def __init__(self, fixed: Mapping[str, int], precision: str, names: Names) -> None:
        self.fixed, self.precision, self.names = fixed, precision, names
        self.regions: dict[str, Region] = {}
        self.bytes = 0

    def add(self, name: str, type: DType, slots: int, lanes: int, axes: tuple[str, ...]) -> None:
        """Make room for a thing; ``lanes`` is 0 for what all lanes share."""
        self.regions[name] = Region(self.bytes, type, slots, lanes, axes)
        size = slots * self.size(name) * {INT: 8, BOOL: 1}.get(type, 8 if self.precision == "f64" else 4)
        self.bytes += -(-size // _ALIGNMENT) * _ALIGNMENT

    def size(self, name: str) -> int:
        """Elements of one tile."""
        region = self.regions[name]
        return max(1, region.lanes) * math.prod(padded(self.fixed[a]) for a in region.axes)

    def pointer(self, name: str) -> str:
        return self.names.get("w", name)

    def definition(self, name: str) -> str:
        """The line that makes a region's pointer of ``own``, the first byte of the program's memory."""
        region = self.regions[name]
        real = "tl.float64" if self.precision == "f64" else "tl.float32"
        type = {INT: "tl.int64", BOOL: "tl.int8"}.get(region.type, real)
        return f"{self.pointer(name)} = (own + {region.start}).to(tl.pointer_type({type}))"

    def address(self, name: str, slot: str, lane: str, indices: list[str]) -> str:
        """Pointers to elements of the tile in a slot."""
        region, step = self.regions[name], self.size(name)
        base = self.pointer(name) + ("" if slot == "0" else f" + {slot} * {step}")
        terms = []
        if lane:
            step //= region.lanes
            terms.append(f"{lane} * {step}" if step > 1 else lane)
        for axis, index in zip(region.axes, indices, strict=True):
            step //= padded(self.fixed[axis])
            terms.append(f"{index} * {step}" if step > 1 else index)
        return f"{base} + ({' + '.join(terms)})" if terms else base
