"""Program → Program: sequences with gaps. A padded position writes nothing, decays nothing, and yields zero.

    h = a * h[t-1] + x;   h[t<0] = h.state;   h.next = h[t = #t-1]
  = h = where(t.valid, a * h[t-1] + x, h[t-1]);   h[t<0] = h.state;   h.next = h[t = #t-1]

What it means: for each entry of the ``batch`` axes move the tokens where the further input `t.valid` holds together,
run the layer, put the results back where the tokens were, and 0 elsewhere. A position is the number of valid tokens
before it, and #t is their number: `t.count` counts them on the way. Reductions along the sequence run over valid
tokens. Values at padded positions are never read, so that nothing has to be moved but what is read at a lag: those
come from a register that keeps the last valid values and moves on at valid tokens only,

    x.last[x.lags, t] = where(t.valid, where(x.lags == 0, x, x.last[x.lags-1, t-1]), x.last[t-1])

where one value is enough, from the equation itself, which holds its value at padded positions. What is read ahead
comes from a register that runs the other way. A register starts with what the layer says is outside, such as the
state that came in, and holds after the last position what the state that goes out asks for: states with and without
a mask are the same. (`t.offset` counts on for each batch entry, so it and `t.next_offset` get the batch axes.)
Any other index is looked up: `t.place` lists the valid positions in order.

Precondition: see `ragged`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ssmc.analysis import longest
from ssmc.errors import Unsupported, UserError
from ssmc.ir import (
    BOOL,
    INT,
    Axis,
    Const,
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
    dependence,
    facts,
    linear_form,
    lower_bound,
    upper_bound,
)

from .algebra import together
from .local import Place, is_zero, sequence_of, where, zero
from .ragged import Ragged, leading_axes
from .tidy import tidied

PAST, AHEAD = 1, -1
_ONE = Const(1, INT)

# Which values of a tensor are kept: those before a position along an axis, or those after it.
Key = tuple[str, str, int]


def mask(program: Program, batch: Sequence[str] | None = None) -> Program:
    """``program`` on sequences of which only some positions hold a token.

    Args:
        batch: the axes along which the input `t.valid` varies beside the sequence; by default those with which
            all inputs along the sequence begin.

    Raises Unsupported, naming the equation, for a layer that has no such form; UserError for a wrong ``batch``.
    """
    time = sequence_of(program, "masked")
    along = leading_axes(program, time) if batch is None else tuple(batch)
    lifted: frozenset[str] = frozenset()
    depths: dict[Key, Expr] = {}
    while True:
        attempt = _Mask(program, time, along, lifted, depths)
        result = attempt.run()
        found = {key: attempt.depth(lags) for key, lags in attempt.lags.items()}
        if attempt.missing <= lifted and found == depths:
            return result
        lifted, depths = lifted | attempt.missing, found


@dataclass(frozen=True)
class _Register:
    """The values kept for one ``key``: ``name``, with an axis ``lags`` unless one value is enough."""

    key: Key
    name: str
    lags: Axis | None

    def at(self, lag: Linear) -> dict[str, Expr]:
        """The place of the value read ``lag`` valid tokens away, at least 1."""
        return {} if self.lags is None else {self.lags.name: (lag - 1).expr()}


@dataclass
class _Mask(Ragged):
    """One attempt; ``depths`` says how far each register has to reach, ``lags`` gathers what was asked for."""

    depths: Mapping[Key, Expr] = field(default_factory=dict)
    form = "masked"

    lags: dict[Key, list[tuple[Linear, frozenset[str]]]] = field(default_factory=dict, init=False)
    registers: dict[Key, _Register] = field(default_factory=dict, init=False)
    extensions: list[Extension] = field(default_factory=list, init=False)
    held: dict[str, _Register] = field(default_factory=dict, init=False)

    def run(self) -> Program:
        self.check()
        ours = [f"{self.time}.{name}" for name in ("valid", "count", "place")]
        for name in (*ours, f"{self.time}.doc"):
            if name in self.names.taken:
                raise self.refused(f"{name!r} is there already: it is {'packed' if name.endswith('doc') else 'masked'}")
        self.names.taken.update(ours)
        axes = (*self.batch, self.time)
        valid = Tensor(f"{self.time}.valid", axes, BOOL)
        self.tensors |= {valid.name: valid} | {name: Tensor(name, axes, INT) for name in ours[1:]}
        self._hold()
        equations = [made for equation in self.equations() for made in self._at_valid(equation)]
        equations = [*self._counting(), *equations, *self._registers()]
        result = tidied(
            replace(
                self.program,
                axes=(*self.program.axes, *self.axes),
                inputs=(*self.inputs(), valid),
                equations=tuple(equations),
                extensions=tuple(self.extensions),
            )
        )
        self._check_circles(result)
        return result

    def _check_circles(self, result: Program) -> None:
        try:
            dependence(result)
        except UserError as error:
            raise Unsupported(f"no masked form: {error.diagnostics[0].message}", span=self.program.span) from None

    # ------------------------------------------------------------ equations

    def _counting(self) -> tuple[Equation, ...]:
        """How many tokens there are up to each position, and the positions of all of them."""
        axes = (*self.batch, self.time)
        here: tuple[Expr, ...] = tuple(map(Index, axes))
        before: tuple[Expr, ...] = (*here[:-1], Op("sub", (Index(self.time), _ONE)))
        valid = Read(f"{self.time}.valid", here)
        count = Op("add", (Read(f"{self.time}.count", before), valid))
        place = Transform("argsort", self.time, Op("not", (valid,)))
        return (
            Equation(f"{self.time}.count", axes, INT, count),
            Equation(f"{self.time}.place", axes, INT, place),
        )

    def _hold(self) -> None:
        """Equations of which only the value before, or only that after, is read hold it themselves."""
        for (name, axis, way), depth in self.depths.items():
            alone = sum(other in self.alike for other in self.tensors[name].axes) == 1
            if name in self.defined and depth == _ONE and alone and (name, axis, -way) not in self.depths:
                held = self.names.new(f"{name}.held") if name in self.program.outputs else name
                self.held[name] = self.registers[name, axis, way] = _Register((name, axis, way), held, None)

    def _at_valid(self, equation: Equation) -> list[Equation]:
        """An equation that holds its value at padded positions, or that is 0 there if it is an output."""
        along = [axis for axis in equation.axes if axis in self.alike]
        if not along:
            return [equation]
        self.current = equation
        valid = together(self._valid(axis, Place()) for axis in along)
        none = zero(equation.dtype)
        if equation.name not in self.held:
            shown = where(valid, equation.expr, none) if equation.name in self.program.outputs else equation.expr
            return [replace(equation, expr=shown)]
        register = self.held[equation.name]
        _, axis, way = register.key
        same = where(valid, equation.expr, Read(register.name, self._shifted(equation.axes, axis, way)))
        found = [replace(equation, name=register.name, expr=same)]
        self._extend(register, equation)
        if register.name != equation.name:
            read = Read(register.name, tuple(map(Index, equation.axes)))
            found.append(replace(equation, expr=where(valid, read, none)))
        return found

    def _shifted(self, axes: tuple[str, ...], axis: str, way: int) -> tuple[Expr, ...]:
        """All indices as they are, but that along ``axis`` one step back (or ahead)."""
        return tuple(self._beside(axis, way) if other == axis else Index(other) for other in axes)

    def _beside(self, axis: str, way: int) -> Expr:
        return Op("sub" if way == PAST else "add", (Index(axis), _ONE))

    # ------------------------------------------------------------ registers

    def depth(self, lags: list[tuple[Linear, frozenset[str]]]) -> Expr:
        """How many values a register keeps, for lags and the axes that their readers have."""
        extents = [axis.extent for axis in self.program.axes if axis.extent is not None]
        given = [form for form in (linear_form(extent, self.extents) for extent in extents) if form is not None]
        inhabited = frozenset.intersection(*(reader for _, reader in lags))
        forms = dict.fromkeys(lag for lag, _ in lags)
        for form in forms:  # an extent that is itself the longest of the others
            others = longest((other for other in forms if other != form), inhabited, given)
            match form.expr():
                case Size(axis=axis) if self.extents.get(axis) == others:
                    return others
        return longest(forms, inhabited, given)

    def register(self, key: Key) -> _Register:
        """The register for ``key``, made when it is first asked for."""
        if key not in self.registers:
            name, _, way = key
            depth = self.depths.get(key, Const(0, INT))
            lags = None
            if depth != _ONE:
                lags = Axis(self.names.new(f"{name}.{'lags' if way == PAST else 'leads'}"), depth)
                self.axes.append(lags)
                self.extents[lags.name] = depth
            made = self.names.new(f"{name}.{'last' if way == PAST else 'coming'}")
            self.registers[key] = _Register(key, made, lags)
        return self.registers[key]

    def register_axes(self, register: _Register) -> tuple[str, ...]:
        name, axis, _ = register.key
        axes = self.with_batch(self.tensors[name].axes)
        if register.lags is None:
            return axes
        place = axes.index(axis)
        return (*axes[:place], register.lags.name, *axes[place:])

    def _registers(self) -> list[Equation]:
        return [self._kept_values(item) for item in self.registers.values() if item.key[0] not in self.held]

    def _kept_values(self, register: _Register) -> Equation:
        name, axis, way = register.key
        axes = self.register_axes(register)
        tensor = self.tensors[name]
        equation = self.current = Equation(register.name, axes, tensor.dtype, zero(tensor.dtype))
        place = Place(axis, self.required)
        new: Expr = self._plain(Read(name, tuple(map(Index, tensor.axes))), place)
        moved = dict(zip(axes, self._shifted(axes, axis, way), strict=True))
        if register.lags is not None:
            lag = register.lags.name
            nearer: dict[str, Expr] = {**moved, lag: Op("sub", (Index(lag), _ONE))}
            first = Op("eq", (Index(lag), Const(0, INT)))
            new = Where(first, new, Read(register.name, tuple(nearer[a] for a in axes)))
        expr = where(self._valid(axis, place), new, Read(register.name, tuple(moved[a] for a in axes)))
        self._extend(register, equation)
        return replace(equation, expr=expr)

    def _extend(self, register: _Register, equation: Equation) -> None:
        """What a register holds before the first step it makes: what the layer says is outside there."""
        name, axis, way = register.key
        if axis != self.time:
            return
        lag = Linear() if register.lags is None else Linear(0, {Index(register.lags.name): 1})
        index = (-lag - 1).expr() if way == PAST else (lag + Linear(0, {Size(axis): 1})).expr()
        read = Read(name, tuple(index if a == axis else Index(a) for a in self.tensors[name].axes))
        outside = self.beyond(read, "before" if way == PAST else "after", Place(None, self.required))
        if not is_zero(outside):
            self.extensions.append(Extension(register.name, axis, "before" if way == PAST else "after", outside))

    # ------------------------------------------------------------ positions

    def _valid(self, axis: str, place: Place) -> Expr:
        return self.known(f"{self.time}.valid", place, Index(axis))

    def _counted(self, index: Expr, place: Place) -> Linear:
        return self.symbol(self.known(f"{self.time}.count", place, index))

    def position(self, axis: str, place: Place) -> Linear:
        return self._counted(Index(axis), place) - 1

    def length(self, place: Place) -> Linear:
        return self._counted(Op("sub", (Size(self.time), _ONE)), place)

    def comparison(self, expr: Op, left: Linear, right: Linear, place: Place) -> Expr:
        """Valid tokens are in the order of their positions: ``s <= t`` stays."""
        form = left - right
        if form.axes <= self.alike and sorted(form.terms.values()) == [-1, 1] and len(form.axes) == 2:
            least = {fact.constant for fact in facts(expr)}
            if least <= {0, -1} if expr.op not in ("eq", "ne") else form.constant == 0:
                return expr
        return super().comparison(expr, left, right, place)

    # ------------------------------------------------------------ reads

    def row(self, read: Read, indices: tuple[Expr, ...], place: Place) -> Expr:
        return self.with_rows(read, indices, place)

    def token(self, read: Read, place: Place) -> Expr:
        axes = self.tensors[read.tensor].axes
        pairs = zip(axes, read.indices, strict=True)
        computed = {axis: i for axis, i in pairs if axis in self.alike and not self.is_plain(i)}
        if not computed:
            return self._element(read, {}, place)
        if len(computed) == 1:
            ((axis, index),) = computed.items()
            form = linear_form(index)
            near = None if form is None else self._near(read, axis, form, place)
            if near is not None:
                return near
        return self._looked_up(read, computed, place)

    def _plain(self, read: Read, place: Place) -> Read:
        """A read here and now, whose other indices are rewritten."""
        held = self.held.get(read.tensor)
        found = self.with_rows(read, read.indices, place)
        return found if held is None else replace(found, tensor=held.name)

    def _near(self, read: Read, axis: str, form: Linear, place: Place) -> Expr | None:
        """A read a known number of tokens away: from here, from the end, or from the beginning."""
        side = self.is_outside(form.expr(), axis, place)
        if side is not None:
            none = zero(self.tensors[read.tensor].dtype)
            value = self.beyond(read, side, place) if axis == self.time else none
            return self.where_inside(read, value, place)
        here = [symbol for symbol in form.terms if isinstance(symbol, Index) and symbol.axis in self.alike]
        ends = sum(k for symbol, k in form.terms.items() if isinstance(symbol, Size) and symbol.axis in self.alike)
        rest = Linear(form.constant, {s: k for s, k in form.terms.items() if s.axis not in self.alike})
        if len(here) == 1 and form.coefficient(here[0]) == 1 and not ends:
            return self._lagged(read, axis, here[0].axis, -rest, place)
        if not here and ends == 1 and self._is_at_least(-rest, 1, place):
            return self._kept(read, axis, PAST, -rest, Op("sub", (Size(self.time), _ONE)), place)
        if not here and not ends and self._is_at_least(rest, 0, place):
            return self._kept(read, axis, AHEAD, rest + 1, Const(0, INT), place)
        return None

    def _is_at_least(self, form: Linear, bound: int, place: Place) -> bool:
        return at_least(lower_bound(self._resolved(form), place.given, self.extents, avoid=self.time), bound)

    def _resolved(self, form: Linear) -> Linear:
        """A form with extents as they are stated, of which bounds can be known."""
        return self.bounding(form.expr()) or form

    def _lagged(self, read: Read, axis: str, here: str, lag: Linear, place: Place) -> Expr:
        """What lies ``lag`` valid tokens before index ``here``; after it where that is negative."""

        def kept(way: int) -> Expr:
            return self._kept(read, axis, way, lag if way == PAST else -lag, self._beside(here, way), place)

        if self._is_at_least(lag, 1, place):
            return kept(PAST)
        if self._is_at_least(-lag, 1, place):
            return kept(AHEAD)
        result: Expr = self._element(read, {axis: Index(here)}, place)
        if not self._is_at_least(-lag, 0, place):
            result = Where(self.compared("gt", lag), kept(PAST), result)
        if not self._is_at_least(lag, 0, place):
            result = Where(self.compared("lt", lag), kept(AHEAD), result)
        return result

    def _kept(self, read: Read, axis: str, way: int, lag: Linear, at: Expr, place: Place) -> Read:
        """The value ``lag`` tokens away, from a register as it is at index ``at``."""
        farthest = upper_bound(self._resolved(lag), place.given, self.extents, avoid=self.time)
        assert self.current is not None
        reader = place.bound.union(self.current.axes)
        self.lags.setdefault((read.tensor, axis, way), []).append((farthest, reader))
        register = self.register((read.tensor, axis, way))
        indices = dict(zip(self.tensors[read.tensor].axes, read.indices, strict=True))
        found = {a: i if a in self.alike and self.is_plain(i) else self.expr(i, place) for a, i in indices.items()}
        found |= {axis: at, **register.at(lag)}
        rows = self.rows(place)
        return Read(register.name, tuple(found[a] if a in found else rows[a] for a in self.register_axes(register)))

    def _element(self, read: Read, along: Mapping[str, Expr], place: Place) -> Read:
        """The element at indices of the array along the sequence."""
        axes = self.tensors[read.tensor].axes
        indices = []
        for axis, index in zip(axes, read.indices, strict=True):
            plain = self.is_plain(index) and axis in self.alike
            indices.append(along[axis] if axis in along else index if plain else self.expr(index, place))
        return self._plain(replace(read, indices=tuple(indices)), place)

    def _looked_up(self, read: Read, computed: Mapping[str, Expr], place: Place) -> Expr:
        """An element at any indices of the layer's own sequence."""
        along: dict[str, Expr] = {}
        sides: dict[str, tuple[Expr | None, Expr | None]] = {}
        for axis, index in computed.items():
            form = linear_form(index)
            at = self.symbol(self.expr(index, place)) if form is None else self.value(form, place)
            along[axis] = self.known(f"{self.time}.place", place, self.spelled(at))
            low, high = self.is_inside(index, axis, place)
            sides[axis] = (None if low else self.compared("ge", at),
                           None if high else self.compared("lt", at - self.length(place)))  # fmt: skip
        low_side, high_side = sides.pop(self.time, (None, None))
        others = [part for pair in sides.values() for part in pair if part is not None]
        return self.outside(read, self._element(read, along, place), low_side, high_side, others, place)

    # ------------------------------------------------------------ folds

    def fold(self, reduce: Reduce, place: Place) -> Expr:
        axes = [axis for axis in reduce.axes if axis in self.alike]
        inner = place.inside(reduce.axes)
        folded = self.folded(reduce, inner, [self._valid(axis, place) for axis in axes])
        if reduce.kind not in ("argmax", "argmin"):
            return folded
        return self.spelled(self._counted(folded, place) - 1)  # nothing is counted before the first: −1

    def transform(self, transform: Transform, place: Place) -> Expr:
        """A sort of valid tokens: of everything by value and then, stably, what is valid first."""
        axis = transform.axis
        if transform.kind != "argsort":
            raise self.refused(f"{self.here} transforms all of {axis!r} at once", transform.span)
        assert self.current is not None
        key = self.expr(transform.body, place.inside((axis,)))
        by_value = self.define(f"{self.current.name}.order", replace(transform, body=key))
        here = Read(by_value.name, tuple(map(Index, by_value.axes)))
        padded = Op("not", (self.known(f"{self.time}.valid", place, here),))
        valid_first = self.define(f"{self.current.name}.order", Transform("argsort", axis, padded))
        rank = self.spelled(self.position(axis, place))
        at = Read(valid_first.name, tuple(rank if a == axis else Index(a) for a in valid_first.axes))
        found = Read(by_value.name, tuple(at if a == axis else Index(a) for a in by_value.axes))
        return self.spelled(self._counted(found, place) - 1)
