"""Loops → C: one function per kernel, one entry that runs them in order.

A kernel's body is written once and used twice: with the number of lanes and unit lane strides as
constants for whole blocks of contiguous data, and with both as variables for everything else.
Threads share the grid; no two threads write the same element, so results never depend on their number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files

from ssmc.ir import BOOL, INT, REAL, DType
from ssmc.ir.loops import (
    Accumulate,
    Group,
    Kernel,
    Let,
    Loops,
    Ring,
    RingSet,
    Statement,
    Store,
    Tile,
    Variable,
    own_nodes,
)
from ssmc.ir.scalar import Node, walk_nodes

from .c_expr import Expressions
from .c_math import prelude
from .storage import BYTES, C_TYPES, compute_type
from .writer import Names, Writer

_SMALL_WORK = 32768
_TIME_BLOCK = 256
_AHEAD = 16
_LEAST_LANES = 16
_ENOUGH_BLOCKS = 8
_STACK_BYTES = 256 * 1024

def vector_operations(storage: Iterable[str]) -> frozenset[str]:
    """Operations that can be written on whole vectors when values of these storages are computed with."""
    plain = frozenset({"add", "sub", "mul", "div", "neg"})
    return plain | {"exp", "exp2"} if compute_type(storage) == "f32" else plain


def _vectors(precision: str) -> str:
    """The definitions that loops on whole vectors need."""
    text = files(__package__).joinpath("c_vector.h").read_text(encoding="utf-8")
    if precision == "f64":
        text = text.split("/* EXPONENTIALS")[0]
    return "\n" + text.replace("REAL", "float" if precision == "f32" else "double")


def emit(loops: Loops, storage: Mapping[str, str], arguments: Iterable[str], axes: Iterable[str]) -> tuple[str, str]:
    """The C text of a Program and the name of its entry.

    Args:
        loops: the kernels.
        storage: storage name of every tensor in memory (inputs, outputs, workspaces).
        arguments: tensors in the order of the pointers.
        axes: axes whose extents are passed, in order.
    """
    return _Emitter(loops, dict(storage), tuple(arguments), tuple(axes)).run()


class _Emitter:
    def __init__(
        self, loops: Loops, storage: dict[str, str], arguments: tuple[str, ...], axes: tuple[str, ...]
    ) -> None:
        self.loops, self.storage, self.arguments, self.axes = loops, storage, arguments, axes
        self.names = Names()
        self.needed: set[str] = set()
        self.precision = compute_type(storage.values())
        self.tensors = loops.program.tensors()
        self.written = {e.name for e in loops.program.equations}
        self.where: dict[str, int] = {}
        place = len(axes)
        for name in arguments:
            self.where[name] = place
            place += len(self.tensors[name].axes)

    def run(self) -> tuple[str, str]:
        bodies = Writer()
        for kernel in self.loops.kernels:
            _KernelEmitter(self, kernel, bodies).run()
        text = bodies.text()
        shown = prelude(self.needed)
        if any(kernel.tile for kernel in self.loops.kernels):
            shown += _vectors(self.precision)
        digest = hashlib.sha256((shown + text).encode()).hexdigest()[:16]
        entry = f"ssmc_{digest}"
        out = Writer()
        out.line("/* Emitted by ssmc. Entry: pointers to the tensors below, extents and strides in `m`.")
        for name in self.arguments:
            out.line(f" *   {self.names.get('p', name)}: {self.storage[name]}, {len(self.tensors[name].axes)} axes")
        out.line(" */")
        out.line(shown)
        out.lines += bodies.lines
        out.line('__attribute__((visibility("default")))')
        with out.block(f"int64_t {entry}(void *const *p, const int64_t *m, int64_t threads)"):
            for kernel in self.loops.kernels:
                out.line(f"if ({kernel.name}(p, m, threads)) return 1;")
            out.line("return 0;")
        return out.text(), entry


class _KernelEmitter:
    def __init__(self, emitter: _Emitter, kernel: Kernel, out: Writer) -> None:
        self.e, self.kernel, self.out = emitter, kernel, out
        self.x = Expressions(
            emitter.loops.program, kernel, emitter.names, emitter.precision, emitter.storage,
            emitter.loops.fixed, emitter.needed,
        )  # fmt: skip
        self.vector = kernel.lanes if kernel.lane else 1

    def run(self) -> None:
        self._body()
        self._launch()

    # ------------------------------------------------------------ the grid

    def _blocks(self) -> list[tuple[str, str]]:
        """Loop variables of the grid and their trip counts, outermost first."""
        found = [(self.e.names.get("i", a), self.x.size(a)) for a in self.kernel.grid]
        if self._splits_time():
            found.append(
                ("time_block", f"(({self.x.size(str(self.kernel.time))} + {_TIME_BLOCK - 1}) / {_TIME_BLOCK})")
            )
        if self.kernel.lane:
            found.append(("lane_block", f"(({self.x.size(self.kernel.lane)} + band - 1) / band)"))
        return found

    def _widths(self) -> list[int]:
        """Numbers of lanes for which the body is compiled as a constant, widest first."""
        widths = [self.vector]
        while widths[-1] > _LEAST_LANES:
            widths.append(max(_LEAST_LANES, widths[-1] // 4))
        return widths

    def _band(self) -> None:
        """How many lanes a thread takes at a time: wide bands, unless that leaves too few of them. This
        depends on sizes only, so that results do not depend on the number of threads."""
        widths = self._widths()
        if len(widths) == 1:
            self.out.line(f"const int64_t band = {self.vector};")
            return
        others = " * ".join(count for name, count in self._blocks() if name != "lane_block") or "1"
        enough = f"{others} * (({self.x.size(str(self.kernel.lane))} + {self.vector - 1}) / {self.vector}) >= {_ENOUGH_BLOCKS}"
        self.out.line(f"const int64_t band = {enough} ? {self.vector} : {widths[1]};")

    def _splits_time(self) -> bool:
        return self.kernel.time is not None and not self.kernel.recurrent

    def _launch(self) -> None:
        out, blocks = self.out, self._blocks()
        with out.block(f"static int {self.kernel.name}(void *const *p, const int64_t *m, int64_t threads)"):
            self._sizes(self._sizes_used() | {a for a in (*self.kernel.grid, self.kernel.lane, self.kernel.time) if a})
            unit = [
                f"m[{self.e.where[t] + self.e.tensors[t].axes.index(self.kernel.lane)}] == 1"
                for t in self._lane_tensors()
            ]
            if self.kernel.lane:
                out.line(f"const int unit = {' && '.join(unit) or '1'};")
                self._band()
            out.line("int failed = 0;")
            if blocks:
                work = " * ".join([count for _, count in blocks] + (["band"] if self.kernel.lane else []) + ["4"] + (["64"] if self._splits_time() else [])
                                  + ([self.x.size(str(self.kernel.time))] if self.kernel.time and self.kernel.recurrent else []))  # fmt: skip
                out.line(f"if ({work} < {_SMALL_WORK}) threads = 1;")
                collapse = f" collapse({len(blocks)})" if len(blocks) > 1 else ""
                out.line(
                    f"#pragma omp parallel for{collapse} schedule(static) num_threads((int)threads) if (threads > 1) reduction(|:failed)"
                )
            self._grid_loops(blocks)
            out.line("return failed;")
        out.line()

    def _grid_loops(self, blocks: list[tuple[str, str]]) -> None:
        if blocks:
            (name, count), rest = blocks[0], blocks[1:]
            with self.out.block(f"for (int64_t {name} = 0; {name} < {count}; ++{name})"):
                self._grid_loops(rest)
            return
        grid = [self.e.names.get("i", a) for a in self.kernel.grid]
        time = []
        if self._splits_time():
            size = self.x.size(str(self.kernel.time))
            self.out.line(f"const int64_t begin = time_block * {_TIME_BLOCK};")
            self.out.line(f"const int64_t end = begin + {_TIME_BLOCK} < {size} ? begin + {_TIME_BLOCK} : {size};")
            time = ["begin", "end"]
        elif self.kernel.time:
            time = ["0", self.x.size(self.kernel.time)]
        head = ", ".join(["p", "m", *grid, *time])
        if not self.kernel.lane:
            self.out.line(f"failed |= {self.kernel.name}_body({head});")
            return
        lane, size = self.e.names.get("i", self.kernel.lane), self.x.size(self.kernel.lane)
        self.out.line("const int64_t first = lane_block * band;")
        self.out.line(f"const int64_t last = first + band < {size} ? first + band : {size};")
        widths = self._widths()
        with self.out.block(f"for (int64_t {lane} = first, w; {lane} < last; {lane} += w)"):
            for number, width in enumerate(widths):
                other = "else " if number else ""
                self.out.line(
                    f"{other}if (unit && last - {lane} >= {width}) failed |= {self.kernel.name}_body({head}, {lane}, w = {width}, 1);"
                )
            self.out.line(
                f"else w = last - {lane} < {widths[-1]} ? last - {lane} : {widths[-1]}, failed |= {self.kernel.name}_body({head}, {lane}, w, 0);"
            )

    # ------------------------------------------------------------ the body

    def _body(self) -> None:
        k, out = self.kernel, self.out
        params = ["void *const *p", "const int64_t *m"]
        params += [f"const int64_t {self.e.names.get('i', a)}" for a in k.grid]
        if k.time:
            params += ["const int64_t begin", "const int64_t end"]
        if k.lane:
            params += [f"const int64_t {self.e.names.get('i', k.lane)}", "const int64_t w", "const int unit"]
        with out.block(f"static inline __attribute__((always_inline)) int {k.name}_body({', '.join(params)})"):
            self._sizes(self._sizes_used())
            self._pointers()
            self._declarations()
            if k.tile:
                out.line("if (w < " + str(self.vector) + ") {")
                self._clear_lanes()
                out.line("}")
            for group in k.before:
                self._group(group, "before")
            self._time_loop()
            if k.after:
                with out.block("if (begin == 0)") if self._splits_time() else _nothing():
                    for group in k.after:
                        self._group(group, "after")
            for name in self._heap():
                out.line(f"free({name}_heap);")
            out.line("return 0;")
        out.line()

    def _sizes_used(self) -> set[str]:
        found = {str(self.kernel.time)} if self.kernel.time else set()
        for groups in (self.kernel.before, self.kernel.step, self.kernel.after):
            for group in groups:
                found |= set(group.axes)
                for statement in group.statements:
                    for node in walk_nodes(_nodes(statement)):
                        if node.kind == "size":
                            found.add(str(node.name))
        return found

    def _sizes(self, axes: set[str]) -> None:
        for place, axis in enumerate(self.e.axes):
            if axis in axes and axis not in self.e.loops.fixed:
                self.out.line(f"const int64_t {self.e.names.get('n', axis)} = m[{place}];")

    def _pointers(self) -> None:
        lane_tensors = self._lane_tensors()
        for tensor in self.kernel.tensors:
            kind = C_TYPES[self.e.storage[tensor]]
            const = "" if tensor in self.e.written else "const "
            place = self.e.arguments.index(tensor)
            self.out.line(f"{const}{kind} *const restrict {self.x.pointer(tensor)} = p[{place}];")
            for number, axis in enumerate(self.e.tensors[tensor].axes):
                value = f"m[{self.e.where[tensor] + number}]"
                if axis == self.kernel.lane and tensor in lane_tensors:
                    value = f"unit ? 1 : {value}"
                self.out.line(f"const int64_t {self.x.stride(tensor, axis)} = {value};")

    def _lane_tensors(self) -> list[str]:
        """Tensors that every step touches along the lanes: their lane stride should be 1."""
        lane = self.kernel.lane
        found: dict[str, None] = {}
        for group in self.kernel.step:
            for statement in group.statements:
                for node in own_nodes(self.kernel, "step", statement):
                    if node.kind != "load":
                        continue
                    tensor = node.name[0]
                    axes = self.e.tensors[tensor].axes
                    if lane in axes and node.args[axes.index(lane)].kind == "index":
                        found[tensor] = None
                if isinstance(statement, Store) and lane in self.e.tensors[statement.tensor].axes:
                    found[statement.tensor] = None
        return list(found)

    def _declarations(self) -> None:
        k = self.kernel
        for ring in k.rings:
            for part in ring.parts:
                dims = ([ring.slots] if ring.slots > 1 else []) + [self.e.loops.fixed[a] for a in ring.dims]
                self._declare(self.x.ring_name(ring.tensor, part), ring.type, dims, ring.lanes)
        for variable in k.variables.values():
            if not variable.local:
                dims = [self.e.loops.fixed[a] for a in variable.dims]
                if k.tile and variable.name in k.tile.crossing:
                    dims = [k.tile.steps, *dims]
                self._declare(self.e.names.get("v", variable.name), variable.type, dims, variable.lanes)

    def _clear_lanes(self) -> None:
        """Whole vectors read the lanes beyond the last channel too: they must hold numbers."""
        k = self.kernel
        names = [self.x.ring_name(ring.tensor, part) for ring in k.rings for part in ring.parts]
        names += [self.e.names.get("v", v.name) for v in k.variables.values() if v.lanes and not v.local]
        for name in names:
            self.out.line(f"    __builtin_memset({name}, 0, sizeof {name});")

    def _c_type(self, type: DType) -> str:
        return {REAL: self.x.real_type, INT: "int64_t", BOOL: "int"}[type]

    def _declare(self, name: str, type: DType, dims: list[int], lanes: bool) -> None:
        shape = [*dims, self.vector] if lanes else dims
        kind = self._c_type(type)
        if not shape:
            self.out.line(f"{kind} {name};")
            return
        count = 1
        for extent in shape:
            count *= extent
        text = "".join(f"[{n}]" for n in shape)
        if count * 8 <= _STACK_BYTES:
            self.out.line(f"{kind} {name}{text} __attribute__((aligned(64)));")
            return
        self._on_heap.append(name)
        rest = "".join(f"[{n}]" for n in shape[1:])
        self.out.line(f"{kind} (*const {name}_heap){rest} = malloc({count} * sizeof({kind}));")
        failed = " ".join(f"free({other}_heap);" for other in self._on_heap)
        self.out.line(f"if ({name}_heap == NULL) {{ {failed} return 1; }}")
        self.out.line(f"{kind} (*const restrict {name}){rest} = {name}_heap;")

    @property
    def _on_heap(self) -> list[str]:
        return self.__dict__.setdefault("heap", [])

    def _heap(self) -> list[str]:
        return self._on_heap

    def _time_loop(self) -> None:
        k, out = self.kernel, self.out
        if not k.step:
            return
        if not k.time:
            self._groups(k.step)
        elif k.tile:
            self._tiles(k.tile)
        else:
            with out.block("for (int64_t step = begin; step < end; ++step)"):
                self._present("step")
                self._groups(k.step)

    def _present(self, step: str) -> None:
        """Name the index along time that a step stands for."""
        time = self.e.names.get("i", str(self.kernel.time))
        self.out.line(f"const int64_t {time} = {f'end - 1 - {step}' if self.kernel.reverse else step};")
        self.out.line(f"(void){time};")

    def _groups(self, groups: tuple[Group, ...]) -> None:
        self._prefetch(groups)
        for group in groups:
            self._group(group, "step")

    def _prefetch(self, groups: tuple[Group, ...]) -> None:
        """Ask for the rows of some steps ahead: they lie further apart than a page, where no machine
        guesses the next one by itself."""
        lane, time = self.kernel.lane, self.kernel.time
        if lane is None or time is None:
            return
        seen = set()
        for group in groups:
            for statement in (s for s in group.statements if not group.axes):
                for node in own_nodes(self.kernel, "step", statement):
                    if node.kind == "load" and node.name not in seen and {lane, time} <= node.axes:
                        seen.add(node.name)
                        self._prefetch_row(str(node.name[0]), node)

    def _prefetch_row(self, tensor: str, node: Node) -> None:
        x, axes = self.x, self.e.tensors[tensor].axes
        plain = all(a.kind == "index" and a.name == axis for a, axis in zip(node.args, axes, strict=True))
        if not plain:
            return
        sign = "-" if self.kernel.reverse else "+"
        names = {self.kernel.time: f"({x.axis(str(self.kernel.time))} {sign} {_AHEAD})", self.kernel.lane: self.e.names.get("i", str(self.kernel.lane))}
        offset = x.offset(tensor, [names.get(a) or x.axis(a) for a in axes])
        line = 64 // BYTES[self.e.storage[tensor]]
        for first in range(0, self.vector, line):
            self.out.line(f"__builtin_prefetch(&{x.pointer(tensor)}[{offset} + {first} * {x.stride(tensor, str(self.kernel.lane))}]);")

    def _tiles(self, tile: Tile) -> None:
        """Time in tiles; see ``passes.tile``."""
        out, k = self.out, self.kernel
        sums = [s for s in k.step[tile.group].statements if isinstance(s, Accumulate)]
        with out.block(f"for (int64_t tile = begin; tile < end; tile += {tile.steps})"):
            out.line(f"const int64_t count = end - tile < {tile.steps} ? end - tile : {tile.steps};")
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
        with self.out.block("for (int64_t s = 0; s < count; ++s)"):
            self._present("tile + s")
            yield

    def _blocks_of_states(self, tile: Tile) -> None:
        """The carrying group, block of states by block, on vectors as wide as the machine's registers."""
        out, axis = self.out, self.e.names.get("i", tile.axis)
        held = [(ring, part) for ring in self.kernel.rings for part in ring.parts]
        out.line(f"for (int64_t o = 0; o < {self.vector}; o += SSMC_VECTOR_LANES)")
        with out.block(f"for (int64_t first = 0; first < {self.x.size(tile.axis)}; first += {tile.states})"):
            for ring, part in held:
                out.line(f"ssmc_vector {self.e.names.get('h', f'{ring.tensor} {part}')}[{tile.states}];")
            self._move(tile, held, into=True)
            with self._each_step():
                out.line(f"#pragma GCC unroll {tile.states}")
                with out.block(f"for (int64_t k = 0; k < {tile.states}; ++k)"):
                    out.line(f"const int64_t {axis} = first + k;")
                    self.x.in_block = True
                    for statement in self.kernel.step[tile.group].statements:
                        self._statement(statement, "step")
                    self.x.in_block = False
            self._move(tile, held, into=False)

    def _move(self, tile: Tile, held: list[tuple[Ring, str]], into: bool) -> None:
        """Carried values of a block of states into registers, or back."""
        with self.out.block(f"for (int64_t k = 0; k < {tile.states}; ++k)"):
            for ring, part in held:
                here = f"{self.e.names.get('h', f'{ring.tensor} {part}')}[k]"
                there = f"SSMC_VECTOR({self.x.ring_name(ring.tensor, part)}[first + k])"
                self.out.line(f"{here} = {there};" if into else f"{there} = {here};")

    # ------------------------------------------------------------ groups

    def _group(self, group: Group, section: str) -> None:
        self._loops(group, group.outer, section, outer=True)

    def _loops(self, group: Group, axes: tuple[str, ...], section: str, outer: bool) -> None:
        if axes:
            name, size = self.e.names.get("i", axes[0]), self.x.size(axes[0])
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
        if group.lanes:
            self.out.line("#pragma omp simd")
            with self.out.block("for (int64_t j = 0; j < w; ++j)"):
                for statement in group.lanes:
                    self._statement(statement, section)

    # ------------------------------------------------------------ statements

    def _statement(self, statement: Statement, section: str) -> None:
        x = self.x
        match statement:
            case Let(variable=variable, node=node):
                text = x.expr(node, section, own=True)
                kind = "ssmc_vector" if x.in_block and variable.lanes else self._c_type(variable.type)
                const = f"const {kind} " if variable.local else ""
                self.out.line(f"{const}{x.variable(variable)} = {text};")
            case Accumulate():
                self._accumulate(statement, section)
            case Store(tensor=tensor, part=part, indices=indices, node=node, once=once):
                text = x.narrow(x.expr(node, section), x.storage[tensor])
                target = x.element(tensor, part, [x.expr(i, section) for i in indices])
                guards = [f"{self.e.names.get('i', a)} == 0" for a in once]
                guard = f"if ({' && '.join(guards)}) " if guards else ""
                self.out.line(f"{guard}{target} = {text};")
            case RingSet(tensor=tensor, part=part, lag=lag, indices=indices, node=node):
                text = x.expr(node, section)
                inner = [x.expr(i, section) for i in indices]
                ring = x.rings[tensor]
                if section == "before":
                    slot = f"[{(ring.slots - lag) % ring.slots}]" if ring.slots > 1 else ""
                    name = (
                        x.ring_name(tensor, part)
                        + slot
                        + "".join(f"[{i}]" for i in inner)
                        + ("[j]" if ring.lanes else "")
                    )
                else:
                    name = x.ring_element(tensor, part, str(lag), inner, end=False)
                self.out.line(f"{name} = {text};")

    def _accumulator(self, variable: Variable) -> str:
        """Where a fold gathers: a place of its own when the result is an entry of an array."""
        name = self.e.names.get("v", variable.name)
        if not variable.dims:
            return name
        return self.e.names.get("sum", variable.name)

    def _start(self, statement: Accumulate) -> None:
        variable, kind = statement.variable, statement.node.name[0]
        name, type = self._accumulator(variable), self._c_type(variable.type)
        if self.kernel.tile and variable.name in self.kernel.tile.crossing:
            name += "[s]"
        shape = f"[{self.vector}]" if variable.lanes else ""
        if variable.dims:
            self.out.line(f"{type} {name}{shape};")
        best = f"{name}_best"
        if kind in ("argmax", "argmin"):
            self.out.line(f"{self._c_type(statement.node.args[-1].type)} {best}{shape};")
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
        if self.x.in_block:
            into = f"SSMC_VECTOR({into})"
        elif variable.lanes:
            into += "[j]"
        body = self.x.expr(node.args[-1], section)
        if kind in ("argmax", "argmin"):
            self._accumulate_index(node, into, body, section)
        elif kind in ("max", "min"):
            real = self._c_type(variable.type)
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
        type = self._c_type(node.args[-1].type)
        self.out.line(
            f"{{ const {type} v = {body}; const int take = {allowed}(({into} < 0) | (v {sign} {best}) | ((v != v) & ({best} == {best})));"
        )
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


class _nothing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def _nodes(statement: Statement) -> tuple[Node, ...]:
    """Everything a statement evaluates."""
    return (*getattr(statement, "indices", ()), statement.node)
