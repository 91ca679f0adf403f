"""Program → Program: the layer backwards in time.

    h = a * h[t-1] + x * t;   h[t<0] = h0    =    h = a * h[t+1] + x * (#t - 1 - t);   h[t >= #t] = h0

What it means: turn every input around, run the layer, turn every output around. Each index i along the sequence,
of t and of all axes that are as long, becomes #t − 1 − i wherever it is read or enters a value. A stepped layer
then takes the state after the last token and gives the one before the first: the names of its state stay.

Precondition: one sequence axis. Where an index is itself what is asked for (argmax, argsort, the order of a
transform), the axis keeps its direction inside, and the first of several stays the first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ssmc.ir import (
    Apply,
    CustomGradient,
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
    linear_form,
)

from .local import Local, Place, sequence_of


def reverse(program: Program) -> Program:
    """``program`` with its sequence run from the last index to the first.

    Raises Unsupported for a layer without exactly one sequence axis.
    """
    return _Reverse(program, sequence_of(program, "reversed")).run()


@dataclass
class _Reverse(Local):
    form = "reversed"

    def run(self) -> Program:
        equations = self._equations(self.program.equations)
        extensions = tuple(self._extension(item) for item in self.program.extensions)
        customs = tuple(self._custom(item) for item in self.program.customs)
        return replace(self.program, equations=equations, extensions=extensions, customs=customs)

    def _equations(self, equations: tuple[Equation, ...]) -> tuple[Equation, ...]:
        result: list[Equation] = []
        for equation in equations:
            if isinstance(equation.expr, Apply):
                result += self._apply(equation, equation.expr)
                continue
            expr = self.equation_expr(equation)
            result += self.made
            self.made.clear()
            result.append(replace(equation, expr=expr))
        return tuple(result)

    def _extension(self, extension: Extension) -> Extension:
        """The same outside, on the other side."""
        side = "after" if extension.side == "before" else "before"
        place = Place(self.time, self.required)
        return replace(extension, side=side, expr=self.expr(extension.expr, place))

    def _custom(self, custom: CustomGradient) -> CustomGradient:
        """A gradient block, whose equations are rewritten like any other."""
        known = self.tensors
        adjoints = [replace(known[name], name=f"d.{name}") for name in custom.outputs]
        self.tensors = {**known, **{t.name: t for t in (*adjoints, *(e.tensor for e in custom.equations))}}
        equations = self._equations(custom.equations)
        self.tensors = known
        return replace(custom, equations=equations)

    # ------------------------------------------------------------ indices

    def position(self, axis: str, place: Place) -> Linear:
        here = Linear(0, {Index(axis): 1})
        return here if axis in place.straight else self._mirrored(here)

    def length(self, place: Place) -> Linear:
        return Linear(0, {Size(self.time): 1})

    def _mirrored(self, form: Linear) -> Linear:
        return Linear(-1, {Size(self.time): 1}) - form

    def read(self, read: Read, place: Place) -> Expr:
        indices = []
        for axis, index in zip(self.tensors[read.tensor].axes, read.indices, strict=True):
            indices.append(self._index(index, place) if axis in self.alike else self.expr(index, place))
        return replace(read, indices=tuple(indices))

    def _index(self, index: Expr, place: Place) -> Expr:
        """Where an element that the layer reads at ``index`` lies."""
        form = linear_form(index)
        if form is None:
            return Op("sub", (self._mirrored(Linear()).expr(), self.expr(index, place)))
        moved = self._mirrored(self.value(form, place))
        return index if moved == form else self.spelled(moved)

    # ------------------------------------------------------------ folds

    def fold(self, reduce: Reduce, place: Place) -> Expr:
        inner = place.inside(reduce.axes)
        if reduce.kind in ("argmax", "argmin"):
            inner = replace(inner, straight=inner.straight | set(reduce.axes))
        return self.folded(reduce, inner)

    def transform(self, transform: Transform, place: Place) -> Expr:
        """``order = argsort[t](key)`` as an equation of its own, in the direction of the layer."""
        assert self.current is not None
        axis = transform.axis
        inner = place.inside((axis,))
        body = self.expr(transform.body, replace(inner, straight=inner.straight | {axis}))
        made = self.define(f"{self.current.name}.{transform.kind}", replace(transform, body=body))
        turned = self.spelled(self.position(axis, place))
        return Read(made.name, tuple(turned if a == axis else Index(a) for a in made.axes), transform.span)

    def _apply(self, equation: Equation, apply: Apply) -> list[Equation]:
        """An opaque function is given its arguments as the layer has them."""
        args = tuple(self._turned(name) for name in apply.args)
        own = self.define(f"{equation.name}.turned", replace(apply, args=args), equation.axes, equation.dtype)
        result = [*self.made, replace(equation, expr=self._mirror(own.tensor))]
        self.made.clear()
        return result

    def _turned(self, name: str) -> str:
        tensor = self.tensors[name]
        if not set(tensor.axes) & self.alike:
            return name
        return self.define(f"{name}.turned", self._mirror(tensor), tensor.axes, tensor.dtype).name

    def _mirror(self, tensor: Tensor) -> Read:
        mirrored = {axis: self._mirrored(Linear(0, {Index(axis): 1})).expr() for axis in self.alike}
        return Read(tensor.name, tuple(mirrored.get(axis, Index(axis)) for axis in tensor.axes))
