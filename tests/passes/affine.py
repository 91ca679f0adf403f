"""Layers with affine recurrences, for tests: fixed ones that each show something, and random ones."""

from __future__ import annotations

import numpy as np

_HEAD = "layer f(x[b, t, d], a[b, t, d], c[d, n], w[b, t, n], h0[b, d])"

SAMPLES = (
    # one after the other, the first of which the second multiplies
    f"{_HEAD} -> y[b, t, d]:\n    seq t\n    h = sigmoid(a) * h[t-1] + x\n    h[t<0] = h0\n"
    "    k = 0.9 * tanh(h) * k[t-1] + h\n    y = k + x\n",
    # side by side, one of them forwards and one backwards, with states that are folded
    f"{_HEAD} -> y[b, t, d]:\n    seq t\n    h = exp(-abs(c) * sigmoid(a)) * h[t-1] + w * x\n"
    "    g = sigmoid(a) * g[t+1] + x\n    y = sum[n](h * w) + g\n",
    # what was before and what comes last
    f"{_HEAD} -> y[b, t, d], last[b, d], first[b, d]:\n    seq t\n    h = sigmoid(a) * h[t-1] + x\n    h[t<0] = h0\n"
    "    g = 0.5 * g[t+1] - x\n    g[t >= #t] = 2 * h0\n    y = h[t-1] * a\n    last = h[t = #t - 1]\n"
    "    first = g[t=0]\n",
    # a sum, whose past is multiplied by one; resets; a factor that does not change along time
    f"{_HEAD} -> y[b, t, d], e[d]:\n    seq t\n    s = s[t-1] + x\n    h = where(a > 1, 0, 0.5 * h[t-1]) + x\n"
    "    k = tanh(h0) * k[t-1] + a\n    y = s / (1 + t) + h * k\n    e = sum[b, t](y ^ 2)\n",
    # two equations that go round, and a quotient
    f"{_HEAD} -> y[b, t, d]:\n    seq t\n    u = h[t-1] - 0.5 * x\n    h = (u + a * x) / (1 + a ^ 2) + x\n"
    "    y = h * u\n",
    # a fold, which is not done twice
    f"{_HEAD} -> y[b, t, d]:\n    seq t\n    h = sigmoid(a) * h[t-1] + sum[n](exp(c) * w)\n    y = tanh(h)\n",
    # complex numbers
    "layer f(x[b, t, d], a[b, t, d]: complex, c[d, n]: complex, h0[b, d]) -> y[b, t, d]:\n    seq t\n"
    "    h = c / (1 + abs(c)) * h[t-1] + x * a\n    y = re(sum[n](conj(c) * h))\n",
)  # fmt: skip


def random_layer(seed: int) -> str:
    """A layer with one to three recurrences that are affine in their past."""
    draw = np.random.default_rng(seed)

    def pick(*choices: str) -> str:
        return choices[int(draw.integers(len(choices)))]

    lines, made = list[str](), ["x"]
    for name in "hgk"[: int(draw.integers(1, 4))]:
        back = "t-1" if draw.random() < 0.7 else "t+1"
        source = pick(*made)
        gate = pick(
            "sigmoid(a)", "exp(-abs(a))", "where(a > 0.5, 0, 0.7)", "tanh(h0)", "0.9", "1", f"0.5 * tanh({source})"
        )
        past = pick(
            f"{gate} * {name}[{back}]", f"({name}[{back}] - x) * {gate}", f"{name}[{back}] * {gate} / (1 + a ^ 2)"
        )
        lines.append(f"{name} = {past} + {pick(source, 'a * x', f'sigmoid({source})')}")
        if draw.random() < 0.5:
            lines.append(f"{name}[t<0] = h0" if back == "t-1" else f"{name}[t >= #t] = 3 * h0")
        made += [name, f"{name}[t-1]"]
    lines.append("y = " + " + ".join(made[1:]) + " * a")
    if draw.random() < 0.5:
        lines.append(f"last = {pick(*made[1::2])}[t = #t - 1]")
    outputs = "y[b, t, d], last[b, d]" if lines[-1].startswith("last") else "y[b, t, d]"
    return f"layer f(x[b, t, d], a[b, t, d], h0[b, d]) -> {outputs}:\n    seq t\n    " + "\n    ".join(lines) + "\n"
