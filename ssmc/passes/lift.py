"""Program → Program: take folds that do not depend on a recurrence out of its equations, and out of extensions.

    g = sigmoid(sum[e](V * x) + sum[k](W * h[t-1, d=k]))
  = g.1 = sum[e](V * x);  g = sigmoid(g.1 + sum[k](W * h[t-1, d=k]))

    h[t<0] = max[d](c)  =  h.before.1 = max[d](c);  h[t<0] = h.before.1

Precondition: the fold reads nothing of the recurrence and no index bound around it. The equation it
becomes can run for all steps at once; whether it does is the plan's decision.
"""

from __future__ import annotations

from dataclasses import replace

from ssmc.ir import (
    REDUCTIONS,
    Equation,
    Expr,
    Index,
    Program,
    Read,
    Reduce,
    bound_axes,
    children,
    dependence,
    free_axes,
    type_of,
    walk,
    with_children,
)


def lift(program: Program) -> Program:
    """The Program with such folds as equations of their own; unchanged where there are none."""
    members = {name: set(loop.equations()) for loop in dependence(program).recurrences for name in loop.equations()}
    program = _without_folds_outside(program)
    if not members:
        return program
    equations: list[Equation] = []
    for equation in program.equations:
        if equation.name in members:
            equation, lifted = _lift(program, equation, members[equation.name])
            equations += lifted
        equations.append(equation)
    return replace(program, equations=tuple(equations))


def _without_folds_outside(program: Program) -> Program:
    """Extensions whose folds are equations of their own, where they read what does not depend on the extension."""
    equations, extensions = list(program.equations), []
    for extension in program.extensions:
        tensor = program.tensors()[extension.tensor]
        axes = tuple(axis for axis in tensor.axes if axis != extension.axis)
        outside = Equation(f"{tensor.name}.{extension.side}", axes, tensor.dtype, extension.expr, extension.span)
        outside, lifted = _lift(program, outside, _following(program, tensor.name))
        extensions.append(replace(extension, expr=outside.expr))
        equations = [*lifted, *equations]
    return replace(program, equations=tuple(equations), extensions=tuple(extensions))


def _following(program: Program, name: str) -> set[str]:
    """A tensor and all that follow from it."""
    uses = {e.name: {n.tensor for n in walk(e.expr) if isinstance(n, Read)} for e in program.equations}
    for extension in program.extensions:
        read = {n.tensor for n in walk(extension.expr) if isinstance(n, Read)}
        for used in uses.values():
            used |= read if extension.tensor in used else set()
    found = {name}
    while more := {reader for reader, used in uses.items() if used & found} - found:
        found |= more
    return found


def _lift(program: Program, equation: Equation, members: set[str]) -> tuple[Equation, list[Equation]]:
    """The equation without folds that read none of ``members``, and these."""
    found: list[Equation] = []
    tensors = program.tensors()

    def visit(expr: Expr, bound: frozenset[str]) -> Expr:
        if isinstance(expr, Reduce) and not REDUCTIONS[expr.kind].keeps_axis and _free_of(expr, members, bound):
            free = free_axes(expr)
            axes = tuple(a for a in equation.axes if a in free)
            name = f"{equation.name}.{len(found) + 1}"
            if free == set(axes) and name not in tensors:
                found.append(Equation(name, axes, type_of(expr, tensors), expr, expr.span))
                return Read(name, tuple(Index(a) for a in axes), expr.span)
        inside = bound | bound_axes(expr)
        return with_children(expr, tuple(visit(c, inside) for c in children(expr)))

    return replace(equation, expr=visit(equation.expr, frozenset())), found


def _free_of(expr: Expr, members: set[str], bound: frozenset[str]) -> bool:
    """Whether a fold reads nothing of the recurrence, reads something, and uses no bound index."""
    reads = [n for n in walk(expr) if isinstance(n, Read)]
    return bool(reads) and not any(r.tensor in members for r in reads) and not free_axes(expr) & bound
