"""A weight that is both the embeddings and the head: one gradient, to which the rows that were looked up are added.

PyTorch makes a matrix of each use, zeros but for a few rows of one, and a third of their sum.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmc.runtime import nobody_intercepts

from .linear import is_plain, linear, project
from .parts import is_watched


class Tied:
    """What a language model reads of such a weight in one call: ``rows`` first, then the ``weight`` of its head."""

    def __init__(self, embeddings: nn.Embedding) -> None:
        self._embeddings = embeddings
        self.weight: Tensor = embeddings.weight

    def rows(self, ids: Tensor) -> Tensor:
        """As the embeddings: (…) ints → (…, width). Raises IndexError for ids that they have not."""
        rows, self.weight = Rows.apply(ids, self._embeddings.weight, self._embeddings.padding_idx)  # type: ignore[no-untyped-call]
        return rows


def logits_of(head: nn.Module, hidden: Tensor, shared: Tied | None) -> Tensor:
    """``head(hidden)``, by the weight that it shares, if it does."""
    return project(head, hidden) if shared is None else linear(hidden, shared.weight, head.bias)  # type: ignore[arg-type]


def tied(embeddings: nn.Module, head: nn.Module) -> Tied | None:
    """What both read, if they have one weight, on the CPU, of which a gradient is recorded; None where it is not so, or
    where either is another module than PyTorch's own, is watched, or does more than look up and multiply."""
    if not (type(embeddings) is nn.Embedding and is_plain(head) and head.weight is embeddings.weight):
        return None
    weight = embeddings.weight
    recorded = torch.is_grad_enabled() and weight.requires_grad and not torch.compiler.is_compiling()
    usual = type(weight) is nn.Parameter and weight.is_cpu and embeddings.max_norm is None
    other = embeddings.sparse or embeddings.scale_grad_by_freq or is_watched(embeddings)
    return Tied(embeddings) if recorded and usual and not other and nobody_intercepts() else None


class Rows(torch.autograd.Function):
    """Rows of a matrix, and the matrix itself for another use."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, padding: int | None) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(ids)
        ctx.set_materialize_grads(False)
        ctx.count, ctx.padding = len(weight), padding
        return F.embedding(ids, weight), weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, d_rows: Tensor | None, d_weight: Tensor | None) -> tuple[Tensor | None, ...]:
        (ids,) = ctx.saved_tensors
        if d_rows is None:
            return None, d_weight, None
        if ctx.padding is not None:
            d_rows = d_rows.masked_fill((ids == ctx.padding)[..., None], 0)
        ids, d_rows = ids.reshape(-1), d_rows.reshape(-1, d_rows.shape[-1])
        if d_weight is None:
            d_weight = d_rows.new_zeros(ctx.count, d_rows.shape[-1])
        if torch.is_grad_enabled():  # the gradient is to have one, too
            return None, d_weight.index_add(0, ids, d_rows), None
        return None, d_weight.index_add_(0, ids, d_rows), None
