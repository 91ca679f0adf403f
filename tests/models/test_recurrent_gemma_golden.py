"""RecurrentGemma against what transformers' and DeepMind's returned, in float32 and float64.

Exceptions, where a reference is wrong:

* ``hf_rg_leftpad``: the reference's recurrent layers run over padding and its positions count it, so that the row with
  padding is compared with its own tokens run alone, and with the reference only as far as that ignores the mask: up to
  the first attention. The gradients sum over both rows and are not compared; those of the other row are the ones of
  ``hf_rg_fwd``'s parameters, compared there.
* ``hf_rg_decode``, float64: the reference's rotary frequencies were rounded to float32, and are for this comparison.
* ``griffin_*``, the gradient of the embedding: DeepMind's trains the row of the padding token as an input, too;
  transformers', and so this, only as an output.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import RecurrentGemmaConfig

from ssmc.models import RecurrentGemmaForCausalLM, StateCache, convert_checkpoint
from ssmc.models.local_attention import local_attention, rotated, rotation

from .golden import FOLDER, Case, assert_agrees, load_case, load_parameters

DTYPES = [torch.float32, torch.float64]
both = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def model_of(case: Case, dtype: torch.dtype) -> RecurrentGemmaForCausalLM:
    settings = {name: value for name, value in case.config.items() if name not in ("batch", "seqlen", "prefill")}
    model = RecurrentGemmaForCausalLM(RecurrentGemmaConfig(**settings)).eval().to(dtype)
    load_parameters(model, case)
    return model


# ---------------------------------------------------------------- transformers


@both
def test_forward_and_gradients_agree(dtype: torch.dtype) -> None:
    """Logits, hidden states, and the gradient of every parameter, beyond the attention's window."""
    case = load_case("hf_rg_fwd")
    model = model_of(case, dtype)
    found = model(case["in.input_ids"], output_hidden_states=True)
    assert found.logits.dtype is dtype
    assert_agrees(case, "out.logits", found.logits)
    assert len(found.hidden_states) == len(case.named("out.hidden"))
    for number, hidden in enumerate(found.hidden_states):
        assert_agrees(case, f"out.hidden{number}", hidden)
    (found.logits * case["w.logits"]).sum().backward()
    parameters = dict(model.named_parameters())
    assert case.named("grad.param.").keys() == parameters.keys()
    for name, value in parameters.items():
        assert value.grad is not None
        assert_agrees(case, f"grad.param.{name}", value.grad)


@both
def test_left_padding(dtype: torch.dtype) -> None:
    case = load_case("hf_rg_leftpad")
    model, ids, mask = model_of(case, dtype), case["in.input_ids"], case["in.attention_mask"]
    padding = int((mask[0] == 0).sum())
    assert padding and bool(mask[1].all())
    found = model(ids, attention_mask=mask, output_hidden_states=True)
    second = torch.tensor([False, True])[:, None, None]
    assert_agrees(case, "out.logits", found.logits, second)
    for number, hidden in enumerate(found.hidden_states):
        assert_agrees(case, f"out.hidden{number}", hidden, second)
    alone = model(ids[:1, padding:], output_hidden_states=True)
    torch.testing.assert_close(found.logits[:1, padding:], alone.logits)
    unmasked = model(ids, output_hidden_states=True)
    for number in range(3):
        assert_agrees(case, f"out.hidden{number}", unmasked.hidden_states[number])


def rounded_rotation(positions: Tensor, size: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    powers = torch.arange(0, size, 2, dtype=torch.float32) / size
    angles = positions[:, None, :, None] * (1.0 / base**powers).to(dtype)
    return angles.cos(), angles.sin()


@both
@pytest.mark.parametrize("steps", [1, 4])
def test_decoding_agrees(dtype: torch.dtype, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt, then a token or several at a time: logits and states."""
    monkeypatch.setattr("ssmc.models.recurrent_gemma.rotation", rounded_rotation)
    case = load_case("hf_rg_decode")
    model, ids, prefill = model_of(case, dtype), case["in.input_ids"], case.config["prefill"]
    with torch.no_grad():
        cache = StateCache(model.config)
        found = model(ids[:, :prefill], cache=cache)
        assert_agrees(case, "out.logits_prefill", found.logits)
        _check_states(case, "prefill", cache)
        pieces = [model(piece, cache=cache).logits for piece in ids[:, prefill:].split(steps, 1)]
    assert_agrees(case, "out.logits_steps", torch.cat(pieces, 1))
    assert_agrees(case, "out.logits_full_forward", torch.cat([found.logits, *pieces], 1))
    _check_states(case, "final", cache)


def _check_states(case: Case, when: str, cache: StateCache) -> None:
    for layer in range(2):
        states = cache.layers[layer].states
        assert_agrees(case, f"out.{when}_conv1d_state{layer}", states["conv"]["x"].transpose(1, 2))
        assert_agrees(case, f"out.{when}_rnn_state{layer}", states["rg_lru"]["h"][:, 0])


# ---------------------------------------------------------------- DeepMind


@pytest.fixture(scope="module")
def deepmind(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model from DeepMind's parameters, as their file has them."""
    case = load_case("griffin_fwd")
    folder = tmp_path_factory.mktemp("griffin")
    torch.save(case.named("param."), folder / "2b.pt")
    convert_checkpoint(folder / "2b.pt", folder / "ours", attention_window=case.config["attention_window_size"])
    return lambda dtype: RecurrentGemmaForCausalLM.from_pretrained(folder / "ours").to(dtype).eval()


@both
@pytest.mark.parametrize("name", ["griffin_fwd", "griffin_packed"])
def test_deepmind_forward_agrees(name: str, dtype: torch.dtype, deepmind: Any) -> None:
    """Logits, states, gradients; of documents in one row, too."""
    case, model = load_case(name), deepmind(dtype)
    positions = case["in.segment_pos"]
    cache = StateCache(model.config)
    found = model(case["in.tokens"], position_ids=positions, cache=cache)
    assert_agrees(case, "out.logits", found.logits)
    _check_cache(case, "cache", cache, positions)
    (found.logits * case["w.logits"]).sum().backward()
    for name, value in _in_their_form(model).items():
        trained = torch.arange(len(value))[:, None] != model.config.pad_token_id
        assert_agrees(case, f"grad.param.{name}", value, trained if name == "embedder.input_embedding" else None)


def _in_their_form(model: RecurrentGemmaForCausalLM) -> dict[str, Tensor]:
    """Gradients under DeepMind's names and in their shapes."""
    from ssmc.models.deepmind_format import RECURRENTGEMMA

    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return RECURRENTGEMMA.write(model.config, gradients)


@both
def test_deepmind_decoding_agrees(dtype: torch.dtype, deepmind: Any) -> None:
    case, model = load_case("griffin_decode"), deepmind(dtype)
    ids, prefill, positions = case["in.tokens"], case.config["prefill"], case["in.segment_pos"]
    with torch.no_grad():
        cache = StateCache(model.config)
        first = model(ids[:, :prefill], cache=cache).logits
        assert_agrees(case, "out.logits_prefill", first)
        _check_cache(case, "cache_prefill", cache, positions[:, :prefill])
        pieces = [model(ids[:, n : n + 1], cache=cache).logits for n in range(prefill, ids.shape[1])]
    assert_agrees(case, "out.logits_steps", torch.cat(pieces, 1))
    assert_agrees(case, "out.logits_full_forward", torch.cat([first, *pieces], 1))
    _check_cache(case, "cache_final", cache, positions)


def _check_cache(case: Case, name: str, cache: StateCache, positions: Tensor) -> None:
    """Theirs keeps keys in a ring, the token at position p of its document at place p modulo the window."""
    for layer in range(2):
        states = cache.layers[layer].states
        assert_agrees(case, f"out.{name}.blocks.{layer}.conv1d_state", states["conv"]["x"])
        assert_agrees(case, f"out.{name}.blocks.{layer}.rg_lru_state", states["rg_lru"]["h"][:, 0])
    for part in ("keys", "values"):
        kept = getattr(cache.layers[2], part).transpose(1, 2)
        ring = [row.roll(int(end) + 1, 0) for row, end in zip(kept, positions[:, -1], strict=True)]
        assert_agrees(case, f"out.{name}.blocks.2.{part}", torch.stack(ring))


# ---------------------------------------------------------------- DeepMind's attention alone

ATTENTION = ["rg_attn", "rg_attn_segments", "rg_attn_short_prompt"]


def _layer_case(name: str) -> Case:
    import json

    folder = FOLDER.parent
    entry = json.loads((folder / "manifest.json").read_text())[name]
    tensors: dict[str, Tensor] = {}
    for file in entry["files"]:
        tensors.update({key: value.clone() for key, value in load_file(folder / file).items()})
    return Case(name, entry["config"], tensors, entry["tensors"])


@both
@pytest.mark.parametrize("name", ATTENTION)
def test_local_attention_agrees(name: str, dtype: torch.dtype) -> None:
    """With windows shorter and longer than the sequence, and documents. The reference's window counts no self."""
    case = _layer_case(name)
    length, heads, window = case.config["seqlen"], case.config["num_heads"], case.config["window_size"] + 1
    parameters = {key: value.to(dtype).requires_grad_() for key, value in case.named("param.").items()}
    x = case["in.x"][:, :length].to(dtype).requires_grad_()
    positions = case["in.segment_pos"][:, :length]

    def split(name: str) -> Tensor:
        return (x @ parameters[f"{name}.weight"].T).unflatten(-1, (-1, x.shape[-1] // heads)).transpose(1, 2)

    turn = rotation(positions, x.shape[-1] // heads // 2, 10000.0, dtype)
    mixed = local_attention(
        rotated(split("proj_q"), turn), rotated(split("proj_k"), turn), split("proj_v"), window, reach=positions
    )
    y = mixed.transpose(1, 2).flatten(2) @ parameters["proj_final.weight"].T + parameters["proj_final.bias"]
    assert_agrees(case, "out.y", y)
    (y * case["w.y"]).sum().backward()
    assert x.grad is not None
    whole = torch.nn.functional.pad(x.grad, (0, 0, 0, case["in.x"].shape[1] - length))
    assert_agrees(case, "grad.in.x", whole)
    for key, value in parameters.items():
        assert value.grad is not None
        assert_agrees(case, f"grad.param.{key}", value.grad)
