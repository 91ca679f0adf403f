"""The tangent of one equation: how fast its value moves while what it reads moves.

    y = where(c, a * x, b)      dot.y = where(c, x * dot.a + a * dot.x, dot.b)

What is chosen by a condition moves as the side that is taken; whole numbers, comparisons and places do not move.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from ssmc.ir import (
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
    Tensor,
    Transform,
    Where,
    children,
    type_of,
    walk,
)

from .adjoint import other_factors
from .algebra import ONE, ZERO, add, call, div, is_number, mul, neg, number, sub
from .derivatives import APART, CHOICES, PARTIALS
from .flatten import MOVING
from .inline import filled
from .names import Names


def passed_on(expr: Expr) -> Iterator[str]:
    """The tensors whose movement moves the value of ``expr``: not those that only decide or only give an index."""
    match expr:
        case Read(tensor=name):
            yield name
        case Apply(args=names):
            yield from names
        case Where(then=a, otherwise=b):
            yield from passed_on(a)
            yield from passed_on(b)
        case Reduce(kind=kind, body=body):
            yield from passed_on(body) if kind in MOVING else ()
        case Transform(kind="hadamard", body=body):
            yield from passed_on(body)
        case Op(op=op, args=args):
            partials = (ONE,) * len(args) if op in APART else PARTIALS[op](args, expr)
            for arg, partial in zip(args, partials, strict=True):
                yield from passed_on(arg) if partial is not None else ()
        case Call():
            for item in children(expr):
                yield from passed_on(item)


@dataclass
class Tangents:
    """Takes tangents of the expressions of ``program``; ``moving`` names the tangent of each tensor that moves.

    ``made`` gathers equations that a rule needs, ``opaques`` the functions that it applies, ``axes`` new axes, each
    as long as another.
    """

    program: Program
    names: Names
    moving: Mapping[str, str]
    made: list[Equation] = field(default_factory=list)
    opaques: list[Opaque] = field(default_factory=list)
    axes: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tensors: dict[str, Tensor] = self.program.tensors()
        self.tensors |= {new: replace(self.tensors[name], name=new) for name, new in self.moving.items()}
        self.functions: dict[str, Function] = {f.name: f for f in self.program.functions}

    def of_equation(self, equation: Equation) -> Expr:
        """The tangent of what ``equation`` defines."""
        expr = equation.expr
        if isinstance(expr, Apply):
            return self._opaque(equation, expr)
        found = self._fold(expr, equation) if isinstance(expr, Reduce) else self.of(expr)
        return ZERO if found is None else found

    def of(self, expr: Expr) -> Expr | None:
        """The tangent of a value; None where it is 0 everywhere."""
        match expr:
            case Read(tensor=name):
                return replace(expr, tensor=self.moving[name]) if name in self.moving else None
            case Where(condition=c, then=a, otherwise=b):
                return _chosen(c, self.of(a), self.of(b))
            case Reduce():
                return self._fold(expr, None)
            case Transform(kind="hadamard", body=body):
                inner = self.of(body)
                return None if inner is None else replace(expr, body=inner)
            case Call():
                return self._call(expr)
            case Op(op=op) if op in APART:
                return self._apart(expr)
            case Op():
                return self._op(expr)
        return None

    def type(self, expr: Expr) -> DType:
        return type_of(expr, self.tensors, self.functions)

    # ------------------------------------------------------------ operations

    def _op(self, expr: Op) -> Expr | None:
        moved = [self.of(arg) for arg in expr.args]
        if all(item is None for item in moved):
            return None
        if expr.op in CHOICES:
            return _chosen(call(CHOICES[expr.op], *expr.args), *moved)
        total: Expr | None = None
        for partial, own in zip(PARTIALS[expr.op](expr.args, expr), moved, strict=True):
            if partial is None or own is None:
                continue
            part = _scaled(partial, own)
            total = part if total is None else _sum(total, part)
        return total

    def _apart(self, expr: Op) -> Expr | None:
        """Operations that take complex numbers apart or put them together; they are linear, but for the magnitude."""
        moved = [self.of(arg) for arg in expr.args]
        own = moved[0]
        if expr.op == "complex":
            parts = [ZERO if item is None else item for item in moved]
            return None if all(item is None for item in moved) else call("complex", *parts)
        if own is None:
            return None
        (arg,) = expr.args
        if expr.op != "abs":
            return own if expr.op == "conj" and self.type(own) is not COMPLEX else call(expr.op, own)
        if self.type(arg) is not COMPLEX:
            return mul(call("sign", arg), own)
        along = call("re", mul(call("conj", arg), own))
        return Where(call("gt", expr, ZERO), div(along, expr), ZERO)

    def _call(self, expr: Call) -> Expr | None:
        """A function with a gradient of its own, which says ``d.v = c · d.s``: its tangent is ``dot.s = c̄ · dot.v``."""
        function = self.functions[expr.function]
        known: dict[str, Expr] = dict(zip(function.parameters, expr.args, strict=True))
        for name, binding in function.bindings:
            known[name] = filled(binding, known)
        known[function.result_name] = expr
        total: Expr | None = None
        for parameter, rule in function.backward:
            own = self.of(known[parameter])
            if own is not None:
                part = self._turned(function, rule, known, own)
                total = part if total is None else _sum(total, part)
        return total

    def _turned(self, function: Function, rule: Expr, known: Mapping[str, Expr], own: Expr) -> Expr:
        """The transpose of a rule that is linear in the adjoint of the function, applied to a tangent.

        A rule L with conjugates is linear over the reals only: its transpose is Re(conj(L(1)) v) + i Re(conj(L(i)) v).
        """
        adjoint = f"d.{function.result_name}"

        def factor(value: Expr) -> Expr:
            return _simple(filled(rule, {**known, adjoint: value}))

        if function.dtype is not COMPLEX:
            return _scaled(factor(ONE), own)
        if not _parts_of(adjoint, rule):
            return _scaled(self._conjugate(factor(ONE)), own)
        parts = [call("re", mul(self._conjugate(factor(one)), own)) for one in (ONE, Const(1j, COMPLEX))]
        return call("complex", *parts)

    def _conjugate(self, expr: Expr) -> Expr:
        if self.type(expr) is not COMPLEX:
            return expr
        return expr.args[0] if isinstance(expr, Op) and expr.op == "conj" else call("conj", expr)

    # ------------------------------------------------------------ folds

    def _fold(self, expr: Reduce, equation: Equation | None) -> Expr | None:
        """The tangent of a fold; ``equation`` is the one that it is all of, if any."""
        body = self.of(expr.body) if expr.kind in MOVING else None
        if body is None:
            return None
        itself: Expr = expr
        if equation is not None:
            itself = Read(equation.name, tuple(map(Index, equation.axes)))
        match expr.kind:
            case "sum" | "mean":
                return replace(expr, body=body)
            case "prod":
                others = other_factors(expr, self._axis_like)
                return Reduce("sum", expr.axes, expr.condition, _scaled(others, body))
            case "max" | "min":
                return self._of_extreme(expr, body, equation)
            case "logsumexp":
                weight = call("exp", sub(expr.body, itself))
                finite = call("lt", call("abs", itself), number(float("inf")))
                return _chosen(finite, Reduce("sum", expr.axes, expr.condition, _scaled(weight, body)), None)
        mean: Expr = Reduce("sum", expr.axes, expr.condition, mul(itself, body))
        if equation is not None:
            rest = tuple(axis for axis in equation.axes if axis not in expr.axes)
            mean = self._define(f"{self.moving[equation.name]}.mean", rest, REAL, mean)
        value = mul(itself, sub(body, mean))
        return value if expr.condition is None else _chosen(expr.condition, value, None)

    def _of_extreme(self, expr: Reduce, body: Expr, equation: Equation | None) -> Expr | None:
        """The largest moves as the first of the largest does."""
        if len(expr.axes) > 1:
            inner = replace(expr, axes=expr.axes[1:])
            return self._fold(Reduce(expr.kind, expr.axes[:1], None, inner), None)
        place: Expr = replace(expr, kind=f"arg{expr.kind}")
        if equation is not None:
            place = self._define(f"{equation.name}.arg{expr.kind}", equation.axes, INT, place)
        return Reduce("sum", expr.axes, call("eq", Index(expr.axes[0]), place), body)

    def _axis_like(self, axis: str) -> str:
        name = self.names.new(f"{axis}.other")
        self.axes.append((name, axis))
        return name

    # ------------------------------------------------------------ equations of rules

    def _define(self, name: str, axes: tuple[str, ...], dtype: DType, expr: Expr) -> Read:
        """A new equation, and a read of it at its own axes."""
        made = Equation(self.names.new(name), axes, dtype, expr)
        self.made.append(made)
        self.tensors[made.name] = made.tensor
        return Read(made.name, tuple(map(Index, axes)))

    def _opaque(self, equation: Equation, apply: Apply) -> Expr:
        """The caller's function also supplies ``<name>.jvp.<input>(inputs…, tangent)``."""
        opaque = next(o for o in self.program.opaques if o.name == apply.function)
        total: Expr = ZERO
        for parameter, name in zip(opaque.parameters, apply.args, strict=True):
            if name not in self.moving:
                continue
            own = replace(parameter, name=f"dot.{parameter.name}")
            result = replace(opaque.result, name=f"dot.{opaque.result.name}")
            jvp = Opaque(f"{opaque.name}.jvp.{parameter.name}", (*opaque.parameters, own), result)
            if jvp not in self.opaques:
                self.opaques.append(jvp)
            applied = Apply(jvp.name, (*apply.args, self.moving[name]))
            part = f"{self.moving[equation.name]}.{parameter.name}"
            total = add(total, self._define(part, equation.axes, equation.dtype, applied))
        return total


def _chosen(condition: Expr, then: Expr | None, otherwise: Expr | None) -> Expr | None:
    if then is None and otherwise is None:
        return None
    return Where(condition, ZERO if then is None else then, ZERO if otherwise is None else otherwise)


def _sum(a: Expr, b: Expr) -> Expr:
    """a + b, written from left to right."""
    match b:
        case Op(op="add" | "sub" as op, args=(first, second)):
            return replace(b, args=(_sum(a, first), second)) if op == "sub" else _sum(_sum(a, first), second)
    return add(a, b)


def _scaled(factor: Expr, tangent: Expr) -> Expr:
    """factor · tangent, written as a product from left to right; where a condition makes the factor 0, 0."""
    match factor:
        case Where(condition=c, then=a, otherwise=b) if is_number(a, 0) or is_number(b, 0):
            then, otherwise = (ZERO if is_number(side, 0) else _scaled(side, tangent) for side in (a, b))
            return Where(c, then, otherwise)
        case Op(op="neg", args=(inner,)):
            return neg(_scaled(inner, tangent))
        case Op(op="div", args=(one, below)) if is_number(one, 1):
            return div(tangent, below)
    match tangent:
        case Op(op="mul", args=(a, b)):
            return mul(_scaled(factor, a), b)
        case Op(op="neg", args=(inner,)):
            return neg(_scaled(factor, inner))
    return mul(factor, tangent)


def _simple(expr: Expr) -> Expr:
    """Without products by 1."""
    match expr:
        case Op(op="mul", args=(a, b)):
            return mul(_simple(a), _simple(b))
        case Op(op="div", args=(a, b)):
            return div(_simple(a), b)
        case Op(op="neg", args=(a,)):
            return neg(_simple(a))
    return expr


def _parts_of(name: str, expr: Expr) -> bool:
    """Whether real parts, imaginary parts or conjugates are taken of what ``name`` enters."""
    return any(
        isinstance(node, Op) and node.op in APART and any(isinstance(n, Read) and n.tensor == name for n in walk(node))
        for node in walk(expr)
    )


__all__ = ["Tangents", "passed_on"]
