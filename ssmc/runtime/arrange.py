"""What a call says about its sequences beside their values: that they are packed, padded, or run backwards.

    op(x, cu_seqlens=[0 3 5])      =    y[:, 0:3] = op(x[:, 0:3]);   y[:, 3:5] = op(x[:, 3:5])
    op(x, mask=[1 0 1])            =    y[:, [0 2]] = op(x[:, [0 2]]);   y[:, 1] = 0
    op(x, reverse=True)            =    op(x.flip(1)).flip(1)
    op(x, states_at=[2])           =    op(x), with the state of op(x[:, :2])

Each option becomes the name of a pass and the tensors that the layer then reads (see ``derived``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ssmc.dsl import LayerSignature
from ssmc.errors import UserError

from .binding import ARRANGED, PACKED, shown
from .derived import ARRANGEMENTS
from .documents import layout
from .machines import DEVICES
from .specialise import Kind, Specialisation
from .state import State

Arranged = tuple[tuple[str, int], ...]
_INTS = {torch.int64, torch.int32}
_SHAPES = {
    "cu_seqlens": "of shape (documents + 1,): where each document begins, and the end of the last",
    "seq_idx": "of shape (…, length): the number of the document of each token",
    "position_ids": "of shape (…, length): the position of each token in its document",
    "mask": "of shape (…, length): whether there is a token",
    "states_at": "of shape (…, number): after how many indices",
}


@dataclass(frozen=True)
class Geometry:
    """Where an arranged call finds what it takes: the inputs of the numbers ``inputs``, then the state, then the
    layout. ``sequence`` is the number of an input and its axis along the sequence. ``states`` says, for each axis of
    each part of the state, which input has it, and where; None if none has. ``documents`` is the number of a part of
    the state and its axis of documents; ``counts`` says whether what goes out has an entry for each of them. ``names``
    are those of the state that comes in, ``returned`` of the one that goes out; ``text`` is that of the kind."""

    text: str
    inputs: tuple[int, ...]
    sequence: tuple[int, int]
    states: tuple[tuple[tuple[int, int] | None, ...], ...]
    documents: tuple[int, int] | None
    counts: bool
    names: tuple[str, ...]
    returned: tuple[str, ...]


def geometry(kind: Kind, spec: Specialisation) -> Geometry:
    """The geometry of calls of that kind."""
    time = spec.layouts[0].name.rpartition(".")[0] if spec.layouts else ""
    found = {axis: (place.number, at) for place in reversed(spec.inputs) for at, axis in enumerate(place.axes)}
    states = [tuple(found.get(axis) for axis in place.axes) for place in spec.states]
    docs = f"{time}.docs"
    documents = [(n, place.axes.index(docs)) for n, place in enumerate(spec.states) if docs in place.axes]
    return Geometry(
        kind.text,
        tuple(place.number for place in spec.inputs),
        found.get(time, (0, 0)),
        tuple(states),
        documents[0] if documents else None,
        bool(spec.state_names) or any(docs in place.axes for place in spec.gives),
        tuple(place.shown for place in spec.states),
        spec.state_names,
    )


def split(layer: LayerSignature, named: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inputs and static parameters among named arguments, and the options. A layer's own name goes before an
    option's."""
    own = {item.name for item in layer.inputs} | {item.name for item in layer.statics}
    asked = {name: named[name] for name in ARRANGED if name in named and name not in own}
    rest = {name: value for name, value in named.items() if name not in asked}
    return rest, {name: value for name, value in asked.items() if value is not None and value is not False}


def arranged(layer: LayerSignature, asked: Mapping[str, Any], state: State | None) -> Arranged:
    """The passes that options ask for, in order, each with the number of batch axes along which sequences differ.

    Raises UserError for an option that is not what it should be, and for options that exclude each other.
    """
    for name, value in asked.items():
        _check(layer.name, name, value)
    packed = [name for name in PACKED if name in asked]
    if len(packed) > 1 or (packed and "states_at" in asked):
        both = " and ".join(f"`{name}`" for name in (*packed, "states_at") if name in asked)
        hint = "" if len(packed) > 1 else "return_state=True gives the state after each document"
        raise UserError(f"{layer.name}: {both} are given together", expected="one of them", hint=hint)
    found = {"pack": asked[packed[0]].dim() - 1} if packed else {}
    found |= {name: asked[name].dim() - 1 for name in ("mask", "states_at") if name in asked}
    if "reverse" in asked:
        found["reverse"] = 0
    if not packed and "mask" not in asked and (rows := _rows(layer, state)):
        found["rows"] = rows
    return tuple([(name, found[name]) for name in ARRANGEMENTS if name in found])


def _check(layer: str, name: str, value: Any) -> None:
    if name == "reverse":
        if value is not True:
            raise UserError(f"{layer}: `reverse` is {shown(value)}", expected="True or False")
        return
    kinds = _INTS | {torch.bool} if name == "mask" else _INTS
    is_tensor = isinstance(value, torch.Tensor)
    if not is_tensor or value.dtype not in kinds or value.device.type not in DEVICES or value.dim() < 1 or (
        name == "cu_seqlens" and value.dim() > 1
    ):  # fmt: skip
        words = "a bool, int64 or int32" if name == "mask" else "an int64 or int32"
        hint = ""
        if isinstance(value, (list, tuple)):
            hint = "torch.tensor makes a tensor of it"
        elif name == "mask" and is_tensor and value.is_floating_point():
            hint = "mask > 0, or mask == 0 for numbers to be added to scores"
        raise UserError(f"{layer}: {name!r} is {shown(value)}", expected=f"{words} tensor, {_SHAPES[name]}",
                        hint=hint)  # fmt: skip


def _rows(layer: LayerSignature, state: State | None) -> int:
    """Along how many axes the positions differ that a state was left at: it holds them under the name of an axis."""
    if state is None:
        return 0
    axes = {axis for item in layer.inputs for one in item.alternatives for axis in one}
    return max([value.dim() for name, value in zip(state.names, state.values, strict=True) if name in axes], default=0)


def arguments(
    layer: str, asked: Mapping[str, Any], known: Geometry, values: Sequence[Any], state: State | None
) -> list[torch.Tensor]:
    """All that an arranged call takes: inputs, the state, and the layout."""
    states: tuple[torch.Tensor, ...] = () if state is None else state.values
    given = [values[number] for number in known.inputs]
    given += [_lifted(value, sources, values) for value, sources in zip(states, known.states, strict=True)]
    if "mask" in asked:
        given.append(asked["mask"] if asked["mask"].dtype is torch.bool else asked["mask"] != 0)
    number, axis = known.sequence
    for name in ("states_at", *PACKED):
        if name in asked:
            length = values[number].shape[axis]
            documents = length  # enough, where nothing says for how many there is room
            if known.documents is not None:
                documents = states[known.documents[0]].shape[known.documents[1]]
            elif known.counts:
                documents = None
            where = asked[name] if asked[name].device.type == "cpu" else asked[name].cpu()
            given += layout(where, name, layer, length, documents, state is not None)
    return given


def _lifted(value: torch.Tensor, sources: Sequence[tuple[int, int] | None], values: Sequence[Any]) -> torch.Tensor:
    """A part of a state that was the same for all rows, for each row."""
    lacking = sources[: max(len(sources) - value.dim(), 0)]
    if not lacking or None in lacking:
        return value
    return value.expand(*[values[source[0]].shape[source[1]] for source in lacking if source], *value.shape)
