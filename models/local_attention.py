"""Attention to the last tokens, by PyTorch's own kernels. De et al. 2024 (Griffin), section 2.3."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Queries at a time where sequences are longer than the window: their keys are then a little more than the window.
_QUERIES = 512


def local_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int,
    numbers: tuple[Tensor, Tensor] | None = None,
    reach: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Softmax attention of each token to itself and the ``window`` - 1 tokens before it.

    Time and memory grow with length times window. Logits are scaled by E^-1/2.

    Args:
        query: (B, H, L, E).
        key, value: (B, G, S + L, E), G a divisor of H: those of S earlier tokens, then those of the queries.
        numbers: which token of its row each query and each key is, (B or 1, L) and (B or 1, S + L) ints, -1 for
            padding; None if places tell.
        reach: (B or 1, L) ints: how many earlier tokens each query sees at most.
        dropout: the probability with which a weight is dropped.

    Returns:
        (B, H, L, E); where a query is padding, anything finite.
    """
    length, past = query.shape[2], key.shape[2] - query.shape[2]
    if numbers is None:
        if length == 1:
            key, value = key[:, :, -window:], value[:, :, -window:]
        elif reach is None and past == 0 and length <= window:
            return _attend(query, key, value, None, dropout, causal=True)
        places = torch.arange(key.shape[2], device=key.device)[None]
        numbers = places[:, -length:], places
        known = True
    else:
        numbers, known = (_apart(numbers[0]), _apart(numbers[1])), False
    if length == 1:
        seen = None if known and reach is None else _visible(*numbers, window, reach)
        return _one(query, key, value, seen, dropout)
    pieces = []
    for start in range(0, length, _QUERIES):
        end = min(length, start + _QUERIES)
        # Padding may lie in between, so that places do not tell how far back the window goes.
        first = max(0, past + start - window + 1) if known else 0
        near = slice(first, past + end)
        seen = _visible(
            numbers[0][:, start:end], numbers[1][:, near], window, None if reach is None else reach[:, start:end]
        )
        pieces.append(_attend(query[:, :, start:end], key[:, :, near], value[:, :, near], seen, dropout))
    return torch.cat(pieces, 2) if pieces else query


def _apart(numbers: Tensor) -> Tensor:
    """Padding sees padding, and no token does: it lies far behind all of them."""
    return torch.where(numbers < 0, torch.iinfo(torch.int64).max // 2, numbers)


def _visible(queries: Tensor, keys: Tensor, window: int, reach: Tensor | None) -> Tensor:
    """(B or 1, 1, L, K) bools, which key each query sees."""
    back = queries[:, :, None] - keys[:, None, :]
    seen = (back >= 0) & (back < window)
    if reach is not None:
        seen = seen & (back <= reach[:, :, None])
    return seen[:, None]


def _one(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None, dropout: float) -> Tensor:
    """One query: the heads that share keys are the rows of one matrix product."""
    batch, heads, _, size = query.shape
    rows = query.reshape(batch, key.shape[1], heads // key.shape[1], size)
    seen = None if seen is None else seen.expand(-1, -1, rows.shape[2], -1)
    return F.scaled_dot_product_attention(rows, key, value, seen, dropout).reshape(batch, heads, 1, size)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None, dropout: float, causal: bool = False
) -> Tensor:
    shared = key.shape[1] != query.shape[1]
    return F.scaled_dot_product_attention(query, key, value, seen, dropout, is_causal=causal, enable_gqa=shared)


# ---------------------------------------------------------------- rotary positions


def rotation(positions: Tensor, size: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The cosines and sines by which pairs of channels turn at each position; Su et al. 2021, eq. (15).

    Args:
        positions: (B, L) ints.
        size: the number of channels that turn, even; pair i turns by position · base^(-2i / size).

    Returns:
        Two tensors (B, 1, L, size / 2), in float32, in float64 if ``dtype`` is.
    """
    exact = torch.promote_types(dtype, torch.float32)
    powers = torch.arange(0, size, 2, device=positions.device, dtype=exact) / size
    angles = positions[:, None, :, None].to(exact) / base**powers
    return angles.cos(), angles.sin()


def rotated(values: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """(B, H, L, E) with channels i and i + size / 2 turned, for the first ``size`` channels of each head."""
    cos, sin = turn
    half = cos.shape[-1]
    first, second, rest = values[..., :half], values[..., half : 2 * half], values[..., 2 * half :]
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    return torch.cat([turned.to(values.dtype), rest], -1)
