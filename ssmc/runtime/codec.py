"""Signatures, specialisations and variants as JSON, so that a later process need not derive them again."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

from ssmc.dsl import InputSignature, LayerSignature, OutputSignature, StaticSignature
from ssmc.ir import DType, expr_from_json, expr_to_json

from .specialise import Place, Specialisation


def signature_to_json(layer: LayerSignature) -> dict[str, Any]:
    return {
        "name": layer.name,
        "doc": layer.doc,
        "inputs": [
            [i.name, i.alternatives, i.dtype.value, i.optional, _number_to_json(i.default)] for i in layer.inputs
        ],
        "statics": [[s.name, s.kind, s.default, s.choices] for s in layer.statics],
        "outputs": [[o.name, o.axes, o.dtype.value] for o in layer.outputs],
    }


def signature_from_json(made: dict[str, Any]) -> LayerSignature:
    return LayerSignature(
        made["name"],
        tuple(
            InputSignature(name, tuple(map(tuple, axes)), DType(dtype), optional, _number_from_json(default))
            for name, axes, dtype, optional, default in made["inputs"]
        ),
        tuple(StaticSignature(name, kind, default, tuple(c)) for name, kind, default, c in made["statics"]),
        tuple(OutputSignature(n, None if axes is None else tuple(axes), DType(t)) for n, axes, t in made["outputs"]),
        made["doc"],
    )


def specialisation_to_json(spec: Specialisation) -> dict[str, Any]:
    return {
        "layer": spec.layer,
        "takes": [astuple(place) for place in spec.takes],
        "gives": [astuple(place) for place in spec.gives],
        "stated": [[axis, expr_to_json(expr)] for axis, expr in spec.stated],
        "requirements": [expr_to_json(expr) for expr in spec.requirements],
    }


def specialisation_from_json(made: dict[str, Any], program: Any) -> Specialisation:
    takes, gives = (tuple(Place(n, s, tuple(axes), *rest) for n, s, axes, *rest in made[g]) for g in ("takes", "gives"))
    stated = tuple((axis, expr_from_json(expr)) for axis, expr in made["stated"])
    requirements = tuple(expr_from_json(expr) for expr in made["requirements"])
    return Specialisation(made["layer"], takes, gives, stated, requirements, program)


def _number_to_json(value: Any) -> Any:
    return {"complex": [value.real, value.imag]} if isinstance(value, complex) else value


def _number_from_json(made: Any) -> Any:
    return complex(*made["complex"]) if isinstance(made, dict) else made
