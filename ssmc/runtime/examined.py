"""The calls that a layer is used by, one by one: what is timed where the time of machine code alone is wanted.

forward     a call without gradients
training    a call that keeps what its gradient wants
backward    the gradient of all that has one, from all outputs
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ssmc.dsl import StaticValue
from ssmc.errors import Unsupported, UserError
from ssmc.ir import Program

from .build import Call, Planned
from .gradient import Recipe
from .layer import Layer
from .specialise import ADJOINT, Kind, Specialisation

_data_ptr = torch.Tensor.data_ptr


@dataclass
class Prepared:
    """A call with memory for all that it gives: ``run`` does nothing but run machine code."""

    run: Callable[[], None]
    given: Sequence[torch.Tensor]
    made: Sequence[torch.Tensor]
    call: Call


class Examined:
    """A layer, loaded as it is, for inputs of one form.

    Args:
        layer: its plan and target are what is examined.
        present, signatures: as for ``Layer.program``.
        real: the storage of real inputs; ``stored``: of those where it is another.
        autocast: the call is made under autocast to this storage; empty for a plain one.
        statics: static parameters that differ from those the layer was loaded with.
    """

    def __init__(
        self,
        layer: Layer,
        present: Sequence[str] | None = None,
        signatures: Mapping[str, Sequence[str]] | None = None,
        real: str = "f32",
        statics: Mapping[str, StaticValue] | None = None,
        stored: Mapping[str, str] | None = None,
        autocast: str = "",
    ) -> None:
        self.layer, self._operator = layer, layer._operator
        plain = layer._kind_for(present, signatures, False, False, statics or {}, real)
        plain = _stored(plain, layer, stored or {})
        plain = plain.under_autocast(autocast) if autocast else plain
        self.kinds: dict[str, Kind] = {"forward": plain}
        wrt = tuple(p.name for p in self._operator.specialisation(plain).takes if p.differentiable)
        try:
            recipe = Recipe(self._operator, plain, wrt)
            self.kinds |= {"training": Kind.of(recipe.run), "backward": recipe.gradient}
        except Unsupported:  # it has no gradient
            pass

    @property
    def program(self) -> Program:
        """The layer as it is called."""
        return self._operator.source.program(self.kinds["forward"])

    def specialisation(self, name: str) -> Specialisation:
        """What a call takes and gives."""
        return self._operator.specialisation(self.kinds[name])

    def planned(self, sizes: Mapping[str, int], name: str = "forward", device: str = "cpu") -> Planned:
        """How a call with these extents runs, and why so."""
        return self._operator.source.planned(self.kinds[name], sizes, torch.device(device))

    def values(self, name: str, inputs: Mapping[str, torch.Tensor], seed: int = 0) -> list[torch.Tensor]:
        """All that a call takes, in order: the layer's ``inputs``, for a gradient what training keeps, and some
        gradients of the outputs."""
        if name != "backward":
            return [inputs[place.name] for place in self.specialisation(name).takes]
        training = self.specialisation("training")
        made = self._operator.run_derived([inputs[p.name] for p in training.takes], self.kinds["training"].text)
        known = {**inputs, **{place.name: value for place, value in zip(training.gives, made, strict=True)}}
        return [
            _slope(known[place.of], seed) if place.role == ADJOINT else known[place.name]
            for place in self.specialisation(name).takes
        ]

    def prepared(self, name: str, values: Sequence[torch.Tensor]) -> Prepared:
        """That call for these values, compiled now if need be."""
        call, given = self._operator.call_derived(values, self.kinds[name].text)
        made = [make() for make in call.makers]
        spare = [make() for make in call.spare]
        packed = call.pack(*map(_data_ptr, given), *map(_data_ptr, made), *map(_data_ptr, spare))
        keep = (given, spare)

        def run(entry: Callable[..., int] = call.entry, meta: bytes = call.meta, keep: object = keep) -> None:
            if entry(packed, meta, torch.get_num_threads()):
                raise MemoryError("there is not enough memory for the working space of its kernels")

        return Prepared(run, given, made, call)


def _stored(kind: Kind, layer: Layer, stored: Mapping[str, str]) -> Kind:
    """The kind with other storages for the inputs named; UserError if there are none of that name."""
    names = [item.name for item in layer.signature.inputs]
    for name in stored:
        if name not in names:
            raise UserError(f"{layer.name} has no input {name!r}", expected=", ".join(names))
    inputs = [
        item if item is None else (item[0], stored.get(name, item[1]))
        for name, item in zip(names, kind.inputs, strict=True)
    ]
    return replace(kind, inputs=tuple(inputs))


def _slope(value: torch.Tensor, seed: int) -> torch.Tensor:
    """Random numbers in the form of an output."""
    draw = torch.Generator(device=value.device).manual_seed(seed)
    made = torch.empty(value.shape, dtype=value.dtype, device=value.device)
    return made.normal_(generator=draw)
