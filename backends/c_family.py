"""Scalar nodes as expressions of C and of languages that descend from it.

A target subclasses ``Spelling`` and says what differs: how the present lane of an array is named, how memory is
read and written, which functions there are. Loop nests and statements are in ``c_nests``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ssmc.errors import InternalError
from ssmc.ir import BOOL, INT, REAL, DType, Program
from ssmc.ir.loops import Kernel, Store, Variable
from ssmc.ir.scalar import Node

from .writer import Names

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==",
    "ne": "!=", "and": "&", "or": "|", "bit_and": "&", "bit_or": "|", "bit_xor": "^",
}  # fmt: skip
# Functions of the prelude and of libm: operation -> C name without its precision suffix.
_PRELUDE = frozenset(
    [
        "exp",
        "exp2",
        "expm1",
        "log",
        "log2",
        "log1p",
        "sigmoid",
        "silu",
        "softplus",
        "tanh",
        "sinh",
        "cosh",
        "gelu",
        "gelu_tanh",
        "erf",
        "rsqrt",
        "relu",
        "sign",
        "sin",
        "cos",
        "tan",
        "arcsin",
        "arccos",
        "arctan",
        "arctan2",
        "pow",
    ]
)
_LIBM = {"sqrt": "sqrt", "floor": "floor", "ceil": "ceil", "round": "rint", "abs": "fabs"}
_INTEGER = frozenset({"floordiv", "mod", "pow", "shift_left", "shift_right"})


class Spelling:
    """Spells nodes of one kernel; ``needed`` gathers the prelude functions that were used."""

    def __init__(
        self, program: Program, kernel: Kernel, names: Names, precision: str, storage: Mapping[str, str],
        fixed: Mapping[str, int], needed: set[str],
    ) -> None:  # fmt: skip
        self.program, self.kernel, self.names = program, kernel, names
        self.precision, self.storage, self.fixed, self.needed = precision, storage, fixed, needed
        self.tensors = program.tensors()
        self.rings = {ring.tensor: ring for ring in kernel.rings}

    # ------------------------------------------------------------ names and types

    @property
    def real_type(self) -> str:
        return "float" if self.precision == "f32" else "double"

    def c_type(self, type: DType) -> str:
        """The type of a variable."""
        return {REAL: self.real_type, INT: "int64_t", BOOL: "int"}[type]

    def axis(self, axis: str) -> str:
        """The present index along an axis."""
        return self.names.get("i", axis)

    def size(self, axis: str) -> str:
        return f"INT64_C({self.fixed[axis]})" if axis in self.fixed else self.names.get("n", axis)

    def variable(self, variable: Variable) -> str:
        """A variable at the present loop point."""
        if variable.local:
            return self.names.get("v", variable.name)
        name = self.own(variable)
        if variable.chunk or (self.kernel.tile and variable.name in self.kernel.tile.crossing):
            name += "[s]"
        return self.lanes(name + "".join(f"[{self.names.get('i', a)}]" for a in variable.dims), variable.lanes)

    def own(self, variable: Variable) -> str:
        """The name of a variable that outlives its group."""
        return self.names.get("v", variable.name)

    def lanes(self, row: str, has_lanes: bool = True) -> str:
        """The present lane of what is kept for all lanes; here a thread has only one."""
        return row

    def spread(self, node: Node, text: str) -> str:
        """The text of a node where a value for every lane is wanted."""
        return text

    # ------------------------------------------------------------ expressions

    def expr(self, node: Node, section: str, own: bool = False) -> str:
        """The node at the present loop point; ``own`` spells the node itself even if it is a variable."""
        if not own:
            variable = self.lookup(node, section)
            if variable is not None:
                return self.variable(variable)
        match node.kind:
            case "const":
                return self.constant(node)
            case "index":
                return self.axis(str(node.name))
            case "size":
                return self.size(str(node.name))
            case "load":
                return self.load(node, section)
            case "ring" | "final":
                return self.ring(node, section)
            case "array":
                return self.array(node, section)
            case "select":
                return self.select(node, *(self.expr(x, section) for x in node.args))
            case "op":
                return self.operation(node, [self.expr(a, section) for a in node.args])
        raise InternalError(f"C has no spelling for {node!r}")

    def lookup(self, node: Node, section: str) -> Variable | None:
        """The variable that holds a node, if it has one that is visible from ``section``."""
        return self.kernel.holder(section, node)

    def constant(self, node: Node) -> str:
        value = node.name
        if node.type is BOOL:
            return "1" if value else "0"
        if node.type is INT:
            return "INT64_MIN" if value == -(2**63) else f"INT64_C({value})"
        number = float(value)
        suffix = "f" if self.precision == "f32" else ""
        if math.isinf(number):
            return "INFINITY" if number > 0 else "(-INFINITY)"
        if math.isnan(number):
            return "NAN"
        text = repr(number)
        text = f"{text}{suffix}" if any(c in text for c in ".e") else f"{text}.0{suffix}"
        return f"({text})" if number < 0 else text

    def select(self, node: Node, condition: str, then: str, otherwise: str) -> str:
        return f"({condition} ? {then} : {otherwise})"

    def operation(self, node: Node, args: list[str]) -> str:
        op = str(node.name)
        suffix = "f" if self.precision == "f32" else ""
        real = node.args[0].type is REAL
        if op in _INFIX:
            return f"({args[0]} {_INFIX[op]} {args[1]})"
        if op == "neg":
            return f"(-{args[0]})"
        if op == "not":
            return f"(!{args[0]})"
        if op == "real":
            return f"(({self.real_type}){args[0]})"
        if op == "int":
            if node.args[0].type is BOOL:
                return f"((int64_t){args[0]})"
            return self._call("int", args)
        if op == "bool":
            return f"({args[0]} != 0)"
        if op in ("minimum", "maximum"):
            return (
                self._call(op, args)
                if real
                else f"({args[0]} {'<' if op == 'minimum' else '>'} {args[1]} ? {args[0]} : {args[1]})"
            )
        if op in _INTEGER and not real:
            return self._call(op, args, "i64")
        if op in ("abs", "sign", "relu") and not real:
            return {"abs": f"({args[0]} < 0 ? -{args[0]} : {args[0]})",
                    "sign": f"(({args[0]} > 0) - ({args[0]} < 0))",
                    "relu": f"({args[0]} > 0 ? {args[0]} : 0)"}[op]  # fmt: skip
        if op in _LIBM:
            return f"{_LIBM[op]}{suffix}({args[0]})"
        if op in _PRELUDE:
            return self._call(op, args)
        raise InternalError(f"C has no spelling for operation {op!r}")

    def _call(self, function: str, args: list[str], type: str = "") -> str:
        name = f"ssmc_{function}_{type or self.precision}"
        self.needed.add(name)
        return f"{name}({', '.join(args)})"

    # ------------------------------------------------------------ memory

    def offset(self, tensor: str, indices: list[str]) -> str:
        axes = self.tensors[tensor].axes
        terms = [f"{i} * {self.stride(tensor, a)}" for a, i in zip(axes, indices, strict=True) if i != "0"]
        return " + ".join(terms) or "0"

    def stride(self, tensor: str, axis: str) -> str:
        return self.names.get("s", f"{tensor} {axis}")

    def pointer(self, tensor: str) -> str:
        return self.names.get("p", tensor)

    def element(self, tensor: str, part: str, indices: list[str]) -> str:
        return self.at(tensor, part, self.offset(tensor, indices))

    def at(self, tensor: str, part: str, offset: str) -> str:
        """The number at an offset in elements."""
        if self.storage[tensor] in ("c64", "c128"):
            offset = f"2 * ({offset})" + (" + 1" if part == "im" else "")
        return f"{self.pointer(tensor)}[{offset}]"

    def load(self, node: Node, section: str) -> str:
        tensor, part = node.name
        storage = self.storage[tensor]
        if part == "im" and storage not in ("c64", "c128"):
            return "0"
        return self.widen(self.element(tensor, part, [self.expr(a, section) for a in node.args]), storage)

    def store(self, statement: Store, section: str) -> str:
        """The text of a statement that writes a value to an element."""
        target = self.element(statement.tensor, statement.part, [self.expr(i, section) for i in statement.indices])
        return f"{target} = {self.narrow(self.expr(statement.node, section), self.storage[statement.tensor])};"

    def widen(self, text: str, storage: str) -> str:
        """A stored number as one that is computed with."""
        if storage in ("bf16", "f16"):
            self.needed.add(f"ssmc_{storage}_to_f32")
            text = f"ssmc_{storage}_to_f32({text})"
            return text if self.precision == "f32" else f"(double){text}"
        if storage == "i32":
            return f"(int64_t){text}"
        if storage == "b8":
            return f"({text} != 0)"
        if storage in ("f32", "c64") and self.precision == "f64":
            return f"(double){text}"
        return text

    def narrow(self, text: str, storage: str) -> str:
        """A computed number as it is stored."""
        if storage in ("bf16", "f16"):
            self.needed.add(f"ssmc_f32_to_{storage}")
            return f"ssmc_f32_to_{storage}({text if self.precision == 'f32' else f'(float){text}'})"
        if storage in ("i32", "b8"):
            return f"({'int32_t' if storage == 'i32' else 'uint8_t'})({text})"
        if storage in ("f32", "c64") and self.precision == "f64":
            return f"(float)({text})"
        return text

    # ------------------------------------------------------------ carried values and arrays

    def ring_name(self, tensor: str, part: str) -> str:
        return self.names.get("r", f"{tensor} {part}" if len(self.rings[tensor].parts) > 1 else tensor)

    def ring(self, node: Node, section: str) -> str:
        tensor, part = node.name
        lag = self.expr(node.args[0], section)
        end = node.kind == "final"
        inner = [self.expr(a, section) for a in node.args[1:]]
        return self.ring_element(tensor, part, lag, inner, end)

    def ring_element(self, tensor: str, part: str, lag: str, inner: list[str], end: bool) -> str:
        """``lag`` steps before the present step, or before the end."""
        ring = self.rings[tensor]
        slot = self.ring_slot(tensor, lag, end)
        return self.lanes(self.ring_name(tensor, part) + slot + "".join(f"[{i}]" for i in inner), ring.lanes)

    def ring_slot(self, tensor: str, lag: str, end: bool) -> str:
        """The place in a ring of what was carried that long ago."""
        ring = self.rings[tensor]
        if ring.history:
            return f"[s + {ring.depth} - {lag}]"
        now = self.size(str(self.kernel.time)) if end else "step"
        return "" if ring.slots == 1 else f"[({now} + {ring.slots} - {lag}) % {ring.slots}]"

    def first_slot(self, tensor: str, lag: int) -> str:
        """The place of what the first step reads at that lag."""
        ring = self.rings[tensor]
        return f"[{(ring.slots - lag) % ring.slots}]" if ring.slots > 1 else ""

    def array(self, node: Node, section: str) -> str:
        tensor, part = node.name
        variable = self.kernel.arrays["rebuild" if section == "rebuild" else "step", tensor, part]
        inner = [
            a for a in self.tensors[tensor].axes if a not in (*self.kernel.grid, self.kernel.lane, self.kernel.time)
        ]
        place = dict(zip(inner, (self.expr(a, section) for a in node.args), strict=True))
        name = self.names.get("v", variable.name)
        now = "[s]" if variable.chunk else ""
        return self.lanes(name + now + "".join(f"[{place[a]}]" for a in variable.dims), variable.lanes)
