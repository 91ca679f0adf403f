"""Groups of statements → C: loops over lanes, and the tiles of states that run on whole vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ssmc.ir.loops import Accumulate, Add, Group, Kernel, LaneSum, Ring, Tile, Variable, own_nodes
from ssmc.ir.scalar import Node

from .c_expr import Expressions
from .c_lanes import all_whole, written_in_rows
from .c_nests import Nests
from .c_sums import Sums, is_along_memory, rows_together
from .storage import BYTES
from .writer import Names, Writer

_AHEAD = 8192  # bytes between what is added up and what is asked for


def _may_meet(group: Group, axis: str) -> bool:
    """Whether two turns of a loop over ``axis`` may add to the same element of memory: then they are not to be taken at
    once."""
    places = [s.indices for s in group.statements if isinstance(s, Add)]
    return not all(any(i.kind == "index" and i.name == axis for i in indices) for indices in places)


class GroupEmitter(Nests):
    """Writes the groups of one kernel into ``out``; lanes are ``w`` of ``vector``."""

    def __init__(self, kernel: Kernel, x: Expressions, names: Names, out: Writer) -> None:
        super().__init__(kernel, x, names, out)
        self.x: Expressions = x
        self.axes = {name: tensor.axes for name, tensor in x.tensors.items()}
        self.vector = kernel.lanes if kernel.lane else 1
        if kernel.lane and x.precision == "f32":
            x.streamed = written_in_rows(kernel, x.storage, self.axes)
        x.rows = rows_together(kernel, x.precision, x.storage, self.axes)

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
                self.present("step")
                self._groups(k.step)

    def _enter(self) -> None:
        """What a chunk of time begins with."""
        if self.kernel.enter:
            with self.out.block(""):
                self.out.line("const int64_t s = 0;")
                self.at("begin + s")
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
            self.at("begin + s")
            yield

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
                self.start(statement)
        self._blocks_of_states(tile)
        if k.step[tile.group + 1 :]:
            with self._each_step():
                self._groups(k.step[tile.group + 1 :])

    @contextmanager
    def _each_step(self) -> Iterator[None]:
        if self.kernel.chunk:
            down = "for (int64_t s = count - 1; s >= 0; --s)"
            with self.out.block(down if self.kernel.reverse else "for (int64_t s = 0; s < count; ++s)"):
                self.at("begin + s")
                yield
            return
        with self.out.block("for (int64_t s = 0; s < count; ++s)"):
            self.present("begin + s")
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
                        self.statement(statement, "step")
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
        if self.x.rows == 1:
            super().group(group, section)
        elif section == "step" and is_along_memory(self.kernel, group, self.x.storage, self.axes):
            Sums(self.kernel, self.x, self.names, self.out).write(group)
        else:
            with self.out.block("for (int64_t r = 0; r < rows; ++r)"):
                self.x.row = "r"
                super().group(group, section)

    def accumulates_apart(self, variable: Variable) -> bool:
        return self.x.rows > 1 or super().accumulates_apart(variable)

    def mark_loop(self, group: Group, axes: tuple[str, ...], outer: bool, section: str) -> None:
        last = len(axes) == 1 and (not outer or not group.inner) and not _may_meet(group, axes[0])
        if last and not group.lanes and not any(isinstance(s, Accumulate) for s in group.statements):
            self.out.line("#pragma omp simd")
        elif last and not group.lanes and not outer:
            self._ask_for_rows(group, axes[0])
            self._simd_sum(group)

    def _ask_for_rows(self, group: Group, axis: str) -> None:
        """Ask for the rows that points a little further on add up: machines do not guess beyond a page."""
        if self.kernel.lane is not None or not self.kernel.grid or self.x.rows > 1:
            return
        rows: set[str] = set()
        for statement in (s for s in group.statements if isinstance(s, Accumulate)):
            for node in own_nodes(self.kernel, "step", statement):
                if node.kind == "load" and self._is_row(node, axis):
                    rows.add(str(node.name[0]))
        for tensor in sorted(rows):
            size, one, last = self.x.size(axis), BYTES[self.x.storage[tensor]], self.kernel.grid[-1]
            further = f"{self.x.axis(last)} + 1 + {_AHEAD} / ({size} * {one})"
            names = {last: f"({further})", axis: "ahead"}
            axes = self.x.tensors[tensor].axes
            there = self.x.offset(tensor, [names.get(a) or self.x.axis(a) for a in axes])
            steps = f"for (int64_t ahead = 0; ahead < {size}; ahead += {64 // one})"
            self.out.line(f"if (unit) {steps} __builtin_prefetch(&{self.x.pointer(tensor)}[{there}]);")

    def _is_row(self, node: Node, axis: str) -> bool:
        """Whether a load walks along ``axis`` through memory, elsewhere for each point of the grid's last axis."""
        axes = self.x.tensors[str(node.name[0])].axes
        plain = all(a.kind == "index" and a.name == own for a, own in zip(node.args, axes, strict=True))
        return plain and axes[-1] == axis and self.kernel.grid[-1] in axes

    def _simd_sum(self, group: Group) -> None:
        kinds = {s.node.name[0] for s in group.statements if isinstance(s, Accumulate)}
        if kinds == {"sum"}:
            names = ", ".join(self.accumulator(s.variable) for s in group.statements if isinstance(s, Accumulate))
            self.out.line(f"#pragma omp simd reduction(+:{names})")

    def innermost(self, group: Group, section: str) -> None:
        for statement in group.scalars:
            self.statement(statement, section)
        if not group.lanes:
            return
        if self.whole(group, section):
            with self.out.block(self.each_vector()):
                self.x.vectors = True
                for statement in group.lanes:
                    self.statement(statement, section)
                self.x.vectors = False
            return
        self.out.line("#pragma omp simd")
        with self.out.block("for (int64_t j = 0; j < w; ++j)"):
            for statement in group.lanes:
                self.statement(statement, section)

    def each_vector(self) -> str:
        """The head of a loop over whole vectors of lanes."""
        self.x.needed |= {"SSMC_VECTOR_LANES", "ssmc_vector"}
        return "for (int64_t o = 0; o < w; o += SSMC_VECTOR_LANES)"

    def whole(self, group: Group, section: str) -> bool:
        """Whether the lanes of a group are spelled as whole vectors."""
        return self.x.precision == "f32" and all_whole(self.kernel, section, group.lanes, self.x.storage)

    # ------------------------------------------------------------ statements

    def let(self, variable: Variable, node: Node, text: str) -> tuple[str, str]:
        if self.x.vectors and variable.lanes:
            return self.x.spread(node, text), "ssmc_vector"
        return super().let(variable, node, text)

    def lane_sum(self, statement: LaneSum, section: str) -> None:
        x, node = self.x, statement.node
        place = "".join(f"[{self.names.get('i', a)}]" for a in statement.dims)
        text = x.spread(node, x.expr(node, section))
        if x.vectors:
            x.needed.add("ssmc_within_vector")
            text = f"ssmc_within_vector({text}, w - o)"
        self.out.line(f"{x.lanes(f'shared->{self.sum_name(statement.tensor, statement.part)}[s]{place}')} += {text};")

    def sum_name(self, tensor: str, part: str) -> str:
        """Where the lanes of a sum over groups of them are gathered."""
        return self.names.get("g", f"{tensor} {part}")

    def lane_shape(self, lanes: bool) -> str:
        return f"[{self.vector}]" if lanes else ""

    @contextmanager
    def each_lane(self, lanes: bool) -> Iterator[str]:
        if not lanes:
            yield ""
            return
        with self.out.block("for (int64_t j = 0; j < w; ++j)"):
            yield "[j]"
