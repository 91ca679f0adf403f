"""Where tensors live → what is compiled for it, and how its machine code is called.

Tensors on the CPU are for C. Of those on a GPU the user may say what their kernels are made of: for a layer or, in
SSMC_GPU_TARGET, for all that say nothing. Else it is CUDA C on NVIDIA's and Triton on AMD's, which PyTorch calls
"cuda", too.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from ssmc.backends import (
    TARGETS,
    Cache,
    Launch,
    cuda_toolchain,
    target_named,
    tile_launch,
    toolchain,
    triton_toolchain,
)
from ssmc.compiler import Argument, Compiled, Taken, compile_program, emit_program, fitting, load_entry
from ssmc.errors import ToolchainError, Unsupported, UserError
from ssmc.ir import Program
from ssmc.ir.loops import Halved, Limits
from ssmc.passes import PlanOptions

from .gpu import Launcher, architecture_for, checked, driver, limits_of
from .tiles import TileLauncher, load_kernels, taken

DEVICES = ("cpu", "cuda")
Entry = Callable[..., int]


class Machine(Protocol):
    """What compiles Programs for the tensors of one device, and calls the result."""

    @property
    def target(self) -> str: ...
    def key_parts(self) -> Mapping[str, str]:
        """What machine code depends on besides the Program; parts of a cache key."""
        ...

    def about(self) -> tuple[str, str]:
        """What results of tuning hold for: the device, and its tools."""
        ...

    def compile(
        self, program: Program, storage: Mapping[str, str], sizes: Mapping[str, int], cache: Cache,
        outputs: Mapping[str, str], options: PlanOptions,
    ) -> Compiled:  # fmt: skip
        """As ``compile_program``."""
        ...

    def entry(self, library: Path, made: Mapping[str, Any]) -> Entry:
        """What runs a library, of packed pointers, extents and strides, and a number of threads; ``made`` describes
        the library: ``symbol``, ``launches``, ``programs``, ``axes``, ``fixed``, ``arguments``."""
        ...


class Machines(Protocol):
    """The machines that there are. ``target``: what kernels are made of, if only that is wanted."""

    @property
    def target(self) -> str: ...
    def of(self, device: torch.device) -> Machine:
        """The machine for tensors on that device; UserError or ToolchainError if nothing compiles for it."""
        ...

    def choosing(self, target: str) -> Machines:
        """The same machines, where kernels are made of nothing but that."""
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

    def about(self) -> tuple[str, str]:
        found, threads = toolchain.find(), torch.get_num_threads()
        return f"{toolchain.cpu_name()}, {threads} threads", f"{found.kind} {found.version} {' '.join(found.flags)}"

    def compile(
        self, program: Program, storage: Mapping[str, str], sizes: Mapping[str, int], cache: Cache,
        outputs: Mapping[str, str], options: PlanOptions,
    ) -> Compiled:  # fmt: skip
        return compile_program(program, self.target, storage, sizes, options, cache, outputs)

    def entry(self, library: Path, made: Mapping[str, Any]) -> Entry:
        return load_entry(library, made["symbol"])


@dataclass(frozen=True)
class Gpu(Processor):
    """An NVIDIA GPU: CUDA C, by a CUDA compiler, launched through the driver."""

    target: str = "cuda"
    number: int = 0
    limits: Limits = TARGETS["cuda"].limits

    def key_parts(self) -> Mapping[str, str]:
        return {**cuda_toolchain.find().key_parts(target_named(self.target).architecture), "limits": repr(self.limits)}

    def compile(
        self, program: Program, storage: Mapping[str, str], sizes: Mapping[str, int], cache: Cache,
        outputs: Mapping[str, str], options: PlanOptions,
    ) -> Compiled:  # fmt: skip
        """A plan that fits this very GPU, which may offer less than others of its architecture."""
        return compile_program(program, self.target, storage, sizes, options, cache, outputs, self.limits)

    def about(self) -> tuple[str, str]:
        found, version = cuda_toolchain.find(), checked(driver(), "cuDriverGetVersion")
        return torch.cuda.get_device_name(self.number), f"driver {version}, {found.kind} {found.version}"

    def entry(self, library: Path, made: Mapping[str, Any]) -> Entry:
        """Kernels belong to the context of their GPU, which has to be PyTorch's current one while they are launched."""
        with torch.cuda.device(self.number):
            zeros = functools.partial(torch.zeros, dtype=torch.int32, device=torch.device("cuda", self.number))
            launch = launcher(library.read_bytes(), made, self.number, self._stream, driver(), zeros)

        def on_this_gpu(pointers: bytes, meta: bytes, threads: int) -> int:
            with torch.cuda.device(self.number):
                return launch(pointers, meta, threads)

        return on_this_gpu

    def _stream(self) -> int:
        return torch.cuda.current_stream(self.number).cuda_stream


def launcher(
    cubin: bytes, made: Mapping[str, Any], number: int, stream: Callable[[], int], functions: Any,
    zeros: Callable[[int], torch.Tensor],
) -> Launcher:  # fmt: skip
    """The entry of a cubin that ``made`` describes."""
    launches = [Launch(**{**item, "grid": tuple(item["grid"])}) for item in made["launches"]]
    numbers = len(made["axes"]) + sum(len(axes) for _, axes, *_ in made["arguments"])
    return Launcher(cubin, launches, made["axes"], made["fixed"], numbers, number, stream, functions, zeros)


@dataclass(frozen=True)
class TritonGpu(Processor):
    """A GPU: Triton, compiled by Triton when it is launched."""

    target: str = "triton"
    number: int = 0

    def key_parts(self) -> Mapping[str, str]:
        """Triton keeps machine code in a cache of its own; what is kept here is which plan fits which GPU."""
        return {"compiler": f"triton {triton_toolchain.find().version}", "gpu": torch.cuda.get_device_name(self.number)}

    def about(self) -> tuple[str, str]:
        """Asked of PyTorch, since nothing else here needs cuda-bindings."""
        version = torch.version.hip or torch._C._cuda_getDriverVersion()  # type: ignore[attr-defined]
        return torch.cuda.get_device_name(self.number), f"driver {version}, triton {triton_toolchain.find().version}"

    def compile(
        self, program: Program, storage: Mapping[str, str], sizes: Mapping[str, int], cache: Cache,
        outputs: Mapping[str, str], options: PlanOptions,
    ) -> Compiled:  # fmt: skip
        """A plan that fits the GPU, as Triton finds."""

        def made(halved: Halved) -> Compiled:
            return emit_program(program, self.target, storage, sizes, options, cache, outputs, halved)

        return fitting(made, self.taken, options, TARGETS[self.target], f"{program.name} on cuda:{self.number}")

    def taken(self, made: Compiled) -> list[Taken]:
        """What kernels take of the GPU."""
        with torch.cuda.device(self.number):
            return taken(load_kernels(made.text), made.programs)

    def entry(self, library: Path, made: Mapping[str, Any]) -> Entry:
        """Triton launches on PyTorch's current device and stream: the device is that of the tensors meanwhile."""
        device = torch.device("cuda", self.number)
        allocate = functools.partial(torch.empty, dtype=torch.int8, device=device)
        launch = tile_launcher(load_kernels(library), made, allocate)

        def on_this_gpu(pointers: bytes, meta: bytes, threads: int) -> int:
            with torch.cuda.device(self.number):
                return launch(pointers, meta, threads)

        return on_this_gpu


def tile_launcher(kernels: Any, made: Mapping[str, Any], allocate: Callable[[int], torch.Tensor], **how: Any) -> Entry:
    """The entry of a text of Triton kernels that ``made`` describes."""
    arguments = [Argument(name, tuple(axes), *rest) for name, axes, *rest in made["arguments"]]
    launches = [tile_launch(facts) for facts in made["programs"]]
    return TileLauncher(kernels, launches, arguments, made["axes"], made["fixed"], allocate, **how)


@dataclass(frozen=True)
class ThisMachine:
    """The CPU and the GPUs of this machine; ``target``: what kernels are made of, if the user says so."""

    target: str = ""

    def of(self, device: torch.device) -> Machine:
        return _machine_of(device, self.target or ("" if device.type == "cpu" else _usual_target()))

    def choosing(self, target: str) -> ThisMachine:
        if target not in TARGETS:
            raise UserError(
                f"unknown target {target!r}",
                expected=" or ".join(TARGETS),
                hint="the architecture is that of the GPU that the tensors are on" if ":" in target else "",
            )
        return ThisMachine(target)

    def device_of(self, target: str) -> str:
        reason = reason_against(target)
        if reason:
            raise Unsupported(f"target {target!r} cannot run here: {reason}")
        return "cpu" if target.partition(":")[0] == "c" else "cuda"


def _usual_target() -> str:
    """What layers on GPUs run as if they say nothing, as far as the user says it."""
    found = os.environ.get("SSMC_GPU_TARGET", "")
    if found not in ("", "cuda", "triton"):
        raise UserError(f"SSMC_GPU_TARGET is {found!r}", expected="cuda or triton")
    return found


@functools.cache
def _machine_of(device: torch.device, target: str) -> Machine:
    if target and (target == "c") != (device.type == "cpu"):
        raise UserError(
            f"tensors are on {device}, and the layer was asked to run as {target!r}",
            expected="tensors on the CPU" if target == "c" else "tensors on a GPU",
            hint="without `target` a layer runs wherever its tensors are",
        )
    if device.type == "cpu":
        return Processor()
    number, amd = device.index or 0, torch.version.hip is not None
    if target == "triton" or (amd and not target):
        _architecture(number)
        return TritonGpu(number=number)
    if amd:
        raise ToolchainError(f"CUDA C does not run on {device}, an AMD GPU", hint="target='triton', or no target")
    return Gpu(f"cuda:{_architecture(number)}", number, limits_of(driver(), number))


def one_device(layer: str, names: Sequence[str], values: Sequence[torch.Tensor]) -> torch.device:
    """The device of all tensors of a call; UserError if they are on different ones."""
    found = {value.device: name for name, value in zip(names, values, strict=True)}
    if len(found) > 1:
        where = ", ".join(f"{name!r} on {device}" for device, name in found.items())
        raise UserError(f"{layer}: tensors on different devices: {where}", expected="all on one")
    return next(iter(found), torch.device("cpu"))


def devices() -> list[tuple[str, str, str]]:
    """Where tensors can live here: device, name, and the target that layers usually run as there, or why as none."""
    found = [("cpu", "", "c")]
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.device("cuda", number)
        try:
            usual = ThisMachine().of(device).target
        except ToolchainError as error:
            usual = f"nothing: {error.diagnostics[0].message}"
        found.append((str(device), torch.cuda.get_device_name(number), usual))
    return found


def reason_against(target: str) -> str:
    """Why this machine does not run the kernels of a target; empty if it does."""
    base, _, architecture = target.partition(":")
    if base == "c":
        return ""
    reason = lacking(base)
    if reason or not architecture:
        return reason
    here = {_architecture(number) for number in range(torch.cuda.device_count())}
    return "" if architecture in here else f"the GPUs here want {' and '.join(sorted(here))}"


def lacking(target: str) -> str:
    """Why this machine runs no kernels of that target on a GPU; empty if it does."""
    if not torch.cuda.is_available():
        build = torch.version.cuda or torch.version.hip
        return "PyTorch sees no GPU" if build else "this build of PyTorch is for the CPU only"
    if target == "cuda" and torch.version.hip is not None:
        return "the GPUs here are AMD's"
    try:
        if target == "triton":
            triton_toolchain.find()
        else:
            driver()
        for number in range(torch.cuda.device_count()):
            _architecture(number)
    except ToolchainError as error:
        return error.diagnostics[0].message
    return ""


def architecture_of(device: torch.device) -> str:
    """The architecture of a GPU here, as targets name it."""
    return _architecture(device.index or 0)


def _architecture(number: int) -> str:
    if torch.version.hip is not None:
        return str(torch.cuda.get_device_properties(number).gcnArchName).partition(":")[0]
    return architecture_for(torch.cuda.get_device_capability(number))
