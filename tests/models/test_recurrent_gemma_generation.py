"""RecurrentGemma under transformers' `generate`: every way of decoding gives what it gives without a cache.

Sequences are longer than the attention's window, so that keys go while tokens come.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ssmc.errors import UserError
from ssmc.models import RecurrentGemmaForCausalLM, StateCache
from tests.models.mamba_models import some_tokens
from tests.models.recurrent_gemma_models import small_model

NEW = 7


@pytest.fixture(scope="module")
def model() -> RecurrentGemmaForCausalLM:
    return small_model()


@pytest.fixture(scope="module")
def draft() -> RecurrentGemmaForCausalLM:
    """Another model with the same vocabulary, which often says something else."""
    return small_model(seed=1, num_hidden_layers=2)


def generate(model: RecurrentGemmaForCausalLM, ids: Tensor, seed: int = 0, **settings: Any) -> Any:
    torch.manual_seed(seed)
    return model.generate(ids, **{"max_new_tokens": NEW, "pad_token_id": 0, "eos_token_id": None, **settings})


def greedy(model: RecurrentGemmaForCausalLM, ids: Tensor, number: int = NEW) -> Tensor:
    """Token by token, each time from the start."""
    with torch.no_grad():
        for _ in range(number):
            ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    return ids


METHODS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True},
    "top-k": {"do_sample": True, "top_k": 5},
    "top-p": {"do_sample": True, "top_k": 0, "top_p": 0.7, "temperature": 1.5},
    "beams": {"num_beams": 3},
    "beams, several results": {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.5},
}


@pytest.mark.parametrize("method", METHODS)
def test_with_and_without_a_cache(model: RecurrentGemmaForCausalLM, method: str) -> None:
    ids = some_tokens(2, 5)
    found = generate(model, ids, **METHODS[method])
    assert torch.equal(found, generate(model, ids, use_cache=False, **METHODS[method]))
    assert found.shape == (2 * METHODS[method].get("num_return_sequences", 1), 5 + NEW)
    if method == "greedy":
        assert torch.equal(found, greedy(model, ids))


@pytest.mark.parametrize("settings", [{"do_sample": False}, {"num_beams": 3}])
def test_padded_prompts(model: RecurrentGemmaForCausalLM, settings: dict[str, Any]) -> None:
    """Prompts of different lengths in one batch, padded on the left."""
    prompts = [some_tokens(1, n, seed=n) for n in (3, 7, 1)]
    ids = torch.cat([torch.nn.functional.pad(p, (7 - p.shape[1], 0)) for p in prompts])
    found = generate(model, ids, attention_mask=(ids != 0).long(), **settings)
    for row, prompt in zip(found, prompts, strict=True):
        alone = generate(model, prompt, **settings)[0]
        assert torch.equal(row[7:], alone[prompt.shape[1] :])


@pytest.mark.parametrize("number", [1, 3, 6])
def test_assisted_by_another_model(
    model: RecurrentGemmaForCausalLM, draft: RecurrentGemmaForCausalLM, number: int
) -> None:
    """Both crop their caches: the target's after every check, the assistant's before every draft."""
    ids = some_tokens(1, 5)
    for target, assistant in [(model, draft), (model, model), (draft, model)]:
        assistant.generation_config.num_assistant_tokens = number
        assistant.generation_config.assistant_confidence_threshold = 0.0
        found = generate(target, ids, assistant_model=assistant, do_sample=False, max_new_tokens=12)
        assert torch.equal(found, greedy(target, ids, 12))


def test_assisted_sampling_and_by_the_prompt(model: RecurrentGemmaForCausalLM) -> None:
    found = generate(model, some_tokens(1, 5), assistant_model=model, do_sample=True)
    assert found.shape == (1, 5 + NEW)
    ids = some_tokens(1, 3).repeat(1, 4)
    assert torch.equal(generate(model, ids, prompt_lookup_num_tokens=3, do_sample=False), greedy(model, ids))


def test_prompts_in_chunks_and_as_embeddings(model: RecurrentGemmaForCausalLM) -> None:
    ids = some_tokens(2, 9)
    assert torch.equal(generate(model, ids, prefill_chunk_size=4, do_sample=False), greedy(model, ids))
    embeds = model.get_input_embeddings()(ids)
    found = model.generate(inputs_embeds=embeds, max_new_tokens=NEW, do_sample=False, eos_token_id=None)
    assert torch.equal(found, greedy(model, ids)[:, 9:])


def test_going_on_with_a_cache(model: RecurrentGemmaForCausalLM) -> None:
    """A conversation: what was said is not run again, and a saved state is gone back to."""
    first = generate(model, some_tokens(2, 5), do_sample=False, return_dict_in_generate=True)
    cache, said = first.past_key_values, first.sequences
    assert isinstance(cache, StateCache) and cache.get_seq_length() == 5 + NEW - 1
    ids = torch.cat([said, some_tokens(2, 4, seed=1)], 1)
    seen = cache.snapshot()
    for _ in range(2):
        assert torch.equal(generate(model, ids, do_sample=False, past_key_values=cache), greedy(model, ids))
        cache.rewind(seen)


def test_ends(model: RecurrentGemmaForCausalLM) -> None:
    """Rows that have ended are padded, and change nothing."""
    ids = some_tokens(2, 5)
    plain = greedy(model, ids)
    end = int(plain[0, 7])
    found = generate(model, ids, do_sample=False, eos_token_id=end)
    for row, expected in zip(found[:, 5:], plain[:, 5:], strict=True):
        stop = (expected == end).nonzero().flatten().tolist()
        length = stop[0] + 1 if stop else NEW
        assert row[:length].tolist() == expected[:length].tolist() and not row[length:].any()


def test_packed_prompts_are_refused(model: RecurrentGemmaForCausalLM) -> None:
    """Positions that only count are taken."""
    ids = some_tokens(2, 5)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1] * 5])
    counted = (mask.cumsum(1) - 1).clamp(min=0)
    expected = generate(model, ids, attention_mask=mask, do_sample=False)
    assert torch.equal(generate(model, ids, attention_mask=mask, position_ids=counted, do_sample=False), expected)
    with pytest.raises(UserError, match="`position_ids` begin again inside of a row"):
        generate(model, ids, position_ids=torch.tensor([[0, 1, 0, 1, 2]] * 2))
