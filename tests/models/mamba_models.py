"""Small Mamba models for tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import MambaConfig

from ssmc.models import MambaForCausalLM

VOCABULARY = 48


def config(**settings: Any) -> MambaConfig:
    small = {"vocab_size": VOCABULARY, "hidden_size": 20, "num_hidden_layers": 2, "state_size": 5, "time_step_rank": 3}
    return MambaConfig(**{**small, "initializer_range": 1.0, **settings})


def small_model(seed: int = 0, dtype: torch.dtype = torch.float32, **settings: Any) -> MambaForCausalLM:
    """With random biases too, and embeddings large enough that logits differ."""
    torch.manual_seed(seed)
    model = MambaForCausalLM(config(**settings)).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("bias") and "dt_proj" not in name:
                value.normal_()
    return model.to(dtype)


def some_tokens(*shape: int, seed: int = 0) -> Tensor:
    """Ids of tokens, none of which is 0, which pads."""
    return torch.randint(1, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))
