"""Where the tokens of a call are: padding, documents, and what came before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ssmc.errors import UserError

from .cache import StateCache, new_columns, token_positions, with_padding


@dataclass(frozen=True)
class Tokens:
    """The tokens of a call with (B, L) places.

    Attributes:
        mask: (B, L) bools, where there is a token and no padding; None if neither this call nor an earlier one of the
            same cache has padding.
        padding: the same, but None if this call has no padding.
        numbers: (B or 1, L) ints, which token of its row each is, counted from the first that a cache has seen; -1
            for padding.
        positions: (B or 1, L) ints, the position of each token in its document; anything for padding.
        reach: (B or 1, L) ints, how many tokens before it belong to its document; None if all do.
    """

    mask: Tensor | None
    padding: Tensor | None
    numbers: Tensor
    positions: Tensor
    reach: Tensor | None


def tokens_of(
    shape: tuple[int, int],
    device: torch.device,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cache: StateCache | None = None,
) -> Tokens:
    """The tokens of a call.

    Args:
        shape: batch and length.
        attention_mask: (B, L), or (B, P + L) after P positions; 0 where there is padding.
        position_ids: (B or 1, L) ints, or (L,); a document begins where there is 0. By default tokens are counted.
        cu_seqlens: (documents + 1,) ints: where documents begin, the same in all rows, and the length. Positions that
            are given as well do not matter then.
        seq_idx: (B or 1, L) ints, or (L,), in place of it: a document is a stretch of equal numbers.
        cache: what came before.

    Raises:
        UserError: one of them has another shape, or they contradict each other.
    """
    if cache is None:
        mask, past = new_columns(attention_mask, *shape), 0
    else:
        mask, past = cache.begin(attention_mask, *shape), cache.get_seq_length()
    if mask is not None:
        numbers = cache.token_positions(shape[1], mask) if cache is not None else token_positions(mask)
        assert numbers is not None
    else:
        numbers = torch.arange(past, past + shape[1], device=device)[None]
    padding = with_padding(mask)
    if cache is not None and cache.documents and position_ids is None:
        raise UserError(
            "earlier calls with this cache had documents that began inside of rows, and `position_ids` is not given",
            expected="(batch, length) ints, the position of each token in its document",
        )
    given = _given_positions(shape, device, mask, position_ids, cu_seqlens, seq_idx)
    if given is None or _only_count(given, numbers, mask):
        return Tokens(mask, padding, numbers, numbers, None)
    begins = given == 0 if mask is None else (given == 0) & mask
    start = torch.where(begins, numbers, -1).cummax(1).values
    # Before the first beginning of this call, positions tell how long ago the document of an earlier call began.
    reach = torch.where(start >= 0, numbers - start, torch.minimum(given, numbers))
    if cache is not None:
        cache.documents = True
    return Tokens(mask, padding, numbers, given, reach)


def _given_positions(
    shape: tuple[int, int], device: torch.device, mask: Tensor | None, position_ids: Tensor | None,
    cu_seqlens: Tensor | None, seq_idx: Tensor | None,
) -> Tensor | None:  # fmt: skip
    """Positions as the call gives them, (B or 1, L)."""
    if cu_seqlens is not None and seq_idx is not None:
        raise UserError("`cu_seqlens` and `seq_idx` are given", expected="one of them")
    place = torch.arange(shape[1], device=device)[None]
    if cu_seqlens is not None:
        _check_boundaries(cu_seqlens, shape[1])
        bounds = cu_seqlens.to(device, torch.int64)
        start = bounds[torch.searchsorted(bounds, place, right=True) - 1]
    elif seq_idx is not None:
        documents = _rows("seq_idx", seq_idx, shape, device)
        begins = pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)[:, : shape[1]]
        start = torch.where(begins, place, 0).cummax(1).values
    elif position_ids is not None:
        return _rows("position_ids", position_ids, shape, device)
    else:
        return None
    if mask is None:
        return place - start
    before = mask.cumsum(1) - mask.long()
    return before - before.gather(1, start.expand(shape))


def _rows(name: str, value: Tensor, shape: tuple[int, int], device: torch.device) -> Tensor:
    rows = value[None] if value.dim() == 1 else value
    if rows.dim() != 2 or rows.shape[1] != shape[1] or rows.shape[0] not in (1, shape[0]):
        raise UserError(f"`{name}` has the shape {tuple(value.shape)}", expected=f"{shape} or {shape[1:]}")
    return rows.to(device)


def _check_boundaries(cu_seqlens: Tensor, length: int) -> None:
    if cu_seqlens.dim() != 1 or cu_seqlens.is_floating_point() or len(cu_seqlens) < 2:
        raise UserError(
            f"`cu_seqlens` has the shape {tuple(cu_seqlens.shape)} and dtype {cu_seqlens.dtype}",
            expected="(documents + 1,) ints",
        )
    if torch.compiler.is_compiling():
        return
    rises = bool((cu_seqlens[1:] >= cu_seqlens[:-1]).all())
    if int(cu_seqlens[0]) != 0 or int(cu_seqlens[-1]) != length or not rises:
        raise UserError(
            f"`cu_seqlens` goes from {int(cu_seqlens[0])} to {int(cu_seqlens[-1])}{'' if rises else ', and falls'}",
            expected=f"numbers that begin with 0, never fall, and end with the length, {length}",
        )


def _only_count(given: Tensor, numbers: Tensor, mask: Tensor | None) -> bool:
    """Whether given positions say no more than how many tokens came before."""
    if torch.compiler.is_compiling():
        return False
    same = given == numbers
    return bool((same if mask is None else same | ~mask).all())
