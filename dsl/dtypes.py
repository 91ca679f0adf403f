"""The element type of every equation, and the errors of those that do not fit together."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from ssmc.ir import (
    BOOL,
    COMPLEX,
    INT,
    OPERATIONS,
    REAL,
    REDUCTIONS,
    TRANSFORMS,
    Apply,
    Call,
    Const,
    DType,
    Expr,
    Function,
    Op,
    Read,
    Reduce,
    Tensor,
    Transform,
    Where,
    children,
    reduced_type,
    result_type,
    type_of,
    walk,
)

from .problems import Abandon, Problems

_WORDS = {BOOL: "a bool", INT: "an int", REAL: "a real", COMPLEX: "a complex number"}


def in_words(dtype: DType) -> str:
    return _WORDS[dtype]


def infer_types(
    exprs: Mapping[str, Expr], tensors: dict[str, Tensor], stated: set[str], functions: Mapping[str, Function]
) -> None:
    """Set the types of ``tensors`` that are not ``stated`` to the least ones that hold their values;
    equations refer to each other through time, so this climbs from bool until nothing changes."""
    readers: dict[str, list[str]] = {}
    waiting = deque(name for name in exprs if name not in stated)
    for name in waiting:
        for node in walk(exprs[name]):
            if isinstance(node, Read):
                readers.setdefault(node.tensor, []).append(name)
    known = dict(functions)
    while waiting:
        name = waiting.popleft()
        old = tensors[name]
        found = type_of(exprs[name], tensors, known)
        if found.rank > old.dtype.rank:
            tensors[name] = Tensor(old.name, old.axes, found, old.span)
            waiting.extend(readers.get(name, ()))


class TypeCheck:
    """Finds the operations whose arguments have types they do not accept."""

    def __init__(self, tensors: Mapping[str, Tensor], functions: Mapping[str, Function], problems: Problems) -> None:
        self.tensors = tensors
        self.functions = functions
        self.problems = problems

    def expr(self, expr: Expr) -> DType:
        """The type of an expression; Abandon (reported) when a part of it has none."""
        match expr:
            case Op(op=op, args=args):
                return self._operation(expr, op, args)
            case Where(condition=c, then=a, otherwise=b):
                self._condition(c, "`where` needs a condition")
                return max(self.expr(a), self.expr(b), key=lambda t: t.rank)
            case Reduce():
                return self._reduction(expr)
            case Transform(kind=kind, body=body):
                self._accepts(body, TRANSFORMS[kind][0], f"`{kind}`")
                return type_of(expr, dict(self.tensors), dict(self.functions))
            case Read():
                for index in expr.indices:
                    self._index(index)
                return self.tensors[expr.tensor].dtype
            case Call(function=name, args=args):
                accepted = COMPLEX if self.functions[name].dtype is COMPLEX else REAL
                for arg in args:
                    self._accepts(arg, accepted, f"`{name}`")
                return self.functions[name].dtype
            case Apply():
                return REAL
            case Const(dtype=dtype):
                return dtype
        return INT

    def _operation(self, expr: Op, op: str, args: tuple[Expr, ...]) -> DType:
        row = OPERATIONS[op]
        types = []
        for arg in args:
            types.append(self._accepts(arg, row.accepts, f"`{row.symbol or _written(op)}`"))
        if op == "pow" and types[0].rank <= INT.rank and _negative(args[1]):
            hint = "write the base as a real: `2.0 ^ -1`"
            raise self.problems.abandon("a negative power of an int", args[1].span, "a power ≥ 0", hint)
        return result_type(op, tuple(types))

    def _reduction(self, expr: Reduce) -> DType:
        if expr.condition is not None:
            self._condition(expr.condition, f"`{expr.kind}` needs a condition behind the colon")
        found = self._accepts(expr.body, REDUCTIONS[expr.kind].accepts, f"`{expr.kind}`")
        return reduced_type(expr.kind, found)

    def _condition(self, expr: Expr, need: str) -> None:
        found = self.expr(expr)
        if found is not BOOL:
            message = f"{need}, and this is {in_words(found)}"
            raise self.problems.abandon(message, expr.span, "a bool", "compare it: `x > 0`")

    def _index(self, expr: Expr) -> None:
        found = self.expr(expr)
        if found.rank > INT.rank:
            hint = "convert it: `int(x)`, or divide with `//`"
            raise self.problems.abandon(f"an index is {in_words(found)}", expr.span, "an int", hint)

    def _accepts(self, expr: Expr, accepted: DType, what: str) -> DType:
        found = self.expr(expr)
        if found.rank > accepted.rank:
            message = f"{what} gets {in_words(found)}"
            expected = ("" if accepted is BOOL else "at most ") + in_words(accepted)
            raise self.problems.abandon(message, expr.span, expected, _advice(found, accepted))
        return found

    def value(self, expr: Expr, dtype: DType | None, what: str) -> DType | None:
        """Check a right side against the type stated for it; None when it is wrong (reported)."""
        try:
            found = self.expr(expr)
            if dtype is not None and found.rank > dtype.rank:
                message = f"{what} is declared {dtype}, and this is {in_words(found)}"
                raise self.problems.abandon(message, expr.span, in_words(dtype), _advice(found, dtype))
            return found
        except Abandon:
            return None


def _advice(found: DType, accepted: DType) -> str:
    match found, accepted:
        case DType.COMPLEX, _:
            return "take its real part, `re(x)`, or its magnitude, `abs(x)`"
        case _, DType.BOOL:
            return "compare it: `x > 0`"
        case DType.REAL, _:
            return "convert it: `int(x)`; a real quotient is `/`, an int one `//`"
    return "convert it"


def _written(op: str) -> str:
    return {"minimum": "min", "maximum": "max"}.get(op, op)


def _negative(expr: Expr) -> bool:
    if isinstance(expr, Const):
        return expr.dtype is INT and not isinstance(expr.value, complex) and expr.value < 0
    return isinstance(expr, Op) and expr.op == "neg" and all(isinstance(c, Const) for c in children(expr))
