"""What is known about extents and indices while planning and lowering."""

from __future__ import annotations

from collections.abc import Mapping

from ssmc.errors import UserError
from ssmc.ir import (
    INT,
    Const,
    Expr,
    Index,
    Linear,
    Op,
    Program,
    Size,
    at_least,
    evaluate_int,
    known_extents,
    linear_form,
    lower_bound,
    sizes_used,
    upper_bound,
)


class MissingExtent(UserError):
    """The extent of ``axis`` has to be compiled in and was not given."""

    def __init__(self, axis: str) -> None:
        self.axis = axis
        super().__init__(f"the extent of axis `{axis}` is compiled in, and must be known", hint=f"give {axis}=…")


class Ranges:
    """Facts about the axes of one Program, given the extents of the axes that inputs bind.

    ``baked`` collects axes whose extent a decision relied on: they must be compiled in. The extents of
    ``free`` axes are not to be compiled in.
    """

    def __init__(self, program: Program, sizes: Mapping[str, int], free: frozenset[str] = frozenset()) -> None:
        self.program = program
        self.free = free
        self.sizes = sizes
        self.axes = {a.name: a for a in program.axes}
        self.stated = dict(known_extents(program))
        for requirement in program.requirements:
            match requirement.condition:
                case Op(op="eq", args=(Size(axis=a), extent)) if a not in self.stated:
                    if linear_form(extent, {}) is not None and a not in self._behind(extent):
                        self.stated[a] = extent
        self.baked: set[str] = set()

    def _behind(self, extent: Expr) -> set[str]:
        """The axes whose sizes an extent is made of, and those that these are made of."""
        found: set[str] = set()
        left = list(sizes_used(extent))
        while left:
            axis = left.pop()
            if axis not in found:
                found.add(axis)
                left.extend(sizes_used(self.stated[axis]) if axis in self.stated else ())
        return found

    def root(self, axis: str) -> Expr:
        """The extent of an axis over sizes of axes that inputs bind."""
        extent = self.stated.get(axis)
        if extent is None:
            return Size(axis)
        return self.root(extent.axis) if isinstance(extent, Size) else extent

    def varies(self, axis: str) -> bool:
        """Whether the extent is free or follows the length of a sequence, so that it is not compiled in."""
        if axis in self.free:
            return True
        root = self.root(axis)
        used = sizes_used(root) | ({axis} if root == Size(axis) else set())
        return any(self.axes[a].sequence or self.is_time(a) for a in used)

    def is_time(self, axis: str) -> bool:
        """Whether the axis is a sequence axis or runs over one."""
        root = self.root(axis)
        return self.axes[axis].sequence or (isinstance(root, Size) and self.axes[root.axis].sequence)

    def value(self, axis: str) -> int:
        """The extent of an axis as a number, from ``sizes``."""
        extent = self.axes[axis].extent
        if axis in self.sizes:
            return self.sizes[axis]
        if extent is None:
            raise MissingExtent(axis)
        known = {a: self.value(a) for a in sizes_used(extent)}
        return evaluate_int(extent, known)

    # ------------------------------------------------------------ indices

    def form(self, expr: Expr) -> Linear | None:
        return linear_form(expr, self.stated)

    def offset(self, index: Index, expr: Expr) -> tuple[int, int] | None:
        """Bounds of ``index - expr`` when they are numbers."""
        form = self.form(expr)
        return self._bounds(Linear(0, {Index(index.axis): 1}) - _plain(form)) if form is not None else None

    def from_end(self, axis: str, expr: Expr) -> tuple[int, int] | None:
        """Bounds of ``#axis - expr`` when they are numbers."""
        form, size = self.form(expr), self.form(Size(axis))
        return self._bounds(size - _plain(form)) if form is not None and size is not None else None

    def _bounds(self, form: Linear) -> tuple[int, int] | None:
        low = self._number(lower_bound(form, (), self.stated))
        high = self._number(upper_bound(form, (), self.stated))
        return None if low is None or high is None else (low, high)

    def _number(self, form: Linear) -> int | None:
        total = form.constant
        for symbol, k in form.terms.items():
            if isinstance(symbol, Index) or self.varies(symbol.axis):
                return None
            self.baked.add(symbol.axis)
            total += k * self.value(symbol.axis)
        return total

    def inside(self, axis: str, expr: Expr) -> bool:
        """Whether an index along ``axis`` is certainly within it."""
        return self.not_below(expr) and self.not_beyond(axis, expr)

    def not_below(self, expr: Expr) -> bool:
        match expr:
            case Index() | Size():
                return True
            case Const(value=value):
                return int(value.real) >= 0
            case Op(op="mod", args=(_, Size() | Const() as by)):
                return self.not_below(by)
            case Op(op="floordiv", args=(a, Size() | Const() as by)):
                return self.not_below(a) and self.not_below(by)
            case Op(op="add" | "mul", args=(a, b)) if self.not_below(a) and self.not_below(b):
                return True
        form = self.form(expr)
        return form is not None and at_least(lower_bound(_plain(form), (), self.stated), 0)

    def not_beyond(self, axis: str, expr: Expr) -> bool:
        extent = self.axes[axis].extent
        match expr:
            case Index(axis=other):
                if other == axis or self.root(other) == self.root(axis):
                    return True
            case Op(op="mod", args=(_, by)) if by == extent or by == self.root(axis):
                return True
            case Op(op="floordiv", args=(Index() as of, by)):
                if extent == Op("floordiv", (Size(of.axis), by)):
                    return True
            case Op(op="add", args=(Op(op="mul", args=(Index(axis=slow), Size(axis=fast))), Index(axis=rest))):
                whole = {Op("mul", (Size(slow), Size(fast))), Op("mul", (Size(fast), Size(slow)))}
                split = self.axes[slow].extent == Op("floordiv", (Size(axis), Size(fast)))
                other_split = self.axes[fast].extent == Op("floordiv", (Size(axis), Size(slow)))
                if fast == rest and (split or other_split or extent in whole):
                    return True
        form, size = self.form(expr), self.form(Size(axis))
        if form is None or size is None:
            return False
        return at_least(size - 1 - upper_bound(_plain(form), (), self.stated), 0)


def _plain(form: Linear) -> Linear:
    """The form with symbols stripped of spans, so that equal ones cancel."""
    return Linear(form.constant, {type(s)(s.axis): k for s, k in form.terms.items()})


def as_int(value: int) -> Const:
    return Const(value, INT)
