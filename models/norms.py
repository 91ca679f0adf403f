"""Normalisations of the models."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from ssmc.runtime import Library


@cache
def rms_norm(eps: float, offset: float) -> Library:
    """The compiled layer; all modules with these numbers call the same."""
    return Library("norms:rms_norm", eps=eps, offset=offset)


def is_usual(norm: nn.Module) -> bool:
    """Whether a module is such a normalisation, by the compiled layer that it was made with."""
    return type(norm) is RMSNorm and norm.layer.statics == {"eps": norm.eps, "offset": norm.offset}


class RMSNorm(nn.Module):
    """Root mean square normalisation. Zhang and Sennrich 2019, eq. (4).

    ``y = x / sqrt(mean(x²) + eps) · (weight + offset)``, in float32 or what is wider, whatever the dtypes of x and
    the weight.

    Args:
        width: extent of the last axis.
        eps: what is added to the mean.
        offset: 0, or 1 for weights that are stored as a difference from 1, as Gemma's are.
    """

    def __init__(self, width: int, eps: float, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), 1.0 - offset))
        self.eps, self.offset = eps, offset
        self.layer = rms_norm(eps, offset)

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """x (batch, length, width) → the same of ``dtype``, by default that of x."""
        made: Tensor = self.layer(x, self.weight)
        return made.to(dtype or x.dtype)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"
