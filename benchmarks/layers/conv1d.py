"""Short causal depthwise convolution with SiLU."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import ssmc
from benchmarks.peers import compiled
from benchmarks.timing import Case, Contestant, Entry

TAPS = 4


def shifts(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """PyTorch: one multiplication per tap, on views shifted in time."""
    length = x.shape[1]
    torch.addcmul(bias, x, w[:, TAPS - 1], out=out)
    for k in range(1, TAPS):
        out[:, k:].addcmul_(x[:, : length - k], w[:, TAPS - 1 - k])
    return F.silu(out, inplace=True)


def convolve(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """PyTorch's conv1d, for (b, d, t)."""
    return F.silu(F.conv1d(x, w[:, None], bias, padding=TAPS - 1, groups=x.shape[1])[..., : x.shape[2]], inplace=True)


def case(b: int, t: int, d: int, slow: bool) -> Case:
    def setup() -> tuple[torch.Tensor, list[Entry]]:
        g = torch.Generator().manual_seed(0)
        x, w, bias = (torch.randn(*s, generator=g) for s in ((b, t, d), (d, TAPS), (d,)))
        rows = x.transpose(1, 2).contiguous()
        layer = ssmc.load("causal_conv1d", activation="silu")
        fast = compiled(lambda x, w, bias: convolve(x.transpose(1, 2), w, bias).transpose(1, 2))
        entries = [
            Entry("ssmc", lambda o=torch.empty_like(x): Contestant(lambda: layer(x, w, bias, out=o))),
            Entry("PyTorch, shifts", lambda o=torch.empty_like(x): Contestant(lambda: shifts(x, w, bias, o))),
            Entry("PyTorch conv1d", lambda o=torch.empty_like(x): Contestant(
                lambda: o.copy_(convolve(x.transpose(1, 2), w, bias).transpose(1, 2)))),
            Entry("PyTorch conv1d, own layout", lambda: Contestant(
                lambda: convolve(rows, w, bias).transpose(1, 2), "input and output as (b, d, t)")),
            Entry("torch.compile of conv1d", lambda: Contestant(lambda: fast(x, w, bias)), 120),
        ]  # fmt: skip
        wide = convolve(rows.double(), w.double(), bias.double()).transpose(1, 2)
        return wide, [e for e in entries if slow or "torch.compile" not in e.name]

    return Case("causal conv1d with SiLU", {"b": b, "t": t, "d": d, "k": TAPS}, setup)


def cases(quick: bool) -> list[Case]:
    return [case(1, 512 if quick else 2048, 1536, slow=not quick)]
