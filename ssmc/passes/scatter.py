"""Sums over everything that reads one element: ``d.x[a] = sum[i: f(i) == a](value(i))`` for a read ``x[a=f(i)]``.

An index that is one loop axis is renamed; a linear one is solved for a loop axis; ``i // E`` and ``i % E`` of one
axis put it together again, ``g * E + r`` takes it apart; what cannot be solved stays as the condition, which is
the equal-code sum of the language. Reads outside their axis receive nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    Read,
    Size,
    Tensor,
    Where,
    children,
    free_axes,
    walk,
    with_children,
)

from .affine import Indices
from .algebra import call, is_number, whole
from .derivatives import is_tame
from .flatten import moved
from .names import Names

_TARGET = "→"  # marks an index of the tensor that is read, beside a loop axis of the same name


@dataclass(frozen=True)
class Guard:
    """A condition for the loop axis that was solved to exist at the index it was solved to."""

    loop: str
    condition: Expr


@dataclass(frozen=True)
class Term:
    """What a tensor receives at each of its elements: ``value``, summed over ``axes`` where ``conditions`` hold.
    One that is ``alone`` is not put into one sum with others, whose factors may be 0 elsewhere."""

    value: Expr
    axes: tuple[str, ...] = ()
    conditions: tuple[Expr, ...] = ()
    alone: bool = False


@dataclass(frozen=True)
class Solution:
    """``where`` puts an expression for each loop axis that is solved or renamed; the axes in ``summed`` are left
    to sum over, where the ``conditions`` hold. ``guards`` hold wherever the solved loop axes exist."""

    where: Mapping[str, Expr]
    summed: tuple[str, ...]
    conditions: tuple[Expr, ...]
    guards: tuple[Guard, ...]

    @property
    def moved(self) -> frozenset[str]:
        """The loop axes that become more than another axis."""
        return frozenset(loop for loop, expr in self.where.items() if not isinstance(expr, Index))


@dataclass
class Scatter:
    """Solves reads of one Program; ``axes`` gathers new axes, which several sums may run along."""

    program: Program
    names: Names
    indices: Indices
    tensors: Mapping[str, Tensor]
    axes: list[Axis] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._made: dict[Expr, list[str]] = {}
        self._extended = {(x.tensor, x.axis) for x in self.program.extensions}

    def solve(self, read: Read, axes: tuple[str, ...], loops: Iterable[str]) -> Solution:
        """The loop axes in terms of the axes of the tensor that is read."""
        return _Solving(self, read, axes, tuple(dict.fromkeys(loops))).run()

    def axis(self, stem: str, extent: Expr, apart: Iterable[str]) -> str:
        """An axis of that extent that is none of those in ``apart``."""
        known = self._made.setdefault(extent, [])
        taken = set(apart)
        for name in known:
            if name not in taken:
                return name
        made = Axis(self.names.new(stem), extent)
        self.axes.append(made)
        self.indices.declare(made)
        known.append(made.name)
        return made.name

    # ------------------------------------------------------------ terms

    def term(self, solution: Solution, value: Expr, conditions: Sequence[Expr], there: Iterable[str] = ()) -> Term:
        """What is received in all of ``value`` where ``conditions`` hold, both over the loop axes. ``there`` are loop
        axes outside which the value is 0."""
        exact = {*there, *(g.loop for g in solution.guards if self.vanishes(value, g.loop))}
        guards = (g.condition for g in solution.guards if g.loop not in exact)
        held = (*solution.conditions, *(self._at(solution, c) for c in conditions), *guards)
        held = tuple(c for c in dict.fromkeys(held) if self.indices.holds(c) is not True)
        return self._picked(Term(self._at(solution, value), solution.summed, held))

    def _at(self, solution: Solution, expr: Expr) -> Expr:
        """``expr`` over loop axes, at what they were solved to."""
        if not solution.where:
            return expr
        result = moved(expr, solution.where, lambda axis: self.axis(f"{axis}.all", Size(axis), _axes_in(expr)))
        return self._plain(result) if solution.moved & free_axes(expr) else result

    def _plain(self, expr: Expr) -> Expr:
        """Indices and the sides of comparisons, where they are linear, with each symbol once."""
        below = tuple(self._plain(item) for item in children(expr))
        if isinstance(expr, Read) or (isinstance(expr, Op) and expr.op in ("lt", "le", "gt", "ge", "eq", "ne")):
            below = tuple(self._linear(item) for item in below)
        return with_children(expr, below)

    def _linear(self, expr: Expr) -> Expr:
        form = self.indices.form(expr) if isinstance(expr, Op) and expr.op in ("add", "sub", "neg") else None
        return expr if form is None else form.expr()

    def _picked(self, term: Term) -> Term:
        """A condition that leaves one index of an axis picks it."""
        for axis in term.axes:
            for condition in term.conditions:
                index = _only(condition, axis)
                if index is None:
                    continue
                at = {axis: index}
                rest = (moved(c, at, lambda a: a) for c in term.conditions if c is not condition)
                value = self._plain(moved(term.value, at, lambda a: a))
                left = tuple(a for a in term.axes if a != axis)
                return self._picked(Term(value, left, tuple(rest)))
        return term

    # ------------------------------------------------------------ what is 0 outside

    def is_simple(self, value: Expr) -> bool:
        """Whether a value is a product of reads, inexpensive to compute at another place."""
        match value:
            case Read() | Const() | Size():
                return True
            case Op(op="mul" | "neg" | "conj" | "re" | "real", args=args):
                return all(map(self.is_simple, args))
        return False

    def vanishes(self, value: Expr, loop: str) -> bool:
        """Whether ``value`` is certainly 0 where ``loop`` is outside its axis: some factor is read there."""
        match value:
            case Read(tensor=name, indices=indices):
                places = zip(self.tensors[name].axes, indices, strict=True)
                return any(index == Index(loop) and self._ends_with(name, axis, loop) for axis, index in places)
            case Op(op="mul", args=(a, b)):
                return (self.vanishes(a, loop) and is_tame(b)) or (self.vanishes(b, loop) and is_tame(a))
            case Op(op="neg" | "conj" | "re" | "real" | "im", args=(a,)):
                return self.vanishes(a, loop)
            case Op(op="div", args=(a, Const(value=by))) if by:
                return self.vanishes(a, loop)
            case Where(then=a, otherwise=b):
                return (self.vanishes(a, loop) or is_number(a, 0)) and (self.vanishes(b, loop) or is_number(b, 0))
        return False

    def _ends_with(self, tensor: str, axis: str, loop: str) -> bool:
        """Whether reading ``tensor`` outside ``loop`` along ``axis`` gives 0."""
        return self.indices.same_extent(axis, loop) and (tensor, axis) not in self._extended


def _axes_in(expr: Expr) -> set[str]:
    """All axes that occur in an expression, bound ones included."""
    found = set(free_axes(expr))
    for node in walk(expr):
        found |= set(getattr(node, "axes", ())) | free_axes(node)
    return found


def _only(condition: Expr, axis: str) -> Expr | None:
    """The one index that ``i < 1``, ``i - 1 < 0`` or ``i + 1 >= #i`` leaves."""
    match condition:
        case Op(op="lt", args=(Op(op="sub", args=(Index(axis=own), Const(value=1))), Const(value=0))) if own == axis:
            return whole(0)
        case Op(op="ge", args=(Op(op="add", args=(Index(axis=own), Const(value=1))), Size(axis=size))) if (
            own == axis == size
        ):
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
    guards: list[Guard] = field(default_factory=list)
    split: list[Expr] = field(default_factory=list)

    def run(self) -> Solution:
        waiting = list(zip(self.axes, self.read.indices, strict=True))
        waiting.sort(key=lambda item: isinstance(item[1], Op) and item[1].op == "mod")  # each after its `//`
        for rule in (self._rename, self._split, self._merge, self._linear):
            waiting = [
                (axis, index) for axis, index in waiting
                if index not in self.split and not rule(axis, self._known(index))
            ]  # fmt: skip
        for axis, index in waiting:
            sides = self._known(index), Index(_TARGET + axis)
            self.conditions.append(call("eq", *(sides if free_axes(sides[0]) else sides[::-1])))
        return self._finish()

    def _free(self, axis: str) -> bool:
        return axis in self.loops and axis not in self.solved

    def _known(self, index: Expr) -> Expr:
        """An index in terms of what is solved already."""
        return moved(index, self.solved, self._like)

    def _like(self, axis: str) -> str:
        return self.scatter.axis(f"{axis}.all", Size(axis), (*self.loops, *self.axes))

    def _set(self, loop: str, value: Expr, *limits: Expr) -> None:
        """``loop`` is ``value``; it exists where the ``limits`` hold."""
        self.solved = {name: moved(known, {loop: value}, self._like) for name, known in self.solved.items()}
        self.guards = [replace(g, condition=moved(g.condition, {loop: value}, self._like)) for g in self.guards]
        self.solved[loop] = value
        self.guards += [Guard(loop, limit) for limit in limits]

    # ------------------------------------------------------------ rules

    def _rename(self, axis: str, index: Expr) -> bool:
        if not isinstance(index, Index) or not self._free(index.axis):
            return False
        target = Index(_TARGET + axis)
        same = self.scatter.indices.same_extent(axis, index.axis)
        self._set(index.axis, target, *(() if same else (call("lt", target, Size(index.axis)),)))
        return True

    def _linear(self, axis: str, index: Expr) -> bool:
        form = self.scatter.indices.form(index)
        if form is None:
            return False
        able = [s.axis for s, k in form.linear.terms.items() if isinstance(s, Index) and abs(k) == 1]
        able = [loop for loop in able if self._free(loop) and not form.varies(loop)]
        if not able:
            return False
        loop = axis if axis in able else able[0]
        rest = form.linear.without(Index(loop))
        target = Linear(0, {Index(_TARGET + axis): 1})
        value = form.expr(target - rest if form.linear.coefficient(Index(loop)) == 1 else rest - target)
        self._set(loop, value, call("ge", value, whole(0)), call("lt", value, Size(loop)))
        return True

    def _split(self, axis: str, index: Expr) -> bool:
        """i // E, with or without i % E beside it: i = a · E + r; or i % E alone."""
        match index:
            case Op(op="floordiv", args=(Index(axis=loop), by)) if self._free(loop) and self._divides(by):
                rest = self._partner(loop, by)
                if rest is None:
                    inner: Expr = Index(self.scatter.axis(f"{loop}.rest", by, (*self.loops, *self.axes)))
                else:
                    inner = Index(_TARGET + rest)
                    self.split.append(Op("mod", (Index(loop), by)))
                value = call("add", call("mul", Index(_TARGET + axis), by), inner)
                if rest is not None and not self._is_extent(rest, by):
                    self.conditions.append(call("lt", inner, by))  # no remainder; no matter where the loop ends
                self._set(loop, value, call("lt", value, Size(loop)))
                return True
            case Op(op="mod", args=(Index(axis=loop), by)) if self._free(loop) and self._divides(by):
                turns = call("floordiv", call("sub", call("add", Size(loop), by), whole(1)), by)
                turn = Index(self.scatter.axis(f"{loop}.turn", turns, (*self.loops, *self.axes)))
                target = Index(_TARGET + axis)
                value = call("add", call("mul", turn, by), target)
                if not self._is_extent(axis, by):
                    self.conditions.append(call("lt", target, by))
                self._set(loop, value, call("lt", value, Size(loop)))
                return True
        return False

    def _divides(self, by: Expr) -> bool:
        """Whether ``by`` is the same everywhere and may be above 0."""
        return _is_size(by) and self.scatter.indices.holds(call("ge", by, whole(1))) is not False

    def _partner(self, loop: str, by: Expr) -> str | None:
        """The axis that is read at ``loop % by``."""
        wanted = Op("mod", (Index(loop), by))
        return next((a for a, i in zip(self.axes, self.read.indices, strict=True) if i == wanted), None)

    def _is_extent(self, axis: str, extent: Expr) -> bool:
        indices = self.scatter.indices
        same_axis = isinstance(extent, Size) and indices.same_extent(extent.axis, axis)
        return same_axis or extent in (Size(axis), indices.root(axis))

    def _merge(self, axis: str, index: Expr) -> bool:
        """g · E + r with #r = E: g = a // E, r = a % E."""
        match index:
            case Op(op="add", args=(Op(op="mul", args=(Index(axis=slow), by)), Index(axis=fast))):
                if self._is_extent(fast, by) and self._free(slow) and self._free(fast) and slow != fast:
                    target = Index(_TARGET + axis)
                    high = call("floordiv", target, by)
                    self._set(slow, high, call("lt", high, Size(slow)))
                    self._set(fast, call("mod", target, by))
                    return True
        return False

    # ------------------------------------------------------------ result

    def _finish(self) -> Solution:
        """Loop axes that stay and share a name with an axis of the tensor get another one."""
        apart = [*self.loops, *self.axes]
        kept: dict[str, Expr] = {}
        for loop in self.loops:
            if loop not in self.solved and loop in self.axes:
                name = self.scatter.axis(f"{loop}.all", Size(loop), apart)
                apart.append(name)
                kept[loop] = Index(name)
        back: dict[str, Expr] = {_TARGET + a: Index(a) for a in self.axes}

        def settled(expr: Expr) -> Expr:
            return moved(moved(expr, kept, self._like), back, self._like)

        where = {loop: settled(value) for loop, value in self.solved.items()}
        where = {loop: value for loop, value in where.items() if value != Index(loop)} | kept
        left = [new.axis if isinstance(new := kept.get(a), Index) else a for a in self.loops if a not in self.solved]
        left += [axis for value in self.solved.values() for axis in free_axes(value) if self._is_new(axis)]
        guards = tuple(replace(g, condition=settled(g.condition)) for g in self.guards)
        return Solution(where, tuple(dict.fromkeys(left)), tuple(map(settled, self.conditions)), guards)

    def _is_new(self, axis: str) -> bool:
        return not axis.startswith(_TARGET) and axis not in self.loops


def _is_size(expr: Expr) -> bool:
    """Whether an int is the same everywhere: of sizes and constants."""
    return all(isinstance(node, (Const, Size, Op)) for node in walk(expr))
