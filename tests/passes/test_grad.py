"""Gradients: names, and rule by rule."""

from __future__ import annotations

import numpy as np
import pytest

from ssmc.dsl import read_program
from ssmc.ir import Program, print_program, verify
from ssmc.ir.interpret import interpret
from ssmc.passes import adjoint_names, differentiable, grad
from ssmc.verify.gradients import check_gradient
from tests.library_cases import LOWERED, Case
from tests.passes.directions import assert_transposed, library_inputs, random_like
from tests.passes.test_jvp import RULES, layer


@pytest.mark.parametrize("case", LOWERED, ids=lambda case: case.name)
def test_names_of_adjoints_follow_from_the_program(case: Case) -> None:
    program = case.program()
    names, (inputs, outputs) = adjoint_names(program), differentiable(program)
    derived = grad(program)
    verify(derived)
    assert derived.outputs == tuple(names[name] for name in inputs)
    assert [t.name for t in derived.inputs[len(program.inputs) :]] == [names[name] for name in outputs]


FURTHER = {
    "diagonal": "y = v[u = t] * x + v[t=1, u=t]",
    "two places from data": "y = v[t = k, u = k + 1] * x",
    "place of a place": "p[b, t]: int = k * 2\n    y = x[t = p[t = k]] * a",
    "another row": "y = x[b = 1 - b] * a + x[b = 0, t = t + 1]",
    "reversed window": "y = sum[j < 3](x[t = #t - 1 - t - j] * c[d=j])",
    "halves": "y = x[t = t // 2] * a[t = 2 * t + 1] + x[t = t % 2]",
    "by nothing and less": "y = x[t = t // (-2)] * a[t = t % (-2)] + x[t = t // 0] * a[t = t % 0]",
    "the first again": "z = x\n    x[t<0] = z[t=0] + 0 * z[t = -t]\n    y = x[t-3] * a + sum[j < 3](x[t-j])",
    "mirrored": "z = x\n    x[t<0] = 0.5 * z[t = -t] * a\n    a[t<0] = z[t=1]\n    y = x[t-3] + sum[j < 3](x[t-j])",
    "own end": "x[t >= #t] = x[t = #t - 1] * s\n    y = sum[j < 3](x[t+j] * x[t-j])",
    "three joined": "w[b, m] = concat[m](x[t=m], a[t=m], x[t=m])\n    y = tanh(w[m = 2 * t + 1]) * w[m = 5 - t]",
    "sorted by what moves": "p[b, t]: int = argsort[t](x)\n    y = a[t=p] * x[t=p]",
    "empty folds": "p[b] = max[t: k > 9](x) + min[t: k > 9](x)\n    y = where(p > -9 and p < 9, p, 1) * x",
    "empty mean": "p[b] = mean[t: k > 9](x) + logsumexp[t: k > 9](x)\n    y = where(p > -9, p, 0) + x",
    "ties": "p[b] = max[t](where(k > 0, s, 2 * s)) + min[t](s * c[d=0])\n    y = p * a",
    "root of nothing": "y = where(k > 0, sqrt(k * a), 0) + sum[j < 3: t - j > 0](log((t - j) * a))",
    "complex of two": "z = complex(x, a) ^ 2 / complex(a, 1)\n    y = abs(z) * im(z * conj(q))",
    "complex sums": "p = sum[t, b](q * complex(x, a))\n    y = re(p * q) + im(mean[t](q))",
    "complex state": "h = (0.5 * h[t-1] + q) / (1 + abs(h[t-1]))\n    h[t<0] = complex(s, s)\n    y = re(h[t-2])",
    "long lags": "h = 0.5 * h[t-3] + x\n    h[t<0] = c[d = -t]\n    y = h * h[t-2]",
    "both ways": "f = 0.5 * f[t-1] + x\n    g = a * g[t+1] + f\n    y = f * g[t+1]",
    "over all of the past": "h = sum[s0: s0 < t](sin(h[t=s0]) * a[t=s0]) + x\n    y = h",
    "a table of sums": "e[b, r] = sum[t: k == r](x * a)\n    y = e[r=k] * x",
}  # fmt: skip
ALL_RULES = RULES | FURTHER


def of_rule(name: str) -> Program:
    return layer(
        "layer f(x[b, t], a[b, t], c[d], s[], q[b, t]: complex, k[b, t]: int, v[t, u]) -> y[b, t]:\n"
        f"    seq t\n    axis s0 < #t\n    axis r < 3\n    {ALL_RULES[name]}\n"
    )


@pytest.mark.parametrize("name", ALL_RULES)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_rules(name: str, seed: int) -> None:
    """The gradient beside differences, and its own gradient; both as text."""
    given = of_rule(name)
    inputs = library_inputs(given, {"b": 2, "t": 4, "d": 4, "u": 4}, seed)
    inputs["a"] = np.abs(inputs["a"]) + 0.1
    first = grad(given)
    adjoint = random_like(given, ["y"], interpret(given, inputs), seed + 1)
    received = {**inputs, "d.y": adjoint["y"]}
    for program, derived, at in ((given, first, inputs), (first, grad(first), received)):
        verify(derived)
        assert read_program(print_program(derived)) == derived
        for finding in check_gradient(name, program, derived, at, seed):
            assert finding.error <= finding.tolerance + 1e-9, finding
        assert_transposed(program, at)
