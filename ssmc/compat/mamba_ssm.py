"""Drop-ins for mamba_ssm (state-spaces/mamba)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor
from torch.nn.functional import linear

from ssmc.errors import UserError
from ssmc.runtime import State

from .calls import (
    Library,
    by_softplus,
    check_axes,
    check_rows,
    check_shape,
    check_writable,
    given,
    recorded,
    time_second,
    write,
)
from .causal_conv1d import CAUSAL_CONV1D
from .documents import by_document, offsets, stretches

_SELECTIVE_SCAN = by_softplus("selective_scan")
_SELECTIVE_SCAN_COMPLEX = by_softplus("selective_scan:selective_scan_complex")
_SSD = by_softplus("ssd")
_RMS_NORM = Library("norms:rms_norm")


# ---------------------------------------------------------------- the scan


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
        check_axes("selective_scan_fn", name, value, 3)
    op = (_SELECTIVE_SCAN_COMPLEX if A.is_complex() else _SELECTIVE_SCAN)[bool(delta_softplus)]
    inputs = given(D=D, z=None if z is None else time_second(z), dt_bias=delta_bias)
    B, C = (_projection("selective_scan_fn", name, value, A.is_complex()) for name, value in (("B", B), ("C", C)))
    y, state = op(time_second(u), time_second(delta), A, B, C, **inputs, return_state=True)
    y = time_second(y).to(u.dtype)
    return (y, state["h"][:, 0]) if return_last_state else y


def _projection(function: str, name: str, value: Tensor, is_complex: bool) -> Tensor:
    """B or C with time second."""
    check_axes(function, name, value, 2, 3, 4)
    if value.dim() == 2:
        return value
    if is_complex and not value.is_complex():
        value = _as_complex(value)
    return value.movedim(-1, 1)


def _as_complex(value: Tensor) -> Tensor:
    """Real and imaginary parts alternate along the last axis."""
    value = value if value.dtype is torch.float64 else value.float()
    return torch.view_as_complex(value.reshape(*value.shape[:-1], value.shape[-1] // 2, 2).contiguous())


# ---------------------------------------------------------------- the block


def mamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
) -> Tensor:
    """Mamba's block after its first linear map: convolution, selective scan, gate, and the last linear map.

    Args:
        xz: (B, 2 D, L), the block's input and its gate.
        conv1d_weight, conv1d_bias: (D, 1, W), (D,).
        x_proj_weight: (R + 2 N, D), to the low rank of the step, B and C, without the rows of those that are
            given; for complex A a state has two rows, real and imaginary part.
        delta_proj_weight: (D, R).
        out_proj_weight, out_proj_bias: (E, D), (E,).
        A: (D, N), real or complex.
        B, C: as in ``selective_scan_fn``; projected from the convolved input by default.
        D, delta_bias: (D,).
        B_proj_bias, C_proj_bias: (N,), or (2 N,) for complex A; added to the projected ones.
        checkpoint_lvl: 0 or 1. What the backward pass rebuilds is decided when it is compiled.
        b_rms_weight, c_rms_weight, dt_rms_weight: (N,), (N,), (D,); B, C and the step are normalised by their
            root mean square, with these weights and ``b_c_dt_rms_eps``. B and C must be real and vary along time.

    Returns:
        (B, L, E).
    """
    if checkpoint_lvl not in (0, 1):
        raise UserError(f"mamba_inner_fn: `checkpoint_lvl` is {checkpoint_lvl!r}", expected="0 or 1")
    rank, states = _ranks(xz, conv1d_weight, x_proj_weight, delta_proj_weight, A, [B, C].count(None))
    x, z = time_second(xz).chunk(2, -1)
    u = CAUSAL_CONV1D["silu"](x, conv1d_weight.squeeze(1), **given(bias=conv1d_bias)).to(xz.dtype)
    projected = linear(u, x_proj_weight)
    delta = linear(projected[..., :rank], delta_proj_weight)
    if dt_rms_weight is not None:
        delta = _RMS_NORM(delta, dt_rms_weight, eps=b_c_dt_rms_eps).to(delta.dtype)
    B_read = _Read("B", B, projected[..., rank : rank + states], B_proj_bias, b_rms_weight)
    C_read = _Read("C", C, projected[..., projected.shape[-1] - states :], C_proj_bias, c_rms_weight)
    B, C = (item.value(A.is_complex(), b_c_dt_rms_eps) for item in (B_read, C_read))
    op = (_SELECTIVE_SCAN_COMPLEX if A.is_complex() else _SELECTIVE_SCAN)[bool(delta_softplus)]
    y = op(u, delta, A, B, C, **given(D=D, z=z, dt_bias=delta_bias)).to(u.dtype)
    return linear(y, out_proj_weight, out_proj_bias)


def _ranks(
    xz: Tensor, conv1d_weight: Tensor, x_proj_weight: Tensor, delta_proj_weight: Tensor, A: Tensor, projected: int
) -> tuple[int, int]:
    """The rank of the step, and how many rows B or C has; UserError where shapes do not fit each other."""
    function = "mamba_inner_fn"
    check_axes(function, "xz", xz, 3)
    check_axes(function, "A", A, 2)
    width, states, rank = A.shape[0], A.shape[1] * (2 if A.is_complex() else 1), delta_proj_weight.shape[-1]
    check_shape(function, "xz", xz, xz.shape[0], 2 * width, xz.shape[2])
    check_shape(function, "conv1d_weight", conv1d_weight, width, 1, conv1d_weight.shape[-1])
    check_shape(function, "delta_proj_weight", delta_proj_weight, width, rank)
    rows = rank + states * (2 if x_proj_weight.shape[0] == rank + 2 * states else projected)
    check_shape(function, "x_proj_weight", x_proj_weight, rows, width)
    return rank, states


class _Read(NamedTuple):
    """What the block has of B or C: one that is given, or one projected from the input."""

    name: str
    given: Tensor | None
    projected: Tensor
    bias: Tensor | None
    weight: Tensor | None

    def value(self, is_complex: bool, eps: float) -> Tensor:
        """As the scan takes it, (D, N), (B, L, N) or (B, L, G, N), normalised if there is a weight for it."""
        function = "mamba_inner_fn"
        if self.given is not None and self.bias is not None:
            raise UserError(f"{function}: `{self.name}_proj_bias` and {self.name!r} itself are given")
        if self.weight is not None and (is_complex or (self.given is not None and self.given.dim() == 2)):
            what = "A is complex" if is_complex else f"{self.name!r} does not vary along time"
            raise UserError(f"{function}: `{self.name.lower()}_rms_weight` is given, and {what}")
        if self.given is not None:
            value = _projection(function, self.name, self.given, is_complex)
        else:
            value = self.projected if self.bias is None else self.projected + self.bias.to(self.projected.dtype)
            value = _as_complex(value) if is_complex else value
        if self.weight is None:
            return value
        # Of grouped ones every group is normalised by itself.
        return _RMS_NORM(value.flatten(1, -2), self.weight, eps=eps).to(value.dtype).reshape(value.shape)


# ---------------------------------------------------------------- one token


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
    state_batch_indices: Tensor | None = None,
) -> Tensor:
    """One token of the selective scan; writes the new state to ``state``.

    Args:
        state: (B, D, N), or with heads (B, H, P, N).
        x, dt, z: (B, D), or (B, H, P).
        A: (D, N), or (H, P, N).
        B, C: (B, N), or (B, G, N) where H / G heads share a group.
        D, dt_bias: (D,), or (H, P).
        state_batch_indices: (B,) ints, the row of ``state`` of each entry of the batch; then it may have any
            number of rows.

    Returns:
        As ``x``, in its dtype. Where A, dt and dt_bias are the same for all of a head, expanded along P
        with stride 0, the layer with one decay per head is used and nothing is copied.
    """
    function = "selective_state_update"
    check_axes(function, "state", state, 3, 4)
    check_axes(function, "x", x, state.dim() - 1)
    check_axes(function, "B", B, 2, 3)
    check_writable(function, "state", state)
    rows = state_batch_indices
    if rows is not None:
        check_rows(function, "state_batch_indices", rows, x.shape[0], state.shape[0])
        before = state.index_select(0, rows)
    elif recorded(state, x, dt, A, B, C, D, z, dt_bias):
        before = state.clone()  # autograd keeps it, and `state` changes
    else:
        before = state
    if state.dim() == 3:
        y, after = _update(before, x, dt, A, B, C, D, z, dt_bias, dt_softplus)
    elif _same_in_head(dt, 2) and _same_in_head(A, 1) and _same_in_head(dt_bias, 1):
        y, after = _headed_update(before, x, dt, A, B, C, D, z, dt_bias, dt_softplus)
    else:
        # Heads times their width are the scan's channels.
        D, dt_bias = (None if value is None else value.reshape(-1) for value in (D, dt_bias))
        z = None if z is None else z.flatten(1)
        y, after = _update(
            before.flatten(1, 2), x.flatten(1), dt.flatten(1), A.flatten(0, 1), B, C, D, z, dt_bias, dt_softplus
        )
        y, after = y.view(x.shape), after.view(before.shape)
    write(state, after, rows)
    return y if y.dtype is x.dtype else y.to(x.dtype)


def _update(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None, z: Tensor | None, dt_bias: Tensor | None, dt_softplus: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The update of (B, D, N): what is read out, and the new state."""
    inputs = given(D=D, z=None if z is None else z.unsqueeze(1), dt_bias=dt_bias)
    held = _held(x, dt, A, B, C)
    y, after = _SELECTIVE_SCAN[bool(dt_softplus)](
        x.unsqueeze(1), dt.unsqueeze(1), A, B.unsqueeze(1), C.unsqueeze(1), **inputs,
        state=State(("h",), (state.unsqueeze(1).to(held),)), return_state=True,
    )  # fmt: skip
    return y.squeeze(1), after[0].squeeze(1)


def _held(*values: Tensor) -> torch.dtype:
    """The dtype of the state of a call with these arguments."""
    return torch.float64 if torch.float64 in [value.dtype for value in values] else torch.float32


def _same_in_head(value: Tensor | None, place: int) -> bool:
    """Whether a tensor with heads does not vary along the axis after them, and its strides say so."""
    return value is None or (value.dim() > place and value.stride(place) == 0)


def _headed_update(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None, z: Tensor | None, dt_bias: Tensor | None, dt_softplus: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The update where each head has one decay: Mamba-2's."""
    if A.dim() == 3 and A.stride(2) != 0:
        raise UserError("selective_state_update: A varies along the states within a head")
    groups = (B.unsqueeze(1), C.unsqueeze(1)) if B.dim() == 3 else (B[:, None, None], C[:, None, None])
    inputs = given(D=D, z=None if z is None else z.unsqueeze(1), dt_bias=None if dt_bias is None else dt_bias[:, 0])
    held = _held(x, dt, A, B, C)
    y, after = _SSD[bool(dt_softplus)](
        x.unsqueeze(1), dt[:, None, :, 0], A[:, 0, 0], *groups, **inputs,
        state=State(("ssd_discrete.S",), (state.unsqueeze(1).to(held),)), return_state=True,
    )  # fmt: skip
    return y.squeeze(1), after[0].squeeze(1)


# ---------------------------------------------------------------- Mamba-2's scan


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    return_varlen_states: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """Mamba-2's scan: one decay per head, h[t] = exp(step A) h[t-1] + step x[t] B[t]. Dao & Gu 2024, section 6.

    Args:
        x, z: (B, L, H, P).
        dt: (B, L, H); the step is ``dt`` + ``dt_bias``, through softplus if ``dt_softplus``, and clamped to
            ``dt_limit``, which by default does not let it be negative.
        A: (H,).
        B, C: (B, L, G, N), where H / G heads share a group.
        chunk_size: how many steps the original runs at once; the result does not depend on it.
        D: (H,), or (H, P).
        dt_bias: (H,).
        initial_states: (B, H, P, N); zeros by default.
        seq_idx: (B, L) ints; where the value changes a document begins, with a state of zeros.
            ``initial_states`` belong to document 0, and are dropped if the first is another.
        cu_seqlens: (N + 1,) ints, where the documents of ``seq_idx`` begin, and the end of the last; read only for
            ``return_varlen_states``, and then B is 1.

    Returns:
        (B, L, H, P) in the dtype of ``x``. With ``return_final_states`` also the states after the last token,
        (B, H, P, N), in float32 or float64. With ``return_varlen_states`` further those after the last token of each
        document, (N, H, P, N), in the dtype of ``C``.
    """
    function = "mamba_chunk_scan_combined"
    check_axes(function, "x", x, 4)
    if isinstance(chunk_size, bool) or chunk_size < 1:
        raise UserError(f"{function}: `chunk_size` is {chunk_size!r}", expected="an int of 1 or more")
    op, along = _SSD[bool(dt_softplus)], {"x": x, "dt": dt, "B": B, "C": C, **given(z=z)}
    fixed = {"A": A, **given(D=D, dt_bias=dt_bias), **_limits(*dt_limit, dt_softplus)}
    documents = _documents(function, x, seq_idx, cu_seqlens) if return_varlen_states else None
    if seq_idx is None:
        y, state = op(**along, **fixed, **given(S0=initial_states), return_state=True)
        y, last = y.to(x.dtype), state[0][:, 0]
        return (y, last) if return_final_states else y
    check_shape(function, "seq_idx", seq_idx, *x.shape[:2])
    rows = stretches(seq_idx)
    y, states = _by_row(op, along, fixed, initial_states, seq_idx, rows)
    found = [y.to(x.dtype)]
    if return_final_states:
        found.append(torch.cat([of_row[-1] for of_row in states]))
    if documents is not None:
        found.append(_ends(function, documents, rows[0], states[0]).to(C.dtype))
    return found[0] if len(found) == 1 else tuple(found)


def _limits(low: float, high: float, softplus: bool) -> dict[str, float]:
    """The bounds of the step that may be reached: what softplus returns is never negative."""
    least = {"dt_min": low} if low > 0 or not softplus else {}
    return least | ({"dt_max": high} if high < float("inf") else {})


def _documents(function: str, x: Tensor, seq_idx: Tensor | None, cu_seqlens: Tensor | None) -> list[int]:
    """Where the documents begin whose last states are asked for, and the end of the last."""
    if seq_idx is None or cu_seqlens is None:
        missing = "seq_idx" if seq_idx is None else "cu_seqlens"
        raise UserError(f"{function}: `return_varlen_states` is asked for without `{missing}`")
    if x.shape[0] != 1:
        raise UserError(f"{function}: `return_varlen_states` with a batch of {x.shape[0]}", expected="1")
    return offsets(function, cu_seqlens, x.shape[1])


def _by_row(
    op: Library, along: Mapping[str, Tensor], fixed: Mapping[str, Any], initial: Tensor | None, seq_idx: Tensor,
    rows: list[list[int]],
) -> tuple[Tensor, list[list[Tensor]]]:  # fmt: skip
    """Mamba-2's scan run on the stretches of each row, the first of which begins with ``initial`` if it is document 0:
    its results, and for each row the state after each stretch."""
    if initial is not None and seq_idx.shape[1]:
        initial = initial.where((seq_idx[:, :1] == 0)[..., None, None], 0)
    made, states = [], []
    for row, bounds in enumerate(rows):
        one = slice(row, row + 1)
        firsts = [None if initial is None else initial[one], *[None] * (len(bounds) - 2)]
        y, ends = by_document(op, {n: v[one] for n, v in along.items()}, fixed, "S0", firsts, bounds)
        made.append(y)
        states.append(ends)
    return torch.cat(made), states


def _ends(function: str, documents: list[int], bounds: list[int], states: list[Tensor]) -> Tensor:
    """The state after each document, given those after each stretch of equal ``seq_idx``."""
    if {*documents, bounds[-1]} != set(bounds):
        raise UserError(
            f"{function}: the documents of `cu_seqlens` do not begin where `seq_idx` changes",
            expected=f"`cu_seqlens` of {bounds}",
        )
    after = dict(zip(bounds, states, strict=False))
    empty = torch.zeros_like(states[0])
    return torch.cat([after[start] if end > start else empty for start, end in pairwise(documents)])
