"""Mamba's configuration, its checkpoints, its weights when they are new, and low precision; beside transformers'."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import MambaConfig

from ssmc.errors import UserError
from ssmc.models import MambaForCausalLM, MambaModel
from tests.models.mamba_models import config, small_model, some_tokens


def reference(seed: int = 0, **settings: Any) -> transformers.MambaForCausalLM:
    """transformers' model, with random biases too."""
    torch.manual_seed(seed)
    model = transformers.MambaForCausalLM(config(**{"initializer_range": 0.3, **settings})).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("bias") and "dt_proj" not in name:
                value.normal_()
    return model


SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "hidden_act": {"hidden_act": "gelu"},
    "hidden_act swish": {"hidden_act": "swish"},
    "expand": {"expand": 3},
    "intermediate_size": {"intermediate_size": 24},
    "conv_kernel 1": {"conv_kernel": 1},
    "conv_kernel 2, no bias": {"conv_kernel": 2, "use_conv_bias": False},
    "use_bias": {"use_bias": True},
    "state_size, time_step_rank": {"state_size": 1, "time_step_rank": 1},
    "time_step_rank auto": {"time_step_rank": "auto", "hidden_size": 36},
    "layer_norm_epsilon": {"layer_norm_epsilon": 0.3},
    "untied": {"tie_word_embeddings": False},
    "residual_in_fp32": {"residual_in_fp32": False},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_checkpoints_of_transformers_load(name: str, tmp_path: Path) -> None:
    """And say the same; what is saved here loads there."""
    theirs, ids = reference(**SETTINGS[name]), some_tokens(2, 7)
    theirs.save_pretrained(tmp_path / "theirs")
    ours, info = MambaForCausalLM.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    with torch.no_grad():
        expected = theirs(ids, output_hidden_states=True)
        found = ours.eval()(ids, output_hidden_states=True)
        pairs = [(found.logits, expected.logits), *zip(found.hidden_states, expected.hidden_states, strict=True)]
        for mine, other in pairs:
            assert mine.dtype is other.dtype and (mine - other).abs().max() <= 1e-5 * other.abs().max()
        ours.save_pretrained(tmp_path / "ours")
        assert (tmp_path / "ours" / "model.safetensors").exists()
        again = transformers.MambaForCausalLM.from_pretrained(tmp_path / "ours").eval()
        assert torch.equal(again(ids).logits, expected.logits)


def test_sharded_checkpoints(tmp_path: Path) -> None:
    model, ids = small_model(), some_tokens(1, 5)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    assert torch.equal(MambaForCausalLM.from_pretrained(tmp_path).eval()(ids).logits, model(ids).logits)
    body = MambaModel.from_pretrained(tmp_path).eval()
    assert torch.equal(body(ids).last_hidden_state, model.backbone(ids).last_hidden_state)


def test_tied_embeddings_are_one_parameter(tmp_path: Path) -> None:
    model = small_model()
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    again = MambaForCausalLM.from_pretrained(tmp_path)
    assert again.lm_head.weight is again.get_input_embeddings().weight
    again.resize_token_embeddings(50)
    assert again.lm_head.weight is again.get_input_embeddings().weight
    assert again(some_tokens(1, 3)).logits.shape == (1, 3, 50)
    apart = small_model(tie_word_embeddings=False)
    assert apart.lm_head.weight is not apart.get_input_embeddings().weight


# ---------------------------------------------------------------- new weights


def test_new_weights() -> None:
    """Section 3.6 of the paper, and the authors' code for the rest."""
    torch.manual_seed(0)
    settings = {"hidden_size": 64, "state_size": 8, "time_step_min": 0.01, "time_step_max": 0.2, "time_step_scale": 0.5}
    model = MambaForCausalLM(config(initializer_range=0.02, time_step_rank=16, use_bias=True, **settings))
    for block in model.backbone.layers:
        mixer = block.mixer
        step = torch.nn.functional.softplus(mixer.dt_proj.bias)
        assert 0.01 < step.min() < 0.015 and 0.15 < step.max() < 0.2
        logs = step.log().sort().values
        expected = torch.linspace(math.log(0.01), math.log(0.2), len(logs))
        assert (logs - expected).abs().max() < 0.6  # log-uniform
        assert mixer.dt_proj.weight.abs().max() <= 0.5 / 4 < 2.5 * mixer.dt_proj.weight.std()
        torch.testing.assert_close(mixer.A_log, torch.arange(1.0, 9).log().expand(128, 8))
        assert (mixer.D == 1).all() and (block.norm.weight == 1).all()
        for module in (mixer.in_proj, mixer.out_proj, mixer.x_proj, mixer.conv1d):
            bound = module.weight[0].numel() ** -0.5
            assert 0.9 * bound < module.weight.abs().max() <= bound
            assert module.bias is None or not module.bias.any()
    assert 0.019 < model.get_input_embeddings().weight.std() < 0.021


def test_other_ways_to_draw_weights() -> None:
    torch.manual_seed(0)
    model = MambaForCausalLM(
        config(
            num_hidden_layers=4, rescale_prenorm_residual=True, time_step_init_scheme="constant", time_step_floor=0.05
        )
    )
    mixer = model.backbone.layers[0].mixer
    bound = mixer.out_proj.in_features**-0.5 / 2
    assert 0.9 * bound < mixer.out_proj.weight.abs().max() <= bound
    torch.testing.assert_close(mixer.dt_proj.weight, torch.full_like(mixer.dt_proj.weight, 3**-0.5))
    assert torch.nn.functional.softplus(mixer.dt_proj.bias).min() > 0.0499


def test_loading_draws_only_what_is_missing(tmp_path: Path) -> None:
    """With rescale_prenorm_residual, too, weights that were loaded stay as they are."""
    model = small_model(rescale_prenorm_residual=True)
    model.backbone.save_pretrained(tmp_path)
    body = MambaModel.from_pretrained(tmp_path)
    for name, value in model.backbone.named_parameters():
        assert torch.equal(body.get_parameter(name), value)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"hidden_act": "soft"}, "`hidden_act` is 'soft'"),
        ({"time_step_init_scheme": "zeros"}, "`time_step_init_scheme` is 'zeros'"),
        ({"time_step_min": 0.2, "time_step_max": 0.1}, "time steps from 0.2 to 0.1"),
        ({"conv_kernel": 0}, "`conv_kernel` is 0"),
        ({"is_encoder_decoder": True}, "`is_encoder_decoder` is set"),
        ({"output_attentions": True}, "`output_attentions` is set"),
    ],
)
def test_configurations_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MambaModel(config(**settings))


def test_every_field_of_the_configuration_is_known() -> None:
    """A field that a later transformers adds must be looked at: honoured, or refused with a reason."""
    honoured = {
        "vocab_size", "hidden_size", "state_size", "num_hidden_layers", "layer_norm_epsilon", "expand", "conv_kernel",
        "use_bias", "use_conv_bias", "hidden_act", "initializer_range", "residual_in_fp32", "time_step_rank",
        "time_step_scale", "time_step_min", "time_step_max", "time_step_init_scheme", "time_step_floor",
        "rescale_prenorm_residual", "use_cache", "tie_word_embeddings",
    }  # fmt: skip
    by_generate = {"pad_token_id", "bos_token_id", "eos_token_id"}
    # They choose between ways in which transformers computes what here is compiled.
    without_meaning_here = {"use_mambapy", "use_associative_scan"}
    own = set(MambaConfig.__dataclass_fields__) - set(transformers.PreTrainedConfig.__dataclass_fields__)
    assert own <= honoured | by_generate | without_meaning_here


# ---------------------------------------------------------------- low precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)])
def test_low_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    """Weights of sixteen bits: near what float32 says with the same weights; states, logits and residuals float32."""
    small_model(initializer_range=0.1).to(dtype).save_pretrained(tmp_path)
    model = MambaForCausalLM.from_pretrained(tmp_path, dtype=dtype).eval()
    assert all(p.dtype is dtype for p in model.parameters())
    exact, ids = MambaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval(), some_tokens(2, 40)
    with torch.no_grad():
        found, expected = model(ids, use_cache=True), exact(ids)
        step = torch.cat([found.logits[:, -1:], model(ids[:, :3], cache=found.cache).logits], 1)
    assert found.logits.dtype is torch.float32
    assert all(v.dtype is torch.float32 for layer in found.cache.layers for v in layer.states["scan"])
    scale = expected.logits.square().mean().sqrt()
    unit = torch.finfo(dtype).eps
    assert ((found.logits - expected.logits).square().mean().sqrt() / scale) < 4 * unit
    with torch.no_grad():
        whole = exact(torch.cat([ids, ids[:, :3]], 1)).logits[:, -4:]
    assert ((step - whole).square().mean().sqrt() / scale) < 4 * unit
    (model(ids, labels=ids).loss).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_autocast() -> None:
    model, ids = small_model(initializer_range=0.1), some_tokens(2, 20)
    with torch.no_grad():
        expected = model(ids).logits
        with torch.autocast("cpu", torch.bfloat16):
            found = model(ids).logits
    assert not torch.equal(found, expected)
    assert ((found - expected).square().mean() / expected.square().mean()).sqrt() < 2**-6
