"""The mathematics of emitted CUDA C, as far as a host can tell: its own functions, on the host's prelude."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from ssmc.backends import prelude
from ssmc.backends.cuda import HEADERS
from ssmc.backends.definitions import Definitions
from tests.cuda_host import host

ONE = ["exp", "exp2", "expm1", "log", "log2", "log1p", "sigmoid", "silu", "softplus", "tanh", "sinh", "cosh", "erf",
       "sqrt", "rsqrt", "arcsin", "arccos", "arctan", "relu", "sign"]  # fmt: skip
INTEGERS = ["floordiv", "mod"]
EDGES = [0, 1, -1, 2, -2, 3, 7, -7, 2**31, -(2**31), 2**32 - 1, 2**32, 2**32 + 1, 10**12, -(10**12), 2**62, 2**63 - 1,
         -(2**63), -(2**63) + 1]  # fmt: skip


def loops() -> str:
    text = [f"extern \"C\" void loop_{n}_f32(const float *a, float *y, int64_t n) "
            f"{{ for (int64_t i = 0; i < n; ++i) y[i] = ssmc_{n}_f32(a[i]); }}" for n in ONE]  # fmt: skip
    for name, type in [(f"{n}_i64", "int64_t") for n in INTEGERS] + [("div_f32", "float")]:
        text.append(f"extern \"C\" void loop_{name}(const {type} *a, const {type} *b, {type} *y, int64_t n) "
                    f"{{ for (int64_t i = 0; i < n; ++i) y[i] = ssmc_{name}(a[i], b[i]); }}")  # fmt: skip
    return "\n".join(text)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    start = (Path(host.__file__).parent / "prelude.h").read_text().rstrip()
    wanted = [*(f"{n}_f32" for n in ONE), *(f"{n}_i64" for n in INTEGERS), "div_f32"]
    return ctypes.CDLL(
        str(host.compiled(Definitions(HEADERS, start).text(wanted) + loops(), tmp_path_factory.mktemp("m")))
    )


def of(library: ctypes.CDLL, name: str, *arrays: np.ndarray) -> np.ndarray:
    result = np.empty_like(arrays[0])
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*arrays, result)]
    library[f"loop_{name}"](*pointers, ctypes.c_int64(result.size))
    return result


@pytest.mark.parametrize("name", INTEGERS)
def test_quotients_of_integers(library: ctypes.CDLL, name: str) -> None:
    """In 32 bits and bit by bit: as Python has them, and 0 by 0; what does not fit wraps."""
    draw = np.random.default_rng(0)
    a = np.array([x for x in EDGES for _ in EDGES] + draw.integers(-(2**63), 2**63 - 1, 2000).tolist())
    b = np.array(EDGES * len(EDGES) + (draw.integers(-(2**63), 2**63 - 1, 2000) >> draw.integers(0, 63, 2000)).tolist())
    exact = [
        0 if y == 0 else x // y if name == "floordiv" else x % y for x, y in zip(a.tolist(), b.tolist(), strict=True)
    ]
    wrapped = [(value + 2**63) % 2**64 - 2**63 for value in exact]
    assert of(library, f"{name}_i64", a, b).tolist() == wrapped


def test_exact_quotients_and_roots_are_exact(library: ctypes.CDLL) -> None:
    a, b = (grid.ravel().astype(np.float32) for grid in np.meshgrid(np.arange(-300, 300), np.arange(1, 300)))
    assert np.array_equal(of(library, "div_f32", a * b, b), a)
    assert np.array_equal(of(library, "sqrt_f32", b * b), b)


def test_quotients_at_the_edges(library: ctypes.CDLL) -> None:
    edges = np.array([0.0, -0.0, 1.0, -3.0, np.inf, -np.inf, np.nan, 1e38, -3e38, 1e-38, 1e-44], np.float32)
    a, b = (grid.ravel().copy() for grid in np.meshgrid(edges, edges))
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(of(library, "div_f32", a, b), a / b)


@pytest.mark.parametrize("name", ONE)
def test_functions(library: ctypes.CDLL, name: str) -> None:
    """Close to C's, whose errors are measured, over the whole range; the same at the edges."""
    from tests.backends.test_c_math import exact

    x = np.concatenate([np.linspace(-30, 30, 5001), [0.0, np.inf, -np.inf, np.nan, 1e-30, 1e30, -1e30]]).astype(
        np.float32
    )
    with np.errstate(all="ignore"):
        want = exact(name, x.astype(np.float64))
        found = of(library, f"{name}_f32", x)
        assert np.array_equal(np.isnan(found), np.isnan(want)), x[np.isnan(found) != np.isnan(want)]
        np.testing.assert_allclose(found, want.astype(np.float32), rtol=4e-6, atol=2e-38)


def test_there_is_nothing_of_the_host_in_the_text() -> None:
    assert "#include" not in Definitions(HEADERS, "").text(["div_f32"])
    assert "SSMC_INLINE" in prelude(["exp_f32"])
