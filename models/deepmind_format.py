"""Checkpoints of recurrentgemma (google-deepmind/recurrentgemma), its PyTorch side: RecurrentGemma language models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, RecurrentGemmaConfig

from ssmc.errors import UserError

from .checkpoints import Format, Row

EMBEDDING = "embedder.input_embedding"
"""The tensor by which such a checkpoint is known."""
# No tensor tells these; all released models have them.
WINDOW, SOFT_CAP = 2048, 30.0


def _config(
    settings: Mapping[str, Any] | None, tensors: Mapping[str, Tensor], options: Mapping[str, Any]
) -> RecurrentGemmaConfig:
    """The configuration, from shapes. Options: ``attention_window`` and ``logits_soft_cap``.

    A token there sees itself and ``attention_window`` tokens before it; here the window counts itself.
    """
    kinds = _kinds(tensors)
    vocabulary, hidden = _shape(tensors, EMBEDDING, 2)
    first = kinds.index("recurrent") if "recurrent" in kinds else None
    if first is None:
        raise UserError("the checkpoint has no recurrent block", hint="the number of heads is read from its gates")
    block = f"blocks.{first}.recurrent_block"
    heads = _shape(tensors, f"{block}.rg_lru.a_gate.w", 3)[0]
    taps, width = _shape(tensors, f"{block}.conv_1d.w", 2)
    groups = heads
    if "attention" in kinds:
        rows = _shape(tensors, f"blocks.{kinds.index('attention')}.attention_block.proj_k.weight", 2)[0]
        groups = max(1, rows * heads // hidden)
    return RecurrentGemmaConfig(
        num_hidden_layers=len(kinds),
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * _shape(tensors, "blocks.0.mlp_block.ffw_up.w", 3)[2],
        num_attention_heads=heads,
        num_key_value_heads=groups,
        lru_width=width,
        conv1d_width=taps,
        attention_window_size=options.get("attention_window", WINDOW) + 1,
        logits_soft_cap=options.get("logits_soft_cap", SOFT_CAP),
        block_types=_period(kinds),
    )


def _kinds(tensors: Mapping[str, Tensor]) -> list[str]:
    """Of each block, in their order."""
    found: dict[int, str] = {}
    for name in tensors:
        words = name.split(".")
        if words[0] == "blocks" and len(words) > 2 and words[1].isdecimal():
            if words[2] in ("recurrent_block", "attention_block"):
                found[int(words[1])] = words[2].removesuffix("_block")
    absent = [number for number in range(max(found, default=0) + 1) if number not in found]
    if absent:
        raise UserError(
            f"the checkpoint has no mixer for block {absent[0]}",
            expected=f"blocks.{absent[0]}.recurrent_block.… or blocks.{absent[0]}.attention_block.…",
        )
    return [found[number] for number in sorted(found)]


def _period(kinds: Sequence[str]) -> list[str]:
    """The shortest pattern that, repeated, gives all of them."""
    lengths = range(1, len(kinds) + 1)
    length = next(n for n in lengths if all(kind == kinds[i % n] for i, kind in enumerate(kinds)))
    return list(kinds[:length])


def _shape(tensors: Mapping[str, Tensor], name: str, axes: int) -> torch.Size:
    if name not in tensors or tensors[name].dim() != axes:
        found = f"has the shape {tuple(tensors[name].shape)}" if name in tensors else "is missing"
        raise UserError(
            f"tensor {name} {found}", expected=f"one with {axes} axes, from which sizes of the model are read"
        )
    return tensors[name].shape


def _settings(config: PreTrainedConfig) -> None:
    """Nothing: what tensors do not tell has to be what its users are told."""
    rotated = config.rope_parameters
    usual = {
        "hidden_activation": config.hidden_activation == "gelu_pytorch_tanh",
        "attention_bias": not config.attention_bias,
        "rms_norm_eps": config.rms_norm_eps == 1e-6,
        "tie_word_embeddings": config.tie_word_embeddings,
        "rope_parameters": rotated["rope_theta"] == 10000.0 and rotated.get("partial_rotary_factor") == 0.5,
        "embeddings_scale_by_sqrt_dim": getattr(config, "embeddings_scale_by_sqrt_dim", True),
        "num_key_value_heads": config.num_key_value_heads == 1,
    }
    other = [name for name, holds in usual.items() if not holds]
    if other:
        raise UserError(
            f"recurrentgemma has no models with this: {', '.join(f'{n} = {getattr(config, n)}' for n in other)}"
        )


def _rows(config: PreTrainedConfig) -> list[Row]:
    rows = [Row(EMBEDDING, ("model.embed_tokens.weight",)), Row("final_norm.scale", ("model.final_norm.weight",))]
    for layer in range(config.num_hidden_layers):
        theirs, ours = f"blocks.{layer}", f"model.layers.{layer}"
        rows += [
            Row(f"{theirs}.{name}.scale", (f"{ours}.{name}.weight",))
            for name in ("temporal_pre_norm", "channel_pre_norm")
        ]
        recurrent = config.block_types[layer % len(config.block_types)] == "recurrent"
        mixer = _recurrent_rows if recurrent else _attention_rows
        rows += mixer(theirs, f"{ours}.temporal_block", config)
        rows += _mlp_rows(f"{theirs}.mlp_block", f"{ours}.mlp_block")
    return rows


def _recurrent_rows(theirs: str, ours: str, config: PreTrainedConfig) -> list[Row]:
    theirs = f"{theirs}.recurrent_block"
    rows = [
        Row(f"{theirs}.{name}.{part}", (f"{ours}.{name}.{part}",))
        for name in ("linear_y", "linear_x", "linear_out")
        for part in ("weight", "bias")
    ]
    gates = (("input_gate", "input_gate"), ("a_gate", "recurrent_gate"))
    rows += [
        Row(f"{theirs}.rg_lru.{gate}.{part}", (f"{ours}.rg_lru.{name}_{whole}",))
        for gate, name in gates
        for part, whole in (("w", "weight"), ("b", "bias"))
    ]
    return [
        *rows,
        Row(f"{theirs}.rg_lru.a_param", (f"{ours}.rg_lru.recurrent_param",)),
        # (taps, channels) there, (channels, 1, taps) here.
        Row(f"{theirs}.conv_1d.w", (f"{ours}.conv_1d.weight",), lambda w: (w.T[:, None],), lambda w: w[0][:, 0].T),
        Row(f"{theirs}.conv_1d.b", (f"{ours}.conv_1d.bias",)),
    ]


def _attention_rows(theirs: str, ours: str, config: PreTrainedConfig) -> list[Row]:
    theirs = f"{theirs}.attention_block"
    rows = [Row(f"{theirs}.proj_{x}.weight", (f"{ours}.{x}_proj.weight",)) for x in ("q", "k", "v")]
    return [*rows, *(Row(f"{theirs}.proj_final.{part}", (f"{ours}.o_proj.{part}",)) for part in ("weight", "bias"))]


def _mlp_rows(theirs: str, ours: str) -> list[Row]:
    """The gate and what it gates are one tensor there, (2, hidden, width) and (2, 1, 1, width)."""
    both = ("gate_proj", "up_proj")
    return [
        Row(
            f"{theirs}.ffw_up.w",
            tuple(f"{ours}.{name}.weight" for name in both),
            lambda w: (w[0].T, w[1].T),
            lambda w: torch.stack([w[0].T, w[1].T]),
        ),
        Row(
            f"{theirs}.ffw_up.b",
            tuple(f"{ours}.{name}.bias" for name in both),
            lambda b: (b[0, 0, 0], b[1, 0, 0]),
            lambda b: torch.stack([b[0], b[1]])[:, None, None],
        ),
        Row(f"{theirs}.ffw_down.weight", (f"{ours}.down_proj.weight",)),
        Row(f"{theirs}.ffw_down.bias", (f"{ours}.down_proj.bias",)),
    ]


def _model() -> type[PreTrainedModel]:
    from .recurrent_gemma import RecurrentGemmaForCausalLM

    return RecurrentGemmaForCausalLM


RECURRENTGEMMA = Format("recurrentgemma", _model, _config, _settings, _rows)
