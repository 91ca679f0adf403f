"""Hand-written kernels: what this machine can do, for emitted code to be held against.

Each takes float32 arrays in C order (NumPy arrays, or anything with ``ctypes.data``), writes its last one and
returns nothing. They take friendly inputs only: no strides, no tails, the layouts below.
"""

from __future__ import annotations

import ctypes
import functools
import tempfile
from pathlib import Path
from typing import Any

from ssmc.backends import toolchain

__all__ = ["build", "diagonal_ssm", "pack_diagonal", "rg_lru", "selective_scan"]

HERE = Path(__file__).resolve().parent


@functools.cache
def build(name: str) -> ctypes.CDLL:
    """The library of ``name.c``, compiled with the compiler and flags that emitted code is compiled with."""
    tools = toolchain.find()
    with tempfile.TemporaryDirectory(prefix="ceilings-") as folder:
        source = (HERE / f"{name}.c").read_text(encoding="utf-8")
        return ctypes.CDLL(str(tools.build(source, folder, [f"-I{HERE}"])))


def _pointers(*arrays: Any) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(a.ctypes.data) for a in arrays]


def selective_scan(
    u: Any, dt: Any, z: Any, A_log2e: Any, B: Any, C: Any, D: Any, y: Any, threads: int = 2, plain: bool = False
) -> None:
    """The selective scan with skip and gate, without softplus.

    Args:
        u, dt, z: (batch, length, channels); dt after softplus. Channels are a multiple of 16.
        A_log2e: (16, channels), times log2(e).
        B, C: (batch, length, 16).
        D: (channels,).
        y: the result, like u.
        threads: how many.
        plain: there is one kernel; taken so that a caller may pass it.
    """
    batch, length, channels = u.shape
    entry = build("selective_scan").selective_scan
    entry(threads, batch, length, channels, *_pointers(u, dt, z, A_log2e, B, C, D, y))


def rg_lru(x: Any, r: Any, i: Any, c_log2e: Any, h: Any, threads: int = 2) -> None:
    """RG-LRU from the pre-activations of its gates.

    Args:
        x, r, i: (length, channels). Channels are a multiple of 64.
        c_log2e: (channels,), -8 softplus(Lambda) log2(e).
        h: the result, like x, at an address that is a multiple of 64.
        threads: how many.
    """
    length, channels = x.shape
    build("rg_lru").rg_lru(threads, length, channels, *_pointers(x, r, i, c_log2e, h))


def diagonal_ssm(u: Any, params: Any, y: Any, threads: int = 2, blocked: bool = False) -> None:
    """The diagonal complex SSM with 32 complex states.

    Args:
        u: (length, channels). Channels are a multiple of 16, length of 128.
        params: (channels / 16, 32, 4, 16), from ``pack_diagonal``.
        y: the result, like u.
        threads: how many.
        blocked: take four steps at once, which is another algorithm with fewer operations.
    """
    length, channels = u.shape
    library = build("diagonal_ssm")
    entry = library.diagonal_ssm_blocked if blocked else library.diagonal_ssm
    entry(threads, length, channels, *_pointers(u, params, y))


def pack_diagonal(a: Any, c: Any) -> Any:
    """Poles a and output weights c, complex (channels, 32), as ``diagonal_ssm`` takes them: y = 2 Re(sum c h)."""
    import numpy as np

    channels, states = a.shape
    parts = np.stack([a.real, a.imag, 2 * c.real, 2 * c.imag], axis=-1).astype(np.float32)
    return np.ascontiguousarray(parts.reshape(channels // 16, 16, states, 4).transpose(0, 2, 3, 1))
