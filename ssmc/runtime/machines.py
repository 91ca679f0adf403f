"""Where tensors live → what is compiled for it, and how its machine code is called."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from ssmc.backends import Cache, Launch, cuda_toolchain, target_named, toolchain
from ssmc.compiler import Compiled, compile_program, load_entry
from ssmc.errors import ToolchainError, Unsupported, UserError
from ssmc.ir import Program

from .gpu import Launcher, architecture_for, driver

DEVICES = ("cpu", "cuda")
Entry = Callable[..., int]


class Machine(Protocol):
    """What compiles Programs for the tensors of one device, and calls the result."""

    @property
    def target(self) -> str: ...
    def key_parts(self) -> Mapping[str, str]:
        """What machine code depends on besides the Program; parts of a cache key."""
        ...

    def compile(
        self, program: Program, storage: Mapping[str, str], sizes: Mapping[str, int], cache: Cache,
        outputs: Mapping[str, str],
    ) -> Compiled:  # fmt: skip
        """As ``compile_program``."""
        ...

    def entry(self, library: Path, made: Mapping[str, Any]) -> Entry:
        """What runs a library, of packed pointers, extents and strides, and a number of threads; ``made`` describes
        the library: ``symbol``, ``launches``, ``axes``, ``fixed``, ``arguments``."""
        ...


class Machines(Protocol):
    """The machines that there are."""

    def of(self, device: torch.device) -> Machine:
        """The machine for tensors on that device; ToolchainError if nothing compiles for it."""
        ...

    def device_of(self, target: str) -> str:
        """Where the tensors of a target live; Unsupported if nothing here runs it."""
        ...


@dataclass(frozen=True)
class Processor:
    """The CPU: C, by the C compiler."""

    target: str = "c"

    def key_parts(self) -> Mapping[str, str]:
        return toolchain.find().key_parts()

    def compile(
        self, program: Program, storage: Mapping[str, str], sizes: Mapping[str, int], cache: Cache,
        outputs: Mapping[str, str],
    ) -> Compiled:  # fmt: skip
        return compile_program(program, self.target, storage, sizes, cache=cache, outputs=outputs)

    def entry(self, library: Path, made: Mapping[str, Any]) -> Entry:
        return load_entry(library, made["symbol"])


@dataclass(frozen=True)
class Gpu(Processor):
    """An NVIDIA GPU: CUDA C, by a CUDA compiler, launched through the driver."""

    target: str
    number: int = 0

    def key_parts(self) -> Mapping[str, str]:
        return cuda_toolchain.find().key_parts(target_named(self.target).architecture)

    def entry(self, library: Path, made: Mapping[str, Any]) -> Entry:
        """Kernels belong to the context of their GPU, which has to be PyTorch's current one while they are launched."""
        with torch.cuda.device(self.number):
            launch = launcher(library.read_bytes(), made, self.number, self._stream, driver())

        def on_this_gpu(pointers: bytes, meta: bytes, threads: int) -> int:
            with torch.cuda.device(self.number):
                return launch(pointers, meta, threads)

        return on_this_gpu

    def _stream(self) -> int:
        return torch.cuda.current_stream(self.number).cuda_stream


def launcher(
    cubin: bytes, made: Mapping[str, Any], number: int, stream: Callable[[], int], functions: Any
) -> Launcher:  # fmt: skip
    """The entry of a cubin that ``made`` describes."""
    launches = [Launch(**{**item, "grid": tuple(item["grid"])}) for item in made["launches"]]
    numbers = len(made["axes"]) + sum(len(axes) for _, axes, *_ in made["arguments"])
    return Launcher(cubin, launches, made["axes"], made["fixed"], numbers, number, stream, functions)


@dataclass(frozen=True)
class ThisMachine:
    """The CPU and the GPUs of this machine."""

    def of(self, device: torch.device) -> Machine:
        return _machine_of(device)

    def device_of(self, target: str) -> str:
        reason = reason_against(target)
        if reason:
            raise Unsupported(f"target {target!r} cannot run here: {reason}")
        return "cpu" if target.partition(":")[0] == "c" else "cuda"


@functools.cache
def _machine_of(device: torch.device) -> Machine:
    if device.type == "cpu":
        return Processor()
    number = device.index or 0
    return Gpu(f"cuda:{architecture_for(torch.cuda.get_device_capability(number))}", number)


def one_device(layer: str, names: Sequence[str], values: Sequence[torch.Tensor]) -> torch.device:
    """The device of all tensors of a call; UserError if they are on different ones."""
    found = {value.device: name for name, value in zip(names, values, strict=True)}
    if len(found) > 1:
        where = ", ".join(f"{name!r} on {device}" for device, name in found.items())
        raise UserError(f"{layer}: tensors on different devices: {where}", expected="all on one")
    return next(iter(found), torch.device("cpu"))


def reason_against(target: str) -> str:
    """Why this machine does not run the kernels of a target; empty if it does."""
    base, _, architecture = target.partition(":")
    if base == "c":
        return ""
    if base != "cuda":
        return "PyTorch does not launch its kernels yet"
    reason = lacking()
    if reason or not architecture:
        return reason
    here = {architecture_for(torch.cuda.get_device_capability(n)) for n in range(torch.cuda.device_count())}
    return "" if architecture in here else f"the GPUs here want {' and '.join(sorted(here))}"


def lacking() -> str:
    """Why this machine runs no kernels on a GPU; empty if it does."""
    if not torch.cuda.is_available():
        build = torch.version.cuda
        return "PyTorch sees no GPU" if build else "this build of PyTorch is for the CPU only"
    try:
        driver()
        for number in range(torch.cuda.device_count()):
            architecture_for(torch.cuda.get_device_capability(number))
    except ToolchainError as error:
        return error.diagnostics[0].message
    return ""
