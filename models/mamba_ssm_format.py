"""Checkpoints of mamba_ssm (state-spaces/mamba): Mamba language models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import MambaConfig, PreTrainedConfig, PreTrainedModel

from ssmc.errors import UserError

from .checkpoints import Format, Row

_LIBRARY = "mamba_ssm"
# What it takes for a setting that a configuration leaves out.
_DEFAULTS: dict[str, Any] = {
    "d_model": 2560, "d_intermediate": 0, "n_layer": 64, "vocab_size": 50277, "ssm_cfg": {}, "attn_layer_idx": [],
    "attn_cfg": {}, "rms_norm": True, "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 8,
    "tie_embeddings": True,
}  # fmt: skip
# Of a mixer: its name for a setting, ours, and the default.
_MIXER: tuple[tuple[str, str, Any], ...] = (
    ("d_state", "state_size", 16),
    ("d_conv", "conv_kernel", 4),
    ("expand", "expand", 2),
    ("dt_rank", "time_step_rank", "auto"),
    ("dt_min", "time_step_min", 0.001),
    ("dt_max", "time_step_max", 0.1),
    ("dt_init", "time_step_init_scheme", "random"),
    ("dt_scale", "time_step_scale", 1.0),
    ("dt_init_floor", "time_step_floor", 1e-4),
    ("conv_bias", "use_conv_bias", True),
    ("bias", "use_bias", False),
)
_EPSILON = 1e-5  # of its normalisations; no setting


def is_mamba_ssm(settings: Mapping[str, Any]) -> bool:
    """Whether a config.json is one of mamba_ssm."""
    return "d_model" in settings and "n_layer" in settings


def _config(
    settings: Mapping[str, Any] | None, tensors: Mapping[str, Tensor], options: Mapping[str, Any]
) -> MambaConfig:
    if settings is None:
        raise UserError("a checkpoint of mamba_ssm without a config.json", hint="give the folder that holds both")
    unknown = sorted(settings.keys() - _DEFAULTS.keys())
    if unknown:
        raise UserError(f"the configuration has settings that mamba_ssm does not have: {', '.join(unknown)}")
    known = {**_DEFAULTS, **settings}
    mixer = dict(known["ssm_cfg"] or {})
    refused = {
        "`ssm_cfg` asks for another layer than Mamba1": mixer.pop("layer", "Mamba1") != "Mamba1",
        "`attn_layer_idx` asks for attention in some layers": bool(known["attn_layer_idx"]),
        "`d_intermediate` asks for an MLP in each layer": bool(known["d_intermediate"]),
        "`rms_norm` is false, so that the norms are LayerNorms": not known["rms_norm"],
    }
    for what, applies in refused.items():
        if applies:
            raise UserError(what, expected="a Mamba-1 model with RMSNorm, which is all that transformers' Mamba can be")
    mixer.pop("use_fast_path", None)  # which kernel runs
    unknown = sorted(mixer.keys() - {theirs for theirs, _, _ in _MIXER})
    if unknown:
        raise UserError(f"`ssm_cfg` has settings that Mamba1 does not have: {', '.join(unknown)}")
    multiple = known["pad_vocab_size_multiple"]
    return MambaConfig(
        hidden_size=known["d_model"],
        num_hidden_layers=known["n_layer"],
        vocab_size=-(-known["vocab_size"] // multiple) * multiple,
        residual_in_fp32=known["residual_in_fp32"],
        tie_word_embeddings=known["tie_embeddings"],
        layer_norm_epsilon=_EPSILON,
        **{ours: mixer.get(theirs, default) for theirs, ours, default in _MIXER},
    )


def _settings(config: PreTrainedConfig) -> dict[str, Any]:
    if config.hidden_act != "silu" or config.layer_norm_epsilon != _EPSILON:
        raise UserError(
            f"`hidden_act` is {config.hidden_act!r}, `layer_norm_epsilon` {config.layer_norm_epsilon}",
            expected=f"'silu' and {_EPSILON}: mamba_ssm has no others",
        )
    if config.intermediate_size != config.expand * config.hidden_size:
        raise UserError(
            f"`intermediate_size` is {config.intermediate_size}",
            expected=f"expand · hidden_size, {config.expand * config.hidden_size}: mamba_ssm has no others",
        )
    return {
        **_DEFAULTS,
        "d_model": config.hidden_size,
        "n_layer": config.num_hidden_layers,
        "vocab_size": config.vocab_size,
        "pad_vocab_size_multiple": 1,
        "residual_in_fp32": config.residual_in_fp32,
        "tie_embeddings": config.tie_word_embeddings,
        "ssm_cfg": {theirs: getattr(config, ours) for theirs, ours, _ in _MIXER},
    }


def _rows(config: PreTrainedConfig) -> list[Row]:
    names = [
        "A_log",
        "D",
        "in_proj.weight",
        "x_proj.weight",
        "dt_proj.weight",
        "dt_proj.bias",
        "out_proj.weight",
        "conv1d.weight",
    ]
    names += ["conv1d.bias"] * config.use_conv_bias + ["in_proj.bias", "out_proj.bias"] * config.use_bias
    rows = [Row("backbone.embedding.weight", ("backbone.embeddings.weight",)), _same("backbone.norm_f.weight")]
    for layer in range(config.num_hidden_layers):
        rows.append(_same(f"backbone.layers.{layer}.norm.weight"))
        rows += [_same(f"backbone.layers.{layer}.mixer.{name}") for name in names]
    return [*rows, Row("lm_head.weight", ("lm_head.weight",), optional=config.tie_word_embeddings)]


def _same(name: str) -> Row:
    return Row(name, (name,))


def _model() -> type[PreTrainedModel]:
    from .mamba import MambaForCausalLM

    return MambaForCausalLM


MAMBA_SSM = Format(_LIBRARY, _model, _config, _settings, _rows)
