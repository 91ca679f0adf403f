"""Nodes → items: which values a kernel computes on their own, and in which of its sections.

A node is computed in the outermost loop in which it is known: before time starts if it does not vary along time,
outside the loop over states if it does not vary along states, once for all lanes if it does not vary along lanes.
What is used once, where it is computed, stays part of what uses it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ssmc.ir import OPERATIONS, REAL
from ssmc.ir.loops import Add, LaneSum, RingSet, Store, operands
from ssmc.ir.scalar import Node

from .plan import KernelPlan
from .ranges import Ranges

SECTIONS = ("before", "enter", "rebuild", "step", "after")

# A value that does not vary along time is computed ahead when it takes at most so many numbers.
_LANE_ARRAY, _SCALAR_ARRAY = 256, 8192
STATEMENTS = frozenset({"reduce", "scan", "before", "total"})  # what takes more than an expression
_TRIVIAL = frozenset({"add", "sub", "mul", "neg", "int", "real", "ge", "lt", "and"})


@dataclass
class Item:
    """One statement to be placed: the node it computes or, for roots, the node it writes."""

    section: str
    node: Node
    axes: frozenset[str]
    lanes: bool
    statement: Store | RingSet | LaneSum | Add | None = None
    users: int = 0
    group: int = -1

    @property
    def uses(self) -> tuple[Node, ...]:
        """The nodes that it is made of."""
        return self.node.args if self.statement is None else operands(self.statement)

    @property
    def is_reduce(self) -> bool:
        return self.statement is None and self.node.kind == "reduce"

    @property
    def nest(self) -> frozenset[str]:
        """Axes of the loops that the statement's body runs in."""
        return self.axes | (set(self.node.name[1:]) if self.is_reduce else set())


class Items:
    """The items of one kernel by section and node; those in ``again`` are computed wherever they are used."""

    def __init__(self, kernel: KernelPlan, ranges: Ranges, again: frozenset[tuple[str, int]]) -> None:
        self.kernel, self.ranges, self.again = kernel, ranges, again
        self.inner = frozenset(kernel.inner)
        self.by_key: dict[tuple[str, int], Item] = {}
        self._final: dict[int, bool] = {}

    def section(self, node: Node, context: str) -> str:
        """The section in which a node that ``context`` needs is computed."""
        if self.kernel.time is None:
            return "step"
        if context == "before" or self._is_final(node):
            return context
        if self.kernel.time in node.axes:
            if context in ("enter", "rebuild"):
                return context
            return "rebuild" if self._is_rebuilt(node) else "step"
        return "before" if self._fits_ahead(node) else context

    def _is_final(self, node: Node) -> bool:
        """Whether a value follows from carried values after the last step."""
        known = self._final.get(node.number)
        if known is None:
            known = node.kind == "final" or any(self._is_final(a) for a in node.args)
            self._final[node.number] = known
        return known

    def _is_rebuilt(self, node: Node) -> bool:
        """Whether a step takes the value that was made ahead of it: what costs an exponential."""
        key = ("rebuild", node.number)
        if key not in self.by_key or key in self.again or node.kind != "op" or node.name not in OPERATIONS:
            return False
        return OPERATIONS[str(node.name)].exponentials > 0

    def _fits_ahead(self, node: Node) -> bool:
        """Whether there is room to keep a value that does not vary along time."""
        axes = node.axes & self.inner
        if any(self.ranges.varies(a) for a in axes):
            return False
        count = 1
        for axis in axes:
            count *= self.ranges.value(axis)
        lanes = self.kernel.lane in node.axes
        if node.kind == "load" and not lanes and axes:
            return False
        return count <= (_LANE_ARRAY if lanes else _SCALAR_ARRAY)

    def is_trivial(self, node: Node) -> bool:
        """Whether a value costs nothing to write out wherever it is used."""
        if node.kind in ("const", "index", "size"):
            return True
        integer = node.type is not REAL and node.kind == "op" and node.name in _TRIVIAL
        return integer and all(self.is_trivial(a) for a in node.args)

    def demand(self, node: Node, context: str, axes: frozenset[str], lanes: bool) -> None:
        """Note that a statement over ``axes`` (and lanes) in ``context`` uses the node; decide whether
        the node becomes a statement of its own."""
        if self.is_trivial(node):
            return
        section = self.section(node, context)
        key = (section, node.number)
        item = self.by_key.get(key)
        if item is not None:
            item.users += 1
            return
        item = Item(section, node, node.axes & self.inner, self.kernel.lane in node.axes, users=1)
        crosses = section != context or item.axes != axes or item.lanes != lanes
        if node.kind in STATEMENTS or crosses or self.is_long(node):
            item.users += 1
        self.by_key[key] = item
        below = item.nest
        for arg in node.args:
            self.demand(arg, section, below, item.lanes)

    def is_long(self, node: Node) -> bool:
        """Whether to end a loop over lanes with this value. Where a step has nothing but lanes, one loop
        over a long chain of operations waits for latencies; several loops over short ones do not."""
        if self.inner or node.type is not REAL or node.kind != "op" or self.kernel.lane not in node.axes:
            return False
        return OPERATIONS[str(node.name)].exponentials > 0 if node.name in OPERATIONS else False

    def keep(self, section: str, node: Node) -> None:
        """A carried value is computed before any ring is written: no later statement may see a new
        entry where it means the old one."""
        item = self.by_key.get((section, node.number))
        if item is not None:
            item.users += 1

    def force(self, section: str, node: Node) -> None:
        """Make the node an item, whoever uses it."""
        if self.is_trivial(node) or (section, node.number) not in self.by_key:
            item = self.by_key.setdefault((section, node.number), Item(section, node, node.axes & self.inner,
                                                                      self.kernel.lane in node.axes))  # fmt: skip
            for arg in node.args:
                self.demand(arg, section, item.nest, item.lanes)
        self.by_key[section, node.number].users += 2

    def is_item(self, section: str, node: Node) -> bool:
        """Whether the section computes the node on its own."""
        item = self.by_key.get((section, node.number))
        return item is not None and item.users > 1 and (section, node.number) not in self.again
