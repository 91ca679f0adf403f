"""Drop-ins for causal_conv1d (Dao-AILab/causal-conv1d)."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmc.errors import UserError

from .calls import Library, as_activation, check_axes, check_rows, check_writable, given, recorded, time_second, write

CAUSAL_CONV1D = {name: Library("causal_conv1d", activation=name) for name in ("none", "silu")}


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Causal depthwise convolution; ``weight[:, W - 1]`` multiplies the current token.

    Args:
        x: (B, D, L).
        weight, bias: (D, W), (D,).
        seq_idx: (B, L) ints; a tap never reaches a token of another value, and where it is negative the
            result is 0. Not together with initial or final states.
        initial_states: (B, D, W - 1), the tokens before the first; zeros by default.
        final_states_out: (B, D, W - 1), takes the last W - 1 tokens.
        activation: None, "silu" or "swish" (the same).

    Returns:
        (B, D, L) in the dtype of ``x``; with ``return_final_states`` also (B, D, W - 1).
    """
    check_axes("causal_conv1d_fn", "x", x, 3)
    op = CAUSAL_CONV1D[as_activation("causal_conv1d_fn", activation)]
    if seq_idx is not None and (initial_states is not None or return_final_states):
        raise UserError("causal_conv1d_fn: `seq_idx` is given together with initial or final states")
    if final_states_out is not None:
        check_writable("causal_conv1d_fn", "final_states_out", final_states_out)
    before = None if initial_states is None else time_second(initial_states)
    y = op(time_second(x), weight, **given(bias=bias, seq_idx=seq_idx, x0=before), return_state=return_final_states)
    if not return_final_states:
        if seq_idx is not None:
            y = y.masked_fill((seq_idx < 0)[..., None], 0)
        return time_second(y).to(x.dtype)
    y, state = y
    # A filter of one tap carries nothing.
    last = time_second(state["x"]).to(x.dtype) if len(state) else x[..., :0]
    if final_states_out is not None:
        write(final_states_out, last)
        last = final_states_out
    return time_second(y).to(x.dtype), last


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """A token or a few of the causal convolution; writes the new inputs to ``conv_state``.

    Args:
        x: (B, D), or (B, D, L).
        conv_state: (B, D, S) with S ≥ W - 1: the last S inputs, oldest first.
        weight, bias: (D, W), (D,).
        cache_seqlens: (B,) ints, how many inputs came before; then ``conv_state`` is a ring in which input
            number i has the place i modulo S.
        conv_state_indices: (B,) ints, the row of ``conv_state`` of each entry of the batch; then it may have any
            number of rows. An entry with a negative one is padding: its result is 0, and no row changes.

    Returns:
        As ``x``, in its dtype.
    """
    check_axes("causal_conv1d_update", "x", x, 2, 3)
    check_axes("causal_conv1d_update", "conv_state", conv_state, 3)
    op = CAUSAL_CONV1D[as_activation("causal_conv1d_update", activation)]
    check_writable("causal_conv1d_update", "conv_state", conv_state)
    length, width = conv_state.shape[-1], weight.shape[1]
    if length < width - 1:
        raise UserError(f"causal_conv1d_update: `conv_state` holds {length} inputs", expected=f"{width - 1} or more")
    rows, padding = conv_state_indices, None
    # Autograd keeps what is read of the state, and conv_state changes.
    state = conv_state.clone() if rows is None and recorded(x, conv_state, weight, bias) else conv_state
    if rows is not None:
        check_rows("causal_conv1d_update", "conv_state_indices", rows, x.shape[0], conv_state.shape[0], least=-1)
        rows, padding = rows.clamp(min=0), rows < 0
        state = conv_state.index_select(0, rows)
    tokens = x.unsqueeze(-1) if x.dim() == 2 else x
    before = state if cache_seqlens is None else state.gather(2, _places(cache_seqlens, 1 - width, 0, state))
    if before.shape[-1] != width - 1:
        before = before[..., before.shape[-1] - (width - 1) :]
    y = op(time_second(tokens), weight, x0=time_second(before), **given(bias=bias))
    y = time_second(y).reshape(x.shape).to(x.dtype)
    after = _moved_on(state, tokens.to(state.dtype), cache_seqlens)
    if rows is None or padding is None:
        write(conv_state, after)
        return y
    write(conv_state, after[~padding], rows[~padding])
    return y.masked_fill(padding.view(-1, *[1] * (x.dim() - 1)), 0)


def _moved_on(state: Tensor, tokens: Tensor, cache_seqlens: Tensor | None) -> Tensor:
    """The last inputs after ``tokens``."""
    length, count = state.shape[-1], tokens.shape[-1]
    if cache_seqlens is None:
        return torch.cat([state, tokens], -1)[..., count:]
    # Of more tokens than places the last ones stay.
    first = max(0, count - length)
    return state.scatter(2, _places(cache_seqlens, first, count, state), tokens[..., first:])


def _places(seen: Tensor, first: int, end: int, ring: Tensor) -> Tensor:
    """Where the inputs ``first`` to ``end`` after those ``seen`` are in a ring, for every channel."""
    places = (seen[:, None] + torch.arange(first, end, device=seen.device)).remainder(ring.shape[-1]).long()
    return places[:, None].expand(-1, ring.shape[1], -1)
