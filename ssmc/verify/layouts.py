"""Tensors that hold given values in unusual memory: permuted, with gaps, unaligned, gigabytes apart."""

from __future__ import annotations

import math
import mmap
import tempfile
from collections.abc import Callable, Iterable

import torch

from ssmc.errors import Unsupported

# More elements apart than an index of 32 bits can say, with a sign or without.
HUGE = 2**32 + 7


def permuted(value: torch.Tensor) -> torch.Tensor:
    """The same values, axes in reverse order in memory."""
    return _filled(
        value.permute(*reversed(range(value.dim()))).contiguous().permute(*reversed(range(value.dim()))), value
    )


def spaced(value: torch.Tensor) -> torch.Tensor:
    """Every second element along each axis of something larger."""
    larger = torch.zeros([2 * n for n in value.shape], dtype=value.dtype, device=value.device)
    return _filled(larger[tuple(slice(0, 2 * n, 2) for n in value.shape)], value)


def shifted(value: torch.Tensor) -> torch.Tensor:
    """One element into its memory, so that it is not aligned."""
    flat = torch.zeros(value.numel() + 1, dtype=value.dtype, device=value.device)
    return _filled(flat[1:].view(value.shape), value)


def _filled(target: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    target.copy_(value)
    return target


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "axes reversed in memory": permuted,
    "every second element": spaced,
    "unaligned": shifted,
}


class SparseMemory:
    """Memory for tensors like these, in which an axis of that extent has a stride beyond 2^32 elements; only what is
    touched exists.

    Raises Unsupported where the machine has no room for such a mapping.
    """

    def __init__(self, extent: int, tensors: Iterable[torch.Tensor]) -> None:
        self.offset = 0
        self.bytes = max(1, extent) * HUGE * max((t.element_size() for t in tensors), default=1)
        try:
            with tempfile.TemporaryFile() as file:
                file.truncate(self.bytes)
                self.memory = mmap.mmap(file.fileno(), self.bytes)
        except (OSError, ValueError, OverflowError) as error:
            size = f"{self.bytes / 2**30:.0f} GiB"
            raise Unsupported(f"no mapping of {size} for strides beyond 2^32 elements: {error}") from None

    def holding(self, value: torch.Tensor, axis: int | None) -> torch.Tensor:
        """The values of a tensor with a huge stride along ``axis``; contiguous where that is None."""
        inner = [n for place, n in enumerate(value.shape) if place != axis]
        strides = [math.prod(inner[place + 1 :]) for place in range(len(inner))]
        if axis is not None:
            strides.insert(axis, HUGE)
        count = math.prod(inner)
        itemsize = value.element_size()
        start = -(-self.offset // itemsize)
        self.offset = (start + count) * itemsize
        flat = torch.frombuffer(self.memory, dtype=value.dtype, count=self.bytes // itemsize)
        return _filled(flat.as_strided(value.shape, strides, start), value)
