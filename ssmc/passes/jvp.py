"""Program → Program: the derivative along a direction, forward.

    h = a * h[t-1] + x;  h[t<0] = h0    =    dot.h = h[t-1] * dot.a + a * dot.h[t-1] + dot.x;   dot.h[t<0] = dot.h0

The result takes the inputs of the layer and a direction for each (``dot.x``), and gives how fast the outputs move
in that direction (``dot.y``). A tangent outside its axis is that of what is read there.

A gradient block (``backward:``) is linear in the adjoints, and so it states the tangent too: its transpose, which is
the gradient of the block with respect to those adjoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ssmc.errors import Unsupported, UserError
from ssmc.ir import COMPLEX, REAL, Axis, Equation, Expr, Extension, Program, Size, dependence

from .algebra import ZERO
from .flatten import flatten
from .grad import chosen, differentiable, prefix
from .names import Names
from .tangent import Tangents, passed_on
from .tidy import tidied
from .transpose import Transposition, refused


def jvp(program: Program, wrt: Sequence[str] | None = None, primal: bool = False) -> Program:
    """The tangents of the outputs of ``program``, from those of the inputs in ``wrt`` (by default all that are real
    or complex).

    The result has the inputs of ``program``, then one ``dot.<input>`` for each of ``wrt``; its outputs are
    ``dot.<output>`` for each output that is real or complex, after all outputs themselves with ``primal``. Where
    names already begin with ``dot.`` it says ``dot2.``, ``dot3.``, …: see ``tangent_names``.

    Raises UserError for a name that is no input, or holds no real or complex numbers; Unsupported where no output
    holds any, and, naming it, for a gradient block that cannot be transposed.
    """
    inputs, outputs = differentiable(program)
    wrt = chosen(program, "input", wrt, inputs)
    if not outputs:
        names = ", ".join(map(repr, program.outputs))
        span = program.equation(program.outputs[0]).span
        raise Unsupported(f"no tangent: no real or complex numbers in {names}", span=span)
    return _Jvp(flatten(program), tangent_names(program), tuple(wrt), primal).run()


def tangent_names(program: Program) -> dict[str, str]:
    """What ``jvp(program)`` calls the tangent of each input and output that has one."""
    inputs, outputs = differentiable(program)
    before = prefix(program, "dot")
    return {name: before + name for name in (*inputs, *outputs)}


@dataclass
class _Jvp:
    program: Program
    known: dict[str, str]
    wrt: tuple[str, ...]
    primal: bool

    def run(self) -> Program:
        p = self.program
        self.before = prefix(p, "dot")
        self.blocks = {name: block for block in p.customs for name in block.outputs}
        self.names = Names.of(p)
        self.names.taken |= {*self.known.values(), *(e.name for block in p.customs for e in block.equations)}
        able = self._moving()
        self.moving = {name: self.known.get(name) or self.names.new(self.before + name)
                       for name in p.tensors() if name in able}  # fmt: skip
        self.tangents = Tangents(p, self.names, self.moving)
        self.transposition = Transposition(p, self.names, self.moving, self.before)
        given = (replace(p.tensors()[name], name=self.moving[name]) for name in self.wrt)
        outputs = tuple(self.moving[name] for name in p.outputs if name in self.moving)
        result = replace(
            p,
            inputs=(*p.inputs, *given),
            outputs=(*p.outputs, *outputs) if self.primal else outputs,
            equations=(*p.equations, *self._equations()),
            extensions=(*p.extensions, *self._extensions()),
            axes=(*p.axes, *self.transposition.axes, *(Axis(new, Size(old)) for new, old in self.tangents.axes)),
            opaques=(*p.opaques, *self.tangents.opaques),
        )
        self._check_order(result)
        return _ordered(tidied(result))

    def _moving(self) -> set[str]:
        """Tensors that depend on what is differentiated for, and every output that has a tangent."""
        tensors = self.program.tensors()
        able = {name for name, tensor in tensors.items() if tensor.dtype in (REAL, COMPLEX)}
        through: dict[str, set[str]] = {}
        for equation in self.program.equations:
            block = self.blocks.get(equation.name)
            through[equation.name] = set(passed_on(equation.expr) if block is None else block.inputs)
        for extension in self.program.extensions:
            through.setdefault(extension.tensor, set()).update(passed_on(extension.expr))
        found = set(self.wrt)
        while True:
            more = {name for name, read in through.items() if name in able - found and read & found}
            if not more:
                return found | (able & set(self.program.outputs))
            found |= more

    def _equations(self) -> list[Equation]:
        """Of each tangent, in the order of the layer, with what it needs before it."""
        made: list[Equation] = []
        done: set[str] = set()
        for tensor in self.program.tensors().values():
            if tensor.name not in self.moving or tensor.name in self.wrt:
                continue
            block = self.blocks.get(tensor.name)
            if block is not None and set(block.inputs) & self.moving.keys():
                if block.name not in done:
                    made += self.transposition.of(block)
                done.add(block.name)
                continue
            value: Expr = ZERO
            if tensor not in self.program.inputs and block is None:
                value = self.tangents.of_equation(self.program.equation(tensor.name))
            made += self.tangents.made
            self.tangents.made.clear()
            made.append(Equation(self.moving[tensor.name], tensor.axes, tensor.dtype, value))
        return made

    def _extensions(self) -> list[Extension]:
        """How what is outside a tensor moves."""
        found = []
        for extension in self.program.extensions:
            value = self.tangents.of(extension.expr) if extension.tensor in self.moving else None
            if value is not None:
                found.append(replace(extension, tensor=self.moving[extension.tensor], expr=value))
        return found

    def _check_order(self, result: Program) -> None:
        """A block that sums over time where its layer runs through time has no tangent that runs so too."""
        if not self.program.customs:
            return
        try:
            dependence(result)
        except UserError as error:
            block = next(b for b in self.program.customs if set(b.outputs) & self.moving.keys())
            raise refused(block, error.diagnostics[0].message) from error


def _ordered(program: Program) -> Program:
    """Extensions in the order of their tensors, as they are printed."""
    order = list(program.tensors())
    return replace(program, extensions=tuple(sorted(program.extensions, key=lambda x: order.index(x.tensor))))
