"""The adjoint of one equation: what every read in it receives from the adjoint of its value.

    y = where(c, a * x, b)      x receives  d.y * a  where c,      b receives  d.y  where not c

Complex numbers follow PyTorch: the adjoint of z is the derivative along its real part plus i times that along
its imaginary part, so that a holomorphic f passes on ``d.f · conj(f′)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ssmc.ir import (
    BOOL,
    COMPLEX,
    INT,
    REAL,
    Apply,
    Call,
    Const,
    DType,
    Equation,
    Expr,
    Function,
    Index,
    Op,
    Opaque,
    Program,
    Read,
    Reduce,
    Size,
    Tensor,
    Transform,
    Where,
    free_axes,
    rewrite,
    substitute,
    type_of,
    walk,
)

from .derivatives import PARTIALS, ZERO, call, div, mul, number, sub
from .flatten import Names


@dataclass(frozen=True)
class Share:
    """What ``read`` receives: ``value`` at every point of the equation's axes and ``bound`` ones where all
    ``conditions`` hold."""

    read: Read
    value: Expr
    conditions: tuple[Expr, ...]
    bound: tuple[str, ...]


@dataclass
class Adjoints:
    """Pushes adjoints through expressions of ``program``.

    ``active`` are the tensors whose adjoint is wanted; ``made`` gathers equations that a rule needs, ``opaques``
    the functions that it applies.
    """

    program: Program
    names: Names
    active: frozenset[str]
    made: list[Equation] = field(default_factory=list)
    opaques: list[Opaque] = field(default_factory=list)
    axes: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tensors: dict[str, Tensor] = self.program.tensors()
        self.functions: dict[str, Function] = {f.name: f for f in self.program.functions}

    def type(self, expr: Expr) -> DType:
        return type_of(expr, self.tensors, self.functions)

    def define(self, name: str, axes: tuple[str, ...], dtype: DType, expr: Expr) -> Read:
        """A new equation, and a read of it at its own axes."""
        made = Equation(self.names.new(name), axes, dtype, expr)
        self.made.append(made)
        self.tensors[made.name] = made.tensor
        return Read(made.name, tuple(Index(a) for a in axes))

    def shares(self, equation: Equation, adjoint: Read) -> list[Share]:
        """What every active read of ``equation`` receives."""
        if isinstance(equation.expr, Apply):
            return self._opaque(equation, equation.expr, adjoint)
        return _Push(self, equation, adjoint).run()

    def _opaque(self, equation: Equation, apply: Apply, adjoint: Read) -> list[Share]:
        """The caller's function also supplies ``<name>.vjp.<input>(inputs…, adjoint)``."""
        opaque = next(o for o in self.program.opaques if o.name == apply.function)
        found = []
        for parameter, name in zip(opaque.parameters, apply.args, strict=True):
            if name not in self.active:
                continue
            result = Tensor(f"d.{parameter.name}", parameter.axes, parameter.dtype)
            seed = Tensor(f"d.{opaque.result.name}", opaque.result.axes, opaque.result.dtype)
            vjp = Opaque(f"{opaque.name}.vjp.{parameter.name}", (*opaque.parameters, seed), result)
            if vjp not in self.opaques:
                self.opaques.append(vjp)
            tensor = self.tensors[name]
            made = self.define(f"{adjoint.tensor}.{parameter.name}", tensor.axes, tensor.dtype,
                               Apply(vjp.name, (*apply.args, adjoint.tensor)))  # fmt: skip
            found.append(Share(Read(name, made.indices), made, (), ()))
        return found


@dataclass
class _Push:
    """One equation."""

    adjoints: Adjoints
    equation: Equation
    adjoint: Read
    found: list[Share] = field(default_factory=list)

    def run(self) -> list[Share]:
        expr = self.equation.expr
        value: Expr = self.adjoint
        if self.equation.dtype is COMPLEX and self.type(expr) is not COMPLEX:
            value = call("re", value)
        self.push(expr, value, (), ())
        return self.found

    def type(self, expr: Expr) -> DType:
        return self.adjoints.type(expr)

    @property
    def itself(self) -> Read:
        """The value of the equation, here."""
        return Read(self.equation.name, tuple(Index(a) for a in self.equation.axes))

    def is_active(self, expr: Expr) -> bool:
        return any(isinstance(node, Read) and node.tensor in self.adjoints.active for node in walk(expr))

    def push(self, expr: Expr, value: Expr, conditions: tuple[Expr, ...], bound: tuple[str, ...]) -> None:
        """Hand ``value``, the adjoint of ``expr``, down to the reads in it."""
        if not self.is_active(expr) or self.type(expr) in (INT, BOOL):
            return
        match expr:
            case Read(tensor=name):
                if name in self.adjoints.active:
                    self._read(expr, value, conditions, bound)
            case Where(condition=c, then=a, otherwise=b):
                self.push(a, self._as(value, a), (*conditions, c), bound)
                self.push(b, self._as(value, b), (*conditions, negated(c)), bound)
            case Reduce():
                self._reduce(expr, value, conditions, bound)
            case Transform(kind="hadamard", axis=axis, body=body):
                axes = self.equation.axes
                turned = self.adjoints.define(f"{self.adjoint.tensor}.hadamard", axes, self.type(value),
                                              Transform("hadamard", axis, value))  # fmt: skip
                self.push(body, turned, conditions, bound)
            case Call():
                self._call(expr, value, conditions, bound)
            case Op():
                self._op(expr, value, conditions, bound)

    def _as(self, value: Expr, expr: Expr) -> Expr:
        """An adjoint for a value of the type of ``expr``: of a real one only the real part counts."""
        if self.type(value) is COMPLEX and self.type(expr) is not COMPLEX:
            return call("re", value)
        return value

    def _read(self, read: Read, value: Expr, conditions: tuple[Expr, ...], bound: tuple[str, ...]) -> None:
        self.found.append(Share(read, self._as(value, read), conditions, bound))
        axes = self.adjoints.tensors[read.tensor].axes
        for extension in self.adjoints.program.extensions:
            if extension.tensor != read.tensor or not self.is_active(extension.expr):
                continue
            index = read.indices[axes.index(extension.axis)]
            before = extension.side == "before"
            outside = call("lt", index, _int(0)) if before else call("ge", index, Size(extension.axis))
            if index == Index(extension.axis):
                continue
            there = substitute(extension.expr, dict(zip(axes, read.indices, strict=True)))
            self.push(there, self._as(value, there), (*conditions, outside), bound)

    # ------------------------------------------------------------ operations

    def _op(self, expr: Op, value: Expr, conditions: tuple[Expr, ...], bound: tuple[str, ...]) -> None:
        args = expr.args
        match expr.op:
            case "complex":
                values: tuple[Expr | None, ...] = (call("re", value), call("im", value))
            case "re" | "conj" if self.type(args[0]) is not COMPLEX:
                values = (value,)
            case "re":
                values = (value,)
            case "im":
                values = (call("complex", ZERO, value),)
            case "conj":
                values = (call("conj", value),)
            case "abs" if self.type(args[0]) is COMPLEX:
                direction = Where(call("gt", expr, ZERO), div(args[0], expr), ZERO)
                values = (mul(value, direction),)
            case "abs":
                values = (mul(value, call("sign", args[0])),)
            case _:
                partials = PARTIALS[expr.op](args, expr)
                values = tuple(None if p is None else mul(value, self._conjugate(p)) for p in partials)
        for arg, own in zip(args, values, strict=True):
            if own is not None:
                self.push(arg, self._as(own, arg), conditions, bound)

    def _conjugate(self, expr: Expr) -> Expr:
        return call("conj", expr) if self.type(expr) is COMPLEX else expr

    def _call(self, expr: Call, value: Expr, conditions: tuple[Expr, ...], bound: tuple[str, ...]) -> None:
        """A function with a gradient of its own: its ``backward:`` block says what its arguments receive."""
        function = self.adjoints.functions[expr.function]
        known: dict[str, Expr] = dict(zip(function.parameters, expr.args, strict=True))
        for name, binding in function.bindings:
            known[name] = filled(binding, known)
        known[function.result_name] = expr
        known[f"d.{function.result_name}"] = value
        rules = dict(function.backward)
        for parameter, arg in zip(function.parameters, expr.args, strict=True):
            if parameter in rules:
                self.push(arg, self._as(filled(rules[parameter], known), arg), conditions, bound)

    # ------------------------------------------------------------ folds

    def _reduce(self, expr: Reduce, value: Expr, conditions: tuple[Expr, ...], bound: tuple[str, ...]) -> None:
        within = conditions if expr.condition is None else (*conditions, expr.condition)
        inner = bound if expr.kind == "softmax" else (*bound, *expr.axes)
        match expr.kind:
            case "sum":
                self.push(expr.body, value, within, inner)
            case "mean":
                self.push(expr.body, div(value, self._count(expr)), within, inner)
            case "prod":
                self.push(expr.body, mul(value, self._others(expr)), within, inner)
            case "max" | "min":
                place = self._first(expr)
                self.push(expr.body, value, (*within, call("eq", Index(expr.axes[0]), place)), inner)
            case "logsumexp":
                finite = call("lt", call("abs", self.itself), number(float("inf")))
                weight = call("exp", sub(expr.body, self.itself))
                self.push(expr.body, mul(value, weight), (*within, finite), inner)
            case "softmax":
                rest = tuple(a for a in self.equation.axes if a not in expr.axes)
                dot = self.adjoints.define(f"{self.adjoint.tensor}.dot", rest, REAL,
                                           Reduce("sum", expr.axes, None, mul(self.itself, value)))  # fmt: skip
                self.push(expr.body, mul(self.itself, sub(value, dot)), within, inner)

    def _count(self, expr: Reduce) -> Expr:
        """How many points a mean is over."""
        if expr.condition is None:
            count: Expr = Size(expr.axes[0])
            for axis in expr.axes[1:]:
                count = Op("mul", (count, Size(axis)))
            return count
        free = free_axes(expr.condition) - set(expr.axes)
        axes = tuple(a for a in self.equation.axes if a in free)
        counted = Reduce("sum", expr.axes, expr.condition, _int(1))
        return self.adjoints.define(f"{self.equation.name}.count", axes, INT, counted)

    def _others(self, expr: Reduce) -> Expr:
        return self._conjugate(other_factors(expr, self._axis_like))

    def _axis_like(self, axis: str) -> str:
        name = self.adjoints.names.new(f"{axis}.other")
        self.adjoints.axes.append((name, axis))
        return name

    def _first(self, expr: Reduce) -> Expr:
        """Where the largest (smallest) value stands first."""
        place = Reduce(f"arg{expr.kind}", expr.axes, expr.condition, expr.body)
        return self.adjoints.define(f"{self.equation.name}.{place.kind}", self.equation.axes, INT, place)


def other_factors(product: Reduce, axis_like: Callable[[str], str]) -> Expr:
    """At each point of a product, the product over all other points, along new axes: right where some are 0."""
    moved = {axis: Index(axis_like(axis)) for axis in product.axes}
    differs: Expr | None = None
    for axis, other in moved.items():
        unequal = call("ne", other, Index(axis))
        differs = unequal if differs is None else call("or", differs, unequal)
    if product.condition is not None and differs is not None:
        differs = call("and", substitute(product.condition, moved), differs)
    return Reduce("prod", tuple(other.axis for other in moved.values()), differs, substitute(product.body, moved))


def negated(condition: Expr) -> Expr:
    if isinstance(condition, Op) and condition.op == "not":
        return condition.args[0]
    return call("not", condition)


def _int(value: int) -> Expr:
    return Const(value, INT)


def filled(expr: Expr, known: Mapping[str, Expr]) -> Expr:
    """A function's expression with its names replaced by what they stand for."""

    def rule(node: Expr) -> Expr | None:
        return known.get(node.tensor) if isinstance(node, Read) and not node.indices else None

    return rewrite(expr, rule)


__all__ = ["Adjoints", "Share", "filled", "negated", "other_factors"]
