"""The elementwise part of RG-LRU, from the pre-activations of its gates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

import ssmc
from benchmarks import ceilings
from benchmarks.peers import (
    Formulation,
    compiled,
    cotangent,
    jax_contestant,
    jax_trained,
    mambapy_scan,
    trained,
    written,
)
from benchmarks.timing import Case, Contestant, Entry, Goal, Output

# Rounding a result to the 8 bits of bfloat16 costs up to half of its last bit; arithmetic is in float32.
BF16_TOLERANCE = 2.0**-8 + 1e-4
IN_USE = ("PyTorch, loop over time", "torch.compile of the gates", "JAX lax.scan", "mambapy")


class Inputs(NamedTuple):
    """x, r, g (b, t, d): the input and its two gates before their sigmoids; Lambda (d)."""

    x: torch.Tensor
    r: torch.Tensor
    g: torch.Tensor
    Lambda: torch.Tensor


def make_inputs(b: int, t: int, d: int) -> Inputs:
    """Normal activations; Lambda so that the decay at r = 1 is between 0.9 and 0.999, as Griffin has it."""
    g = torch.Generator().manual_seed(0)
    decay = torch.empty(d).uniform_(0.9, 0.999, generator=g)
    rate = -torch.log(decay) / 8
    x, r, gate = (torch.randn(b, t, d, generator=g) for _ in range(3))
    return Inputs(x, r, gate, torch.log(torch.expm1(rate)))


def gates(i: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Decay and input of h[t] = a h[t-1] + x."""
    log_a = torch.sigmoid(i.r) * (-8 * F.softplus(i.Lambda))
    return torch.exp(log_a), torch.sqrt(-torch.expm1(2 * log_a)) * torch.sigmoid(i.g) * i.x


def loop(i: Inputs, out: torch.Tensor | None = None) -> torch.Tensor:
    """PyTorch: the gates for all steps at once, then one step after another."""
    return scan(*gates(i), out)


def scan(a: torch.Tensor, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    h = torch.zeros_like(x[:, 0])
    places = [None] * x.shape[1] if out is None else out.unbind(1)
    steps = []
    for at, xt, yt in zip(a.unbind(1), x.unbind(1), places, strict=True):
        h = torch.addcmul(xt, at, h, out=yt)
        steps.append(h)
    return torch.stack(steps, 1) if out is None else out


def wide(i: Inputs) -> Inputs:
    """The same in float64."""
    return Inputs(*(v.double() for v in i))


def reference(i: Inputs) -> torch.Tensor:
    """The output in float64."""
    return loop(wide(i))


def compiled_gates() -> Formulation:
    """``loop`` with compiled gates."""
    fast = compiled(lambda *values: gates(Inputs(*values)))
    return lambda i, out=None: scan(*fast(*i), out)


def jax_layer(jax: Any) -> Any:
    """``lax.scan`` over the steps, the gates for all steps at once."""
    jnp = jax.numpy

    def layer(x: Any, r: Any, g: Any, rate: Any) -> Any:
        log_a = jax.nn.sigmoid(r) * (-8 * jax.nn.softplus(rate))
        fed = jnp.sqrt(-jnp.expm1(2 * log_a)) * jax.nn.sigmoid(g) * x

        def step(h: Any, now: Any) -> Any:
            h = now[0] * h + now[1]
            return h, h

        start = jnp.zeros((x.shape[0], x.shape[2]), x.dtype)
        _, y = jax.lax.scan(step, start, (jnp.moveaxis(jnp.exp(log_a), 1, 0), jnp.moveaxis(fed, 1, 0)), unroll=4)
        return jnp.moveaxis(y, 0, 1)

    return layer


def parallel_scan() -> Formulation:
    """mambapy's scan of the same gates."""
    pscan = mambapy_scan()

    def layer(i: Inputs, out: torch.Tensor | None = None) -> torch.Tensor:
        a, x = gates(i)
        return pscan(a[..., None], x[..., None])[..., 0]

    return layer


def ceiling(i: Inputs, out: torch.Tensor) -> Contestant:
    rate = -8 * 1.4426950408889634 * F.softplus(i.Lambda)
    arrays: list[Any] = [i.x[0].numpy(), i.r[0].numpy(), i.g[0].numpy(), rate.numpy(), out[0].numpy()]

    def call() -> torch.Tensor:
        ceilings.rg_lru(*arrays)
        return out

    return Contestant(call)


def ours() -> Formulation:
    layer = ssmc.load("rg_lru", "rg_lru_gated")
    return lambda i, out=None: layer(i.x, i.r, i.g, i.Lambda, out=out)


def widened(narrow: Inputs, out: torch.Tensor) -> torch.Tensor:
    """``loop`` in float32 on inputs and for an output of another type."""
    return out.copy_(loop(Inputs(*(v.float() for v in narrow))))


def forward(t: int, d: int, slow: bool) -> Case:
    def setup() -> tuple[Output, list[Entry]]:
        i = make_inputs(1, t, d)
        entries = [
            Entry("ceiling", lambda: ceiling(i, torch.empty_like(i.x))),
            Entry("ssmc", lambda: written(ours, i)),
            Entry(IN_USE[0], lambda: written(lambda: loop, i)),
            Entry(IN_USE[1], lambda: written(compiled_gates, i), 120),
            Entry(IN_USE[2], lambda: jax_contestant(jax_layer, *i, note="unroll=4"), 120),
            Entry(IN_USE[3], lambda: written(parallel_scan, i)),
        ]
        return reference(i), [e for e in entries if slow or "torch.compile" not in e.name]

    sizes = {"b": 1, "t": t, "d": d}
    return Case("RG-LRU, gates fused", sizes, setup, goals=(Goal("ssmc", ("ceiling",), 1.3),))


def training(t: int, d: int, slow: bool) -> Case:
    """The output and the gradients of all inputs; the hand-written kernel beside them goes forward only."""

    def setup() -> tuple[Output, list[Entry]]:
        i = make_inputs(1, t, d)
        dy = cotangent(i.x)
        entries = [
            Entry("ceiling, forward", lambda: replace(ceiling(i, torch.empty_like(i.x)), returns=1)),
            Entry("ssmc", lambda: trained(ours, i, dy)),
            Entry(IN_USE[0], lambda: trained(lambda: loop, i, dy)),
            Entry(IN_USE[1], lambda: trained(compiled_gates, i, dy), 120),
            Entry(IN_USE[2], lambda: jax_trained(jax_layer, i, dy, "unroll=4"), 120),
            Entry(IN_USE[3], lambda: trained(parallel_scan, i, dy)),
        ]
        want = trained(lambda: loop, wide(i), dy.double()).call()
        return want, [e for e in entries if slow or "torch.compile" not in e.name]

    goals = Goal("ssmc", ("ceiling, forward",), 4), Goal("ssmc", IN_USE)
    return Case("RG-LRU, forward and backward (ceiling: forward only)", {"b": 1, "t": t, "d": d}, setup, goals=goals)


def bfloat16(t: int, d: int) -> Case:
    """The same values as float32 and as bfloat16."""

    def setup() -> tuple[Output, list[Entry]]:
        narrow = Inputs(*(v.bfloat16() for v in make_inputs(1, t, d)))
        i = Inputs(*(v.float() for v in narrow))

        def peer() -> Contestant:
            return replace(written(lambda: widened, narrow), note="loop over time, in float32")

        entries = [
            Entry("ssmc, float32", lambda: written(ours, i)),
            Entry("ssmc, bfloat16", lambda: written(ours, narrow), tolerance=BF16_TOLERANCE),
            Entry("PyTorch, bfloat16", peer, tolerance=BF16_TOLERANCE),
        ]
        return reference(narrow), entries

    goals = (Goal("ssmc, bfloat16", ("ssmc, float32",), 1 / 1.3),)
    return Case("RG-LRU, bfloat16 in and out", {"b": 1, "t": t, "d": d}, setup, goals=goals)


def cases(quick: bool) -> list[Case]:
    length = 512 if quick else 2048
    return [
        forward(length, 2560, slow=not quick),
        training(256 if quick else 2048, 2560, slow=not quick),
        bfloat16(length, 2560),
    ]
