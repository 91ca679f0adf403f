"""A driver whose one device is this host, and a machine that compiles for it: PyTorch's operators then run CUDA C.

What the runtime asks of the driver is answered as the driver would: libraries, kernels, launches, with what they are
given; a library is the path of a shared object instead of machine code for a GPU.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ssmc.backends import Cache
from ssmc.compiler import Compiled, stages
from ssmc.errors import Unsupported
from ssmc.ir import Program
from ssmc.passes import PlanOptions
from ssmc.runtime import Layer
from ssmc.runtime.machines import Entry, Processor, launcher
from ssmc.runtime.operator import operator_of
from ssmc.runtime.stored import StoredSource
from tests.cuda_host import host

OK = 0
zeros = functools.partial(torch.zeros, dtype=torch.int32)


@dataclass
class Driver:
    """The functions of ``cuda.bindings.driver`` that the runtime calls, and what was launched."""

    launched: list[tuple[str, int, int, int]] = field(default_factory=list)
    shared: int = 227 << 10
    threads: int = 1024
    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN=97, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK=1
    )
    CUfunction_attribute = SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8)

    def cuDeviceGet(self, number: int) -> tuple[int, int]:
        return OK, number

    def cuDeviceGetAttribute(self, attribute: int, device: int) -> tuple[int, int]:
        return OK, {97: self.shared, 1: self.threads}[attribute]

    def cuCtxGetCurrent(self) -> tuple[int, int]:
        return OK, 1

    def cuLibraryLoadData(self, code: bytes, *_: Any) -> tuple[int, Any]:
        return OK, ctypes.CDLL(code.decode())

    def cuLibraryGetKernel(self, library: Any, name: bytes) -> tuple[int, Any]:
        function = library[f"host_{name.decode()}"]
        function.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_int64]
        return OK, (name.decode(), function)

    def cuKernelGetFunction(self, kernel: Any) -> tuple[int, Any]:
        return OK, kernel

    def cuLaunchKernel(
        self, kernel: Any, x: int, y: int, z: int, threads: int, ty: int, tz: int, shared: int, stream: int,
        parameters: int, extra: int,
    ) -> tuple[int]:  # fmt: skip
        assert (y, z, ty, tz, stream, extra) == (1, 1, 1, 1, 0, 0)
        name, function = kernel
        self.launched.append((name, x, threads, shared))
        arguments = ctypes.cast(parameters, ctypes.POINTER(ctypes.c_void_p))[0]
        assert function(arguments, x, threads, shared) == 0, f"{name}: its threads wait for each other in vain"
        return (OK,)


@dataclass(frozen=True)
class HostMachine(Processor):
    """CUDA C compiled as C++, its kernels launched on this host."""

    target: str = "cuda"

    def key_parts(self) -> Mapping[str, str]:
        shim = (Path(__file__).parent / "prelude.h").read_bytes() + Path(host.__file__).read_bytes()
        return {"host": hashlib.sha256(shim).hexdigest(), **super().key_parts()}

    def compile(
        self, program: Program, storage: Mapping[str, str], sizes: Mapping[str, int], cache: Cache,
        outputs: Mapping[str, str], options: PlanOptions,
    ) -> Compiled:  # fmt: skip
        done = stages(program, self.target, storage, sizes, options, outputs)

        def build(folder: Path) -> None:
            host.build(done.text, done.launches, folder)

        folder = cache.get({"text": done.text, **self.key_parts()}, build)
        return Compiled(done.program, done.arguments, done.axes, done.plan.fixed, done.symbol, folder / "kernel.so",
                        folder / "kernel.cpp", lambda *_: 1, done.launches)  # fmt: skip

    def entry(self, library: Path, made: Mapping[str, Any]) -> Entry:
        return launcher(str(library).encode(), made, 0, lambda: 0, Driver(), zeros)


@dataclass(frozen=True)
class HostMachines:
    """Only the host as a device for CUDA C."""

    target: str = "cuda"

    def of(self, device: torch.device) -> HostMachine:
        return HostMachine()

    def choosing(self, target: str) -> HostMachines:
        return self

    def device_of(self, target: str) -> str:
        if target != "cuda":
            raise Unsupported(f"target {target!r} is not looked at")
        return "cpu"


def on_host(layer: Layer) -> Layer:
    """The same layer, run as CUDA C on this host."""
    source: Any = layer._operator.source
    texts, asked, read = source.made_of
    return Layer(operator_of(StoredSource(texts, asked, read, HostMachines(), source.plan)), layer.statics)
