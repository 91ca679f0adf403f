"""One call again and again: all addresses are written down, and of those only the state's are written anew.

Where a model runs token by token, a compiled layer takes hardly longer than finding out that nothing but its state has
changed. Who repeats a call finds that out for all layers at once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ssmc.errors import ToolchainError

from .build import Buffer, Call

_data_ptr, _threads = torch.Tensor.data_ptr, torch.get_num_threads


class Workspace:
    """Memory that calls which run one after another share: what one leaves there, the next overwrites."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, Buffer], Tensor] = {}

    def tensors(self, call: Call) -> list[Tensor]:
        """Room for all that a call works with and nobody else sees."""
        found = []
        for key, make in zip(enumerate(call.workspaces), call.spare, strict=True):
            if key not in self._made:
                self._made[key] = make()
            found.append(self._made[key])
        return found


class Repeated:
    """A call on the CPU of the same inputs, which is told its state each time and gives the next one.

    Args:
        call, given: as ``Layer.ready`` returns them. The inputs are read again each time; they are not kept, so the
            caller sees to it that their memory stays where it is.
        carried: of how many tensors the state consists.
        workspace: shared with other calls, but with none that runs at the same time.

    Attributes:
        outputs: what each call writes; the same memory every time.
    """

    __slots__ = ("_addresses", "_call", "_place", "_states", "_used", "_written", "outputs")

    def __init__(self, call: Call, given: Sequence[Tensor], carried: int, workspace: Workspace) -> None:
        number = len(call.makers) - carried
        self.outputs = [make() for make in call.makers[:number]]
        self._call, self._states = call, call.makers[number:]
        self._used = workspace.tensors(call)
        self._place, self._written = len(given) - carried, [*map(_data_ptr, self.outputs)]
        addresses = [*map(_data_ptr, given), *self._written, *[0] * carried, *map(_data_ptr, self._used)]
        self._addresses: Any = (ctypes.c_void_p * len(addresses))(*addresses)

    def run(self, before: Iterable[int] = ()) -> list[Tensor]:
        """The state after the call, for the addresses of the one before, which has the form of the first. Two threads
        may not do this at once. ToolchainError if there is not enough memory."""
        after = [make() for make in self._states]
        changed = [*before, *self._written, *map(_data_ptr, after)]
        self._addresses[self._place : self._place + len(changed)] = changed
        if self._call.entry(self._addresses, self._call.meta, _threads()):
            raise ToolchainError(
                f"{self._call.spec.layer}: there is not enough memory for the working space of its kernels"
            )
        return after
