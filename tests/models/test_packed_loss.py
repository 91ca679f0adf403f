"""The loss of packed documents is that of each by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.models import mamba_models, recurrent_gemma_models

ENDS = (0, 5, 6, 13)
PACKINGS: dict[str, Any] = {
    "position_ids": torch.cat([torch.arange(end - start) for start, end in zip(ENDS, ENDS[1:], strict=False)])[None],
    "cu_seqlens": torch.tensor(ENDS),
    "seq_idx": torch.tensor([[7] * 5 + [3] + [4] * 7]),
}


@pytest.mark.parametrize("named", PACKINGS)
@pytest.mark.parametrize("models", [mamba_models, recurrent_gemma_models], ids=["mamba", "recurrent_gemma"])
def test_loss_of_packed_documents(models: Any, named: str) -> None:
    """A document's first token was predicted by none of its own."""
    model, ids = models.small_model(), mamba_models.some_tokens(1, ENDS[-1])
    found = model(ids, labels=ids, use_cache=False, **{named: PACKINGS[named]}).loss
    total, labels = torch.zeros(()), 0
    for start, end in zip(ENDS, ENDS[1:], strict=False):
        if end - start > 1:
            document = ids[:, start:end]
            total += model(document, labels=document, use_cache=False).loss * (end - start - 1)
            labels += end - start - 1
    torch.testing.assert_close(found, total / labels)
