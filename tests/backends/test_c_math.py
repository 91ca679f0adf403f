"""The mathematics of emitted C against NumPy in double precision, and what the compiler makes of it."""

from __future__ import annotations

import ctypes
import math
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssmc.backends import c_math, toolchain

Array = np.ndarray[Any, np.dtype[Any]]

# The grids hold NaN and infinities on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

ONE_ARGUMENT = [
    *c_math.MAX_ULP,
    *c_math.MAX_ERROR_OF_ARGUMENT,
    *("sin", "cos", "tan", "sqrt", "relu", "abs", "sign", "floor", "ceil", "round"),
]
TWO_ARGUMENTS = ["arctan2", "pow", "hypot", "minimum", "maximum"]
DOUBLES = [name for name in ONE_ARGUMENT if not name.endswith("_bounded")]
INTEGERS = ["floordiv", "mod", "pow", "shift_left", "shift_right", "minimum", "maximum"]
BUILDS = {"native": (), "no fused multiply-add": ("-march=x86-64", "-mtune=generic", "-ffp-contract=off")}
SMALLEST = 2.4e-38  # twice the smallest normal number


def loop(name: str, result: str, *arguments: str) -> str:
    """A C function that applies ``ssmc_<name>`` to arrays."""
    inputs = "".join(f"const {type_} *restrict a{i}, " for i, type_ in enumerate(arguments))
    values = ", ".join(f"a{i}[i]" for i in range(len(arguments)))
    return (
        f'__attribute__((visibility("default"))) void loop_{name}({inputs}{result} *restrict y, int64_t n) {{\n'
        f"#pragma omp simd\n    for (int64_t i = 0; i < n; ++i) y[i] = ssmc_{name}({values});\n}}\n"
    )


def source() -> str:
    signatures = {
        **{f"{name}_f32": ("float", "float") for name in ONE_ARGUMENT},
        **{f"{name}_f64": ("double", "double") for name in DOUBLES},
        **{f"{name}_f32": ("float", "float", "float") for name in TWO_ARGUMENTS},
        **{f"{name}_f64": ("double", "double", "double") for name in TWO_ARGUMENTS},
        **{f"{name}_i64": ("int64_t", "int64_t", "int64_t") for name in INTEGERS},
        **{f"{name}_i64": ("int64_t", "int64_t") for name in ("abs", "sign", "relu")},
        "int_f32": ("int64_t", "float"),
        "int_f64": ("int64_t", "double"),
        "powi_f32": ("float", "float", "int64_t"),
        "powi_f64": ("double", "double", "int64_t"),
        "bf16_to_f32": ("float", "uint16_t"),
        "f32_to_bf16": ("uint16_t", "float"),
        "f16_to_f32": ("float", "uint16_t"),
        "f32_to_f16": ("uint16_t", "float"),
    }
    return c_math.prelude(signatures) + "".join(loop(name, *types) for name, types in signatures.items())


class Functions:
    """The compiled loops, callable on arrays by name."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))

    def __call__(self, name: str, *arguments: Array, result: Any = None) -> Array:
        y = np.empty(arguments[0].shape, result or arguments[0].dtype)
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*map(np.ascontiguousarray, arguments), y)]
        getattr(self.library, f"loop_{name}")(*pointers, ctypes.c_int64(y.size))
        return y


@pytest.fixture(scope="module", params=list(BUILDS))
def functions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Functions:
    found = toolchain.find()
    if request.param != "native" and not found.triple.startswith("x86_64"):
        pytest.skip("the flags are for x86-64")
    return Functions(found.build(source(), tmp_path_factory.mktemp("c_math"), BUILDS[request.param]))


def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def _each(function: Callable[[float], float]) -> Callable[[Array], Array]:
    """A function of one number, on arrays."""
    return lambda x: np.asarray(np.frompyfunc(function, 1, 1)(x)).astype(np.float64)


EXACT: dict[str, Callable[..., Array]] = {
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "softplus": lambda x: np.where(x > 20, x, np.log1p(np.exp(np.minimum(x, 20)))),
    "erf": _each(math.erf),
    "gelu": lambda x: 0.5 * x * _each(math.erfc)(-x / math.sqrt(2)),
    "gelu_tanh": lambda x: x * _sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
    "relu": lambda x: np.maximum(x, 0),
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "round": np.rint,
    "pow": np.power,
}


def exact(name: str, *arguments: Array) -> Array:
    name = name.removesuffix("_bounded")
    with np.errstate(all="ignore"):
        return EXACT.get(name, getattr(np, name, None))(*(a.astype(np.float64) for a in arguments))  # type: ignore[misc]


def grid() -> Array:
    """Numbers of every size and sign, many of them where the functions are delicate."""
    random = np.random.default_rng(0)
    parts = [np.linspace(-a, a, 60_001) for a in (1e-3, 1, 4, 20, 100, 1e5)]
    parts += [sign * np.exp2(np.linspace(-126, 128, 60_001)[:-1]) for sign in (1, -1)]
    parts += [sign + random.standard_normal(20_000) * 1e-3 for sign in (1, -1)]
    bits = random.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    return np.concatenate([*(part.astype(np.float32) for part in parts), bits])


GRID = grid()
SPECIAL = np.array(
    [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 3.4028235e38, -3.4028235e38, 1e-45, -1e-45, 1.2e-38]
    + [
        88.72,
        88.73,
        89.05,
        89.1,
        89.41,
        89.42,
        95.0,
        127.9,
        128.0,
        128.4,
        129.0,
        130.0,
        1e4,
        -87.3,
        -87.4,
        -104.0,
        -1e4,
    ],
    np.float32,
)


def ulps(y: Array, r: Array) -> Array:
    """Distance in units in the last place of single precision, for finite results that are not subnormal."""
    unit = np.spacing(np.maximum(np.abs(r), 1.2e-38).astype(np.float32)).astype(np.float64)
    with np.errstate(all="ignore"):
        counts = np.isfinite(r.astype(np.float32)) & np.isfinite(y) & (np.abs(r) >= SMALLEST)
        return np.where(counts, np.abs(y - r) / unit, 0.0)


@pytest.mark.parametrize("name", c_math.MAX_ULP)
def test_error_is_what_the_table_says(functions: Functions, name: str) -> None:
    y, r = functions(f"{name}_f32", GRID), exact(name, GRID)
    inside = np.abs(GRID) < 2**27 if name.endswith("_bounded") else np.ones(GRID.shape, bool)
    error = np.where(inside, ulps(y.astype(np.float64), r), 0.0)
    worst = int(np.argmax(error))
    assert error[worst] <= c_math.MAX_ULP[name], f"{error[worst]:.2f} at {GRID[worst]!r}"
    assert np.array_equal(np.isnan(y[inside]), np.isnan(r[inside]))


def test_exp_is_closer_where_it_is_used_most(functions: Functions) -> None:
    x = np.linspace(-20, 20, 200_001).astype(np.float32)
    assert ulps(functions("exp_f32", x).astype(np.float64), np.exp(x.astype(np.float64))).max() <= 1.5


@pytest.mark.parametrize("name", c_math.MAX_ERROR_OF_ARGUMENT)
def test_error_relative_to_the_argument(functions: Functions, name: str) -> None:
    x = GRID[np.isfinite(GRID) & (np.abs(GRID) > 1e-30)]
    y, r = functions(f"{name}_f32", x).astype(np.float64), exact(name, x)
    with np.errstate(all="ignore"):
        error = np.abs(y - r) / np.abs(x.astype(np.float64)) * 2**24
    assert error.max() <= c_math.MAX_ERROR_OF_ARGUMENT[name]


@pytest.mark.parametrize("name", ONE_ARGUMENT)
def test_special_values(functions: Functions, name: str) -> None:
    """NaN, infinities, zeros, overflow neither too early nor too late; subnormal results may be 0."""
    x = SPECIAL[np.abs(SPECIAL) < 2**27] if name.endswith("_bounded") else SPECIAL
    y = functions(f"{name}_f32", x)
    with np.errstate(all="ignore"):
        r = exact(name, x).astype(np.float32)
    if name in {"gelu", "gelu_tanh", "silu"}:  # -inf · 0
        r[np.isneginf(x)] = np.nan
    same = (y == r) | (np.isnan(y) & np.isnan(r))
    near = np.isfinite(y) & np.isfinite(r) & (np.abs(y - r) <= 7e-7 * np.abs(r) + 2.5e-37)
    assert np.all(same | near), [(x[i], y[i], r[i]) for i in np.flatnonzero(~(same | near))]


@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_bounded_angles_are_nan_beyond_their_range(functions: Functions, name: str) -> None:
    x = np.array([2.0**27, -(2.0**27), 1e30, np.inf, np.nan], np.float32)
    assert np.isnan(functions(f"{name}_bounded_f32", x)).all()


@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_angles_are_good_for_every_float(functions: Functions, name: str) -> None:
    """NumPy's reduction of large angles is exact too."""
    x = GRID[np.isfinite(GRID)]
    assert ulps(functions(f"{name}_f32", x).astype(np.float64), exact(name, x)).max() <= 2.0


@pytest.mark.parametrize("name, most", [("arctan2", 2.5), ("hypot", 1.0), ("pow", 1.0)])
def test_two_arguments(functions: Functions, name: str, most: float) -> None:
    random = np.random.default_rng(1)
    a, b = (random.permutation(GRID) for _ in range(2))
    a, b = np.concatenate([a, np.abs(a) + 0.5]), np.concatenate([b, random.uniform(-4, 4, a.size).astype(np.float32)])
    y, r = functions(f"{name}_f32", a, b), exact(name, a, b)
    assert ulps(y.astype(np.float64), r).max() <= most
    with np.errstate(all="ignore"):
        assert np.array_equal(np.isnan(y), np.isnan(r)) and np.array_equal(np.isinf(y), np.isinf(r.astype(np.float32)))


@pytest.mark.parametrize("name", TWO_ARGUMENTS)
def test_two_special_arguments(functions: Functions, name: str) -> None:
    a, b = (part.ravel() for part in np.meshgrid(SPECIAL, SPECIAL))
    for type_ in (np.float32, np.float64):
        y = functions(f"{name}_f{np.dtype(type_).itemsize * 8}", a.astype(type_), b.astype(type_))
        with np.errstate(all="ignore"):
            r = exact(name, a, b).astype(type_)
        same = (y == r) | (np.isnan(y) & np.isnan(r)) | (np.abs(y - r) <= 4e-7 * np.abs(r) + 1e-37)
        assert np.all(same), [(a[i], b[i], y[i], r[i]) for i in np.flatnonzero(~same)][:5]


@pytest.mark.parametrize("name", DOUBLES)
def test_double_precision(functions: Functions, name: str) -> None:
    x = GRID.astype(np.float64)
    y, r = functions(f"{name}_f64", x), exact(name, x)
    with np.errstate(all="ignore"):
        tolerance = 1e-13 * np.abs(r) + 1e-300
        if name in c_math.MAX_ERROR_OF_ARGUMENT:
            tolerance += 1e-15 * np.abs(x)
        same = (y == r) | (np.isnan(y) & np.isnan(r)) | (np.abs(y - r) <= tolerance)
    assert np.all(same), [(x[i], y[i], r[i]) for i in np.flatnonzero(~same)][:5]


def wrapped(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def on_integers(name: str, a: int, b: int) -> int:
    """What the language says about 64-bit integers, on Python's."""
    match name:
        case "floordiv":
            return wrapped(a // b) if b else 0
        case "mod":
            return a % b if b else 0
        case "shift_left":
            return wrapped(a << max(b, 0)) if b < 64 else 0
        case "shift_right":
            return a >> min(max(b, 0), 63)
        case "minimum":
            return min(a, b)
        case "maximum":
            return max(a, b)
    if b < 0:
        return 1 if a == 1 else (1 if b % 2 == 0 else -1) if a == -1 else 0
    return wrapped(pow(a, b, 2**64))


@pytest.mark.parametrize("name", INTEGERS)
def test_integers(functions: Functions, name: str) -> None:
    edges = [0, 1, -1, 2, -2, 3, -3, 7, 31, 62, 63, 64, 65, 1000, 2**31, -(2**31), 2**63 - 1, -(2**63), -(2**63) + 1]
    edges += [int(v) for v in np.random.default_rng(2).integers(-(2**63), 2**63 - 1, 10)]
    a, b = (np.array(part.ravel(), np.int64) for part in np.meshgrid(edges, edges))
    expected = [on_integers(name, int(u), int(v)) for u, v in zip(a, b, strict=True)]
    assert functions(f"{name}_i64", a, b).tolist() == expected


def test_integers_of_one_argument(functions: Functions) -> None:
    a = np.array([0, 1, -1, 5, -5, 2**63 - 1, -(2**63)], np.int64)
    assert functions("abs_i64", a).tolist() == [0, 1, 1, 5, 5, 2**63 - 1, -(2**63)]
    assert functions("sign_i64", a).tolist() == [0, 1, -1, 1, -1, 1, -1]
    assert functions("relu_i64", a).tolist() == [0, 1, 0, 5, 0, 2**63 - 1, 0]


@pytest.mark.parametrize("type_", [np.float32, np.float64])
def test_truncation_saturates(functions: Functions, type_: Any) -> None:
    x = np.array([0.9, -0.9, 1.5, -2.5, 1e18, 1e19, -1e19, np.inf, -np.inf, np.nan, -(2.0**63), 2.0**63], type_)
    most, least = 2**63 - 1, -(2**63)
    y = functions(f"int_f{np.dtype(type_).itemsize * 8}", x, result=np.int64).tolist()
    assert y == [0, 0, 1, -2, int(type_(1e18)), most, least, most, least, 0, least, most]


@pytest.mark.parametrize("type_", [np.float32, np.float64])
def test_integer_powers(functions: Functions, type_: Any) -> None:
    x, n = (part.ravel() for part in np.meshgrid(np.array([0.0, 0.5, -1.5, 2.0, 3.0], type_), np.arange(-9, 10)))
    y = functions(f"powi_f{np.dtype(type_).itemsize * 8}", x, n.astype(np.int64))
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(y, np.power(x.astype(np.float64), n), rtol=1e-6)


def test_bfloat16(functions: Functions) -> None:
    every = np.arange(2**16, dtype=np.uint16)
    wide = functions("bf16_to_f32", every, result=np.float32)
    assert np.array_equal(wide.view(np.uint32), every.astype(np.uint32) << 16)
    back = functions("f32_to_bf16", wide, result=np.uint16)
    assert np.array_equal(back[~np.isnan(wide)], every[~np.isnan(wide)])
    halfway = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x7F7FFFFF, 0xFF7FFFFF], np.uint32)
    rounded = functions("f32_to_bf16", halfway.view(np.float32), result=np.uint16)
    assert [hex(v) for v in rounded] == ["0x3f80", "0x3f82", "0x3f81", "0x3f80", "0x7f80", "0xff80"]
    nans = np.array([0x7F800001, 0xFFFFFFFF, 0x7FFFFFFF], np.uint32).view(np.float32)
    kept = functions("f32_to_bf16", nans, result=np.uint16)
    assert np.isnan(functions("bf16_to_f32", kept, result=np.float32)).all()


def test_float16(functions: Functions) -> None:
    every = np.arange(2**16, dtype=np.uint16)
    wide, expected = functions("f16_to_f32", every, result=np.float32), every.view(np.float16).astype(np.float32)
    assert np.array_equal(wide, expected, equal_nan=True) and np.array_equal(np.signbit(wide), np.signbit(expected))
    x = np.concatenate([GRID, expected, expected * np.float32(1 + 2**-11), SPECIAL])
    x = np.concatenate([x, np.nextafter(x, np.float32(np.inf))])
    with np.errstate(all="ignore"):
        rounded = x.astype(np.float16)
    narrow = functions("f32_to_f16", x, result=np.uint16).view(np.float16)
    assert np.array_equal(narrow, rounded, equal_nan=True) and np.array_equal(np.signbit(narrow), np.signbit(rounded))


NOT_VECTORISED = {"sin", "cos", "tan", "pow"}


def test_gcc_vectorises(tmp_path: Path) -> None:
    found = toolchain.find()
    if found.kind != "gcc":
        pytest.skip("asks gcc what it did")
    text = tmp_path / "kernel.c"
    text.write_text(source())
    command = [*found.command, *found.flags, "-fopt-info-vec-optimized", str(text), "-o", str(tmp_path / "k.so"), "-lm"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    vectorised = {int(line) for line in re.findall(r"kernel\.c:(\d+):\d+: optimized: loop vectorized", report)}
    lines = text.read_text().splitlines()
    expected = [f"{name}_f32" for name in [*ONE_ARGUMENT, *TWO_ARGUMENTS] if name not in NOT_VECTORISED]
    expected += ["bf16_to_f32", "f32_to_bf16", "f16_to_f32", "f32_to_f16"]
    scalar = [n for n in expected if not {i for i, line in enumerate(lines, 1) if f"= ssmc_{n}(" in line} & vectorised]
    assert not scalar


def test_prelude_holds_what_is_needed_and_no_more() -> None:
    text = c_math.prelude({"exp_f32"})
    assert "ssmc_exp_f32(" in text and "ssmc_expm1_rest(" in text and "ssmc_log" not in text and "_f64" not in text
    assert text == c_math.prelude(["ssmc_exp_f32", "exp_f32"])
    assert text.count("#define SSMC_LN2_HIGH") == 1
    assert c_math.has("exp_f32") and c_math.has("ssmc_tanh_f64") and not c_math.has("frobnicate_f32")
    with pytest.raises(KeyError):
        c_math.prelude({"frobnicate_f32"})


@pytest.mark.parametrize("name", [name for name in c_math.definitions() if name.startswith("ssmc_")])
def test_each_definition_stands_alone(name: str) -> None:
    """With what it needs before it: no identifier of ours is used before it is defined."""
    text = re.sub(r"/\*.*?\*/", "", c_math.prelude({name}), flags=re.DOTALL)
    ours = c_math.definitions()
    for mentioned in set(re.findall(r"\b(?:ssmc_\w+|SSMC_\w+)", text)) & set(ours):
        assert c_math.prelude({mentioned}).splitlines()[-1] in c_math.prelude({name}), mentioned


def test_every_operation_has_its_functions() -> None:
    from ssmc.ir import OPERATIONS

    spelt_in_c = {"add", "sub", "mul", "div", "neg", "lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not", "real"}
    complex_or_int = {"complex", "re", "im", "conj", "bit_and", "bit_or", "bit_xor"}
    for name in set(OPERATIONS) - spelt_in_c - complex_or_int:
        types = ("i64",) if name in {"floordiv", "mod", "shift_left", "shift_right"} else ("f32", "f64")
        assert all(c_math.has(f"{name}_{type_}") for type_ in types), name
