"""What a target offers, and which there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from ssmc.errors import UserError
from ssmc.ir.loops import LANE_GROUP, Limits, Loops

from . import c, cuda, triton
from .cuda_toolchain import ARCHITECTURES
from .launch import Emitted
from .storage import compute_type
from .triton_toolchain import ARCHITECTURES as TRITON

# Bytes of shared memory that the GPUs of an architecture give to one block; some give less, and say so.
SHARED = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "sm_120": 99 << 10, "gfx942": 64 << 10}


@dataclass(frozen=True)
class Target:
    """A name; for given storages the number of lanes it works on and the operations it has on whole
    vectors; and its emitter. ``blocks``: its kernels are spread over the blocks of threads of a GPU, of one of
    ``architectures``, the first of which is meant where a name says none; ``tiles``: dealt out to programs on tiles.
    ``together``: lanes whose sum is one part of a sum over lanes; ``smaller``: times that a plan is halved, at most;
    ``time``: how recurrences run, where that is worth it and nobody says how."""

    name: str
    lanes: Callable[[Iterable[str]], int]
    vector_operations: Callable[[Iterable[str]], frozenset[str]]
    emit: Callable[[Loops, Mapping[str, str], Iterable[str], Iterable[str]], Emitted]
    blocks: bool = False
    architectures: tuple[str, ...] = ()
    architecture: str = ""
    tiles: bool = False
    together: int = LANE_GROUP
    smaller: int = 3
    time: str = "in_order"

    @property
    def limits(self) -> Limits:
        """What the GPUs of its architecture offer."""
        return Limits(SHARED[self.architecture])


def _cpu_lanes(storage: Iterable[str]) -> int:
    """One cache line of the type that is computed in."""
    return 8 if compute_type(storage) == "f64" else 16


TARGETS: Mapping[str, Target] = {
    "c": Target("c", _cpu_lanes, c.vector_operations, c.emit),
    "cuda": Target(
        "cuda", lambda _: 1, lambda _: frozenset(), cuda.emit, True, ARCHITECTURES, ARCHITECTURES[0], time="look_back"
    ),
    "triton": Target("triton", lambda _: 1, lambda _: frozenset(), triton.emit, True, TRITON, TRITON[0], True, 64, 4),
}


def target_named(name: str) -> Target:
    """The target of that name, or of ``name:architecture``; UserError if there is none."""
    base, _, architecture = name.partition(":")
    if base not in TARGETS:
        raise UserError(f"unknown target {name!r}", expected=" or ".join(TARGETS))
    found = TARGETS[base]
    if not architecture:
        return found
    if architecture not in found.architectures:
        known = ", ".join(f"{base}:{item}" for item in found.architectures) or base
        raise UserError(f"unknown target {name!r}", expected=known)
    return replace(found, architecture=architecture)
