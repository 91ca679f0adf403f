"""What is known of indices: extents that are equal, comparisons that always hold, and linear forms with opaque parts.

i - #j < 0  for  i < #j  always holds;      t + k[b] - 1  =  1 · t + 1 · ⟨k[b]⟩ − 1
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ssmc.ir import (
    INT,
    Axis,
    Const,
    Expr,
    Index,
    Linear,
    Op,
    Program,
    Size,
    at_least,
    children,
    facts,
    free_axes,
    known_extents,
    linear_form,
    lower_bound,
    walk,
    with_children,
)

_NEGATED = {"lt": "ge", "ge": "lt", "gt": "le", "le": "gt", "eq": "ne", "ne": "eq"}


@dataclass
class Indices:
    """The axes of a Program, and those that are added on the way."""

    extents: dict[str, Expr]

    @staticmethod
    def of(program: Program) -> Indices:
        return Indices(known_extents(program))

    def declare(self, axis: Axis) -> None:
        """Know an axis that a pass introduces."""
        if axis.extent is not None:
            self.extents[axis.name] = axis.extent

    def root(self, axis: str) -> Expr:
        """The extent of ``axis``, traced back through axes that are as long as others."""
        extent = self.extents.get(axis)
        if extent is None:
            return Size(axis)
        return self.root(extent.axis) if isinstance(extent, Size) else extent

    def same_extent(self, one: str, other: str) -> bool:
        """Whether two axes are certainly as long as each other."""
        return one == other or self.root(one) == self.root(other)

    def is_inside(self, index: Expr, axis: str) -> bool:
        """Whether ``index`` certainly lies on ``axis``."""
        if isinstance(index, Index):
            return self.same_extent(index.axis, axis)
        low, high = Op("ge", (index, Const(0, INT))), Op("lt", (index, Size(axis)))
        return self.holds(low) is True and self.holds(high) is True

    def holds(self, condition: Expr) -> bool | None:
        """Whether a condition holds for every index of every axis (True), for none (False), or neither is certain."""
        match condition:
            case Const(value=bool() as value):
                return value
            case Op(op="not", args=(inner,)):
                known = self.holds(inner)
                return None if known is None else not known
            case Op(op="and" | "or" as op, args=args):
                sides = [self.holds(arg) for arg in args]
                decisive = op == "or"
                if decisive in sides:
                    return decisive
                return not decisive if None not in sides else None
            case Op(op=op) if op in _NEGATED:
                if self._certain(condition):
                    return True
                return False if self._certain(replace(condition, op=_NEGATED[op])) else None
        return None

    def _certain(self, comparison: Op) -> bool:
        if comparison.op == "ne":
            return any(self._certain(replace(comparison, op=op)) for op in ("lt", "gt"))
        forms = facts(comparison, self.extents)
        inhabited = set()
        for node in walk(comparison):
            if isinstance(node, Index):
                root = self.root(node.axis)
                inhabited |= {node.axis} | ({root.axis} if isinstance(root, Size) else set())
        return bool(forms) and all(
            at_least(lower_bound(form, (), self.extents), 0, frozenset(inhabited)) for form in forms
        )

    def form(self, expr: Expr) -> Form | None:
        """``expr`` as a linear form whose symbols may stand for anything that is not linear."""
        opaque: dict[str, Expr] = {}
        found = linear_form(self._abstract(expr, opaque), self.extents)
        return None if found is None else Form(found, opaque)

    def _abstract(self, expr: Expr, opaque: dict[str, Expr]) -> Expr:
        match expr:
            case Const() | Index() | Size():
                return expr
            case Op(op="add" | "sub" | "neg"):
                return with_children(expr, tuple(self._abstract(item, opaque) for item in children(expr)))
            case Op(op="mul", args=(a, b)):
                known = [linear_form(arg, self.extents) for arg in (a, b)]
                if any(k is not None and k.is_constant for k in known):
                    return with_children(expr, (self._abstract(a, opaque), self._abstract(b, opaque)))
        name = next((n for n, known in opaque.items() if known == expr), f"⟨{len(opaque)}⟩")
        opaque[name] = expr
        return Index(name)


@dataclass(frozen=True)
class Form:
    """A linear form over indices, sizes and ``opaque`` expressions."""

    linear: Linear
    opaque: dict[str, Expr] = field(default_factory=dict)

    def varies(self, axis: str) -> bool:
        """Whether an opaque part varies along ``axis``."""
        return any(axis in free_axes(part) for part in self.opaque.values())

    def expr(self, linear: Linear | None = None) -> Expr:
        """The form, or another over the same symbols, as an expression."""
        return self._restored((self.linear if linear is None else linear).expr())

    def _restored(self, expr: Expr) -> Expr:
        if isinstance(expr, Index):
            return self.opaque.get(expr.axis, expr)
        return with_children(expr, tuple(self._restored(item) for item in children(expr)))


__all__ = ["Form", "Indices"]
