"""Values that a gradient makes again rather than keeps: cheap ones that follow from what is kept anyway.

    again = Again(u, lambda: conv(x, weight), x, weight)
    with made_again(again):
        y = linear(u, W)       # keeps how u is made, not u

PyTorch's checkpointing runs a whole region again; here each value is one call, and what is expensive stays kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from ssmc.runtime import nobody_intercepts

_top_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)


class Again:
    """How one value is made again.

    Args:
        value: the value, contiguous.
        make: gives it, with equal bits, while no gradient is recorded. It must not hold ``value`` or what was recorded.
        sources: the tensors that it is made of. As with all that autograd keeps, nobody may write to them in between.
    """

    def __init__(self, value: Tensor, make: Callable[[], Tensor], *sources: Tensor) -> None:
        self._address, self._elements, self._dtype = value.data_ptr(), value.numel(), value.dtype
        self._make, self._sources = make, [(source, source._version) for source in sources]
        self._kept, self._left = 0, 0
        self._value: Tensor | None = None

    def keep(self, value: Tensor) -> bool:
        """Whether this is that value, in any shape: then ``take`` will be called for it."""
        same = value.data_ptr() == self._address and value.numel() == self._elements and value.dtype is self._dtype
        if same and value.is_contiguous():
            self._kept += 1
            return True
        return False

    def take(self, shape: torch.Size) -> Tensor:
        """The value, made again for the first who asks and dropped after the last."""
        value = self._value
        if value is None:
            for source, version in self._sources:
                _check(source, version)
            with torch.no_grad():
                value = self._make()
            self._left = self._kept
        self._left -= 1
        self._value = value if self._left else None
        return value.view(shape)


@contextmanager
def made_again(*values: Again | None) -> Iterator[None]:
    """Within, autograd keeps none of these values, but how to make them; for None it keeps what it does anyway."""
    known = [value for value in values if value is not None]
    if not known:
        yield
        return

    def pack(tensor: Tensor) -> Any:
        found = next((value for value in known if value.keep(tensor)), None)
        return (tensor, tensor._version) if found is None else (found, tensor.shape)

    def unpack(packed: Any) -> Tensor:
        what, how = packed
        if isinstance(what, Again):
            return what.take(how)
        _check(what, how)
        return what

    with saved_tensors_hooks(pack, unpack):
        yield


def can_make_again(*values: Tensor) -> bool:
    """Whether autograd records these plain tensors, and nobody else says what it keeps, such as checkpointing, or
    traces or transforms what is recorded."""
    return (
        torch.is_grad_enabled()
        and any(value.requires_grad for value in values)
        and all(type(value) is Tensor and value.is_contiguous() for value in values)
        and not torch.compiler.is_compiling()
        and nobody_intercepts()
        and _top_hooks is not None
        and _top_hooks(True) is None
    )


def _check(tensor: Tensor, version: int) -> None:
    """As autograd does of what it keeps itself."""
    if tensor._version != version:
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace operation: "
            f"[{tensor.dtype} {list(tensor.shape)}] is at version {tensor._version}; expected version {version} instead"
        )
