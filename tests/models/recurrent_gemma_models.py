"""Small RecurrentGemma models for tests."""

from __future__ import annotations

from typing import Any

import torch
from transformers import RecurrentGemmaConfig

from ssmc.models import RecurrentGemmaForCausalLM
from tests.models.mamba_models import VOCABULARY


def config(**settings: Any) -> RecurrentGemmaConfig:
    """Both mixers, heads that share keys, a window shorter than the tests' sequences."""
    small = {
        "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "lru_width": 24, "attention_window_size": 4,
        "block_types": ["recurrent", "attention"],
    }  # fmt: skip
    return RecurrentGemmaConfig(**{**small, **settings})


def small_model(seed: int = 0, dtype: torch.dtype = torch.float32, **settings: Any) -> RecurrentGemmaForCausalLM:
    """With every parameter random, large enough that logits differ."""
    torch.manual_seed(seed)
    model = RecurrentGemmaForCausalLM(config(**settings)).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.normal_(std=1.0 if name.endswith(("bias", "embed_tokens.weight")) else value.shape[-1] ** -0.5)
    return model.to(dtype)
