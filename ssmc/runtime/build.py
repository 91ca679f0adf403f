"""Compiled variants of a layer, and calls of them.

A ``Family`` holds what was compiled for one kind of call: one library for each set of extents that is
compiled in (inner axes; never batch or length). A ``Call`` is one of them made ready for given shapes and
strides: all that is left to do is to fetch pointers.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ssmc.compiler import Argument
from ssmc.errors import ToolchainError
from ssmc.ir import Expr, evaluate_int
from ssmc.passes import PlanOptions

from .dtypes import TORCH_DTYPES
from .specialise import Specialisation

_data_ptr, _threads = torch.Tensor.data_ptr, torch.get_num_threads
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Planned:
    """How kernels are to run, and for people why so; nothing where the compiler chooses."""

    options: PlanOptions = PlanOptions()
    because: str = ""


@dataclass(frozen=True)
class Variant:
    """Machine code: what ``compiler.Compiled`` says of it that a call needs. ``derived`` are the extents
    of axes that the compiler has introduced."""

    arguments: tuple[Argument, ...]
    axes: tuple[str, ...]
    fixed: Mapping[str, int]
    derived: tuple[tuple[str, Expr], ...]
    library: Path
    text: Path
    entry: Callable[..., int]
    target: str
    planned: Planned = Planned()


@dataclass(frozen=True)
class Buffer:
    """A tensor that a call allocates."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    def maker(self, device: torch.device) -> Callable[[], torch.Tensor]:
        """What makes a new one."""
        return partial(torch.empty_strided, self.shape, self.strides, dtype=self.dtype, device=device)


class Call:
    """A compiled variant for arguments of given shapes and strides.

    Nothing in it changes after it is made, so threads may share it: pointers are packed afresh for
    each call, and the compiled code only reads ``meta``.
    """

    __slots__ = (
        "buffers", "device", "entry", "extents", "makers", "meta", "pack", "spare", "spec", "variant", "workspaces",
    )  # fmt: skip

    def __init__(
        self,
        spec: Specialisation,
        variant: Variant,
        sizes: Mapping[str, Any],
        given: Sequence[torch.Tensor],
        out: Sequence[torch.Tensor] = (),
        device: torch.device = _CPU,
    ) -> None:
        self.spec = spec
        self.variant = variant
        self.entry = variant.entry
        self.device = device
        self.extents = {axis: int(extent) for axis, extent in sizes.items()}
        for axis, expr in variant.derived:
            self.extents[axis] = evaluate_int(expr, self.extents)
        strides = {place.name: value.stride() for place, value in zip(spec.takes, given, strict=True)}
        self.buffers = tuple(self._buffer(place.axes, place.storage) for place in spec.gives)
        strides |= {place.name: buffer.strides for place, buffer in zip(spec.gives, self.buffers, strict=True)}
        strides |= {place.name: value.stride() for place, value in zip(spec.outputs, out, strict=False)}
        workspaces = [a for a in variant.arguments if a.role == "workspace"]
        self.workspaces = tuple(self._buffer(a.axes, a.storage) for a in workspaces)
        strides |= {a.name: buffer.strides for a, buffer in zip(workspaces, self.workspaces, strict=True)}
        self.makers = tuple(buffer.maker(device) for buffer in self.buffers)
        self.spare = tuple(buffer.maker(device) for buffer in self.workspaces)
        numbers = [self.extents[axis] for axis in variant.axes]
        for argument in variant.arguments:
            numbers += strides[argument.name]
        self.meta = struct.pack(f"{len(numbers)}q", *numbers)
        self.pack = struct.Struct(f"{len(variant.arguments)}P").pack
        if device.type == "cpu" and any(value.numel() == 0 for value in given):
            self.pack = partial(_pack_somewhere, self.pack)

    def _buffer(self, axes: Sequence[str], storage: str) -> Buffer:
        shape = tuple(self.extents[axis] for axis in axes)
        return Buffer(shape, contiguous_strides(shape), TORCH_DTYPES[storage])

    def run(self, pointers: Iterable[int], out: Sequence[torch.Tensor] = ()) -> list[torch.Tensor]:
        """Outputs (``out`` if given), then the state, for these addresses of the arguments."""
        made = [make() for make in self.makers] if not out else [*out, *(make() for make in self.makers[len(out) :])]
        if self.spare:
            spare = [make() for make in self.spare]
            packed = self.pack(*pointers, *map(_data_ptr, made), *map(_data_ptr, spare))
        else:
            packed = self.pack(*pointers, *map(_data_ptr, made))
        if self.entry(packed, self.meta, _threads()):
            raise ToolchainError(f"{self.spec.layer}: there is not enough memory for the working space of its kernels")
        return made


# Tensors without elements have no address. Nothing is read there, but compilers load what is read under a condition
# and drop it where that does not hold (gcc 12 so takes the masks off vector loads): this memory is for that.
_SOMEWHERE = ctypes.create_string_buffer(1 << 20)
_MIDDLE = ctypes.addressof(_SOMEWHERE) + (1 << 19)


def _pack_somewhere(pack: Callable[..., bytes], *pointers: int) -> bytes:
    return pack(*(pointer or _MIDDLE for pointer in pointers))


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides, in elements."""
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= max(extent, 1)
    return tuple(reversed(strides))


def extent_in_bytes(value: torch.Tensor) -> tuple[int, int]:
    """The first address of a tensor's elements and the one after its last."""
    start = value.data_ptr()
    if value.numel() == 0:
        return start, start
    last = sum((extent - 1) * stride for extent, stride in zip(value.shape, value.stride(), strict=True))
    return start, start + (last + 1) * value.element_size()


class Family:
    """The compiled variants for one kind of call. ``planned`` says how calls with given extents are to run."""

    def __init__(
        self,
        spec: Specialisation,
        build: Callable[[Specialisation, dict[str, int], Planned], Variant],
        planned: Callable[[Mapping[str, int]], Planned],
    ) -> None:
        self.spec = spec
        self.built: list[Variant] = []
        self._build, self._planned = build, planned

    def compiled(self, sizes: Mapping[str, Any]) -> Variant:
        """The variant whose plan and compiled-in extents are these, compiled now if there is none yet."""
        known = {axis: int(extent) for axis, extent in sizes.items()}
        planned = self._planned(known)
        for item in self.built:
            fits = all(known.get(axis, extent) == extent for axis, extent in item.fixed.items())
            if fits and item.planned.options == planned.options:
                return item
        made = replace(self._build(self.spec, known, planned), planned=planned)
        self.built.append(made)
        return made
