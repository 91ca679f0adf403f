"""Models of transformers whose mixers run on compiled layers: the same function, and back."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from ssmc.errors import UserError
from ssmc.models import Replaced, accelerate, in_place, restore

VOCABULARY = 40


def mamba(**settings: object) -> PreTrainedModel:
    small = {"hidden_size": 20, "num_hidden_layers": 2, "state_size": 5, "time_step_rank": 3, "use_bias": True}
    return transformers.MambaForCausalLM(transformers.MambaConfig(vocab_size=VOCABULARY, **(small | settings)))


def falcon_mamba() -> PreTrainedModel:
    config = transformers.FalconMambaConfig(
        vocab_size=VOCABULARY, hidden_size=20, num_hidden_layers=2, state_size=5, time_step_rank=3, mixer_rms_eps=1e-3
    )
    return transformers.FalconMambaForCausalLM(config)


def recurrent_gemma() -> PreTrainedModel:
    config = transformers.RecurrentGemmaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, attention_window_size=8, lru_width=16,
    )  # fmt: skip
    return transformers.RecurrentGemmaForCausalLM(config)


MODELS = {"mamba": (mamba, "MambaMixer"), "falcon_mamba": (falcon_mamba, "FalconMambaMixer"),
          "recurrent_gemma": (recurrent_gemma, "RecurrentGemmaRecurrentBlock")}  # fmt: skip
each_model = pytest.mark.parametrize("make, kind", MODELS.values(), ids=MODELS)


def made(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """With random parameters that are far from what initialisation makes of them, in double precision."""
    torch.manual_seed(0)
    model = make().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def tokens(*shape: int) -> Tensor:
    return torch.randint(1, VOCABULARY, shape, generator=torch.Generator().manual_seed(1))


def close(found: Tensor, expected: Tensor) -> None:
    # Transformers casts parts of a model to float32, whatever its parameters are.
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-6 * float(expected.abs().max()))


@each_model
def test_the_same_function(make: Callable[[], PreTrainedModel], kind: str) -> None:
    """Logits, gradients, parameters and their names, generation with a cache; and all of it back."""
    model = made(make)
    ids, names = tokens(2, 11), list(model.state_dict())

    def results() -> tuple[Tensor, list[Tensor], Tensor]:
        model.zero_grad()
        out = model(input_ids=ids, labels=ids, use_cache=False)
        out.loss.backward()
        generated = model.generate(ids[:, :5], max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=None)
        return out.logits.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None], generated

    logits, gradients, generated = results()
    report = accelerate(model)
    assert isinstance(report, Replaced) and report.kind == kind and report.error is None and not report.left
    assert kind in str(report) and len(report.modules) == 2
    assert list(model.state_dict()) == names
    found = results()
    assert not torch.equal(found[0], logits)  # something else was run
    close(found[0], logits)
    for value, expected in zip(found[1], gradients, strict=True):
        close(value, expected)
    assert torch.equal(found[2], generated)
    assert restore(model) == report.modules and restore(model) == ()
    assert torch.equal(results()[0], logits)


@each_model
def test_a_cache_continues_with_several_tokens(make: Callable[[], PreTrainedModel], kind: str) -> None:
    """In pieces of 4, 1, 3 and 2 tokens, which transformers' own mixers get wrong."""
    model = made(make)
    accelerate(model)
    ids = tokens(2, 10)
    whole = model(input_ids=ids, use_cache=False).logits
    known = inspect.signature(type(model).forward).parameters
    name = next(name for name in ("cache", "past_key_values", "cache_params") if name in known)
    cache = transformers.DynamicCache(config=model.config)
    pieces = [model(input_ids=piece, use_cache=True, **{name: cache}).logits for piece in ids.split([4, 1, 3, 2], 1)]
    close(torch.cat(pieces, 1), whole)


@pytest.mark.parametrize("side", ["left", "right", "middle"])
@pytest.mark.parametrize("make", [mamba, falcon_mamba])
def test_padding_changes_nothing(make: Callable[[], PreTrainedModel], side: str) -> None:
    model = made(make)
    accelerate(model)
    ids = tokens(1, 9)
    places = {"left": range(4, 13), "right": range(9), "middle": [0, 1, 2, 5, 6, 7, 8, 11, 12]}[side]
    padded, mask = torch.zeros(1, 13, dtype=torch.int64), torch.zeros(1, 13, dtype=torch.int64)
    padded[0, list(places)], mask[0, list(places)] = ids[0], 1
    found = model(input_ids=padded, attention_mask=mask, use_cache=False).logits[:, list(places)]
    close(found, model(input_ids=ids, use_cache=False).logits)


@each_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_checks_itself(make: Callable[[], PreTrainedModel], kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    report = accelerate(make().to(dtype), check=True)
    assert report.error is not None and report.error < 256 * torch.finfo(dtype).eps and "checked" in str(report)


def test_a_difference_is_found_and_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    mixer = in_place.mamba_mixer
    monkeypatch.setattr(in_place, "mamba_mixer", lambda *given: 1.01 * mixer(*given))
    model = made(mamba)
    with pytest.raises(UserError, match=r"MambaForCausalLM gives outputs that differ by .* of the largest"):
        accelerate(model, check=True)
    assert restore(model) == ()


def test_a_copy_is_accelerated_too() -> None:
    model = made(mamba)
    accelerate(model)
    other = copy.deepcopy(model)
    ids = tokens(1, 5)
    assert torch.equal(other(input_ids=ids).logits, model(input_ids=ids).logits)
    assert len(restore(other)) == 2 and len(restore(model)) == 2


def test_activations_that_are_not_fused() -> None:
    model = made(lambda: mamba(hidden_act="gelu", use_conv_bias=False, conv_kernel=3))
    ids = tokens(2, 7)
    expected = model(input_ids=ids).logits
    accelerate(model)
    close(model(input_ids=ids).logits, expected)


def test_what_cannot_be_replaced_is_said() -> None:
    with pytest.raises(UserError, match="no mixer of Linear can be replaced"):
        accelerate(nn.Linear(2, 2))
    model = mamba()
    mixer = model.backbone.layers[0].mixer
    mixer.forward = mixer.forward  # as tools do that hook into a module
    report = accelerate(model)
    assert len(report.modules) == 1 and "something else has replaced its `forward`" in str(report)
    with pytest.raises(UserError, match="on compiled layers already"):
        accelerate(model)
    with pytest.raises(UserError, match="on meta: compiled layers run on the CPU"):
        accelerate(mamba().to("meta"))
    with pytest.raises(UserError, match="no configuration with a vocabulary"):
        accelerate(nn.Sequential(mamba().backbone.layers[0]), check=True)
