"""Triton compiles kernels for GPUs that are not there."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from ssmc.backends import TARGETS, Cache, TileLaunch, default_storage, triton_toolchain
from ssmc.compiler import Compiled, Taken, compile_program, fitting, stages
from ssmc.dsl import choices, elaborate, load_module
from ssmc.errors import TooLarge, ToolchainError, UserError
from ssmc.ir import Program
from ssmc.ir.loops import Halved, Limits
from ssmc.passes import PlanOptions, grad, kept_values, rebuilding
from ssmc.verify import free_axes, solve
from tests.library_cases import LOWERED

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed: pip install 'ssmc[gpu]'"
)
GATED, SCAN = (next(c for c in LOWERED if c.name == name) for name in ("rg_lru_gated()", "selective_scan()"))


def compiled(architecture: str, folder: Path, backward: bool = False, scan: bool = False) -> Compiled:
    case = SCAN if scan else GATED
    program = case.program()
    if backward:
        gradient = grad(program)
        program = rebuilding(gradient, kept_values(gradient))
    storage = {t.name: "bf16" for t in program.inputs if t.name in ("x", "dt", "B", "C", "z", "r", "g")}
    return compile_program(program, f"triton:{architecture}", storage, dict(case.sizes), cache=Cache(folder))


def check(done: Compiled, suffix: str) -> list[dict[str, Any]]:
    facts = triton_toolchain.facts(done.library.parent)
    assert [item["kernel"] for item in facts] == [launch.kernel for launch in done.programs]
    for item in facts:
        code = (done.library.parent / item["file"]).read_bytes()
        assert code.startswith(b"\x7fELF") and item["symbol"].encode() in code
        assert item["file"].endswith(suffix) and item["registers"] > 0 and item["null_pointers"] >= 0
    return facts


@needs_triton
@pytest.mark.parametrize("architecture", ["sm_90", "gfx942"])
def test_machine_code(architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment says of interpreting is not heard, and lengths are parameters."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    done = compiled(architecture, tmp_path)
    assert all(item["spilled"] == 0 for item in check(done, ".cubin" if architecture == "sm_90" else ".hsaco"))
    for launch in done.programs:
        assert {p.of[0] for p in launch.parameters if p.kind == "extent"} == {"t", "d"}
    with pytest.raises(UserError, match="runs on a GPU only"):
        done.entry(None, None, 1)
    assert compiled(architecture, tmp_path).library == done.library


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("scan", [False, True], ids=["rg_lru_gated", "selective_scan"])
@pytest.mark.parametrize("architecture", triton_toolchain.ARCHITECTURES)
def test_every_architecture(architecture: str, scan: bool, backward: bool, tmp_path: Path) -> None:
    done = compiled(architecture, tmp_path, backward, scan)
    check(done, ".hsaco" if architecture.startswith("gfx") else ".cubin")


@needs_triton
def test_states_stay_in_registers(tmp_path: Path) -> None:
    """Of a selective scan with 16 states, on its way back, which keeps most."""
    facts = check(compiled("sm_90", tmp_path, backward=True, scan=True), ".cubin")
    assert [item["spilled"] for item in facts] == [0] * len(facts)


@needs_triton
def test_a_smaller_plan_where_the_gpu_has_less(tmp_path: Path) -> None:
    """Of shared memory, which only Triton knows how much of it is used."""
    program = SCAN.program()
    sizes, found = {**SCAN.sizes, "n": 64}, []
    for limits in (None, Limits(32)):
        done = compile_program(program, "triton:sm_90", None, sizes, cache=Cache(tmp_path), limits=limits)
        found.append((done.programs[0].block, triton_toolchain.facts(done.library.parent)[0]["shared"]))
    (usual, much), (smaller, less) = found
    assert much > 32 >= less and smaller < usual


def made(program: Program, blocks: tuple[int, ...]) -> Compiled:
    """As if compiled to kernels of so many lanes, the first of which gathers sums."""
    programs = tuple(TileLaunch(f"k{n}", (), "d", block, None, 0, 1, 0, ()) for n, block in enumerate(blocks))
    return Compiled(program, (), (), {}, "", Path(), Path(), lambda *_: 0, (), programs, ("k0",))


@pytest.mark.parametrize(
    "spilled, large, options, expected",
    [
        ({64: 8, 32: 0}, (), PlanOptions(), (32, 128)),  # none are spilled any more
        ({64: 8, 32: 3, 16: 4, 8: 4, 4: 4}, (), PlanOptions(), (32, 128)),  # some always are: where fewest
        ({64: 8, 32: 8, 16: 8, 8: 9, 4: 9}, (), PlanOptions(), (64, 128)),  # smaller ones are no better
        ({64: 8}, (), PlanOptions(warps=2), (64, 128)),  # as was asked for
        ({}, (64, 128), PlanOptions(warps=2), (32, 32)),  # not as was asked for, because it cannot be
        ({8: 1, 4: 1}, (64, 32, 16), PlanOptions(), (8, 128)),
    ],
)
def test_which_plan_fits(
    spilled: dict[int, int], large: tuple[int, ...], options: PlanOptions, expected: tuple[int, ...]
) -> None:
    program, tried = GATED.program(), []

    def make(halved: Halved) -> Compiled:
        tried.append(halved)
        return made(program, (64 >> halved.sums, 128 >> halved.kernels.get("k1", 0)))

    def taken(found: Compiled) -> list[Taken]:
        return [Taken(p.kernel, "too large" * (p.block in large), spilled.get(p.block, 0)) for p in found.programs]

    assert tuple(p.block for p in fitting(make, taken, options, TARGETS["triton"], "f").programs) == expected
    assert len(tried) <= 5
    with pytest.raises(TooLarge, match="f: no plan fits: too large"):
        fitting(make, lambda found: [Taken("k0", "too large", 0)], options, TARGETS["triton"], "f")


@needs_triton
def test_fewer_lanes_where_registers_do_not_suffice(tmp_path: Path) -> None:
    """Of the plans the first one is taken that keeps all in registers."""
    module = load_module("s4d")
    program = elaborate(module, "s4d_kernel", next(choices(module, module.layer("s4d_kernel"))))
    storage = default_storage(program, "bf16")
    sizes = solve(program, dict.fromkeys(free_axes(program), 16))
    usual = stages(program, "triton:sm_90", storage, sizes)
    triton_toolchain.find().build(usual.text, usual.programs, tmp_path, "sm_90")
    if not any(item["spilled"] for item in triton_toolchain.facts(tmp_path)):
        pytest.skip("registers suffice with this version of Triton")
    done = compile_program(program, "triton:sm_90", storage, sizes, cache=Cache(tmp_path / "cache"))
    assert not any(item["spilled"] for item in triton_toolchain.facts(done.library.parent))
    assert [p.block for p in done.programs] < [p.block for p in usual.programs]


@needs_triton
def test_what_triton_says_of_a_text_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match="Triton failed on kernel.py for sm_90:"):
        triton_toolchain.find().build("import triton\nthis is no Python", [], tmp_path, "sm_90")


def test_triton_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", nothing)
    with pytest.raises(ToolchainError, match="Triton is not installed"):
        triton_toolchain.find()


@pytest.mark.parametrize("package, version", [("triton", "3.6.0"), ("pytorch-triton-rocm", "3.10.0+git123")])
def test_tritons_of_several_names(package: str, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(name: str) -> str:
        if name == package:
            return version
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", asked)
    assert triton_toolchain.find().version == version


def test_an_old_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "3.5.1")
    with pytest.raises(ToolchainError, match="Triton 3.5.1 is installed") as caught:
        triton_toolchain.find()
    assert "3.6 or newer" in str(caught.value)


@needs_triton
def test_command(ssmc: Any, tmp_path: Path) -> None:
    ran = ssmc("compile", "rg_lru:rg_lru_gated", "--target", "triton:sm_90", "-o", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    files = {path.name for path in (tmp_path / "out").iterdir()}
    names = ("ssmc_k0",)
    ends = ("py", "triton.py", "plan", "json", *(f"{name}.cubin" for name in names))
    assert files == {f"rg_lru_gated.{end}" for end in ends}
    programs = json.loads((tmp_path / "out" / "rg_lru_gated.json").read_text())["programs"]
    for program, name in zip(programs, names, strict=True):
        assert program["file"] == f"rg_lru_gated.{name}.cubin" and program["block"] and program["registers"]


def test_unknown_architecture(ssmc: Any) -> None:
    ran = ssmc("compile", "rg_lru:rg_lru_gated", "--target", "triton:sm_1", "--emit", "text")
    assert ran.code == 1 and "expected: triton:sm_90" in ran.err


@needs_triton
def test_resources(ssmc: Any) -> None:
    ran = ssmc("resources", "rg_lru:rg_lru_gated", "--target", "triton", "--architecture", "sm_90", "--json")
    assert ran.code == 0, ran.err
    passes = ran.object()["passes"]
    assert [(row["layer"], row["pass"]) for row in passes] == [
        ("rg_lru:rg_lru_gated", "forward"), ("rg_lru:rg_lru_gated", "backward"),
    ]  # fmt: skip
    for row in passes:
        for kernel in row["kernels"]:
            assert kernel["on"]["sm_90"]["registers"] > 0 and kernel["on"]["sm_90"]["spilled"] == 0
