"""What the backward pass promises: little memory, equal bits at any number of threads, decisions that stand."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from ssmc.backends import default_storage
from ssmc.compiler import stages
from ssmc.dsl import elaborate, module_from_text
from ssmc.ir import BOOL, INT, Equation, Program, Read, complete_extents, walk
from ssmc.ir.interpret import interpret
from ssmc.passes import differentiable, grad, kept_values, rebuilding, saving, tidied
from tests.backends.test_c_gradients import Both
from tests.compiled import CompiledProgram, random_inputs
from tests.library_cases import LIBRARY, Case

Arrays = dict[str, np.ndarray]

# ---------------------------------------------------------------- memory

SCAN = Case("selective_scan", "selective_scan", {"b": 1, "t": 2048, "d": 1536, "n": 16})
LITTLE = math.prod(SCAN.sizes.values()) // 30

COUNTING = """#include <stdint.h>
#include <stdlib.h>
__attribute__((visibility("default"))) int64_t bytes_asked_for;
static void *counted_malloc(size_t n) {
    __atomic_add_fetch(&bytes_asked_for, (int64_t)n, __ATOMIC_RELAXED);
    return malloc(n);
}
static void *counted_aligned(size_t alignment, size_t n) {
    __atomic_add_fetch(&bytes_asked_for, (int64_t)n, __ATOMIC_RELAXED);
    return aligned_alloc(alignment, n);
}
#define malloc counted_malloc
#define aligned_alloc counted_aligned
"""


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("absent", [(), ("z", "h0", "D", "dt_bias")])
def test_the_scan_keeps_and_works_in_little(batch: int, absent: tuple[str, ...]) -> None:
    """Beyond inputs and gradients: one thirtieth of batch × length × channels × states, kept, and as much worked in.
    Per batch entry, at any batch size."""
    program = replace(SCAN, absent=absent).program()
    gradient = grad(program)
    kept = kept_values(gradient)
    backward = rebuilding(gradient, kept)
    made = stages(backward, "c", default_storage(backward, "f32"), dict(SCAN.sizes))
    sizes = complete_extents(made.program, {**SCAN.sizes, "b": batch})
    worked_in = [a for a in made.arguments if a.role == "workspace"]
    assert 0 < sum(math.prod(sizes[x] for x in a.axes) for a in worked_in) < LITTLE * batch
    assert 0 < sum(math.prod(sizes[x] for x in item.axes) for item in kept) < LITTLE * batch


def test_what_the_scan_asks_for_while_it_runs() -> None:
    """Workspaces, and all that threads take for themselves, at full size; bits do not depend on their number."""
    program = SCAN.program()
    gradient = grad(program)
    kept = kept_values(gradient)
    inputs = {n: v.astype(np.float32) for n, v in random_inputs(gradient, SCAN.sizes).items()}
    forward = CompiledProgram(saving(program, kept), dict(SCAN.sizes), "f32", fast=True, before=COUNTING)
    found = forward({t.name: inputs[t.name] for t in program.inputs}, threads=2)
    built = CompiledProgram(rebuilding(gradient, kept), dict(SCAN.sizes), "f32", fast=True, before=COUNTING)
    inputs |= {item.name: found[item.name] for item in kept}
    sizes = complete_extents(built.stages.program, SCAN.sizes)
    workspace = sum(math.prod(sizes[x] for x in a.axes) for a in built.stages.arguments if a.role == "workspace")
    first = None
    for threads in (1, 2, 3):
        counters = [ctypes.c_int64.in_dll(ctypes.CDLL(str(p.library)), "bytes_asked_for") for p in (forward, built)]
        before = counters[1].value
        gradients = built(inputs, threads=threads)
        asked = (counters[1].value - before) // 4
        assert 0 < workspace + asked < LITTLE, f"{workspace} + {asked} floats with {threads} threads"
        assert counters[0].value // 4 < LITTLE
        first = first or gradients
        assert all(gradients[name].tobytes() == first[name].tobytes() for name in first)


# ---------------------------------------------------------------- equal bits

BUSY = [
    ("layer scan(x[b, t, d], a[t, n], C[b, n], h0[d]) -> y[b, t, d], e[n]:\n    seq t\n"
     "    h[b, t, d, n] = sigmoid(a) * h[t-1] + x\n    h[t<0] = h0\n    y = sum[n](C * h)\n"
     "    e = mean[b, t, d](h ^ 2)\n", {"b": 3, "t": 131, "d": 67, "n": 4}),
    ("layer everything(x[b, t, d]) -> s[], m[d], q[b]:\n    seq t\n    s = sum[b, t, d](tanh(x) ^ 3)\n"
     "    m = mean[b, t](x * s)\n    q = max[t, d](sin(x) * m)\n", {"b": 3, "t": 131, "d": 67}),
    ("layer gathered(E[c, d], w[d], code[b, t]: int) -> y[b, t, d]:\n    seq t\n    y = tanh(E[c=code] * w)\n",
     {"b": 3, "t": 131, "d": 67, "c": 5}),
    ("layer tables(x[b, t, d], code[b, t]: int, E[c, d]) -> y[b, t, d]:\n    seq t\n"
     "    s[c, d] = sum[b, t: code == c](sin(x)) * E\n    y = s[c=code] * x\n", {"b": 3, "t": 131, "d": 67, "c": 5}),
    ("layer convolved(x[b, t, d], w[d, k], g[d]) -> y[b, t, d]:\n    seq t\n"
     "    s = sum[k < 4](w * x[t-k])\n    y = s * rsqrt(mean[d](s ^ 2) + 1) * g\n",
     {"b": 3, "t": 131, "d": 67, "k": 4}),
    ("layer against(x[b, t, d], a[d]) -> y[b, t, d]:\n    seq t\n    h = sigmoid(a) * h[t+1] + x\n"
     "    y = 0.5 * y[t-1] + sigmoid(h)\n", {"b": 2, "t": 70, "d": 19}),
    ("layer network(x[b, t, e], W[e, k], U[e, j]) -> h[b, t, e]:\n    seq t\n"
     "    h = tanh(sum[k](W * x[e=k]) + sum[j](U * h[t-1, e=j]))\n", {"b": 9, "t": 70, "e": 16, "k": 16, "j": 16}),
]  # fmt: skip


@pytest.mark.parametrize("real", ["f32", pytest.param("f64", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("text", "sizes"), BUSY, ids=[text.split("(")[0][6:] for text, _ in BUSY])
def test_equal_bits(text: str, sizes: dict[str, int], real: str) -> None:
    """Sums over batch, time and channels, run twice with 1, 2, 3 and 5 threads."""
    both = Both(elaborate(module_from_text(text)), sizes, real)
    inputs = random_inputs(both.gradient, sizes)
    first = both(inputs)
    for threads in (1, 1, 2, 2, 3, 3, 5):
        for one, other in zip(first, both(inputs, threads=threads), strict=True):
            assert all(one[name].tobytes() == other[name].tobytes() for name in one)
    wanted = interpret(both.gradient, inputs)
    for name, want in wanted.items():
        assert np.abs(first[1][name] - want).max() <= (1e-3 if real == "f32" else 1e-10) * np.abs(want).max(), name


# ---------------------------------------------------------------- decisions


def decided(program: Program) -> list[str]:
    """Whole numbers and truth values that follow from reals at once."""
    tensors = program.tensors()
    exact = (INT, BOOL)
    reals = {t.name for t in tensors.values() if t.dtype not in exact}
    return [e.name for e in program.equations if e.dtype in exact and reals & {r.tensor for r in _reads(e)}]


def _reads(equation: Equation) -> list[Read]:
    return [node for node in walk(equation.expr) if isinstance(node, Read)]


def given_decisions(program: Program, names: list[str]) -> Program:
    """The same layer, told what it would decide."""
    tensors = program.tensors()
    return replace(
        program,
        inputs=(*program.inputs, *(tensors[name] for name in names)),
        equations=tuple(e for e in program.equations if e.name not in names),
    )


HASHED = """
layer hashed(x[b, t, d], w[d, r], E[c, d], h0[d]) -> y[b, t, d], m[b, d]:
    seq t
    code[b, t]: int = sum[r](where(sum[d](x * w) > 0, 2 ^ r, 0))
    h = sigmoid(x) * h[t-1] + E[c=code]
    h[t<0] = h0
    last[b, d]: int = argmax[t](h)
    y = h * x
    m = y[t=last]
"""
LSH = """
from reformer import lsh_buckets, reformer_lsh

layer lsh(x[b, h, t, e], v[b, h, t, f], R[h, e, r, n]) -> y[b, h, t, f]:
    bucket = lsh_buckets(x, R)
    near = reformer_lsh(x, v, bucket, chunk=2, causal=true)
    best[b, h, t]: int = argmax[f](near)
    y = near * v[f=best]
"""
DECIDING: dict[str, tuple[Program, dict[str, int]]] = {
    c.name: (c.program(), dict(c.sizes)) for c in LIBRARY if differentiable(c.program())[1] and decided(c.program())
}
DECIDING |= {
    "hashed": (elaborate(module_from_text(HASHED)), {"b": 2, "t": 37, "d": 5, "r": 2, "c": 4}),
    "lsh": (elaborate(module_from_text(LSH)), {"b": 1, "h": 2, "t": 8, "e": 3, "f": 4, "r": 2, "n": 2}),
}


@pytest.mark.parametrize("name", DECIDING)
def test_decisions_are_kept(name: str) -> None:
    """The backward goes by what was decided on the way there: told otherwise, it differentiates another function."""
    program, sizes = DECIDING[name]
    gradient = grad(program)
    kept = kept_values(gradient)
    names = decided(program)
    assert set(names) <= {item.tensor.name for item in kept if not item.depth}
    inputs = random_inputs(gradient, sizes)
    rebuilt = rebuilding(gradient, kept)
    assert not set(names) & {e.name for e in tidied(rebuilt).equations if not _is_copy(e)}, "decided again"
    runs: list[Callable[[Arrays], Arrays]] = [lambda given: interpret(rebuilt, given)]
    if name == "hashed":
        runs.append(CompiledProgram(rebuilt, sizes, fast=True))
    for told, expected in told_otherwise(program, inputs, names):
        for run in runs:
            found = run({**inputs, **told})
            for adjoint, want in expected.items():
                np.testing.assert_allclose(found[adjoint], want, 1e-9, 1e-9, err_msg=adjoint)


def told_otherwise(program: Program, inputs: Arrays, names: list[str]) -> Iterator[tuple[Arrays, Arrays]]:
    """What the backward is told, with decisions as they were and others, and the gradient that these give."""
    draw = np.random.default_rng(1)
    values = interpret(program, {t.name: inputs[t.name] for t in program.inputs}, keep="all")
    kept = kept_values(grad(program))
    decisions = [item.tensor.name for item in kept if not item.depth and item.tensor.name in values]
    given = given_decisions(program, decisions)
    gradient = grad(given)
    for change in (lambda v: v, lambda v: draw.permutation(v.reshape(-1)).reshape(v.shape)):
        held = {name: np.asarray(change(values[name]) if name in names else values[name]) for name in decisions}
        states = saving(given, [item for item in kept if item.depth])
        found = interpret(states, {t.name: {**inputs, **held}[t.name] for t in states.inputs})
        told = {f"{name}.saved": value for name, value in held.items()}
        told |= {item.name: found[item.name] for item in kept if item.depth}
        yield told, interpret(gradient, {t.name: {**inputs, **held}[t.name] for t in gradient.inputs})


def _is_copy(equation: Equation) -> bool:
    return isinstance(equation.expr, Read) and equation.expr.tensor == f"{equation.name}.saved"
