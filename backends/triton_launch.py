"""How a Triton kernel is launched, as data: it is written next to the machine code as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

MOST_PROGRAMS = (1 << 31) - 1


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel. ``kind`` says what it is given:

    ======= =============================================== =========
    kind    of                                              type
    ======= =============================================== =========
    pointer tensor: to its first element                    as stored
    stride  tensor, axis: in elements (complex ones: pairs) i64
    extent  axis                                            i64
    memory  the programs' own memory                        bytes
    first   number of the first program of this launch      i64
    ======= =============================================== =========

    ``unit`` marks the strides along last axes. Machine code that is made beforehand does not have these parameters: it
    is for strides of 1.
    """

    name: str
    kind: str
    of: tuple[str, ...]
    type: str
    unit: bool = False


def wanted(extents: Mapping[str, int], one: Sequence[str], more: Sequence[str]) -> bool:
    """Whether a kernel is launched that wants all extents in ``one`` to be 1 and some in ``more`` not to be."""
    return all(extents[axis] <= 1 for axis in one) and (not more or any(extents[axis] > 1 for axis in more))


@dataclass(frozen=True)
class TileLaunch:
    """One kernel. It has a program for each point of ``grid``, times the stretches of ``steps`` along ``time`` if
    ``steps`` is not 0, times the blocks of ``block`` neighbours along ``lane``, if there is one. ``warps`` work on
    each; ``memory`` is the number of bytes that each has of its own, all of them one after another. There is none
    unless all axes in ``one`` have one index, and unless one in ``more`` has more, if there are any."""

    kernel: str
    grid: tuple[str, ...]
    lane: str | None
    block: int
    time: str | None
    steps: int
    warps: int
    memory: int
    parameters: tuple[Parameter, ...]
    one: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    def programs(self, extents: Mapping[str, int]) -> int:
        """How many programs these extents take."""
        if not wanted(extents, self.one, self.more):
            return 0
        points = [extents[axis] for axis in self.grid]
        if self.steps:
            points.append(-(-extents[str(self.time)] // self.steps))
        if self.lane:
            points.append(-(-extents[self.lane] // self.block))
        return math.prod(points)

    def pieces(self, extents: Mapping[str, int]) -> Iterator[tuple[int, int]]:
        """The launches that these extents take: the first program and the number of programs of each."""
        total = self.programs(extents)
        for first in range(0, total, MOST_PROGRAMS):
            yield first, min(MOST_PROGRAMS, total - first)

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def tile_launch(facts: Mapping[str, Any]) -> TileLaunch:
    """A launch from what JSON has of it."""
    parameters = tuple(Parameter(**{**item, "of": tuple(item["of"])}) for item in facts["parameters"])
    return TileLaunch(**{**facts, "grid": tuple(facts["grid"]), "parameters": parameters})
