"""Loops → Loops: how each kernel is spread over the threads of a GPU, and where a thread keeps what it keeps.

One thread takes one point of the grid and one lane, and walks through time in order; neighbouring threads take
neighbouring lanes, so that a warp reads rows of memory. Where steps do not depend on each other a thread takes a
few. A sum over a group of lanes is gathered by the block that is this group, in a fixed order.

What is kept along inner axes stays in registers where their loops can be written out. What is rebuilt for a chunk of
time (a number per step) lies in shared memory where a block's share of it is small; else, like all that is too much
for registers, in memory of the thread's own, which the hardware interleaves and caches.

Precondition: kernels without tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ssmc.errors import TooLarge, UserError
from ssmc.ir import BOOL, INT, DType
from ssmc.ir.loops import (
    Add,
    Block,
    Group,
    Kernel,
    LaneSum,
    Limits,
    Loops,
    Ring,
    SharedTile,
    Store,
    Variable,
    own_nodes,
)
from ssmc.ir.scalar import Node, is_plain, walk_nodes

from .joined import JOINED
from .options import MOST_THREADS, PlanOptions
from .row_reads import rows_of
from .shared_reads import tile_of

WARP = 32
THREADS = 128
_STEPS = 8  # steps for a thread where steps do not depend on each other
_LONGEST = 64  # steps of a loop that is written out, at most
_STATEMENTS = 256  # statements that a loop nest becomes, written out, at most
_NUMBERS = 128  # 32-bit numbers that a thread keeps in registers along inner axes, at most
_FEW, _SOME = 32, 100  # of those, so many that four blocks, or two, still have room at once
_AHEAD = 4  # rounds of a loop whose loads are issued together
_SHORT_STEP = 350  # operations of a step, written out, of which four are taken together
_HEAVY = 1400  # operations, written out, that want more registers than four blocks of 128 threads leave each other
_SHIFTED = 8  # steps of a carried value that move on by one place each step, at most
_SHARED = 48 << 10  # bytes of shared memory for a block: so many every GPU gives, to several blocks at once


def spread(
    loops: Loops, precision: str, stored_in: Mapping[str, int], options: PlanOptions, limits: Limits, together: int,
    halved: Mapping[str, int],
) -> Loops:  # fmt: skip
    """Every kernel with its ``Block``; reals are computed in ``precision``, ``f32`` or ``f64``. ``stored_in``: bytes
    of an element of each tensor in memory that holds plain numbers. What ``options`` do not say is chosen here.
    ``together`` lanes make one part of a sum over lanes. For how many blocks a multiprocessor is to have room is
    ``halved`` so often, by the name of their kernel.

    Raises TooLarge if such a part takes more than ``limits``, UserError if ``options`` do.
    """
    real = 8 if precision == "f64" else 4
    axes = {name: tensor.axes for name, tensor in loops.program.tensors().items()}
    about = loops.fixed, axes, real, stored_in, options, limits, together
    return replace(loops, kernels=tuple(_Spreading(k, halved.get(k.name, 0), *about).run() for k in loops.kernels))


@dataclass
class _Spreading:
    kernel: Kernel
    halved: int
    fixed: Mapping[str, int]
    axes: Mapping[str, tuple[str, ...]]
    real: int
    stored_in: Mapping[str, int]
    options: PlanOptions
    limits: Limits
    together: int

    def run(self) -> Kernel:
        k = self.kernel
        shifted = frozenset(r.tensor for r in k.rings if not r.history and 1 < r.slots <= _SHIFTED + 1)
        threads = self._threads()
        room = min(_SHARED, self.limits.shared)
        each_step = False
        if k.sums:
            each_step = self._bytes_of_sums(threads, k.chunk) > room // 2
            room -= self._bytes_of_sums(threads, 1 if each_step else k.chunk)
        tile = self._tile(room // 3)
        shared, rings = self._shared((room - (tile.bytes if tile else 0)) // threads)
        steps = 0 if k.recurrent or not k.time else k.chunk or self.options.steps or _STEPS
        unrolled = self._unrolled()
        block = Block(
            threads, self._together(unrolled, threads), bool(k.sums or tile), each_step, steps, unrolled,
            self._ahead(unrolled), shared, rings, shifted, self._batch(unrolled), self._loads(),
            rows_of(k, self.axes, self.fixed, unrolled, self.stored_in, tile), tile,
        )  # fmt: skip
        return replace(k, block=block)

    # ------------------------------------------------------------ shared memory

    def _threads(self) -> int:
        """Threads of a block, as far as the GPU has them and what they gather."""
        k, most = self.kernel, self.limits
        if not k.sums:
            if self.options.threads > most.threads:
                raise UserError(f"plan: threads={self.options.threads}", expected=f"at most {most.threads} on this GPU")
            return self.options.threads or min(THREADS, most.threads)
        gathered = self._bytes_of_sums(self.together, 1)
        if self.together > most.threads or gathered > most.shared:
            raise TooLarge(
                f"equation `{k.sums[0]}`: a block of {self.together} threads gathers its sums in {gathered} bytes of "
                f"shared memory; the GPU has {most.shared} bytes and {most.threads} threads for a block"
            )
        return self.together

    def _bytes_of_sums(self, threads: int, steps: int) -> int:
        found = [s for g in self.kernel.step for s in g.statements if isinstance(s, LaneSum)]
        numbers = sum(self._count(s.dims) * self._bytes(s.node.type) for s in found)
        return threads // WARP * steps * numbers

    def _tile(self, room: int) -> SharedTile | None:
        """What a block fetches together; kernels that are joined have other lanes, or parts, in a block."""
        if self.options.time in JOINED:
            return None
        return tile_of(self.kernel, self.axes, self.fixed, self.stored_in, self.options.shared, room)

    def _shared(self, room: int) -> tuple[frozenset[str], frozenset[str]]:
        """Variables and rings with something for each step of a chunk, as far as a thread's share of ``room`` bytes
        holds them; small things first."""
        held: dict[tuple[str, bool], int] = {}
        for ring in self.kernel.rings:
            if ring.history:
                size = ring.slots * self._count(ring.dims) * self._bytes(ring.type) * len(ring.parts)
                held[ring.tensor, True] = size
        for variable in self._kept():
            if variable.chunk:
                size = self.kernel.chunk * self._count(variable.dims) * self._bytes(variable.type)
                held[variable.name, False] = size
        chosen = []
        for key, size in sorted(held.items(), key=lambda item: (item[1], item[0])):
            if size <= room:
                chosen.append(key)
                room -= size
        return frozenset(n for n, ring in chosen if not ring), frozenset(n for n, ring in chosen if ring)

    def _kept(self) -> list[Variable]:
        return [v for v in self.kernel.variables.values() if not v.local]

    def _count(self, dims: Iterable[str]) -> int:
        return math.prod(self.fixed[a] for a in dims)

    def _bytes(self, type: DType) -> int:
        return {INT: 8, BOOL: 4}.get(type, self.real)

    # ------------------------------------------------------------ registers

    def _together(self, unrolled: frozenset[str], threads: int) -> int:
        """The fewer numbers a thread keeps, the more blocks hide each other's waiting."""
        if self.options.together:
            return min(self.options.together, MOST_THREADS // threads)
        words = self._words(set(unrolled))
        room = max(1, THREADS * 4 // threads)
        found = min(room, 4 if words <= _FEW else 2 if words <= _SOME else 1)
        heavy = max(self._weight(section, unrolled) for section in ("before", "rebuild", "step", "after"))
        much = heavy * self._batch(unrolled) * threads > _HEAVY * THREADS
        return max(1, (found >> much) - self.halved)

    def _ahead(self, unrolled: frozenset[str]) -> int:
        """Rounds of innermost loops that are written out: one where a round is long by itself."""
        if self.options.ahead:
            return self.options.ahead
        longest = max((self._text(g, set(unrolled)) for gs in self.kernel.sections.values() for g in gs), default=0)
        return _AHEAD if longest * _AHEAD <= _STATEMENTS // 4 else 1

    def _unrolled(self) -> frozenset[str]:
        """The inner axes whose loops are written out: short ones along which something is kept, the longest left out
        first where that is too much text or what is kept along them too much for registers."""
        groups = [(section, g) for section, groups in self.kernel.sections.items() for g in groups]
        kept = {a for v in self._kept() for a in v.dims} | {a for r in self.kernel.rings for a in r.dims}
        axes = {a for a in kept if a in self.fixed and self.fixed[a] <= _LONGEST}
        while axes:
            worst = [
                g for section, g in groups
                if self._text(g, axes) > _STATEMENTS or self._moved_out(section, g, axes) > _NUMBERS
            ]  # fmt: skip
            if not worst and self._words(axes) <= _NUMBERS:
                break
            among = {a for g in worst for a in g.axes} & axes or axes
            axes.remove(max(among, key=lambda a: (self.fixed[a], a)))
        return frozenset(axes)

    def _moved_out(self, section: str, group: Group, axes: set[str]) -> int:
        """Numbers that a group reads which are the same at all steps: where its loops over these axes are written out,
        compilers read them ahead of the loop over time, and keep them in registers all the while."""
        if section not in ("rebuild", "step") or not self.kernel.time or not set(group.axes) <= axes:
            return 0
        nodes = {n.number: n for s in group.statements for n in own_nodes(self.kernel, section, s) if n.kind == "load"}
        found = 0
        for node in nodes.values():
            along = {str(n.name) for n in walk_nodes((node,)) if n.kind == "index"}
            if self.kernel.time not in along:
                found += self._count(a for a in group.axes if a in along)
        return found

    def _batch(self, unrolled: frozenset[str]) -> int:
        """Steps that are taken together: few where a step is long."""
        if not self.kernel.time or not self._loads():
            return 1
        if self.options.batch:
            return self.options.batch
        return 4 if max(self._weight(section, unrolled) for section in ("rebuild", "step")) <= _SHORT_STEP else 1

    def _weight(self, section: str, unrolled: frozenset[str]) -> int:
        """Operations that a section is, its loops written out."""
        return sum(
            self._count(a for a in group.axes if a in unrolled)
            * sum(len(own_nodes(self.kernel, section, s)) for s in group.statements)
            for group in self.kernel.sections[section]
        )

    def _loads(self) -> dict[tuple[str, int], Node]:
        """What each step reads of its own time, outside of loops, from memory that the kernel does not write: it may
        be read some steps earlier."""
        found: dict[tuple[str, int], Node] = {}
        statements = [s for groups in self.kernel.sections.values() for g in groups for s in g.statements]
        written = {s.tensor for s in statements if isinstance(s, (Store, Add, LaneSum))}
        for section in ("rebuild", "step"):
            for statement in (s for g in self.kernel.sections[section] if not g.axes for s in g.statements):
                for node in own_nodes(self.kernel, section, statement):
                    if node.kind == "load" and node.name[0] not in written and self._is_own(node):
                        found[section, node.number] = node
        return found

    def _is_own(self, node: Node) -> bool:
        """Whether a load is of the very point of the grid, lane and time."""
        axes = self.axes[node.name[0]]
        plain = all(is_plain(a, axis) for a, axis in zip(node.args, axes, strict=True))
        return plain and self.kernel.time in axes

    def _text(self, group: Group, axes: set[str]) -> int:
        """Statements that a group becomes when the loops over these axes are written out."""
        return len(group.statements) * self._count(a for a in group.axes if a in axes)

    def _words(self, axes: set[str]) -> int:
        """32-bit numbers in arrays that can stay in registers."""
        arrays: list[tuple[tuple[str, ...], int]] = []
        for ring in self.kernel.rings:
            if not ring.history:
                arrays.append((ring.dims, self._ring_words(ring)))
        for variable in self._kept():
            if not variable.chunk and variable.dims:
                arrays.append((variable.dims, self._count(variable.dims) * self._bytes(variable.type) // 4))
        return sum(words for dims, words in arrays if dims and set(dims) <= axes)

    def _ring_words(self, ring: Ring) -> int:
        return ring.slots * len(ring.parts) * self._count(ring.dims) * self._bytes(ring.type) // 4
