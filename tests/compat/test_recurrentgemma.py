"""The drop-in for recurrentgemma's scan."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssmc import compat
from tests.compat import meanings
from tests.compat.cases import Case, check, named


def rnn_scan(case: Case) -> dict[str, Tensor]:
    y, last = compat.rnn_scan(case["in.x"], case["in.a"], case["in.reset"], case.get("in.h0"))
    return {"y": y, "last_h": last}


@pytest.mark.parametrize("name", named("rg_scan"))
def test_reference_data(name: str) -> None:
    case = Case(name)
    check(case, rnn_scan)
    case.tensors["in.reset"] = case["in.reset"].bool()
    case.check("out.y", rnn_scan(case)["y"])


def test_dtypes() -> None:
    x, a, reset = torch.randn(2, 5, 3).bfloat16(), torch.rand(3).bfloat16(), torch.zeros(2, 5, dtype=torch.bool)
    y, last = compat.rnn_scan(x, a, reset, torch.zeros(2, 3))
    assert y.dtype is torch.bfloat16 and last.dtype is torch.float32
    torch.testing.assert_close(y[:, -1].float(), last, atol=0.02, rtol=0.01)
    y, wide = compat.rnn_scan(x, a, reset, torch.zeros(2, 3), torch.float64)
    assert y.dtype is torch.bfloat16 and wide.dtype is torch.float64
    torch.testing.assert_close(wide.float(), last)
    assert [v.dtype for v in compat.rnn_scan(x.double(), a, reset, None)] == [torch.float64, torch.float32]


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 6, 3)])
@pytest.mark.parametrize("shared", [False, True])
def test_meaning(shape: tuple[int, int, int], shared: bool) -> None:
    """Decays may lack the first axes; their gradient then adds up."""
    generator = torch.Generator().manual_seed(0)
    reset = torch.rand(shape[:2], generator=generator) < 0.3
    inputs = {
        "x": torch.randn(shape, generator=generator).double().transpose(0, 1).contiguous().transpose(0, 1),
        "a": torch.rand(shape[2:] if shared else shape, generator=generator).double(),
        "h0": torch.randn(shape[0], shape[2], generator=generator).double(),
    }

    def wanted(x: Tensor, a: Tensor, h0: Tensor) -> tuple[Tensor, ...]:
        y = meanings.affine(a.expand(x.shape), x, h0, reset)
        return y, y[:, -1]

    meanings.compare(lambda x, a, h0: compat.rnn_scan(x, a, reset, h0, torch.float64), wanted, inputs)
