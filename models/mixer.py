"""Mamba's mixer on compiled layers. Gu and Dao 2023, section 3.4, figure 3, algorithm 2.

A function of the modules that hold the parameters, under the names of transformers: so it serves the model of this
package and those of transformers alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssmc.runtime import Layer, load

from .again import Again, can_make_again, made_again
from .cache import LayerCache
from .linear import is_plain, linear, project


class MixerLayers:
    """The compiled layers that a mixer calls."""

    def __init__(self, hidden_act: str = "silu") -> None:
        self.hidden_act = hidden_act
        fused = hidden_act in ("silu", "swish")
        self.conv: Layer = load("causal_conv1d", activation="silu" if fused else "none")
        self.scan: Layer = load("selective_scan:mamba_scan")
        self.activation: Callable[[Tensor], Tensor] | None = None
        if not fused:
            from transformers.activations import ACT2FN

            self.activation = ACT2FN[hidden_act]

    def __deepcopy__(self, memo: Any) -> MixerLayers:
        """Itself: a copy of a model calls the same compiled layers."""
        return self

    def __reduce__(self) -> Any:
        """Where it is the one that models share, that one again."""
        return (mixer_layers, (self.hidden_act,)) if self is mixer_layers(self.hidden_act) else object.__reduce__(self)


@cache
def mixer_layers(hidden_act: str = "silu") -> MixerLayers:
    """The compiled layers for an activation; all mixers with that activation call the same ones."""
    return MixerLayers(hidden_act)


def mamba_mixer(
    modules: Any,
    layers: MixerLayers,
    hidden: Tensor,
    entry: LayerCache | None = None,
    sequences: Mapping[str, Tensor] | None = None,
    rms_eps: float | None = None,
    again: Again | None = None,
) -> Tensor:
    """Mix a sequence.

    Args:
        modules: what holds the parameters, as attributes, for E = intermediate_size, N = state_size, R = time_step_rank
            and K = conv_kernel: the modules ``in_proj`` (hidden_size → 2 E), ``conv1d`` (weight (E, 1, K), bias (E,) or
            None), ``x_proj`` (E → R + 2 N), ``dt_proj`` (R → E), ``out_proj`` (E → hidden_size), and the parameters
            ``A_log`` (E, N) and ``D`` (E,). Of any precision: states and the scan are float32, or float64 if they are.
        layers: what is called, for the activation after the convolution; the gate's is always silu.
        hidden: (batch, length, hidden_size).
        entry: what this layer of the model carries from call to call; it is continued from and brought up to date.
        sequences: ``mask`` (batch, length) bool, which positions are tokens: elsewhere is padding, in any place, which
            changes nothing, and whose outputs mean nothing; and one of ``position_ids``, ``cu_seqlens``, ``seq_idx``
            of packed documents, only without ``entry``.
        rms_eps: divide what ``x_proj`` gives for the step, for B and for C by their root mean squares, as FalconMamba
            does, with this epsilon.
        again: how to make ``hidden`` again, if a gradient is not to keep it.

    Returns:
        (batch, length, hidden_size) in the dtype of ``hidden``.
    """
    options = dict(sequences or {})
    with made_again(again):
        x, gate = project(modules.in_proj, hidden).chunk(2, -1)
    weight, bias = modules.conv1d.weight.squeeze(1), modules.conv1d.bias
    inputs: dict[str, Tensor] = {} if bias is None else {"bias": bias}
    u = _run(entry, "conv", layers.conv, x, weight, **inputs, **options).to(x.dtype)
    if layers.activation is not None:
        u = layers.activation(u)
    conv_again = None
    if entry is None and layers.activation is None and can_make_again(u):
        conv_again = _again(u, layers.conv, x, weight, **inputs, **options)
    states = modules.A_log.shape[1]
    with made_again(conv_again):
        projected = project(modules.x_proj, u)
    low, B, C = torch.split(projected, [projected.shape[-1] - 2 * states, states, states], -1)
    if rms_eps is not None:
        low, B, C = (_normalised(value, rms_eps) for value in (low, B, C))
    step, step_bias = _step(modules.dt_proj, low)
    step_again = None
    if entry is None and is_plain(modules.dt_proj) and can_make_again(step):
        step_again = _again(step, linear, low, modules.dt_proj.weight)
    inputs = {} if step_bias is None else {"dt_bias": step_bias}
    with made_again(conv_again, step_again):
        y = _run(entry, "scan", layers.scan, u, step, modules.A_log, B, C, D=modules.D, z=gate, **inputs, **options)
    return project(modules.out_proj, y.to(x.dtype)).to(hidden.dtype)


def _again(value: Tensor, op: Callable[..., Tensor], *inputs: Tensor, **named: Tensor) -> Again:
    """How to call an operator again, on what its inputs are: gradients keep these anyway."""
    given, by_name = [item.detach() for item in inputs], {name: item.detach() for name, item in named.items()}
    dtype = value.dtype
    return Again(value, lambda: op(*given, **by_name).to(dtype), *given, *by_name.values())


def _normalised(value: Tensor, eps: float) -> Tensor:
    wide = value.to(torch.promote_types(value.dtype, torch.float32))
    return functional.rms_norm(wide, wide.shape[-1:], eps=eps).to(value.dtype)


def _step(module: nn.Module, low: Tensor) -> tuple[Tensor, Tensor | None]:
    """The step before softplus, and what the scan adds to it: the bias, in float32, where the map is a plain one."""
    if is_plain(module):
        return linear(low, module.weight), module.bias  # type: ignore[arg-type, return-value]
    return module(low), None


def _run(entry: LayerCache | None, name: str, op: Layer, *inputs: Tensor, **named: Any) -> Tensor:
    return op(*inputs, **named) if entry is None else entry.run(name, op, *inputs, **named)
