"""Elementwise ``fn`` → ``ir.Function``; an ``fn`` without a body → ``ir.Opaque``. One per meaning."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from ssmc.ir import COMPLEX, REAL, DType, Expr, Function, Opaque, Read, Tensor, rewrite, walk

from . import ast
from .choice import StaticValue
from .flat import Build
from .linearity import check_function as check_linear
from .modules import Module
from .problems import Abandon
from .signature import TYPES, LayerSignature, signature_of
from .statics import Facts

if TYPE_CHECKING:
    from .frame import Frame


def function_name(
    caller: Frame,
    module: Module,
    definition: ast.Definition,
    header: LayerSignature,
    statics: Mapping[str, StaticValue],
) -> str:
    """The name of the Program's function for an ``fn`` with these static values; added if new."""
    build = caller.build
    key = (module.source.name, definition.name.text, tuple(sorted(statics.items())))
    if key in build.function_keys:
        name = build.function_keys[key]
        if name not in build.functions:
            raise Abandon(name)
        return name
    name = _free(definition.name.text, {*build.functions, *build.opaques, *build.function_keys.values()})
    build.function_keys[key] = name
    function = _function(caller, module, definition, header, statics, name)
    if function is None:
        raise Abandon(name)
    build.functions[name] = function
    return name


def declare_all(frame: Frame) -> None:
    """Every ``fn`` of the frame's module, in the order of the text."""
    for definition in frame.module.definitions.values():
        if definition.kind != "fn":
            continue
        header = signature_of(definition, frame.module)
        if definition.body is not None:
            function_name(frame, frame.module, definition, header, {})
        else:
            axes = {a: a for item in header.inputs for a in item.alternatives[0]}
            axes.update((a, a) for a in header.outputs[0].axes or ())
            opaque_name(frame.build, frame.module, definition, header, axes)


def _free(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def check_function(
    module: Module, definition: ast.Definition, statics: Mapping[str, StaticValue], build: Build
) -> None:
    """Report what is wrong with an elementwise ``fn``, called or not."""
    from .frame import Frame

    header = signature_of(definition, module)
    facts = Facts({}, {}, set(), {}, build.problems)
    caller = Frame(build, module, replace(definition, inputs=(), body=()), header, facts)
    caller.stack = ()
    with suppress(Abandon):
        function_name(caller, module, definition, header, statics)


def function_type(definition: ast.Definition) -> DType:
    """The type of an ``fn``; its parameters are complex when it is, else real."""
    written = definition.outputs[0].dtype
    return TYPES[written.text] if written is not None else REAL


def _function(
    caller: Frame,
    module: Module,
    definition: ast.Definition,
    header: LayerSignature,
    statics: Mapping[str, StaticValue],
    name: str,
) -> Function | None:
    from .finish import lowered_function
    from .frame import Frame

    dtype = function_type(definition)
    outer = caller.build
    build = Build(outer.problems, outer.verbatim)
    build.functions, build.function_keys = outer.functions, outer.function_keys
    build.opaques = outer.opaques
    kinds = {static.name: static for static in header.statics}
    facts = Facts(dict(statics), kinds, set(), {i.name: () for i in header.inputs}, outer.problems)
    inputs = tuple(replace(item, dtype=COMPLEX if dtype is COMPLEX else REAL) for item in header.inputs)
    header = replace(header, inputs=inputs)
    frame = Frame(build, module, definition, header, facts, stack=caller.stack)
    frame.map_axes()
    frame.take_inputs()
    before = len(outer.problems.found)
    frame.run()
    bodies = lowered_function(build, frame, dtype)
    if bodies is None or len(outer.problems.found) > before or frame.failed:
        return None
    result_name = header.outputs[0].name
    main, backward = bodies
    order = _ordered(main, result_name, frame)
    if order is None:
        return None
    pairs = tuple((p, _inlined(backward, f"d.{p}")) for p in frame.tensors if f"d.{p}" in backward)
    bindings = tuple((n, main[n]) for n in order if n != result_name)
    parameters = tuple(i.name for i in header.inputs)
    span = definition.name.span
    made = Function(name, parameters, bindings, result_name, main[result_name], dtype, pairs, span)
    if not build.verbatim:
        check_linear(made, build.problems)
    return made


def _ordered(exprs: Mapping[str, Expr], result: str, frame: Frame) -> list[str] | None:
    """The bindings so that each reads only earlier ones; None (reported) if they form a circle."""
    order: list[str] = []
    waiting = list(exprs)
    while waiting:
        ready = [n for n in waiting if not _reads(exprs[n]).intersection(waiting)]
        if not ready:
            span = frame.build.flats[waiting[0]].span
            hint = "an `fn` has no time; a recurrence needs a layer"
            frame.build.problems.add(f"`{waiting[0]}` depends on itself", span, hint=hint)
            return None
        order += ready
        waiting = [n for n in waiting if n not in ready]
    if result not in exprs:
        return None
    return order


def _reads(expr: Expr) -> set[str]:
    return {node.tensor for node in walk(expr) if isinstance(node, Read)}


def _inlined(exprs: Mapping[str, Expr], name: str, depth: int = 0) -> Expr:
    """An adjoint with the block's other equations put in."""

    def rule(node: Expr) -> Expr | None:
        if isinstance(node, Read) and node.tensor in exprs and node.tensor != name and depth < len(exprs):
            return _inlined(exprs, node.tensor, depth + 1)
        return None

    return rewrite(exprs[name], rule)


def opaque_name(
    build: Build, module: Module, definition: ast.Definition, header: LayerSignature, axes: Mapping[str, str]
) -> str:
    """The name of the Program's opaque function with these axes; added if new."""
    parameters = tuple(
        Tensor(i.name, tuple(axes[a] for a in i.alternatives[0]), i.dtype, p.name.span)
        for i, p in zip(header.inputs, definition.inputs, strict=True)
    )
    out = header.outputs[0]
    result = Tensor(out.name, tuple(axes[a] for a in out.axes or ()), out.dtype, definition.outputs[0].name.span)
    key = (module.source.name, definition.name.text, parameters, result)
    if key not in build.opaque_keys:
        name = _free(definition.name.text, {*build.functions, *build.opaques})
        build.opaque_keys[key] = name
        build.opaques[name] = Opaque(name, parameters, result, definition.name.span)
    return build.opaque_keys[key]
