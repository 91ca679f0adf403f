"""From the arguments of a call to one value per input, and what can be wrong with them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ssmc.backends import ALLOWED
from ssmc.dsl import InputSignature, LayerSignature, StaticSignature, StaticValue
from ssmc.errors import UserError

from .dtypes import SCALARS, STORAGE, TORCH_DTYPES, names_of, short

PACKED = ("cu_seqlens", "seq_idx", "position_ids")
ARRANGED = (*PACKED, "mask", "reverse", "states_at")  # what says how sequences lie
OPTIONS = ("state", "return_state", "out", *ARRANGED)


def bind(layer: LayerSignature, args: Sequence[Any], named: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """One value per input of the layer, None where it is absent, and the static parameters given.

    Raises UserError for too many arguments, an unknown name, an argument given twice, a missing one.
    """
    if len(args) > len(layer.inputs):
        raise UserError(
            f"{layer.name}: {len(args)} positional arguments",
            expected=f"at most {len(layer.inputs)}: {', '.join(i.name for i in layer.inputs)}",
        )
    values: list[Any] = [*args, *[None] * (len(layer.inputs) - len(args))]
    places = {item.name: place for place, item in enumerate(layer.inputs)}
    statics = {item.name: item for item in layer.statics}
    given: dict[str, Any] = {}
    for name, value in named.items():
        if name in statics:
            given[name] = value
        elif name not in places:
            raise UserError(f"{layer.name}: there is no input {name!r}", **_known(layer, name))
        elif places[name] < len(args):
            raise UserError(f"{layer.name}: input {name!r} is given twice, by position and by name")
        else:
            values[places[name]] = value
    missing = [item.name for item in layer.inputs if item.required and values[places[item.name]] is None]
    if missing:
        raise UserError(
            f"{layer.name}: missing {'inputs' if len(missing) > 1 else 'input'} {', '.join(map(repr, missing))}",
            expected=describe(layer),
        )
    return values, given


def describe(layer: LayerSignature) -> str:
    """The signature on one line: ``name(x[b, t, d], …) -> y``."""
    return (
        f"{layer.name}({', '.join(input_text(i) for i in layer.inputs)}) -> {', '.join(o.name for o in layer.outputs)}"
    )


def input_text(item: InputSignature) -> str:
    """An input as a signature shows it: ``B: [b, t, n] | [d, n]``, ``z[b, t, d]?``."""
    axes = " | ".join(f"[{', '.join(a)}]" for a in item.alternatives)
    text = f"{item.name}: {axes}" if len(item.alternatives) > 1 else f"{item.name}{axes}"
    if item.default is not None:
        return f"{text} = {item.default}"
    return f"{text}?" if item.optional else text


def _known(layer: LayerSignature, name: str) -> dict[str, str]:
    inputs, statics = [i.name for i in layer.inputs], [s.name for s in layer.statics]
    found = difflib.get_close_matches(name, [*inputs, *statics, *OPTIONS], n=1, cutoff=0.5)
    expected = ", ".join(inputs) + (f"; static parameters {', '.join(statics)}" if statics else "")
    return {"expected": expected, "hint": f"did you mean {found[0]!r}?" if found else ""}


# ---------------------------------------------------------------- static parameters


def complete_statics(
    layer: LayerSignature, fixed: Mapping[str, StaticValue], given: Mapping[str, Any] | None = None
) -> tuple[StaticValue, ...]:
    """The value of every static parameter, in order: given now, else fixed before, else its default.

    Raises UserError for a value of the wrong kind and for one that is missing.
    """
    given = given or {}
    found = []
    for item in layer.statics:
        value = given.get(item.name, fixed.get(item.name, item.default))
        if value is None:
            raise UserError(f"{layer.name}: static parameter {item.name!r} is missing", expected=kind_text(item))
        found.append(checked_static(layer.name, item, value))
    return tuple(found)


def check_static_names(layer: LayerSignature, given: Mapping[str, Any]) -> None:
    """Raise UserError for static parameters that the layer does not have."""
    known = [s.name for s in layer.statics]
    for name in given:
        if name not in known:
            if name in [i.name for i in layer.inputs]:
                raise UserError(f"{layer.name}: {name!r} is an input; it is passed when the layer is called")
            found = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            raise UserError(
                f"{layer.name}: there is no static parameter {name!r}",
                expected=", ".join(known) or "none: this layer has no static parameters",
                hint=f"did you mean {found[0]!r}?" if found else "",
            )


def checked_static(layer: str, item: StaticSignature, value: Any) -> StaticValue:
    """The value as its static parameter holds it; UserError if it is of another kind."""
    accepted: dict[str, tuple[type, ...]] = {"int": (int,), "real": (int, float), "bool": (bool,), "enum": (str,)}
    right = isinstance(value, accepted[item.kind]) and (item.kind == "bool" or not isinstance(value, bool))
    if not right or (item.kind == "enum" and value not in item.choices):
        raise UserError(
            f"{layer}: static parameter {item.name!r} is {value!r}",
            expected=kind_text(item),
            hint=_static_hint(item, value),
        )
    return float(value) if item.kind == "real" else value


def kind_text(item: StaticSignature) -> str:
    """What a static parameter may be, for messages."""
    return " or ".join(map(repr, item.choices)) if item.kind == "enum" else f"a value of kind {item.kind}"


def _static_hint(item: StaticSignature, value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return "a static parameter is a plain Python value, known when the layer is compiled"
    found = difflib.get_close_matches(str(value), item.choices, n=1, cutoff=0.5)
    return f"did you mean {found[0]!r}?" if found else ""


# ---------------------------------------------------------------- one input


def shown(value: Any) -> str:
    """What a value is, for messages."""
    if not isinstance(value, torch.Tensor):
        return f"{type(value).__name__} {value!r}" if isinstance(value, (bool, int, float, complex, str)) else (
            f"an object of type {type(value).__name__}"
        )  # fmt: skip
    return f"a {short(value.dtype)} tensor of shape {tuple(value.shape)} on {value.device}"


def as_tensor(
    layer: str, item: InputSignature, value: Any, double: bool, device: torch.device | None = None
) -> torch.Tensor:
    """The value as a tensor: Python numbers stand for inputs without axes, in double precision if ``double``, on the
    ``device`` of the others.

    Raises UserError for what is neither.
    """
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, SCALARS[item.dtype]) and () in item.alternatives:
        real, pair = (torch.float64, torch.complex128) if double else (torch.float32, torch.complex64)
        word = {"real": real, "complex": pair, "int": torch.int64, "bool": torch.bool}
        return torch.tensor(value, dtype=word[item.dtype.value], device=device or "cpu")
    hint = ""
    if isinstance(value, (bool, int, float, complex)):
        hint = "a Python number stands only for an input without axes; use torch.full"
    elif hasattr(value, "__array__") or isinstance(value, (list, tuple)):
        hint = "torch.as_tensor makes a tensor of it"
    raise UserError(f"{layer}: {item.name!r} is {shown(value)}", expected=f"a tensor {input_text(item)}", hint=hint)


def check_kind(layer: str, item: InputSignature, value: torch.Tensor, devices: Iterable[str]) -> None:
    """Raise UserError unless device, layout and dtype of an argument are ones that can be compiled for."""
    if value.device.type not in devices:
        raise UserError(
            f"{layer}: {item.name!r} is {shown(value)}",
            expected=f"a tensor on {' or '.join(devices)}",
            hint=f"{item.name}.cpu()" if value.device.type != "meta" else "a meta tensor holds no data",
        )
    if value.layout is not torch.strided:
        raise UserError(
            f"{layer}: {item.name!r} has layout {value.layout}",
            expected="a dense tensor",
            hint=f"{item.name}.to_dense()",
        )
    allowed = ALLOWED[item.dtype]
    if STORAGE.get(value.dtype) not in allowed:
        raise UserError(
            f"{layer}: {item.name!r} is {shown(value)}",
            expected=f"element type {item.dtype}: {names_of(allowed)}",
            hint=_dtype_hint(item, allowed),
        )


def _dtype_hint(item: InputSignature, allowed: Sequence[str]) -> str:
    wide = {"real": "f32", "complex": "c64", "int": "i64", "bool": "b8"}[item.dtype.value]
    return f"{item.name}.to(torch.{short(TORCH_DTYPES[wide])})"


def alternative(layer: str, item: InputSignature, value: torch.Tensor) -> tuple[str, ...]:
    """The axes of the signature that fits the number of axes of an argument; UserError if none does."""
    for axes in item.alternatives:
        if len(axes) == value.dim():
            return axes
    raise UserError(
        f"{layer}: {item.name!r} has {value.dim()} axes: {shown(value)}",
        expected=f"{' or '.join(str(len(a)) for a in item.alternatives)} axes: {input_text(item)}",
    )
