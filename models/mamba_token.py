"""One token of one sequence through a whole layer of Mamba, in one compiled call.

For a single token a layer is a sweep over its weights with little around it; what is around it costs as much as half
of the sweep where each step of it is an operator of its own.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ssmc.runtime import Library, State

from .cache import LayerCache
from .linear import is_plain
from .mixer import mixer_layers
from .norms import RMSNorm

STATE = ("v", "h")  # the layer's names of the convolution's inputs and of the scan's state


@cache
def _layer(eps: float) -> Library:
    return Library("mamba_block", eps=eps)


def token_through_block(norm: Any, mixer: Any, hidden: Tensor, entry: LayerCache | None) -> Tensor | None:
    """``hidden + mixer(norm(hidden))`` continued from ``entry``; None where it has to be computed step by step.

    It has to for more than one token, at the start of a sequence, where earlier states are to be kept, where gradients
    are recorded or somebody traces, where a module is not a plain one without bias or is watched through hooks, and
    where a mixer calls other compiled layers than most.

    Args:
        norm, mixer: those of a ``MambaBlock``.
        hidden: (1, 1, hidden_size), float32 or wider if that is what the residual is to be.
        entry: the states ``conv`` and ``scan`` that the mixer left; brought up to date.
    """
    if entry is None or entry.keep or len(entry.states) != 2 or hidden.shape[0] * hidden.shape[1] != 1:
        return None
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or type(norm) is not RMSNorm or _watched(norm, mixer):
        return None
    # One call stands for the layers that a mixer with silu has to begin with, not for others put in their place.
    layers, usual = mixer.layers, mixer_layers("silu")
    if layers.activation is not None or layers.scan is not usual.scan or layers.conv is not usual.conv:
        return None
    # A module's own dictionaries are asked: this is most of what is left to do in Python.
    modules, own = mixer._modules, mixer._parameters
    maps = [modules[name] for name in ("in_proj", "x_proj", "dt_proj", "out_proj")]
    convolution: Any = modules["conv1d"]
    if not all(map(is_plain, maps)) or type(convolution) is not nn.Conv1d or _watched(convolution):
        return None
    (W_in, in_bias), (W_x, x_bias), (W_dt, dt_bias), (W_out, out_bias) = (
        (m._parameters["weight"], m._parameters["bias"]) for m in maps
    )
    conv_bias = convolution._parameters["bias"]
    if in_bias is not None or x_bias is not None or out_bias is not None or conv_bias is None or dt_bias is None:
        return None
    states = entry.states
    window, scanned = states["conv"], states["scan"]
    y, after = _layer(norm.eps)(
        hidden, norm._parameters["weight"], W_in, convolution.weight[:, 0], W_x, W_dt, own["A_log"],
        W_out, own["D"], dt_bias, conv_bias, state=State(STATE, (window.values[0], scanned.values[0])),
        return_state=True,
    )  # fmt: skip
    states["conv"], states["scan"] = State(window.names, after.values[:1]), State(scanned.names, after.values[1:])
    made: Tensor = y
    return made


def _watched(*modules: nn.Module) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)
