"""A layer of your own, ``own_layer.ssm``: compiled, checked against its meaning, run in pieces and timed.

It is nonlinear, its equations need each other through time, every channel acts on every other, and a
short window follows. The compiler knows none of this by name.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import ssmc
from ssmc.ir.interpret import interpret

BATCH, LENGTH, CHANNELS, TAPS = 2, 512, 128, 4


def eager(x, leak, slow, M, w):  # type: ignore[no-untyped-def]
    """The same equations in PyTorch, one step after another."""
    v = s = a = torch.zeros_like(x[:, 0])
    fired = []
    for x_t in x.unbind(1):
        v, a = leak * v * (1 - s) + x_t + s @ M.T, slow * a + (1 - slow) * s
        s = torch.sigmoid(4 * (v - a))
        fired.append(s)
    s = F.pad(torch.stack(fired, 2), (TAPS - 1, 0))
    return F.conv1d(s, w.flip(1)[:, None], groups=CHANNELS).mT


def in_pieces(op: ssmc.Layer, inputs: dict[str, torch.Tensor], prompt: int) -> torch.Tensor:
    """The prompt at once, then token by token with the state that came out of it."""
    x, rest = inputs["x"], {name: value for name, value in inputs.items() if name != "x"}
    y, state = op(x[:, :prompt], **rest, return_state=True)
    pieces = [y]
    for t in range(prompt, LENGTH):
        y, state = op(x[:, t : t + 1], **rest, state=state, return_state=True)
        pieces.append(y)
    return torch.cat(pieces, 1)


def milliseconds(run: Callable[[], object], times: int) -> float:
    """Median wall time of one call."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e3


def main() -> None:
    """Compile, check, time."""
    draw = torch.Generator().manual_seed(0)
    inputs = {
        "x": torch.randn(BATCH, LENGTH, CHANNELS, generator=draw),
        "leak": 0.5 + 0.49 * torch.rand(CHANNELS, generator=draw),
        "slow": 0.9 + 0.09 * torch.rand(CHANNELS, generator=draw),
        "M": -torch.rand(CHANNELS, CHANNELS, generator=draw) / CHANNELS,
        "w": torch.rand(CHANNELS, TAPS, generator=draw) / TAPS,
    }
    op = ssmc.load(Path(__file__).with_name("own_layer.ssm"))
    y = op(**inputs)
    exact = interpret(op.program(present=list(inputs)), {k: v.double().numpy() for k, v in inputs.items()})["y"]
    pieces = in_pieces(op, inputs, LENGTH // 2)
    ours, theirs = milliseconds(lambda: op(**inputs), 15), milliseconds(lambda: eager(**inputs), 5)

    print(f"{op.name}: batch {BATCH}, length {LENGTH}, {CHANNELS} channels, {TAPS} taps, float32\n")
    print("                                 ms  largest difference from the float64 interpreter")
    print(f"ssmc, all at once          {ours:8.2f}  {np.abs(y.numpy() - exact).max():.1e}")
    print(f"ssmc, half token by token            {np.abs(pieces.numpy() - exact).max():.1e}")
    print(f"eager PyTorch              {theirs:8.2f}  {np.abs(eager(**inputs).numpy() - exact).max():.1e}")


if __name__ == "__main__":
    with torch.no_grad():
        main()
