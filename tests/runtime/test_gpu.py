"""Machine code for GPUs, as far as it goes without one: what the driver is told, and what is said when it refuses.

The driver is the one of ``tests.cuda_host``: everything above it is what runs on a GPU.
"""

from __future__ import annotations

import struct
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import ssmc
from ssmc.backends import Launch
from ssmc.errors import ToolchainError, Unsupported, UserError
from ssmc.runtime import gpu
from ssmc.runtime.gpu import Launcher, architecture_for, checked
from ssmc.runtime.machines import ThisMachine, lacking, one_device
from tests.cuda_host.driver import Driver, on_host, zeros

LAUNCH = Launch("ssmc_k0", ("b",), "d", None, 0, 128, 0, 0)
SCAN = "layer f(x[b, t, d], a[d]) -> y[b, t, d]:\n    seq t\n    y = sigmoid(a) * y[t-1] + x\n"


class Recorder:
    """A driver that does nothing and remembers everything."""

    CUdevice_attribute = Driver.CUdevice_attribute
    CUfunction_attribute = Driver.CUfunction_attribute

    def __init__(self, **failing: Any) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.given: list[bytes] = []
        self.failing = failing
        self.most_shared = 100 << 10
        self.context = 1

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, arguments))
            if name in self.failing:
                return self.failing[name], None
            if name == "cuGetErrorString":
                return 0, b"words of the driver"
            if name == "cuCtxGetCurrent":
                return 0, self.context
            if name == "cuLaunchKernel":
                place = gpu.ctypes.cast(arguments[9], gpu.ctypes.POINTER(gpu.ctypes.c_void_p))[0]
                self.given.append(gpu.ctypes.string_at(place, 6 * 8))
                return (0,)
            return 0, self.most_shared if name == "cuDeviceGetAttribute" else name

        return call

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for called, arguments in self.calls if called == name]


def launcher(driver: Recorder, launch: Launch = LAUNCH) -> Launcher:
    return Launcher(b"code", [launch], ("b", "d"), {}, 2, 3, lambda: 77, driver, zeros)


def test_what_the_driver_is_told() -> None:
    """One struct by value: pointers, numbers, and the part of the first axis; on the stream of that moment."""
    driver = Recorder()
    entry = launcher(driver)
    assert driver.named("cuLibraryLoadData") == [(b"code", [], [], 0, [], [], 0)]
    assert driver.named("cuLibraryGetKernel") == [("cuLibraryLoadData", b"ssmc_k0")]
    assert entry(struct.pack("P", 4096), struct.pack("2q", 5, 300), 9) == 0
    (told,) = driver.named("cuLaunchKernel")
    assert told[:9] == ("cuKernelGetFunction", 12, 1, 1, 128, 1, 1, 0, 77) and told[10] == 0
    assert struct.unpack("P5q", driver.given[0]) == (4096, 5, 300, 0, 5, 0)
    assert not driver.named("cuFuncSetAttribute")


def test_a_thread_without_a_context_is_given_one() -> None:
    """That of the GPU, once."""
    driver = Recorder()
    entry = launcher(driver)
    assert not driver.named("cuCtxSetCurrent")
    driver.context = 0

    def twice() -> None:
        for _ in range(2):
            entry(struct.pack("P", 4096), struct.pack("2q", 5, 300), 9)

    thread = threading.Thread(target=twice)
    thread.start()
    thread.join()
    assert driver.named("cuDeviceGet") == [(3,)] and driver.named("cuDevicePrimaryCtxRetain") == [("cuDeviceGet",)]
    assert driver.named("cuCtxSetCurrent") == [("cuDevicePrimaryCtxRetain",)]
    assert len(driver.named("cuLaunchKernel")) == 2


def test_nothing_to_do_is_not_launched() -> None:
    driver = Recorder()
    assert launcher(driver)(struct.pack("P", 0), struct.pack("2q", 0, 300), 1) == 0
    assert not driver.named("cuLaunchKernel")


def test_shared_memory_beyond_the_usual_is_asked_for() -> None:
    driver = Recorder()
    launcher(driver, Launch("ssmc_k0", ("b",), "d", None, 0, 128, 0, 64 << 10))
    assert driver.named("cuFuncSetAttribute") == [("cuKernelGetFunction", 8, 64 << 10)]


def test_too_little_shared_memory() -> None:
    with pytest.raises(
        ToolchainError, match="ssmc_k0 takes 122880 bytes of shared memory for a block; this GPU has 102"
    ):
        launcher(Recorder(), Launch("ssmc_k0", ("b",), "d", None, 0, 128, 0, 120 << 10))


@pytest.mark.parametrize("name", ["cuLibraryLoadData", "cuLibraryGetKernel", "cuKernelGetFunction", "cuLaunchKernel"])
def test_what_the_driver_refuses(name: str) -> None:
    driver = Recorder(**{name: SimpleNamespace(name="CUDA_ERROR_NO_BINARY_FOR_GPU")})
    with pytest.raises(ToolchainError, match=f"{name} failed: words of the driver .CUDA_ERROR_NO_BINARY_FOR_GPU."):
        launcher(driver)(struct.pack("P", 0), struct.pack("2q", 5, 300), 1)


def test_architectures() -> None:
    found = {c: architecture_for(c) for c in ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0), (12, 1))}
    assert list(found.values()) == ["sm_80"] * 3 + ["sm_90"] + ["sm_100"] * 2 + ["sm_120"] * 2
    with pytest.raises(ToolchainError, match="compute capability 7.5, for which no kernels can be made"):
        architecture_for((7, 5))


def test_no_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(ToolchainError, match="cuda-bindings, which is not installed"):
        gpu.driver()


def test_no_driver() -> None:
    class Without:
        def cuInit(self, flags: int) -> Any:
            raise RuntimeError("no libcuda")

    with pytest.raises(RuntimeError):
        checked(Without(), "cuInit", 0)
    if torch.cuda.is_available():
        return
    pytest.importorskip("cuda.bindings.driver")
    with pytest.raises(ToolchainError, match="there is no NVIDIA driver"):
        gpu.driver()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_this_machine_says_why_it_runs_none() -> None:
    assert lacking("cuda") and lacking("triton")
    with pytest.raises(Unsupported, match="target 'cuda' cannot run here"):
        ThisMachine().device_of("cuda")
    assert ThisMachine().device_of("c") == "cpu"


def test_tensors_on_different_devices() -> None:
    values = [torch.zeros(2), torch.zeros(2, device="meta")]
    with pytest.raises(UserError, match="tensors on different devices: 'x' on cpu, 'a' on meta"):
        one_device("f", ["x", "a"], values)


# ---------------------------------------------------------------- the operator, on a device that is this host


def test_a_layer_and_its_gradient() -> None:
    """The same numbers as from C, through the operator, autograd and the launcher."""
    plain = ssmc.compile(SCAN)
    other = on_host(plain)
    x, a = torch.randn(2, 65, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    assert torch.allclose(other(x, a), plain(x, a), rtol=1e-12)
    found = []
    for layer in (plain, other):
        given = [v.clone().requires_grad_() for v in (x, a)]
        layer(*given).square().sum().backward()
        found.append([v.grad for v in given])
    assert all(torch.allclose(one, two, rtol=1e-10) for one, two in zip(*found, strict=True))
    assert other.source.suffix == ".cpp" and plain.source.suffix == ".c"


def test_state_and_layouts() -> None:
    plain = ssmc.compile(SCAN)
    other = on_host(plain)
    x, a = torch.randn(1, 9, 5), torch.randn(5)
    whole = plain(x, a)
    first, state = other(x[:, :4], a, return_state=True)
    second = other(x[:, 4:], a, state=state)
    assert torch.allclose(torch.cat([first, second], 1), whole, atol=1e-6)
    places = torch.tensor([0, 3, 9])
    assert torch.allclose(other(x, a, cu_seqlens=places), plain(x, a, cu_seqlens=places), atol=1e-6)
    padding = torch.arange(9)[None] < 6
    assert torch.allclose(other(x, a, mask=padding), plain(x, a, mask=padding), atol=1e-6)
