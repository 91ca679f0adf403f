"""Program → Program: elementwise functions become the expressions they stand for.

    fn f(v) -> r:  u = v ^ 2;  r = u + 1          y = f(x)  ⇒  y = x ^ 2 + 1

Nothing is renamed: a function has no axes and reads only its parameters and bindings. A function's own
gradient is gone afterwards, so gradients are derived first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ssmc.ir import (
    COMPLEX,
    REAL,
    Call,
    Const,
    CustomGradient,
    DType,
    Equation,
    Expr,
    Function,
    Op,
    Program,
    Read,
    Tensor,
    rewrite,
    type_of,
)


def inline(program: Program, keep: frozenset[str] = frozenset()) -> Program:
    """``program`` without calls of elementwise functions, which it then no longer declares; those whose names
    are in ``keep`` stay."""
    functions = {function.name: function for function in program.functions}
    if not functions.keys() - keep:
        return program
    outer = _Inlining(functions, keep, program.tensors())

    def equation(item: Equation) -> Equation:
        return replace(item, expr=outer.expr(item.expr))

    def block(custom: CustomGradient) -> CustomGradient:
        own = {e.name: e.tensor for e in custom.equations}
        own |= {f"d.{name}": outer.tensors[name] for name in custom.outputs}
        inside = replace(outer, tensors={**outer.tensors, **own})
        return replace(custom, equations=tuple(replace(e, expr=inside.expr(e.expr)) for e in custom.equations))

    return replace(
        program,
        equations=tuple(map(equation, program.equations)),
        extensions=tuple(replace(item, expr=outer.expr(item.expr)) for item in program.extensions),
        customs=tuple(map(block, program.customs)),
        functions=tuple(outer.function(function) for function in program.functions if function.name in keep),
    )


@dataclass(frozen=True)
class _Inlining:
    """Inlines in expressions that read ``tensors``."""

    functions: Mapping[str, Function]
    keep: frozenset[str]
    tensors: Mapping[str, Tensor]

    def expr(self, expr: Expr) -> Expr:
        return rewrite(expr, self._expand)

    def function(self, function: Function) -> Function:
        """A function that stays, without calls of those that do not."""
        dtype = COMPLEX if function.dtype is COMPLEX else REAL
        known = {name: Tensor(name, (), dtype) for name in (*function.parameters, f"d.{function.result_name}")}
        bindings = []
        for name, expr in function.bindings:
            bindings.append((name, replace(self, tensors=known).expr(expr)))
            known[name] = Tensor(name, (), type_of(bindings[-1][1], known, self.functions))
        inside = replace(self, tensors=known)
        known[function.result_name] = Tensor(function.result_name, (), function.dtype)
        rules = tuple((name, inside.expr(expr)) for name, expr in function.backward)
        return replace(function, bindings=tuple(bindings), result=inside.expr(function.result), backward=rules)

    def _expand(self, node: Expr) -> Expr | None:
        if not isinstance(node, Call) or node.function in self.keep:
            return None
        function = self.functions[node.function]
        values = dict(zip(function.parameters, node.args, strict=True))
        for name, expr in function.bindings:
            values[name] = filled(expr, values)
        return self._typed(self.expr(filled(function.result, values)), function.dtype)

    def _typed(self, expr: Expr, dtype: DType) -> Expr:
        """A call yields its function's type, which may be wider than that of the expression."""
        found = type_of(expr, self.tensors, self.functions)
        if dtype is COMPLEX and found is not COMPLEX:
            return Op("complex", (expr, Const(0.0, REAL)))
        return Op("real", (expr,)) if dtype is REAL and found.rank < REAL.rank else expr


def filled(expr: Expr, values: Mapping[str, Expr]) -> Expr:
    """A function's expression with its parameters and bindings replaced by what they stand for."""

    def rule(node: Expr) -> Expr | None:
        return values.get(node.tensor) if isinstance(node, Read) and not node.indices else None

    return rewrite(expr, rule)
