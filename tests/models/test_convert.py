"""Checkpoints of other libraries: converted, converted back, and refused with every mistake named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MambaConfig, RecurrentGemmaConfig

from ssmc.errors import UserError
from ssmc.models import MambaForCausalLM, RecurrentGemmaForCausalLM, convert_checkpoint

SETTINGS: dict[str, Any] = {
    "d_model": 8, "n_layer": 2, "vocab_size": 13, "pad_vocab_size_multiple": 4, "rms_norm": True,
    "residual_in_fp32": True, "fused_add_norm": True, "tie_embeddings": True,
    "ssm_cfg": {"d_state": 3, "dt_rank": 2, "expand": 3},
}  # fmt: skip
IDS = torch.tensor([[1, 5, 3, 9, 2, 2, 7]])


def draw(*shape: int) -> Tensor:
    return torch.randn(shape) * 0.3


def mamba_ssm(folder: Path, **changed: Any) -> dict[str, Tensor]:
    """A random checkpoint as mamba_ssm writes it."""
    settings = SETTINGS | changed
    inner, states, rank, hidden = 24, 3, 2, 8
    tensors = {"backbone.embedding.weight": draw(16, hidden), "backbone.norm_f.weight": draw(hidden)}
    for layer in range(2):
        mixer = f"backbone.layers.{layer}.mixer"
        tensors |= {
            f"backbone.layers.{layer}.norm.weight": draw(hidden),
            f"{mixer}.A_log": draw(inner, states),
            f"{mixer}.D": draw(inner),
            f"{mixer}.in_proj.weight": draw(2 * inner, hidden),
            f"{mixer}.conv1d.weight": draw(inner, 1, 4),
            f"{mixer}.conv1d.bias": draw(inner),
            f"{mixer}.x_proj.weight": draw(rank + 2 * states, inner),
            f"{mixer}.dt_proj.weight": draw(inner, rank),
            f"{mixer}.dt_proj.bias": draw(inner),
            f"{mixer}.out_proj.weight": draw(hidden, inner),
        }
    tied = settings["tie_embeddings"]
    tensors["lm_head.weight"] = tensors["backbone.embedding.weight"] if tied else draw(16, hidden)
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    torch.save(tensors, folder / "pytorch_model.bin")
    return tensors


def recurrent_gemma(**changed: Any) -> RecurrentGemmaForCausalLM:
    settings = {
        "vocab_size": 17, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 4, "num_attention_heads": 2,
        "num_key_value_heads": 1, "lru_width": 12, "attention_window_size": 5, "conv1d_width": 3,
    }  # fmt: skip
    return RecurrentGemmaForCausalLM(RecurrentGemmaConfig(**settings | changed)).eval()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("sharded", [False, True])
def test_mamba_ssm_there_and_back(tmp_path: Path, tied: bool, sharded: bool) -> None:
    theirs = mamba_ssm(tmp_path / "theirs", tie_embeddings=tied)
    size = 2000 if sharded else "5GB"
    found = convert_checkpoint(tmp_path / "theirs", tmp_path / "ours", max_shard_size=size)
    assert (tmp_path / "ours" / "model.safetensors.index.json").exists() == sharded
    assert set(found.files) == set((tmp_path / "ours").iterdir()) and found.parameters > 2000
    model = MambaForCausalLM.from_pretrained(tmp_path / "ours")
    config = model.config
    assert (config.hidden_size, config.vocab_size, config.intermediate_size, config.state_size) == (8, 16, 24, 3)
    assert config.tie_word_embeddings == tied
    # The same function as a model that is given the tensors by hand.
    plain = MambaForCausalLM(MambaConfig(**config.to_dict()))
    named = {name.replace("backbone.embedding.", "backbone.embeddings."): value for name, value in theirs.items()}
    plain.load_state_dict(named)
    torch.testing.assert_close(logits(model), logits(plain), rtol=0, atol=0)
    convert_checkpoint(tmp_path / "ours", tmp_path / "back", to="mamba_ssm")
    back = torch.load(tmp_path / "back" / "pytorch_model.bin", weights_only=True)
    assert back.keys() == theirs.keys() and all(torch.equal(back[name], theirs[name]) for name in theirs)
    convert_checkpoint(tmp_path / "back", tmp_path / "again")
    torch.testing.assert_close(logits(MambaForCausalLM.from_pretrained(tmp_path / "again")), logits(model))


@pytest.mark.parametrize("settings", [{}, {"block_types": ["recurrent"]}, {"num_hidden_layers": 7}], ids=str)
def test_recurrentgemma_there_and_back(tmp_path: Path, settings: dict[str, Any]) -> None:
    model = recurrent_gemma(**settings)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "ours")
    (tmp_path / "ours" / "tokenizer.model").write_bytes(b"pieces")
    found = convert_checkpoint(tmp_path / "ours", tmp_path / "theirs", to="recurrentgemma")
    assert found.dtypes == ("bfloat16",) and (tmp_path / "theirs" / "tokenizer.model").read_bytes() == b"pieces"
    convert_checkpoint(tmp_path / "theirs", tmp_path / "again", attention_window=4, max_shard_size=1000)
    assert (tmp_path / "again" / "model.safetensors.index.json").exists()
    again = RecurrentGemmaForCausalLM.from_pretrained(tmp_path / "again")
    assert again.dtype is torch.bfloat16 and again.config.attention_window_size == 5
    assert again.config.layers_block_type == model.config.layers_block_type
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=0)


def test_nested_tables_and_other_files(tmp_path: Path) -> None:
    """Names as paths of tables, in a file of any of the suffixes."""
    from safetensors.torch import save_file

    model = recurrent_gemma()
    model.save_pretrained(tmp_path / "ours")
    convert_checkpoint(tmp_path / "ours", tmp_path / "theirs", to="recurrentgemma")
    flat = torch.load(tmp_path / "theirs" / "model.pt", weights_only=True)
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        inner = nested
        for word in path:
            inner = inner.setdefault(word, {})
        inner[last] = value
    torch.save(nested, tmp_path / "nested.pth")
    save_file(flat, tmp_path / "flat.safetensors")
    torch.save(flat, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("nested.pth", "flat.safetensors", "old.pt"):
        convert_checkpoint(tmp_path / name, tmp_path / f"{name}.out", attention_window=4)
        again = RecurrentGemmaForCausalLM.from_pretrained(tmp_path / f"{name}.out")
        torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=0)


def test_again_into_the_same_folder(tmp_path: Path) -> None:
    """What an earlier conversion left is not mixed with this one; where the checkpoint lies nothing is written."""
    mamba_ssm(tmp_path / "theirs")
    for size in (2000, "5GB", 2000, 3000):
        convert_checkpoint(tmp_path / "theirs", tmp_path / "ours", max_shard_size=size)
        model = MambaForCausalLM.from_pretrained(tmp_path / "ours")
        convert_checkpoint(tmp_path / "ours", tmp_path / "back", to="mamba_ssm")
        mamba_ssm(tmp_path / "theirs")  # other numbers
        back = torch.load(tmp_path / "back" / "pytorch_model.bin", weights_only=True)
        assert torch.equal(model.backbone.norm_f.weight, back["backbone.norm_f.weight"])
    with pytest.raises(UserError, match="would be written over"):
        convert_checkpoint(tmp_path / "theirs", tmp_path / "theirs")


def test_a_checkpoint_of_transformers_loads(tmp_path: Path) -> None:
    """from_pretrained, from folders that transformers wrote, whole and in pieces."""
    from transformers import RecurrentGemmaForCausalLM as Theirs

    theirs = Theirs(recurrent_gemma().config)
    for size in ("5GB", "3KB"):
        theirs.save_pretrained(tmp_path / size, max_shard_size=size)
        ours = RecurrentGemmaForCausalLM.from_pretrained(tmp_path / size)
        parameters = dict(theirs.named_parameters())
        assert {name for name, _ in ours.named_parameters()} == parameters.keys()
        assert all(torch.equal(value, parameters[name]) for name, value in ours.named_parameters())


# ---------------------------------------------------------------- what is refused


class Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_nothing_is_run(tmp_path: Path) -> None:
    torch.save({"embedder.input_embedding": Runs(tmp_path / "ran")}, tmp_path / "2b.pt")
    with pytest.raises(UserError, match="no file of tensors alone"):
        convert_checkpoint(tmp_path / "2b.pt", tmp_path / "out")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"ssm_cfg": {"layer": "Mamba2"}}, "another layer than Mamba1"),
        ({"attn_layer_idx": [1]}, "attention in some layers"),
        ({"d_intermediate": 16}, "an MLP in each layer"),
        ({"rms_norm": False}, "LayerNorm"),
        ({"d_hidden": 16}, "does not have: d_hidden"),
        ({"ssm_cfg": {"headdim": 16}}, "does not have: headdim"),
        ({"d_model": 16}, "another shape: backbone.embedding.weight"),
        ({"n_layer": 3}, "are missing: backbone.layers.2"),
        ({"n_layer": 1}, "belong to no such model: backbone.layers.1"),
    ],
)
def test_other_models_of_mamba_ssm(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    mamba_ssm(tmp_path / "theirs", **changed)
    with pytest.raises(UserError, match=message):
        convert_checkpoint(tmp_path / "theirs", tmp_path / "ours")


def test_every_mistake_is_listed(tmp_path: Path) -> None:
    tensors = mamba_ssm(tmp_path)
    del tensors["backbone.layers.0.mixer.D"]
    tensors["backbone.layers.1.mixer.D"] = draw(7)
    tensors["extra"] = draw(1)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError) as caught:
        convert_checkpoint(tmp_path, tmp_path / "ours")
    told = str(caught.value)
    for part in ("are missing: backbone.layers.0.mixer.D", "no such model: extra", "mixer.D (7,) instead of (24,)"):
        assert part in told
    tensors = mamba_ssm(tmp_path)
    tensors["lm_head.weight"] = draw(16, 8)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="ties the embeddings"):
        convert_checkpoint(tmp_path, tmp_path / "ours")


def test_what_recurrentgemma_cannot_say(tmp_path: Path) -> None:
    recurrent_gemma(attention_bias=True, num_key_value_heads=2).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="attention_bias = True, num_key_value_heads = 2"):
        convert_checkpoint(tmp_path, tmp_path / "out", to="recurrentgemma")
    with pytest.raises(UserError, match="of a recurrent_gemma model"):
        convert_checkpoint(tmp_path, tmp_path / "out", to="mamba_ssm")
    with pytest.raises(UserError, match="there is no form 'onnx'"):
        convert_checkpoint(tmp_path, tmp_path / "out", to="onnx")


@pytest.mark.parametrize("content", [b"", b"text", b"{}"])
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.npz"])
def test_files_that_hold_no_tensors(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        convert_checkpoint(tmp_path / name, tmp_path / "out")
    with pytest.raises(UserError, match="there is no"):
        convert_checkpoint(tmp_path / "nowhere", tmp_path / "out")


# ---------------------------------------------------------------- the command


def test_command(tmp_path: Path, ssmc: Any) -> None:
    mamba_ssm(tmp_path / "theirs")
    ran = ssmc("convert", tmp_path / "theirs", "-o", tmp_path / "ours")
    assert ran.code == 0 and "mamba, 2 layers" in ran.out and "model.safetensors" in ran.out
    facts = ssmc("convert", tmp_path / "theirs", "-o", tmp_path / "ours", "--json").object()
    assert facts["from"] == "mamba_ssm" and facts["parameters"] > 2000
    assert {file["name"] for file in facts["files"]} == {"config.json", "model.safetensors"}
    ran = ssmc("convert", tmp_path / "ours", "-o", tmp_path / "back", "--to", "mamba_ssm")
    assert ran.code == 0 and (tmp_path / "back" / "pytorch_model.bin").exists()
    mamba_ssm(tmp_path / "theirs", n_layer=3)
    ran = ssmc("convert", tmp_path / "theirs", "-o", tmp_path / "ours")
    assert ran.code == 1 and "are missing: backbone.layers.2" in ran.err
    assert ssmc("convert", tmp_path / "theirs").code == 2
