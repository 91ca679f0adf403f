"""The drop-ins for HGRN's recurrence."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ssmc import compat
from tests.compat import meanings


def inputs(batch: int, length: int, width: int = 5, states: int | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(length)
    return {
        "x": torch.randn(batch, length, width, generator=generator).double(),
        "g": logsigmoid(torch.randn(batch, length, width, generator=generator)).double(),
        "initial_state": torch.randn(states or batch, width, generator=generator).double(),
    }


def loop(x: Tensor, g: Tensor, initial_state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    y = meanings.affine(g.exp(), x, initial_state)
    return y, y[:, -1]


@pytest.mark.parametrize("function", [compat.chunk_hgrn, compat.fused_recurrent_hgrn])
@pytest.mark.parametrize("shape", [(2, 7), (1, 1)])
def test_meaning(function: object, shape: tuple[int, int]) -> None:
    given = inputs(*shape)
    meanings.compare(lambda **named: function(**named, output_final_state=True), loop, given)  # type: ignore[operator]
    del given["initial_state"]
    meanings.compare(lambda **named: function(**named)[:1], lambda **named: loop(**named)[:1], given)  # type: ignore[operator]


@pytest.mark.parametrize("bounds", [[0, 3, 4, 9], [0, 0, 5, 5, 9, 9], [0, 9], [0, 2, 7]])
def test_packed(bounds: list[int]) -> None:
    """Documents as if each was alone; what belongs to none yields zeros; an empty one returns its initial state."""
    given = inputs(1, 9, states=len(bounds) - 1)

    def cut(x: Tensor, g: Tensor, initial_state: Tensor) -> tuple[Tensor, Tensor]:
        found, last = [], []
        for first, (start, end) in zip(initial_state, pairwise(bounds), strict=True):
            last.append(first[None])
            if end > start:
                y, last[-1] = loop(x[:, start:end], g[:, start:end], first[None])
                found.append(y)
        return torch.cat([*found, x.new_zeros(1, 9 - bounds[-1], x.shape[2])], 1), torch.cat(last)

    for dtype in (torch.int32, torch.int64):
        offsets = torch.tensor(bounds, dtype=dtype)
        meanings.compare(
            lambda offsets=offsets, **named: compat.fused_recurrent_hgrn(
                **named, output_final_state=True, cu_seqlens=offsets
            ),
            cut,
            given,
        )
    y, last = compat.fused_recurrent_hgrn(given["x"], given["g"], cu_seqlens=torch.tensor(bounds))
    assert last is None
    torch.testing.assert_close(y, cut(given["x"], given["g"], torch.zeros_like(given["initial_state"]))[0])


def test_dtypes() -> None:
    given = inputs(2, 6)
    x, g = given["x"].bfloat16(), given["g"].float()
    first = given["initial_state"].float()
    y, last = compat.fused_recurrent_hgrn(x, g, first, True)
    assert y.dtype is torch.bfloat16 and last is not None and last.dtype is torch.bfloat16
    again, wide = compat.chunk_hgrn(x, g, first, True)
    assert again.dtype is torch.bfloat16 and wide is not None and wide.dtype is torch.float32
    assert torch.equal(y, again) and torch.equal(last, wide.bfloat16())
    torch.testing.assert_close(wide.double(), loop(x.double(), g.double(), first.double())[1], atol=1e-5, rtol=1e-5)


def test_time_first_in_memory() -> None:
    given = inputs(3, 6)
    strided = {name: v.transpose(0, 1).contiguous().transpose(0, 1) for name, v in given.items()}
    assert not strided["x"].is_contiguous()
    for found, wanted in zip(compat.chunk_hgrn(**strided), compat.chunk_hgrn(**given), strict=True):
        assert found is wanted or torch.equal(found, wanted)  # type: ignore[arg-type]
