"""Program → Program: the gradient, in reverse.

    y = a * y[t-1] + x     =     d.x = d.y.total;   d.a = d.y.total * y[t-1];   d.y.total = d.y + (a * d.y.total)[t+1]

The result takes the inputs of the layer and the adjoints of its outputs (``d.y``), and gives those of its inputs
(``d.x``). What an element receives through a read at another index is an equation of its own when that read is
part of a recurrence or may be more than a product of reads: read outside its axis it is then exactly 0.

Precondition: every read lies inside its axis, or an extension says what is outside; else the value read is 0 and
receives nothing. Gradient blocks (``backward:``) replace what would be derived for the equations they stand for,
and stay with those that the result still has: its own gradient uses them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ssmc.errors import UserError
from ssmc.ir import (
    COMPLEX,
    REAL,
    Apply,
    Const,
    CustomGradient,
    Equation,
    Expr,
    Index,
    Program,
    Read,
    Reduce,
    Tensor,
    Where,
    dependence,
    free_axes,
    rewrite,
    walk,
)

from .adjoint import Adjoints, Share
from .affine import Indices
from .algebra import call, factors, guarded, mul, product, together, total
from .flatten import flatten
from .names import Names
from .scatter import Scatter, Solution, Term
from .simplify import simplified
from .tidy import tensors_read, tidied


def grad(program: Program, wrt: Sequence[str] | None = None, of: Sequence[str] | None = None) -> Program:
    """The gradient of ``program``: from the adjoints of the outputs in ``of`` to those of the inputs in ``wrt``
    (by default all that are real or complex).

    The result has the inputs of ``program``, then one ``d.<output>`` for each of ``of``; its outputs are
    ``d.<input>`` for each of ``wrt``. Where names already begin with ``d.`` it says ``d2.``, ``d3.``, …: see
    ``adjoint_names``.

    Raises UserError for a name that is no input or output, or holds no real or complex numbers.
    """
    inputs, outputs = differentiable(program)
    wrt = chosen(program, "input", wrt, inputs)
    of = chosen(program, "output", of, outputs)
    return _Grad(flatten(program), prefix(program, "d"), tuple(wrt), tuple(of)).run()


def differentiable(program: Program) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The inputs and the outputs that have adjoints."""
    tensors = program.tensors()
    real = (REAL, COMPLEX)
    return (tuple(t.name for t in program.inputs if t.dtype in real),
            tuple(name for name in program.outputs if tensors[name].dtype in real))  # fmt: skip


def adjoint_names(program: Program) -> dict[str, str]:
    """What ``grad(program)`` calls the adjoint of each input and output that has one."""
    inputs, outputs = differentiable(program)
    before = prefix(program, "d")
    return {name: before + name for name in (*inputs, *outputs)}


def prefix(program: Program, letter: str) -> str:
    """``d.`` for the letter d, or ``d2.`` and so on where a tensor, an axis or an adjoint in a gradient block that a
    derivative keeps has a name that begins so."""
    read = tensors_read(program)
    taken = {*program.tensors(), *(axis.name for axis in program.axes)}
    taken |= {e.name for block in program.customs if read & set(block.outputs) for e in block.equations}
    number = 1
    while any(name.startswith(f"{letter}{number if number > 1 else ''}.") for name in taken):
        number += 1
    return f"{letter}{number if number > 1 else ''}."


def chosen(program: Program, what: str, names: Sequence[str] | None, able: tuple[str, ...]) -> Sequence[str]:
    """``names``, by default all that are ``able``; UserError for one that is not, saying ``what`` it was to be."""
    for name in names or ():
        if name not in able:
            raise UserError(
                f"{program.name}: {name!r} is no {what} with a gradient", expected=", ".join(able) or "none"
            )
    return able if names is None else tuple(names)


@dataclass
class _Grad:
    """The gradient of a flat ``program``. ``received`` gathers what each tensor receives from those that read it."""

    program: Program
    prefix: str
    wrt: tuple[str, ...]
    of: tuple[str, ...]
    received: dict[str, list[Term]] = field(default_factory=dict)

    def run(self) -> Program:
        p = self.program
        self.names, indices = Names.of(p), Indices.of(p)
        self.tensors = p.tensors()
        self.blocks = {name: block for block in p.customs for name in block.outputs}
        self.adjoints = Adjoints(p, self.names, frozenset(), indices)
        self.scatter = Scatter(p, self.names, indices, self.adjoints.tensors)
        self.adjoints.active = self._active()
        self._declare()
        self._distribute()
        result = replace(
            p,
            axes=(*p.axes, *self.scatter.axes, *self.adjoints.axes),
            inputs=(*p.inputs, *self.seeds.values()),
            outputs=tuple(self.names_of[name] for name in self.wrt),
            equations=(*p.equations, *self._equations()),
            opaques=(*p.opaques, *self.adjoints.opaques),
            customs=p.customs,
        )
        return tidied(simplified(tidied(result)))

    # ------------------------------------------------------------ what has an adjoint

    def _active(self) -> frozenset[str]:
        """Tensors that depend on what is differentiated for and that outputs depend on."""
        self.uses = self._uses()
        forwards, backwards = set(self.wrt), set(self.of)
        changed = True
        while changed:
            changed = False
            for name, read in self.uses:
                if read in forwards and name not in forwards:
                    forwards.add(name)
                    changed = True
                if name in backwards and read not in backwards:
                    backwards.add(read)
                    changed = True
        return frozenset((forwards & backwards) | set(self.wrt) | (set(self.of) & forwards))

    def _uses(self) -> list[tuple[str, str]]:
        """(equation, tensor that receives something from it); blocks stand for what they replace."""
        found = []
        for equation in self.program.equations:
            if equation.dtype in (REAL, COMPLEX):
                block = self.blocks.get(equation.name)
                able = (n for n in (block.inputs if block else ()) if self.tensors[n].dtype in (REAL, COMPLEX))
                found += [(equation.name, n) for n in (able if block else self.adjoints.passing(equation))]
        return found

    def _declare(self) -> None:
        """Names for the adjoint of every active tensor; that of an output that is read again is not its seed."""
        seeds = {name: self.names.new(self.prefix + name) for name in self.of}
        self.names_of = {name: self.names.new(self.prefix + name) for name in self.wrt}
        self.seeds = {name: replace(self.tensors[name], name=seed) for name, seed in seeds.items()}
        self.adjoints.tensors |= {seed.name: seed for seed in self.seeds.values()}
        read = {name for _, name in self.uses}
        for name, tensor in self.tensors.items():
            if name not in self.adjoints.active:
                continue
            if name not in seeds:
                adjoint = self.names_of.get(name) or self.names.new(self.prefix + name)
            else:
                adjoint = self.names.new(f"{seeds[name]}.total") if name in read else seeds[name]
            self.names_of[name] = adjoint
            self.adjoints.tensors[adjoint] = replace(tensor, name=adjoint)
            if name in seeds and adjoint != seeds[name]:
                self._receive(name, Term(_plain(self.seeds[name])))

    # ------------------------------------------------------------ who receives what

    def _receive(self, name: str, term: Term) -> None:
        self.received.setdefault(name, []).append(term)

    def _distribute(self) -> None:
        loops = dependence(self.program).recurrences
        circle = {name: set(loop.equations()) for loop in loops for name in loop.equations()}
        done: set[str] = set()
        for equation in reversed(self.program.equations):
            if equation.name not in self.adjoints.active:
                continue
            block = self.blocks.get(equation.name)
            if block is not None:
                if block.name not in done:
                    self._block(equation, block)
                done.add(block.name)
                continue
            adjoint = _plain(self.adjoints.tensors[self.names_of[equation.name]])
            for share in self.adjoints.shares(equation, adjoint):
                if isinstance(equation.expr, Apply):  # what its function gave has summed already
                    self._receive(share.read.tensor, Term(share.value))
                    continue
                together = share.read.tensor in circle.get(equation.name, ())
                term = self._scattered(equation, share, together)
                self._receive(share.read.tensor, replace(term, alone=together and bool(term.axes)))

    def _scattered(self, equation: Equation, share: Share, together: bool) -> Term:
        """What the tensor that is read receives in all, at one of its elements.

        The value that is handed on is an equation of its own if it would be computed at another place of the reader's
        axes than the reader is, unless that is as simple: a product of reads, where no data decide.
        """
        tensor = self.tensors[share.read.tensor]
        loops = (*equation.axes, *share.bound)
        solution = self.scatter.solve(share.read, tensor.axes, loops)
        value = share.value
        if tensor.dtype is not COMPLEX and self.adjoints.type(value) is COMPLEX:
            value = call("re", value)
        outside = share.edges
        if share.edges or solution.summed:
            outside += tuple(c for c in share.conditions if not _reads(c))
        inside = tuple(c for c in share.conditions if c not in outside)
        axes = self._axes(solution, guarded(value, inside), loops)
        plain = self.scatter.is_simple(value) and not (together or any(map(_reads, share.conditions)))
        given = self.adjoints.defined(axes, tensor.dtype, guarded(value, inside))
        if not given and (plain or not solution.moved):
            return self.scatter.term(solution, value, (*share.conditions, *share.edges))
        name = f"{self.names_of[equation.name]}.to.{tensor.name}"
        handed = self.adjoints.define(equation, name, axes, tensor.dtype, guarded(value, inside))
        return self.scatter.term(solution, handed, outside, axes)

    def _axes(self, solution: Solution, value: Expr, loops: tuple[str, ...]) -> tuple[str, ...]:
        """The loop axes of an equation that holds a value before it is scattered: those along which it varies, and
        those that move, so that reading it outside them gives 0."""
        return tuple(a for a in loops if a in free_axes(value) or a in solution.moved)

    def _block(self, equation: Equation, block: CustomGradient) -> None:
        """The equations of a gradient block, under names of their own."""
        mine = {e.name: self.names.new(f"{self.prefix}{e.name.removeprefix('d.')}.by") for e in block.equations}
        given = {f"d.{name}": self.names_of.get(name, "") for name in block.outputs}
        for stated in block.equations:
            expr = rewrite(stated.expr, lambda e: self._renamed(e, given | mine))
            name = mine[stated.name]
            self.adjoints.made.setdefault(equation.name, []).append(replace(stated, name=name, expr=expr))
            self.adjoints.tensors[name] = Tensor(name, stated.axes, stated.dtype)
            target = stated.name.removeprefix("d.")
            if stated.name.startswith("d.") and target in block.inputs and target in self.adjoints.active:
                self._receive(target, Term(_plain(self.adjoints.tensors[name])))

    def _renamed(self, expr: Expr, names: dict[str, str]) -> Expr | None:
        if not isinstance(expr, Read) or expr.tensor not in names:
            return None
        if not names[expr.tensor]:  # an output that nothing depends on
            return Const(0.0, REAL)
        return replace(expr, tensor=names[expr.tensor])

    # ------------------------------------------------------------ the equations

    def _equations(self) -> list[Equation]:
        """Adjoints in the reverse order of what they belong to, each followed by what it hands on; inputs last."""
        made: list[Equation] = []
        for equation in reversed(self.program.equations):
            made += self._adjoint_of(equation.tensor)
            made += self.adjoints.made.get(equation.name, [])
        for tensor in self.program.inputs:
            made += self._adjoint_of(tensor)
        return made

    def _adjoint_of(self, tensor: Tensor) -> list[Equation]:
        adjoint = self.names_of.get(tensor.name)
        if adjoint is None or any(adjoint == seed.name for seed in self.seeds.values()):
            return []
        value = received_in_all(self.received.get(tensor.name, []))
        return [Equation(adjoint, tensor.axes, tensor.dtype, value, tensor.span)]


def received_in_all(terms: Sequence[Term]) -> Expr:
    """The sum of ``terms``; those over the same axes under the same conditions are one sum of what they hold."""
    groups: dict[object, list[Term]] = {}
    for place, term in enumerate(terms):
        groups.setdefault(place if term.alone else (term.axes, term.conditions), []).append(term)
    parts = [_folded(g[0].axes, g[0].conditions, total([t.value for t in g])) for g in groups.values()]
    return parts[0] if len(parts) == 1 else total(parts)


def _folded(axes: tuple[str, ...], conditions: tuple[Expr, ...], value: Expr) -> Expr:
    """A sum over ``axes`` where ``conditions`` hold; factors that do not vary along the axes come out of it."""
    if not axes:
        return guarded(value, conditions)
    items = factors(value)
    inside = [f for f in items if free_axes(f) & set(axes)]
    outside = [f for f in items if f not in inside]
    if conditions or not inside or any(isinstance(n, Where) for f in outside for n in walk(f)):
        inside, outside = items, []
    return mul(product(outside), Reduce("sum", axes, together(conditions), product(inside)))


def _plain(tensor: Tensor) -> Read:
    """A tensor at its own axes."""
    return Read(tensor.name, tuple(map(Index, tensor.axes)))


def _reads(expr: Expr) -> bool:
    return any(isinstance(node, Read) for node in walk(expr))


__all__ = ["adjoint_names", "chosen", "differentiable", "grad", "prefix"]
