"""Drop-ins for recurrentgemma (google-deepmind/recurrentgemma), its PyTorch side."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmc.errors import UserError

from .calls import Library, check_axes, given

_AFFINE_SCAN = Library("affine_scan")


def rnn_scan(
    x: Tensor, a: Tensor, reset: Tensor, h0: Tensor | None, acc_dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """h[t] = a[t] h[t-1] + x[t], and h[t] = x[t] where ``reset`` holds.

    Args:
        x: (B, T, D).
        a: as ``x``, or without its first axes.
        reset: (B, T), bool, or ints of which any but 0 is true.
        h0: (B, D), or None for zeros.
        acc_dtype: float32 or float64: the least precision to accumulate in, and the dtype of the last state.

    Returns:
        (B, T, D) in the dtype of ``x``, and the last state (B, D) in ``acc_dtype``.
    """
    check_axes("rnn_scan", "x", x, 3)
    if acc_dtype not in (torch.float32, torch.float64):
        raise UserError(f"rnn_scan: `acc_dtype` is {acc_dtype}", expected="torch.float32 or torch.float64")
    if a.shape != x.shape[3 - a.dim() :]:
        raise UserError(f"rnn_scan: 'a' has the shape {tuple(a.shape)}", expected=f"the last axes of {tuple(x.shape)}")
    reset = reset if reset.dtype is torch.bool else reset != 0
    decay = a if acc_dtype is torch.float32 else a.double()  # one double makes all of it double
    y, state = _AFFINE_SCAN(decay.expand(x.shape), x, reset, **given(h0=h0), return_state=True)
    return y.to(x.dtype), state["h"][:, 0].to(acc_dtype)
