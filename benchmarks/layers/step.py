"""One token at the width of Mamba-130m: the layer's call, a plain call of the same C function, and PyTorch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

import ssmc
from benchmarks.layers import conv1d, selective_scan
from benchmarks.peers import THREADS
from benchmarks.timing import Case, Contestant, Entry, Goal, Output
from ssmc.compiler import Compiled, compile_program

CHANNELS = 1536
BEFORE = 8  # tokens that made the state
CALLS = 200  # timed at a time: one is shorter than what the clock and the system's counters can tell apart

# Inputs by name: those that every call gives, and the optional ones.
Given = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]


def scan_inputs() -> Given:
    i = selective_scan.make_inputs(1, BEFORE + 1, CHANNELS)
    return {"x": i.x, "dt": i.dt, "A": i.A, "B": i.B, "C": i.C}, {"D": i.D, "z": i.z, "dt_bias": i.bias}


def scan_step(x: Any, dt: Any, A: Any, B: Any, C: Any, D: Any, z: Any, bias: Any, h: Any) -> tuple[Any, Any]:
    """PyTorch: one step of the selective scan from the state h (b, 1, d, n)."""
    delta = F.softplus(dt[:, 0] + bias)
    new = torch.exp(delta[:, :, None] * A) * h[:, 0] + (delta * x[:, 0])[:, :, None] * B[:, 0, None]
    return ((new @ C[:, 0, :, None])[:, :, 0] + x[:, 0] * D) * F.silu(z[:, 0]), new


def conv_inputs() -> Given:
    x, w, bias = conv1d.make_inputs(1, BEFORE + 1, CHANNELS)
    return {"x": x, "w": w}, {"bias": bias}


def conv_step(x: Any, w: Any, bias: Any, before: Any) -> tuple[Any, Any]:
    """PyTorch: the window of the last tokens, (b, k - 1, d), moves on by one."""
    window = torch.cat([before, x], 1)
    return F.silu((window * w.T).sum(1) + bias), window[:, 1:]


def plain_call(compiled: Compiled, known: dict[str, torch.Tensor], results: Sequence[torch.Tensor]) -> Contestant:
    """A call of the entry with everything prepared: what no wrapper can be faster than.

    Args:
        compiled: a library.
        known: its inputs by name, those of the state with ``.state`` behind the name.
        results: tensors like its outputs, in their order.
    """
    outputs = tuple(torch.empty_like(v) for v in results)
    made = iter(outputs)
    tensors = [known[a.name] if a.role == "input" else next(made) for a in compiled.arguments]
    extents = {
        axis: size
        for argument, v in zip(compiled.arguments, tensors, strict=True)
        for axis, size in zip(argument.axes, v.shape, strict=True)
    }
    numbers = [extents[axis] for axis in compiled.axes] + [stride for v in tensors for stride in v.stride()]
    addresses = (ctypes.c_void_p * len(tensors))(*[v.data_ptr() for v in tensors])
    sizes = (ctypes.c_int64 * len(numbers))(*numbers)
    entry = compiled.entry

    def call() -> Output:
        assert tensors  # kept: the entry has but their addresses
        entry(addresses, sizes, THREADS)
        return outputs

    return Contestant(call, f"{len(tensors)} pointers, prepared")


def case(
    title: str, sizes: dict[str, int], layer: Any, inputs: Callable[[], Given], eager: Callable[..., Output]
) -> Case:
    """One table; ``eager`` takes the layer's inputs and state and returns the output and the next state."""

    def setup() -> tuple[Output, list[Entry]]:
        positional, optional = inputs()
        _, state = layer(
            *_tokens(positional, slice(BEFORE)).values(), **_tokens(optional, slice(BEFORE)), return_state=True
        )
        known, named = _tokens(positional, slice(BEFORE, None)), _tokens(optional, slice(BEFORE, None))
        args, every = [*known.values()], [*known.values(), *named.values(), *state.values]

        def ours() -> Output:
            y, new = layer(*args, **named, state=state, return_state=True)
            return (y, *new.values)

        def plain() -> Contestant:
            program = layer.program(present=list(named), takes_state=True, returns_state=True)
            held = {f"{name}.state": value for name, value in state.tensors.items()}
            return plain_call(compile_program(program, sizes=sizes), {**known, **named, **held}, ours())

        entries = [
            Entry("ctypes", plain),
            Entry("ssmc", lambda: Contestant(ours)),
            Entry("PyTorch", lambda: Contestant(lambda: eager(*every))),
        ]
        return eager(*(v.double() for v in every)), entries

    goals = Goal("ssmc", seconds=60e-6), Goal("ssmc", ("ctypes",), seconds=15e-6)
    return Case(title, sizes, setup, goals=goals, calls=CALLS, unit="µs")


def _tokens(given: dict[str, torch.Tensor], time: slice) -> dict[str, torch.Tensor]:
    """The same of some tokens: inputs of three axes have time as their second."""
    return {name: v[:, time] if v.dim() == 3 else v for name, v in given.items()}


def cases(quick: bool) -> list[Case]:
    sizes = {"b": 1, "t": 1, "d": CHANNELS}
    conv = ssmc.load("causal_conv1d", activation="silu")
    return [
        case(
            "one token of the selective scan, with state",
            {**sizes, "n": selective_scan.STATES},
            ssmc.load("selective_scan"),
            scan_inputs,
            scan_step,
        ),
        case("one token of the causal conv1d, with state", {**sizes, "k": conv1d.TAPS}, conv, conv_inputs, conv_step),
    ]
