"""The elementwise part of RG-LRU, from the pre-activations of its gates."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

import ssmc
from benchmarks import ceilings
from benchmarks.peers import compiled, filling, jax_contestant, mambapy_scan
from benchmarks.timing import Case, Contestant, Entry, Goal


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


def loop(i: Inputs, out: torch.Tensor) -> torch.Tensor:
    """PyTorch: the gates for all steps at once, then one step after another."""
    a, x = gates(i)
    return scan(a, x, out)


def scan(a: torch.Tensor, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    h = torch.zeros_like(x[:, 0])
    for at, xt, yt in zip(a.unbind(1), x.unbind(1), out.unbind(1), strict=True):
        h = torch.addcmul(xt, at, h, out=yt)
    return out


def reference(i: Inputs) -> torch.Tensor:
    """The output in float64."""
    wide = Inputs(*(v.double() for v in i))
    return loop(wide, torch.empty_like(wide.x))


def compiled_gates(i: Inputs, out: torch.Tensor) -> Contestant:
    fast = compiled(lambda *values: gates(Inputs(*values)))

    def call() -> torch.Tensor:
        a, x = fast(*i)
        return scan(a, x, out)

    return Contestant(call)


def lax_scan(i: Inputs) -> Contestant:
    def make(jax: Any) -> Any:
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

    return jax_contestant(make, *i, note="unroll=4")


def parallel_scan(i: Inputs) -> Contestant:
    pscan = mambapy_scan()

    def call() -> torch.Tensor:
        a, x = gates(i)
        return pscan(a[..., None], x[..., None])[..., 0]

    return Contestant(call)


def ceiling(i: Inputs, out: torch.Tensor) -> Contestant:
    rate = -8 * 1.4426950408889634 * F.softplus(i.Lambda)
    arrays: list[Any] = [i.x[0].numpy(), i.r[0].numpy(), i.g[0].numpy(), rate.numpy(), out[0].numpy()]

    def call() -> torch.Tensor:
        ceilings.rg_lru(*arrays)
        return out

    return Contestant(call)


def ours(i: Inputs, out: torch.Tensor) -> Contestant:
    layer = ssmc.load("rg_lru", "rg_lru_gated")
    return Contestant(lambda: layer(i.x, i.r, i.g, i.Lambda, out=out))


def case(t: int, d: int, slow: bool) -> Case:
    def setup() -> tuple[torch.Tensor, list[Entry]]:
        i = make_inputs(1, t, d)
        entries = [
            Entry("ceiling", lambda: ceiling(i, torch.empty_like(i.x))),
            Entry("ssmc", lambda: ours(i, torch.empty_like(i.x))),
            Entry("PyTorch, loop over time", lambda: filling(lambda o: loop(i, o), i.x)),
            Entry("torch.compile of the gates", lambda: compiled_gates(i, torch.empty_like(i.x)), 120),
            Entry("JAX lax.scan", lambda: lax_scan(i), 120),
            Entry("mambapy", lambda: parallel_scan(i)),
        ]
        return reference(i), [e for e in entries if slow or "torch.compile" not in e.name]

    sizes = {"b": 1, "t": t, "d": d}
    return Case("RG-LRU, gates fused", sizes, setup, goals=(Goal("ssmc", ("ceiling",), 1.3),))


def cases(quick: bool) -> list[Case]:
    return [case(512 if quick else 2048, 2560, slow=not quick)]
