"""Program → Program: without what nothing asks for.

Equations that no output needs are gone, and with them their extensions, axes that nothing has and requirements on
such axes. Inputs stay: they are what a caller passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ssmc.ir import Apply, Expr, Program, Read, Reduce, Transform, sizes_used, walk


def tidied(program: Program) -> Program:
    """``program`` with what its outputs need, and only the axes in use, in the order of the inputs and then of
    introduction."""
    program = _live(program)
    used = axes_used(program)
    listed = dict.fromkeys(axis for tensor in program.inputs for axis in tensor.axes)
    order = [*listed, *(axis.name for axis in program.axes if axis.name not in listed)]
    return replace(
        program,
        axes=tuple(program.axis(name) for name in order if name in used),
        requirements=tuple(r for r in program.requirements if sizes_used(r.condition) <= used),
    )


def reads_of(expr: Expr) -> Iterator[str]:
    """The tensors that an expression reads, opaque functions included."""
    for node in walk(expr):
        if isinstance(node, Read):
            yield node.tensor
        elif isinstance(node, Apply):
            yield from node.args


def tensors_read(program: Program) -> set[str]:
    """The tensors that equations and extensions read."""
    exprs = [item.expr for item in program.equations] + [item.expr for item in program.extensions]
    return {name for expr in exprs for name in reads_of(expr)}


def bound_in(expr: Expr) -> set[str]:
    """The axes of all reductions and whole-axis operations."""
    nodes = list(walk(expr))
    kept = {node.axis for node in nodes if isinstance(node, Transform)}
    return kept | {axis for node in nodes if isinstance(node, Reduce) for axis in node.axes}


def axes_used(program: Program) -> set[str]:
    """Axes of tensors, of reductions, and those whose size is asked for, also by extents of these."""
    used = {axis for tensor in program.tensors().values() for axis in tensor.axes} | set(program.sequence_axes)
    for item in (*(e.expr for e in program.equations), *(x.expr for x in program.extensions)):
        used |= bound_in(item) | sizes_used(item)
    while True:
        more = {a for axis in program.axes if axis.name in used and axis.extent for a in sizes_used(axis.extent)}
        if more <= used:
            return used
        used |= more


def _live(program: Program) -> Program:
    """Only equations that outputs need; a gradient block needs all that it reads."""
    defined = {e.name: e for e in program.equations}
    blocks = [(set(c.outputs), [n for e in c.equations for n in reads_of(e.expr)]) for c in program.customs]
    needed: set[str] = set()
    waiting = list(program.outputs)
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed.add(name)
        waiting += [n for outputs, read in blocks if name in outputs for n in read]
        waiting += [n for x in program.extensions if x.tensor == name for n in reads_of(x.expr)]
        if name in defined:
            waiting += reads_of(defined[name].expr)
    if needed >= defined.keys():
        return program
    return replace(
        program,
        equations=tuple(e for e in program.equations if e.name in needed),
        extensions=tuple(x for x in program.extensions if x.tensor in needed),
        customs=tuple(c for c in program.customs if needed & set(c.outputs)),
    )
