"""Mamba's selective scan, with softplus, skip and gate."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

import ssmc
from benchmarks import ceilings
from benchmarks.peers import compiled, filling, jax_contestant, mambapy_scan, need_memory
from benchmarks.timing import Case, Contestant, Entry, Goal

STATES = 16
CHUNK = 16  # steps whose exponentials the chunked PyTorch versions take together
IN_USE = ("PyTorch, loop over time", "torch.compile, associative scan", "JAX lax.scan", "mambapy")
BY_HAND = ("PyTorch, chunks of time", "torch.compile, chunks of time")


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


def reference(i: Inputs) -> torch.Tensor:
    """The output in float64."""
    return loop(Inputs(*(v.double() for v in i)))


def loop(i: Inputs, out: torch.Tensor | None = None) -> torch.Tensor:
    """PyTorch, one step after another on views of each step."""
    delta = F.softplus(i.dt + i.bias)
    h = i.x.new_zeros(i.x.shape[0], *i.A.shape)
    steps = []
    for d, x, b, c in zip(delta.unbind(1), i.x.unbind(1), i.B.unbind(1), i.C.unbind(1), strict=True):
        h = torch.exp(d[:, :, None] * i.A) * h + (d * x)[:, :, None] * b[:, None]
        steps.append((h @ c[:, :, None])[:, :, 0])
    return torch.mul(torch.stack(steps, 1).addcmul_(i.x, i.D), F.silu(i.z), out=out)


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


def compiled_chunks(i: Inputs, out: torch.Tensor) -> Contestant:
    """The steps of one chunk, unrolled and compiled; a Python loop over chunks."""

    def chunk(h: Any, delta: Any, x: Any, b: Any, c: Any, a: Any) -> tuple[Any, Any]:
        steps = []
        for t in range(CHUNK):
            h = torch.exp(delta[:, t, :, None] * a) * h + (delta[:, t] * x[:, t])[:, :, None] * b[:, t, None]
            steps.append((h * c[:, t, None]).sum(-1))
        return h, torch.stack(steps, 1)

    fast = compiled(chunk)

    def call() -> torch.Tensor:
        delta = F.softplus(i.dt + i.bias)
        h = torch.zeros(i.x.shape[0], *i.A.shape)
        for t in range(0, i.x.shape[1], CHUNK):
            s = slice(t, t + CHUNK)
            h, out[:, s] = fast(h, delta[:, s], i.x[:, s], i.B[:, s], i.C[:, s], i.A)
        return out.addcmul_(i.x, i.D).mul_(F.silu(i.z))

    return Contestant(call)


def compiled_scan(i: Inputs) -> Contestant:
    """The formulation of Hugging Face's Mamba: every state of every step, combined pairwise."""
    from torch._higher_order_ops.associative_scan import associative_scan

    def combine(left: Any, right: Any) -> Any:
        return left[0] * right[0], right[0] * left[1] + right[1]

    def layer(x: Any, dt: Any, a: Any, b: Any, c: Any, skip: Any, z: Any, bias: Any) -> Any:
        delta = F.softplus(dt + bias)
        pairs = torch.exp(delta[..., None] * a), (delta * x)[..., None] * b[:, :, None]
        h = associative_scan(combine, pairs, dim=1, combine_mode="generic")[1]
        return ((h @ c[..., None])[..., 0] + x * skip) * F.silu(z)

    need_memory(10 * 4e-9 * i.x.numel() * STATES)
    fast = compiled(layer)
    return Contestant(lambda: fast(*i))


def lax_scan(i: Inputs) -> Contestant:
    def make(jax: Any) -> Any:
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

    return jax_contestant(make, *i, note="unroll=4")


def parallel_scan(i: Inputs, out: torch.Tensor) -> Contestant:
    pscan = mambapy_scan()
    need_memory(6 * 4e-9 * i.x.numel() * STATES)

    def call() -> torch.Tensor:
        delta = F.softplus(i.dt + i.bias)
        h = pscan(torch.exp(delta[..., None] * i.A), (delta * i.x)[..., None] * i.B[:, :, None])
        return torch.mul((h @ i.C[..., None])[..., 0].addcmul_(i.x, i.D), F.silu(i.z), out=out)

    return Contestant(call)


def ceiling(i: Inputs, out: torch.Tensor) -> Contestant:
    delta = F.softplus(i.dt + i.bias)
    rate = (i.A.T * 1.4426950408889634).contiguous()
    arrays: list[Any] = [v.numpy() for v in (i.x, delta, i.z, rate, i.B, i.C, i.D, out)]

    def call() -> torch.Tensor:
        ceilings.selective_scan(*arrays)
        return out

    return Contestant(call, "without softplus")


def ours(i: Inputs, out: torch.Tensor) -> Contestant:
    layer = ssmc.load("selective_scan")
    named: dict[str, Any] = {"D": i.D, "z": i.z, "dt_bias": i.bias}
    return Contestant(lambda: layer(i.x, i.dt, i.A, i.B, i.C, **named, out=out))


def case(b: int, t: int, d: int, slow: bool) -> Case:
    """One table; ``slow`` adds those that compile for long or take memory for every state of every step."""

    def setup() -> tuple[torch.Tensor, list[Entry]]:
        i = make_inputs(b, t, d)
        entries = [
            Entry("ceiling", lambda: ceiling(i, torch.empty_like(i.x))),
            Entry("ssmc", lambda: ours(i, torch.empty_like(i.x))),
        ]
        peers = [
            Entry(IN_USE[0], lambda: filling(lambda o: loop(i, o), i.x), 120),
            Entry(IN_USE[1], lambda: compiled_scan(i), 240),
            Entry(IN_USE[2], lambda: lax_scan(i), 120),
            Entry(IN_USE[3], lambda: parallel_scan(i, torch.empty_like(i.x)), 120),
            Entry(BY_HAND[0], lambda: filling(lambda o: chunks(i, o), i.x), 120),
            Entry(BY_HAND[1], lambda: compiled_chunks(i, torch.empty_like(i.x)), 240),
        ]
        return reference(i), entries + [e for e in peers if slow or "torch.compile" not in e.name]

    goals = (Goal("ssmc", ("ceiling",), 1.6), Goal("ssmc", IN_USE, 0.1), Goal("ssmc", BY_HAND))
    return Case("selective scan", {"b": b, "t": t, "d": d, "n": STATES}, setup, goals=goals)


def cases(quick: bool) -> list[Case]:
    if quick:
        return [case(1, 512, 1536, slow=False)]
    return [case(1, 2048, 1536, slow=True), case(8, 2048, 1536, slow=True)]
