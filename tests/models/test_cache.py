"""The cache: states of compiled layers and keys of attention, kept, cropped, rewound, reordered."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import ssmc
from ssmc.errors import UserError
from ssmc.models import StateCache

CONV = ssmc.load("causal_conv1d")
WEIGHT = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.25, -0.5]])


def call(cache: StateCache, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """What a model of two layers does: convolutions, one after the other."""
    batch, length = x.shape[:2]
    mask = cache.begin(mask, batch, length)
    options = {} if mask is None else {"mask": mask}
    for layer in cache.layers:
        x = layer.run("conv", CONV, x, WEIGHT, **options)
    cache.advance(length, mask)
    return x


def whole(x: Tensor) -> Tensor:
    return call(StateCache(2), x)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 12, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("lengths", [[12], [5, 7], [1] * 12, [0, 4, 0, 1, 7]])
@pytest.mark.parametrize("keep", [0, 3])
def test_pieces_equal_the_whole(x: Tensor, lengths: list[int], keep: int) -> None:
    cache = StateCache(2, keep)
    found = torch.cat([call(cache, piece) for piece in x.split(lengths, 1)], 1)
    torch.testing.assert_close(found, whole(x))
    assert cache.get_seq_length() == 12


@pytest.mark.parametrize("lengths", [[9], [4, 5], [1] * 9, [6, 1, 1, 1]])
@pytest.mark.parametrize("remove", [1, 2, 3])
def test_cropping_goes_back(x: Tensor, lengths: list[int], remove: int) -> None:
    cache = StateCache(2, keep=3)
    for piece in x[:, :9].flip(1).split(lengths, 1):
        call(cache, piece)
    expected = StateCache(2)
    call(expected, x[:, :9].flip(1)[:, : 9 - remove])
    cache.crop(-remove)
    assert cache.get_seq_length() == 9 - remove
    torch.testing.assert_close(call(cache, x), call(expected, x))


def test_cropping_to_a_length(x: Tensor) -> None:
    cache = StateCache(2, keep=4)
    call(cache, x[:, :6])
    cache.crop(4)
    assert cache.get_seq_length() == 4
    cache.crop(9)  # it is shorter already
    assert cache.get_seq_length() == 4
    torch.testing.assert_close(call(cache, x[:, 4:]), whole(x)[:, 4:])


def test_cropping_to_before_the_first_token(x: Tensor) -> None:
    cache = StateCache(2, keep=8)
    call(cache, x[:, :5])
    cache.crop(-5)
    torch.testing.assert_close(call(cache, x), whole(x))


def test_cropping_too_far(x: Tensor) -> None:
    cache = StateCache(2, keep=4)
    call(cache, x)
    cache.crop(-3)
    with pytest.raises(UserError, match=r"forget 2 of its 9 positions, and has the states after the last 1") as error:
        cache.crop(-2)
    assert "keep=" in error.value.diagnostics[0].hint
    torch.testing.assert_close(call(cache, x[:, 9:]), whole(x)[:, 9:])  # nothing has changed
    plain = StateCache(2)
    call(plain, x)
    plain.crop(0)
    with pytest.raises(UserError, match="has no earlier state"):
        plain.crop(-1)


def test_recording_starts_where_it_is_asked_for(x: Tensor) -> None:
    cache = StateCache(2)
    assert not cache.is_croppable
    call(cache, x[:, :5])
    cache.activate_past_recording()
    assert cache.is_croppable
    call(cache, x[:, :4])
    cache.crop(-4)
    torch.testing.assert_close(call(cache, x[:, 5:]), whole(x)[:, 5:])
    with pytest.raises(UserError):
        cache.crop(-8)


def test_rewinding(x: Tensor) -> None:
    cache = StateCache(2)
    call(cache, x[:, :5])
    saved = cache.snapshot()
    first = call(cache, x[:, 5:])
    cache.rewind(saved)
    assert cache.get_seq_length() == 5
    assert torch.equal(call(cache, x[:, 5:]), first)
    cache.rewind(saved)  # as often as one likes
    assert torch.equal(call(cache, x[:, 5:]), first)
    with pytest.raises(UserError, match="3 layers"):
        cache.rewind(StateCache(3).snapshot())


@pytest.mark.parametrize(
    "copied", [StateCache.clone, copy.deepcopy, copy.copy, lambda c: pickle.loads(pickle.dumps(c))]
)
def test_copies_go_their_own_way(x: Tensor, copied: object) -> None:
    cache = StateCache(2, keep=2)
    call(cache, x[:, :5])
    other = copied(cache)  # type: ignore[operator]
    call(other, x)
    assert (cache.get_seq_length(), other.get_seq_length()) == (5, 17)
    other.crop(-1)
    torch.testing.assert_close(call(cache, x[:, 5:]), whole(x)[:, 5:])


def test_a_clone_shares_no_memory(x: Tensor) -> None:
    cache = StateCache(2, keep=2)
    call(cache, x)
    other = cache.clone()
    mine, theirs = ({v.data_ptr() for la in c.layers for v in la.states["conv"]} for c in (cache, other))
    assert mine.isdisjoint(theirs)


def test_rows_are_reordered_repeated_and_chosen(x: Tensor) -> None:
    mask = torch.ones(3, 12, dtype=torch.int64)
    mask[0, :4] = mask[2, 3:5] = 0
    changes = [
        (torch.tensor([2, 2, 0]), lambda c: c.reorder_cache(torch.tensor([2, 2, 0]))),
        (torch.tensor([0, 0, 1, 1, 2, 2]), lambda c: c.batch_repeat_interleave(2)),
        (torch.tensor([1]), lambda c: c.batch_select_indices(torch.tensor([1]))),
        (torch.tensor([0, 2]), lambda c: c.batch_select_indices(torch.tensor([True, False, True]))),
    ]
    for rows, change in changes:
        cache, expected = StateCache(2, keep=3), StateCache(2, keep=3)
        call(cache, x, mask)
        change(cache)
        call(expected, x[rows], mask[rows])
        assert cache.mask is not None and torch.equal(cache.mask, mask[rows].bool())
        for one in (cache, expected):
            one.crop(-2)
        torch.testing.assert_close(call(cache, x[rows]), call(expected, x[rows]))


def test_reset(x: Tensor) -> None:
    cache = StateCache(2, keep=2)
    call(cache, x, torch.tensor([[1] * 11 + [0]] * 3))
    cache.reset()
    assert cache.get_seq_length() == 0 and cache.mask is None
    torch.testing.assert_close(call(cache, x), whole(x))


def test_padding_in_the_middle_of_calls(x: Tensor) -> None:
    """Rows that have seen different numbers of tokens."""
    mask = torch.rand(3, 12, generator=torch.Generator().manual_seed(1)) > 0.4
    cache = StateCache(2)
    pieces = zip(x.split([3, 1, 8], 1), mask.split([3, 1, 8], 1), strict=True)
    found = torch.cat([call(cache, piece, part) for piece, part in pieces], 1)
    for row in range(3):
        tokens = mask[row]
        torch.testing.assert_close(found[row, tokens], whole(x[row : row + 1, tokens])[0])
    assert cache.mask is not None and torch.equal(cache.mask, mask)
    positions = cache.token_positions(2, cache.begin(torch.tensor([[1, 1], [0, 1], [1, 0]]), 3, 2))
    seen = mask.sum(1)
    assert positions is not None
    assert positions.tolist() == [[seen[0], seen[0] + 1], [-1, seen[1]], [seen[2], -1]]


def test_masks_of_all_positions_so_far(x: Tensor) -> None:
    mask = torch.ones(3, 12)
    mask[1, :2] = 0
    cache, expected = StateCache(2), StateCache(2)
    call(cache, x[:, :8], mask[:, :8])
    found = call(cache, x[:, 8:], mask)
    call(expected, x[:, :8], mask[:, :8])
    torch.testing.assert_close(found, call(expected, x[:, 8:]))


def test_gradients_flow_through_until_they_are_cut(x: Tensor) -> None:
    x.requires_grad_()
    cache = StateCache(2)
    call(cache, x[:, :5])
    call(cache, x[:, 5:7]).sum().backward()
    assert x.grad is not None and x.grad[:, 4].abs().sum() > 0
    x.grad = None
    cache.detach()
    call(cache, x[:, 5:7]).sum().backward()
    assert x.grad is not None and x.grad[:, :5].abs().sum() == 0


def test_interrupted_calls(x: Tensor) -> None:
    """A call that fails half-way leaves layers that have seen different tokens: nothing goes on from there."""
    cache = StateCache(2)
    call(cache, x[:, :5])
    saved = cache.snapshot()
    cache.begin(None, 3, 7)
    cache.layers[0].run("conv", CONV, x[:, 5:], WEIGHT)
    with pytest.raises(UserError, match="was interrupted"):
        call(cache, x[:, 5:])
    cache.rewind(saved)
    torch.testing.assert_close(call(cache, x[:, 5:]), whole(x)[:, 5:])
    with pytest.raises(RuntimeError):
        call(cache, x, torch.ones(3, 12, dtype=torch.int64).to("meta"))
    cache.reset()
    torch.testing.assert_close(call(cache, x), whole(x))


# ---------------------------------------------------------------- keys and values


def attend(cache: StateCache, keys: Tensor, window: int, mask: Tensor | None = None) -> list[list[list[float]]]:
    """For each row and new token the keys of its window, found by their positions."""
    batch, _, length, _ = keys.shape
    mask = cache.begin(mask, batch, length)
    new = cache.token_positions(length, mask)
    kept, _, positions = cache.layers[0].extend(keys, keys, window, new)
    start = cache.get_seq_length()
    queries = torch.arange(start, start + length).expand(batch, -1) if new is None else new
    cache.advance(length, mask)
    distance = queries[..., None] - positions[:, None]
    allowed = (distance >= 0) & (distance < window) & (positions >= 0)[:, None]
    return [[sorted(kept[b, 0, allowed[b, t], 0].tolist()) for t in range(length)] for b in range(batch)]


@pytest.mark.parametrize("window", [1, 3, 20])
@pytest.mark.parametrize("padded", [False, True])
def test_windows_of_keys(window: int, padded: bool) -> None:
    """In pieces and cropped in between, each token finds the last tokens of its row and no padding."""
    keys = torch.arange(1.0, 25.0).view(2, 1, 12, 1)
    mask = torch.ones(2, 12, dtype=torch.bool)
    if padded:
        mask[0, :3] = mask[1, 4:9] = False
    cache = StateCache(1, keep=4)
    found: list[list[list[float]]] = [[], []]
    for start, stop, remove in [(0, 5, 2), (3, 4, 0), (4, 11, 4), (7, 12, 0)]:
        pieces = attend(cache, keys[:, :, start:stop], window, mask[:, start:stop])
        cache.crop(-remove)
        for row, piece in zip(found, pieces, strict=True):
            row += piece[: stop - start - remove]
    for row in range(2):
        for t in range(12):
            if mask[row, t]:
                real = keys[row, 0, : t + 1, 0][mask[row, : t + 1]]
                assert found[row][t] == real[-window:].tolist()
    assert cache.layers[0].keys is not None
    if not padded:
        assert cache.layers[0].keys.shape[2] == min(window - 1 + 4, 12)


# ---------------------------------------------------------------- mistakes


def test_mistakes(x: Tensor) -> None:
    with pytest.raises(UserError, match="`layers` is 'mamba'"):
        StateCache("mamba")
    with pytest.raises(UserError, match="`keep` is -1"):
        StateCache(2, keep=-1)
    cache = StateCache(SimpleNamespace(num_hidden_layers=2))
    call(cache, x, torch.tensor([[0] + [1] * 11] * 3))
    with pytest.raises(UserError, match=r"`attention_mask` has the shape \(3, 4\)") as error:
        cache.begin(torch.ones(3, 4), 3, 2)
    assert error.value.diagnostics[0].expected == "(3, 2) or (3, 14)"
    with pytest.raises(UserError, match="a cache of 3 rows, and a call with 2"):
        cache.begin(None, 2, 1)
    with pytest.raises(UserError, match="not of ssmc.models"):
        cache.update(x, x, 0)
