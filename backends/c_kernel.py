"""One kernel → C: what a block of lanes keeps, three functions on it, and the launch over the grid.

    before(kept)               what does not depend on time, and what the first step reads from before it
    steps(kept, begin, end)    some steps of time
    after(kept)                what is read after the last step
    gather(shared, …)          sums over the lanes of a band, written at the end of each chunk of time

A thread takes a band of neighbouring blocks and walks it through time in chunks, every block of the band
through one chunk before the next chunk: rows of memory lie further apart than a page, and a chunk's pages
are still known when the next block wants them. Each function is compiled with the number of lanes and
unit lane strides as constants for whole blocks of contiguous data, and with either as a variable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from ssmc.ir import OPERATIONS, DType, Tensor
from ssmc.ir.loops import LANE_GROUP, Kernel, LaneSum, Loops, Ring, Store, Variable, operands, own_nodes
from ssmc.ir.scalar import walk_nodes

from .c_expr import Expressions
from .c_groups import GroupEmitter
from .c_lanes import LINE
from .storage import BYTES, C_TYPES
from .writer import Names, Writer

_SMALL_WORK = 32768  # numbers below which a second thread costs more than it gains
_EXPONENTIAL = 4  # other numbers that take as long as an exponential
_TIME_BLOCK = 256  # steps that are one point of the grid where steps do not depend on each other
_VISIT = 2048  # bytes of a column that one visit to a block of lanes reads: with those asked for ahead, they stay in L1
_BAND = 20  # blocks that a thread walks through time together, at most
_BAND_LANES = 1280  # lanes of such blocks, at most: rows of a page and more, which the machine asks for ahead by itself
_ENOUGH_BANDS = 8  # so many bands for each thread keep all of them evenly busy
_STACK_BYTES = 256 * 1024
_MUCH = 4 << 20  # bytes of a tensor that are not written to the caches: more than a core keeps


class KernelEmitter:
    """Writes one kernel.

    Args:
        loops: the whole, for its compiled-in extents.
        kernel: the one to write.
        names: identifiers, shared by all kernels.
        storage: storage name of each tensor in memory.
        pointers: place of each tensor among the pointers.
        strides: place of each tensor's first stride in ``m``.
        extents: place of each passed extent in ``m``.
        needed: gathers the functions of the prelude that are called.
    """

    def __init__(
        self, loops: Loops, kernel: Kernel, names: Names, precision: str, storage: Mapping[str, str],
        pointers: Mapping[str, int], strides: Mapping[str, int], extents: Mapping[str, int], needed: set[str],
        out: Writer,
    ) -> None:  # fmt: skip
        self.kernel, self.names, self.out = kernel, names, out
        self.storage, self.fixed = storage, loops.fixed
        self.pointers, self.strides, self.extents = pointers, strides, extents
        self.tensors: Mapping[str, Tensor] = loops.program.tensors()
        self.written = {e.name for e in loops.program.equations}
        self.x = Expressions(loops.program, kernel, names, precision, storage, loops.fixed, needed)
        self.groups = GroupEmitter(kernel, self.x, names, out)
        self.vector = self.groups.vector
        self.unit_axes = self._unit_axes()

    def run(self) -> None:
        """The struct, the functions, the launch."""
        self.kept = self._kept()
        self._struct()
        self._shared()
        sections = {"before": self.kernel.before, "after": self.kernel.after}
        for section in ("before", "steps", "after"):
            if section == "steps" or sections[section] or (section == "before" and self.kernel.rings):
                self._function(section)
        if self.kernel.sums:
            self._gather()
        self._launch()

    # ------------------------------------------------------------ what a block keeps

    def _kept(self) -> dict[str, tuple[DType, list[int], bool]]:
        """Carried values and what is computed ahead: name → type, shape, whether steps write it."""
        found: dict[str, tuple[DType, list[int], bool]] = {}
        for ring in self.kernel.rings:
            if not ring.history:
                for part in ring.parts:
                    found[self.x.ring_name(ring.tensor, part)] = (ring.type, self._ring_shape(ring), True)
        for (section, _), variable in self.kernel.variables.items():
            if section == "before" and not variable.local:
                found[self.names.get("v", variable.name)] = (variable.type, self._shape(variable), False)
        return found

    def _ring_shape(self, ring: Ring) -> list[int]:
        dims = ([ring.slots] if ring.slots > 1 else []) + [self.fixed[a] for a in ring.dims]
        return [*dims, self.vector] if ring.lanes else dims

    def _shape(self, variable: Variable) -> list[int]:
        dims = [self.fixed[a] for a in variable.dims]
        if self.x.rows > 1:
            dims = [self.x.rows, *dims]
        if variable.chunk:
            dims = [self.kernel.chunk, *dims]
        elif self.kernel.tile and variable.name in self.kernel.tile.crossing:
            dims = [self.kernel.tile.steps, *dims]
        return [*dims, self.vector] if variable.lanes else dims

    def _struct(self) -> None:
        with self.out.block(f"struct {self.kernel.name}_kept", "};"):
            for name, (type, shape, _) in self.kept.items():
                text = "".join(f"[{n}]" for n in shape)
                self.out.line(f"{self.groups.c_type(type)} {name}{text} __attribute__((aligned(64)));")
            if not self.kept:
                self.out.line("char nothing;")
        self.out.line()

    def _sums(self) -> list[tuple[str, LaneSum]]:
        """The sums over groups of lanes, each with the name of where it is gathered."""
        found = [s for g in self.kernel.step for s in g.statements if isinstance(s, LaneSum)]
        return [(self.groups.sum_name(s.tensor, s.part), s) for s in found]

    def _shared(self) -> None:
        """What the blocks of a band gather together in a chunk of time."""
        if not self.kernel.sums:
            return
        with self.out.block(f"struct {self.kernel.name}_shared", "};"):
            for name, statement in self._sums():
                shape = [self.kernel.chunk, *(self.fixed[a] for a in statement.dims), self.vector]
                text = "".join(f"[{n}]" for n in shape)
                self.out.line(f"{self.groups.c_type(statement.node.type)} {name}{text} __attribute__((aligned(64)));")
        self.out.line()

    def _open_kept(self, writes: bool) -> None:
        """Names for what the block keeps: pointers to arrays, copies of single numbers."""
        for name, (type, shape, _) in self.kept.items():
            kind = self.groups.c_type(type)
            rest = "".join(f"[{n}]" for n in shape[1:])
            if not shape:
                self.out.line(f"{kind} {name}{' = 0' if writes else f' = kept->{name}'};")
                self.out.line(f"(void){name};")
            elif rest:
                self.out.line(f"{kind} (*const restrict {name}){rest} = kept->{name};")
            else:
                self.out.line(f"{kind} *const restrict {name} = kept->{name};")

    def _close_kept(self, everything: bool) -> None:
        for name, (_, shape, changes) in self.kept.items():
            if not shape and (everything or changes):
                self.out.line(f"kept->{name} = {name};")

    # ------------------------------------------------------------ functions

    def _parameters(self, section: str) -> list[str]:
        found = ["void *const *p", "const int64_t *m", f"struct {self.kernel.name}_kept *const restrict kept"]
        if section == "steps" and self.kernel.sums:
            found.append(f"struct {self.kernel.name}_shared *const restrict shared")
        found += [f"const int64_t {self.names.get('i', a)}" for a in self.kernel.grid]
        if section == "steps" and self.kernel.time:
            found += ["const int64_t begin", "const int64_t end"]
            if self.kernel.lane:
                found += ["const int64_t later", "const int64_t along"]
        if section == "steps" and self.x.streamed:
            found.append("const int stream")
        if self.x.rows > 1:
            found.append("const int rows")
        if self.kernel.lane:
            found += [f"const int64_t {self.names.get('i', self.kernel.lane)}", "const int64_t w"]
        return [*found, "const int unit"]

    def _function(self, section: str) -> None:
        k, out = self.kernel, self.out
        head = f"static inline __attribute__((always_inline)) int {k.name}_{section}"
        with out.block(f"{head}({', '.join(self._parameters(section))})"):
            self._sizes(self._sizes_used())
            self._pointers()
            self._open_kept(writes=section == "before")
            heap = self._locals(section)
            if section == "steps":
                self.groups.time_loop()
            else:
                if section == "before" and k.rings:
                    out.line("__builtin_memset(kept, 0, sizeof *kept);")
                for group in k.before if section == "before" else k.after:
                    self.groups.group(group, section)
            if section != "after":
                self._close_kept(everything=section == "before")
            for name in heap:
                out.line(f"free({name}_heap);")
            out.line("return 0;")
        out.line()

    def _sizes_used(self) -> set[str]:
        found = {str(a) for a in (self.kernel.time, self.kernel.part, self.kernel.steps) if a}
        for groups in self.kernel.sections.values():
            for group in groups:
                found |= set(group.axes)
                for statement in group.statements:
                    found |= {str(n.name) for n in walk_nodes(operands(statement)) if n.kind == "size"}
        return found

    def _sizes(self, axes: set[str]) -> None:
        for axis, place in self.extents.items():
            if axis in axes and axis not in self.fixed:
                self.out.line(f"const int64_t {self.names.get('n', axis)} = m[{place}];")
                self.out.line(f"(void){self.names.get('n', axis)};")

    def _pointers(self) -> None:
        for tensor in self.kernel.tensors:
            const = "" if tensor in self.written else "const "
            kind = C_TYPES[self.storage[tensor]]
            self.out.line(f"{const}{kind} *const restrict {self.x.pointer(tensor)} = p[{self.pointers[tensor]}];")
            for number, axis in enumerate(self.tensors[tensor].axes):
                value = f"m[{self.strides[tensor] + number}]"
                if axis == self.unit_axes.get(tensor):
                    value = f"unit ? 1 : {value}"
                self.out.line(f"const int64_t {self.x.stride(tensor, axis)} = {value};")

    def _unit_axes(self) -> dict[str, str]:
        """For each tensor that every step touches, the axis whose stride should be 1: the lanes, or without
        lanes the last axis, along which innermost loops run."""
        lane = self.kernel.lane
        found: dict[str, str] = {}
        for statement in (s for g in self.kernel.step for s in g.statements):
            touched = [(n.name[0], n.args) for n in own_nodes(self.kernel, "step", statement) if n.kind == "load"]
            if isinstance(statement, Store):
                touched.append((statement.tensor, statement.indices))
            for tensor, indices in touched:
                axes = self.tensors[tensor].axes
                wanted = lane if lane else axes[-1] if axes else None
                if wanted in axes and indices[axes.index(wanted)].kind == "index":
                    found[tensor] = str(wanted)
        return found

    # ------------------------------------------------------------ values of a step

    def _locals(self, section: str) -> list[str]:
        """Declare what crosses from group to group within a section; gives the names that lie on the heap."""
        heap: list[str] = []
        own = {"before": (), "steps": ("enter", "rebuild", "step"), "after": ("after",)}[section]
        rings = [(r, part) for r in self.kernel.rings for part in r.parts if r.history and section == "steps"]
        wanted = [(self.x.ring_name(r.tensor, part), r.type, self._ring_shape(r), r.lanes) for r, part in rings]
        wanted += [
            (self.names.get("v", variable.name), variable.type, self._shape(variable), variable.lanes)
            for (place, _), variable in self.kernel.variables.items()
            if place in own and not variable.local
        ]
        for name, type, shape, lanes in wanted:
            kind = self.groups.c_type(type)
            count = 1
            for extent in shape:
                count *= extent
            text = "".join(f"[{n}]" for n in shape)
            if count * 8 > _STACK_BYTES:
                self._on_heap(name, kind, shape, heap)
                size = f"{shape[0]} * sizeof *{name}"
            else:
                self.out.line(f"{kind} {name}{text}{' __attribute__((aligned(64)))' if shape else ''};")
                size = f"sizeof {name}"
            if lanes and (self.kernel.tile or self.x.precision == "f32"):
                self.out.line(f"if (w < {self.vector}) __builtin_memset({name}, 0, {size});")
        return heap

    def _on_heap(self, name: str, kind: str, shape: list[int], heap: list[str]) -> None:
        """The same on the heap; whole vectors lie there as they do on the stack."""
        rest = "".join(f"[{n}]" for n in shape[1:])
        heap.append(name)
        size = f"({shape[0]} * sizeof({kind}{rest}) + 63) / 64 * 64"
        self.out.line(f"{kind} (*const {name}_heap){rest} = aligned_alloc(64, {size});")
        freed = " ".join(f"free({other}_heap);" for other in heap)
        self.out.line(f"if ({name}_heap == NULL) {{ {freed} return 1; }}")
        self.out.line(f"{kind} (*const restrict {name}){rest} = {name}_heap;")

    def _gather(self) -> None:
        """Add up the lanes of what a band has gathered in a chunk, and write one number for each step."""
        k, out = self.kernel, self.out
        own = "".join(f", const int64_t {self.names.get('i', a)}" for a in k.grid)
        head = f"static void {k.name}_gather(void *const *p, const int64_t *m, const struct {k.name}_shared *shared"
        with out.block(f"{head}{own}, int64_t number, int64_t begin, int64_t end)"):
            self._sizes({str(k.time)})
            for tensor in dict.fromkeys(statement.tensor for _, statement in self._sums()):
                kind = C_TYPES[self.storage[tensor]]
                out.line(f"{kind} *const {self.x.pointer(tensor)} = p[{self.pointers[tensor]}];")
            for name, statement in self._sums():
                self._gather_one(name, statement)
        out.line()

    def _gather_one(self, name: str, statement: LaneSum) -> None:
        tensor, out, time = self.tensors[statement.tensor], self.out, str(self.kernel.time)
        places = []
        for number, axis in enumerate(tensor.axes):
            index = "number" if axis == f"{self.kernel.lane}.group" else self.names.get("i", axis)
            places.append(f"{index} * m[{self.strides[statement.tensor] + number}]")
        kind = self.groups.c_type(statement.node.type)
        with out.block("for (int64_t s = 0; s < end - begin; ++s)"):
            out.line(f"const int64_t {self.names.get('i', time)} = begin + s;")
            with self._nest(statement.dims):
                here = "".join(f"[{self.names.get('i', a)}]" for a in statement.dims)
                out.line(f"{kind} sum = 0;")
                out.line(f"for (int64_t j = 0; j < {self.vector}; ++j) sum += shared->{name}[s]{here}[j];")
                target = self.x.at(statement.tensor, statement.part, " + ".join(places))
                out.line(f"{target} = {self.x.narrow('sum', self.storage[statement.tensor])};")

    @contextmanager
    def _nest(self, axes: tuple[str, ...]) -> Iterator[None]:
        """Loops over inner axes."""
        with ExitStack() as stack:
            for axis in axes:
                name = self.names.get("i", axis)
                head = f"for (int64_t {name} = 0; {name} < {self.x.size(axis)}; ++{name})"
                stack.enter_context(self.out.block(head))
            yield

    # ------------------------------------------------------------ launch

    def _splits_time(self) -> bool:
        return self.kernel.time is not None and not self.kernel.recurrent

    def _launch(self) -> None:
        k, out = self.kernel, self.out
        with out.block(f"static int {k.name}(void *const *p, const int64_t *m, int64_t threads)"):
            written = {a for t in self.x.streamed for a in self.tensors[t].axes}
            self._sizes(self._sizes_used() | {a for a in (*k.grid, k.lane, k.time) if a} | written)
            unit = [f"m[{self.strides[t] + self.tensors[t].axes.index(a)}] == 1" for t, a in self.unit_axes.items()]
            out.line(f"const int unit = {' && '.join(unit) or '1'};")
            if self.x.streamed:
                self._stream()
            points = [(self.names.get("i", a), self.x.size(a)) for a in k.grid]
            if self.x.rows > 1:
                points[-1] = "number", f"(({points[-1][1]} + {self.x.rows - 1}) / {self.x.rows})"
            if self._splits_time():
                points.append(("time_block", f"(({self.x.size(str(k.time))} + {_TIME_BLOCK - 1}) / {_TIME_BLOCK})"))
            self._bands([count for _, count in points])
            if k.lane:
                points.append(("number", "bands"))
            out.line("int failed = 0;")
            self._parallel(points)
            self._grid(points)
            out.line("return failed;")
        out.line()

    def _stream(self) -> None:
        """Whether what is written goes past the caches: much of it, in rows that start at whole lines of memory."""
        self.x.needed.add("ssmc_stream_end")
        terms = ["unit"]
        for tensor in sorted(self.x.streamed):
            axes, size = self.tensors[tensor].axes, BYTES[self.storage[tensor]]
            strides = [f"m[{self.strides[tensor] + n}]" for n, axis in enumerate(axes) if axis != self.kernel.lane]
            terms.append(f"((uintptr_t)p[{self.pointers[tensor]}] & {LINE - 1}) == 0")
            terms.append(f"(({' | '.join(strides)}) & {LINE // size - 1}) == 0")
            terms.append(f"{' * '.join(self.x.size(a) for a in axes)} * {size} >= {_MUCH}")
        self.out.line(f"const int stream = {' && '.join(terms)};")

    def _bands(self, others: list[str]) -> None:
        """How many blocks of lanes a thread walks together: many, unless threads would get unequal shares. Where
        bands are summed, how many follows from sizes only: results do not depend on the number of threads."""
        if not self.kernel.lane:
            return
        if self.kernel.sums:  # a band is a group of lanes whose sum is one part
            self.out.line(
                f"const int64_t blocks = ({self.x.size(self.kernel.lane)} + {self.vector - 1}) / {self.vector};"
            )
            self.out.line(f"const int64_t band = {self._most_blocks()}, bands = (blocks + band - 1) / band;")
            return
        out, rest = self.out, " * ".join(others) or "1"
        out.line(f"const int64_t blocks = ({self.x.size(self.kernel.lane)} + {self.vector - 1}) / {self.vector};")
        most = self._most_blocks()
        out.line(f"int64_t bands = blocks > {most} ? (blocks + {most - 1}) / {most} : 1;")
        uneven = f"{rest} * bands % threads != 0 && {rest} * bands < {_ENOUGH_BANDS} * threads"
        out.line(f"while (threads > 1 && bands < blocks && {uneven}) ++bands;")
        out.line("const int64_t band = blocks > bands ? (blocks + bands - 1) / bands : 1;")
        out.line("bands = (blocks + band - 1) / band;")

    def _most_blocks(self) -> int:
        return LANE_GROUP // self.vector if self.kernel.sums else min(_BAND, max(1, _BAND_LANES // self.vector))

    def _parallel(self, points: list[tuple[str, str]]) -> None:
        if not points:
            return
        work = [count for _, count in points] + ([f"band * {self.vector}"] if self.kernel.lane else [])
        work += [self._point()] + ([str(self.x.rows)] if self.x.rows > 1 else [])
        if self.kernel.part:
            work.append(self.groups.steps_of_part())
        elif self.kernel.time:
            steps = self.x.size(self.kernel.time)
            work.append(f"({steps} < 64 ? {steps} : 64)" if self._splits_time() else steps)
        self.out.line(f"if ({' * '.join(work)} < {_SMALL_WORK}) threads = 1;")
        collapse = f" collapse({len(points)})" if len(points) > 1 else ""
        pragma = f"#pragma omp parallel for{collapse} schedule(static) num_threads((int)threads) if (threads > 1)"
        self.out.line(f"{pragma} reduction(|:failed)")

    def _point(self) -> str:
        """How many numbers are computed at one point of the grid, an exponential counting for some."""
        found = 0
        passed: list[str] = []  # along axes whose extents are not compiled in
        for section, groups in self.kernel.sections.items():
            for group in groups:
                nodes = [n for s in group.statements for n in own_nodes(self.kernel, section, s) if n.kind == "op"]
                heavy = any(OPERATIONS[str(n.name)].exponentials for n in nodes if n.name in OPERATIONS)
                count = math.prod(self.fixed.get(a, 1) for a in group.axes) * (_EXPONENTIAL if heavy else 1)
                extents = [self.x.size(a) for a in group.axes if a not in self.fixed]
                if extents:
                    passed.append(" * ".join([str(count)] * (count > 1) + extents))
                else:
                    found += count
        return f"({' + '.join([str(found)] * (found > 0) + passed)})" if passed else str(max(1, found))

    def _grid(self, points: list[tuple[str, str]]) -> None:
        if points:
            (name, count), rest = points[0], points[1:]
            with self.out.block(f"for (int64_t {name} = 0; {name} < {count}; ++{name})"):
                self._grid(rest)
            return
        self._span_of_time()
        if self.kernel.lane:
            self.out.line("const int64_t first = number * band;")
            self.out.line("const int64_t mine = blocks - first < band ? blocks - first : band;")
            self._with_kept(self._most_blocks(), "mine", "for (int64_t block = 0; block < mine; ++block)")
        else:
            self._with_kept(self.x.rows, str(self.x.rows), "")

    def _span_of_time(self) -> None:
        if self._splits_time():
            size = self.x.size(str(self.kernel.time))
            self.out.line(f"const int64_t start = time_block * {_TIME_BLOCK};")
            self.out.line(f"const int64_t stop = start + {_TIME_BLOCK} < {size} ? start + {_TIME_BLOCK} : {size};")
        elif self.kernel.part:
            self.groups.part_of_time()
        elif self.kernel.time:
            self.out.line(f"const int64_t start = 0, stop = {self.x.size(self.kernel.time)};")

    def _with_kept(self, most: int, count: str, each: str) -> None:
        """Room for what the blocks keep, on the stack if it is small, around the walk."""
        size = 64
        for _, shape, _ in self.kept.values():
            numbers = 8
            for extent in shape:
                numbers *= extent
            size += numbers + 64
        name, shared = f"struct {self.kernel.name}_kept", f"struct {self.kernel.name}_shared"
        if size * most <= _STACK_BYTES and not self.kernel.sums:
            self.out.line(f"{name} kept[{most}];")
            self._walk(each)
            return
        self.out.line(f"{name} *const kept = aligned_alloc(64, (size_t)({count}) * sizeof({name}));")
        if self.kernel.sums:
            self.out.line(f"{shared} *const shared = aligned_alloc(64, sizeof({shared}));")
        self.out.line(f"if (kept == NULL{' || shared == NULL' if self.kernel.sums else ''}) failed |= 1;")
        with self.out.block("else"):
            self._walk(each)
        self.out.line("free(kept);")
        if self.kernel.sums:
            self.out.line("free(shared);")

    def _walk(self, each: str) -> None:
        """Every block through ``before``, then chunk by chunk through time, then through ``after``."""
        k, out = self.kernel, self.out
        if k.before or k.rings:
            self._calls("before", each)
        if k.time:
            self.steps = steps = k.chunk or (k.tile.steps if k.tile else max(8, _VISIT // self._row_bytes()))
            upwards = f"for (int64_t begin = start; begin < stop; begin += {steps})"
            last = f"start + (stop - start - 1) / {steps} * {steps}"
            down = f"for (int64_t begin = {last}; begin >= start; begin -= {steps})"
            with out.block(down if k.chunk and k.reverse else upwards):
                out.line(f"const int64_t end = begin + {steps} < stop ? begin + {steps} : stop;")
                if k.sums:
                    out.line("__builtin_memset(shared, 0, sizeof *shared);")
                self._calls("steps", each)
                if k.sums:
                    own = "".join(f", {self.names.get('i', a)}" for a in k.grid)
                    out.line(f"{k.name}_gather(p, m, shared{own}, number, begin, end);")
        else:
            self._calls("steps", each)
        if k.after:
            self._calls("after", f"if (start == 0) {each}" if self._splits_time() and each else each)
        if self.x.streamed:
            out.line("if (stream) ssmc_stream_end();")

    def _calls(self, section: str, each: str) -> None:
        k, out = self.kernel, self.out
        given = ["p", "m", "kept + block" if each else "kept"]
        given += ["shared"] if section == "steps" and k.sums else []
        given += [self.names.get("i", a) for a in k.grid]
        if section == "steps" and k.time:
            given += ["begin", "end"]
            if k.lane:
                given += ["later", "along"]
        if self.x.rows > 1:
            self._rows(section, given)
            return
        head = f"{k.name}_{section}({', '.join(given)}"
        if not each:
            out.line(f"if (unit) failed |= {head}, 1);")
            out.line(f"else failed |= {head}, 0);")
            return
        lane = self.names.get("i", str(k.lane))
        with out.block(each):
            out.line(f"const int64_t {lane} = (first + block) * {self.vector};")
            out.line(f"const int64_t left = {self.x.size(str(k.lane))} - {lane};")
            if section == "steps" and k.time:
                self._next_visit()
            stream, no = (", stream", ", 0") if section == "steps" and self.x.streamed else ("", "")
            out.line(f"if (unit && left >= {self.vector}) failed |= {head}{stream}, {lane}, {self.vector}, 1);")
            out.line(f"else if (unit) failed |= {head}{no}, {lane}, left, 1);")
            out.line(f"else failed |= {head}{no}, {lane}, left < {self.vector} ? left : {self.vector}, 0);")

    def _rows(self, section: str, given: list[str]) -> None:
        """Points that are computed together, or one by one those that are left at the end of the grid's last axis."""
        rows, out, last = self.x.rows, self.out, self.kernel.grid[-1]
        index, size = self.names.get("i", last), self.x.size(last)
        call = f"{self.kernel.name}_{section}"
        with out.block(""):
            out.line(f"int64_t {index} = number * {rows};")
            out.line(f"const int64_t points = {size} - {index} < {rows} ? {size} - {index} : {rows};")
            out.line(f"if (unit && points == {rows}) failed |= {call}({', '.join(given)}, {rows}, 1);")
            given = [f"{given_one} + r" if given_one == "kept" else given_one for given_one in given]
            each = f"for (int64_t r = 0; r < points; ++r, ++{index})"
            out.line(f"else {each} failed |= {call}({', '.join(given)}, 1, unit);")

    def _row_bytes(self) -> int:
        """What a step reads or writes of the widest tensor along time and lanes, in a block."""
        rows = (t for t in self.kernel.tensors if {self.kernel.time, self.kernel.lane} <= set(self.tensors[t].axes))
        return self.vector * max((BYTES[self.storage[t]] for t in rows), default=BYTES[self.x.precision])

    def _next_visit(self) -> None:
        """How far in time and lanes the block lies that is visited next: beside this one, or at the next chunk."""
        k = self.kernel
        last = f"begin - {self.steps} >= start" if k.chunk and k.reverse else "end < stop"
        sign = "-" if k.reverse else ""
        self.out.line("const int next = block + 1 < mine;")
        self.out.line(f"const int64_t later = next || !({last}) ? 0 : {sign}{self.steps};")
        self.out.line(f"const int64_t along = next ? {self.vector} : (1 - mine) * {self.vector};")
