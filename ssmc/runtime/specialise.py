"""A layer for one kind of call: which inputs are given, with which axes and dtypes, with or without state,
how its sequences lie, and what is derived from it.

A ``Specialisation`` says what such a call takes and returns, and the extents of every axis from the
shapes of its arguments; sizes may be symbolic. It needs no compiler, so it serves tracing too.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from ssmc.backends import REALS
from ssmc.errors import InternalError, UserError
from ssmc.ir import Expr, Program, Size, evaluate_int, print_expr, walk

# What a tensor of a call is: one that comes in, that goes out, or either.
INPUT, STATE, LAYOUT = "input", "state", "layout"
OUTPUT, NEXT = "output", "next"
ADJOINT, TANGENT, SAVED = "adjoint", "tangent", "saved"


@dataclass(frozen=True)
class Derivative:
    """One derivation: ``grad``, from the adjoints of the outputs ``of`` to those of the inputs ``wrt``; ``jvp``, from
    the tangents of ``wrt`` to those of the outputs; or ``save``, the same call that also returns what the gradients
    for ``wrt`` want kept. Names are those in the Program that it is applied to."""

    name: str
    wrt: tuple[str, ...]
    of: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kind:
    """What a Program is made for, sizes aside. ``inputs``: for each input of the layer its axes and
    storage, None where it is absent. ``statics``: in the order of the layer. ``takes``, ``gives``:
    whether a state comes in, goes out. ``arranged``: how sequences lie, as the names of passes and the number of
    batch axes along which they differ in that. ``narrow``: how real outputs are stored, where that does not follow
    from the inputs. ``derivatives``: in the order in which they are applied."""

    inputs: tuple[tuple[tuple[str, ...], str] | None, ...]
    statics: tuple[Any, ...]
    takes: bool = False
    gives: bool = False
    arranged: tuple[tuple[str, int], ...] = ()
    narrow: str = ""
    derivatives: tuple[Derivative, ...] = ()

    @functools.cached_property
    def text(self) -> str:
        """The kind as PyTorch's graphs hold it."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    @functools.lru_cache(4096)
    def of(text: str) -> Kind:
        """The kind that a text stands for."""
        made = json.loads(text)
        return Kind(
            tuple(None if item is None else (tuple(item[0]), item[1]) for item in made["inputs"]),
            tuple(made["statics"]),
            made["takes"],
            made["gives"],
            tuple((name, axes) for name, axes in made["arranged"]),
            made["narrow"],
            tuple(Derivative(d["name"], tuple(d["wrt"]), tuple(d["of"])) for d in made["derivatives"]),
        )

    def under_autocast(self, storage: str) -> Kind:
        """The same call where autocast prefers ``storage``: inputs in float32 beside some in that do not widen what
        comes out. Double precision is left alone."""
        found = {item[1] for item in self.inputs if item is not None}
        reals = found & {*REALS}
        if self.derivatives or self.narrow or storage not in reals or len(reals) == 1 or found & {"f64", "c128"}:
            return self
        return replace(self, narrow=storage)

    def saving(self, wrt: Sequence[str]) -> Kind:
        """The same call, which also returns what the gradients for ``wrt`` want kept. Gradients themselves have
        what was kept and keep no more."""
        if any(d.name == "grad" for d in self.derivatives):
            return self
        return replace(self, derivatives=(*self.derivatives, Derivative("save", tuple(wrt))))

    def gradient(self, wrt: Sequence[str], of: Sequence[str]) -> Kind:
        """The gradient of a call of this kind."""
        return replace(self, derivatives=(*self.derivatives, Derivative("grad", tuple(wrt), tuple(of))))

    def tangent(self, wrt: Sequence[str]) -> Kind:
        """The tangent of a call of this kind."""
        return replace(self, derivatives=(*self.derivatives, Derivative("jvp", tuple(wrt))))

    def plain(self) -> tuple[Kind, tuple[str, ...]]:
        """The kind without ``save``, and what that saved for."""
        if self.derivatives and self.derivatives[-1].name == "save":
            return replace(self, derivatives=self.derivatives[:-1]), self.derivatives[-1].wrt
        return self, ()


@dataclass(frozen=True)
class Place:
    """A tensor of a call: its name in the Program, what users call it (for derivatives and what is saved: the
    name of the tensor that it belongs to), axes and storage; what it is; whether it has a gradient; for inputs their
    number in the layer's signature; for derivatives the name in the Program of what they belong to."""

    name: str
    shown: str
    axes: tuple[str, ...]
    storage: str
    role: str
    differentiable: bool = True
    number: int = -1
    of: str = ""

    def described(self) -> str:
        """For messages."""
        words = {STATE: "state ", ADJOINT: "the gradient of ", TANGENT: "the tangent of ", SAVED: "what is kept of "}
        return f"{words.get(self.role, '')}{self.shown!r}"


@dataclass(frozen=True)
class Specialisation:
    """See the module's head. ``takes`` is all that comes in and ``gives`` all that goes out, in the order of the
    Program. ``stated`` are the extents that the Program states, ``requirements`` what sizes must meet."""

    layer: str
    takes: tuple[Place, ...]
    gives: tuple[Place, ...]
    stated: tuple[tuple[str, Expr], ...]
    requirements: tuple[Expr, ...]
    program: Callable[[], Program] = field(compare=False, repr=False)

    @functools.cached_property
    def inputs(self) -> tuple[Place, ...]:
        """The inputs of the layer, which come first."""
        return tuple(place for place in self.takes if place.role == INPUT)

    @functools.cached_property
    def states(self) -> tuple[Place, ...]:
        """The state that comes in."""
        return tuple(place for place in self.takes if place.role == STATE)

    @functools.cached_property
    def layouts(self) -> tuple[Place, ...]:
        """What says how sequences lie."""
        return tuple(place for place in self.takes if place.role == LAYOUT)

    @functools.cached_property
    def outputs(self) -> tuple[Place, ...]:
        return tuple(place for place in self.gives if place.role == OUTPUT)

    @property
    def storage(self) -> dict[str, str]:
        """Storage of every tensor that comes in, by its name in the Program."""
        return {place.name: place.storage for place in self.takes}

    @functools.cached_property
    def state_names(self) -> tuple[str, ...]:
        """The names of the state that goes out; those that come in have the same."""
        return tuple(place.shown for place in self.gives if place.role == NEXT)

    def sizes(self, arguments: Sequence[torch.Tensor]) -> dict[str, Any]:
        """The extent of every axis for these arguments; extents may be symbolic.

        Raises UserError, naming the argument, for a wrong number of axes, a wrong extent, a requirement
        that is not met.
        """
        sizes: dict[str, Any] = {}
        origin: dict[str, Place] = {}
        for place, value in zip(self.takes, arguments, strict=True):
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
        axes = f"{place.shown}[{', '.join(place.axes)}]"
        return UserError(
            f"{self.layer}: {place.described()} {found}: its shape is {tuple(value.shape)}",
            expected=f"{expected}: {axes}",
        )


def _sizes_in(expr: Expr) -> set[str]:
    return {node.axis for node in walk(expr) if isinstance(node, Size)}
