"""Programs written in Python, for tests: ``read("h", "b", t - 1)`` with ``t = index("t")``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ssmc.ir import (
    BOOL,
    COMPLEX,
    INT,
    REAL,
    Axis,
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
    Requirement,
    Size,
    Tensor,
    Where,
)


def constant(value: complex | bool) -> Const:
    kinds = {bool: BOOL, int: INT, float: REAL, complex: COMPLEX}
    return Const(value, kinds[type(value)])


def unwrap(value: Any) -> Expr:
    return value.expr if isinstance(value, Term) else constant(value)


@dataclass(frozen=True)
class Term:
    """An expression with Python's operators."""

    expr: Expr

    def _op(self, name: str, other: Any) -> Term:
        return Term(Op(name, (self.expr, unwrap(other))))

    def _rop(self, name: str, other: Any) -> Term:
        return Term(Op(name, (unwrap(other), self.expr)))

    def __add__(self, other: Any) -> Term:
        return self._op("add", other)

    def __radd__(self, other: Any) -> Term:
        return self._rop("add", other)

    def __sub__(self, other: Any) -> Term:
        return self._op("sub", other)

    def __rsub__(self, other: Any) -> Term:
        return self._rop("sub", other)

    def __mul__(self, other: Any) -> Term:
        return self._op("mul", other)

    def __rmul__(self, other: Any) -> Term:
        return self._rop("mul", other)

    def __truediv__(self, other: Any) -> Term:
        return self._op("div", other)

    def __floordiv__(self, other: Any) -> Term:
        return self._op("floordiv", other)

    def __mod__(self, other: Any) -> Term:
        return self._op("mod", other)

    def __neg__(self) -> Term:
        return Term(Op("neg", (self.expr,)))

    def __lt__(self, other: Any) -> Term:
        return self._op("lt", other)

    def __le__(self, other: Any) -> Term:
        return self._op("le", other)

    def __gt__(self, other: Any) -> Term:
        return self._op("gt", other)

    def __ge__(self, other: Any) -> Term:
        return self._op("ge", other)

    def __and__(self, other: Any) -> Term:
        return self._op("and", other)

    def eq(self, other: Any) -> Term:
        return self._op("eq", other)


def index(axis: str) -> Term:
    return Term(Index(axis))


def size(axis: str) -> Term:
    return Term(Size(axis))


def read(tensor: str, *indices: str | int | Term) -> Term:
    """An element; an index is the name of an axis or any expression."""
    return Term(Read(tensor, tuple(Index(i) if isinstance(i, str) else unwrap(i) for i in indices)))


def op(name: str, *args: Any) -> Term:
    return Term(Op(name, tuple(map(unwrap, args))))


def where(condition: Term, then: Any, otherwise: Any) -> Term:
    return Term(Where(condition.expr, unwrap(then), unwrap(otherwise)))


def fold(kind: str, axes: str, body: Any, condition: Term | None = None) -> Term:
    """A reduction over axes given as one string, ``"s"`` or ``"i j"``."""
    return Term(Reduce(kind, tuple(axes.split()), None if condition is None else condition.expr, unwrap(body)))


def tensor(text: str, dtype: DType = REAL) -> Tensor:
    """``"x b t d"``: a name and its axes."""
    name, *axes = text.split()
    return Tensor(name, tuple(axes), dtype)


def equation(text: str, expr: Any, dtype: DType = REAL) -> Equation:
    name, *axes = text.split()
    return Equation(name, tuple(axes), dtype, unwrap(expr) if isinstance(expr, Term | bool | int | float) else expr)


def before(name: str, axis: str, expr: Any) -> Extension:
    return Extension(name, axis, "before", unwrap(expr))


def after(name: str, axis: str, expr: Any) -> Extension:
    return Extension(name, axis, "after", unwrap(expr))


def program(
    inputs: Iterable[Tensor],
    equations: Iterable[Equation],
    outputs: str = "y",
    sequence: str = "t",
    extents: dict[str, Any] | None = None,
    extensions: Iterable[Extension] = (),
    require: Iterable[Term] = (),
    **more: Any,
) -> Program:
    """A Program whose axes are those of its inputs, then those in ``extents``."""
    stated = {name: unwrap(extent) for name, extent in (extents or {}).items()}
    inputs = tuple(inputs)
    names = dict.fromkeys([axis for item in inputs for axis in item.axes] + list(stated))
    axes = tuple(Axis(name, stated.get(name), name in sequence.split()) for name in names)
    requirements = tuple(Requirement(item.expr) for item in require)
    return Program(
        "test", axes, inputs, tuple(outputs.split()), tuple(equations), tuple(extensions),
        requirements=requirements, **more,
    )  # fmt: skip
