"""Layers that run as Triton: values by Triton's interpreter, through PyTorch's operator and autograd; and which target
runs on which device. What Triton is told on a GPU is asked by ``tests/triton_host/told.py``."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import ssmc
from ssmc.errors import ToolchainError, Unsupported, UserError
from ssmc.ir.loops import Limits
from ssmc.runtime import machines
from ssmc.runtime.machines import Gpu, ThisMachine, TritonGpu, devices, reason_against
from tests.cuda_host.driver import Driver
from tests.triton_host.machine import interpreted

pytest.importorskip("triton", reason="Triton is not installed: pip install 'ssmc[gpu]'")
ROOT = Path(__file__).resolve().parents[2]
SCAN = "layer f(x[b, t, d], a[d]) -> y[b, t, d]:\n    seq t\n    y = sigmoid(a) * y[t-1] + x\n"
STATES = """
layer f(x[b, t, d], a[b, t, d], B[b, t, n], C[b, t, n], A[d, n]) -> y[b, t, d]:
    seq t
    h = exp(-abs(a) * A ^ 2) * h[t-1] + a * B * x
    y = sum[n](C * h)
"""


def slopes(layer: ssmc.Layer, given: list[torch.Tensor]) -> list[Any]:
    own = [v.clone().requires_grad_() for v in given]
    layer(*own).square().sum().backward()
    return [v.grad for v in own]


# ---------------------------------------------------------------- values, by Triton's interpreter


def test_a_layer_and_its_gradient() -> None:
    """The same numbers as from C; sums over lanes, and what a program has in memory of its own, in the gradient."""
    plain = ssmc.compile(STATES)
    other = interpreted(plain)
    torch.manual_seed(0)
    shapes = ((2, 3, 3), (2, 3, 3), (2, 3, 2), (2, 3, 2), (3, 2))
    given = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    assert torch.allclose(other(*given), plain(*given), rtol=1e-12)
    for found, expected in zip(slopes(other, given), slopes(plain, given), strict=True):
        assert torch.allclose(found, expected, rtol=1e-10)
    assert other.source.suffix == ".py" and "@triton.jit" in other.source.read_text()


def test_strides_state_and_layouts() -> None:
    """Arguments as they lie in memory; states from call to call; documents; padding."""
    plain = ssmc.compile(SCAN)
    other = interpreted(plain)
    x, a = torch.randn(3, 7, 1).transpose(0, 2), torch.randn(5)[::2]
    whole = plain(x, a)
    first, state = other(x[:, :4], a, return_state=True)
    second = other(x[:, 4:], a, state=state)
    assert torch.allclose(torch.cat([first, second], 1), whole, atol=1e-6)
    assert torch.allclose(other(x[..., :1].expand(1, 7, 3), a), plain(x[..., :1].expand(1, 7, 3), a), atol=1e-6)
    places = torch.tensor([0, 3, 7])
    assert torch.allclose(other(x, a, cu_seqlens=places), plain(x, a, cu_seqlens=places), atol=1e-6)
    padding = torch.arange(7)[None] < 5
    assert torch.allclose(other(x, a, mask=padding), plain(x, a, mask=padding), atol=1e-6)
    assert other(x[:, :0], a).shape == (1, 0, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64], ids=str)
def test_other_dtypes(dtype: torch.dtype) -> None:
    kind = ": complex" if dtype.is_complex else ""
    text = f"layer f(x[b, t, d]{kind}, a[d]) -> y[b, t, d]{kind}:\n    seq t\n    y = 0.5 * a * y[t-1] + x\n"
    plain = ssmc.compile(text)
    x, a = torch.randn(1, 4, 3, dtype=dtype), torch.randn(3).to(dtype if dtype.is_floating_point else None)
    found, expected = interpreted(plain)(x, a), plain(x, a)
    assert found.dtype == expected.dtype and torch.allclose(found, expected, rtol=1e-2 if a.dtype == dtype else 1e-5)


def test_what_triton_is_told() -> None:
    """In a process of its own: where Triton has interpreted it does not compile any more."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ROOT / "tests/triton_host/told.py")]
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("TRITON_", "PYTEST_"))}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-4000:]


# ---------------------------------------------------------------- which target runs on which device


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Makes PyTorch see GPUs: NVIDIA's of a compute capability, or AMD's of a name."""

    def seen(capability: tuple[int, int] | None = None, amd: str = "") -> None:
        monkeypatch.setattr(torch.version, "hip", "6.4" if amd else None)
        monkeypatch.setattr(torch._C, "_cuda_getDriverVersion", lambda: 13000, raising=False)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "a GPU")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: capability)
        named = SimpleNamespace(gcnArchName=amd + ":sramecc+:xnack-")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: named)
        monkeypatch.setattr(machines, "driver", lambda: Driver(shared=99 << 10))
        machines._machine_of.cache_clear()

    yield seen
    machines._machine_of.cache_clear()


def test_the_usual_targets(gpus: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """C on the CPU, CUDA C on NVIDIA's GPUs, Triton on AMD's; what else is asked for, if it runs there."""
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 1)
    gpus((8, 9))
    machine = ThisMachine()
    assert machine.of(cpu).target == "c" and machine.of(gpu) == Gpu("cuda:sm_80", 1, Limits(99 << 10, 1024))
    assert machine.choosing("triton").of(gpu) == TritonGpu(number=1)
    assert devices() == [("cpu", "", "c"), ("cuda:0", "a GPU", "cuda:sm_80")]
    monkeypatch.setenv("SSMC_GPU_TARGET", "triton")
    assert devices() == [("cpu", "", "c"), ("cuda:0", "a GPU", "triton")]
    assert isinstance(machine.choosing("cuda").of(gpu), Gpu)
    monkeypatch.setenv("SSMC_GPU_TARGET", "c")
    with pytest.raises(UserError, match="SSMC_GPU_TARGET is 'c'"):
        machine.of(gpu)
    monkeypatch.delenv("SSMC_GPU_TARGET")
    assert TritonGpu().about()[1].startswith("driver 13000, triton ")
    assert reason_against("triton") == reason_against("triton:sm_80") == reason_against("cuda:sm_80") == ""
    assert reason_against("triton:gfx942") == reason_against("cuda:sm_90") == "the GPUs here want sm_80"
    for target in ("cuda", "triton"):
        gpus((7, 5))
        with pytest.raises(
            ToolchainError, match="this GPU has compute capability 7.5, for which no kernels can be made"
        ):
            machine.choosing(target).of(gpu)
        assert devices()[1][2] == "nothing: this GPU has compute capability 7.5, for which no kernels can be made"
    gpus(amd="gfx942")
    assert devices()[1] == ("cuda:0", "a GPU", "triton")
    assert machine.of(gpu) == TritonGpu(number=1) and machine.device_of("triton:gfx942") == "cuda"
    assert reason_against("cuda") == "the GPUs here are AMD's"
    with pytest.raises(ToolchainError, match="CUDA C does not run on cuda:1, an AMD GPU"):
        machine.choosing("cuda").of(gpu)
    with pytest.raises(UserError, match="tensors are on cuda:1, and the layer was asked to run as 'c'"):
        machine.choosing("c").of(gpu)
    with pytest.raises(Unsupported, match="target 'cuda' cannot run here"):
        machine.device_of("cuda")


def test_a_target_is_asked_for() -> None:
    """It is part of the layer, which is copied and pickled with it; without a GPU it cannot run."""
    layer = ssmc.compile(SCAN, target="triton")
    x, a = torch.randn(1, 4, 3), torch.randn(3)
    for same in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), ssmc.compile(SCAN).choosing("triton")):
        with pytest.raises(UserError, match="tensors are on cpu, and the layer was asked to run as 'triton'"):
            same(x, a)
    assert torch.equal(ssmc.compile(SCAN, target="c")(x, a), ssmc.compile(SCAN)(x, a))
    for name in ("trition", "triton:sm_90"):
        with pytest.raises(UserError, match=f"unknown target '{name}'"):
            ssmc.load("affine_scan", target=name)
