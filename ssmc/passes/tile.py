"""Kernel → Kernel: run a block of states through a tile of time, instead of all states through each step.

    for t: before(t); for n: h[n] = f(t, h[n]), y += g(h[n]); after(t)
  =
    for each tile of t:
        for t in tile: before(t)
        for each block of n: for t in tile: for n in block: h[n] = …, y[t] += …
        for t in tile: after(t)

Precondition: one group of statements carries values, each entry only from its own past; what comes
before that group does not read carried values, and what comes after reads only what it accumulates.
The group's statements are plain arithmetic on values that lie in arrays of the kernel: a target can then
write them on whole vectors. The gain: the block's carried values stay in registers for a whole tile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ssmc.ir import REAL
from ssmc.ir.loops import Accumulate, Kernel, Let, RingSet, Statement, Store, Tile, Variable, own_nodes

from .options import PlanOptions

_STATES = 8  # carried numbers per vector that fit in registers beside what they are made of


def tile(kernel: Kernel, fixed: Mapping[str, int], options: PlanOptions, operations: frozenset[str]) -> Kernel:
    """The kernel with a ``Tile`` if it may and should have one, else unchanged; ``operations`` are those
    that the target has on whole vectors."""
    number = _carrying_group(kernel, operations)
    if number is None or not options.tile:
        return kernel
    axis = kernel.step[number].axes[0]
    parts = sum(len(ring.parts) for ring in kernel.rings)
    states = _divisor(fixed.get(axis, 1), max(1, (options.states or _STATES) // parts))
    crossing = _crossing(kernel)
    if states < 2 or states == fixed[axis] or any(v.dims for v in crossing):
        return kernel
    return replace(
        kernel, tile=Tile(kernel.chunk or options.tile, axis, states, number, frozenset(v.name for v in crossing))
    )


def _carrying_group(kernel: Kernel, operations: frozenset[str]) -> int | None:
    """The only group that touches carried values, if it treats each entry by itself."""
    if not kernel.rings or kernel.lane is None or kernel.arrays:
        return None
    touching = {i for i, g in enumerate(kernel.step) if any(_touches(kernel, s) for s in g.statements)}
    if len(touching) != 1:
        return None
    number = touching.pop()
    group = kernel.step[number]
    if len(group.axes) != 1 or any(r.dims != group.axes or r.slots > 1 or not r.lanes for r in kernel.rings):
        return None
    return (
        number if all(_own_entries(kernel, s) and _is_plain(kernel, s, operations) for s in group.statements) else None
    )


def _touches(kernel: Kernel, statement: Statement) -> bool:
    return isinstance(statement, RingSet) or any(n.kind == "ring" for n in own_nodes(kernel, "step", statement))


def _own_entries(kernel: Kernel, statement: Statement) -> bool:
    rings = [n for n in own_nodes(kernel, "step", statement) if n.kind == "ring"]
    return all(a.kind == "index" for n in rings for a in n.args[1:])


def _is_plain(kernel: Kernel, statement: Statement, operations: frozenset[str]) -> bool:
    """Whether a statement is arithmetic on reals, along lanes on what the kernel holds itself."""
    if isinstance(statement, Store) or (isinstance(statement, Accumulate) and statement.node.name[0] != "sum"):
        return False
    for node in own_nodes(kernel, "step", statement):
        if kernel.lane not in node.axes and node.kind in ("load", "const"):
            continue
        if node.kind == "op" and (node.type is not REAL or node.name not in operations):
            return False
        if node.kind in ("load", "select", "array", "final"):
            return False
    return True


def _crossing(kernel: Kernel) -> list[Variable]:
    """Values of a step that one group makes and another uses."""
    return [
        s.variable
        for g in kernel.step
        for s in g.statements
        if isinstance(s, (Let, Accumulate)) and not s.variable.local
    ]


def _divisor(extent: int, most: int) -> int:
    return max(d for d in range(1, most + 1) if extent % d == 0)
