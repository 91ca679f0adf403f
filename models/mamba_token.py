"""One token through a layer of Mamba, as one compiled call; a chain of them is a token through the model."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import nn

from ssmc.runtime import Library

from .linear import is_plain
from .mixer import mixer_layers
from .norms import RMSNorm, rms_norm
from .token_chain import Link

STATES = {"conv": ("v",), "scan": ("h",)}  # the convolution's inputs and the scan's state


@cache
def _layer(eps: float) -> Library:
    return Library("mamba_block", eps=eps)


def block_in_one_call(block: Any) -> Link | None:
    """``hidden + mixer(norm(hidden))`` of a ``MambaBlock``; None where it has to be computed step by step.

    It has to where a module is not a plain one without bias, and where a mixer calls other compiled
    layers than most.
    """
    norm, mixer = block.norm, block.mixer
    if type(norm) is not RMSNorm or norm.layer is not rms_norm(norm.eps, 0.0):
        return None
    # One call stands for the layers that a mixer with silu has to begin with, not for others put in their place.
    layers, usual = mixer.layers, mixer_layers("silu")
    if layers.activation is not None or layers.scan is not usual.scan or layers.conv is not usual.conv:
        return None
    maps, convolution = [mixer.in_proj, mixer.x_proj, mixer.dt_proj, mixer.out_proj], mixer.conv1d
    if not all(map(is_plain, maps)) or type(convolution) is not nn.Conv1d:
        return None
    W_in, W_x, W_dt, W_out = (module.weight for module in maps)
    dt_bias, conv_bias = mixer.dt_proj.bias, convolution.bias
    if any(module.bias is not None for module in maps if module is not mixer.dt_proj):
        return None
    if dt_bias is None or conv_bias is None:
        return None
    weights = (
        norm.weight, W_in, convolution.weight[:, 0], W_x, W_dt, mixer.A_log, W_out, mixer.D, dt_bias, conv_bias,
    )  # fmt: skip
    attributes = [(norm, "layer"), (mixer, "layers"), (block, "residual_in_fp32")]
    return Link(_layer(norm.eps), weights, STATES, attributes)
