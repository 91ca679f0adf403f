"""The Triton target against the interpreter: the same rows as the C target's.

Kernels are run by Triton's own interpreter, which takes a fifth of a millisecond for every operation on a tile, and,
more of them, by ``tests.triton_host.language``, which also sees what is read or written outside of a tensor.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from ssmc.backends import TileLaunch
from ssmc.compiler import stages
from ssmc.dsl import elaborate, module_from_text
from ssmc.errors import Unsupported
from ssmc.ir import Program, bind_extents, print_program
from ssmc.ir.interpret import interpret
from ssmc.passes import PlanOptions, grad, kept_values, rebuilding, saving, step
from tests.backends.test_c_derived import FORMS, derived
from tests.backends.test_c_random import LOWERED as RANDOM
from tests.backends.test_c_tables import CASES
from tests.compiled import CompiledProgram, bf16, from_bf16, random_inputs
from tests.library_cases import COMPILED, LOWERED, Case
from tests.strategies import extents, inputs_for, programs

HAS_TRITON = importlib.util.find_spec("triton") is not None
by_triton = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed: pip install 'ssmc[gpu]'")
Arrays = dict[str, np.ndarray]
TOLERANCE = {"f64": 1e-10, "f32": 5e-4, "bf16": 2e-2}
# What runs in every test run; all others are slow.
SLICE = ("selective_scan()", "rg_lru_gated()", "causal_conv1d()", "s4d()", "lstm()", "ssd(dt_max=0.5)",
         "affine_scan()", "rms_norm()")  # fmt: skip
SOON = [case for case in LOWERED if case.name in SLICE]
REST = [case for case in COMPILED if case.name not in SLICE]


def test_the_slice_is_there() -> None:
    assert len(SOON) == len(SLICE)


def built(program: Program, sizes: dict[str, int], real: str = "f64", quickly: bool = True) -> CompiledProgram:
    return CompiledProgram(program, sizes, real, target="triton", quickly=quickly)


def short(case: Case, **most: int) -> dict[str, int]:
    """Extents of a case, a few of them cut."""
    return {axis: min(extent, most.get(axis, extent)) for axis, extent in case.sizes.items()}


def agree(found: Arrays, expected: Arrays, real: str = "f64") -> None:
    """Roundoff only, relative to the largest value; nothing left unwritten."""
    for name, want in expected.items():
        scale = np.abs(want).max(initial=0) + 1e-30
        error = np.abs(found[name] * 1.0 - want).max(initial=0)
        assert error <= TOLERANCE[real] * scale, f"{name}: {error / scale:.1e}"


def check(
    program: Program, sizes: dict[str, int], real: str = "f64", quickly: bool = True, again: bool = False
) -> None:
    """Forwards, with what is kept for the way back, and backwards; the same bits ``again``."""
    gradient = grad(program)
    kept = kept_values(gradient)
    inputs = random_inputs(gradient, sizes)
    if real == "bf16":
        inputs = {n: from_bf16(bf16(v)) if v.dtype.kind == "f" else v for n, v in inputs.items()}
    own = {t.name: inputs[t.name] for t in program.inputs}
    forward = built(saving(program, kept), sizes, real, quickly)
    backward = built(rebuilding(gradient, kept), sizes, real, quickly)
    found = forward(own)
    agree(found, interpret(program, own), real)
    given = {**inputs, **{k.name: found[k.name] for k in kept}}
    slopes = backward(given)
    agree(slopes, interpret(gradient, inputs), real)
    if again:
        repeated = backward(given)
        assert all(np.array_equal(repeated[name], value, equal_nan=True) for name, value in slopes.items())


@by_triton
@pytest.mark.parametrize("case", SOON, ids=lambda c: c.name)
def test_library_by_triton(case: Case) -> None:
    check(case.program(), short(case, b=1, t=3, h=2), quickly=False)


@by_triton
@pytest.mark.slow
@pytest.mark.parametrize("case", COMPILED, ids=lambda c: c.name)
def test_all_of_the_library_by_triton(case: Case) -> None:
    check(case.program(), short(case, b=2, t=6 if "chunk" in case.statics else 7), quickly=False)


@pytest.mark.parametrize("case", SOON, ids=lambda c: c.name)
def test_library(case: Case) -> None:
    check(case.program(), dict(case.sizes), again=True)


@pytest.mark.slow
@pytest.mark.parametrize("case", REST, ids=lambda c: c.name)
def test_rest_of_the_library(case: Case) -> None:
    check(case.program(), dict(case.sizes), again=True)


STORED = [
    pytest.param(case, real, marks=[] if case.name in SLICE[:2] else [pytest.mark.slow], id=f"{real}-{case.name}")
    for case in COMPILED
    for real in ("f32", "bf16")
]


@pytest.mark.parametrize(("case", "real"), STORED)
def test_library_in_less_precision(case: Case, real: str) -> None:
    check(case.program(), dict(case.sizes), real)


@by_triton
@pytest.mark.parametrize("real", ["f32", "bf16"])
def test_less_precision_by_triton(real: str) -> None:
    (case,) = [case for case in SOON if case.name == SLICE[1]]
    check(case.program(), short(case, b=1, t=3, d=5), real, quickly=False)


DERIVED = [
    pytest.param(case, form, marks=[] if case.name in SLICE else [pytest.mark.slow], id=f"{form}-{case.name}")
    for case in LOWERED
    for form in (*FORMS, "step")
    if case.program().sequence_axes
]


def check_derived(case: Case, form: str, quickly: bool, **most: int) -> None:
    sizes = {"b": 2, "t": 1, **short(case, **most)} | {"t": 6}
    stepped = step(case.program(), takes=True, gives=True)
    if form == "step":
        found, inputs = stepped, random_inputs(stepped, {a.name: sizes[a.name] for a in stepped.axes if not a.extent})
    else:
        found, inputs = derived(stepped, form, sizes)
    bound = bind_extents(found, {name: array.shape for name, array in inputs.items()})
    made = built(found, {a.name: bound[a.name] for a in found.axes if a.extent is None}, quickly=quickly)(inputs)
    agree(made, interpret(found, inputs))


@pytest.mark.parametrize(("case", "form"), DERIVED)
def test_derived(case: Case, form: str) -> None:
    """Packed, padded, backwards, with states in between, and one piece of a sequence after another."""
    check_derived(case, form, quickly=True)


@by_triton
@pytest.mark.parametrize("form", [*FORMS, "step"])
def test_derived_by_triton(form: str) -> None:
    (case,) = [case for case in SOON if case.name == SLICE[1]]
    check_derived(case, form, quickly=False, d=3)


# ---------------------------------------------------------------- tiles and programs

SCAN = """
layer scan(x[b, t, d], a[b, t, d], B[b, t, n], C[b, t, n], A[d, n]) -> y[b, t, d]:
    seq t
    h = exp(-abs(a) * A ^ 2) * h[t-1] + a * B * x
    y = sum[n](C * h)
"""
LAGS = """
layer lags(x[t, d], w[k, d], h0[j, d]) -> y[t, d], last[d]:
    seq t
    h = 0.5 * h[t-1] - 0.3 * h[t-3] + x
    y = h + 0.1 * h[t-2]
    last = h[t = #t - 2]
"""
FAR = """
layer far(x[t, d]) -> y[t, d]:
    seq t
    h = 0.5 * h[t-1] - 0.3 * h[t-11] + x
    y = h + 0.1 * h[t-2]
"""


def program(text: str) -> Program:
    return elaborate(module_from_text(text))


@pytest.mark.parametrize("t, d, n", [(1, 1, 2), (34, 257, 3), (65, 300, 2), (2, 31, 5)])
def test_lanes_of_several_programs(t: int, d: int, n: int) -> None:
    """Lanes that fill no program, one and a bit; tiles with padding; chunks of time that end early."""
    check(program(SCAN), {"b": 2, "t": t, "d": d, "n": n}, again=True)


@by_triton
def test_a_chunk_and_a_bit_by_triton() -> None:
    check(program(SCAN), {"b": 1, "t": 33, "d": 3, "n": 3}, quickly=False)


def test_tiles_that_are_too_large_are_halved() -> None:
    """64 lanes of 1000 states fill more than a tile; 32 lanes do not."""
    sizes = {"b": 1, "t": 3, "d": 35, "n": 1000}
    gradient = grad(program(SCAN))
    made = stages(rebuilding(gradient, kept_values(gradient)), "triton", sizes=sizes)
    assert {launch.block for launch, k in zip(made.programs, made.loops.kernels, strict=True) if k.sums} == {32}
    check(program(SCAN), sizes)


def test_no_lanes_at_all_and_no_steps() -> None:
    built_scan = built(program(SCAN), {"b": 2, "t": 3, "d": 4, "n": 2})
    for sizes in ({"b": 2, "t": 0, "d": 4, "n": 2}, {"b": 0, "t": 3, "d": 4, "n": 2}, {"b": 2, "t": 3, "d": 0, "n": 2}):
        inputs = random_inputs(program(SCAN), sizes)
        assert built_scan(inputs)["y"].shape == (sizes["b"], sizes["t"], sizes["d"])


def test_a_launch_of_too_many_programs_falls_into_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = TileLaunch("k", ("b", "h"), "d", 64, "t", 8, 4, 0, ())
    assert launch.programs({"b": 3, "h": 5, "d": 65, "t": 9}) == 3 * 5 * 2 * 2
    assert list(launch.pieces({"b": 1 << 20, "h": 1 << 12, "d": 1, "t": 1})) == [
        (0, 2**31 - 1), (2**31 - 1, 2**31 - 1), (2**32 - 2, 2)
    ]  # fmt: skip
    assert not list(launch.pieces({"b": 3, "h": 0, "d": 5, "t": 5}))
    monkeypatch.setattr("ssmc.backends.triton_launch.MOST_PROGRAMS", 2)
    check(program(SCAN), {"b": 5, "t": 2, "d": 3, "n": 3})


@pytest.mark.parametrize(("text", "kept"), [(LAGS, "moving"), (FAR, "remembered")], ids=["lags", "far"])
@pytest.mark.parametrize("t", [1, 2, 3, 14, 65])
def test_lags(text: str, kept: str, t: int) -> None:
    """Carried values of a few steps move from variable to variable; those of many lie in memory."""
    sizes = {"t": t, "d": 3, "k": 1, "j": 1}
    sizes = {a.name: sizes[a.name] for a in program(text).axes if a.extent is None}
    made = stages(program(text), "triton", sizes=sizes)
    assert any(k.tiles is not None and "h" in getattr(k.tiles, kept) for k in made.loops.kernels)
    check(program(text), sizes)


@pytest.mark.parametrize("text, sizes", CASES, ids=lambda v: v.split("(")[0].split()[1] if isinstance(v, str) else "")
def test_tables(text: str, sizes: dict[str, int]) -> None:
    check(program(text), sizes)


@by_triton
def test_adds_in_turn_by_triton() -> None:
    text, sizes = CASES[0]
    check(program(text), sizes, quickly=False)


# ---------------------------------------------------------------- random Programs


def _agrees(made: Program, data: st.DataObject, options: PlanOptions, lengths: int | tuple[int, ...]) -> None:
    sizes = data.draw(extents(made, lengths))
    inputs = inputs_for(made, sizes, np.random.default_rng(0))
    try:
        compiled = CompiledProgram(made, sizes, "f64", options, target="triton", quickly=True)
    except Unsupported as reason:
        assert "equation" in str(reason)
        return
    found = compiled(inputs)
    for name, want in interpret(made, inputs).items():
        slack = 1e-8 * (1 + np.abs(want).max(initial=0))
        np.testing.assert_allclose(found[name] * 1.0, want, 1e-7, slack, err_msg=print_program(made))


def _examples(start: int, count: int, options: PlanOptions, lengths: int | tuple[int, ...]) -> None:
    quiet = settings(
        max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None,
        phases=(Phase.generate, Phase.shrink),
    )  # fmt: skip
    agrees = quiet(given(programs(RANDOM), st.data(), st.just(options), st.just(lengths))(_agrees))
    seed(start)(agrees)()


STARTS = [(0, 30), *(pytest.param(n, 200, marks=pytest.mark.slow) for n in range(1, 6))]


@pytest.mark.parametrize(("start", "count"), STARTS)
def test_random_programs(start: int, count: int) -> None:
    """Random Programs: values agree, or the target says why it cannot."""
    _examples(start, count, PlanOptions(), 13)


@pytest.mark.parametrize(("start", "count"), STARTS)
def test_random_programs_with_lanes_over_time(start: int, count: int) -> None:
    """The same with many steps at once, or in chunks where that cannot be."""
    _examples(start, count, PlanOptions(time="lanes"), (1, 2, 31, 32, 33, 47))
