"""What Triton is told on a GPU, and what it says: it compiles for one, and a driver writes down what it would launch.

``tests/runtime/test_tiles.py`` runs these tests in a process in which nothing is interpreted.
"""

from __future__ import annotations

import contextlib
import gc
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ssmc.backends import Cache, triton_toolchain
from ssmc.compiler import emit_program
from ssmc.dsl import elaborate, module_from_text
from ssmc.errors import TooLarge, ToolchainError
from ssmc.passes import PlanOptions
from ssmc.runtime import machines
from ssmc.runtime.machines import Entry, TritonGpu
from ssmc.runtime.stored import _variant_to_json
from ssmc.runtime.tiles import load_kernels
from tests.triton_host.driver import Driver

SCAN = "layer f(x[b, t, d], a[d]) -> y[b, t, d]:\n    seq t\n    y = sigmoid(a) * y[t-1] + x\n"


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    """Makes Triton's driver one that writes launches down."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
        yield lambda architecture, **how: Driver(architecture, **how).use(patch)
        gc.collect()  # what was loaded is given back to the driver that has loaded it


def described() -> tuple[Path, dict[str, Any], tuple[str, ...]]:
    """The kernels of SCAN, in float32, and their axes."""
    sizes = {"b": 1, "t": 1, "d": 1}
    options = PlanOptions(time="in_order")
    done = emit_program(elaborate(module_from_text(SCAN)), "triton", sizes=sizes, options=options)
    return done.text, _variant_to_json(done, sizes), done.axes


def call(entry: Entry, axes: tuple[str, ...], b: int, t: int, d: int, last: int = 1, place: int = 4096) -> None:
    """``x`` at a place in memory, every ``last``-th element of rows that are so much longer."""
    extents = {"b": b, "t": t, "d": d}
    numbers = [*(extents[axis] for axis in axes), t * d * last, d * last, last, 1, t * d, d, 1]
    assert entry(struct.pack("3P", place, 8192, 16384), struct.pack(f"{len(numbers)}q", *numbers), 1) == 0


@contextlib.contextmanager
def _pretended(now: list[Any], number: int) -> Iterator[None]:
    now.append(number)
    yield
    now.append(None)


@pytest.mark.parametrize("architecture", ["sm_90", "gfx942"])
def test_what_triton_is_told(architecture: str, driver: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses, strides and lengths, on the stream of that moment, while the tensors' GPU is the current one."""
    devices: list[Any] = []
    monkeypatch.setattr(torch.cuda, "device", lambda number: _pretended(devices, number))
    told, (text, made, axes) = driver(architecture, device=3), described()
    entry = TritonGpu(number=3).entry(text, made)
    call(entry, axes, 2, 7, 300)
    (kernel,) = made["programs"]
    names = [p["name"] for p in kernel["parameters"]]
    launched = told.launched[-1]
    found = {
        name: item.data_ptr() if hasattr(item, "data_ptr") else item
        for name, item in zip(names, launched.given, strict=True)
    }
    assert found == {"p_x": 4096, "p_a": 8192, "p_y": 16384, "s_x_b": 2100, "s_x_t": 300, "s_x_d": 1, "s_a_d": 1,
                     "s_y_b": 2100, "s_y_t": 300, "s_y_d": 1, "n_t": 7, "n_d": 300, "first": 0}  # fmt: skip
    assert (launched.programs, launched.stream, launched.warps) == (2 * 3, 77, kernel["warps"])
    assert devices == [3, None]
    told.stream = 99
    call(entry, axes, 2, 7, 300)
    assert told.launched[-1].stream == 99


def test_lengths_never_compile_again(driver: Callable[..., Driver], tmp_path: Path) -> None:
    """Not 0, 1, 16, nor what takes 64 bits; another last stride does, once, and so does memory that is not aligned."""
    told, (text, made, axes) = driver("sm_90"), described()
    entry = machines.tile_launcher(load_kernels(text), made, lambda size: torch.empty(size))
    for b, t, d in ((2, 7, 5), (1, 1, 1), (16, 16, 16), (3, 1 << 20, 1 << 33), (1, 0, 5)):
        call(entry, axes, b, t, d)
    assert len(told.loaded) == 1 and len(told.launched) == 5
    call(entry, axes, 0, 7, 5)
    assert len(told.launched) == 5
    for last in (2, 3, 1 << 10):
        call(entry, axes, 2, 7, 5, last)
    assert len(told.loaded) == 2
    call(entry, axes, 2, 7, 5, place=4100)
    assert len(told.loaded) == 3


def test_a_smaller_plan_where_the_gpu_has_less(
    driver: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Plans are halved until Triton loads them; none is small enough for a GPU without threads."""
    monkeypatch.setattr(torch.cuda, "device", lambda number: contextlib.nullcontext())
    program, cache = elaborate(module_from_text(SCAN)), Cache(tmp_path / "cache")
    given = (program, {"x": "f32", "a": "f32"}, {"b": 1, "t": 1, "d": 1}, cache, {"y": "f32"}, PlanOptions())
    found = []
    for threads in (1024, 64, 32):
        driver("sm_90", threads=threads)
        found.append(TritonGpu().compile(*given).programs[0].block)
    assert found == [128, 64, 32]
    driver("sm_90", threads=16)
    with pytest.raises(TooLarge, match="f on cuda:0: no plan fits: ssmc_k0 takes 32 of threads; the GPU has 16"):
        TritonGpu().compile(*given)


def test_what_triton_refuses(driver: Callable[..., Driver]) -> None:
    driver("sm_90", threads=32)
    text, made, axes = described()
    entry = machines.tile_launcher(load_kernels(text), made, lambda size: torch.empty(size))
    with pytest.raises(TooLarge, match="ssmc_k0 takes 128 of threads; the GPU has 32"):
        call(entry, axes, 2, 7, 5)


def test_kernels_are_not_interpreted_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ToolchainError, match="TRITON_INTERPRET is set"):
        load_kernels(described()[0])


def test_no_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    text = described()[0]
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ToolchainError, match="Triton cannot be used"):
        load_kernels(text)

    def missing(name: str) -> str:
        raise triton_toolchain.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(triton_toolchain.importlib.metadata, "version", missing)
    with pytest.raises(ToolchainError, match="Triton is not installed"):
        TritonGpu().key_parts()
