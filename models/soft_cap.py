"""Logits that are kept between two bounds: a vocabulary of them is large, so memory is passed over once."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ssmc.runtime import Library

_SOFT_CAP = Library("soft_cap")
# What is worked on at a time, in numbers: it stays in a processor's cache.
_PIECE = 1 << 19


def soft_capped(logits: Tensor, cap: float, in_place: bool = False) -> Tensor:
    """cap · tanh(logits / cap), (batch, length, vocabulary), in the dtype of the logits.

    Args:
        in_place: it may be written over the logits; that is done where no gradient is asked for.
    """
    if torch.compiler.is_compiling() or type(logits) is not Tensor:
        return torch.tanh(logits / cap) * cap
    if not in_place or (torch.is_grad_enabled() and logits.requires_grad):
        return cast(Tensor, _SOFT_CAP(logits, cap=float(cap)))
    rows = logits.flatten(0, -2)
    count = max(1, _PIECE // rows.shape[1])
    for start in range(0, len(rows), count):
        rows[start : start + count].div_(cap).tanh_().mul_(cap)
    return rows.view(logits.shape)
