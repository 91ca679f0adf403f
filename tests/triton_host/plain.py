"""Emitted Triton without Triton: its kernels on NumPy, by ``language``, on memory of this process. It needs no ssmc."""

from __future__ import annotations

import ctypes
import types
from typing import Any

import numpy as np

from tests.triton_host import language


class Memory:
    """A piece of this process's memory, as a kernel is given it: where it begins and how many elements it has."""

    def __init__(self, address: int, type: str, count: int) -> None:
        self.address, self.type, self.count = address, type, count

    def array(self) -> np.ndarray:
        """All of it."""
        dtype = np.dtype(language.TYPES[self.type])
        if not self.count:
            return np.empty(0, dtype)
        return np.frombuffer((ctypes.c_char * (self.count * dtype.itemsize)).from_address(self.address), dtype)


def plain(text: str) -> Any:
    """The module of a text, with ``language`` for Triton."""

    def jit(*functions: Any, **options: Any) -> Any:
        return functions[0] if functions else lambda function: function

    assert text.count("import triton\nimport triton.language as tl\n") == 1
    module = types.ModuleType("kernels")
    vars(module).update(triton=types.SimpleNamespace(jit=jit), tl=language)
    exec(compile(text.replace("import triton\nimport triton.language as tl\n", ""), "kernels", "exec"), vars(module))
    return module


def quickly_launched(kernel: Any, programs: int, given: list[Any]) -> None:
    """Run all programs of one kernel by ``language``."""
    arguments = [
        language.Pointer(item.array(), language.tile(0), item.type) if isinstance(item, Memory) else language.tile(item)
        for item in given
    ]
    with np.errstate(all="ignore"):
        for program in range(programs):
            language.number = program
            kernel(*arguments)
