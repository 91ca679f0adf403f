"""Run a Program through the C target on NumPy arrays, for tests: no PyTorch, no cache."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ssmc.backends import default_storage, toolchain
from ssmc.compiler import Stages, load_entry, stages
from ssmc.ir import COMPLEX, INT, Program, bind_extents, complete_extents
from ssmc.ir.loops import Limits
from ssmc.passes import PlanOptions
from tests.cuda_host import host
from tests.triton_host import host as triton_host

NUMPY = {"f32": np.float32, "f64": np.float64, "c64": np.complex64, "c128": np.complex128, "i64": np.int64,
         "i32": np.int32, "b8": np.bool_, "f16": np.float16, "bf16": np.uint16}  # fmt: skip


class CompiledProgram:
    """One Program built for given inner extents and storage; called with a dict of arrays. ``fast`` builds it in
    a third of the time, with fewer of the C compiler's optimisations; ``before`` is C text to begin with. ``limits``
    are those of a GPU. ``target``
    may be another one than C: its kernels are then run by what stands for a device (``tests.cuda_host``,
    ``tests.triton_host``, which takes options)."""

    def __init__(
        self, program: Program, sizes: Mapping[str, int], real: str = "f64", options: PlanOptions | None = None,
        fast: bool = False, before: str = "", target: str = "c", limits: Limits | None = None, **how: bool,
    ) -> None:  # fmt: skip
        self.stages: Stages = stages(program, target, default_storage(program, real), sizes, options, None, limits)
        if target != "c":
            device = {"cuda": host, "triton": triton_host}[target]
            self.entry: Callable[..., int] = device.entry(self.stages, **how)
            return
        folder = Path(tempfile.mkdtemp(prefix="ssmc-test-"))
        self.library = toolchain.find().build(before + self.stages.text, folder, ["-O1"] if fast else [])
        self.entry = load_entry(self.library, self.stages.symbol)

    def __call__(self, inputs: Mapping[str, np.ndarray], threads: int = 1) -> dict[str, np.ndarray]:
        """Outputs by name. Memory that is to be written starts as NaN, so that gaps show."""
        sizes = bind_extents(self.stages.program, {k: v.shape for k, v in inputs.items()})
        arrays = []
        for a in self.stages.arguments:
            dtype = NUMPY[a.storage]
            if a.role == "input":
                given = np.asarray(inputs[a.name])
                given = bf16(given) if a.storage == "bf16" else given
                arrays.append(given if given.dtype == dtype else given.astype(dtype))
            else:
                fill = np.nan if np.issubdtype(dtype, np.inexact) else 0x7FC0 if a.storage == "bf16" else 1
                arrays.append(np.full([sizes[x] for x in a.axes], fill, dtype=dtype))
        meta = [sizes[x] for x in self.stages.axes]
        for array in arrays:
            meta += [s // array.itemsize for s in array.strides]
        pointers = (ctypes.c_void_p * len(arrays))(*[v.ctypes.data for v in arrays])
        assert self.entry(pointers, (ctypes.c_int64 * len(meta))(*meta), threads) == 0
        done = zip(self.stages.arguments, arrays, strict=True)
        return {a.name: from_bf16(v) if a.storage == "bf16" else v for a, v in done if a.role == "output"}


def bf16(array: np.ndarray) -> np.ndarray:
    """Finite numbers as bfloat16 has them, to nearest, ties to even: the bits."""
    bits = np.asarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """Numbers from their bits in bfloat16."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def random_inputs(program: Program, sizes: Mapping[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    """Normal numbers for every input; ints in 0 … 3, bools by the toss of a coin. What is called A, the
    rate of a state, has a negative real part, so that long sequences stay finite."""
    draw = np.random.default_rng(seed)
    sizes = complete_extents(program, sizes)
    found = {}
    for tensor in program.inputs:
        shape = [sizes[a] for a in tensor.axes]
        value = draw.standard_normal(shape)
        if tensor.dtype is COMPLEX:
            value = value + 1j * draw.standard_normal(shape)
        elif tensor.dtype is INT:
            value = draw.integers(0, 4, shape)
        elif tensor.dtype.value == "bool":
            value = value > 0
        if tensor.name == "A":
            value = value - value.real - np.abs(value.real)
        found[tensor.name] = np.asarray(value)
    return found
