"""Mamba's selective scan, with softplus, skip and gate."""

from __future__ import annotations

from collections.abc import Callable
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

STATES = 16
CHUNK = 16  # steps whose exponentials the chunked PyTorch versions take together
IN_USE = ("PyTorch, loop over time", "torch.compile, associative scan", "JAX lax.scan", "mambapy")
BY_HAND = ("PyTorch, chunks of time", "torch.compile, chunks of time")
TRAINING_IN_USE = (*IN_USE, "transformers' scan, unbind")
TRAINING_BY_HAND = ("PyTorch, states then outputs", "torch.compile, chunks of time")


class Inputs(NamedTuple):
    """Those of the layer, by its names: x, dt, z (b, t, d); A (d, n); B, C (b, t, n); D, bias (d)."""

    x: torch.Tensor
    dt: torch.Tensor
    A: torch.Tensor
    B: torch.Tensor
    C: torch.Tensor
    D: torch.Tensor
    z: torch.Tensor
    bias: torch.Tensor


def make_inputs(b: int, t: int, d: int) -> Inputs:
    """Normal activations; A and the steps as Mamba initialises them (steps from 0.001 to 0.1)."""
    g = torch.Generator().manual_seed(0)
    step = torch.exp(torch.empty(d).uniform_(-6.9, -2.3, generator=g))
    return Inputs(
        x=torch.randn(b, t, d, generator=g),
        dt=0.5 * torch.randn(b, t, d, generator=g),
        A=-torch.arange(1.0, STATES + 1).repeat(d, 1),
        B=torch.randn(b, t, STATES, generator=g),
        C=torch.randn(b, t, STATES, generator=g),
        D=torch.randn(d, generator=g),
        z=torch.randn(b, t, d, generator=g),
        bias=step + torch.log(-torch.expm1(-step)),
    )


def wide(i: Inputs) -> Inputs:
    """The same in float64."""
    return Inputs(*(v.double() for v in i))


def reference(i: Inputs) -> torch.Tensor:
    """The output in float64."""
    return loop(wide(i))


def loop(i: Inputs, out: torch.Tensor | None = None) -> torch.Tensor:
    """PyTorch, one step after another on views of each step."""
    delta = F.softplus(i.dt + i.bias)
    h = i.x.new_zeros(i.x.shape[0], *i.A.shape)
    steps = []
    for d, x, b, c in zip(delta.unbind(1), i.x.unbind(1), i.B.unbind(1), i.C.unbind(1), strict=True):
        h = torch.exp(d[:, :, None] * i.A) * h + (d * x)[:, :, None] * b[:, None]
        steps.append((h @ c[:, :, None])[:, :, 0])
    return finish(i, torch.stack(steps, 1), out)


def finish(i: Inputs, s: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Skip and gate; overwrites s."""
    return torch.mul(s.addcmul_(i.x, i.D), F.silu(i.z), out=out)


def pairs(i: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Decay and input of every state at every step, (b, t, d, n)."""
    delta = F.softplus(i.dt + i.bias)
    return torch.exp(delta[..., None] * i.A), (delta * i.x)[..., None] * i.B[:, :, None]


def transformers_scan(i: Inputs, out: torch.Tensor | None = None) -> torch.Tensor:
    """As Hugging Face's Mamba without kernels goes, but on views by ``unbind`` where that indexes tensors.

    An index costs autograd a gradient of all steps per step.
    """
    h = i.x.new_zeros(i.x.shape[0], *i.A.shape)
    steps = []
    for a, fed, c in zip(*(v.unbind(1) for v in pairs(i)), i.C.unbind(1), strict=True):
        h = a * h + fed
        steps.append((h @ c[:, :, None])[:, :, 0])
    return finish(i, torch.stack(steps, 1), out)


def by_states(scan: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Formulation:
    """Every state of every step by a scan of all pairs, then their contraction."""

    def layer(i: Inputs, out: torch.Tensor | None = None) -> torch.Tensor:
        return finish(i, (scan(*pairs(i)) @ i.C[..., None])[..., 0], out)

    return layer


def stepwise(decay: torch.Tensor, fed: torch.Tensor) -> torch.Tensor:
    """The scan in PyTorch, one step after another."""
    h, states = torch.zeros_like(fed[:, 0]), []
    for a, q in zip(decay.unbind(1), fed.unbind(1), strict=True):
        h = torch.addcmul(q, a, h)
        states.append(h)
    return torch.stack(states, 1)


def chunks(i: Inputs, out: torch.Tensor) -> torch.Tensor:
    """PyTorch, with everything that does not depend on the step before taken for some steps at once."""
    delta = F.softplus(i.dt + i.bias)
    fed = delta * i.x
    h = i.x.new_zeros(i.x.shape[0], *i.A.shape)
    for t in range(0, i.x.shape[1], CHUNK):
        s = slice(t, t + CHUNK)
        decay = (delta[:, s, :, None] * i.A).exp_()
        states = fed[:, s, :, None] * i.B[:, s, None]
        for a, q in zip(decay.unbind(1), states.unbind(1), strict=True):
            h = torch.addcmul(q, a, h, out=q)
        torch.matmul(states, i.C[:, s, :, None], out=out[:, s, :, None])
    return out.addcmul_(i.x, i.D).mul_(F.silu(i.z))


def compiled_chunks() -> Formulation:
    """The steps of one chunk, unrolled and compiled; a Python loop over chunks."""

    def chunk(h: Any, delta: Any, x: Any, b: Any, c: Any, a: Any) -> tuple[Any, Any]:
        steps = []
        for t in range(CHUNK):
            h = torch.exp(delta[:, t, :, None] * a) * h + (delta[:, t] * x[:, t])[:, :, None] * b[:, t, None]
            steps.append((h * c[:, t, None]).sum(-1))
        return h, torch.stack(steps, 1)

    fast = compiled(chunk)

    def layer(i: Inputs, out: torch.Tensor | None = None) -> torch.Tensor:
        delta = F.softplus(i.dt + i.bias)
        h, pieces = i.x.new_zeros(i.x.shape[0], *i.A.shape), []
        for parts in zip(*(v.split(CHUNK, 1) for v in (delta, i.x, i.B, i.C)), strict=True):
            h, piece = fast(h, *parts, i.A)
            pieces.append(piece)
        return finish(i, torch.cat(pieces, 1), out)

    return layer


def compiled_scan() -> Formulation:
    """The formulation of Hugging Face's Mamba: every state of every step, combined pairwise."""
    from torch._higher_order_ops.associative_scan import associative_scan

    def combine(left: Any, right: Any) -> Any:
        return left[0] * right[0], right[0] * left[1] + right[1]

    def scan(decay: torch.Tensor, fed: torch.Tensor) -> Any:
        return associative_scan(combine, (decay, fed), dim=1, combine_mode="generic")[1]

    layer = by_states(scan)
    fast = compiled(lambda *values: layer(Inputs(*values)))
    return lambda i, out=None: fast(*i)


def jax_layer(jax: Any) -> Any:
    """``lax.scan`` over the steps."""
    jnp = jax.numpy

    def layer(x: Any, dt: Any, a: Any, b: Any, c: Any, skip: Any, z: Any, bias: Any) -> Any:
        delta = jax.nn.softplus(dt + bias)

        def step(h: Any, now: Any) -> Any:
            d, u, bt, ct = now
            h = jnp.exp(d[:, :, None] * a) * h + (d * u)[:, :, None] * bt[:, None]
            return h, (h * ct[:, None]).sum(-1)

        h = jnp.zeros((x.shape[0], *a.shape), x.dtype)
        _, y = jax.lax.scan(step, h, [jnp.moveaxis(v, 1, 0) for v in (delta, x, b, c)], unroll=4)
        return (jnp.moveaxis(y, 0, 1) + x * skip) * jax.nn.silu(z)

    return layer


def parallel_scan() -> Formulation:
    return by_states(mambapy_scan())


def ceiling(i: Inputs, out: torch.Tensor) -> Contestant:
    delta = F.softplus(i.dt + i.bias)
    rate = (i.A.T * 1.4426950408889634).contiguous()
    arrays: list[Any] = [v.numpy() for v in (i.x, delta, i.z, rate, i.B, i.C, i.D, out)]

    def call() -> torch.Tensor:
        ceilings.selective_scan(*arrays)
        return out

    return Contestant(call, "without softplus")


def ours() -> Formulation:
    layer = ssmc.load("selective_scan")
    return lambda i, out=None: layer(i.x, i.dt, i.A, i.B, i.C, D=i.D, z=i.z, dt_bias=i.bias, out=out)


def forward(b: int, t: int, d: int, slow: bool) -> Case:
    """One table; ``slow`` adds those that compile for long."""

    def setup() -> tuple[Output, list[Entry]]:
        i = make_inputs(b, t, d)
        gigabytes = 4e-9 * i.x.numel() * STATES  # every state of every step
        entries = [
            Entry("ceiling", lambda: ceiling(i, torch.empty_like(i.x))),
            Entry("ssmc", lambda: written(ours, i)),
            Entry(IN_USE[0], lambda: written(lambda: loop, i), 120),
            Entry(IN_USE[1], lambda: written(compiled_scan, i, 10 * gigabytes), 240),
            Entry(IN_USE[2], lambda: jax_contestant(jax_layer, *i, note="unroll=4"), 120),
            Entry(IN_USE[3], lambda: written(parallel_scan, i, 6 * gigabytes), 120),
            Entry(BY_HAND[0], lambda: written(lambda: chunks, i), 120),
            Entry(BY_HAND[1], lambda: written(compiled_chunks, i), 240),
        ]
        return reference(i), [e for e in entries if slow or "torch.compile" not in e.name]

    goals = (Goal("ssmc", ("ceiling",), 1.6), Goal("ssmc", IN_USE, 0.1), Goal("ssmc", BY_HAND))
    return Case("selective scan", {"b": b, "t": t, "d": d, "n": STATES}, setup, goals=goals)


def training(b: int, t: int, d: int, slow: bool) -> Case:
    """The output and the gradients of all inputs; the hand-written kernel beside them goes forward only."""

    def setup() -> tuple[Output, list[Entry]]:
        i = make_inputs(b, t, d)
        dy = cotangent(i.x)
        gigabytes = 4e-9 * i.x.numel() * STATES
        entries = [
            Entry("ceiling, forward", lambda: replace(ceiling(i, torch.empty_like(i.x)), returns=1)),
            Entry("ssmc", lambda: trained(ours, i, dy)),
            Entry(IN_USE[0], lambda: trained(lambda: loop, i, dy), 120),
            Entry(TRAINING_IN_USE[-1], lambda: trained(lambda: transformers_scan, i, dy, 14 * gigabytes), 120),
            Entry(IN_USE[1], lambda: trained(compiled_scan, i, dy, 20 * gigabytes), 240),
            Entry(IN_USE[2], lambda: jax_trained(jax_layer, i, dy, "unroll=4"), 120),
            Entry(IN_USE[3], lambda: trained(parallel_scan, i, dy, 12 * gigabytes), 120),
            Entry(TRAINING_BY_HAND[0], lambda: trained(lambda: by_states(stepwise), i, dy, 12 * gigabytes), 120),
            Entry(TRAINING_BY_HAND[1], lambda: trained(compiled_chunks, i, dy), 240),
        ]
        want = trained(lambda: loop, wide(i), dy.double()).call()
        return want, [e for e in entries if slow or "torch.compile" not in e.name]

    goals = (
        Goal("ssmc", ("ceiling, forward",), 6),
        Goal("ssmc", TRAINING_IN_USE),
        Goal("ssmc", TRAINING_BY_HAND),
    )
    title = "selective scan, forward and backward (ceiling: forward only)"
    return Case(title, {"b": b, "t": t, "d": d, "n": STATES}, setup, goals=goals)


def cases(quick: bool) -> list[Case]:
    if quick:
        return [forward(1, 512, 1536, slow=False), training(1, 128, 1536, slow=False)]
    return [*(forward(b, 2048, 1536, slow=True) for b in (1, 8)), training(1, 2048, 1536, slow=True)]
