"""Which reads of a kernel for GPUs fetch a whole row at once: what a loop that is written out reads along its axis.

    for n: h[n] = a[n] * h[n] + x * B[b, t, n]      reads the row B[b, t] ahead of the loop

Where the row lies side by side in memory, as is known only when the kernel runs, sixteen bytes are fetched together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ssmc.ir.loops import Add, Group, Kernel, LaneSum, SharedTile, Store, inner_axes, own_nodes
from ssmc.ir.scalar import Node, is_plain

TOGETHER = 16  # bytes that one access fetches, at most
_WORDS = 64  # 32-bit words of all rows of a loop, at most: they wait in registers


def rows_of(
    kernel: Kernel,
    axes: Mapping[str, tuple[str, ...]],
    fixed: Mapping[str, int],
    unrolled: frozenset[str],
    stored_in: Mapping[str, int],
    tile: SharedTile | None = None,
) -> dict[tuple[str, int], tuple[Node, ...]]:
    """The reads of rows of each group, by section and place in it.

    Args:
        axes: those of each tensor.
        fixed: extents that are compiled in.
        unrolled: inner axes whose loops are written out.
        stored_in: bytes of an element of each tensor in memory that holds plain numbers.
        tile: what comes from shared memory, where rows lie side by side along the innermost axis alone.
    """
    statements = [s for groups in kernel.sections.values() for g in groups for s in g.statements]
    written = {s.tensor for s in statements if isinstance(s, (Store, Add, LaneSum))}
    found = {}
    for section, groups in kernel.sections.items():
        for place, group in enumerate(groups):
            along = group.axes[-1] if group.axes else ""
            if along not in unrolled:
                continue
            room, chosen = _WORDS, []
            for node in _reads(kernel, section, group):
                tensor = node.name[0]
                bytes_ = fixed[along] * stored_in.get(tensor, 0)
                if tensor in written or bytes_ < TOGETHER or not _is_row(node, axes[tensor], along):
                    continue
                if tile and node.number in tile.loads and inner_axes(axes[tensor], kernel)[-1] != along:
                    continue
                words = math.ceil(bytes_ / 4)
                if words <= room:
                    chosen.append(node)
                    room -= words
            if chosen:
                found[section, place] = tuple(chosen)
    return found


def _reads(kernel: Kernel, section: str, group: Group) -> list[Node]:
    """The loads of a group, each once."""
    nodes = [node for s in group.statements for node in own_nodes(kernel, section, s) if node.kind == "load"]
    return list({node.number: node for node in nodes}.values())


def _is_row(node: Node, axes: tuple[str, ...], along: str) -> bool:
    """Whether a load is of the very point at which the kernel is, so that all of its row is there."""
    plain = all(is_plain(a, axis) for a, axis in zip(node.args, axes, strict=True))
    return plain and along in axes
