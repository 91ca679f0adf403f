"""Reference cases, and running a library layer on their data.

A case is what a third-party implementation returned for given inputs (``tests/reference/README.md``).
An adapter (``adapters_*.py``) hands the case's tensors to library layers and returns, for every ``out.*``
of the case, what the layers say. It does so with PyTorch tensors in float64, so that autograd takes the
gradients of what stands around the layers, and the derived Programs those of the layers (``call``).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from ssmc.dsl import Choice, Module, elaborate, load_module, signature
from ssmc.ir import COMPLEX, INT, REAL, Axis, Const, Equation, Index, Op, Program, Read, Size
from ssmc.ir.interpret import interpret
from ssmc.passes import adjoint_names, grad

FOLDER = Path(__file__).resolve().parent.parent / "reference"
Array = np.ndarray
Tensor = torch.Tensor
# Relative to the largest expected value, where that is stored in float64.
EXACT = 1e-9


@dataclass(frozen=True)
class Case:
    """One reference case: its settings and its tensors, reals as float64, pairs as complex."""

    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    entries: Mapping[str, Mapping[str, Any]]
    stored_as: str
    loss_on: tuple[str, ...]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def get(self, name: str) -> Tensor | None:
        return self.tensors.get(name)

    @property
    def outputs(self) -> dict[str, Tensor]:
        """What the reference returned, by name without ``out.``."""
        return {name[4:]: tensor for name, tensor in self.tensors.items() if name.startswith("out.")}

    def with_gradients(self) -> Case:
        """The case with leaves in the place of the tensors whose gradient the reference returned."""
        leaves = {name: self[name].clone().requires_grad_() for name in self.differentiated}
        return replace(self, tensors={**self.tensors, **leaves})

    @property
    def differentiated(self) -> list[str]:
        """The tensors whose gradient the reference returned."""
        return [name.removeprefix("grad.") for name in self.tensors if name.startswith("grad.")]


@functools.cache
def manifest() -> dict[str, Any]:
    return json.loads((FOLDER / "manifest.json").read_text())


def cases(prefixes: Iterable[str]) -> list[str]:
    """The names of the cases that start with one of the prefixes."""
    return [name for name in manifest() if name.startswith(tuple(prefixes))]


@functools.cache
def load_case(name: str) -> Case:
    entry = manifest()[name]
    raw: dict[str, Tensor] = {}
    for file in entry["files"]:
        raw.update(load_file(FOLDER / file))
    return Case(
        name=name,
        config=entry["config"],
        tensors={key: _as_language_value(array, entry["tensors"][key]) for key, array in raw.items()},
        entries=entry["tensors"],
        stored_as=entry["stored_as"],
        loss_on=tuple(entry["loss_on"]),
    )


def _as_language_value(tensor: Tensor, entry: Mapping[str, Any]) -> Tensor:
    """Copied: what is loaded may lie at any address, and complex arithmetic wants an even one."""
    if tensor.is_floating_point():
        tensor = tensor.to(torch.float64, copy=True)
        return paired(tensor) if entry.get("complex") else tensor
    return tensor.to(torch.int64, copy=True)


def paired(tensor: Tensor) -> Tensor:
    """Complex numbers from a trailing axis of (real, imaginary)."""
    return torch.view_as_complex(tensor.contiguous())


def assert_agrees(case: Case, name: str, found: Tensor, where: Tensor | None = None) -> None:
    """A tensor of the case, ``out.y`` or ``grad.in.x``, to float64 accuracy, or to the stored tolerance where it was
    rounded."""
    expected = case[name]
    assert found.shape == expected.shape, f"{case.name} {name}: shape {found.shape}, expected {expected.shape}"
    error = (found.detach() - expected).abs()
    if where is not None:
        error = torch.where(where, error, 0)
    entry = case.entries[name]
    largest = entry.get("max_abs", expected.abs().max() if expected.numel() else 0)
    allowed = torch.as_tensor(EXACT * largest)
    if case.stored_as != "float64":
        allowed = entry["atol"] + entry["rtol"] * expected.abs()
    assert found.isfinite().all(), f"{case.name} {name}: not finite"
    assert (error <= allowed).all(), f"{case.name} {name}: largest error {error.max():.3g}, allowed {allowed.max():.3g}"


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


def run(layer: str, inputs: Mapping[str, Array | None], **statics: Any) -> dict[str, Array]:
    """Every tensor of the layer by name; inputs that are None are absent."""
    present = {key: value for key, value in inputs.items() if value is not None}
    return interpret(elaborated(layer, present, statics), present, keep="all")


def call(
    layer: str,
    inputs: Mapping[str, Tensor | None],
    carried: Mapping[str, int] | None = None,
    **statics: Any,
) -> dict[str, Tensor]:
    """The same with PyTorch tensors, which autograd can differentiate.

    ``carried`` asks for the state: the last values of a tensor along t, as many as stated. They come
    as ``<tensor>@last`` with an axis in the place of t, oldest first.
    """
    present = {key: value for key, value in inputs.items() if value is not None}
    program = elaborated(layer, {key: value.detach().numpy() for key, value in present.items()}, statics)
    for tensor, count in (carried or {}).items():
        program = _with_last_values(program, tensor, count)
    given = [present[tensor.name] for tensor in program.inputs]
    return dict(zip((e.name for e in program.equations), _Call.apply(program, *given), strict=True))


class _Call(torch.autograd.Function):
    """All equations of a Program, by the interpreter; their gradient is that of the derived Program."""

    @staticmethod
    def forward(ctx: Any, program: Program, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.program, ctx.given = program, {t.name: _array(v) for t, v in zip(program.inputs, values, strict=True)}
        ctx.set_materialize_grads(False)
        found = interpret(program, ctx.given, keep="all")
        made = tuple(torch.from_numpy(np.array(found[e.name])) for e in program.equations)
        ctx.mark_non_differentiable(*(t for t in made if not (t.is_floating_point() or t.is_complex())))
        return made

    @staticmethod
    def backward(ctx: Any, *adjoints: Tensor | None) -> tuple[Tensor | None, ...]:
        program: Program = ctx.program
        able = [e.name for e in program.equations if e.dtype in (REAL, COMPLEX)]
        seeds = {
            e.name: a for e, a in zip(program.equations, adjoints, strict=True) if e.name in able and a is not None
        }
        wanted = [t.name for t, needed in zip(program.inputs, ctx.needs_input_grad[1:], strict=True) if needed]
        asked = replace(program, outputs=tuple(seeds))
        names, derived = adjoint_names(asked), grad(asked, wrt=wanted)
        found = interpret(derived, {**ctx.given, **{names[n]: _array(a) for n, a in seeds.items()}})
        result = {name: torch.from_numpy(found[names[name]]) for name in wanted}
        return None, *(result.get(t.name) for t in program.inputs)


def _array(tensor: Tensor) -> Array:
    return tensor.detach().resolve_conj().numpy()


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


Adapter = Callable[[Case], dict[str, Tensor]]
