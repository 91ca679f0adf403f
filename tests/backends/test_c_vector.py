"""The mathematics on whole vectors against NumPy in double precision, for every width of vectors, and its memory."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch

from ssmc import compile
from ssmc.backends import c_lanes, c_math, toolchain
from tests.backends.test_c_math import GRID, SPECIAL, Array, Functions, exact, ulps

# The grids hold NaN and infinities on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

NORMAL = 1.1754944e-38
ONE_ARGUMENT = sorted(c_lanes.FUNCTIONS - {"minimum", "maximum"})
FOURTEEN_BITS = sorted([*(f"{name}_short" for name in c_lanes.SHORT), *(f"{name}_rough" for name in c_lanes.ROUGH)])
BOUNDS = ("minimum", "maximum", "at_least", "at_most")
BUILDS = {
    "native": (),
    "256 bits": ("-march=haswell",),
    "no fused multiply-add": ("-march=x86-64", "-mtune=generic", "-ffp-contract=off"),
}


def loop(name: str, inside: str, source: str = "float", target: str = "float") -> str:
    """A C function that goes through arrays vector by vector."""
    return (
        f'__attribute__((visibility("default"))) void loop_{name}(const {source} *a, {target} *y, int64_t n) {{\n'
        f"    for (int64_t i = 0; i < n; i += SSMC_VECTOR_LANES) {{ const int64_t w = n - i; {inside} }}\n}}\n"
    )


def text() -> str:
    """Every function over arrays; conversions of storage; rows a stride apart."""
    names = [f"{name}_vector" for name in (*ONE_ARGUMENT, *FOURTEEN_BITS)]
    moves = [f"{verb}_{kind}_vector" for verb in ("load", "store", "stream") for kind in ("f32", "bf16", "f16")]
    parts = [c_math.prelude([*names, *moves, "within_vector", *(f"{name}_vector" for name in BOUNDS)])]
    load = "ssmc_load_f32_vector(a + i, 1, w)"
    parts += [loop(name, f"ssmc_store_f32_vector(y + i, 1, w, ssmc_{name}({load}));") for name in names]
    for name in ("minimum", "maximum"):  # of neighbours
        both = f"ssmc_{name}_vector({load}, ssmc_load_f32_vector(a + n + i, 1, w))"
        parts.append(loop(f"{name}_vector", f"ssmc_store_f32_vector(y + i, 1, w, {both});"))
    for name in ("at_least", "at_most"):
        parts.append(loop(name, f"ssmc_store_f32_vector(y + i, 1, w, ssmc_{name}_vector({load}, 0.25f));"))
    parts.append(loop("within", "ssmc_store_f32_vector(y + i, 1, w, ssmc_within_vector(ssmc_spread_vector(1.0f), 3));"))
    for kind, c_type in (("f32", "float"), ("bf16", "uint16_t"), ("f16", "uint16_t")):
        wide = f"ssmc_load_{kind}_vector(a + i, 1, w)"
        parts.append(loop(f"from_{kind}", f"ssmc_store_f32_vector(y + i, 1, w, {wide});", c_type))
        parts.append(loop(f"to_{kind}", f"ssmc_store_{kind}_vector(y + i, 1, w, {load});", target=c_type))
        parts.append(loop(f"past_{kind}", f"ssmc_stream_{kind}_vector(y + i, {load});", target=c_type))
        apart = f"ssmc_load_{kind}_vector(a + 3 * i, 3, w)"
        parts.append(loop(f"apart_{kind}", f"ssmc_store_{kind}_vector(y + 5 * i, 5, w, {apart});", c_type, c_type))
    return "".join(parts)


class Vectors(Functions):
    """The compiled loops; ``fill`` runs one over ``n`` numbers into an array that is there."""

    def fill(self, name: str, x: Array, y: Array, n: int) -> Array:
        getattr(self.library, f"loop_{name}")(*(ctypes.c_void_p(a.ctypes.data) for a in (x, y)), ctypes.c_int64(n))
        return y


@pytest.fixture(scope="module", params=list(BUILDS))
def functions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vectors:
    found = toolchain.find()
    if request.param != "native" and not found.triple.startswith("x86_64"):
        pytest.skip("the flags are for x86-64")
    return Vectors(found.build(text(), tmp_path_factory.mktemp("c_vector"), BUILDS[request.param]))


def wanted(name: str, x: Array) -> Array:
    r = exact(name, x)
    if name == "silu":  # -inf · 0
        r = np.where(np.isneginf(x), np.nan, r)
    return r


@pytest.mark.parametrize("name", c_math.MAX_VECTOR_ULP)
def test_error_is_what_the_table_says(functions: Vectors, name: str) -> None:
    x = GRID if "sqrt" not in name else GRID[~(np.abs(GRID) < NORMAL)]
    y, r = functions(f"{name}_vector", x), wanted(name, x)
    error = ulps(y.astype(np.float64), r)
    worst = int(np.argmax(error))
    assert error[worst] <= c_math.MAX_VECTOR_ULP[name], f"{error[worst]:.2f} at {x[worst]!r}"
    assert np.array_equal(np.isnan(y), np.isnan(r))


@pytest.mark.parametrize("name", ["exp", "exp2", "expm1"])
def test_exponentials_are_closer_where_they_are_used_most(functions: Vectors, name: str) -> None:
    x = np.linspace(-20, 20, 200_001).astype(np.float32)
    assert ulps(functions(f"{name}_vector", x).astype(np.float64), exact(name, x)).max() <= 1.6


@pytest.mark.parametrize("name", ["exp", "expm1", "softplus", "tanh"])
def test_exponents_are_split_exactly_where_nothing_is_contracted(tmp_path: Path, name: str) -> None:
    """As without optimisation: x - n log(2) in two roundings would be off by as much as n is large."""
    library = Vectors(toolchain.find().build(text(), tmp_path, ("-ffp-contract=off",)))
    y, r = library(f"{name}_vector", GRID), wanted(name, GRID)
    assert ulps(y.astype(np.float64), r).max() <= c_math.MAX_VECTOR_ULP[name]


def test_powers_of_two_are_exact(functions: Vectors) -> None:
    """So that a decay of nothing keeps a state as it is, and none of them grows it."""
    x = np.arange(-125, 128).astype(np.float32)
    assert np.array_equal(functions("exp2_vector", x), np.ldexp(np.float32(1), x.astype(np.int32)))
    tiny = -np.exp2(np.linspace(-149, -20, 5000)).astype(np.float32)
    assert functions("exp2_vector", tiny).max() <= 1


@pytest.mark.parametrize("name", ONE_ARGUMENT)
def test_special_values(functions: Vectors, name: str) -> None:
    """NaN, infinities, zeros, overflow neither too early nor too late; subnormal results may be 0."""
    x = SPECIAL if "sqrt" not in name else SPECIAL[~(np.abs(SPECIAL) < NORMAL) | (SPECIAL == 0)]
    y = functions(f"{name}_vector", x)
    with np.errstate(all="ignore"):
        r = wanted(name, x).astype(np.float32)
    same = (y == r) | (np.isnan(y) & np.isnan(r))
    near = np.isfinite(y) & np.isfinite(r) & (np.abs(y - r) <= 7e-7 * np.abs(r) + 2.5e-37)
    assert np.all(same | near), [(x[i], y[i], r[i]) for i in np.flatnonzero(~(same | near))]


def test_silu_relative_to_the_argument(functions: Vectors) -> None:
    """It falls towards 0 on the left, where its relative error grows."""
    x = GRID[np.isfinite(GRID) & (np.abs(GRID) > 1e-30)]
    error = np.abs(functions("silu_vector", x).astype(np.float64) - exact("silu", x)) / np.abs(x.astype(np.float64))
    assert error.max() * 2**24 <= 3


@pytest.mark.parametrize("form", FOURTEEN_BITS)
def test_forms_for_storage_in_sixteen_bits_have_fourteen(functions: Vectors, form: str) -> None:
    name = form.partition("_")[0]
    x = GRID if name != "sqrt" else GRID[~(np.abs(GRID) < NORMAL)]
    y, r = functions(f"{form}_vector", x).astype(np.float64), wanted(name, x)
    assert np.array_equal(np.isnan(y), np.isnan(r)) and np.array_equal(
        np.isposinf(y), np.isposinf(r.astype(np.float32))
    )
    finite = np.isfinite(r) & np.isfinite(y)
    assert np.all(np.abs(y - r)[finite] <= 2.0**-13.5 * np.abs(r)[finite] + 3e-37)
    special = functions(f"{form}_vector", np.array([0, np.inf, -np.inf, np.nan], np.float32))
    expected = {
        "exp": [1, np.inf, 0, np.nan],
        "expm1": [0, np.inf, -1, np.nan],
        "sigmoid": [0.5, 1, 0, np.nan],
        "silu": [0, np.inf, np.nan, np.nan],
        "sqrt": [0, np.inf, np.nan, np.nan],
    }
    np.testing.assert_allclose(special, expected[name], rtol=1e-4)


def test_short_decays_next_to_one_are_close(functions: Vectors) -> None:
    """Where a state is kept for long, an error of the decay would be made at every step, and one beyond 1 grows."""
    x = -np.exp2(np.linspace(-20, -3, 20_001)).astype(np.float32)
    y = functions("exp_short_vector", x).astype(np.float64)
    assert np.all(np.abs(y - exact("exp", x)) <= 2.0**-15 * -x.astype(np.float64) + 2.0**-23) and y.max() <= 1
    x = np.linspace(0, 88, 20_001).astype(np.float32)
    y = functions("sigmoid_short_vector", x).astype(np.float64)
    assert np.all(np.abs(y - exact("sigmoid", x)) <= 2.0**-13.5 * np.exp(-x.astype(np.float64)) + 2.0**-23)
    assert y.max() <= 1


DECAYS = {
    "a gate": ("sigmoid(r) * h[t-1] + silu(g)", {"sigmoid_short", "silu_rough"}, {"sigmoid_rough", "silu_short"}),
    "a factor of an exponent": ("exp(-sigmoid(r)) * h[t-1] + g", {"exp_short", "sigmoid_rough"}, {"sigmoid_short"}),
    "a part of an exponent": ("exp(-sigmoid(r) - 1) * h[t-1] + g", {"exp_short", "sigmoid_short"}, {"sigmoid_rough"}),
    "inside a gate": ("sigmoid(g + sigmoid(r)) * h[t-1] + g", {"sigmoid_short"}, {"sigmoid_rough"}),
    "two gates": ("sigmoid(g) * (sigmoid(r) * h[t-1] + g) + g", {"sigmoid_short"}, {"sigmoid_rough"}),
    "a gate of the past": ("sigmoid(h[t-1]) * h[t-1] + silu(g)", {"sigmoid_short", "silu_rough"}, {"sigmoid_rough"}),
}  # fmt: skip


@pytest.mark.parametrize("equation, there, absent", DECAYS.values(), ids=DECAYS)
def test_what_is_carried_is_never_multiplied_roughly(equation: str, there: set[str], absent: set[str]) -> None:
    """Only what is added, and factors of exponents, may be off by an estimate's error in either direction."""
    layer = compile(f"layer f(r[b, t, d], g[b, t, d]) -> h[b, t, d]:\n    seq t\n    h = {equation}\n")
    layer(*torch.zeros(2, 1, 4, 16, dtype=torch.bfloat16).unbind())
    kernel = layer.source.read_text().partition("struct k0_kept")[2]
    found = {form for form in FOURTEEN_BITS if f"ssmc_{form}_vector(" in kernel}
    assert there <= found and not absent & found


@pytest.mark.parametrize("name", ["minimum", "maximum"])
def test_the_smaller_and_the_larger(functions: Vectors, name: str) -> None:
    a, b = (part.ravel() for part in np.meshgrid(SPECIAL, SPECIAL))
    y = functions.fill(f"{name}_vector", np.concatenate([a, b]), np.empty_like(a), a.size)
    assert np.array_equal(y, getattr(np, name)(a, b), equal_nan=True)


@pytest.mark.parametrize("name, expected", [("at_least", np.maximum), ("at_most", np.minimum)])
def test_bounds(functions: Vectors, name: str, expected: np.ufunc) -> None:
    assert np.array_equal(functions(name, SPECIAL), expected(SPECIAL, np.float32(0.25)), equal_nan=True)


def test_only_the_first_lanes(functions: Vectors) -> None:
    y = functions("within", np.zeros(4, np.float32))
    assert y.tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize("kind, dtype", [("bf16", torch.bfloat16), ("f16", torch.float16), ("f32", torch.float32)])
def test_storage_is_that_of_pytorch(functions: Vectors, kind: str, dtype: torch.dtype) -> None:
    """Over a sample of all floats, NaN among them; rounding ties to even."""
    bits = np.arange(0, 2**32, 7919, dtype=np.uint64).astype(np.uint32)
    ties = (np.arange(2**16, dtype=np.uint32) << 16)[:, None] + np.array([0x7FFF, 0x8000, 0x8001], np.uint32)
    x = np.concatenate([bits, ties.ravel(), bits[:5]]).view(np.float32)
    narrow = np.float32 if kind == "f32" else np.uint16
    y = functions(f"to_{kind}", x, result=narrow)
    expected = torch.from_numpy(x).to(dtype)
    back = torch.from_numpy(functions(f"from_{kind}", y, result=np.float32))
    assert torch.equal(back.isnan(), expected.isnan())
    view = torch.int32 if kind == "f32" else torch.int16
    same = torch.from_numpy(y).view(view) == expected.view(view)
    assert bool((same | expected.isnan()).all())
    assert torch.equal(back.nan_to_num(), expected.float().nan_to_num())


@pytest.mark.parametrize("kind", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("count", [1, 7, 16, 37])
def test_rows_apart(functions: Vectors, kind: str, count: int) -> None:
    """Lanes a stride apart, and the last of them; nothing else is written."""
    dtype = np.float32 if kind == "f32" else np.uint16
    x = np.arange(1, 3 * count + 1).astype(np.float32)
    x = x.astype(dtype) if kind == "f32" else (x.view(np.uint32) >> 16).astype(np.uint16)
    y = functions.fill(f"apart_{kind}", x, np.zeros(5 * count, dtype), count)
    expected = np.zeros(5 * count, dtype)
    expected[::5] = x[::3]
    assert np.array_equal(y, expected)


@pytest.mark.parametrize("kind", ["f32", "bf16", "f16"])
def test_rows_past_the_caches(functions: Vectors, kind: str) -> None:
    x = np.random.default_rng(0).standard_normal(1024).astype(np.float32)
    expected = functions(f"to_{kind}", x, result=np.float32 if kind == "f32" else np.uint16)
    room = np.zeros(expected.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    y = room[start : start + expected.nbytes].view(expected.dtype)
    assert np.array_equal(functions.fill(f"past_{kind}", x, y, x.size), expected)
