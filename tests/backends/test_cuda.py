"""The CUDA C target against the interpreter, its kernels run by a host: the same rows as the C target's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from ssmc.backends import BYTES, Launch
from ssmc.compiler import stages
from ssmc.dsl import elaborate, module_from_text
from ssmc.errors import TooLarge, Unsupported, UserError
from ssmc.ir import Program, bind_extents, print_program
from ssmc.ir.interpret import interpret
from ssmc.ir.loops import Limits
from ssmc.passes import PlanOptions, grad, kept_values, rebuilding, saving, step
from tests.backends.test_c_derived import FORMS, derived
from tests.backends.test_c_random import LOWERED as RANDOM
from tests.backends.test_c_tables import CASES
from tests.compiled import CompiledProgram, bf16, from_bf16, random_inputs
from tests.library_cases import COMPILED, LOWERED, Case
from tests.strategies import extents, inputs_for, programs

Arrays = dict[str, np.ndarray]
IN_ORDER = PlanOptions(time="in_order")
TOLERANCE = {"f64": 1e-10, "f32": 5e-4, "bf16": 2e-2}
# What runs in every test run; all others are slow.
SLICE = ("selective_scan()", "rg_lru_gated()", "causal_conv1d()", "s4d()", "lstm()", "ssd(dt_max=0.5)",
         "affine_scan()", "rms_norm()")  # fmt: skip
SOON = [case for case in LOWERED if case.name in SLICE]
REST = [case for case in COMPILED if case.name not in SLICE]


def test_the_slice_is_there() -> None:
    assert len(SOON) == len(SLICE)


def built(program: Program, sizes: dict[str, int], real: str = "f64") -> CompiledProgram:
    return CompiledProgram(program, sizes, real, target="cuda")


def agree(found: Arrays, expected: Arrays, real: str = "f64") -> None:
    """Roundoff only, relative to the largest value; nothing left unwritten."""
    for name, want in expected.items():
        scale = np.abs(want).max(initial=0) + 1e-30
        error = np.abs(found[name] * 1.0 - want).max(initial=0)
        assert error <= TOLERANCE[real] * scale, f"{name}: {error / scale:.1e}"


def check(program: Program, sizes: dict[str, int], real: str = "f64", seed: int = 0) -> None:
    """Forwards, with what is kept for the way back, and backwards; always the same bits."""
    gradient = grad(program)
    kept = kept_values(gradient)
    inputs = random_inputs(gradient, sizes, seed)
    if real == "bf16":
        inputs = {n: from_bf16(bf16(v)) if v.dtype.kind == "f" else v for n, v in inputs.items()}
    own = {t.name: inputs[t.name] for t in program.inputs}
    forward, backward = built(saving(program, kept), sizes, real), built(rebuilding(gradient, kept), sizes, real)
    found = forward(own)
    agree(found, interpret(program, own), real)
    given = {**inputs, **{k.name: found[k.name] for k in kept}}
    slopes = backward(given)
    agree(slopes, interpret(gradient, inputs), real)
    again = backward(given)
    assert all(np.array_equal(again[name], value, equal_nan=True) for name, value in slopes.items())


@pytest.mark.parametrize("case", SOON, ids=lambda c: c.name)
def test_library(case: Case) -> None:
    check(case.program(), dict(case.sizes))


@pytest.mark.slow
@pytest.mark.parametrize("case", REST, ids=lambda c: c.name)
def test_rest_of_the_library(case: Case) -> None:
    check(case.program(), dict(case.sizes))


STORED = [
    pytest.param(case, real, marks=[] if case.name in SLICE[:2] else [pytest.mark.slow], id=f"{real}-{case.name}")
    for case in COMPILED
    for real in ("f32", "bf16")
]


@pytest.mark.parametrize(("case", "real"), STORED)
def test_library_in_less_precision(case: Case, real: str) -> None:
    check(case.program(), dict(case.sizes), real)


DERIVED = [
    pytest.param(case, form, marks=[] if case.name in SLICE[:2] else [pytest.mark.slow], id=f"{form}-{case.name}")
    for case in LOWERED
    for form in (*FORMS, "step")
    if case.program().sequence_axes
]


@pytest.mark.parametrize(("case", "form"), DERIVED)
def test_derived(case: Case, form: str) -> None:
    """Packed, padded, backwards, with states in between, and one piece of a sequence after another."""
    sizes = {"b": 2, "t": 1, **case.sizes} | {"t": 6}
    stepped = step(case.program(), takes=True, gives=True)
    if form == "step":
        found, inputs = stepped, random_inputs(stepped, {a.name: sizes[a.name] for a in stepped.axes if not a.extent})
    else:
        found, inputs = derived(stepped, form, sizes)
    bound = bind_extents(found, {name: array.shape for name, array in inputs.items()})
    made = built(found, {a.name: bound[a.name] for a in found.axes if a.extent is None})(inputs)
    agree(made, interpret(found, inputs))


# ---------------------------------------------------------------- threads and blocks

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


def program(text: str) -> Program:
    return elaborate(module_from_text(text))


@pytest.mark.parametrize("t, d, n", [(1, 1, 2), (33, 257, 3), (65, 300, 2), (2, 31, 5)])
def test_lanes_of_several_blocks(t: int, d: int, n: int) -> None:
    """Lanes that fill no block, one and a bit, and chunks of time that end early."""
    check(program(SCAN), {"b": 2, "t": t, "d": d, "n": n})


def test_what_steps_read_is_asked_for_ahead() -> None:
    """Plain reads of memory that the kernel does not write, of a few steps at once; lengths need not be multiples."""
    (kernel,) = stages(program(SCAN), "cuda", sizes={"b": 1, "t": 1, "d": 1, "n": 3}, options=IN_ORDER).loops.kernels
    assert kernel.block is not None and kernel.block.batch == 4
    assert {node.name[0] for node in kernel.block.loads.values()} == {"x", "a"}
    for t in (3, 4, 6):
        check(program(SCAN), {"b": 2, "t": t, "d": 3, "n": 3})


@pytest.mark.parametrize("n", [3, 15])
@pytest.mark.parametrize("real", ["f64", "bf16"])
def test_rows_are_fetched_whole(n: int, real: str) -> None:
    """Along an axis whose loop is written out; rows may be shorter than what is fetched together, end inside of it,
    begin anywhere (15 numbers after the row before), or lie across memory."""
    storage = dict.fromkeys("xaBCA", real)
    (kernel,) = stages(
        program(SCAN), "cuda", storage, sizes={"b": 1, "t": 1, "d": 1, "n": n}, options=IN_ORDER
    ).loops.kernels
    assert kernel.block is not None
    read = {node.name[0] for nodes in kernel.block.rows.values() for node in nodes}
    assert read == ({"A", "B", "C"} if n * BYTES[real] >= 16 else set())
    check(program(SCAN), {"b": 2, "t": 5, "d": 3, "n": n}, real)


MATRIX = """
layer f(x[b, t, e], W[e, c]) -> y[b, t, e]:
    seq t
    require #c == #e
    y = tanh(sum[c](W * y[t-1, e=c]) + x)
"""


@pytest.mark.parametrize(("size", "written_out"), [(15, False), (4, True)])
def test_what_all_steps_read_is_not_all_written_out(size: int, written_out: bool) -> None:
    """The compiler would keep the whole matrix in registers for all steps."""
    sizes = {"b": 1, "t": 3, "e": size, "c": size}
    (kernel,) = stages(program(MATRIX), "cuda", sizes=sizes).loops.kernels
    assert kernel.block is not None
    assert ({"e", "c"} <= kernel.block.unrolled) == written_out
    check(program(MATRIX), sizes)


def test_rows_across_memory() -> None:
    built_for = built(program(SCAN), {"n": 4})
    inputs = random_inputs(program(SCAN), {"b": 2, "t": 5, "d": 3, "n": 4})
    across = {**inputs, "B": np.asfortranarray(inputs["B"]), "A": np.repeat(inputs["A"], 2, 1)[:, ::2]}
    found = built_for(inputs)
    assert all(np.array_equal(value, found[name]) for name, value in built_for(across).items())


def test_sums_too_large_for_a_chunk_are_gathered_at_each_step() -> None:
    sizes = {"b": 1, "t": 35, "d": 33, "n": 40}
    gradient = grad(program(SCAN))
    made = stages(rebuilding(gradient, kept_values(gradient)), "cuda", sizes=sizes, options=IN_ORDER)
    (block,) = [k.block for k in made.loops.kernels if k.sums]
    assert block is not None and block.each_step
    check(program(SCAN), sizes)


@pytest.mark.parametrize(
    "limits, threads", [(Limits(2000), 64), (Limits(48 << 10, threads=128), 128), (Limits(640), 32)], ids=str
)
def test_sums_that_take_more_than_the_gpu_has_are_gathered_by_fewer_threads(limits: Limits, threads: int) -> None:
    sizes = {"b": 1, "t": 3, "d": 133, "n": 40}
    gradient = grad(program(SCAN))
    kept = kept_values(gradient)
    inputs = random_inputs(gradient, sizes)
    found = built(saving(program(SCAN), kept), sizes)({t.name: inputs[t.name] for t in program(SCAN).inputs})
    backward = CompiledProgram(rebuilding(gradient, kept), sizes, target="cuda", limits=limits)
    for kernel, launch in zip(backward.stages.loops.kernels, backward.stages.launches, strict=True):
        assert launch.shared <= limits.shared and launch.threads <= limits.threads
        assert not kernel.sums or launch.threads == launch.group == threads
    agree(backward({**inputs, **{k.name: found[k.name] for k in kept}}), interpret(gradient, inputs))


def test_no_plan_is_small_enough() -> None:
    gradient = grad(program(SCAN))
    made = rebuilding(gradient, kept_values(gradient))
    sizes = {"b": 1, "t": 3, "d": 133, "n": 40}
    with pytest.raises(TooLarge, match="32 threads gathers its sums in 320 bytes .*; the GPU has 300 bytes"):
        stages(made, "cuda", sizes=sizes, limits=Limits(300))
    with pytest.raises(UserError, match="plan: threads=512") as caught:
        stages(
            program(SCAN), "cuda", sizes=sizes, options=PlanOptions(threads=512), limits=Limits(48 << 10, threads=256)
        )
    assert "at most 256 on this GPU" in str(caught.value)


def test_numbers_without_axes() -> None:
    check(program("layer f(x[], y[]) -> z[]:\n    z = x * exp(y)\n"), {})


def test_no_lanes_at_all_and_no_steps() -> None:
    built_scan = built(program(SCAN), {"b": 2, "t": 3, "d": 4, "n": 2})
    for sizes in ({"b": 2, "t": 0, "d": 4, "n": 2}, {"b": 0, "t": 3, "d": 4, "n": 2}, {"b": 2, "t": 3, "d": 0, "n": 2}):
        inputs = random_inputs(program(SCAN), sizes)
        assert built_scan(inputs)["y"].shape == (sizes["b"], sizes["t"], sizes["d"])


def test_a_launch_of_too_many_threads_falls_into_pieces() -> None:
    launch = Launch("k", ("b", "h"), "d", "t", 8, 128, 0, 0)
    pieces = list(launch.pieces({"b": 3000, "h": 100, "d": 300, "t": 1000}))
    assert len(pieces) == 6 and all(p.blocks * p.threads < 2**32 for p in pieces)
    assert [p.first for p in pieces] == [0, *np.cumsum([p.count for p in pieces])[:-1]]
    assert sum(p.count for p in pieces) == 3000
    with pytest.raises(UserError, match="threads for one index along its first axis"):
        list(launch.pieces({"b": 1, "h": 10**6, "d": 10**4, "t": 1}))
    assert not list(launch.pieces({"b": 3, "h": 0, "d": 5, "t": 5}))


def test_pieces_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssmc.backends.launch.MOST_POINTS", 20)
    check(program(SCAN), {"b": 5, "t": 5, "d": 7, "n": 3})


@pytest.mark.parametrize("t", [1, 2, 3, 4, 65])
def test_lags_move_through_registers(t: int) -> None:
    made = stages(program(LAGS), "cuda", sizes={"t": t, "d": 3, "k": 1, "j": 1})
    assert any(k.block is not None and k.block.shifted for k in made.loops.kernels)
    check(program(LAGS), {"t": t, "d": 3, "k": 1, "j": 1})


@pytest.mark.parametrize(
    "text, sizes", CASES[:3], ids=lambda v: v.split("(")[0].split()[1] if isinstance(v, str) else ""
)
def test_tables(text: str, sizes: dict[str, int]) -> None:
    check(program(text), sizes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text, sizes", CASES[3:], ids=lambda v: v.split("(")[0].split()[1] if isinstance(v, str) else ""
)
def test_more_tables(text: str, sizes: dict[str, int]) -> None:
    check(program(text), sizes)


# ---------------------------------------------------------------- random Programs


def _agrees(made: Program, data: st.DataObject) -> None:
    sizes = data.draw(extents(made))
    inputs = inputs_for(made, sizes, np.random.default_rng(0))
    try:
        compiled = built(made, sizes)
    except Unsupported as reason:
        assert "equation" in str(reason)
        return
    found = compiled(inputs)
    for name, want in interpret(made, inputs).items():
        slack = 1e-8 * (1 + np.abs(want).max(initial=0))
        np.testing.assert_allclose(found[name] * 1.0, want, 1e-7, slack, err_msg=print_program(made))


@pytest.mark.parametrize(
    ("start", "count"), [(0, 8), *(pytest.param(n, 100, marks=pytest.mark.slow) for n in range(1, 6))]
)
def test_random_programs(start: int, count: int) -> None:
    """Random Programs: values agree, or the target says why it cannot."""
    quiet = settings(
        max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None,
        phases=(Phase.generate, Phase.shrink),
    )  # fmt: skip
    seed(start)(quiet(given(programs(RANDOM), st.data())(_agrees)))()
