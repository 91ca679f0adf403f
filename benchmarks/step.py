"""One token through the selective scan: the layer's call beside a plain call of the same C function."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

import ssmc
from benchmarks.layers.selective_scan import STATES, make_inputs
from benchmarks.peers import THREADS
from ssmc.compiler import Compiled, compile_program

CALLS = 200  # per timed batch


def one_token(d: int, rounds: int) -> list[dict[str, Any]]:
    """Microseconds per call, medians over ``rounds`` batches that take turns."""
    contestants = _contestants(d)
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for call in contestants.values():
        for _ in range(CALLS):
            call()
    for _ in range(rounds):
        for name, call in contestants.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            found[name].append((time.perf_counter() - start) / CALLS)
    return [{"name": n, "seconds": s, "median": statistics.median(s)} for n, s in found.items()]


def _contestants(d: int) -> dict[str, Callable[[], Any]]:
    i = make_inputs(1, 1, d)
    layer = ssmc.load("selective_scan")
    optional: dict[str, Any] = {"D": i.D, "z": i.z, "dt_bias": i.bias}
    sizes = {"b": 1, "t": 1, "d": d, "n": STATES}
    y, state = layer(i.x, i.dt, i.A, i.B, i.C, **optional, return_state=True)
    program = layer.program(present=list(optional), takes_state=True, returns_state=True)
    compiled = compile_program(program, sizes=sizes)
    tensors = dict(zip(("x", "dt", "A", "B", "C", "D", "z", "dt_bias"), i, strict=True)) | {"y": y}
    return {
        "ctypes": plain_call(compiled, _arguments(compiled, tensors, state.values, sizes), sizes),
        "ssmc": lambda: layer(i.x, i.dt, i.A, i.B, i.C, **optional, state=state, return_state=True),
        "PyTorch": lambda: _eager(i, state.values[0][:, 0]),
    }


def _arguments(
    compiled: Compiled, tensors: dict[str, torch.Tensor], states: Sequence[torch.Tensor], sizes: dict[str, int]
) -> list[torch.Tensor]:
    """A tensor for every argument of the entry: known by name, else a piece of state or new."""
    held, extents = iter(states), {**compiled.fixed, **sizes}
    found = []
    for argument in compiled.arguments:
        known = tensors.get(argument.name)
        if known is None and argument.role == "input":
            known = next(held).clone()
        found.append(torch.empty([extents[axis] for axis in argument.axes]) if known is None else known)
    return found


def plain_call(compiled: Compiled, tensors: Sequence[torch.Tensor], sizes: dict[str, int]) -> Callable[[], int]:
    """A call of the entry with everything prepared: what no wrapper can be faster than."""
    meta = [sizes[axis] for axis in compiled.axes] + [stride for v in tensors for stride in v.stride()]
    addresses = (ctypes.c_void_p * len(tensors))(*[v.data_ptr() for v in tensors])
    extents = (ctypes.c_int64 * len(meta))(*meta)
    entry, kept = compiled.entry, list(tensors)

    def call() -> int:
        assert kept
        return entry(addresses, extents, THREADS)

    return call


def _eager(i: Any, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    F = torch.nn.functional
    delta = F.softplus(i.dt[:, 0] + i.bias)
    new = torch.exp(delta[:, :, None] * i.A) * h + (delta * i.x[:, 0])[:, :, None] * i.B[:, 0, None]
    return ((new @ i.C[:, 0, :, None])[:, :, 0] + i.x[:, 0] * i.D) * F.silu(i.z[:, 0]), new
