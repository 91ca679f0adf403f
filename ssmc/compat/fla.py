"""Drop-ins for fla (fla-org/flash-linear-attention)."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmc.errors import UserError

from .calls import Library, check_axes, check_shape, given
from .documents import by_document, offsets

_SCAN = Library("affine_scan:log_affine_scan")


def fused_recurrent_hgrn(
    x: Tensor,
    g: Tensor,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """HGRN's recurrence, h[t] = exp(g[t]) h[t-1] + x[t].

    Args:
        x: (B, T, D), what is written: HGRN's input times one minus its forget gate.
        g: (B, T, D), the logarithms of the forget gates.
        initial_state: (N, D), of which N is the batch size, or the number of documents; zeros by default.
        cu_seqlens: (N + 1,) ints, where documents begin, and the end of the last; then B is 1.

    Returns:
        (B, T, D), and the last states (N, D), None unless asked for, both in the dtype of ``x``.
    """
    y, last = _scan("fused_recurrent_hgrn", x, g, initial_state, output_final_state, cu_seqlens)
    return y, None if last is None else last.to(x.dtype)


def chunk_hgrn(
    x: Tensor, g: Tensor, initial_state: Tensor | None = None, output_final_state: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The same for sequences of one length; the last states are in float32, or in float64 if an argument is."""
    return _scan("chunk_hgrn", x, g, initial_state, output_final_state, None)


def _scan(
    function: str, x: Tensor, g: Tensor, initial: Tensor | None, wants_final: bool, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    check_axes(function, "x", x, 3)
    check_shape(function, "g", g, *x.shape)
    if cu_seqlens is None:
        y, state = _SCAN(g, x, **given(h0=initial), return_state=True)
        return y.to(x.dtype), state["h"][:, 0] if wants_final else None
    bounds = offsets(function, cu_seqlens, x.shape[1])
    count = len(bounds) - 1
    if x.shape[0] != 1:
        raise UserError(f"{function}: `cu_seqlens` is given, and 'x' has a batch of {x.shape[0]}", expected="1")
    if initial is not None:
        check_shape(function, "initial_state", initial, count, x.shape[2])
    firsts = [None if initial is None else initial[number : number + 1] for number in range(count)]
    y, lasts = by_document(_SCAN, {"g": g, "x": x}, {}, "h0", firsts, bounds)
    return y.to(x.dtype), torch.cat(lasts) if wants_final else None
