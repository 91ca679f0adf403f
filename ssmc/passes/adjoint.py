"""The adjoint of one equation: what every read in it receives from the adjoint of its value.

    y = where(c, a * x, b)      x receives  d.y * a  where c,      b receives  d.y  where not c

Complex numbers follow PyTorch: the adjoint of z is the derivative along its real part plus i times that along
its imaginary part, so that a holomorphic f passes on ``d.f · conj(f′)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from ssmc.ir import (
    BOOL,
    COMPLEX,
    INT,
    REAL,
    Apply,
    Axis,
    Call,
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
    substitute,
    type_of,
)

from .affine import Indices
from .algebra import ZERO, call, conj, div, mul, negated, number, sub, whole
from .derivatives import APART, CHOICES, PARTIALS
from .flatten import MOVING, moved
from .inline import filled
from .names import Names


@dataclass(frozen=True)
class Share:
    """What ``read`` receives: ``value`` at every point of the equation's axes and ``bound`` ones where all
    ``conditions`` and ``edges`` hold. The ``edges`` say that another read lies outside its axis, of whose
    extension ``read`` is a part."""

    read: Read
    value: Expr
    conditions: tuple[Expr, ...]
    edges: tuple[Expr, ...]
    bound: tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    """Where in an equation a value is: under which conditions, inside which folds."""

    conditions: tuple[Expr, ...] = ()
    edges: tuple[Expr, ...] = ()
    bound: tuple[str, ...] = ()

    def where(self, *conditions: Expr) -> _Place:
        return replace(self, conditions=(*self.conditions, *conditions))

    def outside(self, *edges: Expr) -> _Place:
        return replace(self, edges=(*self.edges, *edges))

    def inside(self, axes: tuple[str, ...]) -> _Place:
        return replace(self, bound=(*self.bound, *axes))


@dataclass
class Adjoints:
    """Pushes adjoints through the expressions of ``program``, which is flat.

    ``active`` are the tensors whose adjoint is wanted. Equations that a rule needs are gathered in ``made``, under
    the name of the equation that was differentiated; beside them the functions applied and the axes introduced.
    """

    program: Program
    names: Names
    active: frozenset[str]
    indices: Indices
    made: dict[str, list[Equation]] = field(default_factory=dict)
    opaques: list[Opaque] = field(default_factory=list)
    axes: list[Axis] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tensors: dict[str, Tensor] = self.program.tensors()
        self.functions: dict[str, Function] = {f.name: f for f in self.program.functions}
        self._same: dict[tuple[tuple[str, ...], DType, Expr], str] = {}

    def type(self, expr: Expr) -> DType:
        return type_of(expr, self.tensors, self.functions)

    def define(self, owner: Equation, name: str, axes: tuple[str, ...], dtype: DType, expr: Expr) -> Read:
        """A read, at its own axes, of an equation for ``expr``: of a new one, unless there is such a one."""
        key = (axes, dtype, expr)
        if key not in self._same:
            made = Equation(self.names.new(name), axes, dtype, expr, owner.span)
            self.made.setdefault(owner.name, []).append(made)
            self.tensors[made.name] = made.tensor
            if not isinstance(expr, Apply):
                self._same[key] = made.name
            return Read(made.name, tuple(map(Index, axes)))
        return Read(self._same[key], tuple(map(Index, axes)))

    def defined(self, axes: tuple[str, ...], dtype: DType, expr: Expr) -> bool:
        """Whether there is an equation for ``expr`` already."""
        return (axes, dtype, expr) in self._same

    def axis_like(self, axis: str, word: str) -> str:
        """A new axis as long as another."""
        made = Axis(self.names.new(f"{axis}.{word}"), Size(axis))
        self.axes.append(made)
        self.indices.declare(made)
        return made.name

    def passing(self, equation: Equation) -> Iterator[str]:
        """The tensors that receive something from the adjoint of an equation."""
        yield from self._passing(equation.expr)

    def _passing(self, expr: Expr, outside: frozenset[str] = frozenset()) -> Iterator[str]:
        """Beyond the ends of what is in ``outside``, which is asked about already, too."""
        match expr:
            case Read(tensor=name):
                if self.tensors[name].dtype in (REAL, COMPLEX):
                    yield name
                    for extension in self.program.extensions:
                        if extension.tensor == name and name not in outside:
                            yield from self._passing(extension.expr, outside | {name})
            case Apply(args=names):
                yield from (n for n in names if self.tensors[n].dtype in (REAL, COMPLEX))
            case Where(then=a, otherwise=b):
                yield from self._passing(a, outside)
                yield from self._passing(b, outside)
            case Reduce(kind=kind, body=body):
                yield from self._passing(body, outside) if kind in MOVING else ()
            case Transform(kind="hadamard", body=body):
                yield from self._passing(body, outside)
            case Op(op=op, args=args):
                partials = args if op in APART else PARTIALS[op](args, expr)
                for arg, partial in zip(args, partials, strict=True):
                    yield from self._passing(arg, outside) if partial is not None else ()
            case Call(args=args):
                for arg in args:
                    yield from self._passing(arg, outside)

    def shares(self, equation: Equation, adjoint: Read) -> list[Share]:
        """What every active read of ``equation`` receives."""
        if isinstance(equation.expr, Apply):
            return self._opaque(equation, equation.expr, adjoint)
        return _Push(self, equation, adjoint).run()

    def _opaque(self, equation: Equation, apply: Apply, adjoint: Read) -> list[Share]:
        """The caller's function also supplies ``<name>.vjp.<parameter>(inputs…, adjoint)``."""
        opaque = next(o for o in self.program.opaques if o.name == apply.function)
        found = []
        for parameter, name in zip(opaque.parameters, apply.args, strict=True):
            if name not in self.active or parameter.dtype in (INT, BOOL):
                continue
            result = Tensor(f"d.{parameter.name}", parameter.axes, parameter.dtype)
            seed = Tensor(f"d.{opaque.result.name}", opaque.result.axes, opaque.result.dtype)
            vjp = Opaque(f"{opaque.name}.vjp.{parameter.name}", (*opaque.parameters, seed), result)
            if vjp not in self.opaques:
                self.opaques.append(vjp)
            tensor = self.tensors[name]
            made = self.define(equation, f"{adjoint.tensor}.{parameter.name}", tensor.axes, tensor.dtype,
                               Apply(vjp.name, (*apply.args, adjoint.tensor)))  # fmt: skip
            found.append(Share(Read(name, made.indices), made, (), (), ()))
        return found


@dataclass
class _Push:
    """One equation."""

    adjoints: Adjoints
    equation: Equation
    adjoint: Read
    found: list[Share] = field(default_factory=list)

    def run(self) -> list[Share]:
        self.push(self.equation.expr, self._as(self.adjoint, self.equation.expr), _Place())
        return self.found

    def type(self, expr: Expr) -> DType:
        return self.adjoints.type(expr)

    @property
    def itself(self) -> Read:
        """The value of the equation, here."""
        return Read(self.equation.name, tuple(map(Index, self.equation.axes)))

    def is_active(self, expr: Expr) -> bool:
        return any(name in self.adjoints.active for name in self.adjoints._passing(expr))

    def push(self, expr: Expr, value: Expr, place: _Place) -> None:
        """Hand ``value``, the adjoint of ``expr``, down to the reads in it."""
        if self.type(expr) in (INT, BOOL) or not self.is_active(expr):
            return
        value = self._as(value, expr)
        match expr:
            case Read():
                self._read(expr, value, place)
            case Where(condition=c, then=a, otherwise=b):
                self.push(a, value, place.where(c))
                self.push(b, value, place.where(negated(c)))
            case Reduce():
                self._reduce(expr, value, place)
            case Transform(kind="hadamard", axis=axis, body=body):
                turned = self.adjoints.define(
                    self.equation, f"{self.adjoint.tensor}.hadamard", self.equation.axes, self.type(value),
                    Transform("hadamard", axis, value))  # fmt: skip
                self.push(body, turned, place)
            case Call():
                self._call(expr, value, place)
            case Op():
                self._op(expr, value, place)

    def _as(self, value: Expr, expr: Expr) -> Expr:
        """An adjoint for a value of the type of ``expr``: of a real one only the real part counts."""
        if self.type(value) is COMPLEX and self.type(expr) is not COMPLEX:
            return call("re", value)
        return value

    # ------------------------------------------------------------ reads

    def _read(self, read: Read, value: Expr, place: _Place) -> None:
        """Inside its axes the tensor receives, outside what stands for it there."""
        if read.tensor in self.adjoints.active:
            self.found.append(Share(read, value, place.conditions, place.edges, place.bound))
        axes = self.adjoints.tensors[read.tensor].axes
        for extension in self.adjoints.program.extensions:
            index = read.indices[axes.index(extension.axis)] if extension.tensor == read.tensor else None
            if index is None or not self.is_active(extension.expr):
                continue
            edge = (
                call("lt", index, whole(0)) if extension.side == "before" else call("ge", index, Size(extension.axis))
            )
            if self.adjoints.indices.holds(edge) is False:
                continue
            within = [c for axis, i in zip(axes, read.indices, strict=True) if axis != extension.axis
                      for c in self._inside(i, axis)]  # fmt: skip
            there = moved(extension.expr, dict(zip(axes, read.indices, strict=True)), self._like)
            self.push(there, value, place.outside(edge, *within))

    def _inside(self, index: Expr, axis: str) -> list[Expr]:
        """What it takes for an index to lie on its axis: with two outside, the value is 0."""
        if self.adjoints.indices.is_inside(index, axis):
            return []
        limits = (call("ge", index, whole(0)), call("lt", index, Size(axis)))
        return [limit for limit in limits if self.adjoints.indices.holds(limit) is not True]

    def _like(self, axis: str) -> str:
        return self.adjoints.axis_like(axis, "all")

    # ------------------------------------------------------------ operations

    def _op(self, expr: Op, value: Expr, place: _Place) -> None:
        args = expr.args
        if expr.op in CHOICES:
            first = call(CHOICES[expr.op], *args)
            self.push(args[0], value, place.where(first))
            self.push(args[1], value, place.where(negated(first)))
            return
        if expr.op == "relu":
            self.push(args[0], value, place.where(call("gt", args[0], ZERO)))
            return
        for arg, own in zip(args, self._parts(expr, value), strict=True):
            if own is not None:
                self.push(arg, own, place)

    def _parts(self, expr: Op, value: Expr) -> tuple[Expr | None, ...]:
        """The adjoint of each argument of an operation."""
        args = expr.args
        of_complex = any(self.type(arg) is COMPLEX for arg in args)
        match expr.op:
            case "complex":
                return call("re", value), call("im", value)
            case "re":
                return (value,)
            case "im":
                return (call("complex", ZERO, value) if of_complex else None,)
            case "conj":
                return (conj(value) if of_complex else value,)
            case "abs" if of_complex:
                return (mul(value, Where(call("gt", expr, ZERO), div(args[0], expr), ZERO)),)
        partials = PARTIALS[expr.op](args, expr)
        return tuple(None if p is None else mul(value, self._conjugate(p)) for p in partials)

    def _conjugate(self, expr: Expr) -> Expr:
        return conj(expr) if self.type(expr) is COMPLEX else expr

    def _call(self, expr: Call, value: Expr, place: _Place) -> None:
        """A function with a gradient of its own: its ``backward:`` block says what its arguments receive."""
        function = self.adjoints.functions[expr.function]
        known: dict[str, Expr] = dict(zip(function.parameters, expr.args, strict=True))
        for name, binding in function.bindings:
            known[name] = filled(binding, known)
        known[function.result_name] = expr
        known[f"d.{function.result_name}"] = value
        rules = dict(function.backward)
        for parameter, arg in zip(function.parameters, expr.args, strict=True):
            self.push(arg, filled(rules[parameter], known), place)

    # ------------------------------------------------------------ folds

    def _reduce(self, expr: Reduce, value: Expr, place: _Place) -> None:
        """``expr`` is all of its equation, unless it is a sum."""
        within = place if expr.condition is None else place.where(expr.condition)
        inner = within if expr.kind == "softmax" else within.inside(expr.axes)
        match expr.kind:
            case "sum":
                self.push(expr.body, value, inner)
            case "mean":
                self.push(expr.body, div(value, self._count(expr)), inner)
            case "prod":
                others = other_factors(expr, lambda axis: self.adjoints.axis_like(axis, "other"))
                self.push(expr.body, mul(value, self._conjugate(others)), inner)
            case "max" | "min":
                self.push(expr.body, value, inner.where(call("eq", Index(expr.axes[0]), self._first(expr))))
            case "logsumexp":
                finite = call("lt", call("abs", self.itself), number(float("inf")))
                weight = call("exp", sub(expr.body, self.itself))
                self.push(expr.body, mul(value, weight), inner.where(finite))
            case "softmax":
                rest = tuple(a for a in self.equation.axes if a not in expr.axes)
                weighted = Reduce("sum", expr.axes, expr.condition, mul(value, self.itself))
                dot = self.adjoints.define(self.equation, f"{self.adjoint.tensor}.dot", rest, REAL, weighted)
                self.push(expr.body, mul(sub(value, dot), self.itself), inner)

    def _count(self, expr: Reduce) -> Expr:
        """How many points a mean is over."""
        if expr.condition is None:
            count: Expr = Size(expr.axes[0])
            for axis in expr.axes[1:]:
                count = Op("mul", (count, Size(axis)))
            return count
        free = free_axes(expr.condition) - set(expr.axes)
        axes = tuple(a for a in self.equation.axes if a in free)
        counted = Reduce("sum", expr.axes, expr.condition, whole(1))
        return self.adjoints.define(self.equation, f"{self.equation.name}.count", axes, INT, counted)

    def _first(self, expr: Reduce) -> Expr:
        """Where the largest (smallest) value stands first."""
        place = Reduce(f"arg{expr.kind}", expr.axes, expr.condition, expr.body)
        name = f"{self.equation.name}.{place.kind}"
        return self.adjoints.define(self.equation, name, self.equation.axes, INT, place)


def other_factors(product: Reduce, axis_like: Callable[[str], str]) -> Expr:
    """At each point of a product, the product over all other points, along new axes: right where some are 0."""
    others = {axis: Index(axis_like(axis)) for axis in product.axes}
    differs: Expr | None = None
    for axis, other in others.items():
        unequal = call("ne", other, Index(axis))
        differs = unequal if differs is None else call("or", differs, unequal)
    if product.condition is not None and differs is not None:
        differs = call("and", substitute(product.condition, others), differs)
    return Reduce("prod", tuple(other.axis for other in others.values()), differs, substitute(product.body, others))


__all__ = ["Adjoints", "Share", "other_factors"]
