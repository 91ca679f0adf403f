"""From a name, a path or a text to a ``Layer``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssmc.dsl import StaticValue, load_module, module_from_text
from ssmc.errors import UserError
from ssmc.passes import PlanOptions

from .layer import Layer
from .operator import operator_of
from .stored import StoredSource
from .texts import library_path, texts_of, texts_of_path


def load(
    name_or_path: str | Path,
    layer: str | None = None,
    target: str | None = None,
    plan: str | PlanOptions = "",
    **statics: StaticValue,
) -> Layer:
    """The layer of a library name (``selective_scan``) or a path (``./mine.ssm``).

    Args:
        name_or_path: the module; ``NAME:LAYER`` picks a layer in it.
        layer: the layer in the module; its main one by default.
        target: what it runs as: ``c``, ``cuda`` or ``triton``. By default that follows from where its tensors are: C on
            the CPU, CUDA C on NVIDIA's GPUs, Triton on AMD's; SSMC_GPU_TARGET in the environment changes it for GPUs.
        plan: how kernels are to run, such as ``lanes=32,tile=0``, where that is not left to the compiler; a call that
            runs as a target which one of the options does not concern raises UserError.
        statics: static parameters; a call may still change them.

    Raises:
        UserError: no such module, layer or target, a mistake in the text or the plan, an unknown static parameter.
    """
    if not isinstance(name_or_path, (str, Path)):
        raise UserError(f"an object of type {type(name_or_path).__name__} names no module", expected="a name or a path")
    if isinstance(name_or_path, str) and layer is None:
        head, _, tail = name_or_path.rpartition(":")
        if head and tail.isidentifier():
            name_or_path, layer = head, tail
    options = plan_options(plan)
    path = library_path(name_or_path) if isinstance(name_or_path, str) else name_or_path
    texts = texts_of_path(path if path is not None else Path(name_or_path))
    if texts is None:  # the reader says what is wrong with it
        texts = [("", load_module(name_or_path).source.text)]
    source = StoredSource(texts, layer, lambda: load_module(name_or_path), plan=options)
    return _layer(source, target, statics, (load, name_or_path, layer, target, str(options)))


def compile(
    text: str,
    layer: str | None = None,
    target: str | None = None,
    plan: str | PlanOptions = "",
    **statics: StaticValue,
) -> Layer:
    """The layer that a text defines; it may import from the library. Arguments and errors as for ``load``."""
    options = plan_options(plan)
    source = StoredSource(texts_of(text, "<text>", None), layer, lambda: module_from_text(text), plan=options)
    return _layer(source, target, statics, (compile, text, layer, target, str(options)))


def _layer(source: StoredSource, target: str | None, statics: dict[str, StaticValue], recipe: tuple[Any, ...]) -> Layer:
    return Layer(operator_of(source.choosing(target) if target else source), statics, recipe)


def plan_options(plan: str | PlanOptions) -> PlanOptions:
    """The options that a text stands for, or those that are given."""
    if not isinstance(plan, (str, PlanOptions)):
        raise UserError(f"`plan` is an object of type {type(plan).__name__}", expected="a text such as lanes=32,tile=0")
    return plan if isinstance(plan, PlanOptions) else PlanOptions.parse(plan)
