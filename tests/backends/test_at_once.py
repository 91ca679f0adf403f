"""Lanes over time on the Triton target: many steps at once, against the interpreter."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import ssmc
from ssmc.backends import Cache, default_storage, triton_toolchain
from ssmc.compiler import compile_program, stages
from ssmc.errors import Unsupported, UserError
from ssmc.ir import Program, bind_extents
from ssmc.ir.interpret import interpret
from ssmc.passes import PlanOptions, grad, kept_values, rebuilding, step
from ssmc.verify import HOLDS, verify
from tests.backends.test_c_derived import FORMS, derived
from tests.backends.test_time import CASES, SIZES, agree, both_ways, layer_of
from tests.compiled import CompiledProgram, random_inputs
from tests.library_cases import LOWERED, Case
from tests.passes.affine import SAMPLES, random_layer
from tests.triton_host.machine import interpreted

by_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed: pip install 'ssmc[gpu]'"
)
LANES = PlanOptions(time="lanes")
IN_ORDER = PlanOptions(time="in_order")
LENGTHS = (0, 1, 31, 32, 33, 63, 64, 65, 97)
SOON = ("selective_scan()", "rg_lru_gated()", "s4d()", "affine_scan_complex()")


def built(
    program: Program, sizes: dict[str, int], real: str = "f64", options: PlanOptions = LANES, quickly: bool = True
) -> CompiledProgram:
    """A Program all of whose recurrences take many steps at once."""
    made = CompiledProgram(program, sizes, real, options, target="triton", quickly=quickly)
    assert not made.stages.plan.instead
    assert all(kernel.at_once for kernel in made.stages.loops.kernels if kernel.recurrent)
    return made


def check(
    layer: Program, sizes: dict[str, int], lengths: tuple[int, ...], real: str = "f64", options: PlanOptions = LANES,
    quickly: bool = True,
) -> None:  # fmt: skip
    """All that ``both_ways`` asks."""
    both_ways(layer, sizes, lengths, lambda p: built(p, sizes, real, options, quickly), real, again=quickly)


def marked(soon: tuple[str, ...]) -> list[object]:
    return [pytest.param(c, marks=[] if c.name in soon else [pytest.mark.slow], id=c.name) for c in CASES]


@pytest.mark.parametrize("case", marked(SOON))
def test_library(case: Case) -> None:
    check(case.program(), dict(case.sizes), LENGTHS if case.name == SOON[1] else (1, 33, 64))


@pytest.mark.parametrize("text", SAMPLES)
def test_samples(text: str) -> None:
    """Recurrences that feed each other, both ways in time, of complex numbers; sums, resets, what was before."""
    check(layer_of(text), dict(SIZES), (1, 33, 65))


@pytest.mark.parametrize("seed", [0, 12, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 40) if n != 12)])
def test_random_layers(seed: int) -> None:
    check(layer_of(random_layer(seed)), {"b": 2, "t": 5, "d": 3}, (33, 65))


MORE = (
    # what is read late is no recurrence; both ways
    "layer f(x[b, t, d], a[b, t, d], h0[b, d]) -> y[b, t, d]:\n    seq t\n    u = tanh(x)\n    u[t<0] = h0\n"
    "    h = 0.5 * h[t-1] + u[t-1]\n    v = exp(-a ^ 2)\n    g = sigmoid(a) * g[t+1] + v[t+1]\n"
    "    y = h + u[t-1] * a * g\n",
    # whole numbers
    "layer f(x[b, t, d], k[b, t]: int, s[b, t]: bool) -> y[b, t, d], last[b]: int:\n    seq t\n"
    "    c = where(s, 0, c[t-1]) + k\n    p = p[t-1] + k\n    h = 0.5 * h[t-1] + x * c * p\n    y = h\n"
    "    last = c[t = #t - 1]\n",
    # what equals a recurrence at each step, but was something else before the first
    "layer f(x[b, t, d], a[b, t, d], h0[b, d]) -> y[b, t, d]:\n    seq t\n    h = sigmoid(a) * h[t-1] + x\n"
    "    h[t<0] = 2 * h0\n    g = h\n    y = g + g[t-1]\n",
    # nothing but time
    "layer f(x[t], a[t]) -> y[t]:\n    seq t\n    h = sigmoid(a) * h[t-1] + x\n    y = h * h[t-1]\n",
    # a largest state and where it is, a sum over channels
    "layer f(x[b, t, d], a[b, t, d, n]) -> y[b, t, d], k[b, t, d]: int, z[b, t]:\n    seq t\n"
    "    h = sigmoid(a) * h[t-1] + x\n    y = max[n](h)\n    k = argmax[n](h)\n    z = sum[d](y)\n",
)  # fmt: skip


@pytest.mark.parametrize("text", MORE, ids=["late", "whole", "equal", "time", "largest"])
def test_more_layers(text: str) -> None:
    layer = layer_of(text)
    sizes = {"b": 2, "t": 5, "d": 3, "n": 3}
    check(layer, {axis.name: sizes[axis.name] for axis in layer.axes if axis.name in sizes}, (1, 32, 65))


@pytest.mark.parametrize("chunk", [64, 96])
def test_more_steps(chunk: int) -> None:
    """Where nothing is kept for each chunk, tiles may have more steps, of which the last need not be a power of two."""
    layer = layer_of(SAMPLES[2])
    made = built(layer, dict(SIZES), options=PlanOptions(time="lanes", chunk=chunk))
    assert {k.at_once for k in made.stages.loops.kernels if k.recurrent} == {chunk}
    for length in (chunk - 1, chunk, chunk + 1, 2 * chunk + 7):
        inputs = random_inputs(layer, {**SIZES, "t": length})
        agree(made(inputs), interpret(layer, inputs))


@pytest.mark.parametrize("d", [1, 16, 35])
def test_lanes_of_several_programs(d: int) -> None:
    check(layer_of(SAMPLES[1]), {**SIZES, "d": d}, (33,))


@pytest.mark.parametrize("real", ["f32", "bf16"])
def test_less_precision(real: str) -> None:
    (case,) = [case for case in CASES if case.name == SOON[0]]
    program, sizes = case.program(), {**case.sizes, "t": 65}
    made = CompiledProgram(program, sizes, real, LANES, target="triton", quickly=True)
    inputs = random_inputs(program, sizes)
    found, expected = made(inputs)["y"], interpret(program, inputs)["y"]
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error < {"f32": 1e-5, "bf16": 2e-2}[real]


@pytest.mark.parametrize("form", [*FORMS, "step"])
@pytest.mark.parametrize("case", marked(SOON[:2]))
def test_derived(case: Case, form: str) -> None:
    """Packed, padded, backwards, with states in between, and one piece of a sequence after another."""
    sizes = {"b": 2, **case.sizes}
    stepped = step(case.program(), takes=True, gives=True)
    if form == "step":
        program, inputs = stepped, random_inputs(stepped, {**sizes, "t": 41})
    else:
        program, inputs = derived(stepped, form, {**sizes, "t": 6})
    bound = bind_extents(program, {name: array.shape for name, array in inputs.items()})
    made = built(program, {a.name: bound[a.name] for a in program.axes if a.extent is None})
    agree(made(inputs), interpret(program, inputs))


@by_triton
@pytest.mark.parametrize("text", [SAMPLES[1], SAMPLES[2], SAMPLES[6]], ids=["states", "ends", "complex"])
def test_by_triton(text: str) -> None:
    """Its interpreter scans element by element, which takes long."""
    check(
        layer_of(text),
        {"b": 1, "t": 1, "d": 1, "n": 2},
        (33,),
        options=PlanOptions(time="lanes", block=1),
        quickly=False,
    )


def test_as_an_operator() -> None:
    """The table that says whether all calls of a layer are one function, as far as it takes seconds."""
    layer = interpreted(ssmc.load("affine_scan", "affine_scan", plan="time=lanes"), quickly=True)
    rows = ("forward", "gradient", "step by step", "same bits", "packed", "padded", "backwards", "extreme values")
    found = verify(layer, ["triton"], ["f32"], only=rows)
    own = [row for row in found.rows if row.subject == "triton, float32"]
    assert found.ok and len(own) == len(rows) and all(row.verdict == HOLDS for row in own), str(found)


# ---------------------------------------------------------------- what cannot take steps at once

_STATES = "layer f(x[b, t, d], c[d, n], w[b, t, n]) -> y[b, t, d]:\n    seq t\n    h = sigmoid(c) * h[t-1] + w * x\n"
CANNOT = (
    (
        "layer f(x[b, t, d], c[d, n]) -> y[b, t, d]:\n    seq t\n    h = 0.5 * h[t-1] + x\n"
        "    y = sum[n](c * h[t-n])\n",
        "kernel k0, which computes h, y, reads `h` 2 steps back",
    ),
    (f"{_STATES}    y = sum[n](w * h[t-1, n=(n + 1) % #n])\n", "kernel k0 reads more of `h` than its own element"),
    (f"{_STATES}    y = sum[n](w * h[n=(n + 1) % #n])\n", "kernel k0 keeps more than tiles of many steps hold: h"),
    (
        f"{_STATES}    s = sum[n](h)\n    q = s > 0\n    y = where(q[t-1], s, 0)\n",
        "kernel k0, which computes h, s, q, y, carries `q`, which is true or false",
    ),
)  # fmt: skip


@pytest.mark.parametrize(("text", "why"), CANNOT, ids=["far", "before", "elsewhere", "truth"])
def test_what_cannot_runs_in_chunks_and_says_so(text: str, why: str) -> None:
    layer, sizes = layer_of(text), {"b": 2, "t": 5, "d": 3, "n": 3}
    made = CompiledProgram(layer, sizes, options=LANES, target="triton", quickly=True)
    assert f"in chunks of time instead of lanes over time: {why}" in made.stages.show("plan")
    assert any(kernel.part for kernel in made.stages.loops.kernels)
    inputs = random_inputs(layer, {**sizes, "t": 300})
    agree(made(inputs), interpret(layer, inputs))


def test_tiles_that_are_too_large() -> None:
    layer, options = layer_of(SAMPLES[6]), PlanOptions(time="lanes", chunk=1 << 15)
    made = stages(layer, "triton", sizes={**SIZES, "n": 2}, options=options)
    assert "numbers at once (at most 32768 fit into a tile)" in made.plan.instead


def test_what_has_no_parts_either_is_refused() -> None:
    (case,) = [case for case in LOWERED if case.name == "lstm()"]
    with pytest.raises(Unsupported, match="time cannot be cut into chunks"):
        stages(case.program(), "triton", sizes=dict(case.sizes), options=LANES)
    with pytest.raises(UserError, match="target c has no time=lanes"):
        stages(case.program(), "c", sizes=dict(case.sizes), options=LANES)


def test_the_plan_says_so() -> None:
    gradient = grad(layer_of(SAMPLES[3]))
    text = stages(rebuilding(gradient, kept_values(gradient)), "triton", sizes=dict(SIZES), options=LANES).show("plan")
    for words in ("t, backwards, 32 steps at once", "scans        ", "adds up      d.h0"):
        assert words in text


def test_exponentials_are_taken_once() -> None:
    (case,) = [case for case in CASES if case.name == SOON[0]]
    texts = [stages(case.program(), "triton", sizes=dict(case.sizes), options=o).text for o in (IN_ORDER, LANES)]
    assert texts[0].count("tl.exp2(") == texts[1].count("tl.exp2(") == 1


@by_triton
@pytest.mark.parametrize("backward", [pytest.param(False, marks=pytest.mark.slow), True], ids=["forward", "backward"])
@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("rg_lru_gated()", "sm_90"),
        pytest.param("rg_lru_gated()", "gfx942", marks=pytest.mark.slow),
        *(
            pytest.param(name, "sm_90", marks=pytest.mark.slow)
            for name in ("selective_scan()", "affine_scan_complex()")
        ),
    ],
)
def test_machine_code(name: str, architecture: str, backward: bool, tmp_path: Path) -> None:
    """Nothing is spilled, with 16 states either."""
    (case,) = [case for case in CASES if case.name == name]
    program, sizes = case.program(), {axis: 16 if axis == "n" else extent for axis, extent in case.sizes.items()}
    if backward:
        gradient = grad(program)
        program = rebuilding(gradient, kept_values(gradient))
    storage = default_storage(program, "bf16")
    done = compile_program(program, f"triton:{architecture}", storage, sizes, LANES, cache=Cache(tmp_path))
    assert [item["spilled"] for item in triton_toolchain.facts(done.library.parent)] == [0] * len(done.programs)
