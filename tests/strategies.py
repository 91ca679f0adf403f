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
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from ssmc.ir import (
    BOOL,
    COMPLEX,
    INT,
    REAL,
    Axis,
    Const,
    Equation,
    Expr,
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
    verify,
    walk,
)
from tests.expressions import BACK, KEYS, TAPS, TIME, Expressions, Features, bounded

EVERYTHING = Features()
DIFFERENTIATED = Features(
    operations=True, singular=True, sorting=True, affine_reads=True, several=True, histories=True, blocks=True
)
CAUSAL = Features(backwards=False, unbounded=False, equal_codes=False, transforms=False, causal=True)


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
class _Author(Expressions):
    """Writes one Program, equation by equation."""

    # ------------------------------------------------------------ the whole

    def program(self) -> Program:
        self._declare()
        for _ in range(self.pick(range(1, self.features.most_equations + 1))):
            self.pick(self._kinds())()
        hidden = {e.name for e in self.equations if self.features.causal and BACK in e.axes}
        names = [equation.name for equation in self.equations if equation.name not in hidden]
        outputs = [name for name in names[:-1] if self.chance(0.3)] + names[-1:]
        bound = dict.fromkeys(axis for tensor in self.inputs for axis in tensor.axes)
        order = list(self.tensors())
        self.extensions.sort(key=lambda extension: order.index(extension.tensor))
        axes = [Axis(name, self.stated.get(name), name == TIME) for name in {**bound, **self.stated}]
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
            self.inputs.append(Tensor("taps", (TAPS, "d"), REAL))
            if self.chance(0.5):
                self.stated[TAPS] = Const(self.pick(range(1, 5)), INT)
        if self.features.gathers:
            self.inputs.append(Tensor("table", (KEYS, "d"), REAL))
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
        kinds += [self._sorted, self._hadamard] * allowed.sorting + [self._affine, self._affine] * allowed.affine_reads
        kinds += [self._history_of_itself] * (allowed.histories and allowed.unbounded)
        kinds += [self._bent] * allowed.histories + [self._window_of_itself] * (allowed.histories and allowed.windows)
        kinds += [self._several] * allowed.several + [self._singular] * allowed.singular
        return kinds

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
        moved = Op("sub" if step > 0 else "add", (Index(TIME), Const(abs(step), INT)))
        return Read(name, tuple(moved if axis == TIME else Index(axis) for axis in axes))

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
        self.stated[BACK] = Size(TIME)
        t, s = Index(TIME), Index(BACK)
        near = Op("lt", (Op("sub", (t, s)), Const(self.pick((1, 2, 4)), INT)))
        condition: Expr = Op("and", (Op("le", (s, t)), near))
        if self.features.conditions and self.chance(0.5):
            condition = Op("and", (condition, Read("mask", (Index("b"), s))))
        product = Op("mul", (Read("C", (Index("b"), t, Index("n"))), Read("C", (Index("b"), s, Index("n")))))
        score = self.define("score", ("b", "t", BACK), Reduce("sum", ("n",), None, product))
        body = Read(score.name, (Index("b"), t, s))
        share = self.define("share", ("b", "t", BACK), Reduce("softmax", (BACK,), condition, body))
        mixed = Op("mul", (Read(share.name, (Index("b"), t, s)), Read("x", (Index("b"), s, Index("d")))))
        within = condition if self.chance(0.5) else None
        self.define("y", ("b", "t", "d"), Reduce("sum", (BACK,), within, mixed))

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
        self.stated[BACK] = Size(TIME)
        same = Op("eq", (Read("code", (Index("b"), Index(BACK))), Read("code", (Index("b"), Index(TIME)))))
        self.define("y", ("b", "t"), Reduce("sum", (BACK,), same, Read("u", (Index(BACK), Index("b")))))

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
        self.stated[BACK] = Size(TIME)
        name, past = self.fresh("h"), Op("lt", (Index(BACK), Index(TIME)))
        inner: Expr = Op("tanh", (Read(name, (Index("b"), Index(BACK))),))
        if self.chance(0.5):
            score = Op("mul", (Read("u", (Index(TIME), Index("b"))), Read("u", (Index(BACK), Index("b")))))
            share = self.define("share", ("b", "t", BACK), Reduce("softmax", (BACK,), past, score))
            name = self.fresh("h")
            inner = Op("tanh", (Read(name, (Index("b"), Index(BACK))),))
            inner = Op("mul", (Read(share.name, (Index("b"), Index("t"), Index(BACK))), inner))
        total = Reduce("sum", (BACK,), past, inner)
        self.equations.append(Equation(name, ("b", "t"), REAL, Op("add", (total, self.real(("b", "t"), 1)))))

    def _window_of_itself(self) -> None:
        """A recurrence over a few of its last values."""
        name, axes = self.fresh("h"), ("b", "t", "d")
        lag = Op("sub", (Op("sub", (Index("t"), Index(TAPS))), Const(1, INT)))
        past = Op("sin", (Read(name, (Index("b"), lag, Index("d"))),))
        window = Reduce("sum", (TAPS,), None, Op("mul", (Read("taps", (Index(TAPS), Index("d"))), past)))
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
