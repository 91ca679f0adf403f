"""Layers on a GPU that is there: both targets, streams, threads, graphs, and what is shipped."""

from __future__ import annotations

import importlib.util
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import ssmc as package
from ssmc.backends import TARGETS as KNOWN
from ssmc.runtime import reason_against
from ssmc.verify import HOLDS, verify

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]
TARGETS = ("cuda", "triton")
SCAN = """
layer f(x[b, t, d], a[b, t, d], B[b, t, n], C[b, t, n], A[d, n]) -> y[b, t, d]:
    seq t
    h = exp(-abs(a) * A ^ 2) * h[t-1] + a * B * x
    y = sum[n](C * h)
"""


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    reason = reason_against(request.param)
    if reason:
        pytest.skip(reason)
    return str(request.param)


def arguments(t: int = 70) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape) for shape in ((2, t, 300), (2, t, 300), (2, t, 16), (2, t, 16), (300, 16))]


def slopes(layer: package.Layer, given: list[torch.Tensor]) -> list[Any]:
    own = [v.clone().requires_grad_() for v in given]
    layer(*own).square().sum().backward()
    return [v.grad.cpu() for v in own if v.grad is not None]


def on_gpu(given: list[torch.Tensor]) -> list[torch.Tensor]:
    return [v.cuda() for v in given]


def test_values_and_gradients(target: str) -> None:
    plain, layer = package.compile(SCAN), package.compile(SCAN, target=target)
    for t in (1, 33, 70):
        given = arguments(t)
        assert torch.allclose(layer(*on_gpu(given)).cpu(), plain(*given), rtol=1e-4, atol=1e-4)
        for found, expected in zip(slopes(layer, on_gpu(given)), slopes(plain, given), strict=True):
            assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_the_table(target: str) -> None:
    found = verify(package.load("affine_scan"), [target], ["f32", "bf16"])
    assert found.ok and sum(row.verdict == HOLDS for row in found.rows) > 40, str(found)


def test_streams_and_threads(target: str) -> None:
    """A stream of the caller's own; a thread in which nothing has used the GPU yet."""
    layer, given = package.compile(SCAN, target=target), on_gpu(arguments())
    expected, stream = layer(*given), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        found = layer(*given)
    stream.synchronize()
    assert torch.equal(found, expected)
    made: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: made.append(layer(*given)))
    thread.start()
    thread.join()
    assert torch.equal(made[0], expected)


def test_graphs(target: str) -> None:
    """What is launched is captured, and runs again on other values."""
    layer, given = package.compile(SCAN, target=target), on_gpu(arguments())
    layer(*given)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = layer(*given)
    given[0].mul_(2)
    graph.replay()
    assert torch.equal(found, layer(*given))


def test_what_is_shipped(target: str, ssmc: Any, tmp_path: Path) -> None:
    for name in KNOWN[target].architectures:
        if not reason_against(f"{target}:{name}"):
            (tmp_path / "f.ssm").write_text(SCAN)
            ran = ssmc("compile", tmp_path / "f.ssm", "--target", f"{target}:{name}", "-o", tmp_path)
            assert ran.code == 0, ran.err
            spec = importlib.util.spec_from_file_location("shipped_f", tmp_path / "f.py")
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules["shipped_f"] = module
            spec.loader.exec_module(module)
            given = arguments()
            assert torch.allclose(
                module.layer(*on_gpu(given)).cpu(), package.compile(SCAN)(*given), rtol=1e-4, atol=1e-4
            )
            return
    pytest.skip("machine code is made beforehand for other GPUs")
