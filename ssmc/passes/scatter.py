"""Sums over everything that reads one element: ``d.x[a] = sum[i: f(i) == a](value(i))`` for a read ``x[a=f(i)]``.

An index that is one loop axis is renamed; a linear one is solved for a loop axis; ``i // E`` and ``i % E`` of one
axis put it together again, ``g * E + r`` takes it apart; what cannot be solved stays as the condition, which is
the equal-code sum of the language. Reads outside their axis receive nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ssmc.ir import (
    INT,
    Axis,
    Const,
    Expr,
    Index,
    Linear,
    Op,
    Program,
    Read,
    Reduce,
    Size,
    Where,
    free_axes,
    known_extents,
    linear_form,
    substitute,
    walk,
)

from .derivatives import ZERO, call
from .flatten import Names

_TARGET = "→"  # marks an index of the tensor that is read, beside a loop axis of the same name


@dataclass
class Scatter:
    """Solves reads of one Program; ``axes`` gathers new axes."""

    program: Program
    names: Names
    axes: list[Axis] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.extents = known_extents(self.program)
        self.tensors = self.program.tensors()

    def solve(self, read: Read, axes: tuple[str, ...], loops: Iterable[str]) -> Solution:
        """The loop axes in terms of the axes of the tensor that is read."""
        return _Solving(self, read, axes, tuple(dict.fromkeys(loops))).run()

    def root(self, axis: str) -> Expr:
        extent = self.extents.get(axis)
        if extent is None:
            return Size(axis)
        return self.root(extent.axis) if isinstance(extent, Size) else extent

    def same_extent(self, one: str, other: str) -> bool:
        return one == other or self.root(one) == self.root(other)

    def like(self, axis: str) -> str:
        """A new axis as long as another."""
        name = self.names.new(f"{axis}.all")
        self.axes.append(Axis(name, Size(axis)))
        self.extents[name] = Size(axis)
        return name

    def of(self, base: str, extent: Expr) -> str:
        """A new axis of a given extent."""
        name = self.names.new(base)
        self.axes.append(Axis(name, extent))
        self.extents[name] = extent
        return name


@dataclass(frozen=True)
class Solution:
    """``where`` puts an expression for each loop axis that is solved or renamed; the axes in ``summed`` are left
    to sum over, where the ``conditions`` hold. ``guards`` hold wherever the solved loop axes exist."""

    where: dict[str, Expr]
    summed: tuple[str, ...]
    conditions: tuple[Expr, ...]
    guards: tuple[Expr, ...]

    @property
    def moves(self) -> bool:
        """Whether some loop axis becomes more than another axis."""
        return any(not isinstance(expr, Index) for expr in self.where.values())

    def apply(self, value: Expr, conditions: tuple[Expr, ...] = ()) -> Expr:
        """The sum of ``value`` where conditions over loop axes hold too."""
        value = substitute(value, self.where)
        held = (*self.conditions, *(substitute(c, self.where) for c in conditions))
        together: Expr | None = None
        for condition in held:
            together = condition if together is None else call("and", together, condition)
        if self.summed:
            return _folded(value, self.summed, together)
        return value if together is None else Where(together, value, ZERO)


def _folded(value: Expr, axes: tuple[str, ...], condition: Expr | None) -> Expr:
    """The sum over ``axes``; a condition that only leaves index 0, or the last, picks it."""
    if condition is not None and len(axes) == 1:
        picked = _only(condition, axes[0])
        if picked is not None:
            return substitute(value, {axes[0]: picked})
    return Reduce("sum", axes, condition, value)


def _only(condition: Expr, axis: str) -> Expr | None:
    """The one index that ``i - 1 < 0`` or ``i + 1 >= #i`` leaves."""
    match condition:
        case Op(op="lt", args=(Op(op="sub", args=(Index(axis=own), Const(value=1))), Const(value=0))) if own == axis:
            return Const(0, INT)
        case Op(op="ge", args=(Op(op="add", args=(Index(axis=own), Const(value=1))), Size())) if own == axis:
            return Op("sub", (Size(axis), Const(1, INT)))
    return None


@dataclass
class _Solving:
    """One read."""

    scatter: Scatter
    read: Read
    axes: tuple[str, ...]
    loops: tuple[str, ...]
    solved: dict[str, Expr] = field(default_factory=dict)
    conditions: list[Expr] = field(default_factory=list)
    guards: list[Expr] = field(default_factory=list)

    def run(self) -> Solution:
        waiting = list(zip(self.axes, self.read.indices, strict=True))
        for rule in (self._rename, self._split, self._linear, self._merge):
            waiting = [(axis, index) for axis, index in waiting if not rule(axis, index)]
        for axis, index in waiting:
            self.conditions.append(call("eq", index, Index(_TARGET + axis)))
        return self._finish()

    def _free(self, axis: str) -> bool:
        return axis in self.loops and axis not in self.solved

    # ------------------------------------------------------------ rules

    def _rename(self, axis: str, index: Expr) -> bool:
        if not isinstance(index, Index) or not self._free(index.axis):
            return False
        self.solved[index.axis] = Index(_TARGET + axis)
        if not self.scatter.same_extent(axis, index.axis):
            self.guards.append(call("lt", Index(_TARGET + axis), Size(index.axis)))
        return True

    def _linear(self, axis: str, index: Expr) -> bool:
        form = linear_form(index, self.scatter.extents)
        if form is None:
            return False
        able = [s.axis for s, k in form.terms.items() if isinstance(s, Index) and abs(k) == 1 and self._free(s.axis)]
        if not able:
            return False
        loop = axis if axis in able else able[0]
        rest = form.without(Index(loop))
        target = Linear(0, {Index(_TARGET + axis): 1})
        value = target - rest if form.coefficient(Index(loop)) == 1 else rest - target
        self._set(loop, value.expr())
        return True

    def _set(self, loop: str, value: Expr) -> None:
        self.solved[loop] = value
        self.guards.append(call("ge", value, Const(0, INT)))
        self.guards.append(call("lt", value, Size(loop)))

    def _split(self, axis: str, index: Expr) -> bool:
        """i // E, and i % E beside it: i = a · E + r."""
        match index:
            case Op(op="floordiv", args=(Index(axis=loop), by)) if self._free(loop) and not free_axes(by):
                rest = self._partner(loop, by)
                if rest is None:
                    inner: Expr = Index(self.scatter.of(f"{loop}.rest", by))
                else:
                    inner = Index(_TARGET + rest)
                value = call("add", call("mul", Index(_TARGET + axis), by), inner)
                self.solved[loop] = value
                self.guards.append(call("lt", value, Size(loop)))
                return True
            case Op(op="mod", args=(Index(axis=loop), by)) if not free_axes(by):
                return loop in self.solved and self._partner_of(loop, by)
        return False

    def _partner(self, loop: str, by: Expr) -> str | None:
        """The axis that is read at ``loop % by``."""
        wanted = Op("mod", (Index(loop), by))
        return next((a for a, i in zip(self.axes, self.read.indices, strict=True) if i == wanted), None)

    def _partner_of(self, loop: str, by: Expr) -> bool:
        return any(i == Op("floordiv", (Index(loop), by)) for i in self.read.indices)

    def _merge(self, axis: str, index: Expr) -> bool:
        """g · E + r with #r = E: g = a // E, r = a % E."""
        match index:
            case Op(op="add", args=(Op(op="mul", args=(Index(axis=slow), by)), Index(axis=fast))):
                whole = by == Size(fast) or by == self.scatter.root(fast) or (
                    isinstance(by, Size) and self.scatter.same_extent(by.axis, fast))  # fmt: skip
                if whole and not free_axes(by) and self._free(slow) and self._free(fast):
                    target = Index(_TARGET + axis)
                    self.solved[slow] = call("floordiv", target, by)
                    self.solved[fast] = call("mod", target, by)
                    self.guards.append(call("lt", self.solved[slow], Size(slow)))
                    return True
        return False

    # ------------------------------------------------------------ result

    def _finish(self) -> Solution:
        """Loop axes that stay and share a name with an axis of the tensor get another one."""
        renamed = {a: self.scatter.like(a) for a in self.loops if a not in self.solved and a in self.axes}
        kept: dict[str, Expr] = {a: Index(new) for a, new in renamed.items()}
        values = dict(self.solved)
        for _ in range(len(values)):  # solved axes may occur in what others were solved to
            values = {loop: substitute(value, self.solved) for loop, value in values.items()}
        back = {_TARGET + a: Index(a) for a in self.axes}

        def settled(expr: Expr) -> Expr:
            return substitute(substitute(substitute(expr, values), kept), back)

        where = {loop: settled(value) for loop, value in values.items()}
        where = {loop: value for loop, value in where.items() if value != Index(loop)} | kept
        left = [renamed.get(a, a) for a in self.loops if a not in self.solved]
        left += [s.axis for v in self.solved.values() for s in walk(v) if isinstance(s, Index) and self._is_new(s.axis)]
        conditions, guards = tuple(map(settled, self.conditions)), tuple(map(settled, self.guards))
        return Solution(where, tuple(dict.fromkeys(left)), conditions, guards)

    def _is_new(self, axis: str) -> bool:
        return not axis.startswith(_TARGET) and axis not in self.loops
