"""A layer for one kind of call: which inputs are given, with which axes and dtypes, with or without state.

A ``Specialisation`` says what such a call takes and returns, and the extents of every axis from the
shapes of its arguments; sizes may be symbolic. It needs no compiler, so it serves tracing too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ssmc.backends import output_storage, state_storage
from ssmc.errors import InternalError, UserError
from ssmc.ir import Expr, Program, Size, evaluate_int, print_expr, walk

STATE, NEXT, OFFSET, NEXT_OFFSET = ".state", ".next", ".offset", ".next_offset"


@dataclass(frozen=True)
class Kind:
    """What a Program is made for, sizes aside. ``inputs``: for each input of the layer its axes and
    storage, None where it is absent. ``statics``: in the order of the layer. ``takes``, ``gives``:
    whether a state comes in, goes out."""

    inputs: tuple[tuple[tuple[str, ...], str] | None, ...]
    statics: tuple[Any, ...]
    takes: bool = False
    gives: bool = False


@dataclass(frozen=True)
class Place:
    """A tensor of a call: its name in the Program, what users call it, axes and storage; for inputs
    their number in the layer's signature."""

    name: str
    shown: str
    axes: tuple[str, ...]
    storage: str
    number: int = -1


@dataclass(frozen=True)
class Specialisation:
    """See the module's head. ``states`` come in after ``inputs``, ``nexts`` go out after ``outputs``.
    ``stated`` are the extents that the Program states, ``requirements`` what sizes must meet."""

    layer: str
    inputs: tuple[Place, ...]
    states: tuple[Place, ...]
    outputs: tuple[Place, ...]
    nexts: tuple[Place, ...]
    stated: tuple[tuple[str, Expr], ...]
    requirements: tuple[Expr, ...]
    program: Callable[[], Program] = field(compare=False, repr=False)

    @property
    def storage(self) -> dict[str, str]:
        """Storage of every tensor that comes in, by its name in the Program."""
        return {place.name: place.storage for place in (*self.inputs, *self.states)}

    @property
    def state_names(self) -> tuple[str, ...]:
        """The names of the state that goes out; those that come in have the same."""
        return tuple(place.shown for place in self.nexts)

    def sizes(self, arguments: Sequence[torch.Tensor]) -> dict[str, Any]:
        """The extent of every axis for these arguments, inputs then states; extents may be symbolic.

        Raises UserError, naming the argument, for a wrong number of axes, a wrong extent, a requirement
        that is not met.
        """
        sizes: dict[str, Any] = {}
        origin: dict[str, Place] = {}
        for place, value in zip((*self.inputs, *self.states), arguments, strict=True):
            if value.dim() != len(place.axes):
                raise self._wrong(place, value, f"has {value.dim()} axes", f"{len(place.axes)} axes")
            for axis, extent in zip(place.axes, value.shape, strict=True):
                if axis not in sizes:
                    sizes[axis] = extent
                    origin[axis] = place
                elif sizes[axis] != extent:
                    expected = f"{sizes[axis]}, as in {origin[axis].shown!r}"
                    raise self._wrong(place, value, f"has extent {extent} along {axis!r}", expected)
        self._bind_stated(sizes, origin)
        self._check_requirements(sizes)
        return sizes

    def _bind_stated(self, sizes: dict[str, Any], origin: Mapping[str, Place]) -> None:
        waiting = dict(self.stated)
        while waiting:
            ready = [axis for axis, expr in waiting.items() if _sizes_in(expr) <= sizes.keys()]
            if not ready:
                raise InternalError(f"{self.layer}: extents of {sorted(waiting)} never become known")
            for axis in ready:
                extent = evaluate_int(waiting.pop(axis), sizes)
                if axis in sizes and sizes[axis] != extent:
                    raise UserError(
                        f"{self.layer}: {origin[axis].shown!r} has extent {sizes[axis]} along {axis!r}",
                        expected=f"{extent}, the extent that the layer states",
                    )
                if extent < 0:
                    raise UserError(f"{self.layer}: the extent of axis {axis!r} would be {extent}")
                sizes[axis] = extent

    def _check_requirements(self, sizes: Mapping[str, Any]) -> None:
        for condition in self.requirements:
            if not evaluate_int(condition, sizes):
                found = ", ".join(f"#{axis} = {sizes[axis]}" for axis in sorted(_sizes_in(condition)))
                raise UserError(f"{self.layer}: requirement not met: {print_expr(condition)}", hint=f"found {found}")

    def _wrong(self, place: Place, value: torch.Tensor, found: str, expected: str) -> UserError:
        what = f"state {place.shown!r}" if place in self.states else repr(place.shown)
        axes = f"{place.shown}[{', '.join(place.axes)}]"
        return UserError(
            f"{self.layer}: {what} {found}: its shape is {tuple(value.shape)}", expected=f"{expected}: {axes}"
        )


def _sizes_in(expr: Expr) -> set[str]:
    return {node.axis for node in walk(expr) if isinstance(node, Size)}


def specialise(layer: str, kind: Kind, inputs: Sequence[str], program: Callable[[], Program]) -> Specialisation:
    """What a call of that kind takes and returns; ``inputs`` are the names of the layer's inputs.

    Raises UserError if a state comes in and an input is given that the state takes the place of.
    """
    made = program()
    given = {name: item for name, item in zip(inputs, kind.inputs, strict=True) if item is not None}
    taken = {t.name: t for t in made.inputs}
    replaced = [name for name in given if name not in taken]
    if replaced and kind.takes:
        raise UserError(
            f"{layer}: {replaced[0]!r} is given together with a state, which takes its place",
            hint=f"leave out {replaced[0]!r}, or start afresh without `state`",
        )
    held = {name: storage for name, (_, storage) in given.items()}
    places = tuple(
        Place(name, name, item[0], item[1], number)
        for number, (name, item) in enumerate(zip(inputs, kind.inputs, strict=True))
        if item is not None and name in taken
    )
    tensors = made.tensors()
    states = tuple(
        Place(t.name, state_name(t.name), t.axes, state_storage(t.dtype, held))
        for t in made.inputs
        if t.name not in given
    )
    outputs, nexts = [], []
    for name in made.outputs:
        tensor = tensors[name]
        if is_next(name):
            nexts.append(Place(name, state_name(name), tensor.axes, state_storage(tensor.dtype, held)))
        else:
            outputs.append(Place(name, name, tensor.axes, output_storage(tensor.dtype, held)))
    stated = tuple((axis.name, axis.extent) for axis in made.axes if axis.extent is not None)
    requirements = tuple(r.condition for r in made.requirements)
    return Specialisation(layer, places, states, tuple(outputs), tuple(nexts), stated, requirements, program)


def is_next(name: str) -> bool:
    return name.endswith((NEXT, NEXT_OFFSET))


def state_name(name: str) -> str:
    """What users call a carried value: ``h`` for ``h.state`` and ``h.next``, ``t`` for ``t.offset``."""
    for suffix in (STATE, NEXT, OFFSET, NEXT_OFFSET):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name
