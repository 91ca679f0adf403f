"""Sums along memory, for a few neighbouring points of a kernel's grid at once and on whole vectors.

    y[o] = sum[i](W[o, i] * x[i])

Each point gathers in a vector of its own, so that what one adds up does not depend on which points share a walk.
Together they read x once, have as many rows of W under way as a core can ask for, and at each step ask for the same
columns of the rows that come next: machines do not guess beyond a page by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from ssmc.ir import INT, REAL
from ssmc.ir.loops import Accumulate, Add, Group, Kernel, Statement, Store, own_nodes
from ssmc.ir.scalar import Node

from .c_expr import Expressions
from .c_lanes import all_whole
from .writer import Names, Writer

ROWS = 4  # points that are computed together

Axes = Mapping[str, Sequence[str]]


def rows_together(kernel: Kernel, precision: str, storage: Mapping[str, str], axes: Axes) -> int:
    """How many neighbours along the last axis of the grid a kernel computes together: 1 if it has no sums for that.

    Args:
        axes: those of each tensor.
    """
    if precision != "f32" or kernel.lane is not None or not kernel.grid or kernel.after:
        return 1
    if kernel.rings or kernel.tile or kernel.chunk or kernel.sums or kernel.part:
        return 1
    if any(_is_of_one_point(s, kernel.grid[-1]) for g in kernel.step for s in g.statements):
        return 1
    return ROWS if any(is_along_memory(kernel, g, storage, axes) for g in kernel.step) else 1


def _is_of_one_point(statement: Statement, axis: str) -> bool:
    """Whether a statement adds to memory, or is for the first or last point along an axis only."""
    return isinstance(statement, Add) or (isinstance(statement, Store) and axis in (*statement.once, *statement.last))


def is_along_memory(kernel: Kernel, group: Group, storage: Mapping[str, str], axes: Axes) -> bool:
    """Whether a group only sums reals along what lies side by side in memory, other rows for each point of the grid's
    last axis, and vectors have all that is summed."""
    sums = [s for s in group.statements if isinstance(s, Accumulate)]
    if not group.inner or not sums or len(sums) != len(group.statements):
        return False
    along = group.inner[-1]
    found = [node for s in sums for node in own_nodes(kernel, "step", s)]
    held = (variable for variable in kernel.variables.values() if along in variable.dims)
    return (
        all(s.node.name[0] == "sum" and len(s.node.args) == 1 for s in sums)
        and not any(held)
        and all(_is_vector(node) for node in found if along in node.axes)
        and any(_is_row(kernel, node, along, axes) for node in found)
        and all_whole(replace(kernel, lane=along), "step", sums, storage)
    )


def _is_vector(node: Node) -> bool:
    """Whether a node that varies along the axis of a sum is part of an index, or made of what is loaded."""
    return node.type is INT or (node.kind in ("load", "op", "reduce") and node.type is REAL)


def _is_row(kernel: Kernel, node: Node, along: str, axes: Axes) -> bool:
    """Whether a load walks through memory, along one row for each point of the grid's last axis."""
    if node.kind != "load":
        return False
    own = axes[str(node.name[0])]
    plain = all(a.kind == "index" and a.name == axis for a, axis in zip(node.args, own, strict=True))
    return plain and tuple(own[-2:]) == (kernel.grid[-1], along)


def _if_there(row: int) -> str:
    return f"if ({row} < rows) " if row else ""


class Sums:
    """Writes such a group; the points are numbered up to ``rows``, which is ``ROWS`` or, at the end, 1."""

    def __init__(self, kernel: Kernel, x: Expressions, names: Names, out: Writer) -> None:
        self.kernel, self.x, self.names, self.out = kernel, x, names, out
        self.axes = {name: tensor.axes for name, tensor in x.tensors.items()}

    def write(self, group: Group) -> None:
        """Loops over the outer axes; in them vectors that start as 0, loops over the inner ones, and their totals."""
        sums = [s for s in group.statements if isinstance(s, Accumulate)]
        self.x.needed |= {"ssmc_vector", "SSMC_VECTOR_LANES", "ssmc_total_vector"}
        with self._nest(group.outer):
            for row in range(ROWS):
                for statement in sums:
                    self.out.line(f"ssmc_vector {self._gathered(statement, row)} = {{0}};")
            with self._nest(group.inner[:-1]):
                self._along(group.inner[-1], sums)
            for row in self._each_row():
                for statement in sums:
                    total = f"ssmc_total_vector({self._gathered(statement, row)})"
                    self.out.line(f"{_if_there(row)}{self.x.variable(statement.variable)} = {total};")

    def _along(self, axis: str, sums: list[Accumulate]) -> None:
        """Whole vectors, and what is left."""
        index = self.names.get("i", axis)
        with self.out.block(""):
            self.out.line(f"const int64_t {index} = 0, w = {self.x.size(axis)}, whole = w - w % SSMC_VECTOR_LANES;")
            self.x.lane, self.x.vectors = axis, True
            with self.out.block("for (int64_t o = 0; o < whole; o += SSMC_VECTOR_LANES)"):
                self._ask(axis, sums)
                self._add(sums, "{}")
            with self.out.block("if (whole < w)"):
                self.out.line("const int64_t o = whole;")
                self.x.needed.add("ssmc_within_vector")
                self._add(sums, "ssmc_within_vector({}, w - o)")
            self.x.lane, self.x.vectors = self.kernel.lane, False

    def _add(self, sums: list[Accumulate], form: str) -> None:
        for row in self._each_row():
            for statement in sums:
                body = statement.node.args[-1]
                text = form.format(self.x.spread(body, self.x.expr(body, "step")))
                self.out.line(f"{_if_there(row)}{self._gathered(statement, row)} += {text};")

    def _ask(self, axis: str, sums: list[Accumulate]) -> None:
        """Ask for the same columns of the rows that are next."""
        found = (n for s in sums for n in own_nodes(self.kernel, "step", s) if _is_row(self.kernel, n, axis, self.axes))
        last = self.kernel.grid[-1]
        for tensor in sorted({str(node.name[0]) for node in found}):
            for row in self._each_row():
                places = [f"({self.x.axis(a)} + {ROWS})" if a == last else self.x.axis(a) for a in self.axes[tensor]]
                there = f"{self.x.pointer(tensor)}[{self.x.offset(tensor, places)}]"
                self.out.line(f"{_if_there(row)}__builtin_prefetch(&{there});")

    def _gathered(self, statement: Accumulate, row: int) -> str:
        return self.names.get("sum", f"{statement.variable.name} {row}")

    def _each_row(self) -> Iterator[int]:
        for row in range(ROWS):
            self.x.row = str(row)
            yield row

    @contextmanager
    def _nest(self, axes: Sequence[str]) -> Iterator[None]:
        if not axes:
            yield
            return
        name = self.names.get("i", axes[0])
        head = f"for (int64_t {name} = 0; {name} < {self.x.size(axes[0])}; ++{name})"
        with self.out.block(head), self._nest(axes[1:]):
            yield
