"""Groups of statements → CUDA C: loops written out, sums over the lanes of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ssmc.ir.loops import Group, Kernel, LaneSum

from .c_nests import Nests
from .cuda_expr import Expressions
from .cuda_tiles import TileEmitter
from .launch import WARP
from .storage import C_TYPES
from .writer import Names, Writer


class GroupEmitter(Nests):
    """Writes the groups of one kernel for one thread."""

    def __init__(self, kernel: Kernel, x: Expressions, names: Names, out: Writer) -> None:
        super().__init__(kernel, x, names, out)
        self.x: Expressions = x
        self.block = x.block
        self.tile = TileEmitter(x, names, out) if x.block.tile else None

    # ------------------------------------------------------------ time

    def steps(self) -> None:
        """The steps from ``start`` up to ``stop``."""
        k, out = self.kernel, self.out
        if not k.time:
            self.groups("step")
        elif k.chunk:
            upwards = f"for (int64_t begin = start; begin < stop; begin += {k.chunk})"
            last = f"start + (stop - start - 1) / {k.chunk} * {k.chunk}"
            down = f"for (int64_t begin = {last}; begin >= start; begin -= {k.chunk})"
            if self.tile:
                self.tile.first(last if k.reverse else "start")
            with out.block(down if k.reverse else upwards):
                out.line(f"const int64_t count = begin + {k.chunk} < stop ? {k.chunk} : stop - begin;")
                if self.tile:
                    self.tile.next("begin", -k.chunk if k.reverse else k.chunk)
                self._chunk()
        elif self.tile:
            steps = self.tile.steps
            self.tile.first("start")
            with out.block(f"for (int64_t tile = start; tile < stop; tile += {steps})"):
                out.line(f"const int64_t end = tile + {steps} < stop ? tile + {steps} : stop;")
                self.tile.next("tile", steps)
                self._in_order("tile", "end")
        else:
            self._in_order("start", "stop")

    def _in_order(self, first: str, last: str) -> None:
        """Steps that are told apart by their number alone."""
        with self._each("step", first, last):
            self.groups("step")
            self._shift()

    def _chunk(self) -> None:
        """One chunk of time, ``s`` its steps: what it begins with, what is rebuilt, then its steps."""
        k, out = self.kernel, self.out
        if k.enter:
            with out.block(""):
                out.line("const int64_t s = 0;")
                self.at("begin + s")
                self.groups("enter")
        if k.rebuild:
            with self._each("rebuild", "0", "count"):
                self.groups("rebuild")
        with self._each("step", "0", "count"):
            self.groups("step")
            if self.block.each_step:
                self._gathered("1", "s")
            self._shift()
        if not self.block.each_step:
            self._gathered("count", "0")

    @contextmanager
    def _each(self, section: str, first: str, last: str) -> Iterator[None]:
        """The steps of a section, a batch at a time: what each reads of its own time comes first, so that the loads
        of all are on their way at once. Those beyond the end read the last one again."""
        loads = {node.number: node for (place, _), node in self.block.loads.items() if place == section}
        batch, out = self.block.batch, self.out
        if batch == 1 or not loads:
            with out.block(f"for (int64_t at = {first}; at < {last}; ++at)"):
                self._name_step(section, "at")
                yield
            return
        with out.block(f"for (int64_t from = {first}; from < {last}; from += {batch})"):
            for node in loads.values():
                out.line(f"{self.c_type(node.type)} {self.x.ahead_name(node)}[{batch}];")
            out.line("#pragma unroll")
            with out.block(f"for (int u = 0; u < {batch}; ++u)"):
                out.line(f"const int64_t at = from + u < {last} ? from + u : {last} - 1;")
                self._name_step(section, "at")
                for node in loads.values():
                    out.line(f"{self.x.ahead_name(node)}[u] = {self.x.load(node, section)};")
            out.line("#pragma unroll")
            with out.block(f"for (int u = 0; u < {batch}; ++u)"):
                out.line("const int64_t at = from + u;")
                out.line(f"if (at >= {last}) break;")
                self._name_step(section, "at")
                self.x.batched = section
                yield
                self.x.batched = ""

    def _name_step(self, section: str, at: str) -> None:
        """Name what stands for a step, by its number among those of a section that are taken."""
        if not self.kernel.chunk:
            self.out.line(f"const int64_t step = {at};")
            self.present("step")
            return
        down = self.kernel.reverse and section == "step"
        self.out.line(f"const int64_t s = {f'count - 1 - {at}' if down else at};")
        self.at("begin + s")

    def groups(self, section: str) -> None:
        """All groups of a section."""
        for place, group in enumerate(self.kernel.sections[section]):
            self.x.along = group.axes[-1] if group.axes else ""
            self.x.rows = {
                node.number: (node, self.names.get("l", f"{self.kernel.name} {section} {place} {node.number}"))
                for node in self.block.rows.get((section, place), ())
            }
            self.group(group, section)
        self.x.rows = {}

    def _shift(self) -> None:
        """Move what is carried on by one step."""
        for ring in self.kernel.rings:
            if ring.tensor not in self.block.shifted:
                continue
            for part in ring.parts:
                name = self.x.ring_name(ring.tensor, part)
                with self._nest(ring.dims) as at:
                    for slot in range(ring.slots - 1, 0, -1):
                        self.out.line(f"{name}[{slot}]{at} = {name}[{slot - 1}]{at};")

    # ------------------------------------------------------------ loops

    def mark_loop(self, group: Group, axes: tuple[str, ...], outer: bool, section: str) -> None:
        if axes == group.axes[-1:]:
            self._fetch(axes[0], section)
        if axes[0] in self.block.unrolled:
            self.out.line("#pragma unroll")
        else:  # said, because the compiler writes out what it thinks is short
            self.out.line(f"#pragma unroll {self.block.ahead if len(axes) == 1 else 1}")

    def _fetch(self, along: str, section: str) -> None:
        """The rows that the loop along an axis, which follows, reads."""
        x = self.x
        for node, row in x.rows.values():
            tensor = node.name[0]
            if x.is_tiled(node):
                x.needed.add("ssmc_read_tile")
                self.out.line(f"{C_TYPES[x.storage[tensor]]} {row}[{x.fixed[along]}];")
                self.out.line(f"ssmc_read_tile({x.tile_row(node)}, {row});")
                continue
            x.needed.add("ssmc_read_row")
            indices = ["0" if a.name == along else x.expr(a, section) for a in node.args]
            start = f"{x.pointer(tensor)} + {x.offset(tensor, indices)}"
            self.out.line(f"{C_TYPES[x.storage[tensor]]} {row}[{x.fixed[along]}];")
            self.out.line(f"ssmc_read_row({start}, {x.stride(tensor, along)}, {row});")

    @contextmanager
    def _nest(self, axes: tuple[str, ...]) -> Iterator[str]:
        """Loops over inner axes; gives the indices."""
        if not axes:
            yield ""
            return
        name = self.names.get("i", axes[0])
        if axes[0] in self.block.unrolled:
            self.out.line("#pragma unroll")
        head = f"for (int64_t {name} = 0; {name} < {self.x.size(axes[0])}; ++{name})"
        with self.out.block(head), self._nest(axes[1:]) as rest:
            yield f"[{name}]{rest}"

    # ------------------------------------------------------------ sums over lanes

    def guards(self, conditions: list[str]) -> list[str]:
        return [*conditions, "live"] if self.block.grouped else conditions

    def sums(self) -> list[LaneSum]:
        """The sums over groups of lanes."""
        return [s for g in self.kernel.step for s in g.statements if isinstance(s, LaneSum)]

    def sum_name(self, statement: LaneSum) -> str:
        """Where the warps of a block put their parts of a sum."""
        return self.names.get("g", f"{statement.tensor} {statement.part}")

    def sum_shape(self, statement: LaneSum) -> list[int]:
        """One part for each warp, step and inner index."""
        inner = [self.x.fixed[a] for a in statement.dims]
        steps = [] if self.block.each_step else [self.kernel.chunk]
        return [self.block.threads // WARP, *steps, *inner]

    def lane_sum(self, statement: LaneSum, section: str) -> None:
        x, node = self.x, statement.node
        kind = self.c_type(node.type)
        x.needed.add("ssmc_warp_sum")
        place = ("" if self.block.each_step else "[s]") + "".join(f"[{self.names.get('i', a)}]" for a in statement.dims)
        target = f"{self.sum_name(statement)}[SSMC_THREAD / {WARP}]{place}"
        with self.out.block(""):
            value = f"live ? {x.expr(node, section)} : 0"
            self.out.line(f"const {kind} sum = ssmc_warp_sum<{kind}>({value});")
            self.out.line(f"if (SSMC_THREAD % {WARP} == 0) {target} = sum;")

    def _gathered(self, count: str, first: str) -> None:
        """Add up the parts of all warps, in order, for ``count`` steps, and write one number for each."""
        if not self.kernel.sums:
            return
        self.out.line("SSMC_BARRIER();")
        for statement in self.sums():
            self._gather(statement, count, first)
        self.out.line("SSMC_BARRIER();")

    def _gather(self, statement: LaneSum, count: str, first: str) -> None:
        x, out, time = self.x, self.out, str(self.kernel.time)
        inner = [x.fixed[a] for a in statement.dims]
        number = 1
        for extent in inner:
            number *= extent
        with out.block(f"for (int64_t e = SSMC_THREAD; e < {count} * {number}; e += SSMC_THREADS)"):
            out.line(f"const int64_t at = {first} + e / {number}, {self.names.get('i', time)} = begin + at;")
            rest = number
            for axis, extent in zip(statement.dims, inner, strict=True):
                rest //= extent
                out.line(f"const int64_t {self.names.get('i', axis)} = e / {rest} % {extent};")
            place = ("" if self.block.each_step else "[at]") + "".join(
                f"[{self.names.get('i', a)}]" for a in statement.dims
            )
            out.line(f"{self.c_type(statement.node.type)} sum = 0;")
            warps = f"(SSMC_THREADS + {WARP - 1}) / {WARP}"
            out.line(f"for (int warp = 0; warp < {warps}; ++warp) sum += {self.sum_name(statement)}[warp]{place};")
            group = f"{self.kernel.lane}.group"
            axes = x.tensors[statement.tensor].axes
            target = x.element(
                statement.tensor, statement.part, ["number" if a == group else self.names.get("i", a) for a in axes]
            )
            out.line(f"{target} = {x.narrow('sum', x.storage[statement.tensor])};")
