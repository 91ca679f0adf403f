"""Time in order or in parts, as the sizes of a call ask for: what a GPU gets where nobody says how time runs."""

from __future__ import annotations

import pytest

from ssmc.backends import Launch, TileLaunch
from ssmc.compiler import Stages, stages
from ssmc.explain import explain
from ssmc.ir import complete_extents
from ssmc.ir.interpret import interpret
from ssmc.passes import PlanOptions
from tests.backends.test_joined import ROUND
from tests.backends.test_time import SIZES, agree, both_ways, built, layer_of
from tests.compiled import CompiledProgram, random_inputs
from tests.library_cases import LOWERED
from tests.passes.affine import SAMPLES

KEEP_MORE = (0, 1, 5)  # samples of whose recurrences parts would keep something for every step


def launched(made: Stages, sizes: dict[str, int]) -> list[str]:
    """The kernels that run for these sizes."""
    extents = complete_extents(made.program, sizes)
    items: tuple[Launch | TileLaunch, ...] = made.launches or made.programs
    return [item.kernel.removeprefix("ssmc_") for item in items if any(True for _ in item.pieces(extents))]


def test_sizes_choose() -> None:
    layer = layer_of(ROUND)
    made = CompiledProgram(layer, {"b": 1, "t": 1, "d": 1}, target="cuda")
    for batch, length, expected in ((1, 1, ["k0"]), (2, 129, ["k0"]), (1, 511, ["k0"]), (1, 512, ["p2"])):
        sizes = {"b": batch, "t": length, "d": 3}
        inputs = random_inputs(layer, sizes)
        agree(made(inputs), interpret(layer, inputs))
        assert launched(made.stages, sizes) == expected
    assert launched(made.stages, {"b": 1 << 12, "t": 4096, "d": 64}) == ["k0"]
    assert launched(made.stages, {"b": 0, "t": 4096, "d": 64}) == []


@pytest.mark.parametrize("n", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in range(len(SAMPLES)) if n != 2)])
def test_gradients(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts for short sequences, which longer ones have anyway: kernels do not know their length."""
    for name, value in {"_WORTH_IT": 40, "_SHORTEST": 32, "_PAYS_TWICE": 2}.items():
        monkeypatch.setattr(f"ssmc.passes.strategy.{name}", value)
    made = both_ways(
        layer_of(SAMPLES[n]), dict(SIZES), (39, 75), lambda p: built(p, SIZES, "cuda", options=PlanOptions())
    )
    cut = any(kernel.part or kernel.at_once for kernel in made.stages.plan.kernels)
    assert cut == (n not in KEEP_MORE)


def test_the_plan_says_where_a_kernel_runs() -> None:
    made = stages(layer_of(ROUND), "cuda")
    text = made.show("plan")
    assert "where        #t.part = 1" in text and "where        #t.part > 1" in text
    for batch, names in ((1, ["p0", "p1", "p2"]), (1 << 12, ["k0"])):
        found = explain(layer_of(ROUND), {"b": batch, "t": 2048, "d": 64}, target="cuda")
        assert [kernel.name for kernel in found.kernels] == names


def test_in_order_where_parts_would_keep_more() -> None:
    """Projections that states follow from would be kept for every step, and where nothing can be cut."""
    for name in ("mamba_scan()", "lstm()"):
        case = next(c for c in LOWERED if c.name == name)
        kernels = stages(case.program(), "cuda", sizes=dict(case.sizes)).loops.kernels
        assert kernels and not any(kernel.part or kernel.one or kernel.more for kernel in kernels)
    kernels = stages(layer_of(ROUND), "c", sizes={"b": 1, "t": 1, "d": 1}).loops.kernels
    assert len(kernels) == 1 and not kernels[0].part
