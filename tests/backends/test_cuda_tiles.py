"""Tiles in shared memory of what all lanes of a block read alike, run by a host, against the interpreter."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from ssmc.compiler import stages
from ssmc.dsl import elaborate, module_from_text
from ssmc.errors import UserError
from ssmc.ir import Program, print_program
from ssmc.ir.interpret import interpret
from ssmc.ir.loops import Limits, SharedTile
from ssmc.passes import PlanOptions, grad, kept_values, rebuilding, reverse, saving
from tests.compiled import CompiledProgram, random_inputs

TOLERANCE = 1e-10
SCAN = """
layer scan(x[b, t, d], a[b, t, d], B[b, t, n], C[b, t, n], A[d, n]) -> y[b, t, d]:
    seq t
    h = exp(-abs(a) * A ^ 2) * h[t-1] + a * B * x
    y = sum[n](C * h)
"""
GROUPS = """
layer groups(x[b, t, h, p], a[b, t, h], B[b, t, g, n], C[t, m, n]) -> y[b, t, h, p], z[b, t, h, p]:
    seq t
    s = exp(-abs(a)) * s[t-1] + x * B[g = h // 2]
    y = sum[n](s)
    z = sum[m, n](C * s)
"""


def program(text: str) -> Program:
    return elaborate(module_from_text(text))


def tiles(
    made: Program, sizes: dict[str, int], options: PlanOptions | None = None, storage: dict[str, str] | None = None,
    limits: Limits | None = None,
) -> list[SharedTile]:  # fmt: skip
    done = stages(made, "cuda", storage, sizes, options, limits=limits)
    return [k.block.tile for k in done.loops.kernels if k.block is not None and k.block.tile is not None]


def names(tile: SharedTile) -> set[str]:
    return {str(node.name[0]) for node, _ in tile.loads.values()}


class Both:
    """A layer and its gradient, compiled once, for any lengths and numbers of lanes."""

    def __init__(self, made: Program, sizes: dict[str, int], options: str) -> None:
        self.program, self.gradient = made, grad(made)
        self.kept = kept_values(self.gradient)
        forms = saving(made, self.kept), rebuilding(self.gradient, self.kept)
        chosen, known = PlanOptions.parse(options), {axis.name: 2 for axis in made.axes if axis.extent is None} | sizes
        self.forward, self.backward = (CompiledProgram(f, known, "f64", chosen, target="cuda") for f in forms)

    def check(self, sizes: dict[str, int]) -> None:
        inputs = random_inputs(self.gradient, sizes)
        own = {t.name: inputs[t.name] for t in self.program.inputs}
        found = self.forward(own)
        agree(found, interpret(self.program, own))
        slopes = self.backward({**inputs, **{k.name: found[k.name] for k in self.kept}})
        agree(slopes, interpret(self.gradient, inputs))


def agree(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, want in expected.items():
        scale = np.abs(want).max(initial=0) + 1e-30
        error = np.abs(found[name] - want).max(initial=0)
        assert error <= TOLERANCE * scale, f"{name}: {error / scale:.1e}"


def test_what_lanes_read_alike_is_fetched_together() -> None:
    """Where it is worth a barrier; a block then has neighbouring lanes at one point of the grid."""
    storage, sizes = dict.fromkeys("xaBCA", "bf16"), {"n": 16}
    (tile,) = tiles(program(SCAN), sizes, storage=storage)
    assert names(tile) == {"B", "C"} and (tile.steps, tile.bytes) == (32, 2 * 32 * 2 * 16 * 2)
    assert not tiles(program(SCAN), {"n": 4}, storage=storage)
    assert not tiles(program(SCAN), sizes, PlanOptions(shared=1), storage=storage)
    (tile,) = tiles(program(SCAN), {"n": 4}, PlanOptions(shared=8), storage=storage)
    assert tile.steps == 8 and {shape for _, shape in tile.loads.values()} == {(8,)}  # rows fill sixteen bytes
    done = stages(program(SCAN), "cuda", storage, sizes, PlanOptions(time="in_order"))
    (launch,) = done.launches
    assert launch.group == launch.threads == 128 and launch.shared == 4096
    assert [(p.blocks, p.threads) for p in launch.pieces({"b": 3, "t": 9, "d": 129, "n": 16})] == [(6, 128)]
    assert [(p.blocks, p.threads) for p in launch.pieces({"b": 3, "t": 9, "d": 4, "n": 16})] == [(3, 32)]


def test_tiles_are_as_long_as_there_is_room() -> None:
    (tile,) = tiles(program(SCAN), {"n": 128}, storage=dict.fromkeys("xaBCA", "bf16"))
    assert (tile.steps, names(tile)) == (16, {"B", "C"})
    assert not tiles(program(SCAN), {"n": 16}, limits=Limits(2000))
    with pytest.raises(UserError, match="shared=64 takes 16384 bytes of shared memory in kernel k0(.|\n)*at most 666"):
        tiles(program(SCAN), {"n": 16}, PlanOptions(shared=64), limits=Limits(2000))


def test_joined_kernels_have_none() -> None:
    for time in ("look_back", "lanes"):
        assert not tiles(program(SCAN), {"b": 2, "t": 300, "d": 40, "n": 16}, PlanOptions(time=time, chunk=128))


@pytest.fixture(scope="module", params=[("shared=8", 16), ("shared=8", 3), ("shared=2,batch=3,threads=32", 5)], ids=str)
def scans(request: pytest.FixtureRequest) -> tuple[Both, int]:
    options, n = request.param
    return Both(program(SCAN), {"n": n}, options), n


@pytest.mark.parametrize("t", [1, 7, 8, 9, 33])
@pytest.mark.parametrize("d", [1, 4, 63, 64, 65, 129])
def test_any_lanes_and_lengths(scans: tuple[Both, int], t: int, d: int) -> None:
    both, n = scans
    both.check({"b": 2, "t": t, "d": d, "n": n})


@pytest.mark.parametrize("shared", [1, 4, 32])
def test_groups_of_heads_and_two_inner_axes(shared: int) -> None:
    """An index that is computed of the grid's, and may lie outside; rows inside of rows."""
    made, sizes = program(GROUPS), {"m": 3, "n": 5}
    if shared > 1:
        (found,) = tiles(made, sizes, PlanOptions(shared=shared))
        assert names(found) == {"B", "C"} and {shape for _, shape in found.loads.values()} == {(8,), (3, 8)}
    both = Both(made, sizes, f"shared={shared}")
    for g in (0, 1, 2):
        both.check({"b": 2, "t": 9, "h": 4, "p": 5, "g": g, **sizes})


@pytest.mark.parametrize("shared", [2, 16])
def test_backwards_in_time(shared: int) -> None:
    made = reverse(program(SCAN))
    assert tiles(made, {"n": 3}, PlanOptions(shared=shared))
    both = Both(made, {"b": 2, "t": 35, "d": 5, "n": 3}, f"shared={shared}")
    for t in (1, shared - 1, shared, shared + 1, 35):
        both.check({"b": 2, "t": t, "d": 5, "n": 3})


def test_parts_of_time() -> None:
    """Each of its own tiles, the first of which begins where the part does."""
    sizes, options = {"b": 2, "t": 75, "d": 33, "n": 4}, "time=chunks,chunk=32,shared=8"
    assert tiles(program(SCAN), sizes, PlanOptions.parse(options))
    both = Both(program(SCAN), sizes, options)
    for t in (1, 32, 75):
        both.check({**sizes, "t": t})


@pytest.mark.parametrize("real", ["f64", "f32", "bf16", "f16"])
def test_rows_that_lie_anywhere(real: str) -> None:
    """Side by side or not, at multiples of sixteen bytes or not: the same bits."""
    made = program(SCAN)
    compiled = CompiledProgram(made, {"n": 16}, real, PlanOptions(shared=8), target="cuda")
    inputs = random_inputs(made, {"b": 2, "t": 11, "d": 3, "n": 16})
    wide = np.zeros((2, 11, 19))
    wide[..., 2:18] = inputs["B"]
    across = {**inputs, "B": np.asfortranarray(inputs["B"]), "C": np.repeat(inputs["C"], 2, 2)[..., ::2]}
    moved = {**inputs, "B": wide[..., 2:18]}
    expected = compiled(inputs)["y"]
    assert all(np.array_equal(compiled(given)["y"], expected) for given in (across, moved))


# ---------------------------------------------------------------- random layers


@st.composite
def layers(draw: st.DrawFn) -> str:
    """A recurrence of lanes `d` with some operands that have none, their axes in any order."""
    operands, terms = [], []
    for name in "BCD"[: draw(st.integers(1, 3))]:
        axes = draw(st.sampled_from([p for a in ("tn", "btn", "tmn", "btmn", "bt", "tm") for p in permutations(a)]))
        operands.append(f"{name}[{', '.join(axes)}]")
        factor = draw(st.sampled_from([name, f"sigmoid({name})", f"{name} ^ 2"]))
        terms.append((factor, "m" in axes))
    inside = " * ".join(["u", *(factor for factor, m in terms if not m)])
    outside = " * ".join(["h", *(factor for factor, m in terms if m)])
    folded = "n, m" if len(outside) > 1 else "n"
    drive = draw(st.sampled_from(["x", "x * a", "a"]))
    lines = [
        f"h[b, t, d, n] = 0.5 * sigmoid(a) * h[t-{draw(st.integers(1, 3))}] + {drive} * {inside}",
        f"y = sum[{folded}]({outside})",
    ]
    head = f"layer f(x[b, t, d], a[b, t, d], u[n], {', '.join(operands)}) -> y[b, t, d]:"
    return "\n".join([head, "    seq t", *(f"    {line}" for line in lines)]) + "\n"


@pytest.mark.parametrize(
    ("start", "count"), [(0, 6), *(pytest.param(n, 20, marks=pytest.mark.slow) for n in range(1, 4))]
)
def test_random_layers(start: int, count: int) -> None:
    def agrees(text: str, data: st.DataObject) -> None:
        made = program(text)
        most = {"b": 2, "t": 40, "d": 40, "n": 9, "m": 4}
        sizes = {axis.name: data.draw(st.integers(1, most[axis.name])) for axis in made.axes}
        options = f"shared={data.draw(st.sampled_from([2, 4, 32]))}"
        try:
            Both(made, sizes, options).check(sizes)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{options}\n{print_program(made)}") from error

    quiet = settings(
        max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None,
        phases=(Phase.generate,),
    )  # fmt: skip
    seed(start)(quiet(given(layers(), st.data())(agrees)))()
