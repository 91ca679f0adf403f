"""What ``explain`` says."""

from __future__ import annotations

import json

import pytest
import torch

import ssmc
from ssmc.errors import UserError
from ssmc.explain import machine, scaled
from tests.cuda_host.driver import on_host
from tests.runtime.layers import decay, scan_inputs
from tests.triton_host.machine import interpreted


def test_explain_for_sizes() -> None:
    op = ssmc.load("selective_scan")
    found = op.explain(present=["D"], b=2, t=100, d=32, n=4)
    assert found.exponentials >= 2 * 100 * 32 * 4 and len(found.kernels) == 1
    assert found.bytes == 4 * (3 * 2 * 100 * 32 + 2 * 2 * 100 * 4 + 32 * 4 + 32)
    text = str(found)
    for part in ("selective_scan: #b = 2, #t = 100", "kernel k0", "bound by", "predicted:", "copies: none", "GB/s"):
        assert part in text
    assert found.predicted is not None and found.predicted >= max(found.seconds(found.kernels[0]).values())
    assert json.loads(json.dumps(found.facts()))["bytes"] == found.bytes
    half = op.explain(present=["D"], dtype=torch.bfloat16, b=2, t=100, d=32, n=4)
    assert 2 * half.bytes == found.bytes
    stepped = op.explain(present=["D"], takes_state=True, returns_state=True, b=2, t=100, d=32, n=4)
    assert stepped.bytes == found.bytes + 2 * 4 * 2 * 32 * 4


def test_explain_for_the_latest_call() -> None:
    op = ssmc.load("selective_scan", softplus_dt=False)
    op(**scan_inputs(3, 7))
    assert op.explain().extents | {"b": 3, "t": 7, "d": 8, "n": 4} == op.explain().extents


def test_it_names_the_target() -> None:
    """Of the latest call, else the one that was asked for."""
    plain = ssmc.compile(ema := "layer f(x[b, t, d]) -> y[b, t, d]:\n    seq t\n    y = 0.5 * y[t-1] + x\n")
    x = torch.randn(1, 3, 2)
    for layer, target in ((plain, "c"), (on_host(plain), "cuda"), (interpreted(plain, quickly=True), "triton")):
        layer(x)
        assert layer.explain().target == target and f"\ntarget: {target}\n" in str(layer.explain())
    asked = ssmc.compile(ema, target="triton").explain(b=1, t=3, d=2)
    assert asked.target == "triton" and asked.predicted is None and "no bound" in str(asked)


def test_static_parameters_and_missing_extents() -> None:
    op = ssmc.load("causal_conv1d")
    silu = op.explain(present=[], activation="silu", b=1, t=64, d=32, k=4)
    assert silu.exponentials > op.explain(present=[], b=1, t=64, d=32, k=4).exponentials == 0
    with pytest.raises(UserError, match="the extents of t, d are not known"):
        decay().explain(b=1)


def test_the_machine_is_measured_once() -> None:
    first = machine(1)
    machine.cache_clear()
    assert machine(1) == first and min(first.bytes, first.flops, first.exponentials) > 1e6


@pytest.mark.parametrize(
    "number, text", [(0, "0 "), (1, "1 "), (12_600_000, "12.6 M"), (0.00123, "1.23 m"), (2e-9, "2 n"), (5e13, "50 T")]
)
def test_scaled(number: float, text: str) -> None:
    assert scaled(number) == text
