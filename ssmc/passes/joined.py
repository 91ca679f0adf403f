"""Loops → Loops: the kernels that pass a state from part to part of time, in one launch instead of three.

    summaries of all parts | the carry from part to part | each part from its own state

  look_back:  a block has one part of some lanes: its summary; then it waits for the state that the block before it has
              left, leaves its own, and runs through its part. Blocks take parts in the order in which they start, so
              that nobody waits for a block that cannot start.
  lanes:      a warp has 32 parts of one lane: the summary of each; one scan over all of them, from the state that the
              32 parts before have left; then each part.

What a part reads is still near when it is read again, and summaries stay in registers. The states are those of
``chunks`` to the bit in ``look_back``; a scan adds in another order.

Precondition: kernels of ``chunks``, with their blocks. They stay apart where others lie between them that need what
they make, where the grid of a carry differs, or where sums are gathered over lanes that a warp would not have side by
side.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ssmc.analysis import affine_form
from ssmc.ir import INT, DType, Read
from ssmc.ir.loops import Block, Group, Joined, Kernel, Loops, Passed, Ring, RingSet, Statement, Store, operands
from ssmc.ir.scalar import Node, walk_nodes

from .parts import ANY, CUT

JOINED = LOOK_BACK, LANES = "look_back", "lanes"


def joined(loops: Loops, way: str) -> Loops:
    """The kernels of every recurrence in parts joined, as far as they can be, so that they run ``way``."""
    kernels: dict[int, Kernel] = dict(enumerate(loops.kernels))
    kept: set[str] = set()
    for place, kernel in enumerate(loops.kernels):
        found = _Joining(loops, kernels, place, way).run() if kernel.part and not kernel.cut else None
        if found is not None:
            stages, kernels[place] = found
            for stage in stages:
                del kernels[stage]
            made = kernels[place].joined
            assert made is not None
            kept |= made.kept
    workspaces = tuple(name for name in loops.workspaces if name not in kept)
    return replace(loops, kernels=tuple(kernels[n] for n in sorted(kernels)), workspaces=workspaces)


class _Joining:
    """One kernel that runs through parts, with those that come before it for that alone."""

    def __init__(self, loops: Loops, kernels: Mapping[int, Kernel], place: int, way: str) -> None:
        self.loops, self.kernels, self.place, self.way = loops, kernels, place, way
        self.kernel = kernels[place]
        self.time = str(self.kernel.time)
        self.grid = {a for a in self.kernel.grid if a != self.kernel.part}
        self.tensors = loops.program.tensors()

    def run(self) -> tuple[list[int], Kernel] | None:
        """The places of the other kernels, and the one that has them all; None if they stay apart."""
        read, cut = _reads(self.kernel), f"{self.time}{CUT}"
        before = [(n, kernel) for n, kernel in self.kernels.items() if n < self.place]
        carries = [n for n, kernel in before if kernel.time == cut and read & _writes(kernel)]
        ends = {name for n in carries for name in _reads(self.kernels[n])}
        summaries = [n for n, kernel in before if kernel.cut and ends & _writes(kernel) and self._fits(kernel)]
        others = [self.kernels[n] for n in (*summaries, *carries)]
        if not carries or not summaries or self.kernel.lane is None or not all(map(self._fits, others)):
            return None
        if self.way == LANES and self.kernel.sums:
            return None
        passed = {n: self._passed(self.kernels[n]) for n in carries}
        made = {name for kernel in others for name in _writes(kernel)}
        values = {item.value for items in passed.values() for item in items}
        named = values | {str(name) for items in passed.values() for i in items for name in (i.factor, i.addend)}
        outside = {name for n, kernel in self.kernels.items() if n not in (*summaries, *carries, self.place)
                   for name in _reads(kernel)}  # fmt: skip
        if not all(passed.values()) or made & (outside | {*self.loops.program.outputs}):
            return None
        if read & made - values or ends & made - named or any(self.time in self.tensors[name].axes for name in made):
            return None
        kept = frozenset(made if self.way == LANES else made - values)
        joined = Joined(
            self.way,
            tuple(self._stage(self.kernels[n], kept) for n in summaries),
            tuple((self._restored(self._stage(self.kernels[n], kept)), items) for n, items in passed.items()),
            kept,
        )
        return [*summaries, *carries], replace(self._stage(self.kernel, kept), joined=joined)

    def _fits(self, other: Kernel) -> bool:
        """Whether a thread of this kernel can do what one of another does."""
        grid = {a for a in other.grid if a not in (other.part, f"{self.time}{ANY}")}
        inner = grid - self.grid
        same = (other.lane, other.reverse) == (self.kernel.lane, self.kernel.reverse) and self.grid <= grid
        small = all(axis in self.loops.fixed for axis in inner)
        if other.sums or other.chunk:  # what lies in shared memory of one stage may lie where that of another does
            return False
        return same and small and (not other.cut or other.steps == self.kernel.steps)

    def _passed(self, kernel: Kernel) -> tuple[Passed, ...]:
        """What a kernel carries over cuts, each element of which follows from its own past; nothing if something else
        is carried, too."""
        found = []
        for ring in kernel.rings:
            form = affine_form(self.loops.program.equation(ring.tensor).expr, (ring.tensor,))
            if form is None or len(form.terms) != 1 or not isinstance(form.rest, Read) or ring.slots != 1:
                return ()
            factor = form.terms[0].factor
            if not isinstance(factor, Read | None) or ring.tensor not in _writes(kernel):
                return ()
            found.append(Passed(ring.tensor, factor.tensor if factor else None, form.rest.tensor))
        return () if kernel.after or kernel.chunk else tuple(found)

    def _restored(self, kernel: Kernel) -> Kernel:
        """The kernel with what it carries read, ahead of a part, from where the part before has left it."""
        return kernel if self.way == LANES else replace(kernel, enter=tuple(map(self._entered, kernel.rings)))

    def _entered(self, ring: Ring) -> Group:
        cut, axes = f"{self.time}{CUT}", self.tensors[ring.tensor].axes
        numbers = itertools.count(-1, -1)  # no node of the kernel has one of those

        def node(kind: str, type: DType, name: object, args: tuple[Node, ...], along: Iterable[str]) -> Node:
            return Node(kind, type, name, args, frozenset(along), next(numbers))

        at = {axis: node("index", INT, axis, (), (axis,)) for axis in axes}
        one = node("const", INT, 1, (), ())
        past = node("op", INT, "add" if self.kernel.reverse else "sub", (at[cut], one), (cut,))
        there = tuple(past if axis == cut else at[axis] for axis in axes)
        group = Group(ring.dims, ())
        for part in ring.parts:
            load = node("load", ring.type, (ring.tensor, part), there, axes)
            group.lanes.append(RingSet(ring.tensor, part, 1, tuple(at[axis] for axis in ring.dims), load))
        return group

    def _stage(self, kernel: Kernel, kept: frozenset[str]) -> Kernel:
        """A kernel as one of several in a launch."""
        assert kernel.block is not None and self.kernel.block is not None
        block, whole = kernel.block, self.kernel.block
        return replace(
            kernel,
            block=replace(
                block,
                threads=whole.threads,
                together=self._together(whole.together, kept),
                grouped=self.way == LOOK_BACK,
                batch=1 if kernel.time == f"{self.time}{CUT}" else block.batch,
                loads={key: node for key, node in block.loads.items() if node.name[0] not in kept},
                rows=_without(block, kept),
            ),
        )

    def _together(self, blocks: int, kept: frozenset[str]) -> int:
        """Blocks that have room together: fewer where a thread keeps summaries of states all the while."""
        axes = {axis for name in kept for axis in self.tensors[name].axes}
        states = axes - {*self.grid, self.kernel.lane, f"{self.time}{CUT}"}
        return max(1, blocks // 2 if self.way == LANES else blocks - 1) if states else blocks


def _without(block: Block, kept: frozenset[str]) -> dict[tuple[str, int], tuple[Node, ...]]:
    """Rows that are fetched from memory."""
    return {
        key: rest for key, nodes in block.rows.items() if (rest := tuple(n for n in nodes if n.name[0] not in kept))
    }


def _reads(kernel: Kernel) -> set[str]:
    """Tensors that a kernel reads from memory."""
    own = {n.name[0] for s in _statements(kernel) for n in walk_nodes(operands(s)) if n.kind == "load"}
    return own.union(*map(_reads, kernel.joined.kernels)) if kernel.joined else own


def _writes(kernel: Kernel) -> set[str]:
    """Tensors that a kernel writes to memory."""
    return {s.tensor for s in _statements(kernel) if isinstance(s, Store)}


def _statements(kernel: Kernel) -> list[Statement]:
    return [s for groups in kernel.sections.values() for g in groups for s in g.statements]
