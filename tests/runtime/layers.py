"""Layers for tests of the runtime, and what the interpreter says of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import ssmc
from ssmc.ir.interpret import interpret
from ssmc.runtime import Layer

DECAY = """
layer decay(x[b, t, d], a[d], h0[b, d] = 0) -> y[b, t, d]:
    seq t
    y = a * y[t-1] + x
    y[t<0] = h0
"""

# A window, a position, a default, an optional input, static parameters of every kind, two outputs.
MIXED = """
layer mixed(
    x[b, t, d], w[d, k], bias[d] = 1, z[b, t, d]?, scale[] = 2, code[b, t]: int = 0, keep[b, t]: bool = true,
    *, gain: real = 0.5, shift: int = 0, gated: bool = false, act: enum(none, relu) = none,
) -> y[b, t, d], n[b, t]: int:
    seq t
    s = gain * sum[k](w * x[t - (#k - 1 - k)]) + bias + (exp(-t) when gated else 0)
    r = max(s, 0) when act == relu else s
    y = where(keep, r * scale, 0) + (z when given(z) else 0)
    n = code + shift
"""


def decay() -> Layer:
    return ssmc.compile(DECAY)


def mixed(**statics: Any) -> Layer:
    return ssmc.compile(MIXED, **statics)


def numpy(value: torch.Tensor) -> np.ndarray:
    """As the interpreter takes it: reals in float64."""
    value = value.resolve_conj().resolve_neg()
    return (value.double() if value.is_floating_point() else value).numpy()


def expected(
    op: Layer, state: bool = False, statics: dict[str, Any] | None = None, **inputs: torch.Tensor
) -> dict[str, np.ndarray]:
    """The outputs by name, as the interpreter computes them in float64."""
    signatures = {}
    for item in op.signature.inputs:
        if item.name in inputs:
            signatures[item.name] = next(a for a in item.alternatives if len(a) == inputs[item.name].dim())
    program = op.program(list(inputs), signatures, returns_state=state, **(statics or {}))
    return interpret(program, {name: numpy(value) for name, value in inputs.items()})


def scan_inputs(
    batch: int = 2, length: int = 5, channels: int = 8, states: int = 4, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Inputs of the selective scan."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "x": normal(batch, length, channels),
        "dt": normal(batch, length, channels),
        "A": -normal(channels, states).exp(),
        "B": normal(batch, length, states),
        "C": normal(batch, length, states),
        "D": normal(channels),
    }


def close(found: torch.Tensor, wanted: np.ndarray, tolerance: float = 2e-5) -> None:
    """Agreement relative to the largest expected value."""
    assert tuple(found.shape) == wanted.shape
    if wanted.size:
        error = np.abs(numpy(found) - wanted).max()
        assert error <= tolerance * max(1.0, np.abs(wanted).max()), f"error {error:.3g}"
