"""What a Program costs: bytes in and out, operations, exponentials, per equation and in all.

Every distinct sub-expression counts once for each point of the axes along which it varies, as if
everything that can be hoisted is: ``delta * x`` inside a sum over states is not multiplied again for
each state. The weights are those of the table of operations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ssmc.ir import (
    BOOL,
    COMPLEX,
    INT,
    OPERATIONS,
    REAL,
    Apply,
    Call,
    Const,
    Equation,
    Expr,
    Function,
    Op,
    Program,
    Read,
    Reduce,
    Tensor,
    Transform,
    complete_extents,
    free_axes,
    type_of,
    walk,
)


@dataclass(frozen=True)
class EquationCost:
    """``points`` is the size of the equation's value, ``bytes`` the memory it would fill."""

    name: str
    points: int
    bytes: int
    flops: int
    exponentials: int


@dataclass(frozen=True)
class Cost:
    """Inputs are counted as read once and outputs as written once."""

    bytes_in: int
    bytes_out: int
    flops: int
    exponentials: int
    equations: tuple[EquationCost, ...]


# Real operations in one complex operation; four times those of the table for what is not listed.
_COMPLEX_FLOPS = {
    "add": 2, "sub": 2, "neg": 2, "mul": 6, "div": 11, "conj": 1, "re": 0, "im": 0, "complex": 0, "abs": 9,
}  # fmt: skip


def cost(program: Program, sizes: Mapping[str, int], real_bytes: int = 4, once: bool = False) -> Cost:
    """The cost of one call at these extents (those that inputs bind; the rest follows). With ``once`` what several
    equations compute alike counts in the first of them only: nothing that computes them all does with less."""
    sizes = complete_extents(program, sizes)
    tensors = program.tensors()
    functions = {function.name: function for function in program.functions}
    known: set[Expr] = set()
    equations = tuple(
        _equation_cost(e, sizes, tensors, functions, real_bytes, known if once else set()) for e in program.equations
    )
    return Cost(
        sum(_bytes(tensor, sizes, real_bytes) for tensor in program.inputs),
        sum(_bytes(tensors[name], sizes, real_bytes) for name in program.outputs),
        sum(item.flops for item in equations),
        sum(item.exponentials for item in equations),
        equations,
    )


def _points(axes: tuple[str, ...] | frozenset[str], sizes: Mapping[str, int]) -> int:
    return math.prod(sizes[axis] for axis in axes)


def _bytes(tensor: Tensor, sizes: Mapping[str, int], real_bytes: int) -> int:
    width = {BOOL: 1, INT: 8, REAL: real_bytes, COMPLEX: 2 * real_bytes}[tensor.dtype]
    return width * _points(tensor.axes, sizes)


def _equation_cost(
    equation: Equation,
    sizes: Mapping[str, int],
    tensors: Mapping[str, Tensor],
    functions: Mapping[str, Function],
    real_bytes: int,
    known: set[Expr],
) -> EquationCost:
    """Of what is not ``known``; adds to that what it computes."""
    flops = exponentials = 0
    if not isinstance(equation.expr, Apply):
        for node in [node for node in dict.fromkeys(_computed(equation.expr)) if node not in known]:
            known.add(node)
            count, exps = _weight(node, tensors, functions)
            if isinstance(node, Transform):
                count = sizes[node.axis].bit_length()
            inside = free_axes(node.body) if isinstance(node, Reduce | Transform) else free_axes(node)
            points = _points(inside, sizes)
            flops += count * points
            exponentials += exps * points
    points = _points(equation.axes, sizes)
    return EquationCost(equation.name, points, _bytes(equation.tensor, sizes, real_bytes), flops, exponentials)


def _computed(expr: Expr) -> list[Expr]:
    """Sub-expressions that are values; those that only say which element is read cost nothing."""
    skipped = {id(node) for read in walk(expr) if isinstance(read, Read) for i in read.indices for node in walk(i)}
    return [node for node in walk(expr) if id(node) not in skipped]


def _weight(node: Expr, tensors: Mapping[str, Tensor], functions: Mapping[str, Function]) -> tuple[int, int]:
    """(flops, exponentials) of one node at one point."""
    match node:
        case Op(op=op, args=args):
            row = OPERATIONS[op]
            types = [type_of(arg, tensors, functions) for arg in args]
            if op == "pow" and isinstance(args[1], Const) and isinstance(args[1].value, int):
                return max(1, args[1].value.bit_length()), 0
            if COMPLEX in types:
                return _COMPLEX_FLOPS.get(op, 4 * row.flops), row.exponentials
            return row.flops, row.exponentials
        case Reduce(kind=kind, body=body):
            wide = 2 if type_of(body, tensors, functions) is COMPLEX else 1
            return wide * (15 if kind in ("softmax", "logsumexp") else 1), int(kind in ("softmax", "logsumexp"))
        case Call(function=name):
            function = functions[name]
            values = {p: Tensor(p, (), function.dtype) for p in function.parameters}
            values.update((b, Tensor(b, (), function.dtype)) for b, _ in function.bindings)
            bodies = [*(expr for _, expr in function.bindings), function.result]
            parts = [_weight(item, values, functions) for body in bodies for item in walk(body)]
            return sum(p[0] for p in parts), sum(p[1] for p in parts)
        case _:
            return 0, 0
