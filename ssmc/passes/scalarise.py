"""Equations → scalar nodes: reads become loads, rings or other values; complex values become pairs.

* What is rebuilt ahead of a step is a ``ring`` too, here and now included.
* A read of an input, or of a value from an earlier kernel, is a ``load``, guarded where its index may
  leave the axis; outside, the extension's value or 0.
* A read at a lag of a value made in this kernel is a ``ring``; where steps are taken at once, what is ``before`` it,
  and a recurrence is a ``scan``.
* A read here and now is that value's own node; at another inner index, an ``array``.
* Products are regrouped so that factors which vary along fewer loops are multiplied first:
  ``delta * B * x`` becomes ``(delta * x) * B``, and ``delta * x`` leaves the loop over states.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ssmc.errors import InternalError
from ssmc.ir import (
    BOOL,
    COMPLEX,
    INT,
    OPERATIONS,
    REAL,
    Const,
    DType,
    Equation,
    Expr,
    Extension,
    Index,
    Op,
    Program,
    Read,
    Reduce,
    Size,
    Where,
    substitute,
    type_of,
    walk,
)
from ssmc.ir.scalar import Graph, Node, Value, part_names, parts

from .at_once import NotAtOnce
from .parts import beginning_of_part, last_step
from .plan import KernelPlan, Scan
from .ranges import Ranges, as_int
from .recompute import entry_of

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1


class Scalariser:
    """Builds the nodes of one kernel: of its steps or, with ``ahead``, of what is rebuilt ahead of them.
    Both share a ``graph``."""

    def __init__(
        self, program: Program, kernel: KernelPlan, ranges: Ranges, is_cheap: Callable[[str], bool],
        graph: Graph | None = None, ahead: bool = False,
    ) -> None:  # fmt: skip
        self.program = program
        self.kernel = kernel
        self.ranges = ranges
        self.graph = graph or Graph()
        self.rebuilt = frozenset(kernel.rebuilt) & frozenset(kernel.carried)
        self.held = frozenset() if ahead or kernel.at_once else self.rebuilt
        self.tensors = program.tensors()
        self.inside = set(kernel.equations)
        self.is_cheap = is_cheap
        self.arrays: set[str] = set()
        self.present: set[int] = set()  # numbers of the reads of carried values that may be of this very step
        self._values: dict[str, Value] = {}
        self._making: set[str] = set()  # what is begun and not yet there
        self._built: dict[Expr, Value] = {}

    # ------------------------------------------------------------ values

    def value(self, name: str) -> Value:
        """The node (or pair) of an equation of this kernel at the present point."""
        found = self._values.get(name)
        if found is None:
            equation = self.program.equation(name)
            if name in self.held:
                found = self._element(Read(name, tuple(map(Index, equation.axes))), "ring", (self.graph.const(0, INT),))
            else:
                self._making.add(name)
                scan = self.kernel.scans.get(name)
                found = self._scan(equation, scan) if scan else self.cast(equation.expr, equation.dtype)
                self._making.discard(name)
            self._values[name] = found
        return found

    def build(self, expr: Expr) -> Value:
        found = self._built.get(expr)
        if found is None:
            found = self._build(expr)
            self._built[expr] = found
        return found

    def _build(self, expr: Expr) -> Value:
        g = self.graph
        match expr:
            case Const(value=value, dtype=dtype):
                if dtype is COMPLEX:
                    value = complex(value)
                    return g.const(value.real), g.const(value.imag)
                return g.const(value, dtype)  # type: ignore[arg-type]
            case Index(axis=axis):
                return g.index(axis)
            case Size(axis=axis):
                return g.size(axis)
            case Read():
                return self._read(expr)
            case Where() if (entry := entry_of(expr)) is not None and entry[0].tensor in self.rebuilt:
                return self.build(entry[0])
            case Where() if (begun := self._begun(expr)) is not None:
                return self.build(begun)
            case Where(condition=c, then=a, otherwise=b):
                dtype = type_of(expr, self.tensors)
                return self._select(self.real(c, BOOL), self.cast(a, dtype), self.cast(b, dtype))
            case Op():
                return self._operation(expr)
            case Reduce():
                return self._reduce(expr)
        raise InternalError(f"no scalar form: {expr!r}")

    def _begun(self, expr: Where) -> Read | None:
        """The carried value of a step before that a part of time begins with, see ``parts``."""
        steps = self.kernel.steps
        begun = beginning_of_part(expr, str(self.kernel.time), steps) if steps is not None else None
        return begun[0] if begun is not None and begun[0].tensor in self.kernel.starts else None

    def real(self, expr: Expr, type: DType = REAL) -> Node:
        """A value that is not complex, as ``type``."""
        value = self.build(expr)
        assert isinstance(value, Node), expr
        return self.graph.convert(value, type)

    def cast(self, expr: Expr, dtype: DType) -> Value:
        return self.convert(self.build(expr), dtype)

    def convert(self, value: Value, dtype: DType) -> Value:
        if dtype is COMPLEX:
            return value if isinstance(value, tuple) else (self.graph.convert(value, REAL), self.graph.const(0.0))
        assert isinstance(value, Node)
        return self.graph.convert(value, dtype)

    def _select(self, condition: Node, then: Value, otherwise: Value) -> Value:
        chosen = [self.graph.select(condition, a, b) for a, b in zip(parts(then), parts(otherwise), strict=True)]
        return (chosen[0], chosen[1]) if len(chosen) == 2 else chosen[0]

    # ------------------------------------------------------------ reads

    def _read(self, read: Read) -> Value:
        tensor = self.tensors[read.tensor]
        if read.tensor not in self.inside:
            return self._guarded(read, self._load(read))
        if all(i == Index(a) for a, i in zip(tensor.axes, read.indices, strict=True)):
            return self.value(read.tensor)
        time = self.kernel.time
        if time in tensor.axes and read.tensor in self.kernel.carried:
            index = read.indices[tensor.axes.index(time)]
            if read.tensor in self.held or self.ranges.offset(Index(time), index) != (0, 0):
                at_once = self.kernel.at_once and Index(time) in walk(index)
                return self._guarded(read, (self._before if at_once else self.ring)(read, index), skip=time)
        if self.is_cheap(read.tensor):
            moved = dict(zip(tensor.axes, read.indices, strict=True))
            return self._guarded(
                read, self.cast(substitute(self.program.equation(read.tensor).expr, moved), tensor.dtype)
            )
        self.value(read.tensor)
        self.arrays.add(read.tensor)
        return self._guarded(read, self._element(read, "array", ()), skip=time)

    def _load(self, read: Read) -> Value:
        tensor = self.tensors[read.tensor]
        indices = tuple(self.real(i, INT) for i in read.indices)
        type = REAL if tensor.dtype is COMPLEX else tensor.dtype
        return _pair([self.graph.node("load", type, (read.tensor, p), indices) for p in part_names(tensor.dtype)])

    def ring(self, read: Read, index: Expr) -> Value:
        """A carried value at a lag, or after the last step."""
        time = self.kernel.time
        assert time is not None
        reverse = self._is_backwards(read.tensor)
        part, steps = self.kernel.part, self.kernel.steps
        if part and steps is not None and index == last_step(time, steps, reverse, part):
            return self._element(read, "final", (self.graph.const(1, INT),))
        distance = (
            (index.value.real + 1,) if reverse and isinstance(index, Const) else self.ranges.from_end(time, index)
        )
        final = distance is not None and distance[0] >= 1 and Index(time) not in _indices(index)
        here: Expr = as_int(-1) if reverse and final else Size(time) if final else Index(time)
        lag = Op("sub", (index, here)) if reverse else Op("sub", (here, index))
        form = self.ranges.form(lag)
        lag_node = self.real(form.expr() if form is not None else lag, INT)
        found = self._element(read, "final" if final else "ring", (lag_node,))
        if not final and lag_node.kind != "const":
            away = self.ranges.offset(Index(time), index)
            if away is None or (away[1] >= 0 if reverse else away[0] <= 0):
                self.present |= {node.number for node in parts(found)}
        return found

    def _scan(self, equation: Equation, scan: Scan) -> Value:
        """A recurrence over many steps at once, or what it is after them."""
        factor, rest = (parts(self.cast(e, equation.dtype)) for e in (scan.factor or as_int(1), scan.rest or as_int(0)))
        found = []
        for name, own in zip(part_names(equation.dtype), rest, strict=True):
            kind, args = ("total", (own,)) if scan.total else ("scan", (*factor, *rest))
            found.append(
                self.graph.node(kind, own.type, (equation.name, name, self._is_backwards(equation.name)), args,
                                frozenset(equation.axes))
            )  # fmt: skip
        return _pair(found)

    def _before(self, read: Read, index: Expr) -> Value:
        """A value of this kernel one step before, where many are there at once."""
        time, backwards = str(self.kernel.time), self._is_backwards(read.tensor)
        way = -1 if backwards else 1
        others = [i == Index(a) for a, i in zip(self.tensors[read.tensor].axes, read.indices, strict=True) if a != time]
        if self.ranges.offset(Index(time), index) != (way, way) or not all(others):
            raise NotAtOnce(f"kernel {self.kernel.name} reads more of `{read.tensor}` than its own element a step back")
        if read.tensor in self._making:
            raise NotAtOnce(f"kernel {self.kernel.name} makes `{read.tensor}` of what is outside of its sequence")
        values = zip(parts(self.value(read.tensor)), part_names(self.tensors[read.tensor].dtype), strict=True)
        return _pair([self.graph.node("before", n.type, (read.tensor, p, backwards), (n,)) for n, p in values])

    def _is_backwards(self, name: str) -> bool:
        return self.kernel.reverse and name not in self.kernel.rebuilt

    def _element(self, read: Read, kind: str, first: tuple[Node, ...]) -> Value:
        """A value of this kernel at other inner indices; ``along`` is what no operand shows."""
        tensor = self.tensors[read.tensor]
        inner = [(a, i) for a, i in zip(tensor.axes, read.indices, strict=True) if a in self.kernel.inner]
        args = (*first, *(self.real(i, INT) for _, i in inner))
        hidden = {a for a in tensor.axes if a not in self.kernel.inner}
        if kind == "final":
            hidden.discard(str(self.kernel.time))
        type = REAL if tensor.dtype is COMPLEX else tensor.dtype
        names = part_names(tensor.dtype)
        return _pair([self.graph.node(kind, type, (read.tensor, p), args, frozenset(hidden)) for p in names])

    def _guarded(self, read: Read, value: Value, skip: str | None = None) -> Value:
        """The value where every index is inside; else what the extension says, or 0."""
        tensor, g = self.tensors[read.tensor], self.graph
        result = value
        zero = tuple(g.convert(g.const(0, INT), n.type) for n in parts(value))
        outside: Value = _pair(list(zero))
        for axis, index in zip(tensor.axes, read.indices, strict=True):
            if axis == skip or self.ranges.inside(axis, index):
                continue
            position = self.real(index, INT)
            if not self.ranges.not_below(index):
                ok = g.op("ge", position, g.const(0, INT), type=BOOL)
                result = self._select(ok, result, self._beyond(read, axis, "before", outside))
            if not self.ranges.not_beyond(axis, index):
                ok = g.op("lt", position, g.size(axis), type=BOOL)
                result = self._select(ok, result, self._beyond(read, axis, "after", outside))
        return result

    def _beyond(self, read: Read, axis: str, side: str, zero: Value) -> Value:
        extension = self.program.extension(read.tensor, axis, side)
        if extension is None:
            return zero
        return self.extended(extension, dict(zip(self.tensors[read.tensor].axes, read.indices, strict=True)))

    def extended(self, extension: Extension, indices: dict[str, Expr]) -> Value:
        """What an extension equation yields at these indices, as the type of its tensor."""
        return self.cast(substitute(extension.expr, indices), self.tensors[extension.tensor].dtype)

    # ------------------------------------------------------------ operations

    def _operation(self, expr: Op) -> Value:
        if expr.op == "mul":
            return self._product(expr)
        if expr.op == "exp" and (power := self._scaled(expr.args[0])) is not None:
            return self.graph.op("exp2", power)
        args = [self.build(a) for a in expr.args]
        if any(isinstance(a, tuple) for a in args):
            from .complex_parts import complex_operation

            return complex_operation(self, expr.op, args)
        nodes = [a for a in args if isinstance(a, Node)]
        return self.plain(expr.op, nodes)

    def _scaled(self, exponent: Expr) -> Node | None:
        """exponent / log 2, when a factor of it does not change along time: that factor takes the
        constant up before time starts, and 2 to the x costs less than e to the x."""
        if self.kernel.time is None or not isinstance(exponent, Op) or exponent.op != "mul":
            return None
        values = [self.build(f) for f in _factors(exponent)]
        if any(isinstance(v, tuple) for v in values):
            return None
        if not any(v.kind != "const" and self.kernel.time not in v.axes for v in values if isinstance(v, Node)):
            return None
        scaled = self._product(Op("mul", (Const(math.log2(math.e), REAL), exponent)))
        assert isinstance(scaled, Node)
        return scaled

    def plain(self, op: str, args: list[Node]) -> Value:
        """An operation on values none of which is complex."""
        g = self.graph
        if op == "complex":
            return g.convert(args[0], REAL), g.convert(args[1], REAL)
        if op in ("re", "conj"):
            return g.convert(args[0], REAL if op == "re" or args[0].type is REAL else INT)
        if op == "im":
            return g.const(0.0)
        row = OPERATIONS[op]
        highest = max((a.type for a in args), key=lambda t: t.rank)
        type = max((INT if row.accepts is not BOOL else BOOL, highest), key=lambda t: t.rank)
        if isinstance(row.yields, DType):
            result = row.yields
        elif row.yields.name == "AT_LEAST_REAL":
            type = result = REAL
        else:
            result = type
        if op in ("real", "int"):
            return g.convert(args[0], REAL if op == "real" else INT)
        if op in ("floor", "ceil", "round") and type is INT:
            return g.convert(args[0], INT)
        if (cheaper := self._cheaper(op, args)) is not None:
            return cheaper
        if op == "pow":
            return self._power(g.convert(args[0], type), args[1], type)
        return g.op(op, *(g.convert(a, type) for a in args), type=result)

    def _cheaper(self, op: str, args: list[Node]) -> Node | None:
        """The same by operations that cost less, if there are such."""
        g = self.graph
        if op in ("exp", "expm1") and (half := _half(args[0])) is not None:
            # e^x and e^2x share their exponential; e^2x - 1 = (e^x - 1)(e^x - 1 + 2) is as exact.
            other = g.op(op, half)
            return g.op("mul", other, other if op == "exp" else g.op("add", other, g.const(2.0)))
        if op == "div" and args[1].kind == "op" and args[1].name == "sqrt":
            return g.op("mul", g.convert(args[0], REAL), g.op("rsqrt", *args[1].args))
        return None

    def _power(self, base: Node, exponent: Node, type: DType) -> Node:
        g = self.graph
        if exponent.kind == "const" and float(exponent.name) in (0.5, 1, 2, 3, 4, -1) and type is REAL:
            power = float(exponent.name)
            if power == 0.5:
                return g.op("sqrt", base)
            if power == -1:
                return g.op("div", g.const(1.0), base)
            return _chain(g, base, int(power))
        if exponent.kind == "const" and type is INT and 1 <= int(exponent.name) <= 4:
            return _chain(g, base, int(exponent.name))
        return g.op("pow", base, g.convert(exponent, type), type=type)

    def _product(self, expr: Op) -> Value:
        """A flattened product; real factors first, those of the fewest loops before the others."""
        values = [self.build(f) for f in _factors(expr)]
        plain = [v for v in values if isinstance(v, Node)]
        pairs = [v for v in values if isinstance(v, tuple)]
        type = max((v.type for v in plain), key=lambda t: t.rank, default=INT)
        type = REAL if pairs else max((type, INT), key=lambda t: t.rank)
        ordered = sorted(plain, key=self._depth)
        scale = None
        for node in ordered:
            node = self.graph.convert(node, type)
            scale = node if scale is None else self.graph.op("mul", scale, node)
        if not pairs:
            assert scale is not None
            return scale
        from .complex_parts import multiply

        product: Value = sorted(pairs, key=lambda p: max(self._depth(p[0]), self._depth(p[1])))[0]
        for pair in sorted(pairs, key=lambda p: max(self._depth(p[0]), self._depth(p[1])))[1:]:
            product = multiply(self.graph, product, pair)
        if scale is not None:
            product = (self.graph.op("mul", product[0], scale), self.graph.op("mul", product[1], scale))  # type: ignore[index]
        return product

    def _depth(self, node: Node) -> tuple[bool, int, bool]:
        inner = sum(a in self.kernel.inner for a in node.axes)
        return (self.kernel.time in node.axes, inner, self.kernel.lane in node.axes)

    # ------------------------------------------------------------ reductions

    def _reduce(self, expr: Reduce) -> Value:
        g = self.graph
        condition = self.real(expr.condition, BOOL) if expr.condition is not None else None
        body = self.build(expr.body)
        kind, axes = expr.kind, expr.axes
        if kind == "mean":
            count = self._count(axes, condition)
            total = self._sum(body, axes, condition, at_least=REAL)
            some = g.op("gt", count, g.const(0, INT), type=BOOL)
            divided = [g.op("div", t, g.convert(count, REAL)) for t in parts(total)]
            return self._select(some, _pair(divided), _pair([g.const(0.0) for _ in divided]))
        if kind == "sum":
            return self._sum(body, axes, condition)
        if isinstance(body, tuple):
            raise InternalError(f"{kind} of complex values")
        if kind in ("softmax", "logsumexp"):
            return self._normalised(kind, axes, condition, g.convert(body, REAL))
        if kind in ("any", "all"):
            body = g.convert(body, BOOL)
            if condition is not None:
                body = g.op("and", condition, body) if kind == "any" else g.op("or", g.op("not", condition), body)
            return g.node("reduce", BOOL, (kind, *axes), (body,))
        body = g.convert(body, max((body.type, INT), key=lambda t: t.rank))
        if kind in ("argmax", "argmin"):
            args = (body,) if condition is None else (condition, body)
            return g.node("reduce", INT, (kind, *axes), args)
        return self._fold(kind, body, axes, condition, _neutral(g, kind, body.type))

    def _sum(self, body: Value, axes: tuple[str, ...], condition: Node | None, at_least: DType = INT) -> Value:
        g = self.graph
        found = []
        for node in parts(body):
            node = g.convert(node, max((node.type, at_least), key=lambda t: t.rank))
            found.append(self._fold("sum", node, axes, condition, g.convert(g.const(0, INT), node.type)))
        return _pair(found)

    def _fold(self, kind: str, body: Node, axes: tuple[str, ...], condition: Node | None, neutral: Node) -> Node:
        if condition is not None:
            body = self.graph.select(condition, body, neutral)
        return self.graph.node("reduce", body.type, (kind, *axes), (body,))

    def _count(self, axes: tuple[str, ...], condition: Node | None) -> Node:
        g = self.graph
        if condition is not None:
            return self._fold("sum", g.convert(condition, INT), axes, None, g.const(0, INT))
        count = g.size(axes[0])
        for axis in axes[1:]:
            count = g.op("mul", count, g.size(axis))
        return count

    def _normalised(self, kind: str, axes: tuple[str, ...], condition: Node | None, body: Node) -> Node:
        """softmax or logsumexp, with the largest value taken out; 0 instead of an infinite one."""
        g = self.graph
        zero = g.const(0.0)
        top = self._fold("max", body, axes, condition, g.const(-math.inf))
        finite = g.op("lt", g.op("abs", top), g.const(math.inf), type=BOOL)
        shift = g.select(finite, top, zero)
        weight = g.op("exp", g.op("sub", body, shift))
        total = self._fold("sum", weight, axes, condition, zero)
        if kind == "logsumexp":
            return g.op("add", g.op("log", total), shift)
        share = g.op("div", weight, total)
        return share if condition is None else g.select(condition, share, zero)


def _neutral(g: Graph, kind: str, type: DType) -> Node:
    if kind == "prod":
        return g.convert(g.const(1, INT), type)
    if type is INT:
        return g.const(_INT_MIN if kind == "max" else _INT_MAX, INT)
    return g.const(-math.inf if kind == "max" else math.inf)


def _chain(g: Graph, base: Node, power: int) -> Node:
    square = g.op("mul", base, base)
    return {1: base, 2: square, 3: g.op("mul", square, base), 4: g.op("mul", square, square)}[power]


def _factors(expr: Expr) -> list[Expr]:
    """The factors of a product of products, in order."""
    found: list[Expr] = []
    stack = [expr]
    while stack:
        item = stack.pop()
        if isinstance(item, Op) and item.op == "mul":
            stack += [item.args[1], item.args[0]]
        else:
            found.append(item)
    return found


def _half(node: Node) -> Node | None:
    """x of a product 2 · x."""
    if node.kind == "op" and node.name == "mul" and node.args[0].kind == "const" and node.args[0].name == 2.0:
        return node.args[1]
    return None


def _pair(nodes: list[Node]) -> Value:
    return (nodes[0], nodes[1]) if len(nodes) == 2 else nodes[0]


def _indices(expr: Expr) -> set[Expr]:
    return {n for n in walk(expr) if isinstance(n, Index)}
