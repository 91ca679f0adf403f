"""Every way to run time, on every target, against the interpreter: values, gradients, and the same bits again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ssmc.compiler import stages
from ssmc.dsl import elaborate, module_from_text
from ssmc.ir import Program, bind_extents, complete_extents, dependence
from ssmc.ir.interpret import interpret
from ssmc.passes import PlanOptions, grad, kept_values, rebuilding, saving, step
from tests.backends.test_c_derived import FORMS, derived
from tests.compiled import CompiledProgram, random_inputs
from tests.library_cases import LOWERED, Case
from tests.passes.affine import SAMPLES, random_layer

TARGETS = ("c", "cuda", "triton")
CHUNKS = PlanOptions(time="chunks", chunk=32)
LENGTHS = (1, 31, 32, 33, 65, 97)
SIZES = {"b": 2, "t": 5, "d": 3, "n": 2}
TOLERANCE = {"f64": 1e-10, "f32": 5e-4}
NOT_AFFINE = ("lstm", "gated_delta", "h3", "shift_ssm")
CASES = [
    case for case in LOWERED
    if "t" in case.sizes and dependence(case.program()).recurrences and case.layer not in NOT_AFFINE
]  # fmt: skip
NAMES = [case.name for case in CASES]


def built(
    program: Program, sizes: dict[str, int], target: str, real: str = "f64", options: PlanOptions = CHUNKS
) -> CompiledProgram:
    how = {"quickly": True} if target == "triton" else {}
    return CompiledProgram(program, sizes, real, options, fast=real == "f64", target=target, **how)


def agree(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], real: str = "f64") -> None:
    for name, want in expected.items():
        scale = np.abs(want).max(initial=0) + 1e-30
        error = np.abs(found[name] * 1.0 - want).max(initial=0)
        assert error <= TOLERANCE[real] * scale, f"{name}: {error / scale:.1e}"


def check(
    layer: Program, sizes: dict[str, int], target: str, lengths: tuple[int, ...], real: str = "f64",
    options: PlanOptions = CHUNKS,
) -> None:  # fmt: skip
    """All that ``both_ways`` asks, of what is not planned in order alone."""
    forward = both_ways(layer, sizes, lengths, lambda p: built(p, sizes, target, real, options), real)
    assert any(kernel.part or kernel.at_once for kernel in forward.stages.plan.kernels)


def both_ways(
    layer: Program, sizes: dict[str, int], lengths: tuple[int, ...], build: Callable[[Program], CompiledProgram],
    real: str = "f64", again: bool = True,
) -> CompiledProgram:  # fmt: skip
    """Forwards with what is kept, and backwards; once more, by several threads. Gives the way forward."""
    gradient = grad(layer)
    kept = kept_values(gradient)
    forward, backward = build(saving(layer, kept)), build(rebuilding(gradient, kept))
    for length in lengths:
        inputs = random_inputs(gradient, {**sizes, "t": length})
        own = {t.name: inputs[t.name] for t in layer.inputs}
        found = forward(own)
        agree(found, interpret(layer, own), real)
        given = {**inputs, **{item.name: found[item.name] for item in kept}}
        slopes = backward(given)
        agree(slopes, interpret(gradient, inputs), real)
        if again:
            for once, twice in ((found, forward(own, threads=3)), (slopes, backward(given, threads=3))):
                assert all(np.array_equal(once[name], twice[name], equal_nan=True) for name in once)
    return forward


def layer_of(text: str) -> Program:
    return elaborate(module_from_text(text))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("text", [*SAMPLES[1:3], SAMPLES[5]], ids=(1, 2, 5))
def test_samples(text: str, target: str) -> None:
    check(layer_of(text), dict(SIZES), target, LENGTHS[2:5] if target == "triton" else LENGTHS)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("text", [SAMPLES[0], *SAMPLES[3:5], SAMPLES[6]], ids=(0, 3, 4, 6))
def test_more_samples(text: str, target: str) -> None:
    check(layer_of(text), dict(SIZES), target, LENGTHS)


@pytest.mark.parametrize(
    ("case", "target"),
    [
        pytest.param(case, target, id=f"{target}-{case.name}", marks=[] if case.name == name else [pytest.mark.slow])
        for case in CASES
        for target, name in zip(TARGETS, ("selective_scan()", "ssd(dt_max=0.5)", "rg_lru_gated()"), strict=True)
    ],
)
def test_library(case: Case, target: str) -> None:
    check(case.program(), dict(case.sizes), target, (33, 65))


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[] if c.name == "affine_scan()" else [pytest.mark.slow], id=c.name) for c in CASES]
)
def test_library_in_single_precision(case: Case) -> None:
    check(case.program(), dict(case.sizes), "c", (97,), "f32")


@pytest.mark.parametrize("form", [*FORMS, "step"])
@pytest.mark.parametrize(
    ("case", "target"),
    [
        pytest.param(case, target, id=f"{target}-{case.name}", marks=[] if soon else [pytest.mark.slow])
        for case in CASES
        for target in TARGETS
        for soon in [case.name == "rg_lru_gated()" and target != "cuda"]
    ],
)
def test_derived(case: Case, target: str, form: str) -> None:
    """Packed, padded, backwards, with states in between, and one piece of a sequence after another."""
    sizes = {"b": 2, **case.sizes}
    stepped = step(case.program(), takes=True, gives=True)
    if form == "step":
        program, inputs = stepped, random_inputs(stepped, {**sizes, "t": 41})
    else:
        program, inputs = derived(stepped, form, {**sizes, "t": 6})
    bound = bind_extents(program, {name: array.shape for name, array in inputs.items()})
    made = built(program, {a.name: bound[a.name] for a in program.axes if a.extent is None}, target)
    agree(made(inputs), interpret(program, inputs))


@pytest.mark.parametrize("target", ["c", pytest.param("cuda", marks=pytest.mark.slow), "triton"])
@pytest.mark.parametrize("seed", [0, 12, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 30) if n != 12)])
def test_random_layers(seed: int, target: str) -> None:
    check(layer_of(random_layer(seed)), {"b": 2, "t": 5, "d": 3}, target, (33, 65))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("lines", [
    "u = tanh(x)\n    y = sigmoid(a) * y[t-1] + u[t+1]",
    "s = sigmoid(a)\n    h = s * h[t-1] + x\n    g = s * g[t+1] + x\n    y = h + g",
])  # fmt: skip
def test_summaries_know_nothing_of_the_last_part(lines: str, target: str) -> None:
    """What they take from a later step, and what summaries that run the other way take, is not made with them."""
    layer = layer_of(f"layer f(x[b, t, d], a[b, t, d]) -> y[b, t, d]:\n    seq t\n    {lines}\n")
    made = built(layer, dict(SIZES), target)
    assert any(kernel.cut for kernel in made.stages.loops.kernels)
    for length in (33, 64):
        inputs = random_inputs(layer, {**SIZES, "t": length})
        agree(made(inputs), interpret(layer, inputs))


def test_no_steps_at_all() -> None:
    program = layer_of(SAMPLES[2])
    made = built(program, dict(SIZES), "c")
    inputs = random_inputs(program, {**SIZES, "t": 0})
    found = made(inputs)
    assert np.array_equal(found["last"], inputs["h0"]) and np.array_equal(found["first"], 2 * inputs["h0"])


ROUND = "layer f(x[b, t, d], a[b, t, d]) -> y[b, t, d]:\n    seq t\n    y = sigmoid(a) * y[t-1] + x\n"


@pytest.mark.parametrize("target", TARGETS)
def test_how_many_chunks_follows_from_sizes(target: str) -> None:
    """One text for all lengths and batches: in order where there are channels enough, in chunks where not."""
    layer, how = layer_of(ROUND), {"quickly": True} if target == "triton" else {}
    made = CompiledProgram(layer, {"b": 1, "t": 1, "d": 1}, options=PlanOptions(time="chunks"), target=target, **how)
    parts = {}
    for batch, length in ((1, 0), (1, 1), (2, 129), (1, 511), (1, 512), (1, 1000)):
        inputs = random_inputs(layer, {"b": batch, "t": length, "d": 3})
        agree(made(inputs), interpret(layer, inputs))
        extents = complete_extents(made.stages.program, {"b": batch, "t": length, "d": 3})
        parts[batch, length] = extents["t.part"]
        assert extents["t.steps"] % 32 == 0 and extents["t.cut"] == extents["t.part"] - 1
    assert parts == {(1, 0): 1, (1, 1): 1, (2, 129): 1, (1, 511): 1, (1, 512): 4, (1, 1000): 8}
    assert complete_extents(made.stages.program, {"b": 1 << 16, "t": 4096, "d": 64})["t.part"] == 1


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("text", [SAMPLES[2], *(pytest.param(s, marks=pytest.mark.slow) for s in SAMPLES)])
def test_gradients_of_chunks_that_follow_from_sizes(target: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks for short sequences, which longer ones have anyway: kernels do not know their length."""
    for name, value in {"_WORTH_IT": 40, "_SHORTEST": 32, "_PAYS_TWICE": 2}.items():
        monkeypatch.setattr(f"ssmc.passes.strategy.{name}", value)
    check(layer_of(text), dict(SIZES), target, (39, 75), options=PlanOptions(time="chunks"))


def test_the_plan_says_so() -> None:
    text = stages(layer_of(SAMPLES[0]), options=CHUNKS).show("plan")
    for words in ("each part of 32 steps (t.part)", "each part of 32 steps (t.cut)", "time=chunks,chunk=32"):
        assert words in text
