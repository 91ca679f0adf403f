"""Loops → Loops: how each kernel is dealt out to programs that work on whole tiles, and where a program keeps what it
keeps.

A program takes a block of neighbouring lanes at one point of the grid and walks through time in order; where a
kernel has no lanes, neighbours along the last axis of its grid take their place. An inner axis along which something is
kept is a dimension of the tiles, padded to a power of two and masked; so is any other of known extent while tiles stay
small. Along the rest a program loops.

Tiles live in registers, where no element has an address. So these lie in memory of the program's own: what is kept for
each step of a chunk of time, carried values of many steps, and arrays that are read at computed places. A sum over a
group of lanes is one program's.

Where a kernel takes steps at once, these are the last dimension of its tiles, and all that it keeps is in registers.

Precondition: kernels without tiles of time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ssmc.errors import TooLarge, Unsupported, UserError
from ssmc.ir.loops import (
    Add,
    Group,
    Kernel,
    LaneSum,
    Loops,
    Statement,
    Store,
    Tiles,
    Variable,
    inner_axes,
    operands,
    padded,
)  # fmt: skip
from ssmc.ir.scalar import Node, walk_nodes

from .at_once import NotAtOnce
from .options import PlanOptions

_ELEMENTS = 512  # of a tile, where lanes can be chosen freely
_LARGEST = 1 << 15  # elements of a tile, at most
_MANY_ELEMENTS, _FEW_LANES = 2048, 16  # the same where a kernel takes steps at once, and lanes of it
_WITHOUT_STATES, _WITH_STATES = 4, 16  # elements for each thread then, at most, as long as warps last
_BLOCK = 128  # lanes of a program, at most, where no sum over a group of lanes says how many
_EACH = 8  # elements of a tile for each thread, at most, as long as warps last
_WARP, _WARPS = 32, 16
_STEPS = 8  # steps for a program where steps do not depend on each other
_MOVED = 8  # steps of a carried value that move on from variable to variable, at most


def tiles_of_lanes(loops: Loops, together: int, options: PlanOptions, halved: Mapping[str, int]) -> Loops:
    """Every kernel with its ``Tiles``; ``together`` lanes make one part of a sum over lanes. What ``options`` do not
    say is chosen here; tiles are ``halved`` so often, by the name of their kernel.

    Raises NotAtOnce if a kernel would take steps at once and cannot; else, naming the equation, TooLarge where tiles
    would be too large, and Unsupported where a value would be kept along an axis whose extent is not compiled in.
    """
    kernels = [
        replace(k, tiles=_Tiling(loops, k, together, options, halved.get(k.name, 0)).run()) for k in loops.kernels
    ]
    return replace(loops, kernels=tuple(kernels))


@dataclass
class _Tiling:
    loops: Loops
    kernel: Kernel
    together: int
    options: PlanOptions
    halved: int

    @property
    def fixed(self) -> Mapping[str, int]:
        return self.loops.fixed

    def run(self) -> Tiles:
        k = self.kernel
        lane = self._lane()
        axes = self._axes(self.together if k.sums else 1)
        addressed = frozenset(n.number for n in self._reads() if not self._in_registers(n, (lane, *axes)))
        moving, remembered = self._rings(addressed)
        largest = max((self._size(g, axes) for g in self._groups()), default=1) * self._at_once()
        block = 0 if lane is None else self._block(lane, largest)
        elements = max(1, block) * largest
        warps = self.options.warps or self._warps(block, elements)
        steps = 0 if k.recurrent or not k.time else k.chunk or self.options.steps or _STEPS
        reloaded = self._reloaded()
        remembered |= self._arrays(addressed) | reloaded
        if k.at_once and (remembered or addressed):
            raise NotAtOnce(
                f"kernel {k.name} keeps more than tiles of many steps hold: {', '.join(sorted(remembered))}"
            )
        return Tiles(lane, block, steps, axes, warps, moving, remembered, addressed, reloaded)

    def _warps(self, block: int, elements: int) -> int:
        """Warps that work on tiles of so many elements. Where tiles are halved because registers did not suffice, warps
        are not, so that each thread has fewer; but more than eight would leave each thread half the registers."""
        each, most = (max(1, _EACH >> self.halved), _WARPS // 2) if self.halved else (_EACH, _WARPS)
        if self.kernel.at_once:
            return self._warps_of_steps(block * self._at_once(), elements, most)
        return min(most, max(1, min(block // _WARP, 4), elements // (_WARP * each)))

    def _warps_of_steps(self, without_states: int, elements: int, most: int) -> int:
        """The same where steps are taken at once: of what has no inner axes a thread has a few elements. Fewer than
        one, and threads would share them: each would compute again what others have, exponentials too."""
        few, each = (max(1, n >> self.halved) for n in (_WITHOUT_STATES, _WITH_STATES))
        return min(most, max(1, without_states // (_WARP * few), elements // (_WARP * each)))

    def _block(self, lane: str, each: int) -> int:
        """Lanes of a program whose tiles have so many elements for each of them."""
        if self.kernel.sums:
            return self.together
        most = padded(self.fixed[lane]) if lane in self.fixed else self.options.block or _BLOCK
        if self.options.block:
            block = min(self.options.block, most)
            if block * each > _LARGEST:
                raise UserError(
                    f"plan: block={block} makes tiles of {block * each} numbers in kernel {self.kernel.name}",
                    expected=f"at most {_LARGEST}: block={max(1, padded(_LARGEST // each + 1) // 2)} or less",
                )
            return block
        lanes, elements = (_FEW_LANES, _MANY_ELEMENTS) if self.kernel.at_once else (_BLOCK, _ELEMENTS)
        times = max(0, self.halved - 1) if self.kernel.at_once else self.halved  # more threads come first
        return max(1, min(lanes >> times, most, (elements >> times) // each))

    # ------------------------------------------------------------ what a kernel is made of

    def _groups(self) -> list[Group]:
        return [g for groups in self.kernel.sections.values() for g in groups]

    def _statements(self) -> list[Statement]:
        return [s for g in self._groups() for s in g.statements]

    def _kept(self) -> list[Variable]:
        return [v for v in self.kernel.variables.values() if not v.local]

    def _refuse(self, why: str) -> Unsupported:
        """The refusal, at what the kernel writes first."""
        written = [s.tensor for s in self._statements() if isinstance(s, (Store, Add, LaneSum))]
        name = written[0] if written else self.kernel.rings[0].tensor
        span = next((e.span for e in self.loops.program.equations if e.name == name), None)
        return Unsupported(f"equation `{name}` {why}, which has no strategy on this target yet", span=span)

    # ------------------------------------------------------------ axes

    def _lane(self) -> str | None:
        """The axis along which a program takes several neighbours: adds to memory must not meet along it."""
        k = self.kernel
        found = k.lane or next((axis for axis in reversed(k.grid) if axis != k.part), None)
        for statement in self._statements():
            if isinstance(statement, Add) and found not in _plain(statement.indices):
                return self._without_lanes()
        return found

    def _without_lanes(self) -> str | None:
        if self.kernel.lane:
            raise self._refuse("adds to the same element from several lanes")
        return None

    def _axes(self, lanes: int) -> tuple[str, ...]:
        """The inner axes that are dimensions of tiles."""
        known = {a: None for g in self._groups() for a in g.axes if a in self.fixed}
        needed = {a for r in self.kernel.rings for a in r.dims} | {a for v in self._kept() for a in v.dims}
        for axis in sorted(needed):
            if axis not in self.fixed:
                raise self._refuse(f"keeps a value for each index along `{axis}`")
        found = set(known) - self._serial() | needed
        lanes *= self._at_once()
        while any(lanes * self._size(g, found) > _LARGEST for g in self._groups()):
            worst = max(self._groups(), key=lambda g: self._size(g, found))
            free = [a for a in worst.axes if a in found and a not in needed]
            if not free:
                largest = self._size(worst, found)
                why = f"works on {lanes * largest} numbers at once (at most {_LARGEST} fit into a tile)"
                if self.kernel.at_once:
                    raise NotAtOnce(f"kernel {self.kernel.name} {why}")
                raise TooLarge(self._refuse(why).diagnostics)
            found.remove(max(free, key=lambda a: (self.fixed[a], a)))
        return tuple(a for a in dict.fromkeys((*known, *sorted(needed))) if a in found)

    def _at_once(self) -> int:
        """Elements of a tile along time."""
        return padded(self.kernel.at_once) if self.kernel.at_once else 1

    def _serial(self) -> set[str]:
        """Axes along which adds to memory may meet: one follows the other, for which a loop is the plainest way."""
        found: set[str] = set()
        for group in self._groups():
            for statement in group.statements:
                if isinstance(statement, Add):
                    found |= set(group.axes) - _plain(statement.indices)
        return found

    def _size(self, group: Group, axes: Iterable[str]) -> int:
        """Elements of a tile along a group's own axes."""
        return math.prod(padded(self.fixed[a]) for a in set(group.axes) & set(axes))

    # ------------------------------------------------------------ where values are kept

    def _reads(self) -> list[Node]:
        """All reads of what is kept, at this step or carried."""
        found = {n.number: n for s in self._statements() for n in walk_nodes(operands(s))}
        return [n for n in found.values() if n.kind in ("ring", "final", "array")]

    def _rings(self, addressed: frozenset[int]) -> tuple[frozenset[str], frozenset[str]]:
        """Rings whose steps are variables of their own, and rings that are remembered."""
        computed = {n.name[0] for n in self._reads() if n.kind != "array" and n.number in addressed}
        moving, remembered = set(), set()
        for ring in self.kernel.rings:
            if ring.history:
                remembered.add(ring.tensor)
                if not self._addressed_while_rebuilt(ring.tensor, addressed):
                    moving.add(ring.tensor)
            elif ring.tensor in computed or ring.slots > _MOVED + 1:
                remembered.add(ring.tensor)
            elif ring.slots > 1:
                moving.add(ring.tensor)
        return frozenset(moving), frozenset(remembered)

    def _addressed_while_rebuilt(self, tensor: str, addressed: frozenset[int]) -> bool:
        nodes = [n for g in self.kernel.rebuild for s in g.statements for n in walk_nodes(operands(s))]
        return any(n.kind == "ring" and n.name[0] == tensor and n.number in addressed for n in nodes)

    def _arrays(self, addressed: frozenset[int]) -> frozenset[str]:
        """Variables that are remembered: those of each step of a chunk, and those that are read at computed places."""
        names = {n.name for n in self._reads() if n.kind == "array" and n.number in addressed}
        read = {v.name for (_, *name), v in self.kernel.arrays.items() if tuple(name) in names}
        return frozenset(read | {v.name for v in self._kept() if v.chunk})

    def _reloaded(self) -> frozenset[str]:
        """What is known before time starts and would fill registers in loops that do not use it, because a chunk has
        two of them."""
        if not self.kernel.rebuild:
            return frozenset()
        found = [v for (section, _), v in self.kernel.variables.items() if section == "before"]
        return frozenset(v.name for v in found if v.dims and not v.local)

    def _in_registers(self, node: Node, axes: tuple[str | None, ...]) -> bool:
        """Whether a read of a kept value can be had of its tile: each index is that of a dimension as long as its own,
        or one for all elements; a lag is known, or can be one step only."""
        indices = node.args if node.kind == "array" else node.args[1:]
        single = {ring.tensor for ring in self.kernel.rings if ring.slots == 1}
        if node.kind != "array" and node.args[0].kind != "const" and node.name[0] not in single:
            return False
        own = inner_axes(self.loops.program.tensors()[node.name[0]].axes, self.kernel)
        plain = [i for i in indices if i.kind == "index" and i.name in axes]
        if len({i.name for i in plain}) < len(plain):
            return False
        for axis, index in zip(own, indices, strict=True):
            if index in plain:
                if index.name not in self.fixed or padded(self.fixed[axis]) != padded(self.fixed[str(index.name)]):
                    return False
            elif index.axes & set(axes):
                return False
        return True


def _plain(indices: Iterable[Node]) -> set[str]:
    """The axes whose own index is among these."""
    return {str(i.name) for i in indices if i.kind == "index"}
