"""One kernel → CUDA C: which point and lane a thread has, what it keeps, and its way through time."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

from ssmc.ir import DType, Tensor
from ssmc.ir.loops import Kernel, Loops, Ring, Variable, operands
from ssmc.ir.scalar import walk_nodes

from .cuda_expr import Expressions
from .cuda_nests import GroupEmitter
from .launch import Launch
from .storage import C_TYPES
from .writer import Names, Writer

_ALIGNMENT = 16
_C_BYTES = {"double": 8, "float": 4, "int64_t": 8, "int": 4, "int32_t": 4, "uint16_t": 2, "uint8_t": 1}


class KernelEmitter:
    """Writes one kernel.

    Args:
        loops: the whole, for its compiled-in extents.
        kernel: the one to write.
        names: identifiers, shared by all kernels.
        precision: what reals are computed in, ``f32`` or ``f64``.
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
        self.pointer_places, self.strides, self.extents = pointers, strides, extents
        self.tensors: Mapping[str, Tensor] = loops.program.tensors()
        self.written = {e.name for e in loops.program.equations}
        self.x = Expressions(loops.program, kernel, names, precision, storage, loops.fixed, needed)
        self.groups = GroupEmitter(kernel, self.x, names, out)
        self.block = self.x.block
        self.name = f"ssmc_{kernel.name}"
        self.shared = 0

    def run(self) -> Launch:
        """The text of the kernel goes to ``out``; how it is launched is returned."""
        k, out = self.kernel, self.out
        with out.block(self.head()):
            self.sizes(self.used())
            self._point()
            self.pointers(self.touched())
            self.body()
        out.line()
        group = self.block.threads if self.block.grouped else 0
        return Launch(self.name, k.grid, k.lane, k.time, self.block.steps, self.block.threads, group, self.shared)

    def head(self) -> str:
        return f"SSMC_KERNEL({self.block.threads}, {self.block.together}) {self.name}(const ssmc_arguments a)"

    def body(self) -> None:
        """What a thread does that has its point and lane."""
        k, out = self.kernel, self.out
        self.keep()
        if k.time:
            self._span_of_time()
        self.groups.groups("before")
        self.groups.steps()
        if k.after and self.block.steps:
            with out.block("if (start == 0)"):
                self.groups.groups("after")
        else:
            self.groups.groups("after")

    # ------------------------------------------------------------ which point, which lane

    def _points(self) -> list[tuple[str, str]]:
        """What a thread has one of, the last changing fastest: names and counts."""
        points = [(self.names.get("i", a), self.x.size(a)) for a in self.kernel.grid]
        if self.block.steps:
            size = self.x.size(str(self.kernel.time))
            points.append(("stretch", f"(({size} + {self.block.steps - 1}) / {self.block.steps})"))
        return points

    def _point(self) -> None:
        """The thread's place; threads beyond the last do nothing. In a block that gathers sums all threads work, and
        those without a lane of their own repeat the last one and write nothing. Numbers of threads have 32 bits:
        dividing longer ones takes a call, and calls take registers."""
        out, lane = self.out, self.kernel.lane
        points = self._points()
        if self.block.grouped:
            out.line("uint32_t point = SSMC_BLOCK;")
            self.dealt([*points, self.group_of_lanes()])
            self.own_lane()
            return
        points += [(self.names.get("i", lane), self.x.size(lane))] if lane else []
        out.line("uint32_t point = SSMC_BLOCK * SSMC_THREADS + SSMC_THREAD;")
        out.line(f"if (point >= {self.all_of(points)}) return;")
        self.dealt(points)

    @staticmethod
    def all_of(points: list[tuple[str, str]]) -> str:
        """How many there are in a launch."""
        return " * ".join(["a.count", *(count for _, count in points[1:])])

    def dealt(self, points: list[tuple[str, str]]) -> None:
        """Name the index along each axis of the one whose number is ``point``."""
        for name, count in reversed(points[1:]):
            self.out.line(f"const int64_t {name} = point % (uint32_t){count};")
            self.out.line(f"point /= (uint32_t){count};")
        if points:
            self.out.line(f"const int64_t {points[0][0]} = a.first + point;")

    def group_of_lanes(self) -> tuple[str, str]:
        """The axis of the groups of lanes: name and count."""
        return "number", f"(({self.x.size(str(self.kernel.lane))} + {self.block.threads - 1}) / {self.block.threads})"

    def own_lane(self) -> None:
        """Name the thread's lane in the group ``number``."""
        size = self.x.size(str(self.kernel.lane))
        self.out.line(f"const int64_t own = number * {self.block.threads} + SSMC_THREAD;")
        self.out.line(f"const int live = own < {size};")
        self.out.line(f"const int64_t {self.names.get('i', str(self.kernel.lane))} = live ? own : {size} - 1;")

    def _span_of_time(self) -> None:
        size = self.x.size(str(self.kernel.time))
        if self.kernel.part:
            self.groups.part_of_time()
            return
        if not self.block.steps:
            self.out.line(f"const int64_t start = 0, stop = {size};")
            return
        steps = self.block.steps
        self.out.line(f"const int64_t start = stretch * {steps};")
        self.out.line(f"const int64_t stop = start + {steps} < {size} ? start + {steps} : {size};")

    # ------------------------------------------------------------ arguments

    def used(self) -> set[str]:
        """Axes whose extents the kernel mentions."""
        k = self.kernel
        used = {str(a) for a in (*k.grid, k.lane, k.time, k.steps) if a}
        for groups in k.sections.values():
            for group in groups:
                used |= set(group.axes)
                for statement in group.statements:
                    used |= {str(n.name) for n in walk_nodes(operands(statement)) if n.kind == "size"}
        if self.groups.tile:
            used.update(*(self.groups.tile.computed(node) for node, _ in self.groups.tile.tile.loads.values()))
        return used

    def touched(self) -> list[str]:
        """Tensors in memory that the kernel reads or writes."""
        sums = [statement.tensor for statement in self.groups.sums()]
        return list(dict.fromkeys((*self.kernel.tensors, *sums)))

    def sizes(self, used: set[str]) -> None:
        """Name the extents that are passed."""
        for axis, place in self.extents.items():
            if axis in used and axis not in self.fixed:
                self.out.line(f"const int64_t {self.names.get('n', axis)} = a.m[{place}];")

    def pointers(self, tensors: Iterable[str], passed: Collection[str] = ()) -> None:
        """Name pointers and strides; what is ``passed`` from block to block others write meanwhile."""
        for tensor in tensors:
            const = "" if tensor in self.written else "const "
            kind = f"{const}{C_TYPES[self.storage[tensor]]}"
            pointer = self.x.pointer(tensor)
            alone = "" if tensor in passed else "__restrict__ "
            self.out.line(f"{kind} *const {alone}{pointer} = ({kind} *)a.p[{self.pointer_places[tensor]}];")
            for number, axis in enumerate(self.tensors[tensor].axes):
                self.out.line(f"const int64_t {self.x.stride(tensor, axis)} = a.m[{self.strides[tensor] + number}];")

    # ------------------------------------------------------------ what a thread keeps

    def keep(self) -> None:
        """Declare carried values, all else that crosses from group to group, and parts of sums."""
        block = self.block
        if block.shared or block.shared_rings or block.grouped:
            self.out.line("SSMC_SHARED(ssmc_shared);")
        for ring in self.kernel.rings:
            for part in ring.parts:
                name = self.x.ring_name(ring.tensor, part)
                shared = ring.tensor in block.shared_rings
                self._declare(name, ring.type, self._ring_shape(ring), shared, zero=not ring.history)
        for variable in self.kernel.variables.values():
            if not variable.local:
                name, shared = self.names.get("v", variable.name), variable.name in block.shared
                self._declare(name, variable.type, self._shape(variable), shared)
        for statement in self.groups.sums():
            kind = self.groups.c_type(statement.node.type)
            self._in_shared(self.groups.sum_name(statement), kind, self.groups.sum_shape(statement))
        if self.block.tile:
            for node, _ in self.block.tile.loads.values():
                kind = C_TYPES[self.storage[node.name[0]]]
                self._in_shared(self.x.tile_name(node), kind, self.x.tile_shape(node))

    def _declare(self, name: str, type: DType, shape: list[int], shared: bool, zero: bool = False) -> None:
        kind = self.groups.c_type(type)
        if shared:
            self._in_shared(name, kind, [*shape, self.block.threads])
            return
        start = (" = {0}" if shape else " = 0") if zero else ""
        self.out.line(f"{kind} {name}{''.join(f'[{n}]' for n in shape)}{start};")

    def _in_shared(self, name: str, kind: str, shape: list[int]) -> None:
        rest = "".join(f"[{n}]" for n in shape[1:])
        pointer = f"(*const {name}){rest}" if rest else f"*const {name}"
        cast = f"({kind} (*){rest})" if rest else f"({kind} *)"
        self.out.line(f"{kind} {pointer} = {cast}(ssmc_shared + {self.shared});")
        size = math.prod(shape) * _C_BYTES[kind]
        self.shared += -(-size // _ALIGNMENT) * _ALIGNMENT

    def _ring_shape(self, ring: Ring) -> list[int]:
        return ([ring.slots] if ring.slots > 1 else []) + [self.fixed[a] for a in ring.dims]

    def _shape(self, variable: Variable) -> list[int]:
        dims = [self.fixed[a] for a in variable.dims]
        return [self.kernel.chunk, *dims] if variable.chunk else dims
