"""The meaning of the language: any Program on NumPy arrays in float64.

Every faster implementation is checked against this one, so it is written to be read. An expression
is evaluated at ``Points``: a grid with one array dimension per loop. Its value is an array with the
same dimensions, of extent 1 along those on which it does not depend, so that NumPy's alignment by
position *is* broadcasting by name. A reduction adds dimensions and folds them away again.

Equations are evaluated whole, recurrences index by index (``dependence`` gives the order).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from ssmc.errors import InternalError, UserError

from .dependence import Loop, Step, dependence
from .extents import bind_extents
from .numeric import NUMPY_TYPES, Array, apply_operation, as_type, dtype_of, reduce_values, transform_values
from .ops import REDUCTIONS
from .program import (
    Apply,
    Call,
    Const,
    Equation,
    Expr,
    Extension,
    Index,
    Op,
    Program,
    Read,
    Reduce,
    Size,
    Tensor,
    Transform,
    Where,
    children,
    walk,
)
from .types import DType, join

# Larger index spaces are cut along an axis of the equation, to bound memory.
MOST_POINTS = 20_000_000


def interpret(
    program: Program,
    inputs: Mapping[str, Any],
    functions: Mapping[str, Callable[..., Any]] | None = None,
    keep: Literal["outputs", "all"] = "outputs",
    evaluation: Callable[..., Evaluation] | None = None,
    order: Iterable[Step] | None = None,
) -> dict[str, Array]:
    """The outputs of ``program`` by name (with ``keep="all"`` every tensor), in the tensors' axis order.

    ``inputs`` holds one array per input, with the input's axes in order; reals are taken as float64.
    ``functions`` gives the opaque functions of the Program a meaning: arrays in, one array out.
    ``evaluation`` makes the ``Evaluation`` that runs, for those who watch or disturb single values; ``order`` is
    ``dependence(program).order``, for those who run a Program often.
    Raises UserError for arguments that do not fit, naming tensor, axis, found and expected.
    """
    arrays = _arguments(program, inputs)
    sizes = bind_extents(program, {name: array.shape for name, array in arrays.items()})
    steps = dependence(program).order if order is None else order
    running = (evaluation or Evaluation)(program, sizes, arrays, functions or {})
    with np.errstate(all="ignore"):
        for step in steps:
            running.run(step, {})
    if keep == "all":
        return dict(running.values)
    return {name: running.values[name] for name in program.outputs}


def _arguments(program: Program, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """The inputs as arrays of the language's types."""
    known = {tensor.name for tensor in program.inputs}
    for name in inputs:
        if name not in known:
            raise UserError(f"{program.name} has no input {name!r}", expected=f"one of {', '.join(sorted(known))}")
    arrays = {}
    for tensor in program.inputs:
        if tensor.name not in inputs:
            continue  # bind_extents reports it
        array = np.asarray(inputs[tensor.name])
        kinds = {"bool": "b", "int": "biu", "real": "biuf", "complex": "biufc"}[tensor.dtype.value]
        if array.dtype.kind not in kinds:
            raise UserError(
                f"{program.name}: {tensor.name!r} holds {array.dtype} values", expected=f"{tensor.dtype} values"
            )
        arrays[tensor.name] = as_type(array, tensor.dtype)
    return arrays


# ---------------------------------------------------------------- points


@dataclass(frozen=True)
class Span:
    """An axis that runs through ``start … stop − 1`` along dimension ``dim``."""

    dim: int
    start: int
    stop: int


# The index of an axis at every point: a run along one dimension, or any int array.
Coordinate: TypeAlias = Span | Array


@dataclass(frozen=True)
class Points:
    """A grid of points: ``shape`` has one entry per dimension, ``index`` the coordinate of each axis,
    and ``values`` the arguments and bindings of an elementwise function, inside its body."""

    shape: tuple[int, ...]
    index: Mapping[str, Coordinate]
    values: Mapping[str, Array] = field(default_factory=dict)

    @staticmethod
    def box(axes: Iterable[str], ranges: Mapping[str, range]) -> Points:
        """One dimension per axis, in order."""
        runs = {axis: Span(dim, ranges[axis].start, ranges[axis].stop) for dim, axis in enumerate(axes)}
        return Points(tuple(run.stop - run.start for run in runs.values()), runs)

    def constant(self, value: Any, dtype: DType) -> Array:
        return np.full((1,) * len(self.shape), value, NUMPY_TYPES[dtype])

    def coordinate(self, axis: str) -> Array:
        """The index of ``axis`` as an array."""
        at = self.index[axis]
        if isinstance(at, Span):
            shape = [1] * len(self.shape)
            shape[at.dim] = at.stop - at.start
            return np.arange(at.start, at.stop, dtype=np.int64).reshape(shape)
        return at.reshape(at.shape + (1,) * (len(self.shape) - at.ndim))

    def extended(self, axes: tuple[str, ...], sizes: Mapping[str, int]) -> Points:
        """With a further dimension for each of ``axes``, which hide axes of the same name outside."""
        rank = len(self.shape)
        runs = {axis: Span(rank + i, 0, sizes[axis]) for i, axis in enumerate(axes)}
        return replace(self, shape=self.shape + tuple(sizes[axis] for axis in axes), index={**self.index, **runs})

    def moved(self, index: Mapping[str, Array]) -> Points:
        """The same grid with other coordinates."""
        return replace(self, index={**self.index, **index})


# ---------------------------------------------------------------- evaluation


class Evaluation:
    """One run of a Program: extents, and the tensors computed so far. The same Program at the same extents is
    always evaluated in the same order."""

    def __init__(
        self,
        program: Program,
        sizes: Mapping[str, int],
        arrays: Mapping[str, Array],
        functions: Mapping[str, Callable[..., Any]],
    ) -> None:
        self.sizes = sizes
        self.supplied = functions
        self.tensors = program.tensors()
        self.equations = {equation.name: equation for equation in program.equations}
        self.functions = {function.name: function for function in program.functions}
        self.opaques = {opaque.name: opaque for opaque in program.opaques}
        self.extensions: dict[str, list[Extension]] = {}
        for extension in program.extensions:
            self.extensions.setdefault(extension.tensor, []).append(extension)
        self.inner = {equation.name: self._most_inner(equation.expr) for equation in program.equations}
        self.values: dict[str, Array] = dict(arrays)
        for equation in program.equations:  # zeros: a recurrence never sees what is not computed yet
            shape = tuple(sizes[axis] for axis in equation.axes)
            self.values[equation.name] = np.zeros(shape, NUMPY_TYPES[equation.dtype])

    def run(self, step: Step, fixed: Mapping[str, range]) -> None:
        """Evaluate a step of the schedule, at the indices of the loops around it."""
        if isinstance(step, Loop):
            indices = range(self.sizes[step.axis])
            for i in indices if step.direction > 0 else reversed(indices):
                for inner in step.body:
                    self.run(inner, {**fixed, step.axis: range(i, i + 1)})
            return
        equation = self.equations[step]
        if isinstance(equation.expr, Apply):
            self.values[step] = self._apply(equation, equation.expr)
            return
        ranges = {axis: fixed.get(axis, range(self.sizes[axis])) for axis in equation.axes}
        self._fill(equation, ranges, math.prod(len(r) for r in ranges.values()) * self.inner[step])

    def _fill(self, equation: Equation, ranges: Mapping[str, range], points: int) -> None:
        """Compute the equation on a box, halved until it is small enough."""
        if points > MOST_POINTS:
            kept = {axis for node in walk(equation.expr) for axis in _kept_axes(node)}
            longest = max(equation.axes, key=lambda a: (a not in kept, len(ranges[a])), default=None)
            if longest is not None and len(ranges[longest]) > 1:
                run = ranges[longest]
                middle = run.start + len(run) // 2
                for part in (range(run.start, middle), range(middle, run.stop)):
                    self._fill(equation, {**ranges, longest: part}, points // 2)
                return
        grid = Points.box(equation.axes, ranges)
        value = as_type(self.value(equation.expr, grid), equation.dtype)
        target = self.values[equation.name]
        target[tuple(slice(ranges[axis].start, ranges[axis].stop) for axis in equation.axes)] = value

    def _most_inner(self, expr: Expr) -> int:
        """The most points that reductions inside ``expr`` add to each point outside."""
        inner = max((self._most_inner(item) for item in children(expr)), default=1)
        if isinstance(expr, Reduce) and not REDUCTIONS[expr.kind].keeps_axis:
            inner *= max(1, math.prod(self.sizes[axis] for axis in expr.axes))
        return inner

    def _apply(self, equation: Equation, apply: Apply) -> Array:
        """The value of an opaque function on whole tensors."""
        if apply.function not in self.supplied:
            raise UserError(f"no meaning is given for the opaque function {apply.function!r}", span=apply.span)
        array = np.asarray(self.supplied[apply.function](*(self.values[name] for name in apply.args)))
        expected = self.values[equation.name].shape
        if array.shape != expected:
            raise UserError(
                f"opaque function {apply.function!r} returned shape {array.shape}",
                expected=f"{expected} [{', '.join(equation.axes)}]",
                span=apply.span,
            )
        return as_type(array, equation.dtype)

    # ------------------------------------------------------------ expressions

    def value(self, expr: Expr, at: Points) -> Array:
        """The value of ``expr`` at every point of a grid."""
        match expr:
            case Const(value=value, dtype=dtype):
                return at.constant(value, dtype)
            case Index(axis=axis):
                return at.coordinate(axis)
            case Size(axis=axis):
                return at.constant(self.sizes[axis], DType.INT)
            case Read():
                return self._read(expr, at)
            case Op(op=op, args=args):
                return self.operation(op, tuple(self.value(arg, at) for arg in args))
            case Where(condition=c, then=a, otherwise=b):
                # Selection, not arithmetic: what the side not chosen holds is dropped.
                sides = self.value(a, at), self.value(b, at)
                common = join(*map(dtype_of, sides))
                return np.where(self.value(c, at), *(as_type(side, common) for side in sides))
            case Reduce():
                return self._reduce(expr, at)
            case Transform(axis=axis):
                return self._whole_axis(expr, axis, at)
            case Call(function=name, args=args):
                return self.call(name, [self.value(arg, at) for arg in args], at)
        raise InternalError(f"not a value: {expr!r}")

    # ------------------------------------------------------------ single values, to be watched or disturbed

    def operation(self, op: str, args: tuple[Array, ...]) -> Array:
        """The value of an elementwise operation."""
        return apply_operation(op, args)

    def reduction(self, kind: str, body: Array, condition: Array | None, dims: tuple[int, ...]) -> Array:
        """``body`` folded over ``dims``, as ``reduce_values``."""
        return reduce_values(kind, body, condition, dims)

    def transform(self, kind: str, body: Array, dim: int) -> Array:
        """A whole-axis operation, as ``transform_values``."""
        return transform_values(kind, body, dim)

    def call(self, name: str, args: list[Array], at: Points) -> Array:
        """The value of an elementwise function."""
        function = self.functions[name]
        values = dict(zip(function.parameters, args, strict=True))
        for binding, expr in function.bindings:
            values[binding] = self.value(expr, replace(at, values=dict(values)))
        return as_type(self.value(function.result, replace(at, values=values)), function.dtype)

    # ------------------------------------------------------------ reductions

    def _reduce(self, reduce: Reduce, at: Points) -> Array:
        if REDUCTIONS[reduce.kind].keeps_axis:
            return self._whole_axis(reduce, reduce.axes[0], at)
        rank = len(at.shape)
        dims = tuple(range(rank, rank + len(reduce.axes)))
        folded = self._folded(reduce, dims, at.extended(reduce.axes, self.sizes))
        return folded.reshape(folded.shape[:rank])

    def _whole_axis(self, expr: Reduce | Transform, axis: str, at: Points) -> Array:
        """A softmax, Hadamard transform or sort needs its whole axis, also where ``at`` has a part."""
        here = at.index[axis]
        if isinstance(here, Span) and here.stop - here.start == self.sizes[axis]:
            return self._folded(expr, (here.dim,), at)
        rank = len(at.shape)
        whole = self._folded(expr, (rank,), at.extended((axis,), self.sizes))
        position = at.coordinate(axis)
        inside = (position >= 0) & (position < self.sizes[axis])
        if self.sizes[axis] == 0:
            return np.zeros(inside.shape, whole.dtype)
        picked = np.take_along_axis(whole, np.where(inside, position, 0)[..., None], axis=rank)[..., 0]
        return np.where(inside, picked, np.zeros((), whole.dtype))

    def _folded(self, expr: Reduce | Transform, dims: tuple[int, ...], at: Points) -> Array:
        """Reduce or transform along dimensions on which ``at`` has the whole axes."""
        body = _spread(self.value(expr.body, at), dims, at.shape)
        if isinstance(expr, Transform):
            return self.transform(expr.kind, body, dims[0])
        condition = None if expr.condition is None else _spread(self.value(expr.condition, at), dims, at.shape)
        return self.reduction(expr.kind, body, condition, dims)

    # ------------------------------------------------------------ reads

    def _read(self, read: Read, at: Points) -> Array:
        if not read.indices and read.tensor in at.values:
            return at.values[read.tensor]
        array = self.values[read.tensor]
        runs = [at.index.get(index.axis) if isinstance(index, Index) else None for index in read.indices]
        if _is_slice(runs, array.shape):
            return _slice(array, runs, len(at.shape))  # type: ignore[arg-type]
        return self._gather(self.tensors[read.tensor], [self.value(index, at) for index in read.indices], at)

    def _gather(self, tensor: Tensor, indices: list[Array], at: Points) -> Array:
        """Elements at any indices; outside there is 0, or what an extension says."""
        array = self.values[tensor.name]
        valid = [(index >= 0) & (index < extent) for index, extent in zip(indices, array.shape, strict=True)]
        inside = _all(valid, len(at.shape))
        if array.size:
            safe = (np.where(ok, index, 0) for ok, index in zip(valid, indices, strict=True))
            picked = array[tuple(safe)]
        else:
            picked = np.zeros((), array.dtype)
        if inside.all() and array.size:
            return picked
        value = np.where(inside, picked, np.zeros((), array.dtype))
        for extension in self.extensions.get(tensor.name, ()):
            place = tensor.axes.index(extension.axis)
            index, extent = indices[place], array.shape[place]
            beyond = index < 0 if extension.side == "before" else index >= extent
            outside = beyond & _all(valid[:place] + valid[place + 1 :], len(at.shape))
            if outside.any():
                there = at.moved(dict(zip(tensor.axes, indices, strict=True)))
                value = np.where(outside, as_type(self.value(extension.expr, there), tensor.dtype), value)
        return value


def _kept_axes(expr: Expr) -> tuple[str, ...]:
    """The axis along which ``expr`` needs all points at once and yet varies."""
    if isinstance(expr, Transform):
        return (expr.axis,)
    return expr.axes if isinstance(expr, Reduce) and REDUCTIONS[expr.kind].keeps_axis else ()


def _spread(array: Array, dims: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """The array with its full extent along ``dims``, without copying."""
    return np.broadcast_to(array, tuple(shape[d] if d in dims else array.shape[d] for d in range(array.ndim)))


def _all(conditions: list[Array], rank: int) -> Array:
    result: Array = np.ones((1,) * rank, np.bool_)
    for condition in conditions:
        result = result & condition
    return result


def _is_slice(runs: list[Coordinate | None], shape: tuple[int, ...]) -> bool:
    """Whether each index runs through a part of its axis along a dimension of its own."""
    dims = [run.dim for run in runs if isinstance(run, Span)]
    if len(dims) < len(runs) or len(set(dims)) < len(dims):
        return False
    return all(isinstance(run, Span) and run.stop <= extent for run, extent in zip(runs, shape, strict=True))


def _slice(array: Array, runs: list[Span], rank: int) -> Array:
    """The common read, as a view: a part of each axis, its dimensions brought into the grid's order."""
    where: tuple[Any, ...] = (*(slice(run.start, run.stop) for run in runs), ...)
    part = array[where].transpose(sorted(range(len(runs)), key=lambda i: runs[i].dim))
    shape = [1] * rank
    for run in runs:
        shape[run.dim] = run.stop - run.start
    return part.reshape(shape)
