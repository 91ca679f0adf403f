"""Gradients on the C target against the interpreter: every layer that it lowers, forwards with what is kept for
the way back, then backwards with what is rebuilt."""

from __future__ import annotations

import numpy as np
import pytest

from ssmc.compiler import stages
from ssmc.dsl import elaborate, module_from_text
from ssmc.errors import Unsupported
from ssmc.ir import Program
from ssmc.ir.interpret import interpret
from ssmc.passes import Kept, grad, kept_values, rebuilding, saving
from tests.compiled import CompiledProgram, random_inputs
from tests.library_cases import COMPILED, FURTHER, INTERPRETED, LOWERED, Case

pytestmark = pytest.mark.usefixtures("threads_at_once")
TOLERANCE = {"f64": 1e-10, "f32": 5e-4}


class Both:
    """A Program's compiled forward pass, with what it keeps, and its compiled gradient."""

    def __init__(self, program: Program, sizes: dict[str, int], real: str = "f64", fast: bool = True) -> None:
        self.program, self.gradient = program, grad(program)
        self.kept: tuple[Kept, ...] = kept_values(self.gradient)
        self.forward = CompiledProgram(saving(program, self.kept), sizes, real, fast=fast)
        self.backward = CompiledProgram(rebuilding(self.gradient, self.kept), sizes, real, fast=fast)

    def __call__(self, inputs: dict[str, np.ndarray], threads: int = 1) -> tuple[dict[str, np.ndarray], ...]:
        """What goes forwards, and what comes back."""
        own = {t.name: inputs[t.name] for t in self.program.inputs}
        found = self.forward(own, threads=threads)
        return found, self.backward({**inputs, **{k.name: found[k.name] for k in self.kept}}, threads=threads)


def agree(program: Program, sizes: dict[str, int], real: str = "f64", seed: int = 0, fast: bool = True) -> None:
    """Values and gradients differ from the interpreter's by roundoff only, and not at all between threads."""
    both = Both(program, sizes, real, fast)
    inputs = random_inputs(both.gradient, sizes, seed)
    found, gradients = both(inputs)
    expected = interpret(program, {t.name: inputs[t.name] for t in program.inputs})
    for got, wanted in ((found, expected), (gradients, interpret(both.gradient, inputs))):
        for name, want in wanted.items():
            scale = np.abs(want).max(initial=0) + 1e-30
            error = np.abs(got[name] * 1.0 - want).max(initial=0)
            assert error <= TOLERANCE[real] * scale, f"{name}: {error / scale:.1e}"
    for threads in (2, 3):
        for one, other in zip((found, gradients), both(inputs, threads=threads), strict=True):
            assert all(np.array_equal(one[name], other[name], equal_nan=True) for name in one)


@pytest.mark.parametrize("case", LOWERED, ids=lambda c: c.name)
def test_library(case: Case) -> None:
    agree(case.program(), dict(case.sizes))


@pytest.mark.slow
@pytest.mark.parametrize("case", FURTHER, ids=lambda c: c.name)
def test_more_of_the_library(case: Case) -> None:
    agree(case.program(), dict(case.sizes))


@pytest.mark.parametrize("case", INTERPRETED, ids=lambda c: c.name)
def test_what_is_not_lowered_says_so(case: Case) -> None:
    with pytest.raises(Unsupported, match="equation `.*`: .* has no strategy on this target yet"):
        stages(case.program(), sizes=dict(case.sizes))


@pytest.mark.slow
@pytest.mark.parametrize("case", COMPILED, ids=lambda c: c.name)
def test_library_in_single_precision(case: Case) -> None:
    agree(case.program(), dict(case.sizes), "f32", fast=False)


def test_what_comes_back_is_stored_as_what_went_in() -> None:
    text = """
layer f(x[t, d], a[d], C[d]: complex) -> y[t, d]:
    seq t
    h = sigmoid(a) * h[t-1] + x
    y = re(C * h)
"""
    program = elaborate(module_from_text(text))
    gradient = grad(program)
    kept = kept_values(gradient)
    storage = {"x": "bf16", "a": "f32", "C": "f32", "d.y": "bf16", "h.saved": "f32"}
    found = stages(rebuilding(gradient, kept), storage=storage, sizes={"t": 3, "d": 4})
    outputs = {a.name: a.storage for a in found.arguments if a.role == "output"}
    assert outputs == {"d.x": "bf16", "d.a": "f32", "d.C": "f32"}
    forward = stages(saving(program, kept), storage={"x": "bf16", "a": "f32", "C": "f32"}, sizes={"t": 3, "d": 4})
    assert {a.name: a.storage for a in forward.arguments if a.role == "output"} == {"y": "f32", "h.saved": "f32"}


WINDOWS = {
    "before": "h = 0.75 * h[t-1] + tanh(sum[j](w * x[t-j]))\n    y = sum[j](w * h[t-j])",
    "behind": "h = 0.75 * h[t+1] + tanh(sum[j](w * x[t+j]))\n    y = sum[j](w * h[t+j])",
    "twice": "h = 0.75 * h[t-1] + sum[j](w * x[t-j])\n    g = sin(sum[j](w * h[t-j]))\n    y = sum[j](w * g[t-j])",
    "further back": "h = 0.75 * h[t-1] + x\n    y = h * h[t-2] + h[t-4]",
    "two, one of them further back": "h = 0.7 * g[t-2] + x\n    g = 0.7 * h[t-1] * x\n    y = h[t-3] * g[t-1] + g",
    "of itself": "h = sum[j](0.2 * w * h[t - 1 - j]) + x\n    y = sum[j](w * h[t-j]) * h[t-2]",
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_over_what_the_same_step_makes(name: str) -> None:
    """Entries of this very step are written before they are read, whatever loops there are before. What is rebuilt
    and read further back than its recurrence looks was saved so far back, or goes through memory."""
    text = f"layer f(x[b, t, d], w[j, d]) -> y[b, t, d]:\n    seq t\n    {WINDOWS[name]}\n"
    agree(elaborate(module_from_text(text)), {"b": 2, "t": 37, "d": 5, "j": 3})


STARTS = {
    "a fold": "h0[b, d] = sum[e](c * w)\n    h[t<0] = h0",
    "folds of folds": "s = sum[e](exp(c))\n    h0[b, d] = sum[e](c * w * s)\n    h[t<0] = tanh(h0)",
}


@pytest.mark.parametrize("length", [1, 37, 70])
@pytest.mark.parametrize("name", STARTS)
def test_recurrences_that_start_from_what_kernels_make(name: str, length: int) -> None:
    """What is saved at the starts of chunks is carried there, the start included: the recurrence is not stored."""
    text = f"""layer f(x[b, t], w[d], c[e]) -> y[b, t]:
    seq t
    h[b, t, d] = 0.5 * h[t-1] + x
    {STARTS[name]}
    y = sum[d](h * w)
"""
    program, sizes = elaborate(module_from_text(text)), {"b": 2, "t": length, "d": 5, "e": 3}
    agree(program, sizes)
    plan = stages(saving(program, kept_values(grad(program))), sizes=sizes).plan
    assert ("h.saved",) in [kernel.snapshots for kernel in plan.kernels] and "h" not in plan.workspaces


def test_what_does_not_recur_is_saved_from_memory() -> None:
    """Values at the starts of chunks that no kernel carries."""
    text = "layer f(x[t, d]) -> y[t, d]:\n    seq t\n    y = exp(x)\n    y[t<0] = 2\n"
    program = elaborate(module_from_text(text))
    program = saving(program, [Kept(program.tensors()["y"], "t", 1, "d")])
    sizes = {"t": 70, "d": 5}
    inputs = random_inputs(program, sizes, 0)
    found, expected = CompiledProgram(program, sizes)(inputs), interpret(program, inputs)
    assert found["y.saved"].shape == (3, 5)
    for name, want in expected.items():
        np.testing.assert_allclose(found[name], want, rtol=1e-12)


LATE = {
    "the last state": "h[b, t, d] = 0.5 * h[t-1] + x\n    s[b, d] = h[t = #t - 1]\n    y = sum[d](h * s)",
    "a start that is a last state": "h[b, t, d] = 0.5 * h[t-1] + x\n    s[b, d] = h[t = #t - 1] * w\n"
    "    g[b, t, d] = 0.5 * g[t-1] + h\n    g[t<0] = s\n    y = sum[d](g * w)",
    "a sum of states": "h[b, t, d] = 0.5 * h[t-1] + x\n    s[b, d] = sum[t](h)\n    y = sum[d](h * s * w)",
    "a sum over tokens": "s[b, d] = sum[t](x * w)\n    h[b, t, d] = 0.5 * h[t-1] + s\n    y = sum[d](h * w) + x",
    "a start that is a sum": "s[b, d] = sum[t](x * w)\n    h[b, t, d] = 0.5 * h[t-1] + x\n    h[t<0] = s\n"
    "    y = sum[d](h * w)",
}


@pytest.mark.parametrize("length", [1, 40])
@pytest.mark.parametrize("name", LATE)
def test_steps_that_read_what_is_known_after_the_last_step(name: str, length: int) -> None:
    """Such steps are in a later kernel than those that the value follows from."""
    text = f"layer f(x[b, t], w[d]) -> y[b, t]:\n    seq t\n    {LATE[name]}\n"
    agree(elaborate(module_from_text(text)), {"b": 2, "t": length, "d": 5})
