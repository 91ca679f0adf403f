"""What the equations of a Program read, as kernels make those reads.

A value that is cheap is computed again wherever it is read; a sum over groups of lanes, a table and what is saved
of a recurrence lie along other axes in memory than those along which a kernel computes them.
"""

from __future__ import annotations

from collections.abc import Iterator

from ssmc.ir import (
    OPERATIONS,
    Apply,
    Const,
    Equation,
    Expr,
    Index,
    Op,
    Program,
    Read,
    Reduce,
    Transform,
    substitute,
    walk,
)

from .partial import group_sum
from .parts import CUT, PART, end_of_part, folded_states, last_step, steps_of_parts
from .ranges import Ranges
from .recompute import snapshot_of
from .tables import table_of

_CHEAP_FLOPS = 8


def reads(expr: Expr) -> list[Read]:
    """Every read in an expression, as often as it stands there."""
    return [node for node in walk(expr) if isinstance(node, Read)]


def folded_axes(expr: Expr) -> set[str]:
    """Axes that some reduction in the expression runs over."""
    return {a for node in walk(expr) if isinstance(node, Reduce) for a in node.axes}


class Reading:
    """One Program: how its equations depend on each other and on themselves, what they fold, and which of them
    are ``sums`` over groups of lanes (see ``partial``), ``tables``, ``snapshots`` (see ``recompute``) or the
    ``ends`` of parts of time; ``summaries`` are there for nothing but those at cuts (see ``parts``)."""

    def __init__(self, program: Program, extents: Ranges) -> None:
        import networkx

        self.program = program
        self.extents = extents
        self.tensors = program.tensors()
        self.produced = {e.name: e for e in program.equations}
        self.sums = {e.name: found for e in program.equations if (found := group_sum(e)) is not None}
        self.tables = {e.name: table for e in program.equations if (table := table_of(program, e)) is not None}
        self.snapshots = {e.name: shot for e in program.equations if (shot := snapshot_of(program, e)) is not None}
        self.ends = {e.name: axis for e in program.equations if (axis := end_of_part(program, e)) is not None}
        self.extensions: dict[str, list[Expr]] = {}
        for item in program.extensions:
            self.extensions.setdefault(item.tensor, []).append(item.expr)
        self._at_ends = self._closure({r.tensor for exprs in self.extensions.values() for e in exprs for r in reads(e)})
        self._cheap: dict[str, bool] = {}
        self.graph = networkx.DiGraph()
        self.graph.add_nodes_from(self.produced)
        for equation in program.equations:
            made = (read.tensor for read in self.all_reads(equation) if read.tensor in self.produced)
            self.graph.add_edges_from((tensor, equation.name) for tensor in made)
        self.summaries = self._for_cuts()
        self._cuts = self._before_cuts()
        self.components = [frozenset(c) for c in networkx.strongly_connected_components(self.graph)]
        self.states = folded_states(program, {n for n in self.produced if self.depends_on_itself(n)})

    def _for_cuts(self) -> set[str]:
        """Equations that nothing reads but what is left at the cuts of time, through others of the kind."""
        cuts = {name for name, axis in self.ends.items() if axis.endswith(CUT)}
        found = {n for n in self.graph if n not in cuts and n not in self.program.outputs and self.graph[n]}
        while others := {n for n in found if not self.graph[n].keys() <= found | cuts}:
            found -= others
        return found

    def _before_cuts(self) -> dict[str, set[Expr]]:
        """Of summaries: the steps that are left at the cuts for which they are there."""
        import networkx

        found: dict[str, set[Expr]] = {}
        for name, axis in self.ends.items():
            within = self.graph.subgraph({*self.summaries, name})
            for read in reads(self.produced[name].expr) if axis.endswith(CUT) else ():
                steps = {index for index in read.indices if Index(axis) in walk(index)}
                for other in networkx.ancestors(within, name):
                    found.setdefault(other, set()).update(steps)
        return found

    def before_same_cuts(self, names: set[str]) -> bool:
        """Whether summaries are there for the same steps before cuts: those of one way through time do not know what
        comes last on the other."""
        return len(set().union(*(self._cuts.get(name, ()) for name in names))) <= 1

    def _closure(self, names: set[str]) -> set[str]:
        """These tensors and those that they follow from."""
        found: set[str] = set()
        while names:
            found |= names
            below = {r.tensor for n in names if n in self.produced for r in reads(self.produced[n].expr)}
            names = below - found
        return found

    def depends_on_itself(self, name: str) -> bool:
        """Whether the equation is, or belongs to, a recurrence."""
        return any(name in group and (len(group) > 1 or self.graph.has_edge(name, name)) for group in self.components)

    def all_reads(self, equation: Equation) -> list[Read]:
        """Reads of an equation, its extensions and those of what it reads."""
        found = reads(equation.expr)
        for tensor in {equation.name, *(r.tensor for r in found)}:
            for expr in self.extensions.get(tensor, ()):
                found += [r for r in reads(expr) if r.tensor != equation.name]
        return found

    def reads_made(self, equation: Equation) -> list[Read]:
        """Reads of an equation as a kernel makes them: a cheap value elsewhere is computed again there."""
        found: list[Read] = []
        for read in self.all_reads(equation):
            found += self._through_cheap(read)
        return found

    def reads_along(self, equation: Equation) -> Iterator[tuple[Read, str]]:
        """Those reads, each with every sequence axis that it looks along."""
        for read in self.reads_made(equation):
            for axis in self.tensors[read.tensor].axes:
                if axis in self.program.sequence_axes:
                    yield read, axis

    def _through_cheap(self, read: Read) -> list[Read]:
        if self.is_identity(read) or not self.is_cheap(read.tensor):
            return [read]
        cheap = self.produced[read.tensor]
        there = substitute(cheap.expr, dict(zip(cheap.axes, read.indices, strict=True)))
        return [read, *(made for inner in reads(there) for made in self._through_cheap(inner))]

    def is_identity(self, read: Read) -> bool:
        """Whether a read is that of the element here."""
        axes = self.tensors[read.tensor].axes
        return all(i == Index(a) for a, i in zip(axes, read.indices, strict=True))

    def lag(self, read: Read, axis: str) -> tuple[int, int] | None:
        """How far back along ``axis`` a read looks, at least and at most; None when not static."""
        position = self.tensors[read.tensor].axes.index(axis)
        return self.extents.offset(Index(axis), read.indices[position])

    def final(self, read: Read, axis: str, reverse: bool, over: str) -> int | None:
        """How many steps before the end of the way, or of each of the parts or cuts ``over`` it, a read looks; None if
        it does not. What lies before the last step may lie in another part."""
        steps = steps_of_parts(self.program, axis) if over else None
        if steps is None:
            return self.is_final(read, axis, reverse)
        if read.indices[self.tensors[read.tensor].axes.index(axis)] == last_step(axis, steps, reverse, over):
            return 1
        return 1 if over.endswith(PART) and self.is_final(read, axis, reverse) == 1 else None

    def is_final(self, read: Read, axis: str, reverse: bool) -> int | None:
        """How many steps before the end of the way a read looks: at ``#axis - k`` or, backwards, at ``k - 1``."""
        position = self.tensors[read.tensor].axes.index(axis)
        if reverse:
            index = read.indices[position]
            return int(index.value.real) + 1 if isinstance(index, Const) and index.value.real >= 0 else None
        bounds = self.extents.from_end(axis, read.indices[position])
        return bounds[1] if bounds and bounds[0] >= 1 else None

    def is_cheap(self, name: str) -> bool:
        """A map of inputs so cheap that every reader may compute it again."""
        if name not in self._cheap:
            self._cheap[name] = self._costs_little(name)
        return self._cheap[name]

    def _costs_little(self, name: str) -> bool:
        equation = self.produced.get(name)
        if equation is None or name in self.program.outputs or self.depends_on_itself(name):
            return False
        flops = 0
        for node in walk(equation.expr):
            if isinstance(node, (Reduce, Transform, Apply)):
                return False
            if isinstance(node, Op):
                row = OPERATIONS[node.op]
                flops += row.flops + 100 * row.exponentials
            if isinstance(node, Read) and node.tensor in self.extensions and name in self._at_ends:
                return False  # a copy that ends need: computed again there it would need those ends in turn
            if isinstance(node, Read) and node.tensor in self.produced:
                if not self.is_identity(node) or not self.is_cheap(node.tensor):
                    return False
        return flops <= _CHEAP_FLOPS

    def folded(self, equation: Equation) -> set[str]:
        """Axes that an equation folds at one point of a kernel: not the lanes of a sum over groups of them."""
        found = self.sums.get(equation.name)
        folds = folded_axes(found[2]) if found else folded_axes(equation.expr)
        table = self.tables.get(equation.name)
        return folds - {table.time} if table else folds

    def axes_of(self, equation: Equation) -> tuple[str, ...]:
        """The axes along which a kernel computes an equation: a sum over groups of lanes along the lanes, a table
        along what it is filled from."""
        if equation.name in self.sums:
            lane, group, _ = self.sums[equation.name]
            return tuple(lane if a == group else a for a in equation.axes)
        if equation.name in self.tables:
            table = self.tables[equation.name]
            own = tuple(a for a in equation.axes if a not in table.places)
            return (table.time, *own) if table.time else own
        if equation.name in self.snapshots:
            return tuple(a for a in equation.axes if a != self.snapshots[equation.name][1])
        if equation.name in self.ends:
            return tuple(a for a in equation.axes if a != self.ends[equation.name])
        return equation.axes
