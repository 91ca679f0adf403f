"""RecurrentGemma on padded and packed sequences, and in pieces: each is what a plain forward pass says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ssmc.errors import UserError
from ssmc.models import RecurrentGemmaForCausalLM, StateCache
from ssmc.models.soft_cap import soft_capped
from tests.models.mamba_models import some_tokens
from tests.models.recurrent_gemma_models import small_model

PADDINGS = {
    "left": [[0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]],
    "right": [[1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]],
    "middle": [[1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1], [0, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1]],
}


@pytest.fixture(scope="module")
def model() -> RecurrentGemmaForCausalLM:
    return small_model(dtype=torch.float64)


@pytest.fixture(params=[512, 3], ids=["one block", "blocks of three"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention takes long sequences in blocks of queries; these are as long as this."""
    monkeypatch.setattr("ssmc.models.local_attention._QUERIES", request.param)


def gradients(model: RecurrentGemmaForCausalLM, loss: Any) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


# ---------------------------------------------------------------- padding


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("where", PADDINGS)
def test_padding_changes_nothing(model: RecurrentGemmaForCausalLM, where: str) -> None:
    """Logits and gradients of the tokens are those of the rows without their padding."""
    mask, ids = torch.tensor(PADDINGS[where]), some_tokens(2, 11)
    logits = model(ids, attention_mask=mask).logits
    assert logits.isfinite().all()
    alone = [model(row[kept][None]).logits[0] for row, kept in zip(ids, mask.bool(), strict=True)]
    for row, kept, expected in zip(logits, mask.bool(), alone, strict=True):
        torch.testing.assert_close(row[kept], expected)
    loss = sum(row[kept].square().sum() for row, kept in zip(logits, mask.bool(), strict=True))
    expected_loss = sum(row.square().sum() for row in alone)
    torch.testing.assert_close(gradients(model, loss), gradients(model, expected_loss))
    changed = torch.where(mask.bool(), ids, some_tokens(2, 11, seed=1))
    torch.testing.assert_close(model(changed, attention_mask=mask).logits[mask.bool()], logits[mask.bool()])


@pytest.mark.parametrize("where", PADDINGS)
@pytest.mark.parametrize("lengths", [[1] * 11, [2, 1, 3, 5]])
def test_padding_in_pieces(model: RecurrentGemmaForCausalLM, where: str, lengths: list[int]) -> None:
    """Prompts cut anywhere; the mask of a piece, or of all positions so far."""
    mask, ids = torch.tensor(PADDINGS[where]), some_tokens(2, 11)
    expected = model(ids, attention_mask=mask).logits
    for whole_mask in (False, True):
        cache, found, end = StateCache(model.config), [], 0
        for part, piece in zip(mask.split(lengths, 1), ids.split(lengths, 1), strict=True):
            end += part.shape[1]
            found.append(model(piece, attention_mask=mask[:, :end] if whole_mask else part, cache=cache).logits)
        torch.testing.assert_close(torch.cat(found, 1)[mask.bool()], expected[mask.bool()])


def test_tokens_after_padding(model: RecurrentGemmaForCausalLM) -> None:
    """Without a mask, what comes after a padded prompt are tokens; many of them, and keys go."""
    mask, ids, more = torch.tensor(PADDINGS["middle"]), some_tokens(2, 11), some_tokens(2, 9, seed=1)
    cache = model(ids, attention_mask=mask, use_cache=True).cache
    found = torch.cat([model(piece, cache=cache).logits for piece in more.split([2, 1, 1, 5], 1)], 1)
    for row in range(2):
        alone = torch.cat([ids[row][mask[row].bool()], more[row]])[None]
        torch.testing.assert_close(found[row], model(alone).logits[0, -9:])


def test_a_row_of_padding_only(model: RecurrentGemmaForCausalLM) -> None:
    mask, ids = torch.tensor([[0] * 6, [1] * 6]), some_tokens(2, 6)
    found = model(ids, attention_mask=mask, use_cache=True)
    torch.testing.assert_close(found.logits[1], model(ids[1:]).logits[0])
    torch.testing.assert_close(model(ids, cache=found.cache).logits[0], model(ids[:1]).logits[0])


# ---------------------------------------------------------------- pieces


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("lengths", [[13], [7, 6], [1] * 13, [2, 3, 1, 7], [0, 13, 0]])
def test_pieces_equal_one_pass(model: RecurrentGemmaForCausalLM, lengths: list[int]) -> None:
    ids = some_tokens(2, 13)
    expected = model(ids, output_hidden_states=True)
    cache, found = None, []
    for piece in ids.split(lengths, 1):
        found.append(model(piece, use_cache=True, output_hidden_states=True, past_key_values=cache))
        cache = found[-1].cache
    assert cache.get_seq_length() == 13
    assert cache.layers[1].keys.shape == (2, 2, 3, 4), "only the window is kept"
    torch.testing.assert_close(torch.cat([one.logits for one in found], 1), expected.logits)
    for number, hidden in enumerate(expected.hidden_states):
        torch.testing.assert_close(torch.cat([one.hidden_states[number] for one in found], 1), hidden)


@pytest.mark.parametrize(
    "settings",
    [
        {"conv1d_width": 6},
        {"conv1d_width": 1},
        {"attention_window_size": 1},
        {"attention_window_size": 2, "num_key_value_heads": 4},
        {"num_key_value_heads": 1, "attention_bias": True},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 1.0}},
        {"partial_rotary_factor": 0.0},
        {"block_types": ["attention"], "logits_soft_cap": 2.0},
        {"attn_implementation": "eager"},
    ],
    ids=str,
)
def test_configurations(settings: dict[str, Any]) -> None:
    model, ids = small_model(dtype=torch.float64, **settings), some_tokens(2, 9)
    expected = model(ids).logits
    cache = StateCache(model.config, keep=2)
    found = []
    for piece in ids.split([2, 1, 3, 2, 1], 1):
        model(piece[:, -1:], cache=cache)  # a token that is taken back
        cache.crop(-1)
        found.append(model(piece, cache=cache).logits)
    torch.testing.assert_close(torch.cat(found, 1), expected)
    changed = model(torch.cat([ids[:, 1:], ids[:, :1]], 1)).logits
    assert (changed - expected).abs().amax() > 0.01


def test_training_in_pieces(model: RecurrentGemmaForCausalLM) -> None:
    """Gradients pass through the cache; cut off, they stay inside of a piece."""
    ids = some_tokens(1, 8)
    expected = gradients(model, model(ids, use_cache=False).logits.square().sum())
    cache = StateCache(model.config)
    loss = sum(model(piece, cache=cache).logits.square().sum() for piece in ids.split([3, 5], 1))
    torch.testing.assert_close(gradients(model, loss), expected)
    model(ids, cache=cache.detach()).logits.sum().backward()  # needs nothing of what was freed
    model.zero_grad()


def test_cropped_rewound_and_reordered(model: RecurrentGemmaForCausalLM) -> None:
    """Beyond the window, where keys have gone, and with padding."""
    ids, mask = some_tokens(2, 13), torch.tensor([[0, 0, 1] + [1] * 10, [1] * 13])
    expected = model(ids, attention_mask=mask).logits
    cache = StateCache(model.config, keep=5)
    model(ids[:, :9], attention_mask=mask[:, :9], cache=cache)
    model(some_tokens(2, 4, seed=1), cache=cache)
    cache.crop(-4)
    saved = cache.snapshot()
    for _ in range(2):
        torch.testing.assert_close(model(ids[:, 9:], cache=cache).logits, expected[:, 9:])
        cache.rewind(saved)
    cache.reorder_cache(torch.tensor([1, 0]))
    torch.testing.assert_close(model(ids[:, 9:].flip(0), cache=cache).logits, expected[:, 9:].flip(0))


# ---------------------------------------------------------------- packing

STARTS = [0, 5, 6, 13]


def packed_by(name: str) -> Tensor:
    lengths = torch.tensor(STARTS[1:]) - torch.tensor(STARTS[:-1])
    if name == "cu_seqlens":
        return torch.tensor(STARTS)
    if name == "seq_idx":
        return torch.arange(3).repeat_interleave(lengths)
    return torch.cat([torch.arange(int(n)) for n in lengths])[None]


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("name", ["position_ids", "cu_seqlens", "seq_idx"])
@pytest.mark.parametrize("batch", [1, 2])
def test_packed_documents_are_separate(model: RecurrentGemmaForCausalLM, name: str, batch: int) -> None:
    """Logits, gradients, and the loss: the first token of a document is no label."""
    ids = some_tokens(batch, 13)
    found = model(ids, labels=ids, **{name: packed_by(name)})
    documents = [ids[:, start:stop] for start, stop in zip(STARTS, STARTS[1:], strict=False)]
    alone = [model(document, labels=document) for document in documents]
    logits = torch.cat([one.logits for one in alone], 1)
    torch.testing.assert_close(found.logits, logits)
    torch.testing.assert_close(gradients(model, found.logits.square().sum()), gradients(model, logits.square().sum()))
    labels = torch.tensor([document.shape[1] - 1 for document in documents])
    losses = torch.stack([one.loss if one.loss.isfinite() else torch.zeros(()) for one in alone])
    torch.testing.assert_close(found.loss, (losses * labels).sum() / labels.sum(), check_dtype=False)


def test_rows_with_documents_of_their_own(model: RecurrentGemmaForCausalLM) -> None:
    """And with padding inside and at their end."""
    ids = some_tokens(2, 9)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 5], [0, 1, 9, 2, 3, 4, 0, 1, 0]])
    mask = torch.tensor([[1] * 9, [1, 1, 0, 1, 1, 1, 1, 1, 0]])
    logits = model(ids, position_ids=positions, attention_mask=mask).logits
    for row, places in [(0, [0, 1, 2]), (0, [3, 4, 5, 6, 7, 8]), (1, [0, 1, 3, 4, 5]), (1, [6, 7])]:
        torch.testing.assert_close(logits[row, places], model(ids[row, places][None]).logits[0])
    by_length = model(ids, cu_seqlens=torch.tensor([0, 4, 9]), attention_mask=mask).logits
    for places in ([0, 1, 3], [4, 5, 6, 7]):
        torch.testing.assert_close(by_length[1, places], model(ids[1, places][None]).logits[0])


@pytest.mark.parametrize("lengths", [[4, 9], [1] * 13, [5, 1, 7], [3, 7, 3]])
def test_packed_documents_in_pieces(model: RecurrentGemmaForCausalLM, lengths: list[int]) -> None:
    ids, positions = some_tokens(2, 13), packed_by("position_ids")
    expected = model(ids, position_ids=positions).logits
    cache, found = StateCache(model.config), []
    for piece, part in zip(ids.split(lengths, 1), positions.split(lengths, 1), strict=True):
        found.append(model(piece, position_ids=part, cache=cache).logits)
    torch.testing.assert_close(torch.cat(found, 1), expected)
    with pytest.raises(UserError, match="documents that began inside of rows"):
        model(ids, cache=cache)


def test_positions_of_one_document_pack_nothing(model: RecurrentGemmaForCausalLM) -> None:
    """As `generate` and Trainer pass them."""
    ids = some_tokens(2, 6)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    counted = (mask.cumsum(1) - 1).clamp(min=0)
    found = model(ids, position_ids=counted, attention_mask=mask).logits
    assert torch.equal(found, model(ids, attention_mask=mask).logits)


# ---------------------------------------------------------------- arguments and mistakes


def test_arguments(model: RecurrentGemmaForCausalLM) -> None:
    ids = some_tokens(2, 6)
    whole = model(ids, output_hidden_states=True)
    embeds = model.get_input_embeddings()(ids)
    torch.testing.assert_close(model(inputs_embeds=embeds).logits, whole.logits)
    torch.testing.assert_close(model(ids, logits_to_keep=2).logits, whole.logits[:, -2:])
    torch.testing.assert_close(model(ids, logits_to_keep=torch.tensor([0, 3])).logits, whole.logits[:, [0, 3]])
    logits, cache = model(ids, return_dict=False)
    assert torch.equal(logits, whole.logits) and isinstance(cache, StateCache)
    assert model(ids, use_cache=False).cache is None
    model.train()
    assert model(ids).cache is None
    model.eval()
    hidden = model.model(ids, return_dict=False)[0]
    assert torch.equal(hidden, whole.hidden_states[-1]) and len(whole.hidden_states) == 4
    assert whole.past_key_values is whole.cache
    unscaled = small_model(dtype=torch.float64, embeddings_scale_by_sqrt_dim=False)
    torch.testing.assert_close(unscaled(inputs_embeds=embeds * 4.0).logits, whole.logits)


def test_mistakes(model: RecurrentGemmaForCausalLM) -> None:
    ids = some_tokens(2, 6)
    with pytest.raises(UserError, match=r"`position_ids` has the shape \(2, 5\)"):
        model(ids, position_ids=torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(UserError, match=r"`attention_mask` has the shape \(2, 1, 6, 6\)"):
        model(ids, attention_mask=torch.ones(2, 1, 6, 6))
    with pytest.raises(UserError, match="neither of `input_ids` and `inputs_embeds`"):
        model()
    with pytest.raises(UserError, match="both of `input_ids` and `inputs_embeds`"):
        model(ids, inputs_embeds=torch.zeros(2, 6, 16))
    with pytest.raises(UserError, match=r"`input_ids` is a int64 tensor of shape \(6,\)"):
        model(ids[0])
    with pytest.raises(UserError, match=r"`labels` is a int64 tensor of shape \(2, 5\)"):
        model(ids, labels=ids[:, 1:])
    with pytest.raises(TypeError, match="attention_maks"):
        model(ids, attention_maks=torch.ones(2, 6))
    with pytest.raises(UserError, match="`cu_seqlens` goes from 0 to 5"):
        model(ids, cu_seqlens=torch.tensor([0, 5]))
    with pytest.raises(UserError, match="`cu_seqlens` and `seq_idx`"):
        model(ids, cu_seqlens=torch.tensor([0, 6]), seq_idx=torch.zeros(6, dtype=torch.int64))
    with pytest.raises(UserError, match="`output_attentions` is set"):
        model(ids, output_attentions=True)
    with pytest.raises(UserError, match="a cache of 2 layers, and a model of 3"):
        model(ids, cache=StateCache(2))
    with pytest.raises(UserError, match="a cache is given, and `use_cache` is False"):
        model(ids, cache=StateCache(3), use_cache=False)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"hidden_size": 18}, "`hidden_size` is 18"),
        ({"lru_width": 26}, "`lru_width` is 26"),
        ({"num_key_value_heads": 3}, "`num_key_value_heads` is 3"),
        ({"intermediate_size": 41}, "`intermediate_size` is 41"),
        ({"block_types": ["recurrent", "mamba"]}, "`block_types` is"),
        ({"hidden_activation": "gulp"}, "`hidden_activation` is 'gulp'"),
        ({"attention_window_size": 0}, "`attention_window_size` is 0"),
        ({"conv1d_width": 0}, "`conv1d_width` is 0"),
        ({"partial_rotary_factor": 0.8}, "leaves 3 of 4 channels"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "have rope_type 'linear'"),
    ],
)
def test_configurations_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small_model(**settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_logits_between_two_bounds(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one pass with gradients, in place without, in pieces of which the last is smaller."""
    monkeypatch.setattr("ssmc.models.soft_cap._PIECE", 15)
    x = (torch.randn(2, 4, 7) * 40).to(dtype)
    expected = torch.tanh(x.double() / 30) * 30
    near = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 30 * torch.finfo(dtype).eps, "check_dtype": False}
    given = x.clone()
    torch.testing.assert_close(soft_capped(given, 30.0), expected, **near)
    assert torch.equal(given, x)
    found = soft_capped(given, 30.0, in_place=True)
    assert found.data_ptr() == given.data_ptr() and found.dtype is dtype
    torch.testing.assert_close(found, expected, **near)
    leaf = x.clone().requires_grad_()
    found = soft_capped(leaf, 30.0, in_place=True)
    torch.testing.assert_close(found, expected, **near)
    (slope,) = torch.autograd.grad(found.double().sum(), leaf)
    torch.testing.assert_close(slope, 1 - torch.tanh(x.double() / 30) ** 2, **near)
