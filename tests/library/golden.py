"""Reference cases, and running a library layer on their data.

A case is what a third-party implementation returned for given inputs (``tests/reference/README.md``).
An adapter (``adapters_*.py``) hands the case's tensors to library layers and returns, for every ``out.*``
of the case, what the layers say.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from ssmc.dsl import Choice, Module, elaborate, load_module, signature
from ssmc.ir import INT, Axis, Const, Equation, Index, Op, Program, Read, Size
from ssmc.ir.interpret import interpret

FOLDER = Path(__file__).resolve().parent.parent / "reference"
Array = np.ndarray
# Relative to the largest expected value, where that is stored in float64.
EXACT = 1e-9


@dataclass(frozen=True)
class Case:
    """One reference case: its settings and its tensors, reals as float64, pairs as complex."""

    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Array]
    entries: Mapping[str, Mapping[str, Any]]
    stored_as: str

    def __getitem__(self, name: str) -> Array:
        return self.tensors[name]

    def get(self, name: str) -> Array | None:
        return self.tensors.get(name)

    @property
    def outputs(self) -> dict[str, Array]:
        """What the reference returned, by name without ``out.``."""
        return {name[4:]: array for name, array in self.tensors.items() if name.startswith("out.")}


@functools.cache
def manifest() -> dict[str, Any]:
    return json.loads((FOLDER / "manifest.json").read_text())


def cases(prefixes: Iterable[str]) -> list[str]:
    """The names of the cases that start with one of the prefixes."""
    return [name for name in manifest() if name.startswith(tuple(prefixes))]


@functools.cache
def load_case(name: str) -> Case:
    entry = manifest()[name]
    raw: dict[str, Array] = {}
    for file in entry["files"]:
        raw.update(load_file(FOLDER / file))
    return Case(
        name=name,
        config=entry["config"],
        tensors={key: _as_language_value(array, entry["tensors"][key]) for key, array in raw.items()},
        entries=entry["tensors"],
        stored_as=entry["stored_as"],
    )


def _as_language_value(array: Array, entry: Mapping[str, Any]) -> Array:
    if array.dtype.kind == "f":
        array = array.astype(np.float64)
        return paired(array) if entry.get("complex") else array
    return array.astype(np.int64)


def paired(array: Array) -> Array:
    """Complex numbers from a trailing axis of (real, imaginary)."""
    return array[..., 0] + 1j * array[..., 1]


def assert_agrees(case: Case, name: str, found: Array, where: Array | None = None) -> None:
    """``out.<name>`` of the case, to float64 accuracy, or to the stored tolerance where it was rounded."""
    expected = case[f"out.{name}"]
    assert found.shape == expected.shape, f"{case.name} {name}: shape {found.shape}, expected {expected.shape}"
    error = np.abs(found - expected)
    if where is not None:
        error = np.where(where, error, 0)
    entry = case.entries[f"out.{name}"]
    if case.stored_as == "float64":
        allowed = EXACT * entry.get("max_abs", np.abs(expected).max(initial=0))
    else:
        allowed = entry["atol"] + entry["rtol"] * np.abs(expected)
    assert np.isfinite(found).all(), f"{case.name} {name}: not finite"
    assert (error <= allowed).all(), (
        f"{case.name} {name}: largest error {error.max():.3g}, allowed {np.max(allowed):.3g}"
    )


# ---------------------------------------------------------------- running a layer


def elaborated(layer: str, inputs: Mapping[str, Array], statics: Mapping[str, Any]) -> Program:
    """The library layer ``module`` or ``module:layer``, specialised for these inputs."""
    module_name, _, name = layer.partition(":")
    module = load_module(module_name)
    return elaborate(module, name or module_name, _choice(module, name or module_name, inputs, statics))


def _choice(module: Module, layer: str, inputs: Mapping[str, Array], statics: Mapping[str, Any]) -> Choice:
    """Signatures by the number of axes of what is given."""
    signatures = {
        item.name: next(axes for axes in item.alternatives if len(axes) == inputs[item.name].ndim)
        for item in signature(module, layer).inputs
        if item.name in inputs
    }
    return Choice(statics, frozenset(inputs), signatures)


def run(
    layer: str,
    inputs: Mapping[str, Array | None],
    carried: Mapping[str, int] | None = None,
    **statics: Any,
) -> dict[str, Array]:
    """Every tensor of the layer by name; inputs that are None are absent.

    ``carried`` asks for the state: the last values of a tensor along t, as many as stated. They come
    as ``<tensor>@last`` with an axis in the place of t, oldest first.
    """
    present = {key: value for key, value in inputs.items() if value is not None}
    program = elaborated(layer, present, statics)
    for tensor, count in (carried or {}).items():
        program = _with_last_values(program, tensor, count)
    return interpret(program, present, keep="all")


def _with_last_values(program: Program, name: str, count: int) -> Program:
    """The Program and ``<name>@last``: what a read of ``name`` just after the end sees, extensions included."""
    tensor, place = program.tensors()[name], f"{name}@place"
    from_end = Op("sub", (Op("add", (Size("t"), Index(place))), Const(count, INT)))
    indices = tuple(from_end if axis == "t" else Index(axis) for axis in tensor.axes)
    axes = tuple(place if axis == "t" else axis for axis in tensor.axes)
    last = Equation(f"{name}@last", axes, tensor.dtype, Read(name, indices))
    return replace(
        program,
        axes=(*program.axes, Axis(place, Const(count, INT))),
        equations=(*program.equations, last),
        outputs=(*program.outputs, last.name),
    )


Adapter = Callable[[Case], dict[str, Array]]
