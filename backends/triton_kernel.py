"""One kernel → Triton: which tile a program has, what it keeps, and its way through time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ssmc.ir import REAL
from ssmc.ir.loops import Kernel, Loops, Ring

from .triton_expr import Expressions
from .triton_launch import Parameter, TileLaunch
from .triton_nests import Nests
from .writer import Names, Writer

POINTERS = {"f64": "fp64", "f32": "fp32", "bf16": "bf16", "f16": "fp16", "i64": "i64", "i32": "i32", "b8": "i8",
            "c128": "fp64", "c64": "fp32"}  # fmt: skip
_KINDS = {"p": "pointer", "s": "stride", "n": "extent"}


class Lines(Writer):
    """A writer of Python: blocks are indented and have no end."""

    def line(self, text: str = "") -> None:
        self.lines.append(self._indent * self._depth + text if text else "")

    @contextmanager
    def block(self, head: str = "", end: str = "") -> Iterator[None]:
        """``head:`` and what is inside; nothing inside is ``pass``."""
        self.line(f"{head}:")
        self._depth += 1
        before = len(self.lines)
        yield
        if len(self.lines) == before:
            self.line("pass")
        self._depth -= 1


class KernelEmitter:
    """Writes one kernel.

    Args:
        loops: the whole.
        kernel: the one to write, with its tiles.
        names: identifiers, shared by all kernels.
        precision: what reals are computed in, ``f32`` or ``f64``.
        storage: storage name of each tensor in memory.
        needed: gathers the functions that are called.
    """

    def __init__(
        self, loops: Loops, kernel: Kernel, names: Names, precision: str, storage: Mapping[str, str], needed: set[str]
    ) -> None:
        assert kernel.tiles is not None
        self.kernel, self.names, self.tiles, self.storage = kernel, names, kernel.tiles, storage
        self.out = Lines()
        self.x = Expressions(loops, kernel, kernel.tiles, names, precision, storage, needed, self.out)
        self.nests = Nests(kernel, self.x, names, self.out)
        self.name = f"ssmc_{kernel.name}"

    def run(self, out: Writer) -> TileLaunch:
        """The text of the kernel goes to ``out``; how it is launched is returned."""
        k, x = self.kernel, self.x
        self._kept()
        if k.time:
            self._span_of_time()
        self.nests.groups("before")
        self._steps()
        if k.after and self.tiles.steps:
            with self.out.block("if start == 0"):
                self.nests.groups("after")
        else:
            self.nests.groups("after")
        start = Lines()
        self._place(start)
        parameters = self._parameters()
        fixed = [p.name for p in parameters if p.type == "i64" and not p.unit]
        loose = [p.name for p in parameters if p.unit]
        out.line(f"@triton.jit(do_not_specialize={fixed}, do_not_specialize_on_alignment={loose})".replace("'", '"'))
        shown = ", ".join(p.name + (": tl.int64" if p.type == "i64" and not p.unit else "") for p in parameters)
        with out.block(f"def {self.name}({shown})"):
            out.line(f'"""{self._summary()}"""')
            for line in (*start.lines, *self.out.lines):
                out.line(line)
        return TileLaunch(self.name, self._grid(), self.tiles.lane, self.tiles.block, k.time, self.tiles.steps,
                          self.tiles.warps, x.memory.bytes, parameters)  # fmt: skip

    def _summary(self) -> str:
        k, t = self.kernel, self.tiles
        grid = [self.names.get("i", a) for a in self._grid()]
        parts = [f"One program for each {', '.join(grid)}" if grid else "One program"]
        if t.steps:
            parts.append(f"{t.steps} steps of {self.names.get('i', str(k.time))}")
        if t.lane:
            parts.append(f"{t.block} of {self.names.get('i', t.lane)}")
        if self.x.many:
            parts.append(f"{self.kernel.at_once} steps of {self.names.get('i', self.x.many)} at once")
        if t.axes:
            parts.append("tiles along " + ", ".join(f"{self.names.get('i', a)}: {self.x.extent(a)}" for a in t.axes))
        return "; ".join(parts) + "."

    # ------------------------------------------------------------ parameters

    def _parameters(self) -> tuple[Parameter, ...]:
        """All that the text mentions and does not define."""
        found = {kind: [] for kind in ("p", "s", "n")}  # type: dict[str, list[Parameter]]
        for prefix, name, *of in self.x.used:
            if prefix in found:
                type = f"*{POINTERS[self.storage[name]]}" if prefix == "p" else "i64"
                unit = prefix == "s" and self.x.tensors[of[0]].axes[-1] == of[1]
                of = of or [name]
                found[prefix].append(Parameter(self.names.get(prefix, name), _KINDS[prefix], tuple(of), type, unit))
        given = [p for kind in found.values() for p in kind]
        if self.x.memory.bytes:
            given.append(Parameter("memory", "memory", (), "*i8"))
        return (*given, Parameter("first", "first", (), "i64"))

    # ------------------------------------------------------------ which tile

    def _grid(self) -> tuple[str, ...]:
        return tuple(a for a in self.kernel.grid if a != self.tiles.lane)

    def _place(self, out: Writer) -> None:
        """The program's place in the grid, the indices of its tiles, and its memory."""
        x, t = self.x, self.tiles
        points = [(self.names.get("i", a), a, 1) for a in self._grid()]
        points += [("stretch", str(self.kernel.time), t.steps)] if t.steps else []
        points += [("number", t.lane, t.block)] if t.lane else []
        if points or x.memory.bytes:
            out.line("program = first + tl.program_id(0)")
        rest = "program"
        for name, axis, each in reversed(points[1:]):
            count = x.size(axis) if each == 1 else f"(({x.size(axis)} + {each - 1}) // {each})"
            out.line(f"{name} = {rest} % {count}")
            out.line(f"rest = {rest} // {count}")
            rest = "rest"
        if points:
            out.line(f"{points[0][0]} = {rest}")
        for axis in x.order:
            if axis != x.many:
                self._rows(out, axis)
            elif ("e", axis) in x.used:
                out.line(f"{self.names.get('e', axis)} = tl.arange(0, {x.extent(axis)}){x.along(axis)}")
        for prefix, name, *_ in x.used:
            if prefix == "c":
                out.line(f"{self.names.get('c', name)} = tl.full((), {name}, tl.float64)")
        if x.memory.bytes:
            out.line(f"own = memory + program * {x.memory.bytes}")
        for prefix, name, *_ in x.used:
            if prefix == "w":
                out.line(x.memory.definition(name))

    def _rows(self, out: Writer, axis: str) -> None:
        """The indices of a dimension, and which of them are no padding."""
        x, t = self.x, self.tiles
        mask, row = ("m", axis) in x.used, f"tl.arange(0, {x.extent(axis)}){x.along(axis)}"
        name = self.names.get("i", axis)
        if ("e", axis) in x.used:
            out.line(f"{self.names.get('e', axis)} = {row}")
            row = self.names.get("e", axis)
        if mask or ("i", axis) in x.used:
            start = f"number * {t.block} + " if axis == t.lane else ""
            out.line(f"{name} = {start}{row}.to(tl.int64)")
        if mask:
            out.line(f"{self.names.get('m', axis)} = {name} < {x.size(axis)}")

    def _span_of_time(self) -> None:
        k = self.kernel
        size, steps = self.x.size(str(k.time)), self.tiles.steps
        if k.part:
            number = self.x.use("i", k.part)
            number = f"({number} + 1)" if k.cut and k.reverse else number
            each = self.x.size(k.steps) if isinstance(k.steps, str) else str(k.steps)
            first, last = f"{number} * {each}", f"tl.minimum(({number} + 1) * {each}, {size})"
            backwards = k.reverse and not k.chunk
            self.out.line(f"start = {f'{size} - {last}' if backwards else first}")
            self.out.line(f"stop = {f'{size} - {first}' if backwards else last}")
        elif steps:
            self.out.line(f"start = stretch * {steps}")
            self.out.line(f"stop = tl.minimum(start + {steps}, {size})")

    # ------------------------------------------------------------ what a program keeps

    def _kept(self) -> None:
        """Carried values begin as zeros."""
        for ring in self.kernel.rings:
            for part in ring.parts:
                if ring.history:
                    continue
                if ring.tensor in self.tiles.remembered:
                    self._cleared(ring, part)
                    continue
                for lag in range(1, (ring.depth if ring.tensor in self.tiles.moving else 1) + 1):
                    name = self.x.register(ring.tensor, part, lag)
                    self.out.line(f"{name} = {self.nests.full('0.0' if ring.type is REAL else '0', ring)}")

    def _cleared(self, ring: Ring, part: str) -> None:
        name = f"{ring.tensor} {part}"
        with self.out.block(f"for slot in range(0, {ring.slots})"):
            pointer = self.x.own_place(name, "slot", ring.dims)
            self.out.line(f"tl.store({pointer}, {self.nests.full('0.0' if ring.type is REAL else '0', ring)})")
        self.nests.barrier()

    # ------------------------------------------------------------ time

    def _steps(self) -> None:
        k, out = self.kernel, self.out
        if not k.time:
            self.nests.groups("step")
            return
        if k.at_once:
            self._many_steps()
            return
        first, last = ("start", "stop") if self.tiles.steps or k.part else ("0", self.x.size(k.time))
        if k.chunk:
            self._chunks(first, last)
            return
        with out.block(f"for now in range({first}, {last})"):
            self._now("tl.cast(now, tl.int64)", is_step=True)
            self.nests.groups("step")
            self._shift("step")

    def _many_steps(self) -> None:
        """Time in tiles of so many steps, all of which are taken at once."""
        k, x, out = self.kernel, self.x, self.out
        size, steps = x.size(x.many), k.at_once
        out.line(f"tiles = ({size} + {steps - 1}) // {steps}")
        with out.block("for tile in range(0, tiles)"):
            out.line(f"begin = {'(tiles - 1 - tile)' if k.reverse else 'tl.cast(tile, tl.int64)'} * {steps}")
            out.line(f"count = tl.minimum({size} - begin, {steps})")
            self.nests.groups("enter")
            out.line(f"{x.index(x.many)} = begin + {x.row(x.many)}")
            out.line(f"{x.mask(x.many)} = {x.row(x.many)} < count")
            self.nests.groups("step")

    def _now(self, number: str, is_step: bool) -> None:
        """Name the index along time, given it or the number of the step that stands for it; name that, too, where
        something is kept by it."""
        k = self.kernel
        index, size = self.names.get("i", str(k.time)), self.x.size(str(k.time))
        other = f"{size} - 1 - {number}" if k.reverse else number
        self.out.line(f"{index} = {other if is_step else number}")
        if any(r.tensor in self.tiles.remembered and not r.history for r in k.rings):
            self.out.line(f"step = {number if is_step else other}")

    def _chunks(self, first: str, last: str) -> None:
        """Time in chunks: what each begins with, what is rebuilt in it, then its steps."""
        k, out, nests = self.kernel, self.out, self.nests
        span = last if first == "0" else f"{last} - {first}"
        out.line(f"chunks = ({span} + {k.chunk - 1}) // {k.chunk}")
        with out.block("for chunk in range(0, chunks)"):
            number = "(chunks - 1 - chunk)" if k.reverse else "tl.cast(chunk, tl.int64)"
            out.line(f"begin = {'' if first == '0' else 'start + '}{number} * {k.chunk}")
            out.line(f"count = tl.minimum({last} - begin, {k.chunk})")
            if k.enter:
                self._now("begin", is_step=False)
                nests.groups("enter")
            if k.rebuild:
                self._reloaded("rebuild")
                with out.block("for s in range(0, count)"):
                    self._now("(begin + s)", is_step=False)
                    nests.groups("rebuild")
                    self._shift("rebuild")
                nests.barrier()
            self._reloaded("step")
            with out.block("for back in range(0, count)" if k.reverse else "for s in range(0, count)"):
                if k.reverse:
                    out.line("s = count - 1 - back")
                self._now("(begin + s)", is_step=False)
                nests.groups("step")
                self._shift("step")
            if self.x.memory.bytes:
                nests.barrier()

    def _reloaded(self, section: str) -> None:
        """What was known before time started, for one loop over a chunk."""
        for variable in self.x.used_in(self.kernel.sections[section], section, self.tiles.reloaded):
            self.nests.fetch(variable, section, "0")

    def _shift(self, section: str) -> None:
        """Move what is carried on by one step."""
        for ring in self.kernel.rings:
            if ring.tensor in self.tiles.moving and ring.history == (section == "rebuild"):
                for part in ring.parts:
                    for lag in range(ring.depth, 0, -1):
                        older, newer = (self.x.register(ring.tensor, part, n) for n in (lag, lag - 1))
                        self.out.line(f"{older} = {newer}")
