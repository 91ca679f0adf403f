"""Mamba on padded and packed sequences, and in pieces: each is what the plain forward pass of its parts says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssmc.errors import UserError
from ssmc.models import MambaForCausalLM, StateCache
from tests.models.mamba_models import small_model, some_tokens

BIASES = {
    "no biases": {"use_bias": False, "use_conv_bias": False},
    "all biases": {"use_bias": True, "use_conv_bias": True},
}
PADDINGS = {
    "left": [[0, 0, 0, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1, 1, 1]],
    "right": [[1, 1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1]],
    "middle": [[1, 1, 0, 0, 0, 0, 1, 1, 1], [0, 1, 0, 1, 1, 0, 1, 1, 0]],
}


@pytest.fixture(scope="module", params=BIASES)
def model(request: pytest.FixtureRequest) -> MambaForCausalLM:
    return small_model(dtype=torch.float64, **BIASES[request.param])


@pytest.fixture(scope="module")
def plain() -> MambaForCausalLM:
    return small_model(dtype=torch.float64)


def gradients(model: MambaForCausalLM, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


# ---------------------------------------------------------------- padding


@pytest.mark.parametrize("where", PADDINGS)
def test_padding_changes_nothing(model: MambaForCausalLM, where: str) -> None:
    """Logits and gradients of the tokens are those of the rows without their padding; what stands at padding is not
    looked at."""
    mask, ids = torch.tensor(PADDINGS[where]), some_tokens(2, 9)
    logits = model(ids, attention_mask=mask).logits
    alone = [model(row[kept][None]).logits[0] for row, kept in zip(ids, mask.bool(), strict=True)]
    for row, kept, expected in zip(logits, mask.bool(), alone, strict=True):
        torch.testing.assert_close(row[kept], expected)
    loss = sum(row[kept].square().sum() for row, kept in zip(logits, mask.bool(), strict=True))
    expected_loss = sum(row.square().sum() for row in alone)
    torch.testing.assert_close(gradients(model, loss), gradients(model, expected_loss))
    changed = torch.where(mask.bool(), ids, some_tokens(2, 9, seed=1))
    torch.testing.assert_close(model(changed, attention_mask=mask).logits[mask.bool()], logits[mask.bool()])


@pytest.mark.parametrize("where", PADDINGS)
@pytest.mark.parametrize("lengths", [[4, 5], [1] * 9, [2, 1, 3, 3]])
def test_padding_in_pieces(plain: MambaForCausalLM, where: str, lengths: list[int]) -> None:
    """Prompts cut anywhere; the mask of a piece, or of all positions so far."""
    mask, ids = torch.tensor(PADDINGS[where]), some_tokens(2, 9)
    expected = plain(ids, attention_mask=mask).logits
    for whole_mask in (False, True):
        cache, found, end = StateCache(plain.config), [], 0
        for part, piece in zip(mask.split(lengths, 1), ids.split(lengths, 1), strict=True):
            end += part.shape[1]
            found.append(plain(piece, attention_mask=mask[:, :end] if whole_mask else part, cache=cache).logits)
        torch.testing.assert_close(torch.cat(found, 1)[mask.bool()], expected[mask.bool()])


def test_tokens_after_padding(plain: MambaForCausalLM) -> None:
    """Without a mask, what comes after a padded prompt are tokens."""
    mask, ids, more = torch.tensor(PADDINGS["middle"]), some_tokens(2, 9), some_tokens(2, 5, seed=1)
    cache = plain(ids, attention_mask=mask, use_cache=True).cache
    found = torch.cat([plain(more[:, :2], cache=cache).logits, plain(more[:, 2:], cache=cache).logits], 1)
    for row in range(2):
        alone = torch.cat([ids[row][mask[row].bool()], more[row]])[None]
        torch.testing.assert_close(found[row], plain(alone).logits[0, -5:])


def test_a_row_of_padding_only(plain: MambaForCausalLM) -> None:
    mask, ids = torch.tensor([[0] * 6, [1] * 6]), some_tokens(2, 6)
    found = plain(ids, attention_mask=mask, use_cache=True)
    torch.testing.assert_close(found.logits[1], plain(ids[1:]).logits[0])
    torch.testing.assert_close(plain(ids, cache=found.cache).logits[0], plain(ids[:1]).logits[0])


# ---------------------------------------------------------------- pieces


@pytest.mark.parametrize("lengths", [[11], [7, 4], [1] * 11, [2, 3, 1, 5], [0, 11, 0]])
@pytest.mark.parametrize("name", ["cache", "cache_params", "past_key_values"])
def test_pieces_equal_one_pass(plain: MambaForCausalLM, lengths: list[int], name: str) -> None:
    ids = some_tokens(2, 11)
    expected = plain(ids, output_hidden_states=True)
    cache, found = None, []
    for piece in ids.split(lengths, 1):
        found.append(plain(piece, use_cache=True, output_hidden_states=True, **{name: cache}))
        cache = found[-1].cache
    assert cache.get_seq_length() == 11
    torch.testing.assert_close(torch.cat([one.logits for one in found], 1), expected.logits)
    for number, hidden in enumerate(expected.hidden_states):
        torch.testing.assert_close(torch.cat([one.hidden_states[number] for one in found], 1), hidden)


def test_pieces_shorter_than_the_convolution() -> None:
    model, ids = small_model(dtype=torch.float64, conv_kernel=6), some_tokens(2, 9)
    cache = StateCache(model.config)
    found = torch.cat([model(piece, cache=cache).logits for piece in ids.split([2, 1, 3, 2, 1], 1)], 1)
    torch.testing.assert_close(found, model(ids).logits)


def test_training_in_pieces(plain: MambaForCausalLM) -> None:
    """Gradients pass through the cache; cut off, they stay inside of a piece."""
    ids = some_tokens(1, 8)
    expected = gradients(plain, plain(ids, use_cache=False).logits.square().sum())
    cache = StateCache(plain.config)
    loss = sum(plain(piece, cache=cache).logits.square().sum() for piece in ids.split([3, 5], 1))
    torch.testing.assert_close(gradients(plain, loss), expected)
    plain(ids, cache=cache.detach()).logits.sum().backward()  # needs nothing of what was freed
    plain.zero_grad()


# ---------------------------------------------------------------- packing


STARTS = [0, 4, 5, 11]


def packed_by(name: str) -> Tensor:
    lengths = torch.tensor(STARTS[1:]) - torch.tensor(STARTS[:-1])
    if name == "cu_seqlens":
        return torch.tensor(STARTS)
    if name == "seq_idx":
        return torch.arange(3).repeat_interleave(lengths)
    return torch.cat([torch.arange(int(n)) for n in lengths])[None]


@pytest.mark.parametrize("name", ["position_ids", "cu_seqlens", "seq_idx"])
@pytest.mark.parametrize("batch", [1, 2])
def test_packed_documents_are_separate(plain: MambaForCausalLM, name: str, batch: int) -> None:
    ids = some_tokens(batch, 11)
    logits = plain(ids, use_cache=False, **{name: packed_by(name)}).logits
    documents = [ids[:, start:stop] for start, stop in zip(STARTS, STARTS[1:], strict=False)]
    alone = torch.cat([plain(document, use_cache=False).logits for document in documents], 1)
    torch.testing.assert_close(logits, alone)
    torch.testing.assert_close(gradients(plain, logits.square().sum()), gradients(plain, alone.square().sum()))


def test_rows_with_documents_of_their_own(plain: MambaForCausalLM) -> None:
    """And with padding at their end."""
    ids = some_tokens(2, 9)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 0, 1, 0, 0]])
    mask = torch.tensor([[1] * 9, [1] * 7 + [0] * 2])
    logits = plain(ids, position_ids=positions, attention_mask=mask).logits
    for row, start, stop in [(0, 0, 3), (0, 3, 9), (1, 0, 5), (1, 5, 7)]:
        torch.testing.assert_close(logits[row, start:stop], plain(ids[row : row + 1, start:stop]).logits[0])


def test_positions_of_one_document_pack_nothing(plain: MambaForCausalLM) -> None:
    """As `generate` and Trainer pass them; then there is a cache, too."""
    ids = some_tokens(2, 6)
    found = plain(ids, position_ids=torch.arange(6)[None])
    assert found.cache is not None and torch.equal(found.logits, plain(ids).logits)


# ---------------------------------------------------------------- mistakes


def test_mistakes(plain: MambaForCausalLM) -> None:
    ids = some_tokens(2, 6)
    packed = {"cu_seqlens": torch.tensor([0, 2, 6])}
    assert plain(ids, **packed).cache is None
    with pytest.raises(UserError, match="a cache is asked for with packed documents"):
        plain(ids, use_cache=True, **packed)
    with pytest.raises(UserError, match="a cache is asked for with packed documents"):
        plain(ids, cache=StateCache(2), **packed)
    with pytest.raises(UserError, match="`cu_seqlens` and `seq_idx` are given together"):
        plain(ids, seq_idx=torch.zeros(6, dtype=torch.int64), **packed)
    with pytest.raises(UserError, match=r"`position_ids` has the shape \(2, 5\)"):
        plain(ids, position_ids=torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(UserError, match=r"`attention_mask` has the shape \(2, 1, 6, 6\)"):
        plain(ids, attention_mask=torch.ones(2, 1, 6, 6))
    with pytest.raises(UserError, match="neither of `input_ids` and `inputs_embeds`"):
        plain()
    with pytest.raises(UserError, match="both of `input_ids` and `inputs_embeds`"):
        plain(ids, inputs_embeds=torch.zeros(2, 6, 20))
    with pytest.raises(UserError, match=r"`input_ids` is a int64 tensor of shape \(6,\)"):
        plain(ids[0])
    with pytest.raises(UserError, match="`input_ids` holds 1 to 300"):
        plain(torch.tensor([[1, 300]]))
    with pytest.raises(UserError, match=r"`inputs_embeds` is a float32 tensor of shape \(2, 6, 21\)"):
        plain(inputs_embeds=torch.zeros(2, 6, 21))
    with pytest.raises(UserError, match=r"`labels` is a int64 tensor of shape \(2, 5\)"):
        plain(ids, labels=ids[:, 1:])
    with pytest.raises(UserError, match="a cache of 3 layers, and a model of 2"):
        plain(ids, cache=StateCache(3))
    with pytest.raises(UserError, match="a cache is given, and `use_cache` is False"):
        plain(ids, cache=StateCache(2), use_cache=False)
    with pytest.raises(UserError, match="`cache` and `cache_params` are given, and differ"):
        plain(ids, cache=StateCache(2), cache_params=StateCache(2))
    with pytest.raises(UserError, match="object of type dict"):
        plain(ids, past_key_values={})
