"""What several tables have in common: outputs, gradients, and contestants from JAX and mambapy."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Contestant, Output

THREADS = 2

# A layer as a function of a tuple of its inputs by name and, if somebody has made one, a place for its output.
Formulation = Callable[..., torch.Tensor]


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


def cotangent(like: torch.Tensor) -> torch.Tensor:
    """What comes back to an output: normal values."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(1))


def written(make: Callable[[], Formulation], inputs: Any, gigabytes: float = 0.0) -> Contestant:
    """A formulation that goes forward, into an output made beforehand if it can; takes so much memory."""
    need_memory(gigabytes)
    layer, out = make(), torch.empty_like(inputs.x)
    return Contestant(lambda: layer(inputs, out))


def trained(make: Callable[[], Formulation], inputs: Any, dy: torch.Tensor, gigabytes: float = 0.0) -> Contestant:
    """The same, forward and backward: the output and the gradients of all inputs, by autograd."""
    need_memory(gigabytes)
    layer, leaves = make(), type(inputs)(*(v.detach().requires_grad_() for v in inputs))

    def call() -> tuple[torch.Tensor, ...]:
        with torch.enable_grad():
            y = layer(leaves)
            return (y.detach(), *torch.autograd.grad(y, leaves, dy))

    return Contestant(call)


def jax_contestant(make: Callable[[Any], Callable[..., Any]], *inputs: torch.Tensor, note: str = "") -> Contestant:
    """A jitted function on JAX's own copies of the inputs; ``make(jax)`` returns the function.

    Raises ImportError without JAX.
    """
    import jax

    function = jax.jit(make(jax))
    arrays = [jax.device_put(v.numpy(), jax.devices("cpu")[0]) for v in inputs]

    def call() -> Output:
        made = jax.block_until_ready(function(*arrays))
        return tuple(map(torch.from_dlpack, made)) if isinstance(made, tuple) else torch.from_dlpack(made)

    return Contestant(call, note)


def jax_trained(
    make: Callable[[Any], Callable[..., Any]], inputs: Sequence[torch.Tensor], dy: torch.Tensor, note: str = ""
) -> Contestant:
    """The output and the gradients of all inputs, by ``jax.vjp`` of the same function."""

    def both(jax: Any) -> Callable[..., Any]:
        layer = make(jax)

        def function(seed: Any, *values: Any) -> Any:
            y, pull = jax.vjp(layer, *values)
            return (y, *pull(seed))

        return function

    return jax_contestant(both, dy, *inputs, note=note)


def mambapy_scan() -> Callable[..., torch.Tensor]:
    """mambapy's parallel scan h[t] = a[t] h[t-1] + x[t] over axis 1 of (batch, time, channels, states)."""
    from mambapy.pscan import pscan  # type: ignore[import-untyped, unused-ignore]

    return pscan
