"""Groups of statements → loop nests and statements of C and of languages that descend from it.

A target subclasses ``Nests`` and says how it walks through lanes and time, and which marks loops get.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ssmc.ir import INT, DType
from ssmc.ir.loops import Accumulate, Add, Group, Kernel, LaneSum, Let, RingSet, Statement, Store, Variable
from ssmc.ir.scalar import Node

from .c_family import Spelling
from .storage import COMPLEXES
from .writer import Names, Writer


class Nests:
    """Writes the groups of one kernel into ``out``."""

    def __init__(self, kernel: Kernel, x: Spelling, names: Names, out: Writer) -> None:
        self.kernel, self.x, self.names, self.out = kernel, x, names, out

    def c_type(self, type: DType) -> str:
        return self.x.c_type(type)

    # ------------------------------------------------------------ time

    def at(self, index: str) -> None:
        """Name an index along time, and the number of the step that stands for it."""
        time, size = self.names.get("i", str(self.kernel.time)), self.x.size(str(self.kernel.time))
        self.out.line(f"const int64_t {time} = {index};")
        self.out.line(f"const int64_t step = {f'{size} - 1 - {time}' if self.kernel.reverse else time};")
        self.out.line(f"(void){time}, (void)step, (void)s;")

    def present(self, step: str) -> None:
        """Name the index along time that a step stands for."""
        time = self.names.get("i", str(self.kernel.time))
        index = f"{self.x.size(str(self.kernel.time))} - 1 - ({step})" if self.kernel.reverse else step
        self.out.line(f"const int64_t {time} = {index};")
        self.out.line(f"(void){time};")

    def steps_of_part(self) -> str:
        """Steps of a part of time."""
        steps = self.kernel.steps
        return self.x.size(steps) if isinstance(steps, str) else str(steps)

    def part_of_time(self) -> None:
        """Name the first step of a part of time and the one after its last: as indices along time where a kernel walks
        by chunks, else as numbers of steps."""
        k, steps = self.kernel, self.steps_of_part()
        size, number = self.x.size(str(k.time)), self.names.get("i", str(k.part))
        start = f"({number} + 1) * {steps}" if k.cut and k.reverse else f"{number} * {steps}"
        stop = f"({start} + {steps} < {size} ? {start} + {steps} : {size})"
        if k.reverse and not k.chunk:
            start, stop = f"{size} - {stop}", f"{size} - {start}"
        self.out.line(f"const int64_t start = {start}, stop = {stop};")

    # ------------------------------------------------------------ groups

    def group(self, group: Group, section: str) -> None:
        self._loops(group, group.outer, section, outer=True)

    def _loops(self, group: Group, axes: tuple[str, ...], section: str, outer: bool) -> None:
        if axes:
            name, size = self.names.get("i", axes[0]), self.x.size(axes[0])
            self.mark_loop(group, axes, outer, section)
            with self.out.block(f"for (int64_t {name} = 0; {name} < {size}; ++{name})"):
                self._loops(group, axes[1:], section, outer)
            return
        if outer and (group.inner or any(isinstance(s, Accumulate) for s in group.statements)):
            sums = [s for s in group.statements if isinstance(s, Accumulate)]
            for statement in sums:
                self.start(statement)
            self._loops(group, group.inner, section, outer=False)
            for statement in sums:
                self._finish(statement)
            return
        self.innermost(group, section)

    def mark_loop(self, group: Group, axes: tuple[str, ...], outer: bool, section: str) -> None:
        """What stands above the loop over the first of ``axes``, inside which the others are nested; ``outer`` if it
        is none over which accumulators gather."""

    def innermost(self, group: Group, section: str) -> None:
        """The statements of a group, inside all of its loops."""
        for statement in group.statements:
            self.statement(statement, section)

    # ------------------------------------------------------------ statements

    def statement(self, statement: Statement, section: str) -> None:
        x = self.x
        match statement:
            case Let(variable=variable, node=node):
                text, kind = self.let(variable, node, x.expr(node, section, own=True))
                const = f"const {kind} " if variable.local else ""
                self.out.line(f"{const}{x.variable(variable)} = {text};")
            case Accumulate():
                self._accumulate(statement, section)
            case Store(tensor=tensor, part="im") if x.storage[tensor] not in COMPLEXES:
                pass  # the adjoint of a real number that is used as a complex one is real
            case Store(once=once, last=last):
                conditions = [f"{self.names.get('i', a)} == 0" for a in once]
                conditions += [f"{self.names.get('i', a)} == {x.size(a)} - 1" for a in last]
                guards = self.guards(conditions)
                guard = f"if ({' && '.join(guards)}) " if guards else ""
                self.out.line(f"{guard}{x.store(statement, section)}")
            case Add(tensor=tensor, part=part, indices=indices, condition=condition, node=node):
                target = x.element(tensor, part, [x.expr(i, section) for i in indices])
                guard = " && ".join(self.guards([x.expr(condition, section)]))
                self.out.line(f"if ({guard}) {target} += {x.expr(node, section)};")
            case LaneSum():
                self.lane_sum(statement, section)
            case RingSet(tensor=tensor, part=part, lag=lag, indices=indices, node=node):
                ring = x.rings[tensor]
                text = x.spread(node, x.expr(node, section)) if ring.lanes else x.expr(node, section)
                inner = [x.expr(i, section) for i in indices]
                if section == "before":
                    slot = x.first_slot(tensor, lag)
                    name = x.lanes(x.ring_name(tensor, part) + slot + "".join(f"[{i}]" for i in inner), ring.lanes)
                else:
                    name = x.ring_element(tensor, part, str(lag), inner, end=False)
                self.out.line(f"{name} = {text};")

    def let(self, variable: Variable, node: Node, text: str) -> tuple[str, str]:
        """What is assigned to a variable, and its type."""
        return text, self.c_type(variable.type)

    def guards(self, conditions: list[str]) -> list[str]:
        """The conditions under which something is written to memory."""
        return conditions

    def lane_sum(self, statement: LaneSum, section: str) -> None:
        """Add to a sum over a group of lanes."""
        raise NotImplementedError

    # ------------------------------------------------------------ folds

    def accumulates_apart(self, variable: Variable) -> bool:
        """Whether a fold gathers in a place of its own: the result is an entry of an array."""
        return bool(variable.dims)

    def accumulator(self, variable: Variable) -> str:
        """Where a fold gathers."""
        return self.names.get("sum" if self.accumulates_apart(variable) else "v", variable.name)

    def start(self, statement: Accumulate) -> None:
        """What a fold starts as."""
        variable, kind = statement.variable, statement.node.name[0]
        name, type = self.accumulator(variable), self.c_type(variable.type)
        if self.kernel.tile and variable.name in self.kernel.tile.crossing:
            name += "[s]"
        shape = self.lane_shape(variable.lanes)
        if self.accumulates_apart(variable):
            self.out.line(f"{type} {name}{shape};")
        best = f"{name}_best"
        if kind in ("argmax", "argmin"):
            self.out.line(f"{self.c_type(statement.node.args[-1].type)} {best}{shape};")
        with self.each_lane(variable.lanes) as at:
            self.out.line(f"{name}{at} = {self._neutral(kind, variable.type)};")
            if kind in ("argmax", "argmin"):
                self.out.line(f"{best}{at} = 0;")

    def _finish(self, statement: Accumulate) -> None:
        variable = statement.variable
        if self.accumulates_apart(variable):
            with self.each_lane(variable.lanes) as at:
                self.out.line(f"{self.x.variable(variable)} = {self.accumulator(variable)}{at};")

    def lane_shape(self, lanes: bool) -> str:
        """The dimension of an array with a number for each lane."""
        return ""

    @contextmanager
    def each_lane(self, lanes: bool) -> Iterator[str]:
        """A loop over lanes around a few lines, if it takes one; gives the index of the lane."""
        yield ""

    def _neutral(self, kind: object, type: DType) -> str:
        if kind in ("argmax", "argmin"):
            return "-1"
        if kind in ("max", "min"):
            if type is INT:
                return "INT64_MIN" if kind == "max" else "INT64_MAX"
            return "-INFINITY" if kind == "max" else "INFINITY"
        return "1" if kind in ("prod", "all") else "0"

    def _accumulate(self, statement: Accumulate, section: str) -> None:
        node, variable = statement.node, statement.variable
        kind = node.name[0]
        into = self.accumulator(variable)
        if self.kernel.tile and variable.name in self.kernel.tile.crossing:
            into += "[s]"
        into = self.x.lanes(into, variable.lanes)
        body = self.x.expr(node.args[-1], section)
        if kind in ("argmax", "argmin"):
            self._accumulate_index(node, into, body, section)
        elif kind in ("max", "min"):
            real = self.c_type(variable.type)
            sign = ">" if kind == "max" else "<"
            self.out.line(f"{{ const {real} v = {body}; {into} = (v {sign} {into}) | (v != v) ? v : {into}; }}")
        else:
            sign = {"sum": "+=", "prod": "*=", "any": "|=", "all": "&="}[str(kind)]
            self.out.line(f"{into} {sign} {body};")

    def _accumulate_index(self, node: Node, into: str, body: str, section: str) -> None:
        kind, axis = node.name
        sign = ">" if kind == "argmax" else "<"
        best = into[:-3] + "_best[j]" if into.endswith("[j]") else into + "_best"
        allowed = f"({self.x.expr(node.args[0], section)}) & " if len(node.args) > 1 else ""
        type = self.c_type(node.args[-1].type)
        better = f"({into} < 0) | (v {sign} {best}) | ((v != v) & ({best} == {best}))"
        self.out.line(f"{{ const {type} v = {body}; const int take = {allowed}({better});")
        self.out.line(f"  {best} = take ? v : {best}; {into} = take ? {self.x.axis(str(axis))} : {into}; }}")
