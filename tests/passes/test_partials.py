"""The table of derivatives, row by row: against complex steps, in many digits, and at corners and poles."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

from ssmc.ir import COMPLEX, INT, OPERATIONS, REAL, Axis, DType, Equation, Index, Op, Program, Read, Tensor
from ssmc.ir.interpret import interpret
from ssmc.passes import grad, jvp
from ssmc.passes.derivatives import APART, CHOICES, PARTIALS, TAME

DIGITS = 60
STEP = mpmath.mpf(10) ** -40
APART_BY = mpmath.mpf(10) ** -20  # of differences
inf = math.inf


def _log1p_exp(x: Any) -> Any:
    """Above 20, softplus is x itself."""
    return x if mpmath.re(x) > 20 else mpmath.log(1 + mpmath.exp(x))


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + mpmath.exp(-x))


def _gelu_tanh(x: Any) -> Any:
    root = mpmath.mpf(math.sqrt(2 / math.pi))  # rounded, as in the definition
    return x / 2 * (1 + mpmath.tanh(root * (x + mpmath.mpf(0.044715) * x**3)))


# What each analytic operation means, of complex numbers of many digits.
ANALYTIC: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
    "neg": lambda a: -a,
    "real": lambda a: a,
    "exp": mpmath.exp,
    "exp2": lambda x: mpmath.mpf(2) ** x,
    "expm1": mpmath.expm1,
    "log": mpmath.log,
    "log2": lambda x: mpmath.log(x) / mpmath.log(2),
    "log1p": lambda x: mpmath.log(1 + x),
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "softplus": _log1p_exp,
    "tanh": mpmath.tanh,
    "sinh": mpmath.sinh,
    "cosh": mpmath.cosh,
    "erf": mpmath.erf,
    "gelu": lambda x: x / 2 * (1 + mpmath.erf(x / mpmath.sqrt(2))),
    "gelu_tanh": _gelu_tanh,
    "sqrt": mpmath.sqrt,
    "rsqrt": lambda x: 1 / mpmath.sqrt(x),
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "tan": mpmath.tan,
    "arcsin": mpmath.asin,
    "arccos": mpmath.acos,
    "arctan": mpmath.atan,
    "arctan2": lambda a, b: mpmath.atan(a / b) + (0 if mpmath.re(b) > 0 else mpmath.pi * (1 if a.real > 0 else -1)),
}
# Operations with corners: where they are smooth they are one of these.
CORNERED = {"minimum": min, "maximum": max, "relu": lambda x: max(x, 0), "abs": abs}
STEPS = frozenset(OPERATIONS) - ANALYTIC.keys() - CORNERED.keys() - APART

LINE = (0.0, 1e-300, -1e-300, 1e-9, -1e-9, 0.125, -0.5, 1.0, -1.0, 2.5, -3.0, 7.0, -9.0, 19.5, 20.5, 36.0, -40.0)
SMALL = (0.0, 1e-300, 1e-9, -1e-9, 0.125, -0.5, 1.0, -1.0, 1.4, -3.0, 7.0)
ABOVE = (1e-200, 1e-9, 0.125, 0.75, 1.0, 2.5, 36.0, 1e200)
INSIDE = (0.0, 1e-300, -1e-9, 0.125, -0.5, 0.75, -0.99, 0.999)
DOMAINS = {
    "exp": SMALL, "exp2": SMALL, "expm1": SMALL, "sinh": SMALL, "cosh": SMALL, "tan": SMALL,
    "log": ABOVE, "log2": ABOVE, "log1p": (*ABOVE, 0.0, -1e-9, -0.5, -0.99), "sqrt": ABOVE, "rsqrt": ABOVE[1:-1],
    "arcsin": INSIDE, "arccos": INSIDE,
}  # fmt: skip
POSITIVE = [ANALYTIC[op] for op, points in DOMAINS.items() if min(points) > 0]  # steps are relative
PAIRS = {
    "div": [(a, b) for a in SMALL for b in (0.5, -2.0, 1e-9)],
    "pow": [(a, b) for a in ABOVE[1:-1] for b in (0.0, 1.0, 2.0, -1.0, 0.5, -1.5, 3.25)],
    "arctan2": [(a, b) for a in (1e-9, -0.5, 1.0, -3.0) for b in (1e-9, 0.75, -2.0, 7.0)],
}
PLANE = (0.5 + 0.25j, -1.5 + 2j, 1e-9 - 1j, 3 - 1e-9j, -2 - 2j, 0.25j)


def rows(dtype: DType, arity: int) -> tuple[Axis, list[Tensor], tuple[Read, ...]]:
    inputs = [Tensor(name, ("p",), dtype) for name in "ab"[:arity]]
    return Axis("p"), inputs, tuple(Read(t.name, (Index("p"),)) for t in inputs)


def partials(op: str, *points: np.ndarray) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """The value of ``op`` and its partial derivatives, as the table says."""
    dtype = COMPLEX if points[0].dtype.kind == "c" else REAL
    axis, inputs, args = rows(dtype, len(points))
    value = Equation("y", ("p",), dtype, Op(op, args))
    found = PARTIALS[op](args, Read("y", (Index("p"),)))
    slopes = [Equation(f"s{n}", ("p",), dtype, s) for n, s in enumerate(found) if s is not None]
    program = Program("table", (axis,), tuple(inputs), tuple(e.name for e in (value, *slopes)), (value, *slopes))
    values = interpret(program, dict(zip("ab", points, strict=False)))
    return values["y"], [values.get(f"s{n}") for n in range(len(points))]


def complex_step(function: Callable[..., Any], args: list[Any], which: int) -> Any:
    """Im f(x + ih) / h, in many digits."""
    step = STEP * (abs(args[which]) if function in POSITIVE else 1)
    moved = [mpmath.mpc(a, step if n == which else 0) for n, a in enumerate(args)]
    return mpmath.im(function(*moved)) / step


def assert_near(found: float, expected: Any, where: object) -> None:
    expected = complex(expected)
    assert abs(complex(found) - expected) <= 4e-15 * max(1.0, abs(expected)) + 1e-12 * abs(expected), where


@pytest.mark.parametrize("op", ANALYTIC)
def test_complex_step(op: str) -> None:
    arity = OPERATIONS[op].arity
    points: Any = [(x,) for x in DOMAINS.get(op, LINE)]
    if arity == 2:
        points = PAIRS.get(op, [(a, b) for a in SMALL for b in SMALL])
    value, slopes = partials(op, *np.array(points, np.float64).T)
    with mpmath.workdps(DIGITS):
        for row, point in enumerate(points):
            args = [mpmath.mpf(x) for x in point]
            assert_near(value[row], mpmath.re(ANALYTIC[op](*map(mpmath.mpc, args))), (op, point))
            for which in range(arity):
                slope = slopes[which]
                assert slope is not None
                assert_near(slope[row], complex_step(ANALYTIC[op], args, which), (op, point, which))


@pytest.mark.parametrize("op", [op for op in ANALYTIC if OPERATIONS[op].accepts is COMPLEX])
def test_derivatives_of_holomorphic_operations(op: str) -> None:
    """The same along the real and the imaginary axis."""
    points = [(a,) for a in PLANE] if OPERATIONS[op].arity == 1 else [(a, b) for a in PLANE for b in (*PLANE, 2 + 0j)]
    _, slopes = partials(op, *np.array(points).T)
    with mpmath.workdps(DIGITS):
        for row, point in enumerate(points):
            args = [mpmath.mpmathify(x) for x in point]
            for which, slope in enumerate(slopes):
                assert slope is not None
                for along in (1, mpmath.j):
                    ends = [
                        ANALYTIC[op](*[a + (e * along if n == which else 0) for n, a in enumerate(args)])
                        for e in (APART_BY, -APART_BY)
                    ]
                    assert_near(slope[row], (ends[0] - ends[1]) / (2 * APART_BY * along), (op, point, which))


@pytest.mark.parametrize("op", CORNERED)
def test_sides_of_corners(op: str) -> None:
    line = [x for x in LINE if abs(x) > 1e-200]
    points = np.array([(a, b) for a in line for b in line if a != b]).T[: OPERATIONS[op].arity]
    _, slopes = partials(op, *points)
    for row, point in enumerate(points.T):
        for which, slope in enumerate(slopes):
            step = 1e-3 * np.min(np.abs([*point, *(np.diff(point))]))
            ends = [CORNERED[op](*(x + e * (n == which) for n, x in enumerate(point))) for e in (step, -step)]
            assert slope is not None and slope[row] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=0.1)


CORNERS = [  # operation, arguments, what each is to receive
    ("minimum", (1.5, 1.5), (1, 0)), ("maximum", (1.5, 1.5), (1, 0)), ("minimum", (0.0, -0.0), (1, 0)),
    ("maximum", (-0.0, 0.0), (1, 0)), ("minimum", (-inf, -inf), (1, 0)), ("maximum", (inf, 2.0), (1, 0)),
    ("relu", (0.0,), (0,)), ("relu", (-0.0,), (0,)), ("abs", (0.0,), (0,)), ("abs", (-0.0,), (0,)),
    ("arctan2", (0.0, 0.0), (0, 0)), ("arctan2", (0.0, -2.0), (-0.5, 0)), ("arctan2", (3.0, 0.0), (0, -1 / 3)),
    ("pow", (0.0, 0.0), (0, 0)), ("pow", (0.0, 1.0), (1, 0)), ("pow", (0.0, 2.0), (0, 0)), ("pow", (0.0, 3.5), (0, 0)),
    ("pow", (0.0, 0.5), (inf, 0)), ("sqrt", (0.0,), (inf,)), ("log", (0.0,), (inf,)), ("softplus", (20.0,), (1,)),
    ("softplus", (800.0,), (1,)), ("softplus", (-800.0,), (0,)), ("sigmoid", (800.0,), (0,)), ("tanh", (-800.0,), (0,)),
    ("sigmoid", (-800.0,), (0,)), ("silu", (800.0,), (1,)), ("silu", (-800.0,), (0,)), ("gelu", (50.0,), (1,)),
    ("gelu", (-50.0,), (0,)), ("gelu_tanh", (50.0,), (1,)), ("gelu_tanh", (-50.0,), (0,)), ("erf", (30.0,), (0,)),
    ("exp", (-800.0,), (0,)), ("arctan", (1e200,), (0,)), ("arcsin", (1.0,), (inf,)), ("arccos", (-1.0,), (-inf,)),
]  # fmt: skip


@pytest.mark.parametrize(("op", "args", "expected"), CORNERS)
def test_corners(op: str, args: tuple[float, ...], expected: tuple[float, ...]) -> None:
    """In the table, backwards, forwards."""
    axis, inputs, reads = rows(REAL, len(args))
    program = Program("f", (axis,), tuple(inputs), ("y",), (Equation("y", ("p",), REAL, Op(op, reads)),))
    given = {name: np.array([x]) for name, x in zip("ab", args, strict=False)}
    found = list(interpret(grad(program), {**given, "d.y": np.ones(1)}).values())
    assert [x.item() for x in found] == pytest.approx(expected, abs=1e-8)
    for which, name in enumerate(given):
        moved = interpret(jvp(program, [name]), {**given, f"dot.{name}": np.ones(1)})["dot.y"].item()
        assert moved == pytest.approx(expected[which], abs=1e-8)


def test_real_powers_of_negative_numbers() -> None:
    _, (slope, _) = partials("pow", np.array([-2.0, -2.0, -0.5]), np.array([3.0, 2.0, -1.0]))
    assert slope is not None and slope.tolist() == [12.0, -4.0, -4.0]


@pytest.mark.parametrize("op", sorted(STEPS))
def test_the_others_are_flat(op: str) -> None:
    """Whole numbers, comparisons, and steps: no partial, and equal values on either side of a point."""
    row = OPERATIONS[op]
    dtype = row.accepts if row.accepts in (REAL, INT) else REAL
    _, inputs, args = rows(REAL, row.arity)
    assert PARTIALS[op](args, Op(op, args)) == (None,) * row.arity
    if dtype is REAL and row.accepts.rank >= REAL.rank:
        points = [np.array([0.25, -1.75, 3.3]), np.array([0.75, 0.5, -2.6])][: row.arity]
        equation = Equation("y", ("p",), row_type(op), Op(op, args))
        program = Program("f", (Axis("p"),), tuple(inputs), ("y",), (equation,))
        ends = [interpret(program, dict(zip("ab", (p + e for p in points), strict=False)))["y"] for e in (1e-6, -1e-6)]
        assert (ends[0] == ends[1]).all()


def row_type(op: str) -> DType:
    yields = OPERATIONS[op].yields
    return yields if isinstance(yields, DType) else REAL


def test_every_operation_is_in_a_table() -> None:
    assert set(PARTIALS) == set(OPERATIONS)
    assert {op for op in OPERATIONS if op not in APART and not _moves(op)} == STEPS
    assert set(CHOICES) < set(CORNERED) and set(OPERATIONS) >= TAME


def _moves(op: str) -> bool:
    _, _, args = rows(REAL, OPERATIONS[op].arity)
    return any(p is not None for p in PARTIALS[op](args, Op(op, args)))


@pytest.mark.parametrize("op", sorted(TAME & (ANALYTIC.keys() | CORNERED.keys())))
def test_tame_operations_have_finite_slopes(op: str) -> None:
    """What is said to be finite everywhere is: it may be computed where nothing asks for it."""
    grid = np.array([(a, b) for a in (*LINE, 1e8, -1e8) for b in (*LINE, 1e8, -1e8)]).T
    value, slopes = partials(op, *grid[: OPERATIONS[op].arity])
    assert np.isfinite(value).all()
    assert all(s is not None and np.isfinite(s).all() for s in slopes)


def test_complex_parts_follow_the_convention() -> None:
    """The adjoint of z is the slope along its real part, and i times that along its imaginary part."""
    z, step = np.array([0.5 - 2j, -1e-3 + 1j, -3 + 0j, 0.25j]), 1e-6
    _, _, (read,) = rows(COMPLEX, 1)
    for op in ("re", "im", "abs", "conj"):
        dtype = COMPLEX if op == "conj" else REAL
        program = Program("f", (Axis("p"),), (Tensor("a", ("p",), COMPLEX),), ("y",),
                          (Equation("y", ("p",), dtype, Op(op, (read,))),))  # fmt: skip
        adjoint = np.array([1.0, 2.0, -1.0, 0.5]) * (1 + 2j if op == "conj" else 1)
        found = interpret(grad(program), {"a": z, "d.y": adjoint})["d.a"]

        def moved(by: complex, program: Program = program, adjoint: np.ndarray = adjoint) -> np.ndarray:
            ends = [interpret(program, {"a": z + e * by})["y"] for e in (step, -step)]
            return np.real(np.conj(adjoint) * (ends[0] - ends[1])) / (2 * step)

        np.testing.assert_allclose(found, moved(1) + 1j * moved(1j), 1e-7, 1e-7, err_msg=op)
    program = Program("f", (Axis("p"),), (Tensor("a", ("p",), COMPLEX),), ("y",),
                      (Equation("y", ("p",), REAL, Op("abs", (read,))),))  # fmt: skip
    assert interpret(grad(program), {"a": np.zeros(1, complex), "d.y": np.ones(1)})["d.a"].tolist() == [0]
