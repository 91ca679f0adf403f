"""Program → Program: a fold over a sequence axis binds an axis of its own.

    y = x / sum[t](x)   =   y = x / sum[t.all](x[t=t.all]),  #t.all = #t

Afterwards the index of a sequence axis is the present step wherever it occurs, which is what loops over
time assume. A softmax keeps its axis and is left alone, and so is a table, which is filled step by step.
"""

from __future__ import annotations

from dataclasses import replace

from ssmc.ir import REDUCTIONS, Axis, Expr, Program, Reduce, Size, rebound, rewrite

from .tables import table_of


def unshadow(program: Program) -> Program:
    """The Program with such folds renamed; unchanged where there are none."""
    used: set[str] = set()

    def rule(node: Expr) -> Expr | None:
        if not isinstance(node, Reduce) or REDUCTIONS[node.kind].keeps_axis:
            return None
        bound = [a for a in node.axes if a in program.sequence_axes]
        if not bound:
            return None
        used.update(bound)
        return rebound(node, {a: f"{a}.all" for a in bound})

    equations = tuple(e if table_of(program, e) else replace(e, expr=rewrite(e.expr, rule)) for e in program.equations)
    axes = tuple(Axis(f"{a}.all", Size(a)) for a in program.sequence_axes if a in used)
    return replace(program, equations=equations, axes=(*program.axes, *axes)) if axes else program
