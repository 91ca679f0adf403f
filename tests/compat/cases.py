"""What the originals returned, and the comparison with it in float32 within the stored tolerances."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).resolve().parent.parent / "reference"
MANIFEST: dict[str, Any] = json.loads((FOLDER / "manifest.json").read_text())


class Case:
    """A reference case: inputs in float32, expected values with their tolerances."""

    def __init__(self, name: str) -> None:
        self.name, self.entry = name, MANIFEST[name]
        self.config = self.entry["config"]
        self.tensors: dict[str, Tensor] = {}
        for file in self.entry["files"]:
            self.tensors |= load_file(FOLDER / file)
        for key in self.tensors:
            if self.entry["tensors"][key].get("complex"):
                self.tensors[key] = torch.view_as_complex(self.tensors[key])

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def get(self, name: str) -> Tensor | None:
        return self.tensors.get(name)

    def check(self, name: str, found: Tensor) -> None:
        """``found`` is the expected tensor of this name, ``out.*`` or ``grad.*``."""
        wanted, about = self[name], self.entry["tensors"][name]
        assert found.shape == wanted.shape
        double = found.to(torch.complex128 if found.is_complex() else torch.float64)
        error = (double - wanted).abs()
        allowed = about["atol"] + about["rtol"] * wanted.abs()
        assert bool((error <= allowed).all()), f"{self.name} {name}: {error.max():.3g}, allowed {allowed.max():.3g}"


def named(*prefixes: str) -> list[str]:
    """The cases whose names start so."""
    return [name for name in MANIFEST if name.startswith(prefixes)]


def check(case: Case, run: Callable[[Case], Mapping[str, Tensor]]) -> None:
    """What ``run`` returns for a case is what is expected, and so are the gradients of the case's loss."""
    for name, value in run(case).items():
        assert not value.requires_grad
        case.check(f"out.{name}", value)
    leaves = {
        name: value.clone().requires_grad_()
        for name, value in case.tensors.items()
        if name.startswith("in.") and (value.is_floating_point() or value.is_complex())
    }
    case.tensors |= leaves
    outputs = run(case)
    loss = sum(_real(outputs[name]).mul(case[f"w.{name}"]).sum() for name in case.entry["loss_on"])
    assert isinstance(loss, Tensor)
    loss.backward()
    expected = {name.removeprefix("grad.") for name in case.tensors if name.startswith("grad.")}
    assert expected == set(leaves)
    for name, leaf in leaves.items():
        assert leaf.grad is not None, f"{case.name}: {name} has no gradient"
        case.check(f"grad.{name}", leaf.grad)


def _real(value: Tensor) -> Tensor:
    """Complex numbers as the pairs that they are weighted as."""
    return torch.view_as_real(value) if value.is_complex() else value
