"""Program → Program: cut time into parts of K steps that can run at once, the state passed between them.

    h = a * h[t-1] + x,  h[t<0] = h0

  =  summaries, from zero and from one:
        h.own   = a * where(t % K >= 1, h.own[t-1], 0) + x       h.end[t.cut]     = h.own at the last step before a cut
        h.decay = a * where(t % K >= 1, h.decay[t-1], 1)         h.product[t.cut] = h.decay there
     the carry, a short recurrence over the cuts between parts:
        h.exit  = h.product * h.exit[t.cut-1] + h.end,           h.exit[t.cut<0]  = h0
     and the rerun:
        h       = a * where(t % K >= 1, h[t-1], h.exit[t.cut = t // K - 1]) + x

Backwards in time the same the other way round. Where only the last ``h`` is read there is no rerun, but a carry to the
end of the last part. Elementwise equations that ``a`` and ``x`` follow from are there twice, once for the summaries:
computing them again costs less than keeping them. One part has no cuts: all of this is then time in order.

Precondition: every recurrence is affine in its past and each element depends on its own past alone, one step back.
Those that are rebuilt from what is kept for chunks of time (``recompute``) have entries already and stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from ssmc.analysis import AffineForm, Term, affine_form
from ssmc.errors import Unsupported, UserError
from ssmc.ir import (
    INT,
    Apply,
    Axis,
    Const,
    Equation,
    Expr,
    Extension,
    Index,
    Linear,
    Loop,
    Op,
    Program,
    Read,
    Reduce,
    Size,
    Transform,
    dependence,
    free_axes,
    known_extents,
    linear_form,
    lower_bound,
    rewrite,
    substitute,
    upper_bound,
    walk,
)

from .names import Names
from .parts import (
    CUT,
    PART,
    STEPS,
    axes_of_parts,
    entered,
    entry_of_part,
    folded_states,
    last_step,
    number_of_part,
)
from .recompute import CHUNK
from .tidy import reads_of, tidied

BySizes: TypeAlias = Callable[[str, tuple[str, ...]], Expr]
LENGTH = 256  # of a part, where nobody says how many steps it has


def chunks(program: Program, steps: int = 0, by_sizes: BySizes | None = None) -> Program:
    """The Program with every recurrence in parts of ``steps``; unchanged where there are none. ``by_sizes`` instead
    says, for a time axis and the axes along which the recurrences run side by side, how many follow from the extents of
    a call, in multiples of ``CHUNK``.

    Raises:
        Unsupported: a recurrence is not of that form; the message names it.
        UserError: ``steps`` is not a multiple of the steps for which backward passes keep states.
    """
    steps = steps or LENGTH
    if steps % CHUNK or steps < 0:
        raise UserError(f"chunks of {steps} steps", expected=f"a multiple of {CHUNK}")
    found = dependence(program).recurrences
    each = {loop.axis: Size(f"{loop.axis}{STEPS}") if by_sizes else _int(steps) for loop in found}
    loops = [loop for loop in found if not _has_entries(program, loop, each[loop.axis])]
    if not loops:
        return program
    chains = [chain_of(program, loop) for loop in loops]
    points = {c.time: c for c in sorted(chains, key=lambda c: len(_points(program, c)))}
    lengths = [Axis(f"{t}{STEPS}", by_sizes(t, _points(program, c))) for t, c in points.items()] if by_sizes else []
    return _Chunks(program, each, lengths, chains).run()


@dataclass(frozen=True)
class Chain:
    """One recurrence: its equations in order, of which ``carried`` alone is read at a lag, and how that follows from
    its past, the others put in."""

    loop: Loop
    members: tuple[Equation, ...]
    carried: Equation
    form: AffineForm

    def is_past(self, index: Expr) -> bool:
        """Whether an index along time is that of the step before."""
        return linear_form(index) == linear_form(self.past)

    @property
    def time(self) -> str:
        return self.loop.axis

    @property
    def reverse(self) -> bool:
        return self.loop.direction < 0

    @property
    def past(self) -> Expr:
        """The index of the step before."""
        return Op("add" if self.reverse else "sub", (Index(self.time), _int(1)))

    @property
    def factor(self) -> Expr | None:
        """What the past is multiplied by; None is one."""
        factors = [_int(1) if term.factor is None else term.factor for term in self.form.terms]
        total = factors[0]
        for factor in factors[1:]:
            total = Op("add", (total, factor))
        return None if total == _int(1) else total


def _points(program: Program, chain: Chain) -> tuple[str, ...]:
    """Axes along which a recurrence runs side by side: not those of its state."""
    states = folded_states(program, {member.name for member in chain.members})
    return tuple(a for a in chain.carried.axes if a != chain.time and a not in states)


def _has_entries(program: Program, loop: Loop, steps: Expr) -> bool:
    """Whether no part of a recurrence depends on another already."""
    names = set(loop.equations())
    for name in names:
        expr = program.equation(name).expr
        within = [e[0] for node in walk(expr) if (e := entry_of_part(node, loop.axis, steps)) is not None]
        for node in walk(expr):
            if isinstance(node, Read) and node.tensor in names and node not in within:
                axes = program.tensors()[node.tensor].axes
                if node.indices[axes.index(loop.axis)] != Index(loop.axis):
                    return False
    return True


def chain_of(program: Program, loop: Loop) -> Chain:
    """A recurrence as it can be cut.

    Raises Unsupported where it cannot.
    """
    names = loop.equations()
    members = tuple(program.equation(name) for name in names)

    def no(why: str) -> Unsupported:
        return Unsupported(
            f"time cannot be cut into chunks: the recurrence of equation `{members[0].name}` {why}",
            span=members[0].span,
            expected="each element is a * h[t-1] + b, where a and b do not depend on h",
            hint="run time in order",
        )

    if len(names) != len(loop.body):
        raise no("runs along two axes")
    lagged = {read.tensor for read in _lagged(program, members, loop)}
    if len(lagged) != 1:
        raise no(f"carries {len(lagged)} values that depend on each other")
    carried = program.equation(lagged.pop())
    form = affine_form(_put_in(program, loop, carried), names)
    if form is None or not form.terms:
        raise no("is not affine in the past of each element by itself")
    chain = Chain(loop, members, carried, form)
    if not all(_is_own(chain, term) for term in form.terms):
        raise no("reads more than its own element one step back")
    if chain.factor is not None and not free_axes(chain.factor) <= set(carried.axes):
        raise no("is not elementwise")
    return chain


def _is_own(chain: Chain, term: Term) -> bool:
    """Whether a term is a multiple of the same element one step back."""
    pairs = zip(chain.carried.axes, term.read.indices, strict=True)
    return not term.folds and all(chain.is_past(i) if a == chain.time else i == Index(a) for a, i in pairs)


def _lagged(program: Program, members: tuple[Equation, ...], loop: Loop) -> Iterator[Read]:
    """What members read of each other at other times."""
    names = {member.name for member in members}
    for member in members:
        for node in walk(member.expr):
            if isinstance(node, Read) and node.tensor in names:
                axes = program.equation(node.tensor).axes
                if node.indices[axes.index(loop.axis)] != Index(loop.axis):
                    yield node


def _put_in(program: Program, loop: Loop, carried: Equation) -> Expr:
    """The right side of an equation with those of the other members in the places where they are read here and now."""
    names = set(loop.equations())

    def rule(node: Expr) -> Expr | None:
        if not isinstance(node, Read) or node.tensor not in names:
            return None
        equation = program.equation(node.tensor)
        moved = dict(zip(equation.axes, node.indices, strict=True))
        if moved[loop.axis] != Index(loop.axis):
            return None
        return rewrite(substitute(equation.expr, moved), rule)

    return rewrite(carried.expr, rule)


@dataclass
class _Chunks:
    """The pass over one Program."""

    program: Program
    steps: Mapping[str, Expr]
    lengths: list[Axis]
    chains: list[Chain]
    summaries: list[Equation] = field(default_factory=list)
    extensions: list[Extension] = field(default_factory=list)
    copies: dict[tuple[str, str, bool], str] = field(default_factory=dict)
    exits: dict[str, tuple[str, Chain]] = field(default_factory=dict)
    gathered: dict[str, list[Equation]] = field(default_factory=dict)
    ordered: dict[str, Equation | None] = field(default_factory=dict)
    copying: bool = True
    way: tuple[str, bool] = ("", False)

    def run(self) -> Program:
        self.names = Names.of(self.program)
        self.extents = known_extents(self.program)
        self.made = {e.name: e for e in self.program.equations}
        self.recurrent = {n for loop in dependence(self.program).recurrences for n in loop.equations()}
        self.states = folded_states(self.program, self.recurrent)
        for chain in self.chains:
            self._summarise(chain)
        self.ordered.update((e.name, None) for e in self.program.equations if e.name not in self.ordered)
        equations = []
        for name, summary in self.ordered.items():
            equations += [summary] if summary else self._equations(self.made[name])
        axes = {a.name: a for c in self.chains for a in axes_of_parts(c.time, self.steps[c.time])}
        return tidied(
            replace(
                self.program,
                axes=(*self.program.axes, *self.lengths, *axes.values()),
                equations=tuple(equations),
                extensions=(*self.program.extensions, *self.extensions),
            )
        )

    # ------------------------------------------------------------ summaries and carry

    def _summarise(self, chain: Chain) -> None:
        """What each part makes of the state with which it begins, and the state with which it ends."""
        c, time = chain.carried, chain.time
        own = {m.name: self.names.new(f"{m.name}.own") for m in chain.members}
        self.copying, self.way, self.summaries = self._is_rerun(chain), (time, chain.reverse), []
        for member in chain.members:
            expr = self._copied(self._from(member.expr, chain, own, Const(0, INT)))
            self.summaries.append(replace(member, name=own[member.name], expr=expr))
        over = f"{time}{CUT if self.copying else PART}"
        end = self._at_end(chain, f"{c.name}.end", own[c.name], c.axes)
        product = self._product(chain)
        exit = self.names.new(f"{c.name}.exit")
        axes = self._of_parts(c.axes, time, over)
        other = Op("add" if chain.reverse else "sub", (Index(over), _int(1)))
        past: Expr = Read(exit, tuple(other if a == over else Index(a) for a in axes))
        past = past if product is None else Op("mul", (product, past))
        self.summaries.append(Equation(exit, axes, c.dtype, Op("add", (past, end)), c.span))
        side = "after" if chain.reverse else "before"
        outside = self.program.extension(c.name, time, side)
        if outside is not None:
            at: Expr = Size(time) if chain.reverse else Const(-1, INT)
            self.extensions.append(Extension(exit, over, side, substitute(outside.expr, {time: at})))
        self.exits[c.name] = exit, chain
        if self.copying:
            self._first(self.summaries)
        else:
            self.gathered[c.name] = self.summaries

    def _first(self, summaries: list[Equation]) -> None:
        """Put summaries, and all that they follow from, before what is not yet in its place: that is then computed when
        it is wanted, not kept from before."""
        needed, waiting = set[str](), [name for e in summaries for name in reads_of(e.expr)]
        while waiting:
            name = waiting.pop()
            if name in self.made and name not in needed:
                needed.add(name)
                waiting += reads_of(self.made[name].expr)
        self.ordered.update((e.name, None) for e in self.program.equations if e.name in needed)
        self.ordered.update((e.name, e) for e in summaries)

    def _is_rerun(self, chain: Chain) -> bool:
        """Whether something reads more of a recurrence than its last step."""
        names = {member.name for member in chain.members}
        if names & set(self.program.outputs):
            return True
        place = chain.carried.axes.index(chain.time)
        others = [node for e in self.program.equations if e.name not in names for node in walk(e.expr)]
        found = [node for node in others if isinstance(node, Read) and node.tensor in names]
        return any(node.tensor != chain.carried.name or not self._is_last(node.indices[place], chain) for node in found)

    def _product(self, chain: Chain) -> Read | None:
        """What a part multiplies the state by; None is one."""
        c, time, factor = chain.carried, chain.time, chain.factor
        if factor is None:
            return None
        name, free = self.names.new(f"{c.name}.decay"), free_axes(factor) | {time}
        axes = tuple(a for a in c.axes if a in free)
        past = Read(name, tuple(chain.past if a == time else Index(a) for a in axes))
        expr = Op("mul", (self._copied(factor), entered(past, _int(1), time, self.steps[time], chain.reverse)))
        self.summaries.append(Equation(name, axes, c.dtype, expr, c.span))
        # The last part may have fewer steps, so that it begins beyond the end, or none.
        self.extensions.append(Extension(name, time, "after" if chain.reverse else "before", _int(1)))
        return self._at_end(chain, f"{c.name}.product", name, axes)

    def _at_end(self, chain: Chain, base: str, of: str, axes: tuple[str, ...]) -> Read:
        """An equation for what the last step of each part leaves, and the read of it."""
        time, name, over = chain.time, self.names.new(base), f"{chain.time}{CUT if self.copying else PART}"
        own, last = self._of_parts(axes, time, over), last_step(time, self.steps[time], chain.reverse, over)
        value = Read(of, tuple(last if a == time else Index(a) for a in axes))
        self.summaries.append(Equation(name, own, chain.carried.dtype, value, chain.carried.span))
        return Read(name, tuple(map(Index, own)))

    def _of_parts(self, axes: tuple[str, ...], time: str, over: str) -> tuple[str, ...]:
        """Neighbours lie side by side along the last axis that is not one of states, which readers fold."""
        own = [over if axis == time else axis for axis in axes]
        lanes = [axis for axis in axes if axis != time and axis not in self.states]
        return (*(axis for axis in own if axis != lanes[-1]), lanes[-1]) if lanes else tuple(own)

    def _from(self, expr: Expr, chain: Chain, names: Mapping[str, str], start: Expr) -> Expr:
        """The right side of a member with every part begun at ``start``, its members called as ``names`` says."""

        def rule(node: Expr) -> Expr | None:
            if not isinstance(node, Read) or node.tensor not in names:
                return None
            read = replace(node, tensor=names[node.tensor])
            place = chain.carried.axes.index(chain.time) if node.tensor == chain.carried.name else None
            if place is None or not chain.is_past(node.indices[place]):
                return read
            return entered(read, start, chain.time, self.steps[chain.time], chain.reverse)

        return rewrite(expr, rule)

    # ------------------------------------------------------------ what is computed twice

    def _copied(self, expr: Expr) -> Expr:
        """The expression on copies of the elementwise equations that it follows from here and now: summaries know
        those of no other part."""

        def rule(node: Expr) -> Expr | None:
            if not isinstance(node, Read) or node.tensor not in self.made:
                return None
            here = node.indices == tuple(map(Index, self.made[node.tensor].axes))
            return replace(node, tensor=self._copy(node.tensor)) if here else None

        return rewrite(expr, rule)

    def _copy(self, name: str) -> str:
        """The name of the copy of an equation: one for each way through time, since summaries do not need what comes
        last on theirs."""
        equation, key = self.made[name], (name, *self.way)
        if not self.copying or not self._is_elementwise(equation):
            return name
        if key not in self.copies:
            self.copies[key] = self.names.new(f"{name}.own")
            expr = self._copied(equation.expr)
            self.summaries.append(replace(equation, name=self.copies[key], expr=expr))
        return self.copies[key]

    def _is_elementwise(self, equation: Equation) -> bool:
        """Whether a kernel that has what an equation reads may compute it in passing."""
        times = set(equation.axes) & {chain.time for chain in self.chains}
        folds = any(isinstance(node, (Reduce, Transform, Apply)) for node in walk(equation.expr))
        if folds or not times or equation.name in self.recurrent:
            return False
        for node in walk(equation.expr):
            if isinstance(node, Read) and node.tensor in self.made:
                read = self.made[node.tensor]
                elsewhere = {axis for axis, index in zip(read.axes, node.indices, strict=True) if index != Index(axis)}
                if elsewhere & times or (elsewhere and self._is_elementwise(read)):
                    return False
        return True

    # ------------------------------------------------------------ rerun

    def _equations(self, equation: Equation) -> list[Equation]:
        """What stands in the place of an equation: a recurrence of which only the last step is read is summarised
        there."""
        return [*self.gathered.get(equation.name, ()), replace(equation, expr=self._rerun(equation))]

    def _rerun(self, equation: Equation) -> Expr:
        """The right side with every read of the step before from what is known at the cut before; where only the last
        step is read, that from what the last part has left."""

        def rule(node: Expr) -> Expr | None:
            if not isinstance(node, Read) or node.tensor not in self.exits:
                return None
            exit, chain = self.exits[node.tensor]
            time = chain.time
            indices = dict(zip(chain.carried.axes, node.indices, strict=True))
            over = f"{time}{PART if chain.carried.name in self.gathered else CUT}"
            if over.endswith(PART):
                there: Expr = _int(0) if chain.reverse else Op("sub", (Size(over), _int(1)))
            elif time in equation.axes and chain.is_past(indices[time]):
                there = number_of_part(time, self.steps[time])
                there = there if chain.reverse else Op("sub", (there, _int(1)))
            else:
                return None
            indices[over] = there
            read = Read(exit, tuple(indices[a] for a in self._of_parts(chain.carried.axes, time, over)))
            return read if over.endswith(PART) else entered(node, read, time, self.steps[time], chain.reverse)

        return rewrite(equation.expr, rule)

    def _is_last(self, index: Expr, chain: Chain) -> bool:
        """Whether an index is that of the last step."""
        form, extents = linear_form(index, self.extents), self.extents
        if form is None:
            return False
        last = Linear(0) if chain.reverse else Linear(-1, {Size(chain.time): 1})
        low, high = lower_bound(form - last, (), extents), upper_bound(form - last, (), extents)
        return low == high == Linear(0)


def _int(value: int) -> Const:
    return Const(value, INT)
