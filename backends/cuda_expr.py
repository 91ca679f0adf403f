"""Scalar nodes as CUDA C expressions: every thread has one lane."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ssmc.ir import REAL
from ssmc.ir.loops import Block, Variable, inner_axes
from ssmc.ir.scalar import Node

from .c_family import Spelling

_WITHOUT_CALLS = frozenset({"div", "sqrt"})  # which compilers spell with a call for rare cases


class Expressions(Spelling):
    """Spells nodes of one kernel; what lies in shared memory has one place for each thread of a block."""

    batched = ""  # the section whose loads were made ahead, inside such a batch of steps
    rows: Mapping[int, tuple[Node, str]] = MappingProxyType({})  # reads whose rows the present group has fetched
    along = ""  # the axis of those rows
    kept: Mapping[str, tuple[str, ...]] = MappingProxyType({})  # tensors that stay in registers, and along which axes

    def element(self, tensor: str, part: str, indices: list[str]) -> str:
        if tensor not in self.kept:
            return super().element(tensor, part, indices)
        places = dict(zip(self.tensors[tensor].axes, indices, strict=True))
        return self.kept_name(tensor, part) + "".join(f"[{places[axis]}]" for axis in self.kept[tensor])

    def kept_name(self, tensor: str, part: str) -> str:
        """Where a tensor is that stays in registers."""
        return self.names.get("e", f"{tensor} {part}")

    def load(self, node: Node, section: str) -> str:
        if self.is_tiled(node) and node.number not in self.rows:
            place = self.tile_row(node) + f"[{self.axis(self.tile_axes(node)[-1])}]"
            return self.widen(place, self.storage[node.name[0]])
        if node.number in self.rows:
            _, row = self.rows[node.number]
            return self.widen(f"{row}[{self.axis(self.along)}]", self.storage[node.name[0]])
        if self.batched and (self.batched, node.number) in self.block.loads:
            return f"{self.ahead_name(node)}[u]"
        return super().load(node, section)

    def ahead_name(self, node: Node) -> str:
        """Where a load of a batch of steps is kept."""
        return self.names.get("a", f"{self.kernel.name} {node.name[0]} {node.name[1]} {node.number}")

    # ------------------------------------------------------------ tiles in shared memory

    def is_tiled(self, node: Node) -> bool:
        """Whether the block fetches what a load reads."""
        return self.block.tile is not None and node.number in self.block.tile.loads

    def tile_name(self, node: Node) -> str:
        return self.names.get("f", f"{self.kernel.name} {node.name[0]} {node.number}")

    def tile_shape(self, node: Node) -> list[int]:
        """Of the tile in use and the next."""
        assert self.block.tile is not None
        return [2, self.block.tile.steps, *self.block.tile.loads[node.number][1]]

    def tile_axes(self, node: Node) -> tuple[str, ...]:
        """The inner axes along which a load reads, in the order in which they lie in memory."""
        return tuple(a for a in inner_axes(self.tensors[node.name[0]].axes, self.kernel) if a in node.axes)

    def tile_row(self, node: Node) -> str:
        """The row that a load reads at the present step, in the tile in use."""
        step = "s" if self.kernel.chunk else "(int)(step - tile)"
        outer = "".join(f"[{self.axis(axis)}]" for axis in self.tile_axes(node)[:-1])
        return f"{self.tile_name(node)}[half][{step}]{outer}"

    @property
    def block(self) -> Block:
        assert self.kernel.block is not None
        return self.kernel.block

    def variable(self, variable: Variable) -> str:
        return super().variable(variable) + self._own(variable)

    def array(self, node: Node, section: str) -> str:
        tensor, part = node.name
        variable = self.kernel.arrays["rebuild" if section == "rebuild" else "step", tensor, part]
        return super().array(node, section) + self._own(variable)

    def ring_element(self, tensor: str, part: str, lag: str, inner: list[str], end: bool) -> str:
        own = "[SSMC_THREAD]" if tensor in self.block.shared_rings else ""
        return super().ring_element(tensor, part, lag, inner, end) + own

    def ring_slot(self, tensor: str, lag: str, end: bool) -> str:
        return f"[{lag}]" if tensor in self.block.shifted else super().ring_slot(tensor, lag, end)

    def first_slot(self, tensor: str, lag: int) -> str:
        return f"[{lag}]" if tensor in self.block.shifted else super().first_slot(tensor, lag)

    def operation(self, node: Node, args: list[str]) -> str:
        if self.precision == "f32" and node.name in _WITHOUT_CALLS and node.args[0].type is REAL:
            return self._call(str(node.name), args)
        return super().operation(node, args)

    def _own(self, variable: Variable) -> str:
        return "[SSMC_THREAD]" if not variable.local and variable.name in self.block.shared else ""
