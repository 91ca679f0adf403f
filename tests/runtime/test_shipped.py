"""What ``ssmc compile`` writes is called from Python where there is no ssmc, no Triton, no bindings and no compiler."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import itertools
import json
import os
import random
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import ssmc as package
from ssmc.backends import Launch, TileLaunch, cuda_toolchain
from ssmc.errors import ToolchainError, UserError
from ssmc.ir import evaluate_int, expr_from_json
from ssmc.runtime import shipped
from tests.cuda_host import host

ROOT = Path(__file__).resolve().parents[2]
# What is carried of many steps, a requirement, an inner axis, a sum that lies in parts in a workspace.
FAR = """
layer far(x[b, t, d], w[d, j], scale[]) -> y[b, t, d], total[d, j]:
    seq t
    require #j >= 2
    h = 0.5 * h[t-1] - 0.3 * h[t-11] + scale * x
    y = sum[j](w * h[t-j])
    total = sum[b, t](x * h[t-j])
"""
ROUND = "layer far(x[b, t, d], a[b, t, d]) -> y[b, t, d]:\n    seq t\n    y = sigmoid(a) * y[t-1] + x\n"
SIZES = ("--sizes", "j=3")
EXTENTS = {"b": 2, "t": 37, "d": 5, "j": 3}
TARGETS = ("c", "cuda:sm_90", "triton:sm_90", "triton:gfx942")


def arguments(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Not as they would lie in new memory: padded rows, and a tensor that begins anywhere."""
    torch.manual_seed(0)
    x = torch.randn(2, 37, 8).to(dtype)[..., 1:6]
    return [x, torch.randn(3, 5).to(dtype).T, torch.tensor(0.7).to(dtype)]


def compiled(ssmc: Any, folder: Path, target: str, text: str = FAR, dtype: str = "f32", *more: str) -> Path:
    """A folder with what the command writes."""
    needed = {"cuda": "cuda.bindings.nvrtc", "triton": "triton"}.get(target.partition(":")[0])
    if needed == "triton" and importlib.util.find_spec(needed) is None:
        pytest.skip("Triton is not installed: pip install 'ssmc[gpu]'")
    try:
        needed == "cuda.bindings.nvrtc" and cuda_toolchain.find()
    except ToolchainError as error:
        pytest.skip(error.diagnostics[0].message)
    (folder / "far.ssm").write_text(text)
    ran = ssmc("compile", folder / "far.ssm", "--target", target, "--dtype", dtype, "-o", folder, *(more or SIZES))
    assert ran.code == 0, ran.err
    return folder


def described(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "far.json").read_text())
    return found


def installed_driver(folder: Path, name: str) -> None:
    """The driver whose GPU is this host, where the loader looks for libraries."""
    command = ["gcc", "-shared", "-fPIC", "-O1", "-w", str(ROOT / "tests/cuda_host/libcuda.c"), "-ldl"]
    subprocess.run([*command, "-o", str(folder / name)], check=True)


def called(folder: Path, given: list[torch.Tensor]) -> tuple[Any, str]:
    """What the layer gives in a process that has only PyTorch, and what that process says."""
    torch.save(given, folder / "given.pt")
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("PYTHON", "TRITON_", "PYTEST_", "SSMC_"))}
    paths = {"PYTHONPATH": str(ROOT), "LD_LIBRARY_PATH": str(folder)}
    script = str(ROOT / "tests/cuda_host/shipped_run.py")
    done = subprocess.run(
        [sys.executable, script, str(folder), "far"], env={**kept, **paths}, cwd=folder,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return torch.load(folder / "found.pt") if done.returncode == 0 else None, done.stdout + done.stderr


def runs_here(folder: Path) -> None:
    """Machine code for a GPU becomes machine code for this host."""
    about = described(folder)
    if "launches" in about:
        launches = tuple(Launch(**{**item, "grid": tuple(item["grid"])}) for item in about["launches"])
        built = host.build((folder / "far.cu").read_text(), launches, folder)
        (folder / about["library"]).write_bytes(str(built).encode())


@pytest.mark.parametrize("target", TARGETS)
def test_it_computes_the_same(ssmc: Any, tmp_path: Path, target: str) -> None:
    """As the layer itself, through the driver's own functions, from arguments that lie anyhow."""
    folder = compiled(ssmc, tmp_path, target)
    runs_here(folder)
    installed_driver(folder, "libamdhip64.so" if "gfx" in target else "libcuda.so.1")
    found, said = called(folder, arguments())
    assert found is not None, said
    for one, other in zip(found, package.compile(FAR)(*arguments()), strict=True):
        assert one.dtype == other.dtype and torch.allclose(one, other, rtol=1e-4, atol=1e-5)
    assert f"far, for tensors on {'cpu' if target == 'c' else 'cuda'} ({target})" in said and "where j = 3" in said


def test_blocks_that_wait_for_each_other(ssmc: Any, tmp_path: Path) -> None:
    """They signal with zeros, which each call has anew."""
    folder = compiled(ssmc, tmp_path, "cuda:sm_90", ROUND, "f32", "--plan", "time=look_back,chunk=32")
    (launch,) = described(folder)["launches"]
    assert launch["waits"] == "t.part"
    runs_here(folder)
    installed_driver(folder, "libcuda.so.1")
    given = [torch.randn(2, 101, 5), torch.randn(2, 101, 5)]
    found, said = called(folder, given)
    assert found is not None, said
    assert torch.allclose(found, package.compile(ROUND)(*given), rtol=1e-4, atol=1e-5)


def test_steps_are_shipped_as_any_layer(ssmc: Any, tmp_path: Path) -> None:
    """What derivations print is compiled like what people write: two pieces, the state in between, are the whole."""
    (tmp_path / "round.ssm").write_text(ROUND)
    (tmp_path / "far.ssm").write_text(ssmc("step", tmp_path / "round.ssm").out)
    ran = ssmc("compile", tmp_path / "far.ssm", "-o", tmp_path)
    assert ran.code == 0, ran.err
    layer = shipped.Layer(tmp_path / "far.json")
    x, a = torch.randn(2, 9, 5), torch.randn(2, 9, 5)
    first, state = layer(x[:, :4], a[:, :4], torch.zeros(2, 1, 5))
    rest, _ = layer(x[:, 4:], a[:, 4:], state)
    assert torch.allclose(torch.cat([first, rest], 1), package.compile(ROUND)(x, a), rtol=1e-4, atol=1e-5)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> shipped.Driver:
    """That of a GPU which is this host."""
    installed_driver(tmp_path, "libcuda.so.1")
    found = ctypes.CDLL(str(tmp_path / "libcuda.so.1"))
    monkeypatch.setattr(shipped, "found_driver", lambda hip: found)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    return shipped.Driver(torch.device("cuda", 1), hip=False)


def test_what_the_driver_refuses(driver: shipped.Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its words; and a context is there, in a thread that has none, too."""
    code = (ROOT / "tests/cuda_host/libcuda.c").read_bytes()
    with pytest.raises(RuntimeError, match="cuModuleLoadData failed on cuda:1: invalid context .error 200."):
        driver.module(b"no path of a library")
    monkeypatch.setenv("FAKE_ERROR", "cuModuleLoadData")
    with pytest.raises(RuntimeError, match="cuModuleLoadData failed on cuda:1: no kernel image .error 209."):
        driver.module(code)
    monkeypatch.setenv("FAKE_ERROR", "cuInit")
    with pytest.raises(RuntimeError, match="cuInit failed on cuda:1"):
        shipped.Driver(torch.device("cuda", 1), hip=False)


def test_too_little_shared_memory(driver: shipped.Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    module = driver.module(b"\x7fELF")
    driver.function(module, "k0", 100 << 10)
    monkeypatch.setenv("FAKE_SHARED", str(64 << 10))
    driver.function(module, "k0", 48 << 10)
    with pytest.raises(RuntimeError, match="k0 takes 102400 bytes of shared memory for a block; cuda:1 has 65536"):
        driver.function(module, "k0", 100 << 10)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("hip, names", [(False, "libcuda.so.1, libcuda.so"), (True, ".*libamdhip64.so.6")])
def test_no_driver(hip: bool, names: str) -> None:
    with pytest.raises(RuntimeError, match=f"there is no display driver: none of {names} can be loaded"):
        shipped.Driver(torch.device("cuda", 0), hip)


# ---------------------------------------------------------------- what is checked before


@pytest.fixture
def layer(ssmc: Any, tmp_path: Path) -> shipped.Layer:
    return shipped.Layer(compiled(ssmc, tmp_path, "c") / "far.json")


def test_arguments(layer: shipped.Layer) -> None:
    x, w, scale = arguments()
    whole = layer(x, w, scale)
    assert all(torch.equal(a, b) for a, b in zip(whole, layer(x, scale=scale, w=w), strict=True))
    assert layer(x[:, :0], w, scale)[0].shape == (2, 0, 5) and layer(x[:0], w, scale)[0].shape == (0, 37, 5)
    with torch.no_grad():
        layer(x.requires_grad_(), w, scale)


def test_wrong_arguments(layer: shipped.Layer) -> None:
    x, w, scale = arguments()
    wrong: list[tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]] = [
        (TypeError, "missing: scale; far takes x, w, scale", (x, w), {}),
        (TypeError, "4 positional arguments", (x, w, scale, x), {}),
        (TypeError, "'w' is given twice", (x, w), {"w": w}),
        (TypeError, "'z' is no input", (x, w, scale), {"z": w}),
        (TypeError, "'scale' is an object of type float", (x, w, 0.5), {}),
        (ValueError, r"'x' is a torch.float64 tensor of shape \(2, 37, 5\) on cpu", (x.double(), w, scale), {}),
        (ValueError, r"expected 3 axes: x\[b, t, d\]", (x[0], w, scale), {}),
        (ValueError, "'w' has extent 4 along 'd': its shape is .4, 3.; expected 5, as in 'x'", (x, w[:4], scale), {}),
        (ValueError, "'w' has extent 2 along 'j': .* expected 3, as in what is compiled in", (x, w[:, :2], scale), {}),
        (ValueError, "on meta; expected one on cpu, for which this was compiled", (x.to("meta"), w, scale), {}),
        (ValueError, "expected a dense torch.float32 tensor", (x.to_sparse(), w, scale), {}),
        (ValueError, "requires a gradient, which there is none of", (x.clone().requires_grad_(), w, scale), {}),
    ]
    for kind, words, args, named in wrong:
        with pytest.raises(kind, match=words):
            layer(*args, **named)


def test_devices(layer: shipped.Layer) -> None:
    given = {"x": SimpleNamespace(device="cuda:0"), "w": SimpleNamespace(device="cuda:1")}
    with pytest.raises(ValueError, match="tensors on different devices: 'x' on cuda:0, 'w' on cuda:1"):
        layer._one_device(given)  # type: ignore[arg-type]


def test_which_processors_it_is_for(ssmc: Any, tmp_path: Path) -> None:
    folder = compiled(ssmc, tmp_path, "c")
    about = described(folder)
    assert about["processor"]["name"]
    about["processor"] = {"name": "a better one", "has": [*about["processor"]["has"], "avx4096"]}
    (folder / "far.json").write_text(json.dumps(about))
    if not Path("/proc/cpuinfo").exists():
        pytest.skip("processors cannot be asked here")
    with pytest.raises(RuntimeError, match="compiled for processors like a better one; this one lacks avx4096"):
        shipped.Layer(folder / "far.json")(*arguments())


def test_which_gpus_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda", 1)

    def check(target: str, wanted: dict[str, Any], capability: tuple[int, int] = (0, 0), name: str = "") -> None:
        monkeypatch.setattr(torch.version, "hip", "6.4" if name else None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        named = SimpleNamespace(gcnArchName=name + ":xnack-")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: named)
        shipped.check_gpu(target, wanted, device)

    ampere, hopper = ({"capability": [8, 0], "exactly": False}, {"capability": [9, 0], "exactly": True})
    check("cuda:sm_80", ampere, (8, 9))
    check("triton:sm_90", hopper, (9, 0))
    check("triton:gfx942", {"name": "gfx942"}, name="gfx942")
    for target, wanted, capability, name, words in (
        ("cuda:sm_80", ampere, (9, 0), "", "compiled for cuda:sm_80; cuda:1 is of compute capability 9.0"),
        ("triton:sm_90", hopper, (9, 1), "", "compiled for triton:sm_90; cuda:1 is of compute capability 9.1"),
        ("triton:sm_90", hopper, (0, 0), "gfx942", "compiled for triton:sm_90; cuda:1 is a GPU of AMD"),
        ("triton:gfx942", {"name": "gfx942"}, (9, 0), "", "cuda:1 is a GPU of NVIDIA"),
        ("triton:gfx942", {"name": "gfx942"}, (0, 0), "gfx90a", "cuda:1 is gfx90a"),
    ):
        with pytest.raises(RuntimeError, match=words):
            check(target, wanted, capability, name)


# ---------------------------------------------------------------- what is written twice is the same


def test_launches_are_those_of_the_runtime() -> None:
    """How many blocks and programs there are is reckoned here and there: alike, for any extents."""
    draw = random.Random(0)
    some = [0, 1, 2, 7, 31, 32, 33, 257, 1000, 3 << 20]
    for _ in range(2000):
        extents = {axis: draw.choice(some) for axis in "btdh"}
        grid, lane, steps = tuple(draw.sample("bh", draw.randint(0, 2))), draw.choice(["d", None]), draw.choice([0, 8])
        group = draw.choice([0, 256]) if lane else 0
        threads, width = draw.choice([64, 128, 256]), 1 if group else draw.choice([1, 32])
        waits = draw.choice(["", "t"]) if group else ""
        launch = Launch("k", grid, lane, "t", steps, threads, group, 0, waits, width)
        tiled = TileLaunch("k", grid, lane, 64, "t", steps, 4, 0, ())
        assert shipped.programs(tiled.facts(), extents) == tiled.programs(extents)
        try:
            expected = [astuple(piece) for piece in itertools.islice(launch.pieces(extents), 50)]
        except UserError:
            with pytest.raises(ValueError, match="threads for one index"):
                list(shipped.pieces(launch.facts(), extents))
            continue
        assert list(itertools.islice(shipped.pieces(launch.facts(), extents), 50)) == expected


def test_extents_are_those_of_the_compiler() -> None:
    draw = random.Random(1)

    def expression(depth: int) -> list[Any]:
        if depth == 0:
            return draw.choice([["const", draw.randint(-9, 9), "int"], ["size", draw.choice("ab")]])
        parts = [expression(draw.randint(0, depth - 1)) for _ in range(3)]
        op = draw.choice([*shipped.OPERATIONS, "where"])
        if op == "pow":
            parts[1] = ["const", draw.randint(-2, 3), "int"]
        count = 1 if op in ("neg", "abs", "not") else 2
        return ["where", *parts] if op == "where" else ["op", op, *parts[:count]]

    for _ in range(3000):
        made, sizes = expression(2), {"a": draw.randint(0, 40), "b": draw.randint(0, 5)}
        assert shipped.evaluated(made, sizes) == evaluate_int(expr_from_json(made), sizes)
