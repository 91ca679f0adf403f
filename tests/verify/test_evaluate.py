"""What the yardstick of roundoff disturbs."""

from __future__ import annotations

import numpy as np
import pytest

from ssmc.dsl import elaborate, module_from_text
from ssmc.ir import Program
from ssmc.verify.evaluate import disturbed


def clamped(bound: str) -> Program:
    text = f"layer clamped(x[t]) -> y[t]:\n    y = minimum(x, {bound})\n"
    return elaborate(module_from_text(text))


@pytest.mark.parametrize(
    ("bound", "unit", "off"),
    [("0.999999", 2.0**-24, True), ("0.5", 2.0**-24, False), ("3", 2.0**-24, False), ("0.999999", 2.0**-53, False)],
)
def test_literals_are_rounded(bound: str, unit: float, off: bool) -> None:
    """A literal that single precision has not is off by half a step of it, and by nothing in double precision."""
    found = {float(disturbed(clamped(bound), {"x": np.array([7.0])}, 16 * unit, seed)[0]["y"][0]) for seed in range(9)}
    error = max(abs(value - float(bound)) for value in found)
    assert error == pytest.approx(2.0**-24 * float(bound), rel=1e-6) if off else error == 0
