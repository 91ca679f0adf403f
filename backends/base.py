"""What a target offers, and which there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ssmc.errors import UserError
from ssmc.ir.loops import Loops

from . import c
from .storage import compute_type


@dataclass(frozen=True)
class Target:
    """A name; for given storages the number of lanes it works on and the operations it has on whole
    vectors; and its emitter."""

    name: str
    lanes: Callable[[Iterable[str]], int]
    vector_operations: Callable[[Iterable[str]], frozenset[str]]
    emit: Callable[[Loops, Mapping[str, str], Iterable[str], Iterable[str]], tuple[str, str]]


def _cpu_lanes(storage: Iterable[str]) -> int:
    """One cache line of the type that is computed in."""
    return 8 if compute_type(storage) == "f64" else 16


TARGETS: Mapping[str, Target] = {"c": Target("c", _cpu_lanes, c.vector_operations, c.emit)}


def target_named(name: str) -> Target:
    """The target of that name; UserError if there is none."""
    if name not in TARGETS:
        raise UserError(f"unknown target {name!r}", expected=" or ".join(TARGETS))
    return TARGETS[name]
