"""The mixer as a function, on modules of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import FalconMambaConfig, FalconMambaForCausalLM, MambaConfig
from transformers import MambaForCausalLM as TheirMamba

from ssmc.models import LayerCache, MixerLayers, mamba_mixer
from tests.models.mamba_models import some_tokens

SIZES: dict[str, Any] = {
    "vocab_size": 48, "hidden_size": 20, "num_hidden_layers": 2, "state_size": 5, "time_step_rank": 3,
    "initializer_range": 0.3, "use_bias": True,
}  # fmt: skip


def models(kind: str) -> tuple[nn.Module, float | None]:
    """A model of transformers, and the epsilon that its mixers normalise with."""
    torch.manual_seed(0)
    if kind == "mamba":
        return TheirMamba(MambaConfig(**SIZES)).eval(), None
    return FalconMambaForCausalLM(FalconMambaConfig(**SIZES, mixer_rms_eps=0.1)).eval(), 0.1


@pytest.mark.parametrize("kind", ["mamba", "falcon_mamba"])
def test_mixers_of_transformers(kind: str) -> None:
    model, eps = models(kind)
    ids, layers = some_tokens(2, 9), MixerLayers()
    hidden = torch.randn(2, 9, 20)
    with torch.no_grad():
        for block in model.backbone.layers:
            expected = block.mixer(hidden)
            found = mamba_mixer(block.mixer, layers, hidden, rms_eps=eps)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
            entry = LayerCache()
            pieces = [mamba_mixer(block.mixer, layers, h, entry, rms_eps=eps) for h in hidden.split([4, 1, 4], 1)]
            torch.testing.assert_close(torch.cat(pieces, 1), found)
        expected = model(ids, use_cache=False).logits
        for block in model.backbone.layers:
            block.mixer.forward = lambda h, mixer=block.mixer, **_: mamba_mixer(mixer, layers, h, rms_eps=eps)
        torch.testing.assert_close(model(ids, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)


def test_what_stands_for_a_linear_map_is_called() -> None:
    """Hooks, wrappers and replaced forwards see every projection."""
    model, _ = models("mamba")
    mixer, seen = model.backbone.layers[0].mixer, []
    names = ["in_proj", "x_proj", "dt_proj", "out_proj"]
    hidden, layers = torch.randn(1, 6, 20), MixerLayers()
    with torch.no_grad():
        expected = mamba_mixer(mixer, layers, hidden)
        for name in names:
            getattr(mixer, name).register_forward_hook(lambda *_, name=name: seen.append(name))
        torch.testing.assert_close(mamba_mixer(mixer, layers, hidden), expected)
    assert seen == names
