"""The recurrent block of Griffin and RecurrentGemma on compiled layers. De et al. 2024, sections 2.3 and 2.4.

Functions of modules that hold parameters under transformers' names, whoever made them.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ssmc.errors import UserError
from ssmc.runtime import Layer, Library

from .cache import LayerCache
from .gates import gated
from .linear import project

_CONVOLUTION, _CONVOLUTION_OF_DOCUMENTS = Library("causal_conv1d"), Library("griffin_conv1d")
_RG_LRU = Library("rg_lru:rg_lru_gated")


def recurrent_block(
    block: Any,
    hidden: Tensor,
    positions: Tensor,
    documents: bool = False,
    mask: Tensor | None = None,
    cache: LayerCache | None = None,
) -> Tensor:
    """gelu(linear_y(x)) · RG-LRU(conv(linear_x(x))), through linear_out; De et al. 2024, figure 2.

    Args:
        block: has ``linear_y``, ``linear_x``, ``linear_out``, ``conv_1d`` (depthwise), ``act_fn`` and ``rg_lru`` with
            ``recurrent_param``, ``{input,recurrent}_gate_{weight,bias}``.
        hidden: (B, L, hidden).
        positions: (B or 1, L) ints; at 0 a document begins: the state is dropped, and the RG-LRU takes its input whole.
        documents: whether one may begin after the first token, so that the convolution has to look.
        mask: (B, L) bools, where there are tokens; the others change no state.
        cache: continues from the state that it has, and takes the new one.

    Returns:
        (B, L, hidden).
    """
    positions = positions.expand(hidden.shape[:2])
    padding = {} if mask is None else {"mask": mask}
    gate = project(block.linear_y, hidden)
    mixed = _convolution(block.conv_1d, project(block.linear_x, hidden), positions, documents, padding, cache)
    unit = block.rg_lru
    decay = block_diagonal(mixed, unit.recurrent_gate_weight, unit.recurrent_gate_bias)
    taken = block_diagonal(mixed, unit.input_gate_weight, unit.input_gate_bias)
    mixed = _run(cache, "rg_lru", _RG_LRU, mixed, decay, taken, unit.recurrent_param, positions, **padding)
    return project(block.linear_out, gated(block.act_fn, mixed, gate))


def _convolution(
    conv: Any, values: Tensor, positions: Tensor, documents: bool, padding: dict[str, Tensor], cache: LayerCache | None
) -> Tensor:
    """The depthwise causal convolution whose taps ``conv`` holds, (B, L, D) → (B, L, D)."""
    if not isinstance(conv, nn.Conv1d):
        raise UserError(
            f"`conv_1d` is a {type(conv).__name__}",
            expected="a torch.nn.Conv1d, whose weights a compiled layer reads",
            hint="leave conv_1d out of the modules that an adapter replaces",
        )
    weight = conv.weight[:, 0]
    named = padding if conv.bias is None else padding | {"bias": conv.bias}
    if weight.shape[1] == 1:  # nothing to carry
        cache = None
    if documents:
        return _run(cache, "conv", _CONVOLUTION_OF_DOCUMENTS, values, positions, weight.T, **named)
    return _run(cache, "conv", _CONVOLUTION, values, weight, **named)


def _run(cache: LayerCache | None, name: str, layer: Library, *inputs: Tensor, **named: Tensor) -> Tensor:
    if cache is None:
        return cast(Tensor, layer(*inputs, **named))
    return cache.run(name, cast(Layer, layer), *inputs, **named)


def block_diagonal(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear map (B, L, h · i) → (B, L, h · j) in which each of h blocks of channels sees only itself.

    Args:
        weight, bias: (h, i, j), (h, j).
    """
    heads, width = weight.shape[:2]
    batch, length = values.shape[:2]
    blocks = values.reshape(batch * length, heads, width).transpose(0, 1)
    return torch.baddbmm(bias[:, None], blocks, weight).transpose(0, 1).reshape(batch, length, heads * weight.shape[2])
