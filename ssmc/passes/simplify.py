"""Program → Program: without equations that only repeat another.

    d.s = d.y;  d.x = d.s * w          =   d.x = d.y * w
    d.q.by = sum[s](…);  d.q = d.q.by  =   d.q = sum[s](…)

Precondition of the first line: nothing says what is outside either tensor. Of the second: an output is read from
nothing else than what it repeats, which nobody else reads. An output is never read in the place of what it repeats:
outputs may be stored with fewer digits.
"""

from __future__ import annotations

from dataclasses import replace

from ssmc.ir import Apply, Equation, Expr, Index, Program, Read, Tensor, rewrite

from .tidy import reads_of


def simplified(program: Program) -> Program:
    """The Program with fewer equations, of the same value."""
    return _named_by_outputs(_without_copies(program))


def _without_copies(program: Program) -> Program:
    tensors = program.tensors()
    kept = {*program.outputs, *(x.tensor for x in program.extensions)}
    kept |= _named_in_blocks(program)
    extended = {x.tensor for x in program.extensions}
    copies = {}
    for equation in program.equations:
        source = _copied(equation, tensors)
        if source is not None and equation.name not in kept and source.tensor not in extended:
            copies[equation.name] = source
    if not copies:
        return program
    return _rewritten(program, {name: _origin(name, copies, tensors) for name in copies}, tensors)


def _named_in_blocks(program: Program) -> set[str]:
    """Tensors that a gradient block names, and the names that are its own."""
    return {
        name for block in program.customs
        for name in (*block.inputs, *block.outputs, *(e.name for e in block.equations))
    }  # fmt: skip


def _copied(equation: Equation, tensors: dict[str, Tensor]) -> Read | None:
    """The read that is all of an equation, of a tensor of the same type along the same axes."""
    read = equation.expr
    if not isinstance(read, Read) or tensors[read.tensor].dtype is not equation.dtype:
        return None
    plain = tuple(map(Index, tensors[read.tensor].axes))
    return read if read.indices == plain and set(equation.axes) == set(tensors[read.tensor].axes) else None


def _origin(name: str, copies: dict[str, Read], tensors: dict[str, Tensor]) -> str:
    """What a copy of a copy repeats; a tensor in another order of axes may be in between."""
    while name in copies:
        name = copies[name].tensor
    return name


def _rewritten(program: Program, origins: dict[str, str], tensors: dict[str, Tensor]) -> Program:
    """The Program that reads the origins."""
    needed = {
        name for e in program.equations if isinstance(e.expr, Apply) for name in e.expr.args
        if name in origins and tensors[name].axes != tensors[origins[name]].axes
    }  # fmt: skip
    origins = {name: origin for name, origin in origins.items() if name not in needed}

    def rule(node: Expr) -> Expr | None:
        if isinstance(node, Read) and node.tensor in origins:
            at = dict(zip(tensors[node.tensor].axes, node.indices, strict=True))
            origin = origins[node.tensor]
            return replace(node, tensor=origin, indices=tuple(at[axis] for axis in tensors[origin].axes))
        if isinstance(node, Apply):
            return replace(node, args=tuple(origins.get(name, name) for name in node.args))
        return None

    return replace(
        program,
        equations=tuple(replace(e, expr=rewrite(e.expr, rule)) for e in program.equations if e.name not in origins),
        extensions=tuple(replace(x, expr=rewrite(x.expr, rule)) for x in program.extensions),
        customs=tuple(
            replace(c, equations=tuple(replace(e, expr=rewrite(e.expr, rule)) for e in c.equations))
            for c in program.customs
        ),
    )


def _named_by_outputs(program: Program) -> Program:
    """An equation that only an output repeats gets the output's name."""
    tensors = program.tensors()
    readers: dict[str, int] = {}
    exprs = [e.expr for e in program.equations] + [x.expr for x in program.extensions]
    exprs += [e.expr for block in program.customs for e in block.equations]
    for expr in exprs:
        for name in reads_of(expr):
            readers[name] = readers.get(name, 0) + 1
    extended = {x.tensor for x in program.extensions} | _named_in_blocks(program)
    defined = {e.name: e for e in program.equations if e.name not in program.outputs and e.name not in extended}
    merged: dict[str, str] = {}
    for equation in program.equations:
        source = _copied(equation, tensors)
        if equation.name in program.outputs and source is not None and readers[source.tensor] == 1:
            origin = defined.get(source.tensor)
            if origin is not None and origin.axes == equation.axes and equation.name not in extended:
                merged[source.tensor] = equation.name
    gone = set(merged.values())
    equations = (e for e in program.equations if e.name not in gone)
    return replace(program, equations=tuple(replace(e, name=merged.get(e.name, e.name)) for e in equations))


__all__ = ["simplified"]
