"""What is measured on: an NVIDIA or AMD GPU, or, for tests of this program, the processor, on which the C target stands
for what runs on a GPU."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

from benchmarks.gpu.floors import Speeds, of_gpu, of_processor

PACKAGES = (
    "torch", "triton", "cuda-bindings", "nvidia-cuda-nvrtc", "flash-linear-attention", "fla-core", "accelerated-scan",
    "mamba-ssm", "causal-conv1d", "numpy",
)  # fmt: skip
FLUSHED = 256 << 20  # bytes that are written before each timed call, so that nothing is left in caches


class Device(Protocol):
    """Where workloads run, and how their time is taken."""

    name: str
    torch: torch.device
    targets: tuple[str, ...]

    def speeds(self) -> Speeds | None:
        """What it can do at most; None where that is not known."""
        ...

    def seconds(self, call: Callable[[], Any]) -> float:
        """How long one call takes."""
        ...

    def graphed(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """The call as a CUDA graph."""
        ...


class Gpu:
    """The first GPU that PyTorch sees."""

    def __init__(self) -> None:
        self.torch = torch.device("cuda")
        self.name = torch.cuda.get_device_name(0)
        self.targets: tuple[str, ...] = ("triton",) if torch.version.hip else ("cuda", "triton")
        self._flush: torch.Tensor | None = None

    def speeds(self) -> Speeds | None:
        return of_gpu(self.name, torch.cuda.get_device_properties(0))

    def seconds(self, call: Callable[[], Any]) -> float:
        if self._flush is None:
            self._flush = torch.empty(FLUSHED, dtype=torch.int8, device=self.torch)
        event: Any = torch.cuda.Event
        begin, end = event(enable_timing=True), event(enable_timing=True)
        self._flush.zero_()  # which takes longer than Python needs to launch what is timed
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    def graphed(self, call: Callable[[], Any]) -> Callable[[], Any]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return graph.replay


class Stand:
    """The processor in place of a GPU. It has no graphs: the call itself stands for one."""

    def __init__(self) -> None:
        self.torch = torch.device("cpu")
        self.name = "no GPU"
        self.targets: tuple[str, ...] = ("c",)

    def speeds(self) -> Speeds | None:
        return of_processor()

    def seconds(self, call: Callable[[], Any]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    def graphed(self, call: Callable[[], Any]) -> Callable[[], Any]:
        return call


def named(kind: str) -> Device:
    """``cuda`` or, for tests, ``cpu``."""
    return Gpu() if kind == "cuda" else Stand()


def reason_against(kind: str) -> str:
    """Why nothing can be measured on that kind of device; empty if it can."""
    if kind != "cuda" or torch.cuda.is_available():
        return ""
    build = torch.version.cuda or torch.version.hip
    return "PyTorch sees no GPU" if build else f"this build of PyTorch ({torch.__version__}) is for the CPU only"


def describe(device: Device) -> dict[str, Any]:
    """The device, its driver, and versions."""
    facts: dict[str, Any] = {
        "device": device.name,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "torch_cuda": torch.version.cuda,
        "torch_hip": torch.version.hip,
    }
    if device.torch.type == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts["memory_bytes"] = properties.total_memory
        facts["multiprocessors"] = properties.multi_processor_count
        facts["capability"] = list(torch.cuda.get_device_capability(0))
        facts["nvidia_smi"] = _smi()
    return facts


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _smi() -> str | None:
    """Driver and clocks, as nvidia-smi says."""
    query = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit"
    try:
        done = subprocess.run(["nvidia-smi", f"--query-gpu={query}", "--format=csv"], capture_output=True, text=True,
                              timeout=30)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def slug(name: str) -> str:
    """A device's name as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "device"


def python() -> str:
    """The interpreter that sections run in."""
    return sys.executable
