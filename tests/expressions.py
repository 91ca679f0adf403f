"""Random expressions for hypothesis, over the tensors that a Program has so far.

What an expression reads of a recurrence or a fold is squashed, so that values stay of moderate size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from ssmc.ir import (
    BOOL,
    COMPLEX,
    INT,
    REAL,
    Call,
    Const,
    DType,
    Equation,
    Expr,
    Extension,
    Function,
    Index,
    Op,
    Read,
    Reduce,
    Size,
    Tensor,
    Where,
    type_of,
)


@dataclass(frozen=True)
class Features:
    """What a generated Program may contain. ``causal`` leaves out everything without a step form."""

    recurrences: bool = True
    mutual: bool = True  # several equations in one recurrence
    contracting: bool = True  # a sum over the state inside a recurrence
    backwards: bool = True
    windows: bool = True
    bands: bool = True  # sum[s: s <= t and t - s < W], softmax and sum over it
    unbounded: bool = True  # sum[s: s <= t]
    gathers: bool = True
    equal_codes: bool = True  # sum[s: code[t=s] == code]
    integers: bool = True  # equations of ints; inputs always hold some
    complex_values: bool = True
    conditions: bool = True
    extensions: bool = True
    functions: bool = True
    transforms: bool = True
    positions: bool = True  # indices and extents in values
    folds: tuple[str, ...] = ("sum", "mean", "prod", "max", "min", "logsumexp", "softmax", "argmax", "any")
    causal: bool = False
    operations: bool = False  # every elementwise operation that has a slope, complex ones too
    singular: bool = False  # slopes that are infinite where a condition leaves them out
    sorting: bool = False  # reads through a sort, Hadamard transforms
    affine_reads: bool = False  # strides, halves, remainders, turns, diagonals
    several: bool = False  # folds over two axes, folds that tie
    histories: bool = False  # recurrences over all of their past, windows of themselves, complex ones that bend
    blocks: bool = False  # elementwise functions that state their gradient
    most_equations: int = 5


TIME, BACK, TAPS, KEYS = "t", "s", "j", "p"
_UNARY = ("tanh", "sigmoid", "sin", "cos", "silu", "softplus", "gelu", "neg", "abs", "relu", "erf")
_BINARY = ("add", "sub", "mul", "minimum", "maximum")
_OF_SMALL = ("exp", "exp2", "expm1", "sinh", "cosh", "tan", "arctan", "gelu_tanh", "real")
_OF_ABOVE = ("log", "log2", "log1p", "sqrt", "rsqrt")
_OF_INSIDE = ("arcsin", "arccos")


@dataclass
class Expressions:
    """A Program that is being written, and the expressions that its next equation may hold."""

    draw: st.DrawFn
    features: Features
    inputs: list[Tensor] = field(default_factory=list)
    equations: list[Equation] = field(default_factory=list)
    extensions: list[Extension] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    stated: dict[str, Expr] = field(default_factory=dict)

    # ------------------------------------------------------------ drawing

    def pick(self, items: Any) -> Any:
        return self.draw(st.sampled_from(list(items)))

    def chance(self, share: float) -> bool:
        """True with about this probability; shrinks to False."""
        return bool(self.draw(st.integers(1, 10)) > 10 - round(10 * share))

    def tensors(self) -> dict[str, Tensor]:
        return {tensor.name: tensor for tensor in (*self.inputs, *(e.tensor for e in self.equations))}

    def fresh(self, stem: str) -> str:
        return f"{stem}{len(self.equations) + 1}"

    def define(self, stem: str, axes: tuple[str, ...], expr: Expr) -> Equation:
        dtype = type_of(expr, self.tensors(), {f.name: f for f in self.functions})
        equation = Equation(self.fresh(stem), axes, dtype, expr)
        self.equations.append(equation)
        return equation

    def some_axes(self, with_time: bool = True) -> tuple[str, ...]:
        """Axes of an equation in any order; time among them."""
        chosen = [axis for axis in ("b", "d", "n") if self.chance(0.6)]
        order = self.draw(st.permutations(chosen + ["t"] * with_time))
        return tuple(order)

    # ------------------------------------------------------------ expressions

    def real(self, scope: tuple[str, ...], depth: int) -> Expr:
        """A real value of moderate size that varies at most along ``scope``."""
        if depth <= 0:
            return self._leaf(scope)
        kinds = ("leaf", "unary", "binary", "binary", "quotient", "where", "fold", "call")
        kind = self.pick((*kinds, "steep", "complex") if self.features.operations else kinds)
        if kind == "steep":
            return self._steep(self.real(scope, depth - 1), scope)
        if kind == "complex":
            return self._through_complex(scope, depth)
        if kind == "unary":
            return Op(self.pick(_UNARY), (self.real(scope, depth - 1),))
        if kind == "binary":
            return Op(self.pick(_BINARY), (self.real(scope, depth - 1), self.real(scope, depth - 1)))
        if kind == "quotient":
            below = Op("add", (Const(1.5, REAL), Op("abs", (self.real(scope, depth - 1),))))
            return Op("div", (self.real(scope, depth - 1), below))
        if kind == "where" and self.features.conditions:
            return Where(self.condition(scope), self.real(scope, depth - 1), self.real(scope, depth - 1))
        if kind == "fold":
            return self._fold(scope, depth)
        if kind == "call" and self.functions:
            return Call("squash", (self.real(scope, depth - 1),))
        return self._leaf(scope)

    def _leaf(self, scope: tuple[str, ...]) -> Expr:
        kinds: list[Callable[[tuple[str, ...]], Expr]] = [self._read, self._read, self._read, self._constant]
        if TIME in scope:
            kinds += [self._shifted]
            kinds += [self._window] * (self.features.windows and "d" in scope)
            kinds += [self._gathered] * (self.features.gathers and {"b", "d"} <= set(scope))
            kinds += [self._history] * (self.features.unbounded and "b" in scope)
        kinds += [self._position] * self.features.positions
        return bounded(self.pick(kinds)(scope), self.tensors())

    def _constant(self, scope: tuple[str, ...]) -> Expr:
        return Const(self.pick((0.0, 0.5, -1.25, 2.0)), REAL)

    def _position(self, scope: tuple[str, ...]) -> Expr:
        symbols: list[Expr] = [Index(axis) for axis in scope]
        if not self.features.causal:
            symbols += [Size(axis) for axis in scope]
        return Op("sin", (self.pick(symbols or [Const(1, INT)]),))

    def _candidates(self, scope: tuple[str, ...], dtypes: tuple[DType, ...]) -> list[Tensor]:
        inside = [t for t in self.tensors().values() if t.dtype in dtypes and set(t.axes) <= set(scope)]
        return inside

    def _read(self, scope: tuple[str, ...]) -> Expr:
        """A tensor here and now, or its real part."""
        found = self._candidates(scope, (REAL, COMPLEX, INT, BOOL))
        if not found:
            return self._constant(scope)
        return self._as_real(self.pick(found), {})

    def _as_real(self, tensor: Tensor, moved: Mapping[str, Expr]) -> Expr:
        read = Read(tensor.name, tuple(moved.get(axis, Index(axis)) for axis in tensor.axes))
        if tensor.dtype is COMPLEX:
            return Op(self.pick(("re", "im", "abs")), (read,))
        return read if tensor.dtype is REAL else Op("mul", (Const(0.25, REAL), read))

    def _shifted(self, scope: tuple[str, ...]) -> Expr:
        """A tensor at another time, perhaps also at another channel."""
        found = [t for t in self._candidates(scope, (REAL, COMPLEX, INT, BOOL)) if TIME in t.axes]
        if not found:
            return self._constant(scope)
        tensor = self.pick(found)
        step = self.pick((1, 2, 3) if self.features.causal else (1, 2, 3, -1, -2))
        moved: dict[str, Expr] = {TIME: Op("sub" if step > 0 else "add", (Index(TIME), Const(abs(step), INT)))}
        if "d" in tensor.axes and self.chance(0.2):
            moved["d"] = Op("add", (Index("d"), Const(1, INT)))
        self._extend(tensor)
        return self._as_real(tensor, moved)

    def _extend(self, tensor: Tensor) -> None:
        """Sometimes say what is before the start, or after the end."""
        taken = {(x.tensor, x.side) for x in self.extensions}
        side = "before" if self.features.causal else self.pick(("before", "after"))
        if not self.features.extensions or tensor.dtype is not REAL or (tensor.name, side) in taken:
            return
        if self.chance(0.3):
            scope = tuple(axis for axis in tensor.axes if axis != TIME)
            found = [t for t in self.inputs if t.dtype is REAL and set(t.axes) <= set(scope)]
            value: Expr = Op("cos", (Index(TIME),))
            if found:
                other = self.pick(found)
                value = Op("add", (value, Read(other.name, tuple(map(Index, other.axes)))))
            self.extensions.append(Extension(tensor.name, TIME, side, value))

    def _window(self, scope: tuple[str, ...]) -> Expr:
        """A short filter, written either way round."""
        lag: Expr = Index(TAPS)
        if self.chance(0.5):
            lag = Op("sub", (Op("sub", (Size(TAPS), Const(1, INT))), Index(TAPS)))
        found = [t for t in self._candidates(scope, (REAL,)) if TIME in t.axes]
        if not found:
            return self._constant(scope)
        tensor = self.pick(found)
        self._extend(tensor)
        moved = {TIME: Op("sub", (Index(TIME), lag))}
        product = Op("mul", (Read("taps", (Index(TAPS), Index("d"))), self._as_real(tensor, moved)))
        return Reduce("sum", (TAPS,), None, product)

    def _gathered(self, scope: tuple[str, ...]) -> Expr:
        row: Expr = Read("code", (Index("b"), Index(TIME)))
        if self.chance(0.3):
            row = Op("mod", (Op("mul", (row, Const(3, INT))), Size(KEYS)))
        return Read("table", (row, Index("d")))

    def _history(self, scope: tuple[str, ...]) -> Expr:
        self.stated[BACK] = Size(TIME)
        condition = Op(self.pick(("le", "lt")), (Index(BACK), Index(TIME)))
        value = Op("mul", (Const(0.25, REAL), Read("u", (Index(BACK), Index("b")))))
        return Reduce("sum", (BACK,), condition, value)

    def condition(self, scope: tuple[str, ...]) -> Expr:
        """A bool of indices and inputs."""
        tests: list[Expr] = [Op("gt", (Index(a), Const(self.pick((0, 1, 2)), INT))) for a in scope]
        if {"b", "t"} <= set(scope):
            here = (Index("b"), Index("t"))
            tests += [Read("mask", here), Op("ne", (Read("code", here), Const(2, INT)))]
            tests += [Op("lt", (Read("u", here[::-1]), Const(0.25, REAL)))]
        if not tests:
            return Const(True, BOOL)
        first = self.pick(tests)
        kind = self.pick(("plain", "plain", "not", "and", "or"))
        if kind == "plain":
            return first
        return Op("not", (first,)) if kind == "not" else Op(kind, (first, self.pick(tests)))

    def _fold(self, scope: tuple[str, ...], depth: int) -> Expr:
        """A reduction over an axis that the scope lacks, or again over one that it has."""
        axis = self.pick(["n", "d", "b"] if self.features.causal else ["n", "d", "b", "t"])
        kinds = [kind for kind in self.features.folds if kind != "softmax" or axis in scope]
        if not kinds:
            return self._leaf(scope)
        kind = self.pick(kinds)
        inner = scope if axis in scope else (*scope, axis)
        condition = self.condition(inner) if self.features.conditions and self.chance(0.4) else None
        if kind in ("any", "all"):
            return Op("real", (Reduce(kind, (axis,), condition, self.condition(inner)),))
        if kind == "argmax":
            found = [t for t in self.inputs if t.dtype in (REAL, INT) and set(t.axes) <= set(inner)]
            best: Expr = Const(1, INT) if not found else Read(found[0].name, tuple(map(Index, found[0].axes)))
            return Op("mul", (Const(0.25, REAL), Reduce("argmax", (axis,), condition, best)))
        folded = Reduce(kind, (axis,), condition, bounded(self.real(inner, depth - 1), self.tensors()))
        if kind in ("max", "min", "logsumexp"):  # infinite over no points
            return Op("maximum", (Const(-9.0, REAL), Op("minimum", (Const(9.0, REAL), folded))))
        return folded

    # ------------------------------------------------------------ further operations

    def _steep(self, value: Expr, scope: tuple[str, ...]) -> Expr:
        """An operation with a slope, where it is smooth and of moderate size."""
        small = Op("tanh", (value,))
        above = Op("add", (Const(1.5, REAL), Op("abs", (value,))))
        inside = Op("mul", (Const(0.7, REAL), small))
        op = self.pick((*_OF_SMALL, *_OF_ABOVE, *_OF_INSIDE, "arctan2", "pow", "power", "square"))
        if op in _OF_SMALL:
            return Op(op, (small,))
        if op in _OF_INSIDE:
            return Op(op, (inside,))
        if op == "arctan2":
            return Op("arctan2", (small, above))
        if op == "pow":
            return Op("pow", (above, inside))
        if op == "power":
            return Op("pow", (above, Const(self.pick((-1.0, 3.0, 0.5, 1.0, 0.0, -1.5)), REAL)))
        if op == "square":
            exponent: Expr = Const(2, INT)
            if scope and self.chance(0.5):
                exponent = Op("mod", (Index(self.pick(scope)), Const(3, INT)))
            return Op("pow", (small, exponent))
        return Op(op, (above,))

    def _through_complex(self, scope: tuple[str, ...], depth: int) -> Expr:
        """A real number made by way of a complex one."""
        one, other = (Op("tanh", (self.real(scope, depth - 2),)) for _ in range(2))
        value: Expr = Op("complex", (one, other))
        if {"d", "n"} <= set(scope) and self.features.complex_values and self.chance(0.5):
            value = Op("mul", (Read("z", (Index("d"), Index("n"))), value))
        away = Op("add", (Const(3.0, REAL), value))
        kind = self.pick(("exp", "log", "sqrt", "div", "conj", "pow", "neg", "mul"))
        if kind in ("log", "sqrt"):
            value = Op(kind, (away,))
        elif kind == "div":
            value = Op("div", (value, away))
        elif kind == "pow":
            value = Op("pow", (away, Const(self.pick((2, -1)), INT)))
        elif kind == "mul":
            value = Op("mul", (value, Op("conj", (away,))))
        else:
            value = Op(kind, (value,))
        return bounded(Op("mul", (Const(0.5, REAL), Op(self.pick(("re", "im", "abs")), (value,)))), self.tensors())


def bounded(expr: Expr, tensors: Mapping[str, Tensor]) -> Expr:
    """Real values that may grow (sums, products, recurrences) are squashed before they are used again."""
    if isinstance(expr, Read) and tensors[expr.tensor].dtype is REAL and expr.tensor not in _SMALL:
        return Op("tanh", (expr,))
    return Op("tanh", (expr,)) if isinstance(expr, Reduce) else expr


_SMALL = ("x", "u", "w", "C", "taps", "table")
