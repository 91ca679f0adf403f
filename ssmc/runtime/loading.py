"""From a name, a path or a text to a ``Layer``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssmc.dsl import StaticValue, load_module, module_from_text
from ssmc.errors import UserError

from .layer import Layer
from .operator import operator_of
from .stored import StoredSource
from .texts import library_path, texts_of, texts_of_path


def load(
    name_or_path: str | Path, layer: str | None = None, target: str | None = None, **statics: StaticValue
) -> Layer:
    """The layer of a library name (``selective_scan``) or a path (``./mine.ssm``).

    Args:
        name_or_path: the module; ``NAME:LAYER`` picks a layer in it.
        layer: the layer in the module; its main one by default.
        target: what it runs as: ``c``, ``cuda`` or ``triton``. By default that follows from where its tensors are: C on
            the CPU, CUDA C on NVIDIA's GPUs, Triton on AMD's.
        statics: static parameters; a call may still change them.

    Raises:
        UserError: no such module, layer or target, a mistake in the text, an unknown static parameter.
    """
    if not isinstance(name_or_path, (str, Path)):
        raise UserError(f"an object of type {type(name_or_path).__name__} names no module", expected="a name or a path")
    if isinstance(name_or_path, str) and layer is None:
        head, _, tail = name_or_path.rpartition(":")
        if head and tail.isidentifier():
            name_or_path, layer = head, tail
    path = library_path(name_or_path) if isinstance(name_or_path, str) else name_or_path
    texts = texts_of_path(path if path is not None else Path(name_or_path))
    if texts is None:  # the reader says what is wrong with it
        texts = [("", load_module(name_or_path).source.text)]
    source = StoredSource(texts, layer, lambda: load_module(name_or_path))
    return _layer(source, target, statics, (load, name_or_path, layer, target))


def compile(text: str, layer: str | None = None, target: str | None = None, **statics: StaticValue) -> Layer:
    """The layer that a text defines; it may import from the library. Arguments and errors as for ``load``."""
    source = StoredSource(texts_of(text, "<text>", None), layer, lambda: module_from_text(text))
    return _layer(source, target, statics, (compile, text, layer, target))


def _layer(source: StoredSource, target: str | None, statics: dict[str, StaticValue], recipe: tuple[Any, ...]) -> Layer:
    return Layer(operator_of(source.choosing(target) if target else source), statics, recipe)
