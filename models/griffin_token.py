"""One token through a layer of RecurrentGemma: few compiled calls, and PyTorch's attention."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ssmc.runtime import Library

from .cache import LayerCache
from .gates import activation_word
from .linear import is_plain
from .norms import is_usual
from .token_chain import Chain, StepByStep

STATES = {"conv": ("v",), "rg_lru": ("rg_lru_gated.h",)}  # the convolution's inputs and the state of the RG-LRU
_LINEAR = Library("linear")


@cache
def _layer(name: str, eps: float, offset: float, **statics: str) -> Library:
    return Library(f"griffin_block:{name}", eps=eps, offset=offset, **statics)


def _of_norm(norm: Any, name: str, chain: Chain, **statics: str) -> Library:
    """The layer of that name that begins with such a normalisation."""
    if not is_usual(norm):
        raise StepByStep
    chain.depends(norm, "layer")
    return _layer(name, norm.eps, norm.offset, **statics)


def _plain(*maps: Any) -> None:
    if not all(map(is_plain, maps)):
        raise StepByStep


def _word(module: Any, chain: Chain) -> str:
    """What a layer calls the activation of a gate."""
    word = activation_word(module.act_fn)
    if word is None:
        raise StepByStep
    return word


def write_recurrent(norm: Any, mixer: Any, chain: Chain, hidden: Tensor) -> Tensor:
    """``hidden + mixer(norm(hidden))`` for a recurrent mixer, one call."""
    _plain(mixer.linear_x, mixer.linear_y, mixer.linear_out)
    convolution, unit = mixer.conv_1d, mixer.rg_lru
    biases = [mixer.linear_y.bias, mixer.linear_x.bias, getattr(convolution, "bias", None), mixer.linear_out.bias]
    if type(convolution) is not nn.Conv1d or any(bias is None for bias in biases):
        raise StepByStep
    layer = _of_norm(norm, "griffin_recurrent", chain, activation=_word(mixer, chain))
    (made,) = chain.call(
        layer, hidden, norm.weight, mixer.linear_y.weight, mixer.linear_x.weight, convolution.weight[:, 0],
        unit.recurrent_gate_weight, unit.recurrent_gate_bias, unit.input_gate_weight, unit.input_gate_bias,
        unit.recurrent_param, mixer.linear_out.weight, *biases, carried=STATES,
    )  # fmt: skip
    return made


def write_attention(norm: Any, mixer: Any, chain: Chain, hidden: Tensor) -> Tensor:
    """The same for attention: queries, keys and values in one call, PyTorch's attention, the last map in another.

    Tokens come with the cosines and sines by which queries and keys are turned, (1, 1, 1, pairs).
    """
    maps = [mixer.q_proj, mixer.k_proj, mixer.v_proj]
    _plain(*maps, mixer.o_proj)
    cos, sin = (value[:, 0] for value in chain.given[1:])
    heads = (mixer.heads, mixer.groups, mixer.groups)
    weights = [m.weight.view(number, mixer.size, -1) for m, number in zip(maps, heads, strict=True)]
    biases = [m.bias.view(number, mixer.size) for m, number in zip(maps, heads, strict=True) if m.bias is not None]
    if not cos.numel() or len(biases) not in (0, 3):
        raise StepByStep
    layer = _of_norm(norm, "griffin_queries", chain)
    made = chain.call(layer, hidden, norm.weight, *weights, cos, sin, *biases)
    query, key, value = (tensor.transpose(1, 2) for tensor in made)
    mixed, result = hidden.new_empty(1, 1, mixer.heads * mixer.size), torch.empty_like(hidden)

    def attend(entry: LayerCache) -> None:
        # What the cache keeps is no memory that the next token is written to.
        keys, values = (tensor.to(hidden.dtype, copy=True) for tensor in (key, value))
        mixed.copy_(mixer.attend(query.to(hidden.dtype), keys, values, entry).transpose(1, 2).flatten(2))

    chain.do(attend)
    (update,) = chain.call(_LINEAR, mixed, mixer.o_proj.weight, mixer.o_proj.bias)
    chain.do(lambda _: torch.add(hidden, update, out=result))  # type: ignore[arg-type]
    return result


def write_mlp(norm: Any, mlp: Any, chain: Chain, hidden: Tensor) -> Tensor:
    """``hidden + mlp(norm(hidden))``, one call."""
    maps = [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    _plain(*maps)
    biases = [module.bias for module in maps]
    if any(bias is None for bias in biases):
        raise StepByStep
    layer = _of_norm(norm, "gated_mlp", chain, activation=_word(mlp, chain))
    (made,) = chain.call(layer, hidden, norm.weight, *(module.weight for module in maps), *biases)
    return made
