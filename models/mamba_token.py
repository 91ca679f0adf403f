"""One token through a layer of Mamba, as one compiled call."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn

from ssmc.runtime import Library

from .linear import is_plain
from .mixer import mixer_layers
from .norms import is_usual
from .token_chain import Chain, StepByStep

STATES = {"conv": ("v",), "scan": ("h",)}  # the convolution's inputs and the scan's state


@cache
def _layer(eps: float) -> Library:
    return Library("mamba_block", eps=eps)


def write_block(block: Any, chain: Chain, hidden: Tensor) -> Tensor:
    """``hidden + mixer(norm(hidden))`` of a ``MambaBlock``.

    Raises StepByStep where a module is not a plain one without bias, and where a mixer calls other compiled layers than
    most.
    """
    norm, mixer = block.norm, block.mixer
    if not is_usual(norm) or norm.offset:
        raise StepByStep
    # One call stands for the layers that a mixer with silu has to begin with, not for others put in their place.
    layers, usual = mixer.layers, mixer_layers("silu")
    if layers.activation is not None or layers.scan is not usual.scan or layers.conv is not usual.conv:
        raise StepByStep
    maps, convolution = [mixer.in_proj, mixer.x_proj, mixer.dt_proj, mixer.out_proj], mixer.conv1d
    if not all(map(is_plain, maps)) or type(convolution) is not nn.Conv1d:
        raise StepByStep
    W_in, W_x, W_dt, W_out = (module.weight for module in maps)
    dt_bias, conv_bias = mixer.dt_proj.bias, convolution.bias
    if any(module.bias is not None for module in maps if module is not mixer.dt_proj):
        raise StepByStep
    if dt_bias is None or conv_bias is None:
        raise StepByStep
    for module, name in ((norm, "layer"), (mixer, "layers"), (block, "residual_in_fp32")):
        chain.depends(module, name)
    (made,) = chain.call(
        _layer(norm.eps), hidden, norm.weight, W_in, convolution.weight[:, 0], W_x, W_dt, mixer.A_log, W_out, mixer.D,
        dt_bias, conv_bias, carried=STATES,
    )  # fmt: skip
    return made
