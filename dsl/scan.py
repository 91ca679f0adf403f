"""Which names of a definition are axes, found before anything is resolved.

An axis is introduced by the signature, ``axis``, the left side of an equation, a reduction,
or as the bare name in ``v[t=s]``. The order of introduction is the order of axes in the Program.
"""

from __future__ import annotations

from collections.abc import Iterator

from ssmc.ir import REDUCTIONS, TRANSFORMS

from . import ast
from .problems import Problems

HEADS = frozenset((*REDUCTIONS, *TRANSFORMS, "concat"))


def extension_of(target: ast.Target) -> tuple[ast.Name, str] | None:
    """The axis and the side of ``h[t<0] = …`` or ``g[t >= #t] = …``; None for other equations."""
    if target.items is None or len(target.items) != 1:
        return None
    match target.items[0]:
        case ast.Item(name=None, value=ast.Binary(op="<", left=ast.Name() as axis, right=ast.Literal(value=0))):
            return axis, "before"
        case ast.Item(name=None, value=ast.Binary(op=">=", left=ast.Name() as axis, right=ast.Extent(axis=text))):
            return (axis, "after") if text == axis.text else None
    return None


def defined_names(definition: ast.Definition) -> dict[str, ast.Name]:
    """Every name that an equation (in ``backward`` blocks too) defines, where it first does."""
    found: dict[str, ast.Name] = {}
    for statement in ast.flatten(definition.body or ()):
        if isinstance(statement, ast.Equation):
            for target in statement.targets:
                if extension_of(target) is None:
                    found.setdefault(target.name.text, target.name)
    return found


def axis_names(definition: ast.Definition, problems: Problems, printed: bool = False) -> dict[str, ast.Name]:
    """Every axis of a definition in order of introduction; a name that is also a tensor or a static
    parameter is a problem. In a ``printed`` Program the ``axis`` lines alone tell the order."""
    taken = {p.name.text: "an input" for p in definition.inputs}
    taken.update((p.name.text, "a static parameter") for p in definition.statics)
    taken.update((name, "an equation") for name in defined_names(definition) if name not in taken)
    found: dict[str, ast.Name] = {}
    reported: set[str] = set()
    for name, certain in _introduced(definition, printed):
        if name.text in taken:
            if certain and name.text not in reported:
                reported.add(name.text)
                hint = f"one name means one thing in a layer; rename the {taken[name.text].split()[-1]} or the axis"
                problems.add(f"`{name.text}` is both an axis and {taken[name.text]}", name.span, hint=hint)
            continue
        found.setdefault(name.text, name)
    return found


def _introduced(definition: ast.Definition, printed: bool) -> Iterator[tuple[ast.Name, bool]]:
    """Axis names in order; False for those that may as well be tensors (the ``s`` of ``v[t=s]``)."""
    for parameter in definition.inputs:
        for axes in parameter.signatures or ():
            yield from ((axis, True) for axis in axes)
    outputs = [axis for output in definition.outputs for axis in output.axes or ()]
    if not printed:
        yield from ((axis, True) for axis in outputs)
    for statement in ast.flatten(definition.body or ()):
        match statement:
            case ast.AxisExtent(axis=axis):
                yield axis, True
            case ast.Split(whole=whole, parts=parts):
                yield from ((axis, True) for axis in (whole, *parts))
            case ast.Equation(targets=targets, expr=expr):
                for target in targets:
                    yield from ((axis, True) for axis in _left_axes(target))
                yield from _in_expr(expr)
    yield from ((axis, True) for axis in outputs)


def _left_axes(target: ast.Target) -> Iterator[ast.Name]:
    if extension_of(target) is not None:
        return
    for item in target.items or ():
        match item.value:
            case ast.Name() | ast.Binary(op="<", left=ast.Name()) if item.name is None:
                yield item.value if isinstance(item.value, ast.Name) else item.value.left  # type: ignore[misc]


def _in_expr(expr: ast.Expr) -> Iterator[tuple[ast.Name, bool]]:
    stack = [expr]
    while stack:
        node = stack.pop()
        match node:
            case ast.Call(function=ast.Bracket(base=ast.Name(text=head), items=items)) if head in HEADS:
                for item in items:
                    match item.value:
                        case ast.Name() as axis:
                            yield axis, True
                        case ast.Binary(op="<", left=ast.Name() as axis):
                            yield axis, True
            case ast.Bracket(items=items):
                for item in items:
                    if item.name is not None and isinstance(item.value, ast.Name):
                        yield item.value, False
        stack.extend(reversed(ast.parts(node)))
