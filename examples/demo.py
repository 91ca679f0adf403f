"""From equations to a kernel, and from kernels to a language model, on real text: what ``make demo`` shows.

Mamba's selective scan at the size of Mamba-130m's layers runs over the Python standard library's own
source code, first all at once, then token by token; it is checked against the float64 interpreter and
timed beside eager PyTorch. Then a small Mamba learns that text, in about two minutes (``train_bytes.py``).
"""

from __future__ import annotations

import statistics
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import train_bytes
import training

import ssmc
from ssmc.dsl import load_module
from ssmc.ir.interpret import interpret

LENGTH, CHANNELS, STATES, RANK, DECODED = 2048, 1536, 16, 48, 256


def real_text(count: int) -> bytes:
    """The first ``count`` bytes of the standard library's modules, in alphabetical order."""
    found = b""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        found += path.read_bytes()
        if len(found) >= count:
            break
    return found[:count]


def layer_inputs(text: bytes) -> dict[str, torch.Tensor]:
    """What a freshly initialised Mamba layer feeds its scan when it reads these bytes (Gu & Dao 2023, §3.6)."""
    draw = torch.Generator().manual_seed(0)
    embedding = torch.randn(256, CHANNELS, generator=draw)
    x = F.silu(embedding[torch.tensor(list(text))][None])
    projection = torch.randn(RANK + 2 * STATES, CHANNELS, generator=draw) / CHANNELS**0.5
    rank, B, C = F.linear(x, projection).split([RANK, STATES, STATES], dim=-1)
    dt = F.linear(rank, torch.empty(CHANNELS, RANK).uniform_(-1, 1, generator=draw) * RANK**-0.5)
    first = torch.exp(torch.empty(CHANNELS).uniform_(-6.9, -2.3, generator=draw))
    return {
        "x": x, "dt": dt, "A": -torch.arange(1.0, STATES + 1).repeat(CHANNELS, 1), "B": B.contiguous(),
        "C": C.contiguous(), "D": torch.ones(CHANNELS), "z": x.flip(-1).contiguous(),
        "dt_bias": first + torch.log(-torch.expm1(-first)),
    }  # fmt: skip


def eager(x, dt, A, B, C, D, z, dt_bias):  # type: ignore[no-untyped-def]
    """The same equations in PyTorch, one step after another."""
    delta = F.softplus(dt + dt_bias)
    h = torch.zeros(x.shape[0], CHANNELS, STATES)
    steps = []
    for x_t, d_t, b_t, c_t in zip(x.unbind(1), delta.unbind(1), B.unbind(1), C.unbind(1), strict=True):
        h = torch.exp(d_t[..., None] * A) * h + (d_t * x_t)[..., None] * b_t[:, None]
        steps.append((h @ c_t[..., None])[..., 0])
    return (torch.stack(steps, 1) + D * x) * F.silu(z)


def milliseconds(run: Callable[[], object], times: int) -> float:
    """Median wall time of one call."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e3


def token_by_token(op: ssmc.Layer, inputs: dict[str, torch.Tensor], count: int) -> tuple[torch.Tensor, float]:
    """Outputs of ``count`` one-token calls that carry the state, and the median microseconds of one."""
    along = {"x", "dt", "B", "C", "z"}
    pieces = [{k: v[:, t : t + 1] if k in along else v for k, v in inputs.items()} for t in range(count)]
    y, state = op(**pieces[0], return_state=True)
    outputs, taken = [y], []
    for piece in pieces[1:]:
        start = time.perf_counter()
        y, state = op(**piece, state=state, return_state=True)
        taken.append(time.perf_counter() - start)
        outputs.append(y)
    return torch.cat(outputs, 1), statistics.median(taken) * 1e6


@torch.no_grad()
def one_layer(length: int, decoded: int) -> None:
    """Show the spec, compile it, run it, check it, time it."""
    print("1. A layer: Mamba's selective scan, from its equations\n")
    print(load_module("selective_scan").source.text.split("\n\nlayer selective_scan_complex")[0], end="\n\n")
    op = ssmc.load("selective_scan")
    start = time.perf_counter()
    inputs = layer_inputs(real_text(length))
    y = op(**inputs)
    print(f"compiled and run      {time.perf_counter() - start:.2f} s")
    print(f"emitted C             {op.source}")
    sizes = f"batch 1, {length} bytes of the standard library, {CHANNELS} channels, {STATES} states, float32"
    print(f"input                 {sizes}")
    exact = interpret(op.program(present=list(inputs)), {k: v.double().numpy() for k, v in inputs.items()})["y"]
    scale = float(np.abs(exact).max())
    worst = float(np.abs(y.numpy() - exact).max())
    print(f"largest difference    {worst:.1e} from the float64 interpreter (values to {scale:.0f})")
    steps, per_token = token_by_token(op, inputs, decoded)
    apart = float((steps - y[:, :decoded]).abs().max())
    print(f"token by token        {per_token:.0f} µs a token; {apart:.1e} from all at once")
    ours = milliseconds(lambda: op(**inputs), 15)
    theirs = milliseconds(lambda: eager(**inputs), 3)
    off = float((eager(**inputs) - y).abs().max())
    print(f"eager PyTorch         {theirs:.0f} ms; {off:.1e} apart")
    print(f"ssmc                  {ours:.1f} ms, {theirs / ours:.0f} times faster, {torch.get_num_threads()} threads")


def main() -> None:
    """The layer, then a model of such layers."""
    parser = training.options(__doc__, "demo")
    parser.add_argument("--tokens", type=training.positive, help="how many bytes the model is trained on")
    chosen = parser.parse_args()
    one_layer(*((256, 32) if chosen.quick else (LENGTH, DECODED)))
    print("\n2. A language model: Mamba, byte by byte, learns the standard library's sources\n")
    tokens = train_bytes.tokens_asked(chosen.tokens, chosen.quick)
    train_bytes.show(tokens, chosen.seed, chosen.output, chosen.quick)


if __name__ == "__main__":
    training.start(main)
