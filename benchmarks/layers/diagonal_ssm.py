"""The diagonal complex SSM, run as the recurrence it is."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

import ssmc
from benchmarks import ceilings
from benchmarks.peers import compiled, filling, jax_contestant
from benchmarks.timing import Case, Contestant, Entry, Goal

STATES = 32
CHUNK = 16

TEXT = '''
layer diagonal(u[b, t, d], a[d, n]: complex, c[d, n]: complex) -> y[b, t, d]:
    """A diagonal state space model whose states come in conjugate pairs, one of each stored."""
    seq t
    h = a * h[t-1] + u
    y = 2 * re(sum[n](c * h))
'''


class Inputs(NamedTuple):
    """u (b, t, d); poles a and output weights c, complex (d, n)."""

    u: torch.Tensor
    a: torch.Tensor
    c: torch.Tensor


class Parameters(NamedTuple):
    """The same as the library's s4d takes them: log_dt (d), A (d, n), C (d, n)."""

    log_dt: torch.Tensor
    log_A_real: torch.Tensor
    A_imag: torch.Tensor
    C: torch.Tensor


def make_inputs(b: int, t: int, d: int) -> tuple[Inputs, Parameters]:
    """S4D-Lin: A = -1/2 + i pi n, steps from 0.001 to 0.1, held for one step (zero-order hold)."""
    g = torch.Generator().manual_seed(0)
    log_dt = torch.empty(d).uniform_(math.log(0.001), math.log(0.1), generator=g)
    imag = math.pi * torch.arange(STATES, dtype=torch.float32).repeat(d, 1)
    weight = torch.view_as_complex(torch.randn(d, STATES, 2, generator=g) * 0.7)
    p = Parameters(log_dt, torch.full((d, STATES), math.log(0.5)), imag, weight)
    pole = torch.complex(-torch.exp(p.log_A_real), p.A_imag).to(torch.complex128)
    a = torch.exp(torch.exp(log_dt.double())[:, None] * pole)
    c = weight.to(torch.complex128) * (a - 1) / pole
    return Inputs(torch.randn(b, t, d, generator=g), a.to(torch.complex64), c.to(torch.complex64)), p


def loop(i: Inputs, out: torch.Tensor) -> torch.Tensor:
    """PyTorch: states one step after another, outputs of some steps at once."""
    h = i.a.new_zeros(i.u.shape[0], *i.a.shape)
    twice = 2 * i.c
    for t in range(0, i.u.shape[1], CHUNK):
        u = i.u[:, t : t + CHUNK].to(h.dtype)
        steps = []
        for x in u.unbind(1):
            h = torch.addcmul(x[:, :, None], i.a, h)
            steps.append(h)
        out[:, t : t + CHUNK] = torch.einsum("btdn,dn->btd", torch.stack(steps, 1), twice).real
    return out


def reference(i: Inputs) -> torch.Tensor:
    """The output in float64."""
    wide = Inputs(i.u.double(), i.a.to(torch.complex128), i.c.to(torch.complex128))
    return loop(wide, torch.empty_like(wide.u))


def convolution(i: Inputs, out: torch.Tensor) -> Contestant:
    """PyTorch: multiplication in the frequency domain, the filter's transform made beforehand."""
    length = i.u.shape[1]
    powers = i.a.to(torch.complex128)[:, :, None] ** torch.arange(length)
    taps = 2 * (i.c.to(torch.complex128)[:, :, None] * powers).sum(1).real
    spectrum = torch.fft.rfft(taps.T.float(), n=2 * length, dim=0)

    def call() -> torch.Tensor:
        product = torch.fft.rfft(i.u, n=2 * length, dim=1) * spectrum
        return out.copy_(torch.fft.irfft(product, n=2 * length, dim=1)[:, :length])

    return Contestant(call, "filter's transform not counted")


def convolution_rows(i: Inputs) -> Contestant:
    """The same where time is the innermost axis already, which suits a Fourier transform."""
    length = i.u.shape[1]
    powers = i.a.to(torch.complex128)[:, :, None] ** torch.arange(length)
    spectrum = torch.fft.rfft((2 * (i.c.to(torch.complex128)[:, :, None] * powers).sum(1).real).float(), n=2 * length)
    rows = i.u.transpose(1, 2).contiguous()

    def call() -> torch.Tensor:
        product = torch.fft.rfft(rows, n=2 * length) * spectrum
        return torch.fft.irfft(product, n=2 * length)[..., :length].transpose(1, 2)

    return Contestant(call, "input and output as (b, d, t)")


def compiled_chunks(i: Inputs, out: torch.Tensor) -> Contestant:
    """Real arithmetic, the steps of one chunk unrolled and compiled; a Python loop over chunks."""

    def chunk(re: Any, im: Any, u: Any, ar: Any, ai: Any, cr: Any, ci: Any) -> tuple[Any, Any, Any]:
        steps = []
        for t in range(CHUNK):
            re, im = ar * re - ai * im + u[:, t, :, None], ar * im + ai * re
            steps.append((cr * re - ci * im).sum(-1))
        return re, im, torch.stack(steps, 1)

    fast = compiled(chunk)
    parts = [v.contiguous() for v in (i.a.real, i.a.imag, 2 * i.c.real, 2 * i.c.imag)]

    def call() -> torch.Tensor:
        re = im = torch.zeros(i.u.shape[0], *i.a.shape)
        for t in range(0, i.u.shape[1], CHUNK):
            re, im, out[:, t : t + CHUNK] = fast(re, im, i.u[:, t : t + CHUNK], *parts)
        return out

    return Contestant(call)


def lax_scan(i: Inputs) -> Contestant:
    def make(jax: Any) -> Any:
        jnp = jax.numpy

        def layer(u: Any, ar: Any, ai: Any, cr: Any, ci: Any) -> Any:
            def step(h: Any, x: Any) -> Any:
                re, im = ar * h[0] - ai * h[1] + x[:, :, None], ar * h[1] + ai * h[0]
                return (re, im), (cr * re - ci * im).sum(-1)

            zero = jnp.zeros((u.shape[0], *ar.shape), u.dtype)
            _, y = jax.lax.scan(step, (zero, zero), jnp.moveaxis(u, 1, 0), unroll=4)
            return jnp.moveaxis(y, 0, 1)

        return layer

    parts = [v.contiguous() for v in (i.a.real, i.a.imag, 2 * i.c.real, 2 * i.c.imag)]
    return jax_contestant(make, i.u, *parts, note="real and imaginary parts apart, unroll=4")


def ceiling(i: Inputs, out: torch.Tensor, blocked: bool) -> Contestant:
    packed = ceilings.pack_diagonal(i.a.numpy(), i.c.numpy())

    def call() -> torch.Tensor:
        ceilings.diagonal_ssm(i.u[0].numpy(), packed, out[0].numpy(), blocked=blocked)
        return out

    return Contestant(call, "four steps at once, fewer operations" if blocked else "")


def ours(i: Inputs, out: torch.Tensor) -> Contestant:
    layer = ssmc.compile(TEXT)
    return Contestant(lambda: layer(i.u, i.a, i.c, out=out))


def library(i: Inputs, p: Parameters, out: torch.Tensor) -> Contestant:
    layer = ssmc.load("s4d")
    return Contestant(lambda: layer(i.u, *p, out=out), "discretises in the call")


def case(t: int, d: int, slow: bool) -> Case:
    def setup() -> tuple[torch.Tensor, list[Entry]]:
        i, p = make_inputs(1, t, d)
        entries = [
            Entry("ceiling", lambda: ceiling(i, torch.empty_like(i.u), blocked=False)),
            Entry("ceiling, blocked", lambda: ceiling(i, torch.empty_like(i.u), blocked=True)),
            Entry("ssmc", lambda: ours(i, torch.empty_like(i.u))),
            Entry("ssmc, library's s4d", lambda: library(i, p, torch.empty_like(i.u))),
            Entry("PyTorch, loop over time", lambda: filling(lambda o: loop(i, o), i.u), 120),
            Entry("PyTorch rfft", lambda: convolution(i, torch.empty_like(i.u))),
            Entry("PyTorch rfft, own layout", lambda: convolution_rows(i)),
            Entry("torch.compile, chunks of time", lambda: compiled_chunks(i, torch.empty_like(i.u)), 180),
            Entry("JAX lax.scan", lambda: lax_scan(i), 120),
        ]
        return reference(i), [e for e in entries if slow or "torch.compile" not in e.name]

    sizes = {"b": 1, "t": t, "d": d, "n": STATES}
    return Case("diagonal complex SSM", sizes, setup, goals=(Goal("ssmc", ("ceiling",), 1.5),))


def cases(quick: bool) -> list[Case]:
    return [case(512 if quick else 2048, 768, slow=not quick)]
