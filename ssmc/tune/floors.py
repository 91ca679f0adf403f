"""The physical floor of a call: no kernel is faster than its bytes, its exponentials, or its multiply-adds allow.

Bytes: every input read once, every output written once. Operations: those of the equations, once for each point, and
once where several equations compute alike; two of them make a multiply-add. Of a gradient: the equations that are
derived, given the inputs and the gradients of the outputs, so that what has to be computed again counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ssmc.analysis import cost
from ssmc.ir import Program
from ssmc.passes import inline

# Per multiprocessor and clock: exponentials and the like; float32 multiply-adds.
SPECIAL_EACH, MULTIPLY_ADDS_EACH = 16, 128
WITHIN = 13  # operations that `cost` counts for an exponential, which is one of the special ones here
REACHED = 0.9  # of the bandwidth that memory has on paper


@dataclass(frozen=True)
class Speeds:
    """Bytes, exponentials and the like, float32 multiply-adds, those of matrix units in bfloat16 (0: not known), each
    per second; and where these come from."""

    bytes: float
    special: float
    multiply_adds: float
    matrix: float
    source: str


# Bytes as copies reach them; of the other two, what all multiprocessors do at the clock that they keep under load.
KNOWN = {"H200": Speeds(4.3e12, 4.0e12, 32e12, 395e12, "H200: copies reach 4.3 TB/s; 132 multiprocessors at 1.9 GHz")}


def of_gpu(name: str, properties: Any) -> Speeds | None:
    """Those of a GPU, from what is known of it or what it says of itself; None where it does not say enough."""
    for known, speeds in KNOWN.items():
        if known in name:
            return speeds
    numbers = [
        getattr(properties, what, 0)
        for what in ("memory_clock_rate", "memory_bus_width", "clock_rate", "multi_processor_count")
    ]
    if not all(numbers):
        return None
    memory, width, clock, count = numbers
    return Speeds(
        REACHED * 2 * memory * 1e3 * width / 8,
        SPECIAL_EACH * count * clock * 1e3,
        MULTIPLY_ADDS_EACH * count * clock * 1e3,
        0.0,
        f"{count} multiprocessors at {clock / 1e6:.2f} GHz; {REACHED:.0%} of {width} bits at {memory / 1e6:.2f} GHz",
    )


@dataclass(frozen=True)
class Floor:
    """What a call cannot avoid, and the seconds that each takes."""

    bytes: int
    special: int
    multiply_adds: float
    seconds: Mapping[str, float]

    @property
    def least(self) -> float:
        """Seconds that no call can beat."""
        return max(self.seconds.values())

    @property
    def bound(self) -> str:
        """What it is bound by."""
        return max(self.seconds, key=lambda name: self.seconds[name])

    def facts(self) -> dict[str, Any]:
        return {**asdict(self), "least": self.least, "bound": self.bound}


def floor_of(
    program: Program, sizes: Mapping[str, int], real_bytes: int, speeds: Speeds, matrix: bool = False
) -> Floor:  # fmt: skip
    """The floor of a call of a program; ``matrix``: its multiply-adds can be those of matrix products."""
    spent = cost(inline(program), sizes, real_bytes, once=True)
    moved, special = spent.bytes_in + spent.bytes_out, spent.exponentials
    adds = max(0, spent.flops - WITHIN * special) / 2
    seconds = {
        "memory": moved / speeds.bytes,
        "exponentials": special / speeds.special,
        "multiply-adds": _over(adds, speeds.matrix) if matrix else adds / speeds.multiply_adds,
    }
    return Floor(moved, special, adds, seconds)


def _over(adds: float, speed: float) -> float:
    """Seconds; none where the speed is not known."""
    return adds / speed if speed else 0.0
