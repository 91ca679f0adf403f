"""Trees → IR expressions: the index of every axis written out, splits rewritten, ``concat`` gone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ssmc.ir import (
    INT,
    REDUCTIONS,
    Apply,
    Call,
    Const,
    Expr,
    Index,
    Number,
    Op,
    Read,
    Reduce,
    Size,
    Transform,
    Where,
    substitute,
    walk,
)
from ssmc.source import Span

from .axes import Extents, Inference, Scopes, part_axis, place_axis
from .flat import Build, Splitting
from .problems import listed
from .tree import (
    Access,
    Ax,
    Choose,
    Compute,
    Ext,
    Fold,
    Invoke,
    Join,
    Lit,
    Outside,
    Place,
    Tree,
    Whole,
    mentioned,
)


class Lowering:
    """Lowers the right sides of one equation after the other."""

    def __init__(self, build: Build, inference: Inference, extents: Extents) -> None:
        self.build = build
        self.inference = inference
        self.extents = extents
        self.problems = build.problems
        self.axes: frozenset[str] = frozenset()
        self.left = ""

    def equation(self, tree: Tree, axes: Iterable[str], left: str) -> Expr:
        """``tree`` as the value at each point of ``axes``; ``left`` is how errors call the left side.

        Abandon (reported) where it varies along another axis, or an index makes no sense.
        """
        self.axes = frozenset(axes)
        self.left = left
        return self._expr(tree, ())

    # ------------------------------------------------------------ nodes

    def _expr(self, tree: Tree, scopes: Scopes) -> Expr:
        match tree:
            case Lit(value=value, dtype=dtype, span=span):
                return Const(value, dtype, span)
            case Ax(axis=axis, span=span):
                return self._index(axis, scopes, span, f"`{self.build.axes.name(axis)}`")
            case Ext(axis=axis, span=span):
                return Size(axis, span)
            case Access():
                return self._access(tree, scopes)
            case Compute(op=op, args=args, span=span):
                return Op(op, tuple(self._expr(a, scopes) for a in args), span)
            case Invoke(function=function, args=args, span=span):
                return Call(function, tuple(self._expr(a, scopes) for a in args), span)
            case Choose(condition=c, then=a, otherwise=b, span=span):
                return Where(self._expr(c, scopes), self._expr(a, scopes), self._expr(b, scopes), span)
            case Fold():
                return self._fold(tree, scopes)
            case Whole(kind=kind, axis=axis, body=body, span=span):
                self._kept(axis, kind, scopes, span)
                return Transform(kind, axis, self._expr(body, scopes), span)
            case Join():
                return self._join(tree, scopes)
            case Outside(function=function, args=args, span=span):
                return Apply(function, args, span)

    def _fold(self, tree: Fold, scopes: Scopes) -> Expr:
        if REDUCTIONS[tree.kind].keeps_axis:
            self._kept(tree.axes[0], tree.kind, scopes, tree.span)
            inner = scopes
        else:
            inner = (*scopes, frozenset(tree.axes))
        condition = None if tree.condition is None else self._expr(tree.condition, inner)
        return Reduce(tree.kind, tree.axes, condition, self._expr(tree.body, inner), tree.span)

    def _kept(self, axis: str, kind: str, scopes: Scopes, span: Span) -> None:
        """An operation that keeps its axis needs that axis to be there, not computed."""
        if not isinstance(self._index(axis, scopes, span, f"`{kind}`"), Index):
            name = self.build.axes.name(axis)
            hint = f"give the value an equation of its own that has axis `{name}`"
            raise self.problems.abandon(f"`{kind}` keeps axis `{name}`, which {self.left} lacks", span, hint=hint)

    # ------------------------------------------------------------ reads

    def _access(self, tree: Access, scopes: Scopes) -> Read:
        axes = self._tensor_order(tree.tensor)
        fixed = self._fixed(tree, axes)
        indices = []
        for axis in axes:
            if axis in fixed:
                indices.append(self._expr(fixed[axis].value, scopes))
            else:
                indices.append(self._index(axis, scopes, tree.span, f"`{self.build.shown(tree.tensor)}`"))
        return Read(tree.tensor, tuple(indices), tree.span)

    def _tensor_order(self, name: str) -> tuple[str, ...]:
        if name.startswith("d.") and name not in self.build.flats and name not in self.build.inputs:
            name = name[2:]
        if name in self.build.inputs:
            return self.build.inputs[name].axes
        return self.inference.ordered(self.build.flats[name])

    def _fixed(self, tree: Access, axes: tuple[str, ...]) -> dict[str, Place]:
        """The axes that the items of an index set."""
        fixed: dict[str, Place] = {}
        shown = self.build.shown(tree.tensor)
        name = self.build.axes.name
        for place in tree.places:
            axis = place_axis(place, axes)
            if axis is None:
                raise self._unclear(place, axes, shown)
            if axis not in axes:
                hint = f"its axes are {listed(name(a) for a in axes)}" if axes else "it is a scalar"
                raise self.problems.abandon(f"`{shown}` has no axis `{name(axis)}`", place.span, hint=hint)
            if axis in fixed:
                message = f"axis `{name(axis)}` of `{shown}` is set twice"
                raise self.problems.abandon(message, place.span, hint="each axis takes one index")
            fixed[axis] = place
        return fixed

    def _unclear(self, place: Place, axes: tuple[str, ...], shown: str) -> Exception:
        """An item without ``axis=`` that mentions none or several axes of the tensor."""
        name = self.build.axes.name
        named = [a for a in axes if a in mentioned(place.value)]
        text = place.span.source.text[place.span.start : place.span.end].replace("\n", " ")
        if named:
            found = f"this index mentions {listed(name(a) for a in named)} of `{shown}`"
            hint = f"say which it sets: `{name(named[0])}={text}`"
        else:
            found = f"this index mentions no axis of `{shown}`"
            hint = f"say which it sets: `{name(axes[-1])}={text}`" if axes else "it is a scalar: leave the brackets out"
        return self.problems.abandon(found, place.span, "one axis", hint)

    # ------------------------------------------------------------ indices

    def _index(self, axis: str, scopes: Scopes, span: Span, what: str) -> Expr:
        """The own index of ``axis``, under the reductions around and the axes of the equation."""
        found = self._resolve(axis, scopes, span, frozenset())
        if found is None:
            name = self.build.axes.name(axis)
            hint = f"state it on the left, sum over it, or set it: `[{name}=…]`"
            raise self.problems.abandon(f"{what} varies along `{name}`, which {self.left} lacks", span, hint=hint)
        return found

    def _resolve(self, axis: str, scopes: Scopes, span: Span, trying: frozenset[str]) -> Expr | None:
        if axis in trying:
            return None
        splits = self.build.axes.splits
        for depth in range(len(scopes) - 1, -1, -1):
            bound, outer = scopes[depth], scopes[:depth]
            if axis in bound:
                return Index(axis, span)
            for splitting in splits:
                if axis in splitting.parts and splitting.whole in bound:
                    return _part(splitting, axis, Index(splitting.whole, span), span)
                if axis == splitting.whole and bound.intersection(splitting.parts):
                    return self._merge(splitting, (*outer, bound), span, trying)
        if axis in self.axes:
            return Index(axis, span)
        for splitting in splits:
            if axis in splitting.parts:
                whole = self._resolve(splitting.whole, (), span, trying | {axis})
                if whole is not None:
                    return _part(splitting, axis, whole, span)
            if axis == splitting.whole:
                merged = self._merge(splitting, (), span, trying | {axis})
                if merged is not None:
                    return merged
        return None

    def _merge(self, splitting: Splitting, scopes: Scopes, span: Span, trying: frozenset[str]) -> Expr | None:
        """``g * #r + r``, where every part has an index."""
        result: Expr | None = None
        for part in splitting.parts:
            index = self._resolve(part, scopes, span, trying)
            if index is None:
                return None
            if result is None:
                result = index
            else:
                result = Op("add", (Op("mul", (result, Size(part, span)), span), index), span)
        return result

    # ------------------------------------------------------------ concat

    def _join(self, tree: Join, scopes: Scopes) -> Expr:
        """``where(m < #e, a[e=m], b[f=m-#e])``."""
        axis = tree.axis
        self._kept(axis, "concat", scopes, tree.span)
        sizes: list[Expr] = []
        for part in tree.parts:
            along = part_axis(part, axis)
            if along is None:
                name = self.build.axes.name(axis)
                hint = f"let `{name}` run over one axis of each value: `concat[{name}](a[e={name}], b[f={name}])`"
                raise self.problems.abandon(f"how far `{name}` runs here does not follow", part.span, hint=hint)
            sizes.append(Size(along, part.span))
        values = [self._expr(part, scopes) for part in tree.parts]
        result = self._shifted(values[-1], axis, sizes[:-1], tree.span)
        for number in range(len(values) - 2, -1, -1):
            end = _total(sizes[: number + 1], tree.span)
            condition = Op("lt", (Index(axis, tree.span), end), tree.span)
            value = self._shifted(values[number], axis, sizes[:number], tree.span)
            result = Where(condition, value, result, tree.span)
        return result

    def _shifted(self, value: Expr, axis: str, before: list[Expr], span: Span) -> Expr:
        if not before:
            return value
        moved = Op("sub", (Index(axis, span), _total(before, span)), span)
        try:
            return substitute(value, {axis: moved})
        except ValueError:
            hint = "give the value an equation of its own"
            raise self.problems.abandon("this value cannot be moved along the axis", span, hint=hint) from None

    # ------------------------------------------------------------ extents

    def extent(self, axis: str) -> Expr | None:
        """The extent of an axis over sizes and constants; None where an input binds it."""
        table, span = self.build.axes, self.build.axes.order.get(axis)
        if axis in table.stated:
            return self.size_expr(table.stated[axis][0], "an extent")
        if axis in table.bound:
            return None
        if axis in self.extents.alias:
            return Size(self.extents.root(axis), span)
        if axis in self.extents.joined:
            return _total([Size(self.extents.root(a), span) for a in self.extents.joined[axis]], span)
        splitting, is_whole = self.extents.of_split[axis]
        others: list[Expr] = [Size(p, span) for p in splitting.parts if p != axis]
        if is_whole:
            return _product(others, span)
        return Op("floordiv", (Size(splitting.whole, span), _product(others, span)), span)

    def size_expr(self, tree: Tree, what: str) -> Expr:
        """A tree over extents and static values only, constants folded."""
        match tree:
            case Lit(value=value, dtype=dtype, span=span):
                return Const(value, dtype, span)
            case Ext(axis=axis, span=span):
                return Size(axis, span)
            case Compute(op=op, args=args, span=span):
                return self._folded(Op(op, tuple(self.size_expr(a, what) for a in args), span))
            case Choose(condition=c, then=a, otherwise=b, span=span):
                return Where(self.size_expr(c, what), self.size_expr(a, what), self.size_expr(b, what), span)
        hint = "use extents `#axis`, numbers and static parameters"
        raise self.problems.abandon(f"{what} depends on data or on an index", tree.span, "what every call knows", hint)

    def _folded(self, op: Op) -> Expr:
        """Arithmetic of integer constants, done."""
        if self.build.verbatim or op.op not in _INT_FOLDS:
            return op
        if not all(isinstance(a, Const) and a.dtype is INT for a in op.args):
            return op
        values = [a.value for a in op.args if isinstance(a, Const)]
        if op.op in ("floordiv", "mod") and values[1] == 0:
            return op
        result = _INT_FOLDS[op.op](*values)
        return Const(result, INT, op.span) if abs(result) < 2**63 else op


_INT_FOLDS: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "minimum": min,
    "maximum": max,
    "neg": lambda a: -a,
}


def _part(splitting: Splitting, axis: str, whole: Expr, span: Span) -> Expr:
    """``d // #r`` for the slowest part, ``d % #r`` for the fastest."""
    place = splitting.parts.index(axis)
    faster: list[Expr] = [Size(p, span) for p in splitting.parts[place + 1 :]]
    if faster:
        whole = Op("floordiv", (whole, _product(faster, span)), span)
    return Op("mod", (whole, Size(axis, span)), span) if place else whole


def _product(factors: list[Expr], span: Span | None) -> Expr:
    result = factors[0]
    for factor in factors[1:]:
        result = Op("mul", (result, factor), span)
    return result


def _total(terms: list[Expr], span: Span | None) -> Expr:
    result = terms[0]
    for term in terms[1:]:
        result = Op("add", (result, term), span)
    return result


def depth_of(expr: Expr) -> int:
    """How deeply an expression nests."""
    from ssmc.ir import children

    deepest, stack = 0, [(expr, 1)]
    while stack:
        node, depth = stack.pop()
        deepest = max(deepest, depth)
        stack.extend((child, depth + 1) for child in children(node))
    return deepest


def sizes_in(expr: Expr) -> set[str]:
    """Axes whose extent an expression uses."""
    return {node.axis for node in walk(expr) if isinstance(node, Size)}


def constant_value(expr: Expr) -> Number | None:
    """The value of an expression over constants alone; None if it has others or cannot be computed."""
    match expr:
        case Const(value=value):
            return value
        case Op(op=op, args=args) if op in _ALL_FOLDS:
            values = [constant_value(arg) for arg in args]
            if any(v is None for v in values):
                return None
            try:
                result: Number = _ALL_FOLDS[op](*values)
            except (ZeroDivisionError, OverflowError, TypeError, ValueError):
                return None
            return result
    return None


_ALL_FOLDS: dict[str, Callable[..., Any]] = {
    **_INT_FOLDS,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b if abs(a) < 2**31 and abs(b) < 64 else None,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "not": lambda a: not a,
}
