"""Anything done to a cache, in any order, against rows that are simply written down."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ssmc
from ssmc.models import StateCache

CONV = ssmc.load("causal_conv1d")
WEIGHT = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.25, -0.5]], dtype=torch.float64)
WINDOW, KEEP = 3, 3


@dataclass(frozen=True)
class Rows:
    """What a cache has seen: values (rows, positions, 2), which of them are tokens, how far it can be cropped."""

    values: Tensor
    tokens: Tensor
    croppable: int

    def expected(self, length: int) -> list[Tensor]:
        """For each row, what ``call`` gives for the tokens among the last positions."""
        found = []
        for values, tokens in zip(self.values, self.tokens, strict=True):
            own = values[tokens]
            past = torch.cat([torch.zeros(2, 2, dtype=torch.float64), own])
            mixed = sum(WEIGHT[:, k] * past[k : k + len(own)] for k in range(3))
            sums = [own[max(0, t - WINDOW + 1) : t + 1].sum(0) for t in range(len(own))]
            both = torch.cat([mixed, torch.stack(sums)], 1) if len(own) else torch.zeros(0, 4, dtype=torch.float64)
            found.append(both[len(own) - int(tokens[len(tokens) - length :].sum()) :])
        return found


def call(cache: StateCache, x: Tensor, mask: Tensor | None) -> Tensor:
    """A convolution, and beside it the sum over a window of the values themselves."""
    batch, length = x.shape[:2]
    mask = cache.begin(mask, batch, length)
    layer = cache.layers[0]
    mixed = layer.run("conv", CONV, x, WEIGHT, **({} if mask is None else {"mask": mask}))
    new = cache.token_positions(length, mask)
    keys, _, positions = layer.extend(x[:, None], x[:, None], WINDOW, new)
    start = cache.get_seq_length()
    queries = torch.arange(start, start + length)[None] if new is None else new
    distance = queries[..., None] - positions[:, None]
    allowed = (distance >= 0) & (distance < WINDOW) & (positions >= 0)[:, None]
    cache.advance(length, mask)
    return torch.cat([mixed, allowed.double() @ keys[:, 0]], 2)


def run(cache: StateCache, rows: Rows, length: int, padded: bool, generator: torch.Generator) -> Rows:
    """The rows with new positions, after a call that is as it should be."""
    number = len(rows.values)
    x = torch.randn(number, length, 2, generator=generator, dtype=torch.float64)
    mask = torch.ones(number, length, dtype=torch.bool)
    if padded:
        mask = torch.rand(number, length, generator=generator) > 0.4
    made = call(cache, x, mask if padded else None)
    croppable = min(rows.croppable + length, KEEP)
    rows = Rows(torch.cat([rows.values, x], 1), torch.cat([rows.tokens, mask], 1), croppable)
    for found, tokens, expected in zip(made, mask, rows.expected(length), strict=True):
        torch.testing.assert_close(found[tokens], expected)
    return rows


def crop(cache: StateCache, rows: Rows, remove: int) -> Rows:
    cache.crop(-remove)
    left = rows.values.shape[1] - remove
    return Rows(rows.values[:, :left], rows.tokens[:, :left], rows.croppable - remove)


CHANGES = ["run", "run padded", "crop", "save", "rewind", "reorder", "repeat", "clone"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_cache_says_what_its_rows_say(data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    cache = StateCache(1, KEEP)
    rows = Rows(torch.zeros(2, 0, 2, dtype=torch.float64), torch.zeros(2, 0, dtype=torch.bool), 0)
    rows = run(cache, rows, 6, data.draw(st.booleans()), generator)
    saved = []
    for _ in range(data.draw(st.integers(0, 10))):
        what, number = data.draw(st.sampled_from(CHANGES)), len(rows.values)
        if what.startswith("run"):
            rows = run(cache, rows, data.draw(st.integers(0, 5)), what == "run padded", generator)
        elif what == "crop":
            rows = crop(cache, rows, data.draw(st.integers(0, rows.croppable)))
        elif what == "save":
            saved.append((cache.snapshot(), rows))
        elif what == "rewind" and saved:
            snapshot, rows = data.draw(st.sampled_from(saved))
            cache.rewind(snapshot)
        elif what in ("reorder", "repeat"):
            if what == "reorder":
                chosen = torch.tensor(data.draw(st.lists(st.integers(0, number - 1), min_size=1, max_size=3)))
                cache.reorder_cache(chosen)
            else:
                chosen = torch.arange(number).repeat_interleave(2)[:4]
                cache.batch_repeat_interleave(2)
                cache.batch_select_indices(torch.arange(len(chosen)))
            rows = Rows(rows.values[chosen], rows.tokens[chosen], rows.croppable)
        elif what == "clone":
            cache = cache.clone()
        assert cache.get_seq_length() == rows.values.shape[1]
    # As far back as it goes, and on from there.
    run(cache, crop(cache, rows, rows.croppable), 2, False, generator)
