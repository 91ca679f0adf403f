"""Scalar nodes as Triton expressions: a value for all elements of a tile at once.

A tile has a dimension for each of some axes, the lanes' first, and that of steps that are taken at once last. A value
that varies along none of them is a scalar; any other has all dimensions, of length 1 where it does not vary, so that
values of one kernel always go together.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping

from ssmc.errors import InternalError
from ssmc.ir import BOOL, INT, REAL, DType
from ssmc.ir.loops import (
    Accumulate,
    Group,
    Kernel,
    Let,
    Loops,
    Statement,
    Tiles,
    Variable,
    inner_axes,
    operands,
    padded,
)
from ssmc.ir.scalar import Node

from .storage import COMPLEXES
from .triton_memory import Memory
from .writer import Names, Writer

Dims = frozenset[str]
Guard = tuple[tuple[str, Dims], ...]  # conditions under which an expression's value counts

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==",
    "ne": "!=", "and": "&", "or": "|", "bit_and": "&", "bit_or": "|", "bit_xor": "^",
}  # fmt: skip
_OWN = {name: f"tl.{name}" for name in ("exp", "exp2", "log", "log2", "sin", "cos", "sqrt", "rsqrt", "floor", "ceil",
                                        "abs", "erf")}  # fmt: skip
_HELPED = frozenset(
    {
        "expm1", "log1p", "sigmoid", "silu", "softplus", "tanh", "sinh", "cosh", "gelu", "gelu_tanh", "relu", "sign",
        "tan", "arcsin", "arccos", "arctan", "arctan2", "pow", "round", "int", "minimum", "maximum",
    }
)  # fmt: skip
_INTEGER = frozenset(["floordiv", "mod", "pow", "shift_left", "shift_right", "sign", "relu"])
_KNOWN = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "lt": operator.lt, "le": operator.le,
          "gt": operator.gt, "ge": operator.ge, "eq": operator.eq, "ne": operator.ne}  # fmt: skip
TYPES = {"f64": "tl.float64", "f32": "tl.float32"}


class Expressions:
    """Spells nodes of one kernel. ``needed`` gathers functions, ``out`` the conditions that get a name."""

    def __init__(
        self, loops: Loops, kernel: Kernel, tiles: Tiles, names: Names, precision: str, storage: Mapping[str, str],
        needed: set[str], out: Writer,
    ) -> None:  # fmt: skip
        self.kernel, self.tiles, self.names, self.precision, self.storage = kernel, tiles, names, precision, storage
        self.fixed, self.needed, self.out = loops.fixed, needed, out
        self.tensors = loops.program.tensors()
        self.rings = {ring.tensor: ring for ring in kernel.rings}
        self.many = str(kernel.time) if kernel.at_once else ""  # the axis of steps that are taken at once
        self.order = tuple(filter(None, (tiles.lane, *tiles.axes, self.many)))
        self.used: dict[tuple[str, ...], None] = {}  # parameters, indices, masks and constants that the text mentions
        statements = [s for groups in kernel.sections.values() for g in groups for s in g.statements]
        self._nodes = {s.variable.name: s.node for s in statements if isinstance(s, (Let, Accumulate))}
        self._dims: dict[tuple[int, str], Dims] = {}
        self._conditions = 0
        self.memory = Memory(loops.fixed, precision, names)
        self._lay_out()

    def _lay_out(self) -> None:
        """Give all that is remembered its place in memory."""
        k, remembered = self.kernel, self.tiles.remembered
        for ring in k.rings:
            if ring.tensor in remembered:
                slots = k.chunk + ring.depth if ring.history else ring.slots
                lanes = self.tiles.block if self.lane_dims(ring.tensor) else 0
                for part in ring.parts:
                    self.memory.add(f"{ring.tensor} {part}", ring.type, slots, lanes, ring.dims)
        for (section, _), variable in k.variables.items():
            if variable.name in remembered and not variable.local:
                lanes = self.tiles.block if self.tiles.lane in self.variable_dims(variable, section) else 0
                self.memory.add(variable.name, variable.type, k.chunk if variable.chunk else 1, lanes, variable.dims)

    # ------------------------------------------------------------ shapes

    def extent(self, axis: str) -> int:
        """The length of a tile along one of its axes."""
        if axis == self.many:
            return padded(self.kernel.at_once)
        return self.tiles.block if axis == self.tiles.lane else padded(self.fixed[axis])

    def shape(self, dims: Dims) -> str:
        """The shape of a value that varies along these axes, as a tuple."""
        sizes = [str(self.extent(a)) if a in dims else "1" for a in self.order] if dims else []
        return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"

    def along(self, axis: str) -> str:
        """The subscript that gives a row of numbers its place among the dimensions."""
        return "" if len(self.order) == 1 else f"[{', '.join(':' if a == axis else 'None' for a in self.order)}]"

    def dims(self, node: Node, section: str) -> Dims:
        """The axes of tiles that a node's text varies along."""
        key = (node.number, section if section in ("rebuild", "enter") else "")
        if key not in self._dims:
            self._dims[key] = self._dims_of(node, section)
        return self._dims[key]

    def _dims_of(self, node: Node, section: str) -> Dims:
        if self.known(node) is not None:
            return frozenset()
        below = frozenset[str]().union(*(self.dims(a, section) for a in node.args))
        match node.kind:
            case "index":
                return frozenset() if self._is_first(node, section) else frozenset({str(node.name)}) & set(self.order)
            case "scan" | "before":
                return below | self.ring_dims(node.name[0]) | {self.many}
            case "total":
                return (below | self.ring_dims(node.name[0])) - {self.many}
            case "load" if self._is_missing(node):
                return frozenset()
            case "ring" | "final" if self.rings[node.name[0]].slots == 1:
                return self.lane_dims(node.name[0]).union(*(self.dims(a, section) for a in node.args[1:]))
            case "ring" | "final":
                return below | self.lane_dims(node.name[0])
            case "array":
                variable = self.array_variable(node, section)
                place = dict(zip(self.inner(node.name[0]), node.args, strict=True))
                own = self.variable_dims(variable, section)
                return (own - set(variable.dims)).union(*(self.dims(place[a], section) for a in variable.dims))
            case "select" if (chosen := self._chosen(node)) is not None:
                return self.dims(chosen, section)
            case "reduce":
                return below - set(node.name[1:])
        return below

    def _is_first(self, node: Node, section: str) -> bool:
        """Whether an index is that of the first of many steps, where a chunk of time is entered."""
        return node.name == self.many and section == "enter"

    def variable_dims(self, variable: Variable, section: str) -> Dims:
        return self.dims(self._nodes[variable.name], section)

    def lane_dims(self, tensor: str) -> Dims:
        """The lanes, if a tensor varies along them."""
        lane = self.tiles.lane
        return frozenset({lane} if lane and lane in self.tensors[tensor].axes else ())

    def ring_dims(self, tensor: str) -> Dims:
        return self.lane_dims(tensor) | set(self.rings[tensor].dims)

    def inner(self, tensor: str) -> tuple[str, ...]:
        return inner_axes(self.tensors[tensor].axes, self.kernel)

    # ------------------------------------------------------------ names

    def type(self, type: DType) -> str:
        return {REAL: TYPES[self.precision], INT: "tl.int64", BOOL: "tl.int1"}[type]

    def use(self, prefix: str, name: str, *of: str) -> str:
        """A name that has to be there when a kernel begins."""
        self.used[prefix, name, *of] = None
        return self.names.get(prefix, name)

    def name(self, variable: Variable, section: str) -> str:
        """A variable, as a section calls it."""
        again = variable.name in self.tiles.reloaded and section in ("rebuild", "step")
        return self.names.get("k" if again else "v", variable.name)

    def used_in(self, groups: Iterable[Group], section: str, among: frozenset[str]) -> list[Variable]:
        """The variables of these names that groups of a section read."""
        found: dict[str, Variable] = {}
        seen: set[int] = set()
        stack = [node for g in groups for s in g.statements for node in _read(s)]
        while stack:
            node = stack.pop()
            if node.number in seen:
                continue
            seen.add(node.number)
            variable = self.kernel.holder(section, node)
            if variable is None:
                stack.extend(node.args)
            elif variable.name in among:
                found[variable.name] = variable
        return [found[name] for name in sorted(found)]

    def index(self, axis: str) -> str:
        return self.use("i", axis) if axis in self.order and axis != self.many else self.names.get("i", axis)

    def mask(self, axis: str) -> str:
        return self.names.get("m", axis) if axis == self.many else self.use("m", axis)

    def size(self, axis: str) -> str:
        return str(self.fixed[axis]) if axis in self.fixed else self.use("n", axis)

    def pointer(self, tensor: str) -> str:
        return self.use("p", tensor)

    def call(self, function: str, *args: str) -> str:
        """A call of one of the functions that the text brings along."""
        self.needed.add(f"ssmc_{function}")
        return f"ssmc_{function}({', '.join(args)})"

    def masks(self, dims: Iterable[str], all: bool = False) -> list[str]:
        """What holds for the elements of a tile that are no padding; ``all`` names masks of full rows, too."""
        found = set(dims)
        return [
            self.mask(a) for a in self.order
            if a in found and (all or a in (self.tiles.lane, self.many) or self.extent(a) != self.fixed[a])
        ]  # fmt: skip

    # ------------------------------------------------------------ expressions

    def expr(self, node: Node, section: str, guard: Guard = (), own: bool = False) -> str:
        """The value of a node; ``own`` spells the node itself even if it is a variable."""
        known = self.known(node)
        if known is not None:
            return self.constant(known, node.type)
        if not own:
            variable = self.kernel.holder(section, node)
            if variable is not None:
                return self.name(variable, section)
        match node.kind:
            case "const":
                return self.constant(node.name, node.type)
            case "index":
                return "begin" if self._is_first(node, section) else self.index(str(node.name))
            case "size":
                return self.size(str(node.name))
            case "load":
                return self.load(node, section, guard)
            case "ring" | "final":
                return self.ring(node, section, guard)
            case "array":
                return self.array(node, section, guard)
            case "select":
                return self.select(node, section, guard)
            case "op":
                return self.operation(node, [self.expr(a, section, guard) for a in node.args])
        raise InternalError(f"Triton has no spelling for {node!r}")

    def known(self, node: Node) -> int | bool | None:
        """The value of an integer or a condition that extents decide."""
        if node.type is REAL:
            return None
        if node.kind == "const":
            return bool(node.name) if node.type is BOOL else int(node.name)
        if node.kind == "size":
            return self.fixed.get(str(node.name))
        if node.kind != "op" or node.name not in _KNOWN:
            return None
        values = [self.known(a) for a in node.args]
        if any(v is None for v in values):
            return None
        found: int | bool = _KNOWN[str(node.name)](*values)
        return found if node.type is BOOL or -(2**63) <= found < 2**63 else None

    def constant(self, value: int | bool | float, type: DType) -> str:
        if type is not REAL:
            return str(value) if value >= 0 else f"({value})"
        number = float(value)
        if self.precision == "f64" and math.isfinite(number) and not number.is_integer():
            return self.use("c", repr(number))  # a plain one would be taken for single precision
        if not math.isfinite(number):
            text = f'float("{number}")'
        else:
            text = repr(number)
        return f"({text})" if number < 0 else text

    def _chosen(self, node: Node) -> Node | None:
        """The branch of a select whose condition is known."""
        condition = self.known(node.args[0])
        return None if condition is None else node.args[1] if condition else node.args[2]

    def select(self, node: Node, section: str, guard: Guard) -> str:
        if (chosen := self._chosen(node)) is not None:
            return self.expr(chosen, section, guard)
        test, then, otherwise = node.args
        condition = self.expr(test, section, guard)
        if not self._reads_memory(node, section):
            return f"tl.where({condition}, {self.expr(then, section)}, {self.expr(otherwise, section)})"
        if not condition.isidentifier():
            self._conditions += 1
            self.out.line(f"if_{self._conditions} = {condition}")
            condition = f"if_{self._conditions}"
        dims = self.dims(test, section)
        yes = self.expr(then, section, (*guard, (condition, dims)))
        no = self.expr(otherwise, section, (*guard, (f"~{condition}", dims)))
        return f"tl.where({condition}, {yes}, {no})"

    def _reads_memory(self, node: Node, section: str) -> bool:
        """Whether one of the branches of a select reads memory where it stands."""
        stack = list(node.args[1:])
        while stack:
            below = stack.pop()
            if self.kernel.holder(section, below) is None:
                if below.kind == "load" or self._is_recalled(below, section):
                    return True
                stack.extend(below.args)
        return False

    def _is_recalled(self, node: Node, section: str) -> bool:
        """Whether a node is read from the program's own memory at a place that an index says."""
        if node.kind not in ("ring", "final") or node.number in self.tiles.addressed:
            return node.number in self.tiles.addressed
        places = zip(self.rings[node.name[0]].dims, node.args[1:], strict=True)
        own = all(index.kind == "index" and index.name == axis for axis, index in places)
        return not own and not self.is_register(node.name[0], section)

    def operation(self, node: Node, args: list[str]) -> str:
        op, real = str(node.name), node.args[0].type is REAL
        if op in ("and", "or") and (short := [a for a in args if a in ("True", "False")]):
            other = args[1] if short[0] == args[0] else args[0]
            return short[0] if (op == "and") == (short[0] == "False") else other
        if op in _INFIX:
            return f"({args[0]} {_INFIX[op]} {args[1]})"
        if op in ("neg", "not"):
            return f"({'-' if op == 'neg' else '~'}{args[0]})"
        if op == "real" or (op == "int" and node.args[0].type is BOOL):
            return f"tl.cast({args[0]}, {self.type(node.type)})"
        if op == "bool":
            return f"({args[0]} != 0)"
        if not real and op in _INTEGER:
            return self.call(f"{op}_int" if op in ("pow", "sign", "relu") else op, *args)
        if not real and op in ("minimum", "maximum"):
            return f"tl.{op}({args[0]}, {args[1]})"
        if op in _OWN:
            return f"{_OWN[op]}({args[0]})"
        if op in _HELPED:
            return self.call(op, *args)
        raise InternalError(f"Triton has no spelling for operation {op!r}")

    # ------------------------------------------------------------ memory

    def address(self, tensor: str, part: str, indices: list[str]) -> str:
        """Pointers to elements of a tensor."""
        axes = self.tensors[tensor].axes
        terms = [f"{i} * {self.use('s', f'{tensor} {a}', tensor, a)}" for a, i in zip(axes, indices, strict=True)]
        if self.storage[tensor] in COMPLEXES:
            terms = [f"2 * ({' + '.join(terms) or '0'})", *(["1"] if part == "im" else [])]
        return " + ".join([self.pointer(tensor), *terms])

    def load(self, node: Node, section: str, guard: Guard) -> str:
        tensor, part = node.name
        storage = self.storage[tensor]
        if self._is_missing(node):
            return "0.0"
        pointer = self.address(tensor, part, [self.expr(a, section, guard) for a in node.args])
        dims = self.dims(node, section)
        return self.widen(self.fetch(pointer, [*self.masks(dims), *self._guards(guard, dims)], node.type), storage)

    def _is_missing(self, node: Node) -> bool:
        """Whether a load is of the imaginary part of a tensor that is stored without one."""
        return bool(node.name[1] == "im") and self.storage[node.name[0]] not in COMPLEXES

    def fetch(self, pointer: str, masks: list[str], type: DType) -> str:
        """A load of what the masks say."""
        other = "0.0" if type is REAL else "0"
        return f"tl.load({pointer}, mask={' & '.join(masks)}, other={other})" if masks else f"tl.load({pointer})"

    def _guards(self, guard: Guard, dims: Dims) -> list[str]:
        """Conditions as masks of pointers that vary along ``dims``: true where they are for any element."""
        found = []
        for text, along in guard:
            if along <= dims:
                found.append(text)
            else:
                any_of = self.reduced("tl.max", f"({text}).to(tl.int32)", along, along - dims)
                found.append(f"({any_of} > 0)")
        return list(dict.fromkeys(found))

    def widen(self, text: str, storage: str) -> str:
        """A stored number as one that is computed with."""
        if storage == "b8":
            return f"({text} != 0)"
        if storage == "i32":
            return f"{text}.to(tl.int64)"
        narrow = ("bf16", "f16") if self.precision == "f32" else ("bf16", "f16", "f32", "c64")
        return f"{text}.to({TYPES[self.precision]})" if storage in narrow else text

    # ------------------------------------------------------------ folds and rearrangements of tiles

    def spread(self, text: str, dims: Dims, wanted: Dims, type: DType) -> str:
        """A value as a tile that has all wanted axes, of the type that it is carried in."""
        if type is INT and dims == wanted:
            return f"tl.cast({text}, tl.int64)"
        if dims == wanted:
            return text
        if not dims:
            return f"tl.full({self.shape(wanted)}, {text}, {self.type(type)})"
        return f"tl.broadcast_to({f'tl.cast({text}, tl.int64)' if type is INT else text}, {self.shape(wanted)})"

    def reduced(self, function: str, text: str, dims: Dims, over: Iterable[str]) -> str:
        """A tile folded along some of its dimensions; a scalar where none is left."""
        over = [a for a in self.order if a in set(over)]
        combine = ", ssmc_product" if function == "tl.reduce" else ""
        if not dims - set(over):
            return f"{function}({text}, None{combine})" if combine else f"{function}({text})"
        for axis in over:
            text = f"{function}({text}, {self.order.index(axis)}{combine}, keep_dims=True)"
        return text

    def placed(self, text: str, type: DType, dims: Dims, axes: Iterable[str], indices: Iterable[Node], section: str
               ) -> str:  # fmt: skip
        """A tile whose ``axes`` are read at other indices: single ones are picked, dimensions change places."""
        target: dict[str, str] = {}
        for axis, index in zip(axes, indices, strict=True):
            if axis not in dims:
                continue
            if index.kind == "index" and index.name in self.order:
                target[axis] = str(index.name)
                continue
            here = f"{self.use('i', axis)} == {self.expr(index, section)}"
            picked = f"tl.where({here}, {text}, {'0.0' if type is REAL else '0'})"
            text = self.reduced("tl.sum", picked, dims, [axis])
            text = f"({text} != 0)" if type is BOOL else text
            dims = dims - {axis}
        if all(a == b for a, b in target.items()):
            return text
        sources = {self.order.index(b): self.order.index(a) for a, b in target.items()}
        left = [n for n in range(len(self.order)) if n not in sources.values()]
        kept = {n for n in left if n not in sources}
        moved = iter([n for n in left if n not in kept])
        places = [sources[n] if n in sources else n if n in kept else next(moved) for n in range(len(self.order))]
        return f"tl.permute({text}, ({', '.join(map(str, places))}))"

    # ------------------------------------------------------------ carried values and arrays

    def ring_name(self, tensor: str, part: str, lag: int | None = None) -> str:
        name = f"{tensor} {part}" if len(self.rings[tensor].parts) > 1 else tensor
        return self.names.get("r", name if lag is None else f"{name} {lag}")

    def register(self, tensor: str, part: str, lag: int) -> str:
        """The variable that holds what was carried that long ago."""
        return self.ring_name(tensor, part, lag if tensor in self.tiles.moving else None)

    def is_register(self, tensor: str, section: str) -> bool:
        """Whether a section finds a carried value in variables."""
        if self.rings[tensor].history:
            return section in ("rebuild", "enter") and tensor in self.tiles.moving
        return tensor not in self.tiles.remembered

    def ring(self, node: Node, section: str, guard: Guard) -> str:
        tensor, part = node.name
        ring = self.rings[tensor]
        if self.is_register(tensor, section):
            lag = 1 if ring.slots == 1 else int(node.args[0].name)
            name = self.register(tensor, part, lag)
            return self.placed(name, ring.type, self.ring_dims(tensor), ring.dims, node.args[1:], section)
        back = node.args[0].name if node.args[0].kind == "const" else self.expr(node.args[0], section, guard)
        slot = self.slot(tensor, back, section, node.kind == "final")
        return self.recall(f"{tensor} {part}", slot, node, ring.dims, node.args[1:], section, guard)

    def slot(self, tensor: str, lag: int | str, section: str, end: bool = False) -> str:
        """The place in memory of what was carried that long ago: the only one where one step is kept."""
        ring = self.rings[tensor]
        if ring.history:
            now, last = ("0" if section == "enter" else "s"), ring.depth
        elif ring.slots == 1:
            return "0"
        else:
            now, last = (self.size(str(self.kernel.time)) if end else "step"), ring.slots
        if isinstance(lag, str):
            found = f"({now} + {last} - {lag})"
        else:
            found = str(last - lag) if now == "0" else f"({now} + {last - lag})" if last > lag else now
        return found if ring.history else f"{found} % {ring.slots}"

    def array_variable(self, node: Node, section: str) -> Variable:
        tensor, part = node.name
        return self.kernel.arrays["rebuild" if section == "rebuild" else "step", tensor, part]

    def array(self, node: Node, section: str, guard: Guard) -> str:
        variable = self.array_variable(node, section)
        place = dict(zip(self.inner(node.name[0]), node.args, strict=True))
        indices = [place[a] for a in variable.dims]
        if node.number not in self.tiles.addressed:
            dims = self.variable_dims(variable, section)
            name = self.names.get("v", variable.name)
            return self.placed(name, variable.type, dims, variable.dims, indices, section)
        slot = "s" if variable.chunk else "0"
        return self.recall(variable.name, slot, node, variable.dims, indices, section, guard)

    def place(self, name: str, slot: str, indices: list[str]) -> str:
        """Pointers to elements of what is remembered."""
        self.use("w", name)
        lane = self.row(self.tiles.lane) if self.tiles.lane and self.memory.regions[name].lanes else ""
        return self.memory.address(name, slot, lane, indices)

    def own_place(self, name: str, slot: str, axes: Iterable[str]) -> str:
        """Pointers to a whole tile of it."""
        return self.place(name, slot, [self.row(a) for a in axes])

    def row(self, axis: str) -> str:
        """The numbers of the elements along a dimension of tiles: 32 bits hold them."""
        return self.use("e", axis)

    def recall(self, name: str, slot: str, node: Node, axes: Iterable[str], indices: Iterable[Node], section: str,
               guard: Guard) -> str:  # fmt: skip
        """What the program has in its memory, at some place."""
        indices = list(indices)
        own = all(i.kind == "index" and i.name == a for a, i in zip(axes, indices, strict=True))
        texts = [self.row(a) for a in axes] if own else [self.expr(i, section, guard) for i in indices]
        pointer = self.place(name, slot, texts)
        dims = self.dims(node, section)
        masks = [] if own and not guard else [*self.masks(dims), *self._guards(guard, dims)]
        found = self.fetch(pointer, masks, node.type)
        return f"({found} != 0)" if node.type is BOOL else found


def _read(statement: Statement) -> tuple[Node, ...]:
    """What a statement reads: of a variable's own node what it is made of."""
    return statement.node.args if isinstance(statement, (Let, Accumulate)) else operands(statement)
