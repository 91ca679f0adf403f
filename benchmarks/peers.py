"""What several tables have in common: outputs, and contestants from JAX and mambapy."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Contestant

THREADS = 2


def filling(function: Callable[[torch.Tensor], torch.Tensor], like: torch.Tensor, note: str = "") -> Contestant:
    """A contestant that writes its result into a tensor made beforehand."""
    out = torch.empty_like(like)
    return Contestant(lambda: function(out), note)


def need_memory(gigabytes: float) -> None:
    """Raise MemoryError unless twice that much is available."""
    available = math.inf
    with contextlib.suppress(OSError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1e6
    if available < 2 * gigabytes:
        raise MemoryError(f"takes about {gigabytes:.0f} GB")


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.compile`` of a function of tensors of one shape."""
    return torch.compile(function, fullgraph=True, dynamic=False)


def jax_contestant(make: Callable[[Any], Callable[..., Any]], *inputs: torch.Tensor, note: str = "") -> Contestant:
    """A jitted function on JAX's own copies of the inputs; ``make(jax)`` returns the function.

    Raises ImportError without JAX.
    """
    import jax

    function = jax.jit(make(jax))
    arrays = [jax.device_put(v.numpy(), jax.devices("cpu")[0]) for v in inputs]

    def call() -> torch.Tensor:
        return torch.from_dlpack(function(*arrays).block_until_ready())

    return Contestant(call, note)


def mambapy_scan() -> Callable[..., torch.Tensor]:
    """mambapy's parallel scan h[t] = a[t] h[t-1] + x[t] over axis 1 of (batch, time, channels, states)."""
    from mambapy.pscan import pscan  # type: ignore[import-untyped, unused-ignore]

    return pscan
