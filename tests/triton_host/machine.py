"""A machine that runs Triton on tensors of this host: PyTorch's operators then run kernels by Triton's interpreter.

What the runtime does is what it does on a GPU, ``kernel[grid](...)`` included; only that kernels are loaded for the
interpreter, and are given tensors on the memory whose addresses a GPU's kernels are given.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ssmc.compiler import Compiled, Taken
from ssmc.errors import Unsupported
from ssmc.runtime import Layer
from ssmc.runtime.machines import Entry, TritonGpu, tile_launcher
from ssmc.runtime.operator import operator_of
from ssmc.runtime.stored import StoredSource
from ssmc.runtime.tiles import DTYPES
from tests.triton_host import host
from tests.triton_host.plain import Memory, plain, quickly_launched


def tensor_at(address: int, dtype: torch.dtype, count: int) -> torch.Tensor:
    """A tensor on memory of this process."""
    if not count:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer((ctypes.c_char * (count * dtype.itemsize)).from_address(address), dtype=dtype)


@dataclass(frozen=True)
class InterpretedGpu(TritonGpu):
    """A GPU that is this host. ``quickly``: not by Triton's interpreter."""

    quickly: bool = False

    def key_parts(self) -> Mapping[str, str]:
        return {}

    def about(self) -> tuple[str, str]:
        return "this host", "no GPU"

    def taken(self, made: Compiled) -> list[Taken]:
        return [Taken(program.kernel, "", 0) for program in made.programs]

    def entry(self, library: Path, made: Mapping[str, Any]) -> Entry:
        if self.quickly:
            return tile_launcher(Quick(library.read_text()), made, empty, pointer=memory_at)

        kernels = host.load(library.read_text(), plainly=False)
        launch = tile_launcher(kernels, made, empty, pointer=tensor_at)

        def on_host(pointers: bytes, meta: bytes, threads: int) -> int:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("TRITON_INTERPRET", "1")
                return launch(pointers, meta, threads)

        return on_host


class Quick:
    """The kernels of a text, without Triton; each is called as Triton's are."""

    def __init__(self, text: str) -> None:
        self.kernels = plain(text)

    def __getattr__(self, name: str) -> Any:
        kernel = getattr(self.kernels, name)

        def launch(programs: int, *given: Any, **options: Any) -> None:
            found = [Memory(v.data_ptr(), "i8", v.numel()) if isinstance(v, torch.Tensor) else v for v in given]
            quickly_launched(kernel, programs, found)

        return type("Launch", (), {"__getitem__": lambda self, grid: partial(launch, *grid)})()


def empty(size: int) -> torch.Tensor:
    """Memory that holds no zeros."""
    return torch.full((size,), -1, dtype=torch.int8)


def memory_at(address: int, dtype: torch.dtype, count: int) -> Memory:
    names = {known: name for name, known in DTYPES.items()}
    return Memory(address, names[dtype], count)


@dataclass(frozen=True)
class InterpretedMachines:
    """Only the host as a device for Triton."""

    gpu: InterpretedGpu = field(default_factory=InterpretedGpu)
    target: str = "triton"

    def of(self, device: torch.device) -> InterpretedGpu:
        return self.gpu

    def choosing(self, target: str) -> InterpretedMachines:
        return self

    def device_of(self, target: str) -> str:
        if target != "triton":
            raise Unsupported(f"target {target!r} is not looked at")
        return "cpu"


def interpreted(layer: Layer, quickly: bool = False) -> Layer:
    """The same layer, run as Triton on this host."""
    source: Any = layer._operator.source
    texts, asked, read = source.made_of
    machines = InterpretedMachines(InterpretedGpu(quickly=quickly))
    return Layer(operator_of(StoredSource(texts, asked, read, machines)), layer.statics)
