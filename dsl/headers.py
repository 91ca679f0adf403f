"""Whether the header of a definition makes sense: types, alternatives, defaults, duplicates."""

from __future__ import annotations

from ssmc.ir import BOOL, INT, REAL

from . import ast
from .problems import Problems, listed, nearest
from .signature import TYPES

STATIC_TYPES = ("int", "real", "bool", "enum")


def check_header(definition: ast.Definition) -> Problems:
    """The problems of a header, none of which needs the body."""
    problems = Problems()
    seen: dict[str, ast.Name] = {}
    for parameter in (*definition.inputs, *definition.statics):
        _once(parameter.name, seen, "parameter", problems)
    for parameter in definition.inputs:
        _input(parameter, definition, problems)
    for parameter in definition.statics:
        _static(parameter, problems)
    outputs: dict[str, ast.Name] = {}
    for output in definition.outputs:
        _once(output.name, outputs, "output", problems)
        if output.name.text in seen:
            hint = f"bind it to another name: `out = {output.name.text}`, `-> out`"
            problems.add(f"output `{output.name.text}` is an input", output.name.span, hint=hint)
        if output.axes:
            _distinct(output.axes, problems)
        _known_type(output.dtype, problems)
    if definition.kind == "fn":
        _function(definition, problems)
    return problems


def _once(name: ast.Name, seen: dict[str, ast.Name], what: str, problems: Problems) -> None:
    if name.text in seen:
        problems.add(f"{what} `{name.text}` appears twice", name.span, hint="rename one")
    seen.setdefault(name.text, name)


def _distinct(axes: tuple[ast.Name, ...], problems: Problems) -> None:
    seen: set[str] = set()
    for axis in axes:
        if axis.text in seen:
            hint = f"give the second its own name and a fact: `require #{axis.text}2 == #{axis.text}`"
            problems.add(f"axis `{axis.text}` appears twice", axis.span, hint=hint)
        seen.add(axis.text)


def _known_type(dtype: ast.Name | None, problems: Problems) -> None:
    if dtype is not None and dtype.text not in TYPES:
        hint = nearest(dtype.text, TYPES) or "the default is `real`"
        problems.add(f"unknown type `{dtype.text}`", dtype.span, listed(TYPES, "or"), hint)


def _input(parameter: ast.Parameter, definition: ast.Definition, problems: Problems) -> None:
    name = parameter.name.text
    _known_type(parameter.dtype, problems)
    if parameter.signatures is None and definition.kind == "layer":
        hint = f"a scalar is `{name}[]`; a static parameter stands after `*`"
        problems.add(f"input `{name}` states no axes", parameter.name.span, "axes in brackets", hint)
    for axes in parameter.signatures or ():
        _distinct(axes, problems)
    ranks = [len(axes) for axes in parameter.signatures or ()]
    if len(set(ranks)) < len(ranks):
        again = next(i for i, r in enumerate(ranks) if r in ranks[:i])
        place = parameter.signatures[again][0].span if parameter.signatures and ranks[again] else parameter.name.span
        hint = "signatures are chosen by rank; make two layers, or use a static parameter"
        problems.add(f"two signatures of `{name}` have {ranks[again]} axes", place, "different ranks", hint)
    if parameter.optional and parameter.default is not None:
        hint = "keep one: `?` for an input that may be gone, `= 0` for a number in its place"
        problems.add(f"`{name}` is optional and has a default", parameter.name.span, hint=hint)
    default = parameter.default
    dtype = TYPES.get(parameter.dtype.text) if parameter.dtype else TYPES["real"]
    if default is not None and not isinstance(default, ast.Literal):
        problems.add(f"the default of input `{name}` is not a number", default.span, "a number", "write `= 0`")
    elif default is not None and dtype is not None and default.dtype.rank > dtype.rank:
        message = f"the default of input `{name}` is no {dtype}"
        problems.add(message, default.span, "`true` or `false`" if dtype is BOOL else _article(str(dtype)))


def _static(parameter: ast.Parameter, problems: Problems) -> None:
    name = parameter.name.text
    if parameter.signatures is not None:
        hint = "inputs stand before the `*`"
        problems.add(f"static parameter `{name}` has axes", parameter.name.span, hint=hint)
        return
    kind = parameter.dtype.text if parameter.dtype else None
    if kind not in STATIC_TYPES:
        place = parameter.dtype.span if parameter.dtype else parameter.name.span
        found = f"unknown type `{kind}`" if kind else f"static parameter `{name}` has no type"
        problems.add(found, place, listed(STATIC_TYPES, "or"), f"write `{name}: int`")
        return
    if (kind == "enum") != bool(parameter.choices):
        hint = f"write `{name}: enum(one, other)`"
        problems.add(f"enum `{name}` lists no choices" if kind == "enum" else f"`{kind}` takes no choices",
                     parameter.name.span, hint=hint)  # fmt: skip
        return
    if parameter.optional:
        problems.add(f"static parameter `{name}` cannot be absent", parameter.name.span, hint="give it a default")
    _static_default(parameter, str(kind), problems)


def _static_default(parameter: ast.Parameter, kind: str, problems: Problems) -> None:
    default = parameter.default
    if default is None:
        return
    name = parameter.name.text
    choices = [c.text for c in parameter.choices]
    if kind == "enum":
        if not isinstance(default, ast.Name) or default.text not in choices:
            shown = default.text if isinstance(default, ast.Name) else "this"
            hint = nearest(shown, choices) or f"write `= {choices[0]}`"
            problems.add(f"`{shown}` is not a choice of `{name}`", default.span, listed(choices, "or"), hint)
        return
    accepted = {"bool": (BOOL,), "int": (INT,), "real": (INT, REAL)}[kind]
    if not isinstance(default, ast.Literal) or default.dtype not in accepted:
        example = {"bool": "true", "int": "2", "real": "0.5"}[kind]
        problems.add(
            f"the default of `{name}` is not {_article(kind)}", default.span, _article(kind), f"write `= {example}`"
        )


def _article(kind: str) -> str:
    return {"int": "an int", "bool": "a bool"}.get(kind, f"a {kind} number")


def _function(definition: ast.Definition, problems: Problems) -> None:
    """An ``fn`` has one output; an elementwise one has no axes, an opaque one states them all."""
    name = definition.name.text
    if len(definition.outputs) > 1:
        problems.add(
            f"`fn {name}` has several outputs", definition.outputs[1].name.span, "one output", "make it a layer"
        )
    for parameter in definition.inputs:
        text, span = parameter.name.text, parameter.name.span
        if definition.body is not None and parameter.signatures is not None:
            hint = f"write `{text}`, or make it a `layer`"
            problems.add(f"parameter `{text}` of an elementwise `fn` has axes", span, hint=hint)
        if definition.body is None and (parameter.signatures is None or len(parameter.signatures) != 1):
            hint = f"write `{text}[b, t, d]`, or give the `fn` a body"
            problems.add(f"opaque `fn {name}` needs the axes of `{text}`", span, hint=hint)
        if definition.body is not None and parameter.dtype is not None:
            _function_type(parameter.dtype, definition, problems)
        if parameter.optional or parameter.default is not None:
            problems.add(f"parameter `{text}` of an `fn` cannot be absent", span, hint="make it a layer")
    if definition.body is None and definition.outputs[0].axes is None:
        hint = f"write `-> {definition.outputs[0].name.text}[b, t, d]`"
        problems.add(f"opaque `fn {name}` needs the axes of its output", definition.outputs[0].name.span, hint=hint)


def _function_type(dtype: ast.Name, definition: ast.Definition, problems: Problems) -> None:
    """Parameters of an elementwise ``fn`` are complex when its output is, else real."""
    written = definition.outputs[0].dtype
    wanted = "complex" if written is not None and written.text == "complex" else "real"
    if dtype.text != wanted:
        hint = f"declare the output complex: `-> {definition.outputs[0].name.text}: complex`"
        if dtype.text != "complex":
            hint = "leave the type out; ints and bools are taken as reals"
        problems.add(f"a parameter of this `fn` is {wanted}, not {dtype.text}", dtype.span, wanted, hint)
