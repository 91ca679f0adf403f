"""Extents of axes from the shapes of arguments, and the facts every call must meet.

Pure Python: the interpreter, the runtime and the command line bind extents the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ssmc.errors import Diagnostic, InternalError, UserError

from .program import Const, Expr, Index, Op, Program, Size, Where, walk
from .types import DType

Sizes = Mapping[str, int]


def bind_extents(program: Program, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """The extent of every axis of ``program`` for arguments of these shapes.

    Raises UserError, naming tensor, axis, found and expected, for a missing argument, a wrong
    number of axes, two different extents of one axis, or a requirement that is not met.
    """
    sizes: dict[str, int] = {}
    origin: dict[str, str] = {}
    for tensor in program.inputs:
        if tensor.name not in shapes:
            raise UserError(f"{program.name}: argument {tensor.name!r} is missing", span=tensor.span)
        shape = tuple(shapes[tensor.name])
        if len(shape) != len(tensor.axes):
            raise UserError(
                f"{program.name}: {tensor.name!r} has {len(shape)} axes, shape {shape}",
                expected=f"{len(tensor.axes)} axes [{', '.join(tensor.axes)}]",
                span=tensor.span,
            )
        for axis, extent in zip(tensor.axes, shape, strict=True):
            if sizes.setdefault(axis, extent) != extent:
                raise UserError(
                    f"{program.name}: axis {axis!r} of {tensor.name!r} has extent {extent}",
                    expected=f"{sizes[axis]}, as in {origin[axis]!r}",
                    span=tensor.span,
                )
            origin.setdefault(axis, tensor.name)
    sizes = complete_extents(program, sizes, origin)
    check_requirements(program, sizes)
    return sizes


def complete_extents(program: Program, known: Sizes, origin: Mapping[str, str] | None = None) -> dict[str, int]:
    """The extent of every axis, given those that inputs bind; ``origin`` names the input for messages.

    Extents that the Program states are evaluated in the order in which they become known.
    """
    sizes = dict(known)
    waiting = [axis for axis in program.axes if axis.extent is not None]
    while waiting:
        ready = [axis for axis in waiting if axis.extent is not None and sizes_used(axis.extent) <= sizes.keys()]
        if not ready:
            raise InternalError(f"{program.name}: extents of {[a.name for a in waiting]} never become known")
        for axis in ready:
            assert axis.extent is not None
            extent = int(evaluate_int(axis.extent, sizes))
            if extent < 0:
                raise UserError(f"{program.name}: the extent of axis {axis.name!r} is {extent}", span=axis.span)
            if axis.name in sizes and sizes[axis.name] != extent:
                raise UserError(
                    f"{program.name}: axis {axis.name!r}{_of(origin, axis.name)} has extent {sizes[axis.name]}",
                    expected=f"{extent}, its stated extent",
                    span=axis.span,
                )
            sizes[axis.name] = extent
            waiting.remove(axis)
    for axis in program.axes:
        if axis.name not in sizes:
            raise InternalError(f"{program.name}: nothing binds the extent of axis {axis.name!r}")
    return sizes


def _of(origin: Mapping[str, str] | None, axis: str) -> str:
    return f" of {origin[axis]!r}" if origin and axis in origin else ""


def check_requirements(program: Program, sizes: Sizes) -> None:
    """Raise UserError for the requirements that these sizes do not meet, all together."""
    failed = []
    for requirement in program.requirements:
        if not evaluate_int(requirement.condition, sizes):
            from .text import print_expr

            found = ", ".join(f"#{axis} = {sizes[axis]}" for axis in sorted(sizes_used(requirement.condition)))
            failed.append(
                Diagnostic(
                    f"{program.name}: requirement not met: {print_expr(requirement.condition)}",
                    span=requirement.span,
                    hint=f"found {found}" if found else "",
                )
            )
    if failed:
        raise UserError(failed)


def sizes_used(expr: Expr) -> set[str]:
    """Axes whose size occurs in ``expr``."""
    return {node.axis for node in walk(expr) if isinstance(node, Size)}


def evaluate_int(expr: Expr, sizes: Sizes, indices: Mapping[str, int] | None = None) -> int:
    """The value of an int or bool expression over constants, sizes and given indices."""
    match expr:
        case Const(value=value) if not isinstance(value, complex):
            return int(value)
        case Size(axis=axis):
            return sizes[axis]
        case Index(axis=axis) if indices is not None and axis in indices:
            return indices[axis]
        case Where(condition=c, then=a, otherwise=b):
            return evaluate_int(a if evaluate_int(c, sizes, indices) else b, sizes, indices)
        case Op(op=op, args=args) if op in _INTEGER:
            return _INTEGER[op](*(evaluate_int(arg, sizes, indices) for arg in args))
    raise InternalError(f"not an expression over extents: {expr!r}")


def power(a: int, b: int) -> int:
    """``a ^ b`` of ints, truncated towards zero when ``b`` is negative (and 0 for ``0 ^ −1``)."""
    if b >= 0:
        return int(a**b)
    return {1: 1, -1: -1 if b % 2 else 1}.get(a, 0)


_INTEGER: dict[str, Callable[..., int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b if b else 0,
    "mod": lambda a, b: a % b if b else 0,
    "pow": power,
    "neg": lambda a: -a,
    "abs": abs,
    "minimum": min,
    "maximum": max,
    "lt": lambda a, b: int(a < b),
    "le": lambda a, b: int(a <= b),
    "gt": lambda a, b: int(a > b),
    "ge": lambda a, b: int(a >= b),
    "eq": lambda a, b: int(a == b),
    "ne": lambda a, b: int(a != b),
    "and": lambda a, b: int(bool(a) and bool(b)),
    "or": lambda a, b: int(bool(a) or bool(b)),
    "not": lambda a: int(not a),
    "bit_and": lambda a, b: a & b,
    "bit_or": lambda a, b: a | b,
    "bit_xor": lambda a, b: a ^ b,
}


def expr_to_json(expr: Expr) -> list[Any]:
    """An expression over extents as JSON has it."""
    match expr:
        case Const(value=value, dtype=dtype) if not isinstance(value, complex):
            return ["const", value, dtype.value]
        case Size(axis=axis):
            return ["size", axis]
        case Op(op=op, args=args):
            return ["op", op, *map(expr_to_json, args)]
        case Where(condition=c, then=a, otherwise=b):
            return ["where", *map(expr_to_json, (c, a, b))]
    raise InternalError(f"not an expression over extents: {expr!r}")


def expr_from_json(made: list[Any]) -> Expr:
    """The expression that ``expr_to_json`` has written."""
    match made:
        case ["const", value, dtype]:
            return Const(value, DType(dtype))
        case ["size", axis]:
            return Size(axis)
        case ["op", op, *args]:
            return Op(op, tuple(map(expr_from_json, args)))
        case ["where", c, a, b]:
            return Where(expr_from_json(c), expr_from_json(a), expr_from_json(b))
    raise InternalError(f"not an expression over extents: {made!r}")
