"""Expressions over the indices of a sequence, put where that sequence lies otherwise.

A layer speaks of its own sequence: indices 0 … #t − 1, a first and a last. `reverse`, `pack` and `mask` say what
becomes of that when the sequence runs backwards, lies between others, or has gaps. What they share is here: a walk
that knows which axes run along the sequence (t, and all that are as long), what holds around each part, and how
linear forms and comparisons are written once an index is something else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ssmc.errors import Unsupported
from ssmc.ir import (
    BOOL,
    COMPLEX,
    INT,
    REAL,
    REDUCTIONS,
    Accesses,
    Axis,
    Const,
    DType,
    Equation,
    Expr,
    Extension,
    Index,
    Linear,
    Op,
    Program,
    Read,
    Reduce,
    Size,
    Tensor,
    Transform,
    Where,
    at_least,
    children,
    comparison,
    facts,
    free_axes,
    known_extents,
    linear_form,
    lower_bound,
    rewrite,
    substitute,
    type_of,
    upper_bound,
    with_children,
)
from ssmc.source import Span

from .algebra import together
from .names import Names

_COMPARISONS = frozenset(("lt", "le", "gt", "ge", "eq", "ne"))


@dataclass(frozen=True)
class Place:
    """What holds around a sub-expression: ``own`` is an axis along the sequence that has an index there, if any;
    the forms in ``given`` are ≥ 0; ``bound`` axes are run through by reductions and whole-axis operations around;
    the index along ``straight`` axes is that of the layer itself."""

    own: str | None = None
    given: tuple[Linear, ...] = ()
    bound: frozenset[str] = frozenset()
    straight: frozenset[str] = frozenset()

    def knowing(self, found: Iterable[Linear]) -> Place:
        """Where these forms are ≥ 0 too."""
        return replace(self, given=(*self.given, *found))

    def inside(self, axes: Iterable[str]) -> Place:
        """Below a reduction or a whole-axis operation: facts about the axes it runs through no longer hold."""
        axes = frozenset(axes)
        kept = tuple(fact for fact in self.given if not fact.axes & axes)
        return replace(self, given=kept, bound=self.bound | axes, straight=self.straight - axes)


def sequence_of(program: Program, form: str) -> str:
    """The one sequence axis of ``program``; Unsupported, saying which form there is none of, if it is not one."""
    if len(program.sequence_axes) != 1:
        raise Unsupported(
            f"{program.name} has {len(program.sequence_axes)} sequence axes, so it has no {form} form",
            span=program.span,
            expected="one `seq` axis",
        )
    return program.sequence_axes[0]


@dataclass
class Local(ABC):
    """A walk over the equations of one Program. Subclasses say what a position, a length, a read and a fold are.

    ``made`` gathers further equations, ``axes`` further axes."""

    program: Program
    time: str
    form = "other"

    made: list[Equation] = field(default_factory=list, init=False)
    axes: list[Axis] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        program = self.program
        self.extents = known_extents(program)
        self.tensors: dict[str, Tensor] = program.tensors()
        self.functions = {f.name: f for f in program.functions}
        self.required = Accesses(program).required
        self.names = Names.of(program)
        self.alike = frozenset(axis.name for axis in program.axes if self._root(axis.name) == self._root(self.time))
        self.defined = {equation.name for equation in program.equations}
        self.current: Equation | None = None
        self._symbols: dict[str, Expr] = {}

    def _root(self, axis: str) -> str:
        extent = self.extents.get(axis)
        return self._root(extent.axis) if isinstance(extent, Size) else axis

    # ------------------------------------------------------------ what a subclass says

    @abstractmethod
    def position(self, axis: str, place: Place) -> Linear:
        """The index of the layer's own sequence at index ``axis`` of the array."""

    @abstractmethod
    def length(self, place: Place) -> Linear:
        """The length of the layer's own sequence."""

    @abstractmethod
    def read(self, read: Read, place: Place) -> Expr:
        """A read whose indices are still those of the layer."""

    @abstractmethod
    def fold(self, reduce: Reduce, place: Place) -> Expr:
        """A reduction over an axis along the sequence."""

    @abstractmethod
    def transform(self, transform: Transform, place: Place) -> Expr:
        """A whole-axis operation along the sequence."""

    # ------------------------------------------------------------ the walk

    def equation_expr(self, equation: Equation) -> Expr:
        """The right side of an equation, rewritten."""
        self.current = equation
        return self.expr(equation.expr, Place(self.own_axis(equation.axes), self.required))

    def own_axis(self, axes: tuple[str, ...]) -> str | None:
        """The axis along the sequence that an equation has, the sequence axis itself first."""
        return self.time if self.time in axes else next((a for a in axes if a in self.alike), None)

    def expr(self, expr: Expr, place: Place) -> Expr:
        """``expr`` of the layer at a place, over indices of the array."""
        form = linear_form(expr)
        if form is not None:
            moved = self.value(form, place)
            return expr if moved == form else self.spelled(moved)
        match expr:
            case Op(op=op, args=(a, b)) if op in _COMPARISONS:
                left, right = linear_form(a), linear_form(b)
                if left is not None and right is not None:
                    return self.comparison(expr, left, right, place)
            case Read():
                return self.read(expr, place)
            case Where(condition=c, then=a, otherwise=b):
                yes, no = facts(c, self.extents), facts(c, self.extents, holds=False)
                sides = self.expr(a, place.knowing(yes)), self.expr(b, place.knowing(no))
                return replace(expr, condition=self.expr(c, place), then=sides[0], otherwise=sides[1])
            case Reduce(axes=axes) if set(axes) & self.alike:
                return self.fold(expr, place)
            case Reduce(axes=axes):
                return self.folded(expr, place.inside(axes))
            case Transform(axis=axis) if axis in self.alike:
                return self.transform(expr, place)
            case Transform(axis=axis):
                return replace(expr, body=self.expr(expr.body, place.inside((axis,))))
        return with_children(expr, tuple(self.expr(item, place) for item in children(expr)))

    def folded(self, reduce: Reduce, inner: Place, members: Iterable[Expr] = ()) -> Reduce:
        """A reduction over the same axes, only where ``members`` hold too; ``inner`` is the place inside it."""
        known = () if reduce.condition is None else facts(reduce.condition, self.extents)
        parts = [*members] + ([] if reduce.condition is None else [self.expr(reduce.condition, inner)])
        return replace(reduce, condition=together(parts), body=self.expr(reduce.body, inner.knowing(known)))

    def comparison(self, expr: Op, left: Linear, right: Linear, place: Place) -> Expr:
        """A comparison of two linear forms."""
        moved = self.value(left - right, place)
        return expr if moved == left - right else replace(self.compared(expr.op, moved), span=expr.span)

    # ------------------------------------------------------------ linear forms

    def value(self, form: Linear, place: Place) -> Linear:
        """A form over indices of the layer's own sequence, over those of the array."""
        if not any(symbol.axis in self.alike for symbol in form.terms):
            return form
        result = Linear(form.constant)
        for symbol, k in form.terms.items():
            if symbol.axis not in self.alike:
                term = self.shortest(symbol)
            else:
                term = self.position(symbol.axis, place) if isinstance(symbol, Index) else self.length(place)
            result = result + term.scaled(k)
        return result

    def shortest(self, symbol: Index | Size) -> Linear:
        """An extent as it is stated; an index that can only be 0 as that."""
        if isinstance(symbol, Size):
            return linear_form(symbol, self.extents) or Linear(0, {symbol: 1})
        return Linear() if self.extents.get(symbol.axis) == Const(1, INT) else Linear(0, {symbol: 1})

    def symbol(self, expr: Expr) -> Linear:
        """An expression of which nothing is known, as a symbol of linear forms."""
        known = next((name for name, same in self._symbols.items() if same == expr), None)
        name = known or f"→{len(self._symbols)}"
        self._symbols[name] = expr
        return Linear(0, {Index(name): 1})

    def spelled(self, form: Linear) -> Expr:
        """A form as an expression, symbols written out."""
        return substitute(form.expr(), self._symbols)

    def compared(self, op: str, form: Linear) -> Op:
        """``form op 0``."""
        written = substitute(comparison(op, form), self._symbols)
        assert isinstance(written, Op)
        return written

    def is_plain(self, index: Expr) -> bool:
        """Whether an index is that of an axis along the sequence."""
        return isinstance(index, Index) and index.axis in self.alike

    def is_inside(self, index: Expr, axis: str, place: Place) -> tuple[bool, bool]:
        """Whether an index of the layer is certainly at least 0, and certainly less than the extent."""
        form, size = self.bounding(index), self.bounding(Size(axis))
        if form is None or size is None:
            return False, False
        low = lower_bound(form, place.given, self.extents)
        high = lower_bound(size - 1 - form, place.given, self.extents)
        return at_least(low, 0), at_least(high, 0)

    def is_outside(self, index: Expr, axis: str, place: Place) -> str | None:
        """The side on which an index of the layer certainly lies outside, if it does."""
        form, size = self.bounding(index), self.bounding(Size(axis))
        if form is None or size is None:
            return None
        if at_least(-upper_bound(form, place.given, self.extents), 1):
            return "before"
        return "after" if at_least(lower_bound(form - size, place.given, self.extents), 0) else None

    # ------------------------------------------------------------ reads outside

    def beyond(self, read: Read, side: str, place: Place) -> Expr:
        """What the layer reads outside its sequence on one side: an extension or 0, rewritten."""
        tensor = self.tensors[read.tensor]
        extension = self.program.extension(read.tensor, self.time, side)
        if extension is None:
            return zero(tensor.dtype)
        where = dict(zip(tensor.axes, read.indices, strict=True))
        form, size = self.bounding(where[self.time]), self.bounding(Size(self.time))
        if form is not None and size is not None:
            place = place.knowing((-form - 1 if side == "before" else form - size,))
            last = upper_bound(form, place.given, self.extents)
            if last.is_constant and at_least(lower_bound(form, place.given, self.extents), last.constant):
                where[self.time] = Const(last.constant, INT)
        return self.expr(self._shortened(self.substituted(extension, where)), place)

    def bounding(self, index: Expr) -> Linear | None:
        """An index as a form of which bounds can be known."""
        return linear_form(index, self.extents)

    def _shortened(self, expr: Expr) -> Expr:
        """An expression with sums of numbers and extents added up."""

        def rule(node: Expr) -> Expr | None:
            form = linear_form(node) if isinstance(node, Op) else None
            if form is None or any(symbol.axis in self.alike for symbol in form.terms):
                return None
            total = Linear(form.constant)
            for symbol, k in form.terms.items():
                total = total + self.shortest(symbol).scaled(k)
            return total.expr()

        return rewrite(expr, rule)

    def substituted(self, extension: Extension, where: Mapping[str, Expr]) -> Expr:
        """What an extension says is outside, at these indices; Unsupported where no expression says it."""
        try:
            return substitute(extension.expr, where)
        except ValueError as error:
            raise self.refused(f"what is outside {extension.tensor!r} cannot be written there: {error}") from None

    # ------------------------------------------------------------ further equations

    def define(
        self, base: str, expr: Expr, axes: tuple[str, ...] | None = None, dtype: DType | None = None
    ) -> Equation:
        """A further equation, by default along all that its value varies along, of the type of its value."""
        if axes is None:
            free = free_axes(expr)
            axes = tuple(axis.name for axis in (*self.program.axes, *self.axes) if axis.name in free)
        dtype = dtype or type_of(expr, self.tensors, self.functions)
        made = Equation(self.names.new(base), axes, dtype, expr, expr.span)
        self.made.append(made)
        self.tensors[made.name] = made.tensor
        return made

    # ------------------------------------------------------------ what is refused

    def refused(self, why: str, span: Span | None = None, hint: str = "") -> Unsupported:
        """An error that says why there is no such form; it points to the equation that is being rewritten."""
        span = span or (self.current.span if self.current is not None else self.program.span)
        return Unsupported(f"no {self.form} form: {why}", span=span, hint=hint)

    @property
    def here(self) -> str:
        """The equation that is being rewritten, for messages."""
        return repr(self.current.name) if self.current is not None else self.program.name


def zero(dtype: DType) -> Const:
    """0 of a type."""
    return {BOOL: Const(False, BOOL), INT: Const(0, INT), REAL: Const(0.0, REAL), COMPLEX: Const(0.0, REAL)}[dtype]


def is_zero(expr: Expr) -> bool:
    """Whether an expression is 0, or False."""
    return isinstance(expr, Const) and not expr.value


def where(condition: Expr | None, then: Expr, otherwise: Expr) -> Expr:
    """``then`` where the condition holds, else ``otherwise``; without a condition everywhere."""
    return then if condition is None or then == otherwise else Where(condition, then, otherwise)


def keeps_axis(expr: Reduce) -> bool:
    """Whether a reduction keeps the axis that it runs over, as softmax does."""
    return REDUCTIONS[expr.kind].keeps_axis
