"""A machine that runs Triton on tensors of this host: PyTorch's operators then run kernels by Triton's interpreter.

What the runtime does is what it does on a GPU, ``kernel[grid](...)`` included; only that kernels are loaded for the
interpreter, and are given tensors on the memory whose addresses a GPU's kernels are given.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from ssmc.compiler import Compiled
from ssmc.errors import Unsupported
from ssmc.runtime import Layer
from ssmc.runtime.machines import Entry, TritonGpu, tile_launcher
from ssmc.runtime.operator import operator_of
from ssmc.runtime.stored import StoredSource
from tests.triton_host import host


def tensor_at(address: int, dtype: torch.dtype, count: int) -> torch.Tensor:
    """A tensor on memory of this process."""
    if not count:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer((ctypes.c_char * (count * dtype.itemsize)).from_address(address), dtype=dtype)


@dataclass(frozen=True)
class InterpretedGpu(TritonGpu):
    """A GPU that is this host."""

    def excess(self, made: Compiled) -> str:
        return ""

    def entry(self, library: Path, made: Mapping[str, Any]) -> Entry:
        def allocate(size: int) -> torch.Tensor:
            return torch.full((size,), -1, dtype=torch.int8)

        kernels = host.load(library.read_text(), plainly=False)
        launch = tile_launcher(kernels, made, allocate, pointer=tensor_at)

        def on_host(pointers: bytes, meta: bytes, threads: int) -> int:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("TRITON_INTERPRET", "1")
                return launch(pointers, meta, threads)

        return on_host


@dataclass(frozen=True)
class InterpretedMachines:
    """Only the host as a device for Triton."""

    gpu: InterpretedGpu = field(default_factory=InterpretedGpu)

    def of(self, device: torch.device) -> InterpretedGpu:
        return self.gpu

    def choosing(self, target: str) -> InterpretedMachines:
        return self

    def device_of(self, target: str) -> str:
        if target != "triton":
            raise Unsupported(f"target {target!r} is not looked at")
        return "cpu"


def interpreted(layer: Layer) -> Layer:
    """The same layer, run as Triton on this host."""
    source: Any = layer._operator.source
    texts, asked, read = source.made_of
    return Layer(operator_of(StoredSource(texts, asked, read, InterpretedMachines())), layer.statics)
