"""Products with the activation of a gate, in one pass over memory where the library has the activation."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.activations import ACT2FN

from ssmc.runtime import Library

_LAYERS = {word: Library("gates:gated", activation=word) for word in ("silu", "gelu", "gelu_tanh")}
_WORDS = {
    type(ACT2FN[name]): word
    for name, word in (("silu", "silu"), ("swish", "silu"), ("gelu", "gelu"), ("gelu_pytorch_tanh", "gelu_tanh"))
}


def activation_word(activation: Any) -> str | None:
    """What the library calls an activation as transformers has them; None if it has none, or somebody watches it."""
    word = _WORDS.get(type(activation))
    return None if word is None or activation._forward_hooks or activation._forward_pre_hooks else word


def gated(activation: Any, x: Tensor, gate: Tensor) -> Tensor:
    """``x · activation(gate)``.

    Args:
        activation: a module as transformers has them. A compiled layer computes silu and gelu, in float32 or wider,
            unless somebody watches the module through hooks.
        x, gate: (batch, length, width).
    """
    word = activation_word(activation)
    if word is None:
        return x * activation(gate)
    made: Tensor = _LAYERS[word](x, gate)
    return made.to(x.dtype)
