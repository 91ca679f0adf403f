"""Plan options: how they are written, what is refused, and that none of them changes what is computed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from ssmc.backends import TARGETS
from ssmc.compiler import stages
from ssmc.dsl import elaborate, module_from_text
from ssmc.errors import Unsupported, UserError
from ssmc.ir import Program, print_program
from ssmc.ir.interpret import interpret
from ssmc.passes import DEFAULTS, KNOBS, PlanOptions, grad, kept_values, knobs_of, rebuilding, saving
from tests.compiled import CompiledProgram, random_inputs
from tests.strategies import Features, extents, inputs_for, programs

LOWERED = Features(unbounded=False, equal_codes=False, transforms=False)
HOW = {"c": {"fast": True}, "cuda": {}, "triton": {"quickly": True}}
SCAN = """
layer scan(x[b, t, d], a[b, t, d], B[b, t, n], C[b, t, n], A[d, n]) -> y[b, t, d]:
    seq t
    h = exp(-abs(a) * A ^ 2) * h[t-1] + a * B * x
    y = sum[n](C * h)
"""


def scan() -> Program:
    return elaborate(module_from_text(SCAN), "scan")


@st.composite
def options_of(draw: st.DrawFn, target: str) -> PlanOptions:
    """Any options that a target has."""
    given: dict[str, object] = {}
    for name in knobs_of(target):
        knob = KNOBS[name]
        numbers = [n for n in range(knob.least, min(knob.most, 300) + 1) if knob.allows(n)]
        if draw(st.booleans()):
            given[name] = draw(st.sampled_from([*knob.words_of(target), *numbers]))
    try:
        return PlanOptions(**given)  # type: ignore[arg-type]
    except UserError as refusal:
        assert "threads together" in str(refusal)
        return PlanOptions(**{**given, "together": 1})  # type: ignore[arg-type]


@pytest.mark.parametrize("target", TARGETS)
def test_written_and_read(target: str) -> None:
    @settings(max_examples=50, deadline=None, database=None)
    @given(options_of(target))
    def reads_back(options: PlanOptions) -> None:
        assert PlanOptions.parse(str(options)) == options
        assert [line.split()[0] for line in options.describe().splitlines() if options.chosen] == [*options.chosen]
        options.check(target)
        assert target in options.concerns(TARGETS)

    reads_back()


def test_defaults_say_nothing() -> None:
    assert str(PlanOptions()) == "" and PlanOptions.parse(" , ") == PlanOptions()
    assert PlanOptions().describe() == "as the compiler chooses"
    assert PlanOptions().concerns(TARGETS) == [*TARGETS]
    assert str(PlanOptions.parse(" tile = 0 ,lanes=16")) == "lanes=16,tile=0"
    assert {*DEFAULTS} == {*KNOBS} == {name for target in TARGETS for name in knobs_of(target)}


@pytest.mark.parametrize(
    "text, message",
    [
        ("lanes", "'lanes' is not NAME=VALUE"),
        ("=3", "'=3' is not NAME=VALUE"),
        ("lanes=many", "lanes cannot be 'many'(.|\n)*powers of two from 1 to 256"),
        ("lanes=-1", "lanes cannot be '-1'"),
        ("lanes=24", "lanes cannot be 24(.|\n)*powers of two(.|\n)*channels"),
        ("threads=40", "threads cannot be 40(.|\n)*multiples of 32 from 32 to 1024"),
        ("tile=100000", "tile cannot be 100000"),
        ("lane=8", "there is no option `lane`(.|\n)*did you mean `lanes`"),
        ("lanes=8,lanes=8", "`lanes` is given twice"),
        ("threads=1024,together=3", "3 blocks of 1024 threads together(.|\n)*at most 2048"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PlanOptions.parse(text)


def test_options_of_other_targets_are_refused() -> None:
    with pytest.raises(UserError, match="`threads` does not concern target c(.|\n)*lanes, tile, states(.|\n)*of cuda"):
        stages(scan(), "c", sizes={"n": 4}, options=PlanOptions(threads=64))
    assert PlanOptions(steps=4).concerns(TARGETS) == ["cuda", "triton"]
    assert PlanOptions(steps=4, warps=2).concerns(TARGETS) == ["triton"]
    with pytest.raises(UserError, match="target triton has no time=look_back(.|\n)*in_order or(.|\n)*is for cuda"):
        stages(scan(), "triton", sizes={"n": 4}, options=PlanOptions(time="look_back"))
    assert PlanOptions(time="look_back").concerns(TARGETS) == ["cuda"]


def test_lanes_are_whole_vectors() -> None:
    stages(scan(), "c", dict.fromkeys("xaBCA", "f64"), {"n": 4}, PlanOptions(lanes=8))
    with pytest.raises(UserError, match="scan with lanes=8(.|\n)*16 or more: a whole vector"):
        stages(scan(), "c", dict.fromkeys("xaBCA", "f32"), {"n": 4}, PlanOptions(lanes=8))


def test_a_tile_that_is_too_large_is_refused() -> None:
    with pytest.raises(UserError, match="block=1024 makes tiles of 65536 numbers in kernel k0(.|\n)*block=512 or less"):
        stages(scan(), "triton", sizes={"n": 64}, options=PlanOptions(block=1024))


def test_a_plan_says_its_options() -> None:
    options = PlanOptions(threads=64, batch=2, time="in_order")
    done = stages(scan(), "cuda", sizes={"n": 4}, options=options)
    assert done.plan.options == options and "options: threads=64,batch=2,time=in_order" in done.show("plan")
    (kernel,) = done.loops.kernels
    assert kernel.block is not None and (kernel.block.threads, kernel.block.batch) == (64, 2)
    options = PlanOptions(block=32, warps=2, time="in_order")
    (kernel,) = stages(scan(), "triton", sizes={"n": 4}, options=options).loops.kernels
    assert kernel.tiles is not None and (kernel.tiles.block, kernel.tiles.warps) == (32, 2)


# ---------------------------------------------------------------- values


def _agrees(target: str, made: Program, data: st.DataObject) -> None:
    """Values of a random Program under random options, or a reason why there are none. On the C target some in single
    precision, where loops over lanes are written on whole vectors."""
    sizes, options = data.draw(extents(made)), data.draw(options_of(target))
    real = data.draw(st.sampled_from(["f32", "f64"])) if target == "c" else "f64"
    tolerance = {"f32": 2e-4, "f64": 1e-8}[real]
    inputs = inputs_for(made, sizes, np.random.default_rng(0))
    try:
        compiled = CompiledProgram(made, sizes, real, options, target=target, **HOW[target])
    except Unsupported as reason:
        assert "equation" in str(reason)
        return
    except UserError as reason:
        assert "makes tiles of" in str(reason) or "a whole vector" in str(reason)
        return
    found = compiled(inputs)
    for name, want in interpret(made, inputs).items():
        slack = tolerance * (1 + np.abs(want).max(initial=0))
        message = f"{options}\n{print_program(made)}"
        np.testing.assert_allclose(found[name] * 1.0, want, 10 * tolerance, slack, err_msg=message)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("start, count", [(0, 8), *(pytest.param(n, 100, marks=pytest.mark.slow) for n in range(1, 4))])
def test_random_options_on_random_programs(target: str, start: int, count: int) -> None:
    quiet = settings(
        max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None,
        phases=(Phase.generate, Phase.shrink),
    )  # fmt: skip

    def agrees(made: Program, data: st.DataObject) -> None:
        _agrees(target, made, data)

    seed(start)(quiet(given(programs(LOWERED), st.data())(agrees)))()


PLANS = {
    "c": ("lanes=8,states=2,tile=7", "lanes=64,tile=0"),
    "cuda": ("threads=32,batch=3,ahead=2", "threads=256,together=8,batch=1"),
    "triton": ("block=4,warps=1", "block=256,warps=8"),
}


@pytest.mark.parametrize("target, plan", [(target, plan) for target, plans in PLANS.items() for plan in plans])
def test_the_way_back(target: str, plan: str) -> None:
    """Forwards, with what is kept for the way back, and backwards."""
    sizes = {"b": 2, "t": 35, "d": 19, "n": 4}
    gradient = grad(scan())
    kept = kept_values(gradient)
    inputs = random_inputs(gradient, sizes)
    own = {t.name: inputs[t.name] for t in scan().inputs}
    options = PlanOptions.parse(plan)
    forward, backward = (
        CompiledProgram(form, sizes, "f64", options, target=target, **HOW[target])
        for form in (saving(scan(), kept), rebuilding(gradient, kept))
    )
    made = forward(own)
    slopes = backward({**inputs, **{k.name: made[k.name] for k in kept}})
    for found, expected in ((made, interpret(scan(), own)), (slopes, interpret(gradient, inputs))):
        for name, want in expected.items():
            np.testing.assert_allclose(found[name], want, 1e-9, 1e-9 * np.abs(want).max(), err_msg=name)
