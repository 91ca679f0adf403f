"""From a name, a path or a text to a ``Layer``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ssmc.compiler import Compiled, compile_program
from ssmc.dsl import Choice, LayerSignature, Module, StaticValue, elaborate, load_module, module_from_text, signature
from ssmc.ir import Program
from ssmc.passes import step

from .layer import Layer
from .operator import operator_of
from .specialise import Kind, Specialisation


def load(name_or_path: str | Path, layer: str | None = None, **statics: StaticValue) -> Layer:
    """The layer of a library name (``selective_scan``) or a path (``./mine.ssm``).

    Args:
        name_or_path: the module; ``NAME:LAYER`` picks a layer in it.
        layer: the layer in the module; its main one by default.
        statics: static parameters; a call may still change them.

    Raises:
        UserError: no such module or layer, a mistake in the text, an unknown static parameter.
    """
    if isinstance(name_or_path, str) and layer is None and not Path(name_or_path).exists():
        name_or_path, _, chosen = name_or_path.partition(":")
        layer = chosen or None
    return _layer(load_module(name_or_path), layer, statics)


def compile(text: str, layer: str | None = None, **statics: StaticValue) -> Layer:
    """The layer that a text defines; it may import from the library. Arguments and errors as for ``load``."""
    return _layer(module_from_text(text), layer, statics)


def _layer(module: Module, layer: str | None, statics: dict[str, StaticValue]) -> Layer:
    return Layer(operator_of(TextSource(module, layer)), statics)


class TextSource:
    """A layer of a module."""

    def __init__(self, module: Module, layer: str | None) -> None:
        self.module = module
        self.signature: LayerSignature = signature(module, layer)
        texts = [(m.name, m.source.text) for m in module.everything()]
        self.digest = hashlib.sha256(json.dumps([self.signature.name, texts]).encode()).hexdigest()

    def program(self, kind: Kind) -> Program:
        """The Program for a kind of call."""
        made = elaborate(self.module, self.signature.name, self._choice(kind))
        return step(made, kind.takes, kind.gives) if kind.takes or kind.gives else made

    def _choice(self, kind: Kind) -> Choice:
        given = {item.name: axes[0] for item, axes in zip(self.signature.inputs, kind.inputs, strict=True) if axes}
        several = {item.name for item in self.signature.inputs if len(item.alternatives) > 1}
        return Choice(
            {item.name: value for item, value in zip(self.signature.statics, kind.statics, strict=True)},
            frozenset(given),
            {name: axes for name, axes in given.items() if name in several},
        )

    def build(self, spec: Specialisation, kind: Kind, sizes: dict[str, int]) -> Compiled:
        """Compile the Program, or find it compiled, for sizes of which the inner ones are compiled in."""
        return compile_program(spec.program(), storage=spec.storage, sizes=sizes)
