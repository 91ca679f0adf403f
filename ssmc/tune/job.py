"""What is tuned: one pass of one layer, for inputs of one form, on one target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import torch

from ssmc import runtime
from ssmc.dsl import StaticValue
from ssmc.errors import UserError
from ssmc.ir import Program
from ssmc.passes import PlanOptions
from ssmc.runtime import Bucket, Examined, Results, Subject, bucket_of
from ssmc.verify import draw_inputs, free_axes, settle, small, solve

PASSES = ("forward", "training", "backward")
DEVICES = {"c": "cpu", "cuda": "cuda", "triton": "cuda"}
DTYPES = {"f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


@dataclass(frozen=True)
class Job:
    """``layer``: a library name or a path, ``NAME:LAYER`` for one of its layers. ``what``: one of ``PASSES``.
    ``present`` and ``signatures`` are as for ``Layer.program``, ``sizes`` the extents of all axes of the inputs.
    ``real`` is the storage of real inputs, but for those in ``stored``; with ``autocast`` calls are those that autocast
    to ``real`` makes."""

    layer: str
    sizes: Mapping[str, int]
    what: str = "forward"
    target: str = "c"
    real: str = "f32"
    present: tuple[str, ...] | None = None
    signatures: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    statics: Mapping[str, StaticValue] = field(default_factory=dict)
    seed: int = 0
    stored: Mapping[str, str] = field(default_factory=dict)
    autocast: bool = False

    def __post_init__(self) -> None:
        if self.what not in PASSES:
            raise UserError(f"there is no pass {self.what!r}", expected=" or ".join(PASSES))
        if self.target not in DEVICES:
            raise UserError(f"target {self.target!r} cannot be tuned", expected=" or ".join(DEVICES))

    def __reduce__(self) -> tuple[Any, ...]:
        """Other processes load the layer again."""
        return Job, tuple(getattr(self, item.name) for item in fields(self))

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return torch.device(DEVICES[self.target])

    def examined(self, plan: str | PlanOptions = "") -> Examined:
        """The layer with a plan; UserError if it does not have the pass."""
        layer = runtime.load(self.layer, None, self.target, plan, **self.statics)
        autocast = self.real if self.autocast else ""
        found = Examined(layer, self.present, self.signatures, self.real, None, self.stored, autocast)
        if self.what not in found.kinds:
            raise UserError(f"{layer.name} has no gradient, so there is no pass {self.what!r}", expected="forward")
        return found

    @cached_property
    def usual(self) -> Examined:
        """The layer as the compiler plans it."""
        return self.examined()

    def extents(self) -> dict[str, int]:
        """The extents of all axes that inputs bind; UserError if one is missing or they do not fit."""
        free = free_axes(self.usual.program)
        missing = [axis for axis in free if axis not in self.sizes]
        if missing:
            example = ",".join(f"{axis}=…" for axis in missing)
            raise UserError(f"the extents of {', '.join(missing)} are not known", hint=f"add --sizes {example}")
        return {axis: self.sizes[axis] for axis in free}

    def bucket(self) -> Bucket:
        """Where results for these extents are stored: batch and time are rounded."""
        program = self.usual.program
        return bucket_of(self.extents(), batch_and_time(program))

    def subject(self) -> Subject:
        """What results are stored under, on this machine."""
        return self.usual.layer.subject(self.usual.kinds[self.what], self.device)

    def results(self) -> Results:
        return self.usual.layer.results

    def inputs(self) -> dict[str, torch.Tensor]:
        """Inputs of the layer, the same each time, of moderate size."""
        program, real = self.usual.program, DTYPES[self.real]
        few = solve(program, {**small(program), **dict.fromkeys(program.sequence_axes, 9)}) or {}
        kinds = settle(program, few)
        made = draw_inputs(program, solve(program, self.extents()) or {}, self.seed, kinds, self.real)
        complex_dtype = torch.complex128 if real is torch.float64 else torch.complex64
        dtypes = {"f": real, "c": complex_dtype, "i": torch.int64, "b": torch.bool}
        own = {name: DTYPES[storage] for name, storage in self.stored.items()}
        return {n: torch.from_numpy(v).to(self.device, own.get(n, dtypes[v.dtype.kind])) for n, v in made.items()}


def batch_and_time(program: Program) -> tuple[str, ...]:
    """The sequence axes, and those in front of one in the first input that has one."""
    found = dict.fromkeys(program.sequence_axes)
    for tensor in program.inputs:
        places = [n for n, axis in enumerate(tensor.axes) if axis in found]
        if places:
            return tuple(dict.fromkeys((*tensor.axes[: places[0]], *found)))
    return tuple(found) or program.inputs[0].axes[:1]
