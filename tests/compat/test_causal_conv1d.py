"""The drop-ins for causal_conv1d."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from ssmc import compat
from tests.compat import meanings
from tests.compat.cases import Case, check, named


def whole(case: Case) -> dict[str, Tensor]:
    finals = "out.final_states" in case.tensors
    made = compat.causal_conv1d_fn(
        case["in.x"], case["in.weight"], case.get("in.bias"), case.get("in.seq_idx"), case.get("in.initial_states"),
        return_final_states=finals, activation=case.config["activation"],
    )  # fmt: skip
    return {"y": made[0], "final_states": made[1]} if isinstance(made, tuple) else {"y": made}


def update(case: Case) -> dict[str, Tensor]:
    state = case["in.conv_state"].clone()
    y = compat.causal_conv1d_update(
        case["in.x"], state, case["in.weight"], case.get("in.bias"), case.config["activation"],
        case.get("in.cache_seqlens"),
    )  # fmt: skip
    return {"y": y, "new_conv_state": state}


@pytest.mark.parametrize("name", named("cconv_"))
def test_reference_data(name: str) -> None:
    case = Case(name)
    check(case, update if "update" in name else whole)


@pytest.mark.parametrize("name", ["cconv_silu", "cconv_seq_idx", "cconv_short_init"])
def test_channels_last(name: str) -> None:
    case = Case(name)
    case.tensors["in.x"] = case["in.x"].transpose(1, 2).contiguous().transpose(1, 2)
    check(case, whole)


def test_corners() -> None:
    x, weight, out = torch.randn(2, 3, 5), torch.randn(3, 4), torch.zeros(2, 3, 3)
    y, last = compat.causal_conv1d_fn(x, weight, return_final_states=True, final_states_out=out, activation="swish")
    assert last is out and torch.equal(out, x[..., 2:])
    assert torch.equal(y, compat.causal_conv1d_fn(x, weight, activation="silu"))  # type: ignore[arg-type]
    y, last = compat.causal_conv1d_fn(x, weight[:, :1], return_final_states=True)
    assert torch.equal(y, x * weight[:, :1]) and last.shape == (2, 3, 0)
    half = compat.causal_conv1d_fn(x.bfloat16(), weight, return_final_states=True)
    assert [v.dtype for v in half] == [torch.bfloat16] * 2


def test_padding() -> None:
    """Where `seq_idx` is negative the result is 0, and so is the gradient of what only leads there."""
    x, weight = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    padded = torch.tensor([[0, 0, 1, 1, -1]] * 2, dtype=torch.int32)

    def wanted(x: Tensor, weight: Tensor) -> list[Tensor]:
        pieces = [meanings.convolution(piece.transpose(1, 2), weight, None) for piece in x[..., :4].split(2, -1)]
        return [torch.cat([silu(v.transpose(1, 2)) for v in pieces] + [torch.zeros_like(x[..., :1])], -1)]

    def found(x: Tensor, weight: Tensor) -> list[Tensor]:
        y = compat.causal_conv1d_fn(x, weight, seq_idx=padded, activation="silu")
        assert isinstance(y, Tensor)
        return [y]

    meanings.compare(found, wanted, {"x": x, "weight": weight})


def test_a_ring_longer_and_shorter_than_the_tokens() -> None:
    """A ring and a row of the same inputs give the same, for more tokens than there are places, too."""
    weight, seen = torch.randn(3, 4), torch.tensor([5, 11], dtype=torch.int32)
    history, x = torch.randn(2, 3, 20), torch.randn(2, 3, 9)
    row = torch.stack([history[b, :, n - 4 : n] for b, n in enumerate([5, 11])])
    ring = torch.zeros(2, 3, 4)
    for b, n in enumerate([5, 11]):
        for place in range(n - 4, n):
            ring[b, :, place % 4] = history[b, :, place]
    y, wanted = (
        compat.causal_conv1d_update(x, ring, weight, cache_seqlens=seen),
        compat.causal_conv1d_update(x, row, weight),
    )
    assert torch.equal(y, wanted)
    for b, n in enumerate([5, 11]):
        assert torch.equal(torch.stack([ring[b, :, (n + 9 - 4 + k) % 4] for k in range(4)], -1), row[b])


@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("length", [None, 2])
def test_rows_of_a_pool(ring: bool, length: int | None) -> None:
    """Entries work on their rows of the pool; padding yields zeros and changes nothing. Gradients flow to both."""
    generator = torch.Generator().manual_seed(0)
    rows, kept = torch.tensor([4, -1, 0], dtype=torch.int32), torch.tensor([True, False, True])
    seen = torch.tensor([3, 8, 6]) if ring else None
    x = torch.randn(3, 2, *([] if length is None else [length]), generator=generator).double()
    pool, weight = torch.randn(6, 2, 5, generator=generator).double(), torch.randn(2, 4, generator=generator).double()

    def found(x: Tensor, pool: Tensor, weight: Tensor) -> list[Tensor]:
        pool = pool.clone()
        y = compat.causal_conv1d_update(x, pool, weight, None, "silu", seen, rows)
        return [y, pool]

    def wanted(x: Tensor, pool: Tensor, weight: Tensor) -> list[Tensor]:
        state = pool[rows[kept].long()]
        y = compat.causal_conv1d_update(x[kept], state, weight, None, "silu", None if seen is None else seen[kept])
        return [torch.zeros_like(x).index_put((kept,), y), pool.index_put((rows[kept].long(),), state)]

    meanings.compare(found, wanted, {"x": x, "pool": pool, "weight": weight})
    compat.causal_conv1d_update(x, pool, weight, conv_state_indices=torch.full((3,), -1))
