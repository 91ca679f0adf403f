"""Program → Program: a sum under an equality of codes becomes a table that one kernel fills on its way.

    d.E[c] = sum[b, t: code[b, t] == c and m](e)   =   d.E = 0;  for each t, b in order: where m, d.E[code] += e

The work is that of the sum's body once, not once for each c, and time is run through in order, so that a
recurrence need not keep its values to be picked out or gathered later. Every element of a table belongs to one
point of the kernel's grid: the order of addition is that of the loops.

Precondition: the condition says for each target axis c that it equals an integer made of data, without another
target in it; the equation has no sequence axis.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from ssmc.ir import (
    INT,
    Const,
    Equation,
    Expr,
    Index,
    Op,
    Program,
    Read,
    Reduce,
    Size,
    conjuncts,
    dependence,
    free_axes,
    rewrite,
    substitute,
    type_of,
    walk,
)

from .names import Names
from .tidy import reads_of


@dataclass(frozen=True)
class Table:
    """``places`` says where along each target axis ``body`` is added, where ``condition`` holds; ``bound`` are the
    axes that are summed over, ``time`` the sequence axis among them."""

    places: Mapping[str, Expr]
    bound: tuple[str, ...]
    time: str | None
    condition: Expr | None
    body: Expr


def table_of(program: Program, equation: Equation) -> Table | None:
    """The table that an equation is, or None."""
    reduce = equation.expr
    if not isinstance(reduce, Reduce) or reduce.kind != "sum" or reduce.condition is None:
        return None
    sequence = program.sequence_axes
    if any(axis in sequence for axis in equation.axes):
        return None
    places: dict[str, Expr] = {}
    rest = []
    for part in conjuncts(reduce.condition):
        found = _place(part, equation.axes, reduce.axes)
        if found is None or found[0] in places:
            rest.append(part)
        else:
            places[found[0]] = found[1]
    if not places or any(free_axes(place) & places.keys() for place in places.values()):
        return None
    try:
        body, *conditions = (substitute(expr, places) for expr in (reduce.body, *rest))
    except ValueError:
        return None
    for axis, place in places.items():
        conditions += [Op("ge", (place, Const(0, INT))), Op("lt", (place, Size(axis)))]
    condition = conditions[0]
    for part in conditions[1:]:
        condition = Op("and", (condition, part))
    time = next((axis for axis in reduce.axes if axis in sequence), None)
    return Table(places, reduce.axes, time, condition, body)


def _place(part: Expr, axes: Collection[str], bound: Collection[str]) -> tuple[str, Expr] | None:
    """The axis c and the integer f of a condition ``f == c``."""
    if not isinstance(part, Op) or part.op != "eq":
        return None
    for target, code in (part.args, part.args[::-1]):
        if isinstance(target, Index) and target.axis in axes and target.axis not in bound:
            if free_axes(code) & set(bound) and any(isinstance(node, Read) for node in walk(code)):
                return target.axis, code
    return None


def tables(program: Program, narrow: Collection[str] = ()) -> Program:
    """The Program with every such sum as an equation of its own.

    What a recurrence makes is gathered apart for each index of a further axis that is summed over (a batch), so
    that these stay independent. The outputs in ``narrow`` are stored in less precision than they are computed in;
    their tables are not.
    """
    members = _recurrent(program)
    made: list[Equation] = []
    names = Names.of(program)

    def moved(equation: Equation, expr: Expr) -> Expr | None:
        """A read of a new equation in place of a table inside another expression."""
        own = tuple(a for a in equation.axes if a in free_axes(expr))
        if not isinstance(expr, Reduce) or free_axes(expr) != set(own):
            return None
        alone = Equation(equation.name, own, type_of(expr, program.tensors()), expr)
        table = table_of(program, alone)
        if table is None:
            return None
        whole = expr is equation.expr and equation.name not in narrow
        within, apart = _sorted_out(program, table, alone, members)
        body = Reduce("sum", within, None, expr.body) if within else expr.body
        bound = tuple(a for a in expr.axes if a not in within and a not in apart)
        filled = replace(expr, axes=bound, body=body)
        if whole and not apart:
            return filled
        axes = (*apart, *own)
        part = Equation(names.new(f"{equation.name}.table"), axes, alone.dtype, filled)
        made.append(part)
        read = Read(part.name, tuple(map(Index, axes)))
        return Reduce("sum", apart, None, read) if apart else read

    equations: list[Equation] = []
    for equation in program.equations:
        made.clear()
        expr = rewrite(equation.expr, lambda e, equation=equation: moved(equation, e))  # type: ignore[misc]
        equations += [*made, replace(equation, expr=expr)]
    return replace(program, equations=tuple(equations))


def _recurrent(program: Program) -> set[str]:
    """Equations that a recurrence is part of or that follow from one."""
    found = {name for loop in dependence(program).recurrences for name in loop.equations()}
    changed = bool(found)
    while changed:
        more = {e.name for e in program.equations if e.name not in found and found & set(reads_of(e.expr))}
        found |= more
        changed = bool(more)
    return found


def _sorted_out(
    program: Program, table: Table, equation: Equation, members: set[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of the axes that are summed over: those that nothing but the body varies along, and those to sum last."""
    assert isinstance(equation.expr, Reduce) and equation.expr.condition is not None
    within = tuple(a for a in table.bound if a != table.time and a not in free_axes(equation.expr.condition))
    if table.time is None or not members & set(reads_of(table.body)):
        return within, ()
    return within, tuple(a for a in table.bound if a != table.time and a not in within)
