"""Triton kernels, launched through Triton on PyTorch's current stream.

A ``TileLauncher`` is to the text of Triton kernels what the entry is to a C library: a function of packed pointers,
extents and strides. Triton compiles a kernel when it is launched for the first time, and again only for memory that
begins at other than multiples of 16 bytes and for last strides other than 1; never for other lengths.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ssmc.backends import Parameter, TileLaunch
from ssmc.compiler import Argument, Taken, planned
from ssmc.errors import TooLarge, ToolchainError

from .gpu import PLANS_KEPT

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16,
          "i64": torch.int64, "i32": torch.int32, "i8": torch.int8}  # fmt: skip


class Address:
    """A place in a GPU's memory, as Triton takes a tensor: by its dtype and where it begins."""

    __slots__ = ("dtype", "place")

    def __init__(self, place: int, dtype: torch.dtype, count: int) -> None:
        self.place, self.dtype = place, dtype

    def data_ptr(self) -> int:
        return self.place


def load_kernels(text: Path) -> Any:
    """The module of a text of Triton kernels.

    Raises ToolchainError if Triton is not there, or would interpret kernels instead of compiling them.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise ToolchainError(
            "TRITON_INTERPRET is set, so that Triton interprets kernels; they are launched on a GPU here",
            hint="unset TRITON_INTERPRET",
        )
    spec = importlib.util.spec_from_file_location(f"ssmc_{text.parent.name}", text)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise ToolchainError(f"Triton cannot be used: {error}", hint="pip install 'ssmc[gpu]'") from error
    return module


class TileLauncher:
    """The entry of a text of Triton kernels; see ``docs/architecture.md``.

    Args:
        kernels: the module of the text.
        launches: its kernels, in the order in which they run.
        arguments: tensors in the order of the pointers.
        axes: axes whose extents are passed, in order.
        fixed: extents that are compiled in.
        allocate: gives so many bytes of memory of the device.
        pointer: makes what a kernel takes for a tensor, of its address, dtype and number of elements.

    Raises, when it is called, TooLarge if a kernel takes more than the GPU has, and ToolchainError with what Triton
    says if it cannot compile or launch one.
    """

    def __init__(
        self,
        kernels: Any,
        launches: Sequence[TileLaunch],
        arguments: Sequence[Argument],
        axes: Sequence[str],
        fixed: Mapping[str, int],
        allocate: Callable[[int], torch.Tensor],
        pointer: Callable[[int, torch.dtype, int], Any] = Address,
    ) -> None:
        self._kernels = [(launch, getattr(kernels, launch.kernel)) for launch in launches]
        self._arguments, self._axes, self._fixed = tuple(arguments), tuple(axes), dict(fixed)
        self._allocate, self._pointer = allocate, pointer
        self._places = struct.Struct(f"{len(self._arguments)}P")
        self._plans: dict[bytes, list[_Planned]] = {}

    def __call__(self, pointers: bytes, meta: bytes, threads: int) -> int:
        """Launch all kernels. ``pointers`` and ``meta`` are packed as a C entry takes them; gives 0."""
        plan = self._plans.get(meta)
        if plan is None:
            if len(self._plans) >= PLANS_KEPT:
                self._plans.clear()
            plan = self._plans[meta] = self._planned(meta)
        places = self._places.unpack(pointers)
        for item in plan:
            given = list(item.given)
            for at, number, dtype, count in item.pointers:
                given[at] = self._pointer(places[number], dtype, count)
            if item.memory is not None:
                at, size = item.memory
                given[at] = self._allocate(size)
            with reported(item.launch.kernel):
                item.kernel[(item.programs,)](*given, **item.options)
        return 0

    def _planned(self, meta: bytes) -> list[_Planned]:
        """The launches that these extents and strides take."""
        numbers = list(struct.unpack(f"{len(meta) // 8}q", meta))
        extents = {**self._fixed, **dict(zip(self._axes, numbers, strict=False))}
        del numbers[: len(self._axes)]
        strides: dict[tuple[str, ...], int] = {
            (a.name, axis): numbers.pop(0) for a in self._arguments for axis in a.axes
        }
        return [
            _Planned(kernel, launch, first, programs, self._arguments, extents, strides)
            for launch, kernel in self._kernels
            for first, programs in launch.pieces(extents)
        ]


class _Planned:
    """One launch: what is known before addresses are."""

    def __init__(
        self, kernel: Any, launch: TileLaunch, first: int, programs: int, arguments: Sequence[Argument],
        extents: Mapping[str, int], strides: Mapping[tuple[str, ...], int],
    ) -> None:  # fmt: skip
        self.kernel, self.launch, self.programs, self.options = kernel, launch, programs, options_of(launch)
        self.pointers: list[tuple[int, int, torch.dtype, int]] = []
        self.memory: tuple[int, int] | None = None
        self.given: list[Any] = []
        numbers = {argument.name: number for number, argument in enumerate(arguments)}
        for at, p in enumerate(launch.parameters):
            match p.kind:
                case "stride":
                    self.given.append(strides[p.of])
                case "extent":
                    self.given.append(extents[p.of[0]])
                case "first":
                    self.given.append(first)
                case _:
                    self.given.append(None)
            if p.kind == "pointer":
                number = numbers[p.of[0]]
                self.pointers.append((at, number, dtype_of(p), elements(arguments[number], extents, strides)))
            elif p.kind == "memory":
                self.memory = at, launch.memory * (first + programs)


def dtype_of(parameter: Parameter) -> torch.dtype:
    """The dtype of what a pointer points to."""
    return DTYPES[parameter.type.removeprefix("*")]


def elements(argument: Argument, extents: Mapping[str, int], strides: Mapping[tuple[str, ...], int]) -> int:
    """How many numbers lie between a tensor's first and its last, both included."""
    if any(extents[axis] == 0 for axis in argument.axes):
        return 0
    last = sum((extents[axis] - 1) * strides[argument.name, axis] for axis in argument.axes)
    return (last + 1) * (2 if argument.storage in ("c64", "c128") else 1)


def taken(kernels: Any, launches: Sequence[TileLaunch]) -> list[Taken]:
    """What each kernel takes of the present GPU. Triton compiles it as for tensors in new memory, and remembers."""
    found = []
    for launch in launches:
        given = [Address(0, dtype_of(p), 0) if p.type[0] == "*" else 1 for p in launch.parameters]
        excess, spilled = "", 0
        try:
            with reported(launch.kernel):
                made = getattr(kernels, launch.kernel).warmup(*given, grid=(1,), **options_of(launch))
                _ = made.run  # with it, the machine code is loaded
                spilled = made.n_spills
        except TooLarge as error:
            excess = error.diagnostics[0].message
        found.append(Taken(planned(launch.kernel), excess, spilled))
    return found


def options_of(launch: TileLaunch) -> dict[str, Any]:
    """What Triton is told beside arguments; fusing is said because versions differ in what is usual."""
    return {"num_warps": launch.warps, "enable_fp_fusion": True}


@contextlib.contextmanager
def reported(kernel: str) -> Iterator[None]:
    """What Triton says if it cannot compile or launch a kernel: TooLarge if that takes more than the GPU has, else
    ToolchainError."""
    from triton.errors import TritonError
    from triton.runtime.errors import OutOfResources

    try:
        yield
    except OutOfResources as error:
        raise TooLarge(f"{kernel} takes {error.required} of {error.name}; the GPU has {error.limit}") from error
    except (TritonError, RuntimeError) as error:
        said = "\n    ".join(str(error).strip().splitlines()[-5:]) or type(error).__name__
        raise ToolchainError(f"Triton cannot launch {kernel}: {said}") from error
