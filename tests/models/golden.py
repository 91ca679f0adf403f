"""Reference cases of whole models (``tests/reference/models``), and comparison with them."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

FOLDER = Path(__file__).resolve().parent.parent / "reference" / "models"
# Relative to the largest expected value, in float64: where that was stored, and where it was rounded to float32.
EXACT, ROUNDED = 1e-9, 2.0**-23


@dataclass(frozen=True)
class Case:
    """One reference case: its settings, and its tensors as they are stored."""

    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    entries: Mapping[str, Mapping[str, Any]]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def named(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with the prefix, without it."""
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}


@functools.cache
def manifest() -> dict[str, Any]:
    return json.loads((FOLDER / "manifest.json").read_text())


def cases(prefix: str) -> list[str]:
    """The names of the cases that start with the prefix."""
    return [name for name in manifest() if name.startswith(prefix)]


@functools.cache
def load_case(name: str) -> Case:
    entry = manifest()[name]
    tensors: dict[str, Tensor] = {}
    for file in entry["files"]:
        # Copied: what is loaded may lie at any address.
        tensors.update({key: value.clone() for key, value in load_file(FOLDER / file).items()})
    return Case(name, entry["config"], tensors, entry["tensors"])


def load_parameters(model: nn.Module, case: Case) -> None:
    """Put the case's parameters into a model that has the same names; each must have its place."""
    parameters = dict(model.named_parameters())
    given = case.named("param.")
    assert given.keys() == parameters.keys()
    with torch.no_grad():
        for name, value in given.items():
            assert parameters[name].shape == value.shape
            parameters[name].copy_(value)


def assert_agrees(case: Case, name: str, found: Tensor, where: Tensor | None = None) -> None:
    """A tensor of the case: in float32 to the tolerance stored with it, in float64 to roundoff."""
    expected, entry = case[name].double(), case.entries[name]
    assert found.shape == expected.shape, f"{case.name} {name}: shape {found.shape}, expected {expected.shape}"
    assert found.isfinite().all(), f"{case.name} {name}: not finite"
    error = (found.detach().double() - expected).abs()
    if where is not None:
        error = torch.where(where, error, 0)
    if found.dtype is torch.float64:
        allowed = torch.tensor(entry["max_abs"] * (EXACT if case[name].dtype is torch.float64 else ROUNDED))
    else:
        allowed = entry["atol"] + entry["rtol"] * expected.abs()
    assert (error <= allowed).all(), f"{case.name} {name}: largest error {error.max():.3g}, allowed {allowed.max():.3g}"
