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
    BOOL,
    COMPLEX,
    INT,
    REAL,
    Apply,
    Axis,
    Const,
    CustomGradient,
    Equation,
    Expr,
    Index,
    Op,
    Program,
    Read,
    Reduce,
    Size,
    Tensor,
    Where,
    dependence,
    free_axes,
    rewrite,
    walk,
)

from .adjoint import Adjoints, Share
from .derivatives import add, call, mul
from .flatten import Names, flatten
from .scatter import Scatter, Solution
from .tidy import reads_of, tidied


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
    exprs = [e.expr for e in program.equations] + [x.expr for x in program.extensions]
    read = {name for expr in exprs for name in reads_of(expr)}
    taken = {*program.tensors(), *(axis.name for axis in program.axes)}
    taken |= {e.name for block in program.customs if read & set(block.outputs) for e in block.equations}
    number = 1
    while any(name.startswith(f"{letter}{number if number > 1 else ''}.") for name in taken):
        number += 1
    return f"{letter}{number if number > 1 else ''}."


def chosen(program: Program, what: str, names: Sequence[str] | None, able: tuple[str, ...]) -> Sequence[str]:
    for name in names or ():
        if name not in able:
            raise UserError(
                f"{program.name}: {name!r} is no {what} with a gradient", expected=", ".join(able) or "none"
            )
    return able if names is None else tuple(names)


@dataclass
class _Grad:
    program: Program
    prefix: str
    wrt: tuple[str, ...]
    of: tuple[str, ...]
    received: dict[str, list[Expr]] = field(default_factory=dict)

    def run(self) -> Program:
        p = self.program
        self.names = Names.of(p)
        self.tensors = p.tensors()
        self.blocks = {name: block for block in p.customs for name in block.outputs}
        self.active = self._active()
        seeds = {name: self.names.new(f"{self.prefix}{name}") for name in self.of}
        self.sought = {name: self.names.new(f"{self.prefix}{name}") for name in self.wrt}
        self.seeds = {name: Tensor(seed, self.tensors[name].axes, self.tensors[name].dtype)
                      for name, seed in seeds.items()}  # fmt: skip
        self.names_of = self._adjoint_names(seeds)
        self.adjoints = Adjoints(p, self.names, self.active)
        self.scatter = Scatter(p, self.names)
        self._declare()
        self._distribute()
        made = self._equations()
        result = replace(
            p,
            name=p.name,
            axes=(*p.axes, *self.scatter.axes, *(Axis(new, Size(old)) for new, old in self.adjoints.axes)),
            inputs=(*p.inputs, *self.seeds.values()),
            outputs=tuple(self.names_of[name] for name in self.wrt),
            equations=(*p.equations, *made),
            opaques=(*p.opaques, *self.adjoints.opaques),
            customs=p.customs,
        )
        return tidied(result)

    # ------------------------------------------------------------ what has an adjoint

    def _active(self) -> frozenset[str]:
        """Tensors that depend on what is differentiated for and that outputs depend on."""
        uses = self._uses()
        forwards, backwards = set(self.wrt), set(self.of)
        changed = True
        while changed:
            changed = False
            for name, read in uses:
                if read in forwards and name not in forwards:
                    forwards.add(name)
                    changed = True
                if name in backwards and read not in backwards:
                    backwards.add(read)
                    changed = True
        return frozenset((forwards & backwards) | set(self.wrt) | (set(self.of) & forwards))

    def _uses(self) -> set[tuple[str, str]]:
        """(equation, what it reads) of everything that has a derivative; blocks stand for what they replace."""
        found = set()
        for equation in self.program.equations:
            if equation.dtype in (INT, BOOL):
                continue
            block = self.blocks.get(equation.name)
            if block is not None:
                found |= {(equation.name, name) for name in block.inputs}
                continue
            exprs = [equation.expr]
            read = {n.tensor for n in walk(equation.expr) if isinstance(n, Read)}
            exprs += [x.expr for x in self.program.extensions if x.tensor in read]
            names = {n.tensor for expr in exprs for n in walk(expr) if isinstance(n, Read)}
            if isinstance(equation.expr, Apply):
                names |= set(equation.expr.args)
            found |= {(equation.name, n) for n in names if self.tensors[n].dtype in (REAL, COMPLEX)}
        return found

    def _adjoint_names(self, seeds: dict[str, str]) -> dict[str, str]:
        """The name of the adjoint of every active tensor; that of an output that is read again is not its seed."""
        read = {name for _, name in self._uses()}
        found = {}
        for name in [*(t.name for t in self.program.inputs), *(e.name for e in self.program.equations)]:
            if name not in self.active:
                continue
            if name in self.sought:
                found[name] = self.sought[name]
            elif name in seeds:
                found[name] = self.names.new(f"{seeds[name]}.total") if name in read else seeds[name]
            else:
                found[name] = self.names.new(f"{self.prefix}{name}")
        return found

    def _declare(self) -> None:
        for name, adjoint in self.names_of.items():
            tensor = self.tensors[name]
            self.adjoints.tensors[adjoint] = Tensor(adjoint, tensor.axes, tensor.dtype)
        for name, seed in self.seeds.items():
            self.adjoints.tensors[seed.name] = seed
            if name in self.names_of and self.names_of[name] != seed.name:
                self._receive(name, _plain(seed.name, seed.axes))

    # ------------------------------------------------------------ who receives what

    def _receive(self, name: str, value: Expr) -> None:
        self.received.setdefault(name, []).append(value)

    def _distribute(self) -> None:
        loops = dependence(self.program).recurrences
        circle = {name: set(loop.equations()) for loop in loops for name in loop.equations()}
        done: set[str] = set()
        for equation in reversed(self.program.equations):
            if equation.name not in self.active:
                continue
            block = self.blocks.get(equation.name)
            if block is not None:
                if block.name not in done:
                    done.add(block.name)
                    self._block(block)
                continue
            adjoint = _plain(self.names_of[equation.name], equation.axes)
            for share in self.adjoints.shares(equation, adjoint):
                if isinstance(equation.expr, Apply):  # what its function gave has summed already
                    self._receive(share.read.tensor, share.value)
                    continue
                together = share.read.tensor in circle.get(equation.name, set())
                self._receive(share.read.tensor, self._scattered(equation, share, together))

    def _scattered(self, equation: Equation, share: Share, together: bool) -> Expr:
        """What the tensor that is read receives in all, at one of its elements."""
        tensor = self.tensors[share.read.tensor]
        loops = (*equation.axes, *share.bound)
        solution = self.scatter.solve(share.read, tensor.axes, loops)
        value, conditions = share.value, share.conditions
        if tensor.dtype is not COMPLEX and self.adjoints.type(value) is COMPLEX:
            value = call("re", value)
        if solution.moves and (together or not _is_product(value) or conditions):
            outside = tuple(c for c in conditions if _is_edge(c)) if len(solution.summed) == 1 else ()
            inside = tuple(c for c in conditions if c not in outside)
            axes = tuple(a for a in loops if a in self._varying(value, inside, solution, loops))
            value = self.adjoints.define(f"{self.names_of[equation.name]}.to.{tensor.name}", axes, tensor.dtype,
                                         _guarded(value, inside))  # fmt: skip
            return solution.apply(value, outside)
        if _needs_name_for_edge(conditions) and solution.summed:
            outside = tuple(c for c in conditions if _is_edge(c))
            inside = tuple(c for c in conditions if c not in outside)
            axes = tuple(a for a in loops if a in self._varying(value, inside, solution, loops))
            value = self.adjoints.define(f"{self.names_of[equation.name]}.to.{tensor.name}", axes, tensor.dtype,
                                         _guarded(value, inside))  # fmt: skip
            return solution.apply(value, outside)
        if solution.moves:
            return solution.apply(value)
        guards = solution.guards
        return _pulled(solution.apply(value, conditions) if not guards else _with(solution, value, conditions))

    def _varying(
        self, value: Expr, conditions: tuple[Expr, ...], solution: Solution, loops: tuple[str, ...]
    ) -> set[str]:
        """The loop axes of an equation that holds a value before it is scattered: those it varies along, and
        those that are solved, so that reading it outside them gives 0."""
        free = free_axes(value).union(*map(free_axes, conditions))
        return set(free) | {a for a in loops if a in solution.where} | {a for a in loops if a in solution.summed}

    def _block(self, block: CustomGradient) -> None:
        """The equations of a gradient block, under names of their own."""
        mine = {e.name: self.names.new(f"{self.prefix}{e.name}.by") for e in block.equations}
        mine |= {f"d.{name}": self.names_of.get(name, "") for name in block.outputs}
        for equation in block.equations:
            expr = rewrite(equation.expr, lambda e: self._renamed(e, mine))
            name = mine[equation.name]
            self.adjoints.made.append(replace(equation, name=name, expr=expr))
            self.adjoints.tensors[name] = Tensor(name, equation.axes, equation.dtype)
            target = equation.name.removeprefix("d.")
            if equation.name.startswith("d.") and target in block.inputs and target in self.active:
                self._receive(target, _plain(name, equation.axes))

    def _renamed(self, expr: Expr, names: dict[str, str]) -> Expr | None:
        if not isinstance(expr, Read) or expr.tensor not in names:
            return None
        if not names[expr.tensor]:  # an output that nothing depends on
            return Const(0.0, REAL)
        return replace(expr, tensor=names[expr.tensor])

    # ------------------------------------------------------------ the equations

    def _equations(self) -> list[Equation]:
        made = list(self.adjoints.made)
        for name, adjoint in self.names_of.items():
            if name in self.seeds and adjoint == self.seeds[name].name:
                continue
            tensor = self.tensors[name]
            values = self.received.get(name, [])
            total: Expr = Const(0.0, REAL)
            for value in values:
                total = add(total, value) if values else value
            made.append(Equation(adjoint, tensor.axes, tensor.dtype, total))
        order = {e.name: i for i, e in enumerate(self.program.equations)}
        back = {adjoint: -order.get(name, -1) for name, adjoint in self.names_of.items()}

        def place(equation: Equation) -> int:
            owner = max(
                (a for a in back if equation.name == a or equation.name.startswith(f"{a}.")), key=len, default=""
            )
            return back.get(owner, -len(order))

        return sorted(made, key=place)


def _plain(name: str, axes: tuple[str, ...]) -> Read:
    return Read(name, tuple(Index(a) for a in axes))


def _guarded(value: Expr, conditions: tuple[Expr, ...]) -> Expr:
    together: Expr | None = None
    for condition in conditions:
        together = condition if together is None else call("and", together, condition)
    return value if together is None else Where(together, value, Const(0.0, REAL))


def _with(solution: Solution, value: Expr, conditions: tuple[Expr, ...]) -> Expr:
    """As ``solution.apply``, where the solved axes may not exist."""
    return replace(solution, conditions=(*solution.guards, *solution.conditions)).apply(value, conditions)


def _is_product(expr: Expr) -> bool:
    """Whether an expression is 0 wherever all that it reads is."""
    match expr:
        case Read():
            return True
        case Op(op="mul", args=(a, b)):
            return _is_product(a) and _is_product(b)
        case Op(op="neg" | "conj" | "re", args=(a,)):
            return _is_product(a)
    return False


def _is_edge(condition: Expr) -> bool:
    """Whether a condition says that an index lies outside its axis."""
    match condition:
        case Op(op="lt", args=(_, Const(value=0))) | Op(op="ge", args=(_, Size())):
            return not any(isinstance(n, Read) for n in walk(condition))
    return False


def _needs_name_for_edge(conditions: tuple[Expr, ...]) -> bool:
    return any(_is_edge(c) for c in conditions)


def _pulled(expr: Expr) -> Expr:
    """Factors that do not vary along the axes of an unconditional sum come out of it."""
    if not isinstance(expr, Reduce) or expr.kind != "sum" or expr.condition is not None:
        return expr
    factors = _factors(expr.body)
    inside = [f for f in factors if free_axes(f) & set(expr.axes)]
    outside = [f for f in factors if f not in inside]
    if not outside or not inside or any(isinstance(n, Where) for f in outside for n in walk(f)):
        return expr
    return mul(_product(outside), replace(expr, body=_product(inside)))


def _factors(expr: Expr) -> list[Expr]:
    if isinstance(expr, Op) and expr.op == "mul":
        return [f for arg in expr.args for f in _factors(arg)]
    if isinstance(expr, Op) and expr.op == "neg":
        return [Const(-1.0, REAL), *_factors(expr.args[0])]
    return [expr]


def _product(factors: list[Expr]) -> Expr:
    result: Expr = Const(1.0, REAL)
    for factor in factors:
        result = mul(result, factor)
    return result
