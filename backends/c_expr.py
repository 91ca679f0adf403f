"""Scalar nodes as C expressions, for one lane after the other or on whole vectors of them."""

from __future__ import annotations

from collections.abc import Mapping

from ssmc.ir import Program
from ssmc.ir.loops import Kernel, Store, Variable
from ssmc.ir.scalar import Node

from .c_family import Spelling
from .c_lanes import FUNCTIONS, ROUGH, SHORT, is_short, multipliers
from .writer import Names

_BOUNDS = {"maximum": "at_least", "minimum": "at_most"}  # where one argument is a number


class Expressions(Spelling):
    """Spells nodes of one kernel in C, whose threads walk through all lanes of a block."""

    def __init__(
        self, program: Program, kernel: Kernel, names: Names, precision: str, storage: Mapping[str, str],
        fixed: Mapping[str, int], needed: set[str],
    ) -> None:  # fmt: skip
        super().__init__(program, kernel, names, precision, storage, fixed, needed)
        self.lane = kernel.lane  # the axis of the lanes; of a sum along memory, the one that it runs along
        self.vectors = False  # whether lanes are spelled as whole vectors, from lane `o` on
        self.rows = 1  # points of the grid that are computed together, neighbours along its last axis
        self.row = ""  # the present one of them
        self.short = is_short(kernel, storage)
        self.multipliers = multipliers(kernel) if self.short else frozenset()
        self.streamed: frozenset[str] = frozenset()  # tensors that are written past the caches if `stream`
        self.in_block = False  # inside a tile, where carried values are in registers

    # ------------------------------------------------------------ lanes

    def axis(self, axis: str) -> str:
        name = super().axis(axis)
        if axis == self.lane:
            return f"({name} + {'o' if self.vectors else 'j'})"
        return f"({name} + {self.row})" if self.rows > 1 and axis == self.kernel.grid[-1] else name

    def own(self, variable: Variable) -> str:
        """The name of a variable that outlives its group, or its place among those of points computed together."""
        return super().own(variable) + (f"[{self.row}]" if self.rows > 1 else "")

    def lanes(self, row: str, has_lanes: bool = True) -> str:
        """The present lane of a row, or the present vector of lanes; the row itself if it is a single number."""
        if not has_lanes:
            return row
        if not self.vectors:
            return f"{row}[j]"
        self.needed.add("SSMC_VECTOR")
        return f"SSMC_VECTOR({row})"

    def spread(self, node: Node, text: str) -> str:
        """The text of a node where a value for every lane is wanted."""
        if not self.vectors or self.lane in node.axes:
            return text
        return self._call("spread", [text], "vector")

    # ------------------------------------------------------------ whole vectors

    def select(self, node: Node, condition: str, then: str, otherwise: str) -> str:
        if self.vectors and self.lane in node.axes:
            values = zip(node.args[1:], (then, otherwise), strict=True)
            then, otherwise = (f"(ssmc_vector){self.spread(n, t)}" for n, t in values)
        return super().select(node, condition, then, otherwise)

    def operation(self, node: Node, args: list[str]) -> str:
        if self.vectors and self.lane in node.axes and node.name in FUNCTIONS:
            return self._vector_operation(node, args)
        return super().operation(node, args)

    def _vector_operation(self, node: Node, args: list[str]) -> str:
        op = str(node.name)
        constant = [a.kind == "const" for a in node.args]
        if op in _BOUNDS and any(constant):
            return self._call(_BOUNDS[op], [args[constant.index(False)], args[constant.index(True)]], "vector")
        if self.short and op in ROUGH and node.number not in self.multipliers:
            op += "_rough"
        elif self.short and op in SHORT:
            op += "_short"
        return self._call(op, [self.spread(a, t) for a, t in zip(node.args, args, strict=True)], "vector")

    # ------------------------------------------------------------ memory

    def load(self, node: Node, section: str) -> str:
        if not self.vectors or self.lane not in node.axes:
            return super().load(node, section)
        tensor, part = node.name
        if part == "im" and self.storage[tensor] not in ("c64", "c128"):
            return self._call("spread", ["0"], "vector")
        text = self.element(tensor, part, [self.expr(a, section) for a in node.args])
        axis = self._lane_axis(tensor, node.args)
        return self._call(f"load_{self.row_type(tensor)}", [f"&{text}", *self._row(tensor, axis)], "vector")

    def row_type(self, tensor: str) -> str:
        """How the numbers of a row are stored; parts of complex ones lie two apart."""
        return {"c64": "f32"}.get(self.storage[tensor], self.storage[tensor])

    def _row(self, tensor: str, axis: str) -> list[str]:
        """How far lanes lie apart in memory if they lie along this axis, and how many there are from `o` on."""
        stride = self.stride(tensor, axis)
        return [f"2 * {stride}" if self.storage[tensor] == "c64" else stride, "w - o"]

    def _lane_axis(self, tensor: str, indices: tuple[Node, ...]) -> str:
        """The axis of a tensor in memory along which lanes lie."""
        axes = zip(self.tensors[tensor].axes, indices, strict=True)
        return next(axis for axis, index in axes if self.lane in index.axes)

    def store(self, statement: Store, section: str) -> str:
        """The text of a statement that writes a value to an element, or to as many as there are lanes from `o` on."""
        tensor, indices, node = statement.tensor, statement.indices, statement.node
        if not self.vectors or not any(self.lane in i.axes for i in indices):
            return super().store(statement, section)
        text = self.expr(node, section)
        target = self.element(tensor, statement.part, [self.expr(i, section) for i in indices])
        type, value = self.row_type(tensor), self.spread(node, text)
        row = self._row(tensor, self._lane_axis(tensor, indices))
        if tensor not in self.streamed:
            return self._call(f"store_{type}", [f"&{target}", *row, value], "vector") + ";"
        past = self._call(f"stream_{type}", [f"&{target}", "value"], "vector")
        plain = self._call(f"store_{type}", [f"&{target}", *row, "value"], "vector")
        return f"{{ const ssmc_vector value = {value}; if (stream) {past}; else {plain}; }}"

    def ring_element(self, tensor: str, part: str, lag: str, inner: list[str], end: bool) -> str:
        if self.in_block:
            return f"{self.names.get('h', f'{tensor} {part}')}[k]"
        return super().ring_element(tensor, part, lag, inner, end)
