"""Emitted Triton on a host: run program after program, on memory of this process.

A test tool. Either Triton's interpreter runs it, or, quickly and without Triton, ``language`` does. The interpreter
is there for functions that are decorated while ``TRITON_INTERPRET`` is set, its own included; ``repair`` sees to those,
and to what it does otherwise than a GPU.
"""

from __future__ import annotations

import ctypes
import importlib.util
import struct
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssmc.backends import Parameter
from ssmc.backends.triton_kernel import POINTERS
from ssmc.compiler import Stages
from tests.triton_host.plain import Memory, plain, quickly_launched


def load(text: str, plainly: bool = True) -> Any:
    """The module of a text, for the interpreter. ``plainly``: kernels are called by ``launched``, not by ``[grid]``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        repair()
        return _loaded(text, plainly)


def _loaded(text: str, plainly: bool) -> Any:
    path = Path(tempfile.mkdtemp(prefix="ssmc-test-")) / f"kernels_{uuid.uuid4().hex}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # What kernels call is called plainly: the interpreter would prepare the whole language again for each call.
    for name, function in list(vars(module).items()):
        if hasattr(function, "rewrite") and (plainly or not name.startswith("ssmc_k")):
            plain = function.rewrite()
            plain.fn = plain  # where reductions look for what combines
            setattr(module, name, plain)
    return module


def entry(stages: Stages, quickly: bool = False) -> Callable[[object, object, int], int]:
    """What the entry of a C library is: a function of pointers, extents and strides. ``quickly``: not by Triton."""
    module = plain(stages.text) if quickly else load(stages.text)
    count = len(stages.axes) + sum(len(a.axes) for a in stages.arguments)

    def run(pointers: Any, meta: object, threads: int) -> int:
        numbers = struct.unpack(f"{count}q", bytes(meta))
        extents: Mapping[str, int] = {**stages.plan.fixed, **dict(zip(stages.axes, numbers, strict=False))}
        given = _Given(stages, extents, pointers, list(numbers[len(stages.axes) :]))
        for launch in stages.programs:
            for first, programs in launch.pieces(extents):
                own = (ctypes.c_char * max(1, launch.memory * (first + programs)))()
                memory = Memory(ctypes.addressof(own), "i8", len(own))
                arguments = [given.argument(p, memory, first) for p in launch.parameters]
                (quickly_launched if quickly else launched)(getattr(module, launch.kernel), programs, arguments)
        return 0

    return run


class _Given:
    """What one call gives to the parameters of kernels."""

    def __init__(self, stages: Stages, extents: Mapping[str, int], pointers: Any, strides: list[int]) -> None:
        self.extents = extents
        self.strides: dict[tuple[str, ...], int] = {}
        self.tensors: dict[str, Memory] = {}
        for number, argument in enumerate(stages.arguments):
            last = 0
            for axis in argument.axes:
                stride = strides.pop(0)
                self.strides[argument.name, axis] = stride
                last += (extents[axis] - 1) * stride
            pairs = 2 if argument.storage in ("c64", "c128") else 1
            count = 0 if any(extents[a] == 0 for a in argument.axes) else pairs * (last + 1)
            self.tensors[argument.name] = Memory(pointers[number], POINTERS[argument.storage], count)

    def argument(self, p: Parameter, memory: Memory, first: int) -> Any:
        match p.kind:
            case "pointer":
                return self.tensors[p.of[0]]
            case "memory":
                return memory
            case "stride":
                return self.strides[p.of]
            case "extent":
                return self.extents[p.of[0]]
        return first


def launched(kernel: Any, programs: int, given: list[Any]) -> None:
    """Run all programs of one kernel."""
    import triton.language as tl
    from triton.runtime import interpreter as own

    def converted(item: Any) -> Any:
        if isinstance(item, Memory):
            type = tl.str_to_ty(f"*{item.type}", None)
            return tl.tensor(own.TensorHandle(np.array([item.address], np.uint64), type), type)
        return tl.tensor(own.TensorHandle(np.array([item], np.int64), tl.int64), tl.int64)

    scope = own._patch_lang(kernel)
    try:
        own.interpreter_builder.set_grid_dim(programs, 1, 1)
        arguments = [converted(item) for item in given]
        for program in range(programs):
            own.interpreter_builder.set_grid_idx(program, 0, 0)
            with np.errstate(all="ignore"):
                kernel(*arguments)
    finally:
        if scope is not None:
            scope.restore()


def repair() -> None:
    """Put right what the interpreter does otherwise than a GPU: a comparison is a condition, not a number of its
    operands' type; storing as bfloat16 rounds to nearest, ties to even, from whatever precision. Where Triton was
    imported to compile, its library is made over for the interpreter."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder, TensorHandle
    from triton.runtime.jit import JITFunction

    if hasattr(InterpreterBuilder, "repaired_by_ssmc"):
        return
    made: dict[int, Any] = {}
    for module in (tl, tl.standard, tl.core, tl.math):
        for name, item in list(vars(module).items()):
            if isinstance(item, JITFunction):
                setattr(module, name, made.setdefault(id(item), InterpretedFunction(item.fn)))
    for name in [n for n in dir(InterpreterBuilder) if n.startswith(("create_icmp", "create_fcmp"))]:
        setattr(InterpreterBuilder, name, _as_condition(getattr(InterpreterBuilder, name)))
    cast = InterpreterBuilder.cast_impl

    def cast_impl(self: Any, source: Any, type: Any) -> Any:
        if type.scalar == tl.bfloat16 and source.dtype.scalar in (tl.float32, tl.float64):
            return TensorHandle(_bf16(source.data), tl.bfloat16)
        return cast(self, source, type)

    InterpreterBuilder.cast_impl = cast_impl
    InterpreterBuilder.create_fp_trunc = cast_impl
    InterpreterBuilder.repaired_by_ssmc = True


def _as_condition(compare: Callable[..., Any]) -> Callable[..., Any]:
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    return lambda self, left, right: TensorHandle(compare(self, left, right).data, tl.int1)


def _bf16(numbers: np.ndarray) -> np.ndarray:
    bits = np.asarray(numbers, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(numbers), np.uint16(0x7FC0), rounded)
