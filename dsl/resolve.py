"""Names in an expression → a tree: static choices made, calls expanded, every name found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssmc.ir import BOOL, CALL_NAMES, INT, OPERATIONS, REAL, REDUCTIONS, TRANSFORMS, DType

from . import ast
from .problems import Abandon, listed, nearest
from .scan import HEADS
from .simplify import choose, compute, fold
from .statics import NotStatic
from .tree import Access, Ax, Ext, Join, Lit, Place, Tree, Whole

if TYPE_CHECKING:
    from .frame import Frame

_SYMBOLS = {row.symbol: row.name for row in OPERATIONS.values() if row.symbol and row.name != "neg"}
BUILTINS = frozenset((*CALL_NAMES, "where", "clamp"))


class Resolver:
    """Resolves the expressions of one statement of a frame."""

    def __init__(self, frame: Frame, key: tuple[float, ...], block: str | None = None) -> None:
        self.frame = frame
        self.build = frame.build
        self.problems = frame.build.problems
        self.key = key
        self.block = block
        self.inlined = 0  # how many calls and bracketed values of this statement came before

    def next_key(self) -> tuple[float, ...]:
        self.inlined += 1
        return (*self.key, self.inlined)

    def tree(self, expr: ast.Expr) -> Tree:
        """The tree of an expression; Abandon (reported) when it has none."""
        match expr:
            case ast.Literal(value=value, dtype=dtype):
                return Lit(value, dtype, expr.span)
            case ast.Name():
                return self._name(expr)
            case ast.Extent(axis=axis):
                return Ext(self.frame.axis(ast.Name(axis, expr.span)), expr.span)
            case ast.Given(name=name):
                return Lit(self.frame.facts.given(name), BOOL, expr.span, absent=True, static=True)
            case ast.Carries(name=name, axis=axis):
                return Lit(self.frame.facts.carries(name, axis), BOOL, expr.span, absent=True, static=True)
            case ast.Group(inner=inner):
                return self.tree(inner)
            case ast.Unary(op=op, operand=operand):
                return compute("neg" if op == "-" else "not", (self.tree(operand),), expr.span)
            case ast.Binary(op=op, left=left, right=right):
                args = self._both(left, right)
                return compute(_SYMBOLS[op], args, expr.span)
            case ast.When():
                return self._when(expr)
            case ast.Bracket():
                return self._bracket(expr)
            case ast.Call():
                return self._call(expr)

    def all(self, exprs: list[ast.Expr]) -> list[Tree]:
        """Several expressions; the errors of all are reported before giving up."""
        found: list[Tree] = []
        failed: Abandon | None = None
        for expr in exprs:
            try:
                found.append(self.tree(expr))
            except Abandon as error:
                failed = error
        if failed is not None:
            raise failed
        return found

    def _both(self, left: ast.Expr, right: ast.Expr) -> tuple[Tree, ...]:
        return tuple(self.all([left, right]))

    # ------------------------------------------------------------ names

    def _name(self, expr: ast.Name) -> Tree:
        frame, name = self.frame, expr.text
        if name in frame.facts.statics:
            value = frame.facts.statics[name]
            if isinstance(value, str):
                hint = f"compare it in a static choice: `a when {name} == {value} else b`"
                raise self.problems.abandon(f"enum `{name}` is not a value", expr.span, hint=hint)
            dtype: DType = BOOL if isinstance(value, bool) else INT if isinstance(value, int) else REAL
            return Lit(value, dtype, expr.span, absent=dtype is BOOL, static=True)
        if name in frame.absent:
            return self._absent(expr)
        tensor = frame.tensor(name, self.block)
        if tensor is not None:
            if tensor in self.build.broken:
                raise Abandon(name)
            return Access(tensor, (), expr.span)
        if name in frame.axes:
            return Ax(frame.axes[name], expr.span)
        raise self.unknown(expr)

    def _absent(self, expr: ast.Name) -> Tree:
        default = self.frame.absent[expr.text]
        if default is not None:
            return Lit(default.value, default.dtype, expr.span, absent=True)
        hint = f"choose statically: `… when given({expr.text}) else …`"
        raise self.problems.abandon(f"`{expr.text}` may be absent", expr.span, "an input that is present", hint)

    def unknown(self, expr: ast.Name) -> Abandon:
        """The error for a name that means nothing here."""
        frame = self.frame
        if expr.text in frame.failed:
            return Abandon(expr.text)
        known = [*frame.all_names(self.block), *frame.axes, *frame.facts.statics]
        hint = nearest(expr.text, known)
        if expr.text in BUILTINS or frame.module.find(expr.text):
            hint = f"`{expr.text}` is a function: `{expr.text}(…)`"
        elif expr.text.startswith("d.") and self.block is None:
            hint = "adjoints are known only in a `backward:` block"
        return self.problems.abandon(
            f"unknown name `{expr.text}`", expr.span, hint=hint or "define it with an equation, or make it an input"
        )

    # ------------------------------------------------------------ static choice

    def _when(self, expr: ast.When) -> Tree:
        try:
            chosen = self.frame.facts.truth(expr.condition)
        except NotStatic as error:
            self._resolve_quietly(expr)
            hint = "to choose by data write `where(condition, a, b)`"
            raise self.problems.abandon(
                "`when` chooses by static facts, and this is not static", error.node.span,
                "static parameters, `given`, `carries`", hint,
            ) from None  # fmt: skip
        found = self.tree(expr.then if chosen else expr.otherwise)
        if isinstance(found, Lit) and not self.build.verbatim:
            return Lit(found.value, found.dtype, found.span, absent=True, static=found.static)
        return found

    def _resolve_quietly(self, expr: ast.When) -> None:
        """Prefer the error of an unknown name in the condition over that it is not static."""
        if isinstance(expr.condition, ast.Name):
            self.tree(expr.condition)

    # ------------------------------------------------------------ brackets

    def _bracket(self, expr: ast.Bracket) -> Tree:
        base = expr.base
        if isinstance(base, ast.Name):
            if base.text in HEADS and self.frame.tensor(base.text, self.block) is None:
                hint = f"the value stands behind: `{base.text}[…](value)`"
                raise self.problems.abandon(
                    f"`{base.text}[…]` reduces nothing", expr.span, "a value in parentheses", hint
                )
            if base.text in self.frame.absent:
                self._check_items(expr)
                return self._absent(base)
        if expr.condition is not None:
            hint = "conditions belong to reductions, `sum[s: s <= t](…)`, or to `where`"
            raise self.problems.abandon("a condition in an index", expr.condition.span, hint=hint)
        if isinstance(base, ast.Call):
            renamed = self.frame.calls.renaming(base, expr, self)
            if renamed is not None:
                return renamed
        value = self.tree(base)
        if not isinstance(value, Access) or value.places:
            if isinstance(value, Lit) and value.absent:
                return value
            value = self.frame.bind_value(value, base.span, self)
        return Access(value.tensor, self.places(expr.items), expr.span)

    def _check_items(self, expr: ast.Bracket) -> None:
        """Resolve the items of an index into an absent input, only for their errors."""
        self.all([item.value for item in expr.items])

    def places(self, items: tuple[ast.Item, ...]) -> tuple[Place, ...]:
        """The items of an index."""
        values = self.all([item.value for item in items])
        found = []
        for item, value in zip(items, values, strict=True):
            axis = None if item.name is None else self.frame.axis(item.name)
            found.append(Place(axis, value, item.span))
        seen: set[str] = set()
        for place in found:
            if place.axis is not None and place.axis in seen:
                hint = "each axis takes one index"
                name = self.build.axes.name(place.axis)
                raise self.problems.abandon(f"axis `{name}` is set twice", place.span, hint=hint)
            seen.add(place.axis or "")
        return tuple(found)

    # ------------------------------------------------------------ calls

    def _call(self, expr: ast.Call) -> Tree:
        function = expr.function
        if isinstance(function, ast.Bracket) and isinstance(function.base, ast.Name):
            if function.base.text in HEADS:
                return self._headed(function, function.base.text, expr)
        if not isinstance(function, ast.Name):
            hint = "a product needs its sign: `a * (b + c)`"
            raise self.problems.abandon("only a name can be called", function.span, "a function or a layer", hint)
        name = function.text
        if self.frame.module.find(name) is not None:
            return self.frame.calls.value(expr, self)
        if name in self.frame.module.broken:
            raise Abandon(name)
        if name in BUILTINS:
            return self._builtin(name, expr)
        raise self._unknown_function(function)

    def _unknown_function(self, function: ast.Name) -> Abandon:
        name = function.text
        if name in HEADS:
            hint = f"name the axis: `{name}[n](…)`"
            return self.problems.abandon(f"`{name}` without an axis", function.span, f"`{name}[axis](…)`", hint)
        if self.frame.tensor(name, self.block) is not None or name in self.frame.axes:
            hint = f"to index write `{name}[…]`, to multiply `{name} * (…)`"
            return self.problems.abandon(f"`{name}` is not a function", function.span, hint=hint)
        known = (*BUILTINS, *HEADS, *self.frame.module.callable_names())
        hint = nearest(name, known) or "functions are listed in docs/language.md; layers are imported"
        return self.problems.abandon(f"unknown function `{name}`", function.span, hint=hint)

    def _builtin(self, name: str, expr: ast.Call) -> Tree:
        arity = {"where": 3, "clamp": 3}.get(name) or OPERATIONS[CALL_NAMES[name]].arity
        for item in expr.arguments:
            if item.name is not None:
                hint = f"write `{name}({', '.join('abc'[:arity])})`"
                if self.frame.tensor(item.name.text, self.block) is not None or item.name.text in self.frame.axes:
                    hint = f"to compare write `{item.name.text} == …`"
                raise self.problems.abandon(f"`{name}` takes no named arguments", item.span, hint=hint)
        if len(expr.arguments) != arity:
            count = f"{arity} argument{'s' if arity > 1 else ''}"
            hint = f"write `{name}({', '.join('abc'[:arity])})`"
            if name in ("min", "max"):
                hint += f", or `{name}[n](…)` over an axis"
            raise self.problems.abandon(f"`{name}` gets {len(expr.arguments)} arguments", expr.span, count, hint)
        values = [item.value for item in expr.arguments]
        if name == "where":
            self._data_condition(values[0])
        args = self.all(values)
        if name == "where":
            return choose(args[0], args[1], args[2], expr.span)
        if name == "clamp":
            return compute("minimum", (compute("maximum", (args[0], args[1]), expr.span), args[2]), expr.span)
        return compute(CALL_NAMES[name], tuple(args), expr.span)

    def _data_condition(self, condition: ast.Expr) -> None:
        if self.frame.facts.is_static(condition):
            hint = "to choose by static facts write `a when condition else b`"
            self.problems.add("`where` chooses by data, and this is static", condition.span, hint=hint)

    # ------------------------------------------------------------ reductions

    def _headed(self, head: ast.Bracket, kind: str, expr: ast.Call) -> Tree:
        """``sum[n: condition](value)`` and its like."""
        for item in expr.arguments:
            if item.name is not None:
                hint = f"write `{kind}[n](value)`"
                raise self.problems.abandon(f"`{kind}` takes no named arguments", item.span, hint=hint)
        axes = [self._bound_axis(item, kind) for item in head.items]
        single = (
            kind in TRANSFORMS
            or kind in ("concat", "argmax", "argmin")
            or (kind in REDUCTIONS and REDUCTIONS[kind].keeps_axis)
        )
        if not axes or (single and len(axes) > 1) or len(set(axes)) < len(axes):
            wanted = "one axis" if single else "axes, each once"
            raise self.problems.abandon(f"`{kind}` over {listed(axes)}", head.span, wanted, f"write `{kind}[n](…)`")
        if head.condition is not None and kind not in REDUCTIONS:
            hint = "choose inside: `where(condition, value, 0)`"
            raise self.problems.abandon(f"`{kind}` takes no condition", head.condition.span, hint=hint)
        if kind == "concat":
            return self._concat(axes[0], expr)
        if len(expr.arguments) != 1:
            hint = "reduce one value; join several with operators"
            raise self.problems.abandon(f"`{kind}[…]` gets {len(expr.arguments)} values", expr.span, "one value", hint)
        body_and_condition = [expr.arguments[0].value] + ([head.condition] if head.condition else [])
        body, *conditions = self.all(body_and_condition)
        if kind in TRANSFORMS:
            return Whole(kind, axes[0], body, expr.span)
        return fold(kind, tuple(axes), conditions[0] if conditions else None, body, expr.span)

    def _bound_axis(self, item: ast.Item, kind: str) -> str:
        """The axis of one item in the head of a reduction: ``s``, or ``j < W`` with its extent."""
        match item:
            case ast.Item(name=None, value=ast.Name() as name):
                return self.frame.axis(name)
            case ast.Item(name=None, value=ast.Binary(op="<", left=ast.Name() as name, right=extent)):
                return self.frame.state_extent(name, extent, self)
        hint = f"a condition follows a colon: `{kind}[s: s <= t](…)`"
        raise self.problems.abandon(
            f"this is not an axis to take `{kind}` over", item.span, "`s` or `j < extent`", hint
        )

    def _concat(self, axis: str, expr: ast.Call) -> Tree:
        if not expr.arguments:
            raise self.problems.abandon("`concat` of nothing", expr.span, "values", "write `concat[m](a[e=m], b[f=m])`")
        parts = self.all([item.value for item in expr.arguments])
        return Join(axis, tuple(parts), expr.span)
