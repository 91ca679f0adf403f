"""Scalar nodes as CUDA C expressions: every thread has one lane."""

from __future__ import annotations

from ssmc.ir.loops import Block, Variable
from ssmc.ir.scalar import Node

from .c_family import Spelling


class Expressions(Spelling):
    """Spells nodes of one kernel; what lies in shared memory has one place for each thread of a block."""

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

    def _own(self, variable: Variable) -> str:
        return "[SSMC_THREAD]" if not variable.local and variable.name in self.block.shared else ""
