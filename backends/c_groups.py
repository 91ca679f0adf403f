"""Groups of statements → C: loop nests, statements, and the tiles of states that run on whole vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ssmc.ir import BOOL, INT, REAL, DType
from ssmc.ir.loops import (
    Accumulate,
    Add,
    Group,
    Kernel,
    LaneSum,
    Let,
    Ring,
    RingSet,
    Statement,
    Store,
    Tile,
    Variable,
    own_nodes,
)
from ssmc.ir.scalar import Node

from .c_expr import Expressions
from .c_lanes import all_whole, written_in_rows
from .storage import BYTES, COMPLEXES
from .writer import Names, Writer


class GroupEmitter:
    """Writes the groups of one kernel into ``out``; lanes are ``w`` of ``vector``."""

    def __init__(self, kernel: Kernel, x: Expressions, names: Names, out: Writer) -> None:
        self.kernel, self.x, self.names, self.out = kernel, x, names, out
        self.vector = kernel.lanes if kernel.lane else 1
        if kernel.lane and x.precision == "f32":
            x.streamed = written_in_rows(kernel, x.storage, {name: t.axes for name, t in x.tensors.items()})

    def c_type(self, type: DType) -> str:
        return {REAL: self.x.real_type, INT: "int64_t", BOOL: "int"}[type]

    # ------------------------------------------------------------ time

    def time_loop(self) -> None:
        """The steps from ``begin`` up to ``end``."""
        k, out = self.kernel, self.out
        if not k.time:
            self._groups(k.step)
        elif k.tile or k.chunk:
            out.line("const int64_t count = end - begin;")
            self._enter()
            if k.tile:
                self._tiles(k.tile)
            else:
                self._chunk()
        else:
            with out.block("for (int64_t step = begin; step < end; ++step)"):
                self._present("step")
                self._groups(k.step)

    def _enter(self) -> None:
        """What a chunk of time begins with."""
        if self.kernel.enter:
            with self.out.block(""):
                self.out.line("const int64_t s = 0;")
                self._at("begin + s")
                for group in self.kernel.enter:
                    self.group(group, "enter")

    def _chunk(self) -> None:
        """One chunk of time, ``s`` its steps: what is rebuilt, then its steps."""
        k = self.kernel
        asked: set[str] = set()
        if k.rebuild:
            with self._upwards():
                self._prefetch(k.rebuild, "rebuild", asked)
                for group in k.rebuild:
                    self.group(group, "rebuild")
        with self._each_step():
            self._groups(k.step, asked)

    @contextmanager
    def _upwards(self) -> Iterator[None]:
        with self.out.block("for (int64_t s = 0; s < count; ++s)"):
            self._at("begin + s")
            yield

    def _at(self, index: str) -> None:
        """Name an index along time, and the number of the step that stands for it."""
        time, size = self.names.get("i", str(self.kernel.time)), self.x.size(str(self.kernel.time))
        self.out.line(f"const int64_t {time} = {index};")
        self.out.line(f"const int64_t step = {f'{size} - 1 - {time}' if self.kernel.reverse else time};")
        self.out.line(f"(void){time}, (void)step, (void)s;")

    def _present(self, step: str) -> None:
        """Name the index along time that a step stands for."""
        time = self.names.get("i", str(self.kernel.time))
        index = f"{self.x.size(str(self.kernel.time))} - 1 - ({step})" if self.kernel.reverse else step
        self.out.line(f"const int64_t {time} = {index};")
        self.out.line(f"(void){time};")

    def _groups(self, groups: tuple[Group, ...], asked: Iterable[str] = ()) -> None:
        if not self.kernel.tile:
            self._prefetch(groups, "step", set(asked))
        for group in groups:
            self.group(group, "step")

    def _prefetch(self, groups: tuple[Group, ...], section: str, asked: set[str]) -> None:
        """Ask for what the next visit to a block reads at this step, except for tensors that were asked for: rows
        lie further apart than a page, where no machine guesses the next one by itself."""
        lane, time = self.kernel.lane, self.kernel.time
        if lane is None or time is None:
            return
        for statement in (s for g in groups if not g.axes for s in g.statements):
            for node in own_nodes(self.kernel, section, statement):
                if node.kind == "load" and node.name[0] not in asked and {lane, time} <= node.axes:
                    asked.add(str(node.name[0]))
                    self._prefetch_row(str(node.name[0]), node)

    def _prefetch_row(self, tensor: str, node: Node) -> None:
        x, axes = self.x, self.x.tensors[tensor].axes
        if not all(a.kind == "index" and a.name == axis for a, axis in zip(node.args, axes, strict=True)):
            return
        names = {
            self.kernel.time: f"({x.axis(str(self.kernel.time))} + later)",
            self.kernel.lane: f"({self.names.get('i', str(self.kernel.lane))} + along)",
        }
        offset = x.offset(tensor, [names.get(a) or x.axis(a) for a in axes])
        line, along = 64 // BYTES[self.x.storage[tensor]], x.stride(tensor, str(self.kernel.lane))
        for first in range(0, self.vector, line):
            beyond = f" + {first} * {along}" if first else ""
            self.out.line(f"__builtin_prefetch(&{x.pointer(tensor)}[{offset}{beyond}]);")

    def _tiles(self, tile: Tile) -> None:
        """One tile of time; see ``passes.tile``."""
        k = self.kernel
        sums = [s for s in k.step[tile.group].statements if isinstance(s, Accumulate)]
        with self._each_step():
            self._groups(k.step[: tile.group])
            for statement in sums:
                self._start(statement)
        self._blocks_of_states(tile)
        if k.step[tile.group + 1 :]:
            with self._each_step():
                self._groups(k.step[tile.group + 1 :])

    @contextmanager
    def _each_step(self) -> Iterator[None]:
        if self.kernel.chunk:
            down = "for (int64_t s = count - 1; s >= 0; --s)"
            with self.out.block(down if self.kernel.reverse else "for (int64_t s = 0; s < count; ++s)"):
                self._at("begin + s")
                yield
            return
        with self.out.block("for (int64_t s = 0; s < count; ++s)"):
            self._present("begin + s")
            yield

    def _blocks_of_states(self, tile: Tile) -> None:
        """The carrying group, block of states by block, on vectors as wide as the machine's registers."""
        out, axis = self.out, self.names.get("i", tile.axis)
        held = [(ring, part) for ring in self.kernel.rings for part in ring.parts]
        lanes = self.each_vector()
        self.x.needed.add("SSMC_VECTOR")
        blocks = f"for (int64_t first = 0; first < {self.x.size(tile.axis)}; first += {tile.states})"
        with out.block(lanes), out.block(blocks):
            for ring, part in held:
                out.line(f"ssmc_vector {self.names.get('h', f'{ring.tensor} {part}')}[{tile.states}];")
            self._move(tile, held, into=True)
            with self._each_step():
                with out.block("if (o + first == 0)"):
                    self._prefetch(self.kernel.step, "step", set())
                out.line(f"#pragma GCC unroll {tile.states}")
                with out.block(f"for (int64_t k = 0; k < {tile.states}; ++k)"):
                    out.line(f"const int64_t {axis} = first + k;")
                    self.x.vectors = self.x.in_block = True
                    for statement in self.kernel.step[tile.group].statements:
                        self._statement(statement, "step")
                    self.x.vectors = self.x.in_block = False
            self._move(tile, held, into=False)

    def _move(self, tile: Tile, held: list[tuple[Ring, str]], into: bool) -> None:
        """Carried values of a block of states into registers, or back."""
        with self.out.block(f"for (int64_t k = 0; k < {tile.states}; ++k)"):
            for ring, part in held:
                here = f"{self.names.get('h', f'{ring.tensor} {part}')}[k]"
                there = f"SSMC_VECTOR({self.x.ring_name(ring.tensor, part)}[first + k])"
                self.out.line(f"{here} = {there};" if into else f"{there} = {here};")

    # ------------------------------------------------------------ groups

    def group(self, group: Group, section: str) -> None:
        self._loops(group, group.outer, section, outer=True)

    def _loops(self, group: Group, axes: tuple[str, ...], section: str, outer: bool) -> None:
        if axes:
            name, size = self.names.get("i", axes[0]), self.x.size(axes[0])
            last = len(axes) == 1 and (not outer or not group.inner)
            if last and not group.lanes and not any(isinstance(s, Accumulate) for s in group.statements):
                self.out.line("#pragma omp simd")
            elif last and not group.lanes and not outer:
                self._simd_sum(group)
            with self.out.block(f"for (int64_t {name} = 0; {name} < {size}; ++{name})"):
                self._loops(group, axes[1:], section, outer)
            return
        if outer and (group.inner or any(isinstance(s, Accumulate) for s in group.statements)):
            sums = [s for s in group.statements if isinstance(s, Accumulate)]
            for statement in sums:
                self._start(statement)
            self._loops(group, group.inner, section, outer=False)
            for statement in sums:
                self._finish(statement)
            return
        self._innermost(group, section)

    def _simd_sum(self, group: Group) -> None:
        kinds = {s.node.name[0] for s in group.statements if isinstance(s, Accumulate)}
        if kinds == {"sum"}:
            names = ", ".join(self._accumulator(s.variable) for s in group.statements if isinstance(s, Accumulate))
            self.out.line(f"#pragma omp simd reduction(+:{names})")

    def _innermost(self, group: Group, section: str) -> None:
        for statement in group.scalars:
            self._statement(statement, section)
        if not group.lanes:
            return
        if self.whole(group, section):
            with self.out.block(self.each_vector()):
                self.x.vectors = True
                for statement in group.lanes:
                    self._statement(statement, section)
                self.x.vectors = False
            return
        self.out.line("#pragma omp simd")
        with self.out.block("for (int64_t j = 0; j < w; ++j)"):
            for statement in group.lanes:
                self._statement(statement, section)

    def each_vector(self) -> str:
        """The head of a loop over whole vectors of lanes."""
        self.x.needed |= {"SSMC_VECTOR_LANES", "ssmc_vector"}
        return "for (int64_t o = 0; o < w; o += SSMC_VECTOR_LANES)"

    def whole(self, group: Group, section: str) -> bool:
        """Whether the lanes of a group are spelled as whole vectors."""
        return self.x.precision == "f32" and all_whole(self.kernel, section, group.lanes, self.x.storage)

    # ------------------------------------------------------------ statements

    def _statement(self, statement: Statement, section: str) -> None:
        x = self.x
        match statement:
            case Let(variable=variable, node=node):
                text = x.expr(node, section, own=True)
                if x.vectors and variable.lanes:
                    text = x.spread(node, text)
                kind = "ssmc_vector" if x.vectors and variable.lanes else self.c_type(variable.type)
                const = f"const {kind} " if variable.local else ""
                self.out.line(f"{const}{x.variable(variable)} = {text};")
            case Accumulate():
                self._accumulate(statement, section)
            case Store(tensor=tensor, part="im") if x.storage[tensor] not in COMPLEXES:
                pass  # the adjoint of a real number that is used as a complex one is real
            case Store(once=once):
                guards = [f"{self.names.get('i', a)} == 0" for a in once]
                guard = f"if ({' && '.join(guards)}) " if guards else ""
                self.out.line(f"{guard}{x.store(statement, section)}")
            case Add(tensor=tensor, part=part, indices=indices, condition=condition, node=node):
                target = x.element(tensor, part, [x.expr(i, section) for i in indices])
                self.out.line(f"if ({x.expr(condition, section)}) {target} += {x.expr(node, section)};")
            case LaneSum(tensor=tensor, part=part, dims=dims, node=node):
                place = "".join(f"[{self.names.get('i', a)}]" for a in dims)
                text = x.spread(node, x.expr(node, section))
                if x.vectors:
                    x.needed.add("ssmc_within_vector")
                    text = f"ssmc_within_vector({text}, w - o)"
                self.out.line(f"{x.lanes(f'shared->{self.sum_name(tensor, part)}[s]{place}')} += {text};")
            case RingSet(tensor=tensor, part=part, lag=lag, indices=indices, node=node):
                ring = x.rings[tensor]
                text = x.spread(node, x.expr(node, section)) if ring.lanes else x.expr(node, section)
                inner = [x.expr(i, section) for i in indices]
                if section == "before":
                    slot = f"[{(ring.slots - lag) % ring.slots}]" if ring.slots > 1 else ""
                    name = x.lanes(x.ring_name(tensor, part) + slot + "".join(f"[{i}]" for i in inner), ring.lanes)
                else:
                    name = x.ring_element(tensor, part, str(lag), inner, end=False)
                self.out.line(f"{name} = {text};")

    def sum_name(self, tensor: str, part: str) -> str:
        """Where the lanes of a sum over groups of them are gathered."""
        return self.names.get("g", f"{tensor} {part}")

    def _accumulator(self, variable: Variable) -> str:
        """Where a fold gathers: a place of its own when the result is an entry of an array."""
        name = self.names.get("v", variable.name)
        if not variable.dims:
            return name
        return self.names.get("sum", variable.name)

    def _start(self, statement: Accumulate) -> None:
        variable, kind = statement.variable, statement.node.name[0]
        name, type = self._accumulator(variable), self.c_type(variable.type)
        if self.kernel.tile and variable.name in self.kernel.tile.crossing:
            name += "[s]"
        shape = f"[{self.vector}]" if variable.lanes else ""
        if variable.dims:
            self.out.line(f"{type} {name}{shape};")
        best = f"{name}_best"
        if kind in ("argmax", "argmin"):
            self.out.line(f"{self.c_type(statement.node.args[-1].type)} {best}{shape};")
        with self._each_lane(variable.lanes) as at:
            self.out.line(f"{name}{at} = {self._neutral(kind, variable.type)};")
            if kind in ("argmax", "argmin"):
                self.out.line(f"{best}{at} = 0;")

    def _finish(self, statement: Accumulate) -> None:
        variable = statement.variable
        if variable.dims:
            with self._each_lane(variable.lanes) as at:
                self.out.line(f"{self.x.variable(variable)} = {self._accumulator(variable)}{at};")

    def _each_lane(self, lanes: bool):  # type: ignore[no-untyped-def]
        return _LaneLoop(self.out, lanes)

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
        into = self._accumulator(variable)
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


class _LaneLoop:
    """A loop over lanes around a few lines, or nothing for values without lanes."""

    def __init__(self, out: Writer, lanes: bool) -> None:
        self.out, self.lanes = out, lanes

    def __enter__(self) -> str:
        if self.lanes:
            self.block = self.out.block("for (int64_t j = 0; j < w; ++j)")
            self.block.__enter__()
        return "[j]" if self.lanes else ""

    def __exit__(self, *_: object) -> None:
        if self.lanes:
            self.block.__exit__(None, None, None)
