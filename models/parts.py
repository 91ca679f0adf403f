"""Whether modules are still what they were, which is asked before every token: so all of it is asked at once."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, compress, repeat
from operator import contains
from typing import Any

from torch import Tensor, nn

from ssmc.runtime import form_check

_data_ptr = Tensor.data_ptr


def is_watched(module: nn.Module) -> bool:
    """Whether somebody sees or replaces what a module computes: by hooks, or by a ``forward`` of its own."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


class Parts:
    """A module and those below it, what they consist of and where their tensors lie.

    Args:
        root: neither it nor a module below is watched (``is_watched``).
        attributes: those of modules that matter, beside submodules and tensors: (module, name).
    """

    def __init__(self, root: nn.Module, attributes: Iterable[tuple[nn.Module, str]] = ()) -> None:
        self._modules = [*root.modules()]
        self._types = [*map(type, self._modules)]
        self._own = [module.__dict__ for module in self._modules]
        self._hooks = [hooks for m in self._modules for hooks in (m._forward_hooks, m._forward_pre_hooks)]
        self._held: list[Any] = [held for m in self._modules for held in (m._modules, m._parameters, m._buffers)]
        values = [*chain.from_iterable(map(dict.values, self._held))]
        # No tensor is kept, so that weights which are replaced are freed.
        self._ids = [*map(id, values)]
        self._is_tensor = [isinstance(value, Tensor) for value in values]
        tensors = [*compress(values, self._is_tensor)]
        self._check, self._addresses = form_check(tensors), [*map(_data_ptr, tensors)]
        self._attributes = [(module.__dict__, name, module.__dict__[name]) for module, name in attributes]

    def are_same(self) -> bool:
        """Whether the modules have the types, submodules, parameters, buffers and attributes that they had, nobody
        watches them, and all tensors lie where they lay, in the same form. The values of tensors may be others."""
        values = [*chain.from_iterable(map(dict.values, self._held))]
        if [*map(id, values)] != self._ids or [*map(type, self._modules)] != self._types:
            return False
        if any(self._hooks) or any(map(contains, self._own, repeat("forward"))):
            return False
        tensors = [*compress(values, self._is_tensor)]
        return (
            self._check(*tensors)
            and [*map(_data_ptr, tensors)] == self._addresses
            and all(own.get(name) is value for own, name, value in self._attributes)
        )
