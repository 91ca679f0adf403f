"""What emitting gives: a text, and for targets whose kernels are launched one by one, how.

A ``Launch`` is data, so that it can be written next to the machine code as JSON: whoever launches needs neither the
compiler nor its intermediate forms.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ssmc.errors import UserError

from .triton_launch import TileLaunch, wanted

WARP = 32


MOST_POINTS = (1 << 31) - 1


@dataclass(frozen=True)
class Piece:
    """One launch of a kernel: from which index of what its threads take first (its first axis), how many of them,
    how many blocks of how many threads that makes, and how many numbers of 32 bits they signal with."""

    first: int
    count: int
    blocks: int
    threads: int
    signals: int = 0


@dataclass(frozen=True)
class Launch:
    """One kernel. Its threads are the points of ``grid``, times the stretches of ``steps`` along ``time`` if
    ``steps`` is not 0, times the lanes if there are any; ``threads`` make a block. With ``group`` a block instead
    takes so many neighbouring lanes at one point. ``shared`` bytes of shared memory go to each block. Where a kernel
    ``waits`` there are as many blocks for each index along that axis, which wait for those of the one before. A point,
    with its lane, is of ``width`` threads. There is no launch unless all axes in ``one`` have one index, and unless one
    in ``more`` has more, if there are any."""

    kernel: str
    grid: tuple[str, ...]
    lane: str | None
    time: str | None
    steps: int
    threads: int
    group: int
    shared: int
    waits: str = ""
    width: int = 1
    one: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    def pieces(self, extents: Mapping[str, int]) -> Iterator[Piece]:
        """The launches that these extents take: one, unless there are so many threads that their numbers do not fit
        into 32 bits; none where there is nothing to do.

        Raises UserError if one index of the first axis takes too many by itself.
        """
        if not wanted(extents, self.one, self.more):
            return
        points = [extents[axis] for axis in self.grid]
        if self.steps:
            points.append(-(-extents[str(self.time)] // self.steps))
        lanes = extents[self.lane] if self.lane else 1
        threads = min(self.threads, -(-max(lanes, 1) // WARP) * WARP) if self.group else self.threads
        if self.group:
            points.append(-(-lanes // self.group))
        elif self.lane:
            points.append(lanes)
        first, rest = (points[0], math.prod(points[1:])) if points else (1, 1)
        turns = extents[self.waits] if self.waits else 1
        each_one = rest * self.width * turns
        if each_one > MOST_POINTS:
            raise UserError(
                f"{self.kernel}: {each_one} threads for one index along its first axis", expected=f"{MOST_POINTS}"
            )
        each = MOST_POINTS // max(each_one, 1)
        for start in range(0, first if rest else 0, each):
            count = min(each, first - start)
            blocks = count * rest * turns if self.group else -(-count * rest * self.width // threads)
            yield Piece(start, count, blocks, threads, 1 + count * rest if turns > 1 else 0)

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Emitted:
    """The text of a Program, the name of its entry, and its kernels in the order in which they run, where the entry
    does not run them itself: of threads, or as programs on tiles."""

    text: str
    symbol: str
    launches: tuple[Launch, ...] = ()
    programs: tuple[TileLaunch, ...] = ()
