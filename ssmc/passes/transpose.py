"""A gradient block as equations of tangents: the block is linear in the adjoints, and the tangent is its transpose.

    backward:  d.x = a * d.y         dot.y = a * dot.x

The transpose of a linear map is its gradient. The block is a Program from the adjoints of its outputs to those of
its inputs; the gradient of that Program goes from the tangents of its inputs to those of its outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ssmc.errors import SsmcError, Unsupported
from ssmc.ir import (
    Axis,
    CustomGradient,
    Equation,
    Expr,
    Index,
    Program,
    Read,
    Reduce,
    Size,
    Transform,
    rewrite,
)

from .grad import grad, prefix
from .names import Names


@dataclass
class Transposition:
    """Transposes gradient blocks of ``program``. ``moving`` names the tangents of tensors; what else is needed gets
    names that are free, tangents with ``prefix`` before them. ``axes`` gathers new axes."""

    program: Program
    names: Names
    moving: Mapping[str, str]
    prefix: str
    axes: list[Axis] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tensors = self.program.tensors()

    def of(self, block: CustomGradient) -> list[Equation]:
        """Equations that define the tangents of the block's outputs; Unsupported, naming it, if it has no gradient."""
        seeds = {f"d.{name}": self.names.new(f"{name}.by") for name in block.outputs}
        results = {f"d.{name}": self.names.new(f"{name}.by") for name in block.inputs if name in self.moving}
        own = {e.name: results.get(e.name) or self.names.new(f"{block.outputs[0]}.{e.name}") for e in block.equations}
        inside = self._as_program(block, seeds, results, own)
        try:
            derived = grad(inside, wrt=tuple(seeds.values()))
        except SsmcError as error:
            raise refused(block, error.diagnostics[0].message) from error
        given = derived.inputs[len(inside.inputs) :]
        called = {tensor.name: self.moving[d[2:]] for tensor, d in zip(given, results, strict=True)}
        called |= {name: self.moving[d[2:]] for name, d in zip(derived.outputs, seeds, strict=True)}
        return self._merged(derived, called, frozenset(own.values()), prefix(inside, "d"))

    def _as_program(
        self, block: CustomGradient, seeds: Mapping[str, str], results: Mapping[str, str], own: Mapping[str, str]
    ) -> Program:
        """From the adjoints of the outputs of a block to those of its inputs, under names that are free outside it."""
        called = {**own, **seeds}
        outputs = {f"d.{name}": self.tensors[name] for name in block.outputs}
        equations = tuple(
            replace(e, name=own[e.name], expr=rewrite(e.expr, lambda node: _called(node, called)))
            for e in block.equations
        )
        return replace(
            self.program,
            inputs=(*self.program.inputs, *(replace(outputs[d], name=name) for d, name in seeds.items())),
            outputs=tuple(results.values()),
            equations=(*self.program.equations, *equations),
            customs=(),
        )

    def _merged(self, derived: Program, called: dict[str, str], own: frozenset[str], adjoint: str) -> list[Equation]:
        """What ``derived`` has beyond the Program, renamed so that it can stand beside it."""
        old = {axis.name for axis in self.program.axes}
        axes = {axis.name: self.names.new(axis.name) for axis in derived.axes if axis.name not in old}
        made = [e for e in derived.equations if e.name not in self.tensors]
        for equation in made:
            name = equation.name
            if name not in called and name not in own:
                word = name.removeprefix(adjoint)
                called[name] = self.names.new(word if word == name else self.prefix + word)
        order = {t.name: t.axes for t in derived.inputs if t.name in called}

        def rule(node: Expr) -> Expr | None:
            moved = _on_axes(node, axes)
            if isinstance(moved, Read) and moved.tensor in order:
                moved = self._in_order(moved, order[moved.tensor], called[moved.tensor])
            return _called(moved, called) or (moved if moved is not node else None)

        for axis in derived.axes:
            if axis.name in axes:
                extent = None if axis.extent is None else rewrite(axis.extent, rule)
                self.axes.append(replace(axis, name=axes[axis.name], extent=extent))
        return [
            replace(e, name=called.get(e.name, e.name), axes=tuple(axes.get(a, a) for a in e.axes),
                    expr=rewrite(e.expr, rule))
            for e in made
        ]  # fmt: skip

    def _in_order(self, read: Read, axes: tuple[str, ...], tangent: str) -> Read:
        """A block may state ``d.x`` with the axes of ``x`` in another order."""
        original = next(name for name, other in self.moving.items() if other == tangent)
        index = dict(zip(axes, read.indices, strict=True))
        return replace(read, indices=tuple(index[axis] for axis in self.tensors[original].axes))


def refused(block: CustomGradient, why: str) -> Unsupported:
    """An error that names a block and says why it has no tangent."""
    names = ", ".join(map(repr, block.outputs))
    return Unsupported(
        f"no tangent of {names}: gradient block {block.name!r} cannot be transposed: {why}", span=block.span
    )


def _called(node: Expr, names: Mapping[str, str]) -> Expr | None:
    """A read under another name."""
    if isinstance(node, Read) and node.tensor in names:
        return replace(node, tensor=names[node.tensor])
    return None


def _on_axes(node: Expr, names: Mapping[str, str]) -> Expr:
    """The same node over axes under other names."""
    match node:
        case Index(axis=axis) | Size(axis=axis) | Transform(axis=axis) if axis in names:
            return replace(node, axis=names[axis])
        case Reduce(axes=axes) if names.keys() & set(axes):
            return replace(node, axes=tuple(names.get(axis, axis) for axis in axes))
    return node


__all__ = ["Transposition", "refused"]
