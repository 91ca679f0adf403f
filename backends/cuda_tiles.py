"""What a block fetches for all of its lanes → CUDA C: a tile of steps ahead, into shared memory.

first          the first tile is on its way
next           wait for this tile; all have it, and have done with the one before; the next is on its way
"""

from __future__ import annotations

import math

from ssmc.ir.scalar import Node, is_plain

from .cuda_expr import Expressions
from .storage import BYTES
from .writer import Names, Writer

_TOGETHER = 16  # bytes that one access fetches, at most


class TileEmitter:
    """Writes how the threads of a block fetch the tiles of one kernel, which has one."""

    def __init__(self, x: Expressions, names: Names, out: Writer) -> None:
        assert x.block.tile is not None
        self.x, self.names, self.out = x, names, out
        self.kernel, self.tile, self.time = x.kernel, x.block.tile, str(x.kernel.time)

    @property
    def steps(self) -> int:
        return self.tile.steps

    def first(self, first: str) -> None:
        """How tiles are fetched, and the one that begins at step ``first`` fetched."""
        out = self.out
        with out.block("const auto fetch = [&](int64_t first, int half)", "};"):
            out.line(f"const int steps = (int)(first + {self.steps} < stop ? {self.steps} : stop - first);")
            for node, _ in self.tile.loads.values():
                self._fetch(node)
        out.line("int half = 0;")
        out.line(f"if (start < stop) fetch({first}, half);")
        out.line("half = 1;")

    def next(self, now: str, steps: int) -> None:
        """At the start of the tile that begins at step ``now``: the one so many ``steps`` on is fetched."""
        following = f"{now} {'-' if steps < 0 else '+'} {abs(steps)}"
        self.out.line("half ^= 1;")
        self.out.line("ssmc_arrived();")
        self.out.line("SSMC_BARRIER();")
        self.out.line(f"if ({following} {'>= start' if steps < 0 else '< stop'}) fetch({following}, half ^ 1);")

    def _fetch(self, node: Node) -> None:
        """Each thread takes pieces of rows, neighbours neighbouring ones."""
        x, out, tensor = self.x, self.out, node.name[0]
        x.needed.add("ssmc_fetch")
        along = x.tile_axes(node)
        row = x.fixed[along[-1]]
        together = _TOGETHER // BYTES[x.storage[tensor]]
        pieces = -(-row // together)
        number = math.prod(x.fixed[axis] for axis in along[:-1]) * pieces
        # Of an axis that is empty there is nothing, and no thread uses what it reads of it.
        there = " && ".join(f"{x.size(axis)} > 0" for axis in self.computed(node))
        with out.block(f"if ({there})" if there else ""):
            indices = [self._index(*both) for both in zip(x.tensors[tensor].axes, node.args, strict=True)]
            with out.block(f"for (int e = SSMC_THREAD; e < steps * {number}; e += SSMC_THREADS)"):
                out.line(f"const int at = e / {number}, piece = e % {pieces} * {together};")
                out.line(f"const int64_t {x.axis(self.time)} = {self._time()};")
                for axis in along[:-1]:
                    number //= x.fixed[axis]
                    out.line(f"const int {x.axis(axis)} = e / {number} % {x.fixed[axis]};")
                outer = "".join(f"[{x.axis(axis)}]" for axis in along[:-1])
                to = f"&{x.tile_name(node)}[half][at]{outer}[piece]"
                offset = x.offset(tensor, ["piece" if i == x.axis(along[-1]) else i for i in indices])
                left = f"{row} - piece < {together} ? {row} - piece : {together}" if row % together else str(together)
                out.line(f"ssmc_fetch({to}, {x.pointer(tensor)} + {offset}, {x.stride(tensor, along[-1])}, {left});")

    def computed(self, node: Node) -> list[str]:
        """The axes of what is fetched whose index has to be computed."""
        return [a for a, i in zip(self.x.tensors[node.name[0]].axes, node.args, strict=True) if not is_plain(i, a)]

    def _time(self) -> str:
        """The index along time of the step ``at`` of a tile."""
        down = self.kernel.reverse and not self.kernel.chunk
        return f"{self.x.size(self.time)} - 1 - (first + at)" if down else "first + at"

    def _index(self, axis: str, index: Node) -> str:
        """The index along an axis of a tensor. One that is computed may lie outside, where the nearest is read, and not
        used."""
        if is_plain(index, axis):
            return self.x.axis(axis)
        place, size = self.names.get("at", axis), self.x.size(axis)
        self.out.line(f"const int64_t {place} = ssmc_inside({self._spelled(index)}, {size});")
        self.x.needed.add("ssmc_inside")
        return place

    def _spelled(self, node: Node) -> str:
        """An index computed of those of the grid, before there are variables that may hold it."""
        if node.kind == "op":
            return self.x.operation(node, [self._spelled(arg) for arg in node.args])
        return self.x.expr(node, "before", own=True)
