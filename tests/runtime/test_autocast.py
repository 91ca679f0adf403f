"""Under autocast parameters stay as they are, and outputs are as narrow as what autocast made of the inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import ssmc
from tests.runtime.layers import scan_inputs

LOW = torch.bfloat16


def narrowed(dtype: torch.dtype = LOW) -> dict[str, Tensor]:
    """What comes from projections in that dtype, the parameters in float32."""
    return {name: value if name in ("A", "D") else value.to(dtype) for name, value in scan_inputs().items()}


def autocast(dtype: torch.dtype = LOW) -> torch.autocast:
    return torch.autocast("cpu", dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_outputs(dtype: torch.dtype) -> None:
    """Nothing but the storage of the outputs changes; calls with and without do not disturb each other."""
    op, inputs = ssmc.load("selective_scan"), narrowed(dtype)
    for _ in range(2):
        wanted, kept = op(**inputs, return_state=True)
        with autocast(dtype), torch.no_grad():
            y, state = op(**inputs, return_state=True)
            z = op(**inputs, state=state)
        assert wanted.dtype is torch.float32 and y.dtype is z.dtype is dtype
        assert torch.equal(y, wanted.to(dtype)) and torch.equal(state["h"], kept["h"])
        assert torch.equal(z, op(**inputs, state=kept).to(dtype))


def test_what_autocast_leaves_alone() -> None:
    op, inputs = ssmc.load("selective_scan"), scan_inputs()
    with autocast():
        assert op(**inputs).dtype is torch.float32, "nothing is in autocast's dtype"
        assert op(**narrowed(torch.float16)).dtype is torch.float32, "nor here"
        assert op(**{**narrowed(), "dt": inputs["dt"].double()}).dtype is torch.float64
        with torch.autocast("cpu", enabled=False):
            assert op(**narrowed()).dtype is torch.float32
    codes = ssmc.compile("layer codes(x[b, t], w[b]) -> n[b, t]: int:\n    n = where(x > w, 1, 0)\n")
    with autocast():
        assert codes(torch.randn(2, 3, dtype=LOW), torch.randn(2)).dtype is torch.int64


def slopes(inputs: dict[str, Tensor], run: Any) -> tuple[Tensor, ...]:
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    return torch.autograd.grad(run(leaves).float().square().sum(), list(leaves.values()))


def test_gradients() -> None:
    op, inputs = ssmc.load("selective_scan"), narrowed()

    def inside(leaves: dict[str, Tensor], **options: Any) -> Tensor:
        with autocast():
            return op(**leaves, **options)

    found, wanted = slopes(inputs, inside), slopes(inputs, lambda leaves: op(**leaves).to(LOW))
    for one, other, value in zip(found, wanted, inputs.values(), strict=True):
        assert one.dtype is value.dtype
        torch.testing.assert_close(one, other)
    offsets = torch.tensor([0, 2, 5])
    found = slopes(inputs, lambda leaves: inside(leaves, cu_seqlens=offsets))
    wanted = slopes(inputs, lambda leaves: op(**leaves, cu_seqlens=offsets).to(LOW))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


class Block(torch.nn.Module):
    """Projections, then a scan: with autocast inside or around."""

    def __init__(self) -> None:
        super().__init__()
        self.project = torch.nn.Linear(8, 8 + 8 + 4 + 4)
        self.A = torch.nn.Parameter(-torch.rand(8, 4))
        self.scan = ssmc.load("selective_scan")

    def forward(self, x: Tensor) -> Tensor:
        x, dt, B, C = self.project(x).split([8, 8, 4, 4], -1)
        return self.scan(x, dt, self.A, B, C)


def test_graphs() -> None:
    block, x = Block(), torch.randn(2, 5, 8)

    def inside(x: Tensor) -> Tensor:
        with autocast():
            return block(x)

    wanted = inside(x)
    wanted.float().sum().backward()
    slope = block.A.grad
    assert wanted.dtype is LOW and slope is not None
    block.zero_grad()
    y = torch.compile(inside, fullgraph=True, backend="aot_eager")(x)
    y.float().sum().backward()
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(block.A.grad, slope)
    around = torch.compile(block, fullgraph=True, backend="aot_eager")
    with autocast():
        torch.testing.assert_close(around(x), wanted)
    assert around(x).dtype is torch.float32
