"""Random well-formed Programs for hypothesis, and inputs for them.

    @given(programs(), st.data())
    def test(program, data):
        sizes = data.draw(extents(program))
        inputs = inputs_for(program, sizes, np.random.default_rng(0))

Values stay of moderate size, and no choice (a comparison, a gather, an argmax) depends on computed
reals, so that implementations which round differently still agree. ``Features`` says what may occur;
switch off what a target does not lower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ssmc.ir import (
    BOOL,
    COMPLEX,
    INT,
    REAL,
    Axis,
    Call,
    Const,
    DType,
    Equation,
    Expr,
    Extension,
    Function,
    Index,
    Op,
    Program,
    Read,
    Reduce,
    Size,
    Tensor,
    Transform,
    Where,
    complete_extents,
    type_of,
    verify,
    walk,
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


EVERYTHING = Features()
DIFFERENTIATED = Features(
    operations=True, singular=True, sorting=True, affine_reads=True, several=True, histories=True, blocks=True
)
CAUSAL = Features(backwards=False, unbounded=False, equal_codes=False, transforms=False, causal=True)

_TIME, _BACK, _TAPS, _KEYS = "t", "s", "j", "p"
_UNARY = ("tanh", "sigmoid", "sin", "cos", "silu", "softplus", "gelu", "neg", "abs", "relu", "erf")
_BINARY = ("add", "sub", "mul", "minimum", "maximum")
_OF_SMALL = ("exp", "exp2", "expm1", "sinh", "cosh", "tan", "arctan", "gelu_tanh", "real")
_OF_ABOVE = ("log", "log2", "log1p", "sqrt", "rsqrt")
_OF_INSIDE = ("arcsin", "arccos")


@st.composite
def programs(draw: st.DrawFn, features: Features = EVERYTHING) -> Program:
    """A valid Program with up to ``features.most_equations`` equations along a sequence axis t."""
    return _Author(draw, features).program()


@st.composite
def extents(draw: st.DrawFn, program: Program, longest: int | Sequence[int] = 13) -> dict[str, int]:
    """Extents of all axes: small ones; lengths up to ``longest``, or one of those listed."""
    lengths = st.integers(1, longest) if isinstance(longest, int) else st.sampled_from(longest)
    known = {}
    for axis in program.axes:
        if axis.extent is None:
            known[axis.name] = draw(lengths if axis.sequence else st.integers(1, 4), label=f"#{axis.name}")
    return complete_extents(program, known)


def inputs_for(program: Program, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Inputs that single precision holds exactly; ints reach a little out of the range of gathers."""
    found: dict[str, np.ndarray] = {}
    for tensor in program.inputs:
        shape = tuple(sizes[axis] for axis in tensor.axes)
        reals = rng.uniform(-1, 1, size=(2, *shape)).astype(np.float32).astype(np.float64)
        if tensor.dtype is REAL:
            found[tensor.name] = reals[0]
        elif tensor.dtype is COMPLEX:
            found[tensor.name] = reals[0] + 1j * reals[1]
        elif tensor.dtype is INT:
            found[tensor.name] = rng.integers(-1, 5, size=shape)
        else:
            found[tensor.name] = rng.integers(0, 2, size=shape).astype(bool)
    return found


@dataclass
class _Author:
    """Writes one Program, equation by equation."""

    draw: st.DrawFn
    features: Features
    inputs: list[Tensor] = field(default_factory=list)
    equations: list[Equation] = field(default_factory=list)
    extensions: list[Extension] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    stated: dict[str, Expr] = field(default_factory=dict)

    # ------------------------------------------------------------ the whole

    def program(self) -> Program:
        self._declare()
        for _ in range(self.pick(range(1, self.features.most_equations + 1))):
            self.pick(self._kinds())()
        hidden = {e.name for e in self.equations if self.features.causal and _BACK in e.axes}
        names = [equation.name for equation in self.equations if equation.name not in hidden]
        outputs = [name for name in names[:-1] if self.chance(0.3)] + names[-1:]
        bound = dict.fromkeys(axis for tensor in self.inputs for axis in tensor.axes)
        order = list(self.tensors())
        self.extensions.sort(key=lambda extension: order.index(extension.tensor))
        axes = [Axis(name, self.stated.get(name), name == _TIME) for name in {**bound, **self.stated}]
        program = Program(
            "sample", tuple(axes), tuple(self.inputs), tuple(outputs), tuple(self.equations),
            tuple(self.extensions), tuple(self.functions),
        )  # fmt: skip
        verify(program)
        return program

    def _declare(self) -> None:
        """Inputs of every type; one whose axes come in another order, one for each kind of axis."""
        self.inputs += [
            Tensor("x", ("b", "t", "d"), REAL),
            Tensor("u", ("t", "b"), REAL),
            Tensor("w", ("d", "n"), REAL),
            Tensor("C", ("b", "t", "n"), REAL),
            Tensor("code", ("b", "t"), INT),
            Tensor("mask", ("b", "t"), BOOL),
        ]
        if self.features.windows:
            self.inputs.append(Tensor("taps", (_TAPS, "d"), REAL))
            if self.chance(0.5):
                self.stated[_TAPS] = Const(self.pick(range(1, 5)), INT)
        if self.features.gathers:
            self.inputs.append(Tensor("table", (_KEYS, "d"), REAL))
        if self.features.complex_values:
            self.inputs.append(Tensor("z", ("d", "n"), COMPLEX))
        if self.features.functions and self.chance(0.3):
            v = Read("v", ())
            square = Op("mul", (v, Read("r", ())))
            backward: tuple[tuple[str, Expr], ...] = ()
            if self.features.blocks and self.chance(0.5):  # the true slope, so that differences agree
                slope = Op("add", (Read("r", ()), Op("mul", (square, Op("sub", (Const(1.0, REAL), Read("r", ())))))))
                backward = (("v", Op("mul", (Read("d.q", ()), slope))),)
            self.functions.append(
                Function("squash", ("v",), (("r", Op("sigmoid", (v,))),), "q", square, REAL, backward)
            )

    def _kinds(self) -> list[Callable[[], object]]:
        """Ways to write the next equation, by what is allowed."""
        allowed = self.features
        kinds: list[Callable[[], object]] = [self._map, self._map]
        if allowed.recurrences:
            kinds += [self._recurrence, self._recurrence]
            kinds += [self._mutual] * allowed.mutual + [self._contracting] * allowed.contracting
        kinds += [self._band] * allowed.bands + [self._transform] * allowed.transforms
        kinds += [self._equal_codes] * allowed.equal_codes + [self._integer] * allowed.integers
        kinds += [self._sorted, self._hadamard] * allowed.sorting + [self._affine] * allowed.affine_reads
        kinds += [self._history_of_itself] * (allowed.histories and allowed.unbounded)
        kinds += [self._bent] * allowed.histories + [self._window_of_itself] * (allowed.histories and allowed.windows)
        kinds += [self._several] * allowed.several + [self._singular] * allowed.singular
        return kinds

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
        if _TIME in scope:
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
        found = [t for t in self._candidates(scope, (REAL, COMPLEX, INT, BOOL)) if _TIME in t.axes]
        if not found:
            return self._constant(scope)
        tensor = self.pick(found)
        step = self.pick((1, 2, 3) if self.features.causal else (1, 2, 3, -1, -2))
        moved: dict[str, Expr] = {_TIME: Op("sub" if step > 0 else "add", (Index(_TIME), Const(abs(step), INT)))}
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
            scope = tuple(axis for axis in tensor.axes if axis != _TIME)
            found = [t for t in self.inputs if t.dtype is REAL and set(t.axes) <= set(scope)]
            value: Expr = Op("cos", (Index(_TIME),))
            if found:
                other = self.pick(found)
                value = Op("add", (value, Read(other.name, tuple(map(Index, other.axes)))))
            self.extensions.append(Extension(tensor.name, _TIME, side, value))

    def _window(self, scope: tuple[str, ...]) -> Expr:
        """A short filter, written either way round."""
        lag: Expr = Index(_TAPS)
        if self.chance(0.5):
            lag = Op("sub", (Op("sub", (Size(_TAPS), Const(1, INT))), Index(_TAPS)))
        found = [t for t in self._candidates(scope, (REAL,)) if _TIME in t.axes]
        if not found:
            return self._constant(scope)
        tensor = self.pick(found)
        self._extend(tensor)
        moved = {_TIME: Op("sub", (Index(_TIME), lag))}
        product = Op("mul", (Read("taps", (Index(_TAPS), Index("d"))), self._as_real(tensor, moved)))
        return Reduce("sum", (_TAPS,), None, product)

    def _gathered(self, scope: tuple[str, ...]) -> Expr:
        row: Expr = Read("code", (Index("b"), Index(_TIME)))
        if self.chance(0.3):
            row = Op("mod", (Op("mul", (row, Const(3, INT))), Size(_KEYS)))
        return Read("table", (row, Index("d")))

    def _history(self, scope: tuple[str, ...]) -> Expr:
        self.stated[_BACK] = Size(_TIME)
        condition = Op(self.pick(("le", "lt")), (Index(_BACK), Index(_TIME)))
        value = Op("mul", (Const(0.25, REAL), Read("u", (Index(_BACK), Index("b")))))
        return Reduce("sum", (_BACK,), condition, value)

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

    # ------------------------------------------------------------ equations

    def _map(self) -> None:
        axes = self.some_axes(with_time=self.features.causal or self.chance(0.8))
        if self.features.complex_values and {"d", "n"} <= set(axes) and self.chance(0.4):
            factor = Read("z", (Index("d"), Index("n")))
            point = Op("complex", (Op("tanh", (self.real(axes, 1),)), Op("sin", (self.real(axes, 1),))))
            value = Op("mul", (factor, point))
            self.define("c", axes, Op(self.pick(("exp", "conj", "neg")), (value,)))
        else:
            self.define("y", axes, self.real(axes, 3))

    def _past(self, name: str, axes: tuple[str, ...], step: int) -> Expr:
        moved = Op("sub" if step > 0 else "add", (Index(_TIME), Const(abs(step), INT)))
        return Read(name, tuple(moved if axis == _TIME else Index(axis) for axis in axes))

    def _gate(self, axes: tuple[str, ...]) -> Expr:
        """A factor between 0 and 1."""
        return self.pick((Const(0.75, REAL), Op("sigmoid", (self.real(axes, 1),))))

    def _recurrence(self) -> None:
        """Affine, elementwise, real or complex, with one lag or two."""
        axes, name = self.some_axes(), self.fresh("h")
        direction = -1 if self.features.backwards and self.chance(0.25) else 1
        update, gate, dtype = self.real(axes, 2), self._gate(axes), REAL
        if self.features.complex_values and {"d", "n"} <= set(axes) and self.chance(0.4):
            angle = Op("re", (Read("z", (Index("d"), Index("n"))),))
            gate, dtype = Op("exp", (Op("complex", (Const(-0.25, REAL), angle)),)), COMPLEX
        expr: Expr = Op("mul", (gate, self._past(name, axes, direction)))
        if self.chance(0.3):
            expr = Op("add", (expr, Op("mul", (Const(0.125, REAL), self._past(name, axes, 3 * direction)))))
        if self.features.conditions and self.chance(0.3):
            expr = Where(self.condition(axes), expr, Const(0.0, REAL))
        self.equations.append(Equation(name, axes, dtype, Op("add", (expr, update))))
        if direction > 0:
            self._extend(self.equations[-1].tensor)

    def _mutual(self) -> None:
        """Two equations that need each other, one of them without a lag."""
        axes = self.some_axes()
        first, second = f"p{len(self.equations) + 1}", f"q{len(self.equations) + 1}"
        here = tuple(map(Index, axes))
        update, gate = self.real(axes, 1), self._gate(axes)
        one = Op("add", (Op("mul", (gate, self._past(second, axes, self.pick((1, 2))))), update))
        two = Op("tanh", (Op("sub", (Read(first, here), self._past(second, axes, 1))),))
        pair = [Equation(first, axes, REAL, one), Equation(second, axes, REAL, two)]
        self.equations += self.draw(st.permutations(pair))

    def _contracting(self) -> None:
        """A small matrix times the past, as in a recurrent network."""
        name, axes = self.fresh("r"), self.pick((("t", "n"), ("b", "t", "n"), ("n", "t")))
        self.stated["m"] = Size("n")
        moved: dict[str, Expr] = {"t": Op("sub", (Index("t"), Const(1, INT))), "n": Index("m")}
        past = Read(name, tuple(moved.get(axis, Index(axis)) for axis in axes))
        weight = Op("sin", (Op("add", (Op("mul", (Const(2, INT), Index("n"))), Index("m"))),))
        inner = Reduce("sum", ("m",), None, Op("mul", (weight, past)))
        self.equations.append(Equation(name, axes, REAL, Op("tanh", (Op("add", (inner, self.real(axes, 1))),))))

    def _band(self) -> None:
        """Attention over a band: a score, a softmax that keeps its axis, a sum."""
        self.stated[_BACK] = Size(_TIME)
        t, s = Index(_TIME), Index(_BACK)
        near = Op("lt", (Op("sub", (t, s)), Const(self.pick((1, 2, 4)), INT)))
        condition: Expr = Op("and", (Op("le", (s, t)), near))
        if self.features.conditions and self.chance(0.5):
            condition = Op("and", (condition, Read("mask", (Index("b"), s))))
        product = Op("mul", (Read("C", (Index("b"), t, Index("n"))), Read("C", (Index("b"), s, Index("n")))))
        score = self.define("score", ("b", "t", _BACK), Reduce("sum", ("n",), None, product))
        body = Read(score.name, (Index("b"), t, s))
        share = self.define("share", ("b", "t", _BACK), Reduce("softmax", (_BACK,), condition, body))
        mixed = Op("mul", (Read(share.name, (Index("b"), t, s)), Read("x", (Index("b"), s, Index("d")))))
        within = condition if self.chance(0.5) else None
        self.define("y", ("b", "t", "d"), Reduce("sum", (_BACK,), within, mixed))

    def _integer(self) -> None:
        """Exact arithmetic on codes and indices."""
        code: Expr = Read("code", (Index("b"), Index("t")))
        other: Expr = self.pick((Index("b"), Const(3, INT), Const(-2, INT)))
        if self.features.positions and self.chance(0.5):
            other = Index("t")
        first = Op(self.pick(("add", "mul", "sub", "bit_xor", "maximum", "shift_left")), (code, other))
        self.define("k", ("b", "t"), Op(self.pick(("mod", "floordiv")), (first, Const(self.pick((3, 4, -3)), INT))))

    def _transform(self) -> None:
        """A stable sort of codes along time."""
        read = Read("code", (Index("b"), Index("t")))
        self.define("order", ("b", "t"), Transform("argsort", "t", read))

    def _equal_codes(self) -> None:
        """Everything in the sequence that has my code."""
        self.stated[_BACK] = Size(_TIME)
        same = Op("eq", (Read("code", (Index("b"), Index(_BACK))), Read("code", (Index("b"), Index(_TIME)))))
        self.define("y", ("b", "t"), Reduce("sum", (_BACK,), same, Read("u", (Index(_BACK), Index("b")))))

    # ------------------------------------------------------------ further equations

    def _channel(self) -> Tensor:
        """A tensor along b and t, and perhaps d."""
        found = [t for t in self.tensors().values() if t.dtype is REAL and {"b", "t"} <= set(t.axes) <= {"b", "t", "d"}]
        return self.pick(found)

    def _at(self, tensor: Tensor, **moved: Expr) -> Expr:
        """A bounded read of a tensor with some indices moved."""
        read = Read(tensor.name, tuple(moved.get(axis, Index(axis)) for axis in tensor.axes))
        return bounded(read, self.tensors())

    def _sorted(self) -> None:
        """Values in the order of codes, or at the place of the largest, times what stands there."""
        key = Read("code", (Index("b"), Index("t")))
        order = self.define("order", ("b", "t"), Transform("argsort", "t", key))
        place: Expr = Read(order.name, (Index("b"), Index("t")))
        if self.chance(0.3):
            place = Op("sub", (place, Const(1, INT)))
        tensor = self._channel()
        moved = Op("mul", (self._at(tensor, t=place), self._at(tensor)))
        self.define("y", tuple(a for a in ("t", "b", "d") if a in {*tensor.axes, "b", "t"}), moved)

    def _hadamard(self) -> None:
        """A transform along an axis of four places."""
        self.stated["e4"] = Const(4, INT)
        phase = Op("sin", (Op("add", (Index("e4"), Read("u", (Index("t"), Index("b"))))),))
        turned = self.define("w4", ("b", "t", "e4"), Transform("hadamard", "e4", phase))
        squares = Op("tanh", (Read(turned.name, (Index("b"), Index("t"), Index("e4"))),))
        self.define("y", ("b", "t"), Reduce("sum", ("e4",), None, Op("mul", (squares, squares))))

    def _history_of_itself(self) -> None:
        """A recurrence that weighs all of its past."""
        self.stated[_BACK] = Size(_TIME)
        name, past = self.fresh("h"), Op("lt", (Index(_BACK), Index(_TIME)))
        inner: Expr = Op("tanh", (Read(name, (Index("b"), Index(_BACK))),))
        if self.chance(0.5):
            score = Op("mul", (Read("u", (Index(_TIME), Index("b"))), Read("u", (Index(_BACK), Index("b")))))
            share = self.define("share", ("b", "t", _BACK), Reduce("softmax", (_BACK,), past, score))
            name = self.fresh("h")
            inner = Op("tanh", (Read(name, (Index("b"), Index(_BACK))),))
            inner = Op("mul", (Read(share.name, (Index("b"), Index("t"), Index(_BACK))), inner))
        total = Reduce("sum", (_BACK,), past, inner)
        self.equations.append(Equation(name, ("b", "t"), REAL, Op("add", (total, self.real(("b", "t"), 1)))))

    def _window_of_itself(self) -> None:
        """A recurrence over a few of its last values."""
        name, axes = self.fresh("h"), ("b", "t", "d")
        lag = Op("sub", (Op("sub", (Index("t"), Index(_TAPS))), Const(1, INT)))
        past = Op("sin", (Read(name, (Index("b"), lag, Index("d"))),))
        window = Reduce("sum", (_TAPS,), None, Op("mul", (Read("taps", (Index(_TAPS), Index("d"))), past)))
        self.equations.append(Equation(name, axes, REAL, Op("add", (window, self.real(axes, 1)))))
        self._extend(self.equations[-1].tensor)

    def _bent(self) -> None:
        """A complex recurrence that is not holomorphic."""
        name, axes = self.fresh("h"), ("d", "n", "t")
        past = Read(name, (Index("d"), Index("n"), Op("sub", (Index("t"), Const(1, INT)))))
        bent = Op("div", (past, Op("add", (Const(1.0, REAL), Op("abs", (past,))))))
        gate = Read("z", (Index("d"), Index("n"))) if self.features.complex_values else Const(0.5, REAL)
        update = Op("complex", (self.real(axes, 1), Const(0.25, REAL)))
        self.equations.append(Equation(name, axes, COMPLEX, Op("add", (Op("mul", (gate, bent)), update))))

    def _affine(self) -> None:
        """Reads along a line through the sequence."""
        t, two = Index("t"), Const(2, INT)
        index = self.pick((
            Op("mul", (two, t)),
            Op("sub", (Op("sub", (Size("t"), Const(1, INT))), t)),
            Op("floordiv", (t, two)),
            Op("mod", (t, Const(3, INT))),
            Op("add", (Op("mul", (two, t)), Const(1, INT))),
            Op("sub", (t, Read("code", (Index("b"), t)))),
            Op("add", (Index("b"), t)),
            Const(1, INT),
        ))  # fmt: skip
        tensor = self._channel()
        self._extend(tensor)
        moved = Op("mul", (self._at(tensor, t=index), Op("cos", (self._at(tensor),))))
        self.define("y", ("b", "t", *(["d"] if "d" in tensor.axes else [])), moved)

    def _several(self) -> None:
        """A fold over two axes, perhaps with ties, perhaps over no points."""
        kind = self.pick(("sum", "mean", "prod", "max", "min", "logsumexp"))
        body: Expr = self._at(self.tensors()["x"])
        if kind in ("max", "min") and self.chance(0.5):  # equal values at many places
            body = Op("mul", (Read("code", (Index("b"), Index("t"))), Read("w", (Index("d"), Const(0, INT)))))
        condition = self.condition(("b", "t", "d")) if self.chance(0.6) else None
        folded: Expr = Reduce(kind, self.pick((("t", "d"), ("b", "d"))), condition, body)
        if kind in ("max", "min", "logsumexp"):
            folded = Op("maximum", (Const(-9.0, REAL), Op("minimum", (Const(9.0, REAL), folded))))
        axis = "b" if "t" in _axes_of(folded) else "t"
        self.define("y", (axis, "n"), Op("mul", (Op("tanh", (folded,)), Read("w", (Const(0, INT), Index("n"))))))

    def _singular(self) -> None:
        """1 / m or √m where m is above 0, in a fold or not; what is not asked for has an infinite slope."""
        code = Read("code", (Index("b"), Index("t")))
        level = Op("mul", (code, Read("x", (Index("b"), Index("t"), Index("d")))))
        holds = Op("gt", (code, Const(0, INT)))
        value: Expr = self.pick((
            Op("div", (Const(0.1, REAL), Op("mul", (code, Op("exp", (level,)))))),
            Op("sqrt", (Op("mul", (code, Op("exp", (level,)))),)),
        ))  # fmt: skip
        if self.chance(0.5):
            value = Reduce(self.pick(("sum", "max", "logsumexp", "mean")), ("d",), None, value)
        axes = ("b", "t", *([] if isinstance(value, Reduce) else ["d"]))
        self.define("y", axes, Op("tanh", (Where(holds, value, Const(0.0, REAL)),)))


def _axes_of(expr: Expr) -> set[str]:
    return {axis for node in walk(expr) if isinstance(node, Reduce) for axis in node.axes}


def bounded(expr: Expr, tensors: Mapping[str, Tensor]) -> Expr:
    """Real values that may grow (sums, products, recurrences) are squashed before they are used again."""
    if isinstance(expr, Read) and tensors[expr.tensor].dtype is REAL and expr.tensor not in _SMALL:
        return Op("tanh", (expr,))
    return Op("tanh", (expr,)) if isinstance(expr, Reduce) else expr


_SMALL = ("x", "u", "w", "C", "taps", "table")
