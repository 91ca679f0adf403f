"""Documents that lie one after the other along time: where they begin, and a layer run on each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ssmc.errors import UserError

from .calls import Library, check_axes, given


def offsets(function: str, cu_seqlens: Tensor, length: int) -> list[int]:
    """Where documents begin, and the end of the last; UserError unless they fill 0 to at most ``length`` in order."""
    check_axes(function, "cu_seqlens", cu_seqlens, 1)
    found = [int(v) for v in cu_seqlens.tolist()]
    if len(found) < 2 or found[0] != 0 or any(a > b for a, b in pairwise(found)) or found[-1] > length:
        raise UserError(
            f"{function}: `cu_seqlens` is {_shortened(found)}",
            expected=f"numbers that begin with 0, never fall, and end with at most the length, {length}",
        )
    return found


def stretches(seq_idx: Tensor) -> list[list[int]]:
    """For each row the places where the value changes, with both ends of the row."""
    changes = seq_idx[:, 1:] != seq_idx[:, :-1]
    length = seq_idx.shape[1]
    return [[0, *(1 + row.nonzero().flatten()).tolist(), length] for row in changes]


def by_document(
    op: Library, along: Mapping[str, Tensor], fixed: Mapping[str, Any], name: str, initial: Sequence[Tensor | None],
    bounds: Sequence[int],
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """A layer run on each document of one row, cut out, and the results joined.

    Args:
        along: inputs (1, L, …), cut along their second axis.
        fixed: inputs and static parameters that are the same for all documents.
        name: the input that takes the initial state; ``initial`` has it for each document, (1, …) or None for zeros.
        bounds: where documents begin, and the end of the last. What lies behind belongs to none and yields zeros.

    Returns:
        (1, L, …), and for each document the state after its last token, its initial state if it is empty.
    """
    found, lasts = [], []
    for first, (start, end) in zip(initial, pairwise(bounds), strict=True):
        pieces = {key: value[:, start:end] for key, value in along.items()}
        y, state = op(**pieces, **fixed, **given(**{name: first}), return_state=True)
        found.append(y)
        lasts.append(state[0][:, 0])
    tail = max(v.shape[1] for v in along.values()) - bounds[-1]
    if tail:
        found.append(found[0].new_zeros(1, tail, *found[0].shape[2:]))
    return torch.cat(found, 1), lasts


def _shortened(values: Sequence[int]) -> str:
    shown = ", ".join(map(str, values[:8]))
    return f"[{shown}, …]" if len(values) > 8 else f"[{shown}]"
