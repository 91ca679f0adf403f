"""Telling fast whether a call is like an earlier one and may go straight to machine code.

It may when every argument is a plain tensor on the CPU whose values lie in memory as they are, nobody
asks for gradients, and no mode, tracer, transform, autocast or profiler wants to see the operator go by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

_PLAIN = {torch.Tensor, torch.nn.Parameter}
_is_neg, _is_conj = torch.Tensor.is_neg, torch.Tensor.is_conj
_is_cpu = torch.Tensor.is_cpu.__get__  # type: ignore[attr-defined]
_requires_grad = torch.Tensor.requires_grad.__get__  # type: ignore[attr-defined]
_grad_enabled = torch.is_grad_enabled
_dispatch_modes, _function_modes = torch._C._len_torch_dispatch_stack, torch._C._len_torch_function_stack
_transforms: Callable[[], Any] = torch._C._functorch.peek_interpreter_stack
_jit_tracing: Callable[[], Any] = torch._C._get_tracing_state
_autocasting = torch._C._is_any_autocast_enabled
_profiling = torch.autograd._profiler_enabled

# What Dynamo checks tensors with: one call for type, dispatch keys (device, views, transforms), dtype, sizes
# and strides of all arguments, a tenth of the time that the public properties take. It is private, so it is
# used only with versions it is known in; without it calls are found by their properties.
_KNOWN_IN = ("2.10.", "2.11.", "2.12.", "2.13.")
_guards: Any = torch._C._dynamo.guards.TensorGuards if torch.__version__.startswith(_KNOWN_IN) else None

FORMS_ARE_TOLD = _guards is not None
"""Whether `form_check` ever says yes with this version of PyTorch."""


def form_check(given: Sequence[torch.Tensor]) -> Callable[..., bool]:
    """A function of arguments: are they plain tensors exactly like these, under the same dispatch state?

    It may say no where the answer is yes. It does not look at grad mode, modes, autocast and profilers.
    """
    if _guards is None or not given:
        return _never
    return _guards(*given, dynamic_dims_sizes=None, dynamic_dims_strides=None).check


def _never(*_: Any) -> bool:
    return False


def nobody_watches() -> bool:
    """Whether nothing is active that wants to see PyTorch operators go by."""
    return nobody_intercepts() and not _profiling()


def nobody_intercepts() -> bool:
    """Whether nothing is active that wants to replace, trace, transform or cast what operators are given."""
    return not (
        _dispatch_modes()
        or _function_modes()
        or _transforms()
        or _jit_tracing()
        or _autocasting()
        or forward_ad._current_level >= 0
    )


def are_plain_types(given: Sequence[Any]) -> bool:
    """Whether these are tensors or parameters, and of no subclass."""
    return {*map(type, given)} <= _PLAIN


def is_plain(given: Sequence[torch.Tensor], has_complex: bool) -> bool:
    """Whether these tensors are plain ones on the CPU, without gradients, and nobody watches."""
    return not (
        not nobody_watches()
        or not are_plain_types(given)
        or not all(map(_is_cpu, given))
        or any(map(_is_neg, given))
        or (has_complex and any(map(_is_conj, given)))
        or (_grad_enabled() and any(map(_requires_grad, given)))
    )
