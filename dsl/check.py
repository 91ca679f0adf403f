"""Every layer of a module, elaborated for enough choices to meet each of its branches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from ssmc.errors import Diagnostic

from . import ast
from .choice import Choice, StaticValue
from .elaborate import attempt, deep_recursion
from .flat import Build
from .functions import check_function
from .headers import check_header
from .modules import Module
from .parse import LIMIT
from .problems import Problems
from .signature import LayerSignature, StaticSignature, signature_of

_CHOICES = 48  # of one layer
_INTS = (2, 1, 4, 3, 8, 16, 64)  # tried for static ints without a default


def check(module: Module) -> list[Diagnostic]:
    """What is wrong with a module, in the order of the text, at most 20 diagnostics.

    Each layer is elaborated with everything present, with everything optional absent, with each
    alternative signature, and with each value of each enum and bool.
    """
    problems = Problems()
    for found in module.everything():
        for diagnostic in found.problems.sorted():
            problems.take(diagnostic)
    for definition in module.definitions.values():
        if not problems.overflow:
            _check_definition(module, definition, problems)
    own = [d for d in problems.sorted() if d.span is None or d.span.source.name == module.source.name]
    others = [d for d in problems.sorted() if d not in own]
    return (own + others)[:LIMIT]


def _check_definition(module: Module, definition: ast.Definition, problems: Problems) -> None:
    wrong = check_header(definition)
    if wrong:
        for diagnostic in wrong.sorted():
            problems.take(diagnostic)
        return
    if definition.kind == "layer":
        for choice in choices(module, definition):
            attempt(module, definition, choice, problems)
    elif definition.body is not None:
        statics = {p.name: _plausible(p) for p in signature_of(definition, module).statics}
        with deep_recursion():
            check_function(module, definition, statics, Build(problems))


def choices(module: Module, definition: ast.Definition) -> Iterator[Choice]:
    """A bounded set of specialisations that meets every branch at least once."""
    header = signature_of(definition, module)
    statics = _statics(module, definition, header)
    yield from islice(_all_choices(header, statics), _CHOICES)


def _all_choices(header: LayerSignature, statics: dict[str, StaticValue]) -> Iterator[Choice]:
    yield Choice(statics)
    if any(not item.required for item in header.inputs):
        yield Choice(statics, frozenset())
    for static in header.statics:
        for value in (False, True) if static.kind == "bool" else static.choices:
            if value != statics[static.name]:
                yield Choice({**statics, static.name: value})
    for item in header.inputs:
        for axes in item.alternatives[1:]:
            yield Choice(statics, None, {item.name: axes})
    longest = {item.name: max(item.alternatives, key=len) for item in header.inputs if len(item.alternatives) > 1}
    if len(longest) > 1:
        yield Choice(statics, None, longest)


def _statics(module: Module, definition: ast.Definition, header: LayerSignature) -> dict[str, StaticValue]:
    """Values for the static parameters: defaults, else plausible ones that meet the requirements."""
    first = {static.name: _plausible(static) for static in header.statics}
    if all(static.default is not None or static.kind != "int" for static in header.statics):
        return first
    for number in _INTS:
        statics = {static.name: _plausible(static, number) for static in header.statics}
        problems = Problems()
        attempt(module, definition, Choice(statics), problems)
        if not any("requirement is not met" in d.message for d in problems.found.values()):
            return statics
    return first


def _plausible(static: StaticSignature, number: int = 2) -> StaticValue:
    if static.default is not None:
        return static.default
    values: dict[str, StaticValue] = {"int": number, "real": 0.5, "bool": True}
    return values[static.kind] if static.kind != "enum" else static.choices[0]
