"""Short causal depthwise convolution with SiLU."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

import ssmc
from benchmarks.peers import compiled, cotangent, filling, trained
from benchmarks.timing import Case, Contestant, Entry

TAPS = 4


class Inputs(NamedTuple):
    """x (b, t, d), w (d, TAPS), bias (d)."""

    x: torch.Tensor
    w: torch.Tensor
    bias: torch.Tensor


def make_inputs(b: int, t: int, d: int) -> Inputs:
    """All normal."""
    g = torch.Generator().manual_seed(0)
    return Inputs(*(torch.randn(*s, generator=g) for s in ((b, t, d), (d, TAPS), (d,))))


def shifts(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """PyTorch: one multiplication per tap, on views shifted in time."""
    length = x.shape[1]
    torch.addcmul(bias, x, w[:, TAPS - 1], out=out)
    for k in range(1, TAPS):
        out[:, k:].addcmul_(x[:, : length - k], w[:, TAPS - 1 - k])
    return F.silu(out, inplace=True)


def convolve(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """PyTorch's conv1d, for (b, d, t)."""
    made = F.conv1d(x, w[:, None], bias, padding=TAPS - 1, groups=x.shape[1])[..., : x.shape[2]]
    return F.silu(made, inplace=not made.requires_grad)


def case(b: int, t: int, d: int, slow: bool) -> Case:
    def setup() -> tuple[torch.Tensor, list[Entry]]:
        x, w, bias = make_inputs(b, t, d)
        rows = x.mT.contiguous()
        layer = ssmc.load("causal_conv1d", activation="silu")
        fast = compiled(lambda x, w, bias: convolve(x.mT, w, bias).mT)
        own = Contestant(lambda: convolve(rows, w, bias).mT, "input and output as (b, d, t)")
        entries = [
            Entry("ssmc", lambda: filling(lambda o: layer(x, w, bias, out=o), x)),
            Entry("PyTorch, shifts", lambda: filling(lambda o: shifts(x, w, bias, o), x)),
            Entry("PyTorch conv1d", lambda: filling(lambda o: o.copy_(convolve(x.mT, w, bias).mT), x)),
            Entry("PyTorch conv1d, own layout", lambda: own),
            Entry("torch.compile of conv1d", lambda: Contestant(lambda: fast(x, w, bias)), 120),
        ]
        wide = convolve(rows.double(), w.double(), bias.double()).mT
        return wide, [e for e in entries if slow or "torch.compile" not in e.name]

    return Case("causal conv1d with SiLU", {"b": b, "t": t, "d": d, "k": TAPS}, setup)


def training(b: int, t: int, d: int, slow: bool) -> Case:
    """The output and the gradients of all inputs."""

    def setup() -> tuple[tuple[torch.Tensor, ...], list[Entry]]:
        i = make_inputs(b, t, d)
        dy, turned = cotangent(i.x), i._replace(x=i.x.mT.contiguous())
        layer = ssmc.load("causal_conv1d", activation="silu")
        fast = compiled(lambda x, w, bias: convolve(x.mT, w, bias).mT)
        entries = [
            Entry("ssmc", lambda: trained(lambda: lambda i: layer(*i), i, dy)),
            Entry("PyTorch conv1d", lambda: trained(lambda: lambda i: convolve(i.x.mT, i.w, i.bias).mT, i, dy)),
            Entry("PyTorch conv1d, own layout", lambda: _turned(turned, dy)),
            Entry("torch.compile of conv1d", lambda: trained(lambda: lambda i: fast(*i), i, dy), 120),
        ]
        double = Inputs(*(v.double() for v in i))
        wide = trained(lambda: lambda i: convolve(i.x.mT, i.w, i.bias).mT, double, dy.double()).call()
        return wide, [e for e in entries if slow or "torch.compile" not in e.name]

    return Case("causal conv1d with SiLU, forward and backward", {"b": b, "t": t, "d": d, "k": TAPS}, setup)


def _turned(i: Inputs, dy: torch.Tensor) -> Contestant:
    """PyTorch's, of (b, d, t)."""
    run = trained(lambda: lambda i: convolve(*i), i, dy.mT.contiguous())

    def call() -> tuple[torch.Tensor, ...]:
        y, dx, *others = run.call()
        return y.mT, dx.mT, *others

    return Contestant(call, "input and output as (b, d, t)")


def cases(quick: bool) -> list[Case]:
    length = 512 if quick else 2048
    return [case(1, length, 1536, slow=not quick), training(1, length, 1536, slow=not quick)]
