"""What the drop-ins mean, as loops over time in PyTorch, and the comparison with it, gradients included."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, silu, softplus


def affine(a: Tensor, b: Tensor, first: Tensor | None = None, fresh: Tensor | None = None) -> Tensor:
    """h[t] = a[t] h[t-1] + b[t] along axis 1; where ``fresh``, (B, L), holds nothing comes from before."""
    h = torch.zeros_like(b[:, 0]) if first is None else first
    found = []
    for t in range(b.shape[1]):
        if fresh is not None:
            h = torch.where(fresh[:, t].view(-1, *[1] * (h.dim() - 1)), 0, h)
        h = a[:, t] * h + b[:, t]
        found.append(h)
    return torch.stack(found, 1)


def scan(x: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """The selective scan with time second: x, step, z (B, L, D), B and C (B, L, D, N) or broadcast to it."""
    h = affine((step[..., None] * A).exp(), step[..., None] * B * x[..., None])
    y = (h * C).sum(-1)
    y = 2 * y.real if y.is_complex() else y
    y = y if D is None else y + D * x
    return y if z is None else y * silu(z)


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The causal convolution of (B, L, D)."""
    width = weight.shape[1]
    padded = torch.cat([x.new_zeros(x.shape[0], width - 1, x.shape[2]), x], 1)
    y = sum((padded[:, j : j + x.shape[1]] * weight[:, j] for j in range(width)), torch.zeros_like(x))
    return y if bias is None else y + bias


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


def mamba_inner(
    xz: Tensor, conv1d_weight: Tensor, conv1d_bias: Tensor | None, x_proj_weight: Tensor, delta_proj_weight: Tensor,
    out_proj_weight: Tensor, out_proj_bias: Tensor | None, A: Tensor, B: Tensor | None = None, C: Tensor | None = None,
    D: Tensor | None = None, delta_bias: Tensor | None = None, B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None, delta_softplus: bool = True, b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None, dt_rms_weight: Tensor | None = None, b_c_dt_rms_eps: float = 1e-6,
) -> Tensor:  # fmt: skip
    x, z = xz.transpose(1, 2).chunk(2, -1)
    u = silu(convolution(x, conv1d_weight[:, 0], conv1d_bias))
    rank, states = delta_proj_weight.shape[1], A.shape[1] * (2 if A.is_complex() else 1)
    low = linear(u, x_proj_weight)
    delta = linear(low[..., :rank], delta_proj_weight)

    def read(given: Tensor | None, piece: Tensor, bias: Tensor | None, weight: Tensor | None) -> Tensor:
        """(B, L, D or 1, N)."""
        if given is None:
            value = piece if bias is None else piece + bias
            value = torch.view_as_complex(value.reshape(*value.shape[:2], -1, 2)) if A.is_complex() else value
            value = value[:, :, None]
        elif given.dim() == 2:
            return given
        else:
            if A.is_complex():  # real and imaginary parts alternate along time
                given = torch.view_as_complex(given.reshape(*given.shape[:-1], -1, 2))
            value = given.movedim(-1, 1)
            value = value[:, :, None] if value.dim() == 3 else value
        value = value if weight is None else rms_norm(value, weight, b_c_dt_rms_eps)
        return value.repeat_interleave(A.shape[0] // value.shape[2], 2)

    B = read(B, low[..., rank : rank + states], B_proj_bias, b_rms_weight)
    C = read(C, low[..., low.shape[-1] - states :], C_proj_bias, c_rms_weight)
    delta = delta if dt_rms_weight is None else rms_norm(delta, dt_rms_weight, b_c_dt_rms_eps)
    delta = delta if delta_bias is None else delta + delta_bias
    y = scan(u, softplus(delta) if delta_softplus else delta, A, B, C, D, z)
    return linear(y, out_proj_weight, out_proj_bias)


def chunk_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, z: Tensor | None = None,
    dt_bias: Tensor | None = None, initial_states: Tensor | None = None, seq_idx: Tensor | None = None,
    dt_softplus: bool = False, dt_limit: tuple[float, float] = (0.0, float("inf")),
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Mamba-2's scan, and the states after every token."""
    step = dt if dt_bias is None else dt + dt_bias
    step = (softplus(step) if dt_softplus else step).clamp(*dt_limit)
    B, C = (v.repeat_interleave(x.shape[2] // v.shape[2], 2)[..., None, :] for v in (B, C))
    fresh = None
    if seq_idx is not None:
        before = torch.cat([torch.zeros_like(seq_idx[:, :1]), seq_idx[:, :-1]], 1)
        fresh = seq_idx != before
    S = affine((step * A).exp()[..., None, None], (step[..., None] * x)[..., None] * B, initial_states, fresh)
    y = (S * C).sum(-1)
    y = y if D is None else y + (D[:, None] if D.dim() == 1 else D) * x
    return y if z is None else y * silu(z), S


def compare(
    found: Callable[..., Sequence[Tensor]],
    wanted: Callable[..., Sequence[Tensor]],
    inputs: Mapping[str, Any],
    atol: float = 1e-10,
) -> None:
    """Two functions return the same, and gradients of the same, for float64 ``inputs``, by name."""
    results = []
    for function in (found, wanted):
        leaves = {n: v.clone().requires_grad_() for n, v in inputs.items() if _has_gradient(v)}
        outputs = function(**{**inputs, **leaves})
        weights = torch.Generator().manual_seed(1)
        loss = sum(
            (torch.view_as_real(v) if v.is_complex() else v)
            .mul(torch.randn(torch.view_as_real(v).shape if v.is_complex() else v.shape, generator=weights))
            .sum()
            for v in outputs
        )
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        results.append([*outputs, *(torch.zeros(()) if g is None else g for g in gradients)])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, atol=atol, rtol=1e-9)


def _has_gradient(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
