"""Plans on the C target: extents that a kernel needs are compiled in, however large they are."""

from __future__ import annotations

import numpy as np
import pytest

from ssmc.dsl import elaborate, module_from_text
from ssmc.ir.interpret import interpret
from ssmc.passes import PlanOptions, grad, inline, kept_values, plan, rebuilding, saving
from tests.backends.test_c_gradients import agree
from tests.compiled import CompiledProgram, random_inputs

MAPPED = """layer mapped(x[b, t, e], w[d, e], a[d]) -> y[b, t, d]:
    seq t
    h[b, t, d] = exp(-exp(a)) * h[t-1] + sum[e](w * exp(x))
    y = tanh(h)
"""


@pytest.mark.parametrize("width", [1, 3, 700])
def test_sums_over_channels_along_an_axis_that_other_kernels_fold(width: int) -> None:
    """What x receives is gathered on the way back, an array of ``width`` numbers in each step; for wide ones what w
    receives is not, and then nothing else has to know the width."""
    agree(elaborate(module_from_text(MAPPED), "mapped"), {"b": 2, "t": 35, "d": 5, "e": width})


TWICE = """layer twice(x[b, t, e]: int, w[d, e], v[d, e], a[d]) -> y[b, t, d]:
    seq t
    h[b, t, d] = exp(-exp(a)) * h[t-1] + sum[e](w * exp(0.1 * x))
    y = h * sum[e](v * exp(0.1 * x))
"""


@pytest.mark.parametrize("width", [3, 700])
def test_what_there_is_no_room_to_keep_is_computed_by_the_rebuilt_and_by_the_step(width: int) -> None:
    agree(elaborate(module_from_text(TWICE), "twice"), {"b": 2, "t": 35, "d": 5, "e": width})


MULTIPLIED = """layer multiplied(x[b, t, i], w[o, i]) -> y[b, t, o]:
    y = silu(sum[i](w * x))
"""


@pytest.mark.parametrize("width", [1, 3, 16, 77])
def test_sums_of_neighbours_run_along_memory(width: int) -> None:
    """The rows of w are added up one after the other, each as a vector; the columns of v as lanes."""
    by_rows = elaborate(module_from_text(MULTIPLIED), "multiplied")
    by_columns = elaborate(module_from_text(MULTIPLIED.replace("w[o, i]", "w[i, o]")), "multiplied")
    sizes = {"b": 2, "t": 3, "o": 35, "i": width}
    assert [k.lane for k in plan(inline(by_rows), sizes).kernels] == [None]
    assert [k.lane for k in plan(inline(by_columns), sizes).kernels] == ["o"]
    agree(by_rows, sizes)
    agree(by_columns, sizes)


TAPS = """layer taps(x[b, t, d], w[d, k]) -> y[b, t, d]:
    seq t
    y = sum[k](w * x[t-k])
"""


@pytest.mark.parametrize("extent", [1, 3, 40])
def test_sums_over_time_run_across_what_lies_side_by_side(extent: int) -> None:
    """What w receives is stored along k once, and summed over values that lie side by side along d."""
    program = elaborate(module_from_text(TAPS), "taps")
    sizes = {"b": 2, "t": 35, "d": 20, "k": extent}
    [kernel] = [k for k in plan(inline(grad(program, ["w"])), sizes).kernels if "d.w" in k.equations]
    assert kernel.lane == "d" and "k" in kernel.parallel
    agree(program, sizes)


STATES = """layer states(x[b, t, d], a[b, t, d], A[d, n], w[b, t, n]) -> y[b, t, d]:
    seq t
    h[b, t, d, n] = exp(-abs(a * A)) * h[t-1] + w * x
    y = sum[n](w * h)
"""


@pytest.mark.parametrize("d", [64, 70])
def test_states_that_do_not_fit_onto_the_stack(d: int) -> None:
    """Whole vectors of them lie on the heap where a chunk of time is rebuilt."""
    sizes = {"b": 1, "t": 33, "d": d, "n": 16}
    layer = elaborate(module_from_text(STATES), "states")
    gradient = grad(layer)
    kept = kept_values(gradient)
    made = CompiledProgram(rebuilding(gradient, kept), sizes, "f32", PlanOptions(lanes=64))
    assert "aligned_alloc(64, (33 * sizeof(float[16][64])" in made.stages.text
    inputs = random_inputs(gradient, sizes)
    own = {tensor.name: inputs[tensor.name] for tensor in layer.inputs}
    found = made({**inputs, **interpret(saving(layer, kept), own)})
    for name, want in interpret(gradient, inputs).items():
        assert np.abs(found[name] - want).max() <= 1e-5 * np.abs(want).max(), name


SHARED = """layer shared(x[b, t, d], w[d, k], v[d, k]) -> z[b, t, d], r[b, t, d]:
    seq t
    s = tanh(sum[k](v * x[t - k]))
    r = r[t ~ 1] * 0.5 + s
    y = sum[k](w * s[t ~ k])
    z = sum[k](v * s[t ~ k] * y)
"""


@pytest.mark.parametrize("target", ["c", "cuda", "triton"])
@pytest.mark.parametrize("way", ["+", "-"])
def test_what_is_read_of_this_very_step_by_several_is_written_before(way: str, target: str) -> None:
    """A loop over k is there before `s` is; reads of `s` that two later ones share do not go into it."""
    layer = elaborate(module_from_text(SHARED.replace("~", way)), "shared")
    sizes = {"b": 2, "t": 9, "d": 6, "k": 5}
    made = CompiledProgram(layer, sizes, target=target, **({"quickly": True} if target == "triton" else {}))
    inputs = random_inputs(layer, sizes)
    found = made(inputs)
    for name, want in interpret(layer, inputs).items():
        assert np.abs(found[name] - want).max() <= 1e-12 * np.abs(want).max(), name
