"""Drop-ins: functions that other libraries offer, with their signatures, on compiled layers.

==========================  =====================================
function                    as in
==========================  =====================================
``selective_scan_fn``       mamba_ssm (state-spaces/mamba)
``selective_state_update``  mamba_ssm
``causal_conv1d_fn``        causal_conv1d (Dao-AILab/causal-conv1d)
``causal_conv1d_update``    causal_conv1d
``rnn_scan``                recurrentgemma.torch
==========================  =====================================

They run on the CPU, without gradients, and accumulate in float32 (float64 if an argument is float64).
Results have the dtype and shape that the originals return; those with time last are views of memory with
channels last. Wrong arguments raise UserError.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from ssmc.errors import UserError
from ssmc.runtime import Layer, State, load

__all__ = ["causal_conv1d_fn", "causal_conv1d_update", "rnn_scan", "selective_scan_fn", "selective_state_update"]


class _Library:
    """A layer of the library, loaded when it is first called."""

    def __init__(self, name: str, **statics: Any) -> None:
        self.name = name
        self.statics = statics
        self.layer: Layer | None = None

    def _load(self) -> bool:
        if self.layer is None:
            self.layer = load(self.name, **self.statics)
        return True

    _load._dynamo_marked_constant = True  # type: ignore[attr-defined]  # done while tracing, not traced

    def __call__(self, *args: Any, **named: Any) -> Any:
        # Dynamo remembers what it has read: it must not see the layer before it is there.
        if torch.compiler.is_compiling() or self.layer is None:
            self._load()
        return self.layer(*args, **named)  # type: ignore[misc]


def _by_softplus(name: str) -> tuple[_Library, _Library]:
    return _Library(name, softplus_dt=False), _Library(name, softplus_dt=True)


_SELECTIVE_SCAN = _by_softplus("selective_scan")
_SELECTIVE_SCAN_COMPLEX = _by_softplus("selective_scan:selective_scan_complex")
_SSD = _by_softplus("ssd")
_CAUSAL_CONV1D = {
    None: _Library("causal_conv1d"),
    "silu": _Library("causal_conv1d", activation="silu"),
    "swish": _Library("causal_conv1d", activation="silu"),
}
_AFFINE_SCAN = _Library("affine_scan")


def _given(**values: Tensor | None) -> dict[str, Any]:
    """The arguments that are there."""
    return {name: value for name, value in values.items() if value is not None}


def _axes(function: str, name: str, value: Tensor, *allowed: int) -> None:
    if value.dim() not in allowed:
        raise UserError(
            f"{function}: {name!r} has {value.dim()} axes, shape {tuple(value.shape)}",
            expected=f"{' or '.join(map(str, allowed))} axes",
        )


def _transposed(value: Tensor | None) -> Tensor | None:
    """(B, D, L) as (B, L, D), and back."""
    return None if value is None else value.transpose(1, 2)


# ---------------------------------------------------------------- mamba_ssm


@overload
def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: Literal[False] = False,
) -> Tensor: ...
@overload
def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]: ...
def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Mamba's selective scan. Gu & Dao 2023, algorithm 2.

    Args:
        u, delta, z: (B, D, L).
        A: (D, N), real or complex.
        B, C: (D, N), or varying along time: (B, N, L), or (B, G, N, L) where D / G channels share a group.
            If A is complex, constant ones are complex and varying ones real with real and imaginary parts
            alternating along the last axis, (…, 2 L); twice the real part is read out.
        D, delta_bias: (D,).

    Returns:
        (B, D, L) in the dtype of ``u``; with ``return_last_state`` also the state after the last step,
        (B, D, N), in float32 (complex64 for complex A) or the double of it.
    """
    for name, value in (("u", u), ("delta", delta)):
        _axes("selective_scan_fn", name, value, 3)
    op = (_SELECTIVE_SCAN_COMPLEX if A.is_complex() else _SELECTIVE_SCAN)[bool(delta_softplus)]
    inputs = _given(D=D, z=_transposed(z), dt_bias=delta_bias)
    B, C = (_projection(name, value, A.is_complex()) for name, value in (("B", B), ("C", C)))
    y, state = op(u.transpose(1, 2), delta.transpose(1, 2), A, B, C, **inputs, return_state=True)
    y = y.transpose(1, 2).to(u.dtype)
    return (y, state["h"][:, 0]) if return_last_state else y


def _projection(name: str, value: Tensor, is_complex: bool) -> Tensor:
    """B or C with time second."""
    _axes("selective_scan_fn", name, value, 2, 3, 4)
    if value.dim() == 2:
        return value
    if is_complex and not value.is_complex():
        value = value if value.dtype is torch.float64 else value.float()
        value = torch.view_as_complex(value.reshape(*value.shape[:-1], -1, 2).contiguous())
    return value.movedim(-1, 1)


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> Tensor:
    """One token of the selective scan; writes the new state to ``state``.

    Args:
        state: (B, D, N), or with heads (B, H, P, N).
        x, dt, z: (B, D), or (B, H, P).
        A: (D, N), or (H, P, N).
        B, C: (B, N), or (B, G, N) where H / G heads share a group.
        D, dt_bias: (D,), or (H, P).

    Returns:
        As ``x``, in its dtype. Where A, dt and dt_bias are the same for all of a head, expanded along P
        with stride 0, the layer with one decay per head is used and nothing is copied.
    """
    _axes("selective_state_update", "state", state, 3, 4)
    _axes("selective_state_update", "x", x, state.dim() - 1)
    _axes("selective_state_update", "B", B, 2, 3)
    if state.dim() == 3:
        return _update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)
    if _same_in_head(dt, 2) and _same_in_head(A, 1) and _same_in_head(dt_bias, 1):
        return _headed_update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)
    # Heads times their width are the scan's channels.
    flat = state.flatten(1, 2)
    D, dt_bias = (None if value is None else value.reshape(-1) for value in (D, dt_bias))
    z = None if z is None else z.flatten(1)
    y = _update(flat, x.flatten(1), dt.flatten(1), A.flatten(0, 1), B, C, D, z, dt_bias, dt_softplus)
    if state.stride(1) != state.shape[2] * state.stride(2):  # then flat is a copy
        state.copy_(flat.view(state.shape))
    return y.view(x.shape)


def _update(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None, z: Tensor | None, dt_bias: Tensor | None, dt_softplus: bool,
) -> Tensor:  # fmt: skip
    """The update of (B, D, N)."""
    inputs = _given(D=D, z=None if z is None else z.unsqueeze(1), dt_bias=dt_bias)
    before = state.unsqueeze(1)
    held = _held(x, dt, A, B, C)
    y, after = _SELECTIVE_SCAN[bool(dt_softplus)](
        x.unsqueeze(1), dt.unsqueeze(1), A, B.unsqueeze(1), C.unsqueeze(1), **inputs,
        state=State(("h",), (before if before.dtype is held else before.to(held),)), return_state=True,
    )  # fmt: skip
    before.copy_(after[0])
    y = y.squeeze(1)
    return y if y.dtype is x.dtype else y.to(x.dtype)


def _held(*values: Tensor) -> torch.dtype:
    """The dtype of the state of a call with these arguments."""
    return torch.float64 if torch.float64 in [value.dtype for value in values] else torch.float32


def _same_in_head(value: Tensor | None, place: int) -> bool:
    """Whether a tensor with heads does not vary along the axis after them, and its strides say so."""
    return value is None or (value.dim() > place and value.stride(place) == 0)


def _headed_update(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None, z: Tensor | None, dt_bias: Tensor | None, dt_softplus: bool,
) -> Tensor:  # fmt: skip
    """The update where each head has one decay: Mamba-2's."""
    if A.dim() == 3 and A.stride(2) != 0:
        raise UserError("selective_state_update: A varies along the states within a head")
    groups = (B.unsqueeze(1), C.unsqueeze(1)) if B.dim() == 3 else (B[:, None, None], C[:, None, None])
    inputs = _given(D=D, z=None if z is None else z.unsqueeze(1), dt_bias=None if dt_bias is None else dt_bias[:, 0])
    before = state.unsqueeze(1)
    y, after = _SSD[bool(dt_softplus)](
        x.unsqueeze(1), dt[:, None, :, 0], A[:, 0, 0], *groups, **inputs,
        state=State(("ssd_discrete.S",), (before.to(_held(x, dt, A, B, C)),)), return_state=True,
    )  # fmt: skip
    before.copy_(after[0])
    return y.squeeze(1).to(x.dtype)


# ---------------------------------------------------------------- causal_conv1d


def _convolution(function: str, activation: str | None) -> _Library:
    if activation not in _CAUSAL_CONV1D:
        raise UserError(f"{function}: `activation` is {activation!r}", expected="None, 'silu' or 'swish'")
    return _CAUSAL_CONV1D[activation]


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
    _axes("causal_conv1d_fn", "x", x, 3)
    if seq_idx is not None and (initial_states is not None or return_final_states):
        raise UserError("causal_conv1d_fn: `seq_idx` is given together with initial or final states")
    inputs = _given(bias=bias, seq_idx=seq_idx, x0=_transposed(initial_states))
    op = _convolution("causal_conv1d_fn", activation)
    y = op(x.transpose(1, 2), weight, **inputs, return_state=return_final_states)
    if not return_final_states:
        if seq_idx is not None:
            y.masked_fill_((seq_idx < 0)[..., None], 0)
        return y.transpose(1, 2).to(x.dtype)
    y, state = y
    # A filter of one tap carries nothing.
    last = state["x"].transpose(1, 2).to(x.dtype) if len(state) else x[..., :0]
    if final_states_out is not None:
        last = final_states_out.copy_(last)
    return y.transpose(1, 2).to(x.dtype), last


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
) -> Tensor:
    """A token or a few of the causal convolution; writes the new inputs to ``conv_state``.

    Args:
        x: (B, D), or (B, D, L).
        conv_state: (B, D, S) with S ≥ W - 1: the last S inputs, oldest first.
        weight, bias: (D, W), (D,).
        cache_seqlens: (B,) ints, how many inputs came before; then ``conv_state`` is a ring in which input
            number i has the place i modulo S.

    Returns:
        As ``x``, in its dtype.
    """
    _axes("causal_conv1d_update", "x", x, 2, 3)
    op = _convolution("causal_conv1d_update", activation)
    tokens = x.unsqueeze(-1) if x.dim() == 2 else x
    length, width = conv_state.shape[-1], weight.shape[1]
    if length < width - 1:
        raise UserError(f"causal_conv1d_update: `conv_state` holds {length} inputs", expected=f"{width - 1} or more")
    before = conv_state
    if cache_seqlens is not None:
        places = cache_seqlens[:, None] + torch.arange(-(width - 1), 0, device=x.device)
        before = conv_state.gather(2, _ring(places, conv_state))
    if before.shape[-1] != width - 1:
        before = before[..., before.shape[-1] - (width - 1) :]
    y = op(tokens.transpose(1, 2), weight, x0=before.transpose(1, 2), **_given(bias=bias))
    if cache_seqlens is None:
        conv_state.copy_(
            torch.cat([conv_state, tokens.to(conv_state.dtype)], -1)[..., -length:] if length else conv_state
        )
    else:
        # Of more tokens than places the last ones stay.
        kept = min(length, tokens.shape[-1])
        first = tokens.shape[-1] - kept
        places = cache_seqlens[:, None] + torch.arange(first, tokens.shape[-1], device=x.device)
        conv_state.scatter_(2, _ring(places, conv_state), tokens[..., first:].to(conv_state.dtype))
    return y.transpose(1, 2).reshape(x.shape).to(x.dtype)


def _ring(places: Tensor, conv_state: Tensor) -> Tensor:
    """Places modulo the length of the ring, for every channel."""
    return places.remainder(conv_state.shape[-1]).long()[:, None].expand(-1, conv_state.shape[1], -1)


# ---------------------------------------------------------------- recurrentgemma


def rnn_scan(x: Tensor, a: Tensor, reset: Tensor, h0: Tensor | None) -> tuple[Tensor, Tensor]:
    """h[t] = a[t] h[t-1] + x[t], and h[t] = x[t] where ``reset`` holds.

    Args:
        x: (B, T, D).
        a: as ``x``, or without its first axes.
        reset: (B, T), bool, or ints of which any but 0 is true.
        h0: (B, D), or None for zeros.

    Returns:
        (B, T, D) in the dtype of ``x``, and the last state (B, D), in float32 or float64.
    """
    _axes("rnn_scan", "x", x, 3)
    reset = reset if reset.dtype is torch.bool else reset != 0
    y, state = _AFFINE_SCAN(a.expand(x.shape), x, reset, **_given(h0=h0), return_state=True)
    return y.to(x.dtype), state["h"][:, 0]
