"""What a layer takes and gives, read off its header without elaborating it."""

from __future__ import annotations

from dataclasses import dataclass

from ssmc.errors import UserError
from ssmc.ir import BOOL, COMPLEX, INT, REAL, DType, Number

from . import ast
from .choice import StaticValue
from .modules import Module

TYPES: dict[str, DType] = {"real": REAL, "complex": COMPLEX, "int": INT, "bool": BOOL}


@dataclass(frozen=True)
class InputSignature:
    """An input: the axes it may have (alternatives differ in rank), its element type, and whether it
    may be absent: ``optional`` (then gone) or with a ``default`` (then this number)."""

    name: str
    alternatives: tuple[tuple[str, ...], ...]
    dtype: DType = REAL
    optional: bool = False
    default: Number | None = None

    @property
    def required(self) -> bool:
        return not self.optional and self.default is None


@dataclass(frozen=True)
class StaticSignature:
    """A static parameter; ``kind`` is int, real, bool or enum, ``default`` None if it must be given."""

    name: str
    kind: str
    default: StaticValue | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class OutputSignature:
    """An output; ``axes`` is None where they follow from its equation."""

    name: str
    axes: tuple[str, ...] | None
    dtype: DType = REAL


@dataclass(frozen=True)
class LayerSignature:
    name: str
    inputs: tuple[InputSignature, ...]
    statics: tuple[StaticSignature, ...]
    outputs: tuple[OutputSignature, ...]
    doc: str = ""


def signature(module: Module, layer: str | None = None) -> LayerSignature:
    """The signature of a layer; UserError for an unknown layer or a header that makes no sense."""
    from .headers import check_header

    module.require_readable()
    definition = module.layer(layer)
    problems = check_header(definition)
    if problems:
        raise UserError(problems.sorted())
    return signature_of(definition, module)


def signature_of(definition: ast.Definition, module: Module) -> LayerSignature:
    """The signature of a definition whose header has been checked."""
    doc = definition.doc
    if not doc and next(iter(module.definitions.values()), None) is definition:
        doc = module.file.doc
    return LayerSignature(
        definition.name.text,
        tuple(_input(p) for p in definition.inputs),
        tuple(_static(p) for p in definition.statics),
        tuple(_output(o, definition) for o in definition.outputs),
        doc,
    )


def _input(parameter: ast.Parameter) -> InputSignature:
    alternatives = tuple(tuple(a.text for a in axes) for axes in parameter.signatures or ((),))
    dtype = TYPES[parameter.dtype.text] if parameter.dtype else REAL
    default = parameter.default.value if isinstance(parameter.default, ast.Literal) else None
    return InputSignature(parameter.name.text, alternatives, dtype, parameter.optional, default)


def _static(parameter: ast.Parameter) -> StaticSignature:
    kind = parameter.dtype.text if parameter.dtype else "int"
    default: StaticValue | None = None
    if isinstance(parameter.default, ast.Name):
        default = parameter.default.text
    elif isinstance(parameter.default, ast.Literal) and not isinstance(parameter.default.value, complex):
        default = float(parameter.default.value) if kind == "real" else parameter.default.value
    return StaticSignature(parameter.name.text, kind, default, tuple(c.text for c in parameter.choices))


def _output(output: ast.Output, definition: ast.Definition) -> OutputSignature:
    axes = None if output.axes is None else tuple(a.text for a in output.axes)
    written = output.dtype or _stated_type(output.name.text, definition)
    return OutputSignature(output.name.text, axes, TYPES[written.text] if written and written.text in TYPES else REAL)


def _stated_type(name: str, definition: ast.Definition) -> ast.Name | None:
    """The type that the equation of an output states, when the header does not."""
    for statement in definition.body or ():
        if isinstance(statement, ast.Equation) and statement.dtype is not None:
            if any(target.name.text == name for target in statement.targets):
                return statement.dtype
    return None
