"""Program → Program: elementwise functions become the expressions they stand for.

    fn f(v) -> r:  u = v ^ 2;  r = u + 1          y = f(x)  ⇒  y = x ^ 2 + 1

Nothing is renamed: a function has no axes and reads only its parameters and bindings. A function's own
gradient is gone afterwards, so gradients are derived first.
"""

from __future__ import annotations

from dataclasses import replace

from ssmc.ir import COMPLEX, REAL, Call, Const, DType, Equation, Expr, Function, Op, Program, Read, rewrite, type_of


def inline(program: Program, keep: frozenset[str] = frozenset()) -> Program:
    """``program`` without calls of elementwise functions, which it then no longer declares; those whose names
    are in ``keep`` stay."""
    if not {function.name for function in program.functions} - keep:
        return program
    functions = {function.name: function for function in program.functions}
    tensors = program.tensors()

    def inlined(expr: Expr) -> Expr:
        return rewrite(expr, expand)

    def expand(node: Expr) -> Expr | None:
        if not isinstance(node, Call) or node.function in keep:
            return None
        function = functions[node.function]
        return inlined(_body(function, node.args))

    def with_type(expr: Expr, dtype: DType) -> Expr:
        """A call yields its function's type, which may be wider than that of the expression."""
        found = type_of(expr, tensors, functions)
        if dtype is COMPLEX and found is not COMPLEX:
            return Op("complex", (expr, Const(0.0, REAL)))
        return Op("real", (expr,)) if dtype is REAL and found.rank < REAL.rank else expr

    def _body(function: Function, args: tuple[Expr, ...]) -> Expr:
        values = dict(zip(function.parameters, args, strict=True))
        for name, expr in function.bindings:
            values[name] = _filled(expr, values)
        return with_type(inlined(_filled(function.result, values)), function.dtype)

    def equation(item: Equation) -> Equation:
        return replace(item, expr=inlined(item.expr))

    return replace(
        program,
        equations=tuple(map(equation, program.equations)),
        extensions=tuple(replace(item, expr=inlined(item.expr)) for item in program.extensions),
        customs=tuple(replace(c, equations=tuple(map(equation, c.equations))) for c in program.customs),
        functions=tuple(function for function in program.functions if function.name in keep),
    )


def _filled(expr: Expr, values: dict[str, Expr]) -> Expr:
    """A function's expression with its parameters and bindings replaced by what they stand for."""

    def rule(node: Expr) -> Expr | None:
        return values.get(node.tensor) if isinstance(node, Read) and not node.indices else None

    return rewrite(expr, rule)
