"""Which reads of a kernel for GPUs a block makes together: what all of its lanes read alike, a tile of steps at a time.

    h = a[b, t, d] * h[t-1] + x[b, t, d] * B[b, t, n]        B[b, t] is the same for all lanes d

A block then has neighbouring lanes at one point of the grid. Into shared memory comes, while it works on one tile, what
it reads at the steps of the next: each number once, and nobody waits for it at each step.

Precondition: steps in order, each at the same time for all lanes of a block, or chunks of time, which are tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from ssmc.errors import UserError
from ssmc.ir.loops import Add, Kernel, LaneSum, SharedTile, Store, inner_axes, own_nodes
from ssmc.ir.scalar import Node, is_plain, walk_nodes

from .row_reads import TOGETHER

_STEPS = (32, 16, 8)  # of a tile: the most for which there is room
_LEAST = 1 << 10  # bytes of a tile that are worth a barrier
_SPELLED = frozenset({"index", "const", "size", "op"})  # what a block can say of an index before its steps


def tile_of(
    kernel: Kernel,
    axes: Mapping[str, tuple[str, ...]],
    fixed: Mapping[str, int],
    stored_in: Mapping[str, int],
    asked: int,
    room: int,
) -> SharedTile | None:
    """The tile of a kernel, if it has one.

    Args:
        axes: those of each tensor.
        fixed: extents that are compiled in.
        stored_in: bytes of an element of each tensor in memory that holds plain numbers.
        asked: steps of a tile, if a plan says so; 1 if there is to be none.
        room: bytes of shared memory, for two tiles.

    Raises UserError if what a plan asks for takes more.
    """
    if not (kernel.recurrent and kernel.time and kernel.lane) or asked == 1:
        return None
    found = {node: _extents(node, axes[node.name[0]], kernel, fixed) for node in _alike(kernel, axes)}
    found = {node: inner for node, inner in found.items() if inner and node.name[0] in stored_in}
    shapes = {node: _padded(inner, stored_in[node.name[0]]) for node, inner in found.items()}
    bytes_of = {node: math.prod(shape) * stored_in[node.name[0]] for node, shape in shapes.items()}
    whole = sum(bytes_of.values())
    if not whole:
        return None
    fitting = [steps for steps in _STEPS if 2 * steps * whole <= room]
    steps = kernel.chunk or asked or (fitting[0] if fitting else _STEPS[-1])
    if asked and not kernel.chunk and 2 * steps * whole > room:
        raise UserError(
            f"plan: shared={asked} takes {2 * steps * whole} bytes of shared memory in kernel {kernel.name}",
            expected=f"at most {room}",
        )
    chosen, taken = [], 0
    for node, bytes_ in sorted(bytes_of.items(), key=lambda item: (item[1], item[0].number)):
        if 2 * steps * (taken + bytes_) <= room:
            chosen.append(node)
            taken += bytes_
    worth = steps * sum(math.prod(found[node]) * stored_in[node.name[0]] for node in chosen)
    if not chosen or (not asked and worth < _LEAST):
        return None
    return SharedTile(steps, {node.number: (node, shapes[node]) for node in chosen}, 2 * steps * taken)


def _alike(kernel: Kernel, axes: Mapping[str, tuple[str, ...]]) -> Iterator[Node]:
    """The loads of a step that are the same for all lanes, each once, from memory that the kernel does not write."""
    statements = [(section, s) for section, groups in kernel.sections.items() for g in groups for s in g.statements]
    written = {s.tensor for _, s in statements if isinstance(s, (Store, Add, LaneSum))}
    nodes = {n.number: n for section, s in statements for n in own_nodes(kernel, section, s)}
    for node in nodes.values():
        if node.kind == "load" and node.name[0] not in written and _is_alike(node, axes[node.name[0]], kernel):
            yield node


def _is_alike(node: Node, axes: tuple[str, ...], kernel: Kernel) -> bool:
    """Whether a load is of the present step and the same for all lanes. An index that is computed of those of the grid
    may lie outside, where what is read is not used."""
    if node.name[1] != "re" or kernel.time not in axes or kernel.lane in node.axes:
        return False
    for axis, index in zip(axes, node.args, strict=True):
        computed = index.axes <= set(kernel.grid) and all(n.kind in _SPELLED for n in walk_nodes((index,)))
        if not is_plain(index, axis) and (not computed or axis == kernel.time):
            return False
    return True


def _extents(node: Node, axes: tuple[str, ...], kernel: Kernel, fixed: Mapping[str, int]) -> tuple[int, ...]:
    """What a load reads at a step: the extents of its inner axes; none if that is a single number, or not known."""
    along = [axis for axis in inner_axes(axes, kernel) if axis in node.axes]
    return tuple(fixed[axis] for axis in along) if all(axis in fixed for axis in along) else ()


def _padded(inner: tuple[int, ...], bytes_: int) -> tuple[int, ...]:
    """Such extents where rows, of numbers of so many bytes, fill whole accesses."""
    together = TOGETHER // bytes_
    return (*inner[:-1], -(-inner[-1] // together) * together)
