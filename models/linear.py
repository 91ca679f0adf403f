"""Matrix products of the models."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``: x (…, inputs), weight (outputs, inputs), bias (outputs,) → (…, outputs)."""
    return functional.linear(x, weight, bias)


def is_plain(module: nn.Module) -> bool:
    """Whether a module is no more than its weight and bias: not what replaces linear maps (LoRA's wrappers, quantised
    ones), not one that somebody watches through hooks."""
    return (
        type(module) is nn.Linear
        and "forward" not in module.__dict__
        and not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
        and not module._backward_pre_hooks
    )


def project(module: nn.Module, x: Tensor) -> Tensor:
    """``module(x)`` for a linear map, by ``linear`` where the module is a plain one."""
    if is_plain(module):
        return linear(x, module.weight, module.bias)  # type: ignore[arg-type]
    return module(x)
