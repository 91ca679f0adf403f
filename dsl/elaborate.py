"""A layer and a Choice → a monomorphic Program.

    frames: names, static choices, calls      ast        → flat equations (trees)
    axes:   which axes, which extents         trees      → axes of every equation
    lower:  every index written out           trees      → IR expressions
    dtypes: element types                     IR         → typed IR
    circles: recurrences make sense           Program    → Program

Each stage reports what it finds and leaves out the equations that are wrong, and those that use them,
so that independent errors come together.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ssmc.errors import UserError
from ssmc.ir import Program

from . import ast
from .choice import Choice, StaticValue
from .finish import finish
from .flat import Build
from .frame import Frame
from .functions import declare_all
from .headers import check_header
from .modules import Module
from .problems import Abandon, Problems, listed, nearest
from .signature import LayerSignature, signature_of
from .statics import Facts, converted, fits

_FRAMES = 12_000  # an expression may nest 200 levels, each of which takes a few Python frames


def elaborate(module: Module, layer: str | None = None, choice: Choice | None = None) -> Program:
    """The Program of a layer (the main one by default) for a choice; UserError if it is wrong."""
    module.require_readable()
    definition = module.layer(layer)
    problems = Problems()
    program = attempt(module, definition, choice or Choice(), problems)
    if problems or program is None:
        raise UserError(problems.sorted() or f"`{definition.name.text}` could not be read")
    return program


def attempt(
    module: Module, definition: ast.Definition, choice: Choice, problems: Problems, verbatim: bool = False
) -> Program | None:
    """The Program of a definition, or None with ``problems`` filled. ``verbatim`` reads a printed
    Program: nothing is simplified and no fact added."""
    found = check_header(definition)
    if found:
        for diagnostic in found.sorted():
            problems.take(diagnostic)
        return None
    home = module.find(definition.name.text)
    if home is not None and home[1] is definition:
        module = home[0]
    header = signature_of(definition, module)
    facts = _facts(header, choice, problems)
    if facts is None:
        return None
    with deep_recursion():
        build = Build(problems, verbatim)
        frame = Frame(build, module, definition, header, facts)
        try:
            frame.map_axes()
            frame.take_inputs()
            if verbatim:
                declare_all(frame)
            frame.run()
        except Abandon:
            return None
        program = finish(build, header, frame)
    return None if problems else program


@contextmanager
def deep_recursion() -> Iterator[None]:
    """Room for recursion over expressions as deep as the language allows."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, _FRAMES))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


@dataclass
class _Chosen:
    statics: dict[str, StaticValue]
    absent: set[str]
    signatures: dict[str, tuple[str, ...]]


def _facts(header: LayerSignature, choice: Choice, problems: Problems) -> Facts | None:
    """The facts that a choice fixes; None (reported) if it does not fit the header."""
    chosen = _Chosen({}, set(), {})
    kinds = {item.name: item for item in header.statics}
    before = len(problems.found)
    for name, value in choice.statics.items():
        if name not in kinds:
            hint = nearest(name, kinds) or f"it has {listed(kinds)}"
            problems.add(f"`{header.name}` has no static parameter `{name}`", None, hint=hint)
        elif not fits(value, kinds[name]):
            expected = listed(kinds[name].choices, "or") if kinds[name].choices else kinds[name].kind
            problems.add(f"{value!r} does not fit static parameter `{name}` of `{header.name}`", None, expected)
        else:
            chosen.statics[name] = converted(value, kinds[name])
    for name, kind in kinds.items():
        if name not in chosen.statics and kind.default is not None:
            chosen.statics[name] = kind.default
        elif name not in chosen.statics and len(problems.found) == before:
            problems.add(f"`{header.name}` needs static parameter `{name}`", None, kind.kind, f"give `{name}=…`")
    inputs = {item.name: item for item in header.inputs}
    for name in (*(choice.present or ()), *choice.signatures):
        if name not in inputs:
            hint = nearest(name, inputs) or f"it has {listed(inputs)}"
            problems.add(f"`{header.name}` has no input `{name}`", None, hint=hint)
    for name, item in inputs.items():
        axes = tuple(choice.signatures.get(name, item.alternatives[0]))
        if axes not in item.alternatives:
            expected = " or ".join(f"[{', '.join(a)}]" for a in item.alternatives)
            problems.add(f"`{name}` of `{header.name}` cannot be [{', '.join(axes)}]", None, expected)
        chosen.signatures[name] = axes
        if choice.present is not None and not item.required and name not in choice.present:
            chosen.absent.add(name)
    if len(problems.found) > before:
        return None
    return Facts(chosen.statics, kinds, chosen.absent, chosen.signatures, problems)
