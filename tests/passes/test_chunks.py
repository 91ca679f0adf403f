"""Time in chunks means what time in order means: the interpreter runs both."""

from __future__ import annotations

import numpy as np
import pytest

from ssmc.compiler import prepared
from ssmc.dsl import elaborate, module_from_text
from ssmc.errors import Unsupported, UserError
from ssmc.ir import Program, dependence
from ssmc.ir.interpret import interpret
from ssmc.ir.verify import verify
from ssmc.passes import chunks, grad, kept_values, plan, rebuilding, saving, step
from tests.compiled import random_inputs
from tests.library_cases import LOWERED, Case
from tests.passes.affine import SAMPLES

Arrays = dict[str, np.ndarray]
LENGTHS = (1, 32, 33, 70)
SOON = ("affine_scan()",)


def forms(program: Program) -> dict[str, Program]:
    """The layer, a piece of a sequence, what keeps states, and both ways back."""
    stepped = step(program, takes=True, gives=True)
    found = {"all at once": program, "a piece": stepped}
    for name, layer in (("all at once", program), ("a piece", stepped)):
        gradient = grad(layer)
        kept = kept_values(gradient)
        found |= {f"{name}, kept": saving(layer, kept), f"{name}, back": rebuilding(gradient, kept)}
    return found


def inputs_of(program: Program, forward: Program, sizes: dict[str, int]) -> Arrays:
    """Random numbers; what a way back is given of states is what the way there keeps."""
    inputs = random_inputs(program, sizes)
    kept = kept_values(grad(forward))
    if not {item.name for item in kept} & inputs.keys():
        return inputs
    found = interpret(saving(forward, kept), {t.name: inputs[t.name] for t in forward.inputs})
    return {name: found.get(name, value) for name, value in inputs.items()}


def agree(program: Program, forward: Program, sizes: dict[str, int]) -> None:
    """Chunks of 32 against no chunks, at lengths about theirs."""
    made = prepared(program, sizes)
    cut = chunks(made, 32)
    verify(cut)
    for length in LENGTHS:
        inputs = inputs_of(program, forward, {**sizes, "t": length})
        expected = interpret(program, inputs)
        for name, found in interpret(cut, inputs).items():
            scale = np.abs(expected[name]).max(initial=0) + 1e-30
            assert np.abs(found - expected[name]).max(initial=0) <= 1e-10 * scale, (name, length)


def has_parts(program: Program, sizes: dict[str, int]) -> bool:
    return any(k.part for k in plan(chunks(prepared(program, sizes), 32), sizes).kernels)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(c, marks=[] if c.name in SOON else [pytest.mark.slow], id=c.name)
        for c in LOWERED
        if "t" in c.sizes and dependence(c.program()).recurrences and c.layer not in ("lstm", "gated_delta", "h3")
        and c.layer != "shift_ssm"
    ],
)  # fmt: skip
def test_library(case: Case) -> None:
    """Forwards, backwards, with states that come in and go out."""
    sizes = dict(case.sizes)
    for name, program in forms(case.program()).items():
        forward = step(case.program(), True, True) if name.startswith("a piece") else case.program()
        agree(program, forward, sizes)
        assert has_parts(program, sizes), name


@pytest.mark.parametrize("text", SAMPLES)
def test_samples(text: str) -> None:
    """Recurrences side by side, one feeding the other, both ways in time, of complex numbers, read late."""
    layer = elaborate(module_from_text(text))
    sizes = {"b": 2, "t": 5, "d": 3, "n": 2}
    agree(layer, layer, sizes)
    assert has_parts(layer, sizes)
    gradient = grad(layer)
    agree(rebuilding(gradient, kept_values(gradient)), layer, sizes)


REFUSED = [
    ("h = tanh(x + 0.5 * h[t-1])", "is not affine in the past of each element by itself"),
    ("h = 0.5 * h[t-1] - 0.2 * h[t-2] + x", "reads more than its own element one step back"),
    ("h = 0.3 * h[t-2] + x", "reads more than its own element one step back"),
    ("k = 0.5 * k[t-1] + h[t-1]\n    h = 0.5 * h[t-1] - 0.2 * k[t-1] + x", "carries 2 values"),
    ("h = x + 0.5 * h[t-1, d = (d + 1) % #d]", "reads more than its own element one step back"),
    ("h = x + sum[e](w[d, e] * h[t-1, d=e])", "reads more than its own element one step back"),
]  # fmt: skip


@pytest.mark.parametrize(("recurrence", "why"), REFUSED)
def test_what_cannot_be_cut_is_refused(recurrence: str, why: str) -> None:
    text = f"layer f(x[t, d], w[d, e]) -> y[t, d]:\n    seq t\n    {recurrence}\n    y = h * sum[e](w)\n"
    program = prepared(elaborate(module_from_text(text)), {"d": 3, "e": 3})
    with pytest.raises(Unsupported, match=f"time cannot be cut into chunks: the recurrence of equation `[hk]` {why}"):
        chunks(program)


def test_without_recurrences_nothing_changes() -> None:
    program = elaborate(module_from_text("layer f(x[t]) -> y[t]:\n    seq t\n    y = x * x[t-1]\n"))
    assert chunks(program) is program


def test_chunks_hold_whole_chunks_of_what_is_kept() -> None:
    program = elaborate(module_from_text("layer f(x[t]) -> h[t]:\n    seq t\n    h = 0.5 * h[t-1] + x\n"))
    with pytest.raises(UserError, match="a multiple of 32"):
        chunks(program, 40)
