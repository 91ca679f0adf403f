"""Sums over time that are gathered on the way back through a window: what they are, and when they are not."""

from __future__ import annotations

import numpy as np
import pytest

from ssmc.compiler import prepared, stages
from ssmc.dsl import elaborate, module_from_text
from ssmc.ir import Program
from ssmc.ir.interpret import interpret
from ssmc.passes import MOST_AHEAD, grad
from tests.compiled import CompiledProgram, random_inputs

SHORT = """layer short(x[b, t, d], w[d, k], bias[d]) -> y[b, t, d]:
    seq t
    y = silu(sum[k](w * x[t - (#k - 1 - k)]) + bias)
"""
SIZES = {"b": 2, "t": 37, "d": 21, "k": 4}
MAPS = ("tanh({})", "silu({} - 0.5)", "sigmoid({})", "sin({})")


def program_of(text: str) -> Program:
    return elaborate(module_from_text(text))


def agree(program: Program, sizes: dict[str, int]) -> None:
    """What is prepared, and its machine code, against the Program."""
    inputs = random_inputs(program, sizes)
    expected = interpret(program, inputs)
    made = prepared(program, sizes)
    for found in (interpret(made, inputs), CompiledProgram(program, sizes, fast=True)(inputs)):
        for name, value in expected.items():
            scale = np.abs(value).max(initial=0) + 1e-30
            assert np.abs(found[name] - value).max(initial=0) <= 1e-10 * scale, name


def windows(seed: int) -> str:
    """A layer of windows over windows, to earlier steps more often than to later ones, and of maps of them."""
    draw = np.random.default_rng(seed)
    values, lines = ["x"], []
    for number in range(int(draw.integers(2, 6))):
        name, other = f"s{number}", str(draw.choice(values))
        weight, tap = str(draw.choice(["w", "v"])), "k" if draw.random() < 0.8 else "2*k"
        window = f"sum[k]({weight} * {str(draw.choice(values))}[t{draw.choice(['-', '-', '-', '+'])}{tap}])"
        inner = window if draw.random() < 0.7 else f"{other} * {str(draw.choice(values))}"
        inner += " + a" if draw.random() < 0.5 else f" * {other}"
        lines.append(f"    {name}[b, t, d] = " + str(draw.choice(MAPS)).format(inner))
        values.append(name)
    header = f"layer windows{seed}(x[b, t, d], w[d, k], v[d, k], a[d]) -> y[b, t, d]:\n    seq t\n"
    return header + "\n".join(lines) + f"\n    y = {values[-1]} + {draw.choice(values)}\n"


def test_one_sweep_gathers_all() -> None:
    """The way back of a convolution keeps what is summed out of memory."""
    made = stages(grad(program_of(SHORT)), sizes=SIZES)
    first, *others = made.plan.kernels
    assert (first.time, first.reverse, first.lane) == ("t", True, "d")
    assert {"y.sum", "d.y.sum", "d.x", "d.w.part", "d.bias.part"} <= set(first.equations)
    assert all(kernel.time is None for kernel in others)
    assert not any("t" in made.plan.program.equation(name).axes for name in made.plan.workspaces)


@pytest.mark.parametrize("time", [1, 2, 3, 4, 5, 37, 65])
def test_a_short_convolution(time: int) -> None:
    """About as many steps as the window has, and more."""
    agree(grad(program_of(SHORT)), {**SIZES, "t": time})
    agree(grad(grad(program_of(SHORT))), {**SIZES, "t": time, "d": 3})


@pytest.mark.parametrize("channels", [1, 15, 16, 17, 64, 65, 131])
def test_channels_about_the_width_of_vectors(channels: int) -> None:
    agree(grad(program_of(SHORT)), {**SIZES, "d": channels})


@pytest.mark.parametrize("text", [
    SHORT.replace("w[d, k]", "w[b, k]").replace("bias[d]", "bias[b]").replace("x[b, t, d]", "x[b, t]")
         .replace("y[b, t, d]", "y[b, t]"),
    "layer recurs(x[b, t, d], w[d, k]) -> y[b, t, d]:\n    seq t\n    h[b, t, d] = 0.5 * h[t-1] + x\n"
    "    y = tanh(sum[k](w * h[t-k]))\n",
], ids=["time lies side by side", "a recurrence"])  # fmt: skip
def test_where_it_is_not_done(text: str) -> None:
    """Lanes would be lost, or gathering is another's: what is prepared has no sum of this kind, and is right."""
    program = grad(program_of(text))
    sizes = {axis: SIZES[axis] for axis in ("b", "t", "d", "k") if axis in {a.name for a in program.axes}}
    assert not any(".swept" in e.name for e in prepared(program, sizes).equations)
    agree(program, sizes)


@pytest.mark.parametrize(("taps", "is_swept"), [(MOST_AHEAD + 1, True), (MOST_AHEAD + 2, False)])
def test_long_windows(taps: int, is_swept: bool) -> None:
    """What reaches far would have to be kept."""
    program, sizes = grad(program_of(SHORT)), {**SIZES, "k": taps}
    assert any(".swept" in e.name for e in prepared(program, sizes).equations) is is_swept
    agree(program, sizes)


def test_gpus_do_without() -> None:
    """There, time in order is a loss."""
    for target in ("cuda", "triton"):
        made = stages(grad(program_of(SHORT)), target, sizes=SIZES)
        assert not any(kernel.recurrent for kernel in made.plan.kernels)


@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(n, marks=pytest.mark.slow) for n in range(8, 120))])
def test_windows_over_windows(seed: int) -> None:
    """Also what is read of a value in the step that makes it, by several: see ``windows``."""
    program = program_of(windows(seed))
    sizes = {**SIZES, "t": (1, 5, 33)[seed % 3], "d": (3, 18)[seed % 2], "k": 1 + seed % 3}
    agree(program, sizes)
    agree(grad(program), sizes)


def test_many_of_them_are_swept() -> None:
    """Or the test above would say little."""
    found = [prepared(grad(program_of(windows(seed))), {**SIZES, "k": 3}) for seed in range(24)]
    assert sum(any(".swept" in e.name for e in program.equations) for program in found) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_second_gradients_of_windows(seed: int) -> None:
    agree(grad(grad(program_of(windows(seed)))), {**SIZES, "t": 9, "d": 3, "k": 2})
