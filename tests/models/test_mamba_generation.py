"""Mamba under transformers' `generate`: every way of decoding gives what it gives without a cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig

from ssmc.errors import UserError
from ssmc.models import MambaForCausalLM, StateCache
from tests.models.mamba_models import small_model, some_tokens

NEW = 7


@pytest.fixture(scope="module")
def model() -> MambaForCausalLM:
    return small_model(use_bias=True)


@pytest.fixture(scope="module")
def draft() -> MambaForCausalLM:
    """Another model with the same vocabulary, which often says something else."""
    return small_model(seed=1, num_hidden_layers=1)


def generate(model: MambaForCausalLM, ids: Tensor, seed: int = 0, **settings: Any) -> Any:
    torch.manual_seed(seed)
    return model.generate(ids, **{"max_new_tokens": NEW, "pad_token_id": 0, "eos_token_id": None, **settings})


def greedy(model: MambaForCausalLM, ids: Tensor, number: int = NEW) -> Tensor:
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
    "beams, sampled": {"num_beams": 3, "do_sample": True},
}


@pytest.mark.parametrize("method", METHODS)
def test_with_and_without_a_cache(model: MambaForCausalLM, method: str) -> None:
    ids = some_tokens(2, 5)
    found = generate(model, ids, **METHODS[method])
    assert torch.equal(found, generate(model, ids, use_cache=False, **METHODS[method]))
    assert found.shape == (2 * METHODS[method].get("num_return_sequences", 1), 5 + NEW)


def test_greedy_is_the_most_likely_token_each_time(model: MambaForCausalLM) -> None:
    ids = some_tokens(2, 5)
    assert torch.equal(generate(model, ids, do_sample=False), greedy(model, ids))


@pytest.mark.parametrize("settings", [{"do_sample": False}, {"num_beams": 3}])
def test_padded_prompts(model: MambaForCausalLM, settings: dict[str, Any]) -> None:
    """Prompts of different lengths in one batch, padded on the left."""
    prompts = [some_tokens(1, n, seed=n) for n in (3, 7, 1)]
    ids = torch.cat([torch.nn.functional.pad(p, (7 - p.shape[1], 0)) for p in prompts])
    found = generate(model, ids, attention_mask=(ids != 0).long(), **settings)
    for row, prompt in zip(found, prompts, strict=True):
        alone = generate(model, prompt, **settings)[0]
        assert torch.equal(row[7:], alone[prompt.shape[1] :])


@pytest.mark.parametrize("settings", [{}, {"num_assistant_tokens": 1}, {"num_assistant_tokens": 6}])
def test_assisted_by_another_model(model: MambaForCausalLM, draft: MambaForCausalLM, settings: dict[str, Any]) -> None:
    """Both crop their caches: the target's after every check, the assistant's before every draft."""
    ids = some_tokens(1, 5)
    draft.generation_config.num_assistant_tokens = settings.get("num_assistant_tokens", 3)
    draft.generation_config.assistant_confidence_threshold = 0.0
    for target, assistant in [(model, draft), (model, model), (draft, model)]:
        found = generate(target, ids, assistant_model=assistant, do_sample=False, max_new_tokens=12)
        assert torch.equal(found, greedy(target, ids, 12))


def test_assisted_sampling(model: MambaForCausalLM) -> None:
    found = generate(model, some_tokens(1, 5), assistant_model=model, do_sample=True)
    assert found.shape == (1, 5 + NEW)


def test_assisted_by_the_prompt(model: MambaForCausalLM) -> None:
    ids = some_tokens(1, 3).repeat(1, 4)
    assert torch.equal(generate(model, ids, prompt_lookup_num_tokens=3, do_sample=False), greedy(model, ids))


def test_drafts_longer_than_what_is_usually_kept(model: MambaForCausalLM) -> None:
    ids = some_tokens(1, 2).repeat(1, 50)
    settings: dict[str, Any] = {"prompt_lookup_num_tokens": 70, "do_sample": False, "max_new_tokens": 80}
    expected = greedy(model, ids, 80)
    assert torch.equal(generate(model, ids, **settings), expected)
    assert torch.equal(generate(model, ids, cache=StateCache(model.config, keep=80), **settings), expected)
    with pytest.raises(UserError, match="forget 70 of its 170 positions, and has the states after the last 64"):
        generate(model, ids, cache=StateCache(model.config), **settings)


def test_prompts_in_chunks(model: MambaForCausalLM) -> None:
    ids = some_tokens(2, 9)
    assert torch.equal(generate(model, ids, prefill_chunk_size=4, do_sample=False), greedy(model, ids))
    padded = ids.clone()
    padded[0, :6] = 0
    mask = (padded != 0).long()
    found = generate(model, padded, attention_mask=mask, prefill_chunk_size=4, do_sample=False)
    assert torch.equal(found[0, 6:], greedy(model, ids[:1, 6:])[0])


@pytest.mark.parametrize("name", ["cache", "past_key_values", "cache_params"])
def test_going_on_with_a_cache(model: MambaForCausalLM, name: str) -> None:
    """A conversation: what was said is not run again."""
    first = generate(model, some_tokens(2, 5), do_sample=False, return_dict_in_generate=True)
    cache, said = first.past_key_values, first.sequences
    assert cache.get_seq_length() == 5 + NEW - 1
    ids = torch.cat([said, some_tokens(2, 4, seed=1)], 1)
    whole = greedy(model, ids)
    seen = cache.snapshot()
    assert torch.equal(generate(model, ids, do_sample=False, **{name: cache}), whole)
    cache.rewind(seen)
    news, mask = ids[:, seen.length :], torch.ones_like(ids)
    found = generate(model, news, do_sample=False, attention_mask=mask, **{name: cache})
    assert torch.equal(found[:, -NEW:], whole[:, -NEW:])


def test_a_cache_that_has_seen_too_much(model: MambaForCausalLM) -> None:
    cache = model(some_tokens(1, 8), use_cache=True).cache
    with pytest.raises(UserError, match="the cache has seen at least as many positions as `input_ids` has, 5"):
        generate(model, some_tokens(1, 5), cache=cache)


def test_prompts_as_embeddings(model: MambaForCausalLM) -> None:
    ids = some_tokens(2, 5)
    found = model.generate(
        inputs_embeds=model.get_input_embeddings()(ids), max_new_tokens=NEW, do_sample=False, eos_token_id=None
    )
    assert torch.equal(found, greedy(model, ids)[:, 5:])


def test_ends(model: MambaForCausalLM) -> None:
    """Rows that have ended are padded, and change nothing."""
    ids = some_tokens(2, 5)
    plain = greedy(model, ids)
    end = int(plain[0, 7])
    found = generate(model, ids, do_sample=False, eos_token_id=end)
    for row, expected in zip(found[:, 5:], plain[:, 5:], strict=True):
        stop = (expected == end).nonzero().flatten().tolist()
        length = stop[0] + 1 if stop else NEW
        assert row[:length].tolist() == expected[:length].tolist() and not row[length:].any()


def test_other_kinds_of_cache_are_refused(model: MambaForCausalLM) -> None:
    with pytest.raises(UserError, match="`cache_implementation` is 'static'"):
        generate(model, some_tokens(1, 3), generation_config=GenerationConfig(cache_implementation="static"))
    with pytest.raises(UserError, match="object of type DynamicCache"):
        from transformers import DynamicCache

        generate(model, some_tokens(1, 3), cache=DynamicCache())
