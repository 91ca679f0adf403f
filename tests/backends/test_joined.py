"""Parts of time in one launch of CUDA C: blocks that look back, and lanes over time, against the interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from ssmc.compiler import stages
from ssmc.ir.interpret import interpret
from ssmc.ir.loops import Kernel
from ssmc.passes import JOINED, PlanOptions, grad, kept_values, rebuilding
from tests.backends.test_time import CASES, SIZES, agree, built, check, layer_of
from tests.compiled import random_inputs
from tests.library_cases import Case
from tests.passes.affine import SAMPLES, random_layer

LENGTHS = (1, 31, 32, 33, 65, 97)
ROUND = "layer f(x[b, t, d], a[b, t, d]) -> y[b, t, d]:\n    seq t\n    y = sigmoid(a) * y[t-1] + x\n"
TURNED = """
layer f(x[b, t, d], a[d], h0[b, d]?) -> y[b, t, d], last[b, d]:
    seq t
    h[t<0] = h0
    h = complex(0, 0.4) * sigmoid(a) * h[t-1] + x
    y = re(h)
    last = re(h[t=#t-1])
"""


COUNTED = "layer f(x[b, t, d]: int) -> y[b, t, d]: int:\n    seq t\n    y = 3 * y[t-1] + x\n"


def options(way: str) -> PlanOptions:
    return PlanOptions(time=way, chunk=32)


def kernels(text: str, way: str) -> tuple[Kernel, ...]:
    sizes = {"b": 1, "t": 1, "d": 1, "n": 2}
    return stages(layer_of(text), "cuda", sizes=sizes, options=options(way)).loops.kernels


@pytest.mark.parametrize("way", JOINED)
def test_one_launch_instead_of_three(way: str) -> None:
    (kernel,) = kernels(ROUND, way)
    assert kernel.joined is not None and kernel.joined.way == way
    assert [k.cut for k in kernel.joined.summaries] == [True] and len(kernel.joined.carries) == 1
    assert len(kernels(ROUND, "chunks")) == 3
    plan = stages(layer_of(ROUND), "cuda", sizes={"b": 1, "t": 1, "d": 1}, options=options(way)).show("plan")
    assert f"in one launch: k0, k1, k2 ({way.replace('_', ' ')})" in plan


@pytest.mark.parametrize("way", JOINED)
@pytest.mark.parametrize("text", [ROUND, TURNED, *(pytest.param(s, marks=pytest.mark.slow) for s in SAMPLES)])
def test_samples(text: str, way: str) -> None:
    check(layer_of(text), dict(SIZES), "cuda", LENGTHS, options=options(way))


@pytest.mark.parametrize("way", JOINED)
@pytest.mark.parametrize(("batch", "length", "channels"), [(1, 33, 1), (2, 65, 129), (3, 64, 31), (2, 1100, 2)])
def test_many_lanes_and_many_parts(batch: int, length: int, channels: int, way: str) -> None:
    """Blocks and warps with lanes to spare, and more parts than a warp has at a time."""
    layer = layer_of(ROUND)
    sizes = {"b": batch, "t": length, "d": channels}
    made, inputs = built(layer, sizes, "cuda", options=options(way)), random_inputs(layer, sizes)
    agree(made(inputs), interpret(layer, inputs))


def test_looking_back_gives_the_bits_of_three_launches() -> None:
    layer, sizes = layer_of(ROUND), {"b": 2, "t": 130, "d": 5}
    inputs = random_inputs(layer, sizes)
    ways = [built(layer, sizes, "cuda", "f32", options(way))(inputs) for way in ("look_back", "chunks")]
    assert np.array_equal(ways[0]["y"], ways[1]["y"])


@pytest.mark.parametrize("way", JOINED)
def test_integers_are_exact(way: str) -> None:
    """What is passed on is beyond what numbers of 32 bits with a point hold."""
    layer, sizes = layer_of(COUNTED), {"b": 2, "t": 65, "d": 3}
    inputs = {"x": np.zeros((2, 65, 3), np.int64)}
    inputs["x"][:, 35:] = np.random.default_rng(0).integers(-9, 9, (2, 30, 3))
    made = built(layer, sizes, "cuda", "f32", options(way))
    assert made.stages.loops.kernels[-1].joined
    assert np.array_equal(made(inputs)["y"], interpret(layer, inputs)["y"])


@pytest.mark.parametrize("way", JOINED)
@pytest.mark.parametrize("case", [
    pytest.param(c, marks=[] if c.name == "selective_scan()" else [pytest.mark.slow], id=c.name) for c in CASES
])  # fmt: skip
def test_library(case: Case, way: str) -> None:
    check(case.program(), dict(case.sizes), "cuda", (33, 65), options=options(way))


@pytest.mark.parametrize("way", JOINED)
@pytest.mark.parametrize("seed", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in range(30) if n != 3)])
def test_random_layers(seed: int, way: str) -> None:
    check(layer_of(random_layer(seed)), {"b": 2, "t": 5, "d": 3}, "cuda", (33, 65), options=options(way))


def test_kernels_that_gather_sums_look_back_but_have_no_lanes_over_time() -> None:
    case = next(c for c in CASES if c.name == "selective_scan()")
    gradient = grad(case.program())
    gradient = rebuilding(gradient, kept_values(gradient))
    for way, joins in (("look_back", True), ("lanes", False)):
        found = stages(gradient, "cuda", sizes=dict(case.sizes), options=options(way)).loops.kernels
        summing = [k for k in found if k.sums and k.part]
        assert summing and all(bool(k.joined) == joins for k in summing)
