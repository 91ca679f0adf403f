"""A backward block must be linear in the adjoints ``d.<output>``: a sum of terms with one factor each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ssmc.ir import Const, CustomGradient, Expr, Function, Op, Read, Reduce, Transform, Where, children

from .problems import Abandon, Problems

# The degree of an expression in the adjoints; None is that of 0, which fits anywhere.
Degree = int | None
_KEEP = frozenset(("neg", "re", "im", "conj", "real"))


def check_block(custom: CustomGradient, problems: Problems) -> None:
    """Report the equations of a block that are not linear in the adjoints of its outputs."""
    adjoints = {f"d.{name}" for name in custom.outputs}
    results = {f"d.{name}" for name in custom.inputs}
    _check(adjoints, results, [(e.name, e.expr) for e in custom.equations], problems)


def check_function(function: Function, problems: Problems) -> None:
    """The same for the block of an elementwise ``fn``."""
    results = [(f"d.{name}", expr) for name, expr in function.backward]
    _check({f"d.{function.result_name}"}, {name for name, _ in results}, results, problems)


def _check(adjoints: set[str], results: set[str], equations: list[tuple[str, Expr]], problems: Problems) -> None:
    degrees: dict[str, Degree] = dict.fromkeys(adjoints, 1)
    waiting = dict(equations)
    finder = _Degrees(degrees, problems)
    while waiting:
        # An equation after those it reads; what is left reads itself through time: take it as linear.
        name = next((n for n, e in waiting.items() if not _reads(e) & waiting.keys()), None)
        if name is None:
            degrees.update(dict.fromkeys(waiting, 1))
            name = next(iter(waiting))
        expr = waiting.pop(name)
        try:
            degrees[name] = finder.of(expr)
        except Abandon:
            degrees[name] = 1
            continue
        if name in results and degrees[name] == 0:
            hint = "each term has one factor `d.…`; write `0` if nothing flows there"
            problems.add(f"`{name}` does not depend on the adjoint", expr.span, "a linear expression", hint)


def _reads(expr: Expr) -> set[str]:
    found: set[str] = set()
    stack = [expr]
    while stack:
        node = stack.pop()
        if isinstance(node, Read):
            found.add(node.tensor)
        stack.extend(children(node))
    return found


class _Degrees:
    def __init__(self, known: Mapping[str, Degree], problems: Problems) -> None:
        self.known = known
        self.problems = problems

    def of(self, expr: Expr) -> Degree:
        """0 or 1; Abandon (reported) for anything that is not linear."""
        match expr:
            case Const(value=value):
                return None if value == 0 else 0
            case Read(tensor=name, indices=indices):
                self._free(expr, indices)
                return self.known.get(name, 0)
            case Op(op=op, args=args):
                return self._operation(expr, op, args)
            case Where(condition=c, then=a, otherwise=b):
                self._free(expr, (c,))
                return self._same(expr, (a, b))
            case Reduce(kind="sum" | "mean", condition=c, body=body):
                self._free(expr, () if c is None else (c,))
                return self.of(body)
            case Transform(kind="hadamard", body=body):
                return self.of(body)
        self._free(expr, children(expr))
        return 0

    def _operation(self, expr: Op, op: str, args: tuple[Expr, ...]) -> Degree:
        if op in ("add", "sub", "complex"):
            return self._same(expr, args)
        if op in _KEEP:
            return self.of(args[0])
        if op == "div":
            self._free(expr, args[1:])
            return self.of(args[0])
        if op == "mul":
            degrees = [self.of(arg) for arg in args]
            if None in degrees:
                return None
            if degrees == [1, 1]:
                raise self._wrong(expr)
            return 1 if 1 in degrees else 0
        self._free(expr, args)
        return 0

    def _same(self, expr: Expr, parts: Iterable[Expr]) -> Degree:
        degrees = {self.of(part) for part in parts} - {None}
        if len(degrees) > 1:
            raise self._wrong(expr)
        return degrees.pop() if degrees else None

    def _free(self, expr: Expr, parts: Iterable[Expr]) -> None:
        """These parts must not depend on the adjoints."""
        for part in parts:
            if self.of(part) == 1:
                raise self._wrong(expr)

    def _wrong(self, expr: Expr) -> Abandon:
        hint = "an adjoint is multiplied by what does not depend on it, summed, or chosen with `where`"
        return self.problems.abandon("this is not linear in the adjoints", expr.span, "a linear expression", hint)
