"""The C target on derived Programs: packed, padded, backwards, with states in between."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from ssmc.errors import Unsupported
from ssmc.ir import Program, bind_extents, complete_extents, print_program
from ssmc.ir.interpret import interpret
from ssmc.passes import mask, pack, reverse, states_at, step
from tests.building import after, equation, fold, index, program, read, size, tensor
from tests.compiled import CompiledProgram
from tests.library_cases import Case
from tests.passes import test_mask, test_pack
from tests.passes.meanings import LAYERS
from tests.strategies import Features, extents, inputs_for, programs

t, j = index("t"), index("j")
STREAMED = Features(backwards=False, unbounded=False, equal_codes=False, transforms=False, causal=True)


def derived(stepped: Program, form: str, sizes: dict[str, int]) -> tuple[Program, dict[str, np.ndarray]]:
    """A form of a stepped layer, and inputs for it."""
    if form == "pack":
        found = pack(stepped)
        return found, test_pack.arguments(found, [3, 0, 1, 5], sizes)
    if form == "mask":
        found = mask(stepped, ("b",))
        return found, test_mask.arguments(found, ["x.xx.x", ".xx...", "......", "xxxxxx"][: sizes["b"]], sizes)
    found = reverse(stepped) if form == "reverse" else states_at(stepped)
    given = {**sizes, "t": 6, "t.stops": 3}
    bound = complete_extents(found, {axis.name: given[axis.name] for axis in found.axes if axis.extent is None})
    inputs = inputs_for(found, bound, np.random.default_rng(0))
    return found, inputs | ({"t.at": np.array([0, 6, 2])} if form == "states_at" else {})


def check(found: Program, inputs: dict[str, np.ndarray]) -> None:
    sizes = bind_extents(found, {name: array.shape for name, array in inputs.items()})
    built = CompiledProgram(found, {a.name: sizes[a.name] for a in found.axes if a.extent is None}, fast=True)
    got = built(inputs)
    for name, want in interpret(found, inputs).items():
        slack = 1e-9 * (1 + np.abs(want).max(initial=0))
        np.testing.assert_allclose(got[name] * 1.0, want, 1e-8, slack, err_msg=f"{name}\n{print_program(found)}")


FORMS = ("pack", "mask", "reverse", "states_at")
STEPPED = [case for case in LAYERS if case.name != "long_conv()" and case.program().sequence_axes]
SOON = ("causal_conv1d()", "selective_scan()", "local_attention(window=2)", "lstm()")
PAIRS = [
    pytest.param(case, form, marks=[] if case.name in SOON else [pytest.mark.slow], id=f"{form}-{case.name}")
    for case in STEPPED
    for form in FORMS
]


@pytest.mark.parametrize(("case", "form"), PAIRS)
def test_library(case: Case, form: str) -> None:
    check(*derived(step(case.program(), takes=True, gives=True), form, dict(case.sizes)))


def test_a_window_over_a_copy_of_something_costly() -> None:
    """What is computed again where it is read carries what it reads."""
    win = fold("sum", "j", read("w", "j") * read("k", t - j))
    ahead = fold("sum", "j", read("w", "j") * read("k", t + j))
    for window in (win, ahead):
        made = [
            equation("u t", read("x", "t") * read("u", t - 1) if window is win else read("x", "t") * 2.0),
            equation("k t", read("u", "t") + 1.0),
            equation("y t", window),
        ]
        outside = [after("k", "t", read("x0") * (t - size("t")))]
        given = program([tensor("x t"), tensor("w j"), tensor("x0")], made, extensions=outside)
        check(given, {"x": np.linspace(-1, 1, 7), "w": np.array([0.5, -1.0, 2.0]), "x0": np.array(3.0)})


def agree(layer: Program, data: st.DataObject) -> None:
    stepped = step(layer, takes=True, gives=True)
    sizes = data.draw(extents(stepped, longest=1))
    try:
        found, inputs = derived(stepped, data.draw(st.sampled_from(FORMS)), sizes)
        check(found, inputs)
    except Unsupported as reason:
        assert "equation" in str(reason) or "mixes what lies along" in str(reason) or "gives no state" in str(reason)


def sampled(count: int, start: int) -> None:
    quiet = settings(
        max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None,
        phases=(Phase.generate, Phase.shrink),
    )  # fmt: skip
    seed(start)(quiet(given(programs(STREAMED), st.data())(agree)))()


def test_random_programs() -> None:
    sampled(10, 0)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1, 5))
def test_many_random_programs(start: int) -> None:
    sampled(100, start)
