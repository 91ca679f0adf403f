"""Emitted CUDA C becomes machine code for every architecture, without a GPU; what there is to say when it cannot."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ssmc import cli
from ssmc.backends import TARGETS, Cache, cuda_toolchain, default_storage
from ssmc.compiler import Compiled, Stages, compile_program, stages, taken
from ssmc.dsl import choices, elaborate, load_module
from ssmc.errors import ToolchainError, UserError
from ssmc.passes import PlanOptions, grad, kept_values, rebuilding, saving
from ssmc.verify import free_axes, solve
from tests.library_cases import LOWERED

SLICE = ("selective_scan()", "rg_lru_gated()")


def compiler() -> cuda_toolchain.Compiler:
    try:
        return cuda_toolchain.find()
    except ToolchainError as error:
        pytest.skip(error.diagnostics[0].message)


def passes(name: str, real: str = "bf16") -> list[Stages]:
    """The forward pass of a library case, and the way back."""
    (case,) = [case for case in LOWERED if case.name == name]
    program = case.program()
    gradient = grad(program)
    kept = kept_values(gradient)
    found = (saving(program, kept), rebuilding(gradient, kept))
    return [stages(p, "cuda", default_storage(p, real), dict(case.sizes)) for p in found]


@pytest.mark.parametrize("architecture", cuda_toolchain.ARCHITECTURES)
@pytest.mark.parametrize("name", SLICE)
def test_compiles_without_spills(name: str, architecture: str, tmp_path: Path) -> None:
    tools = compiler()
    for made in passes(name):
        cubin = tools.build(made.text, tmp_path, architecture)
        assert cubin.read_bytes()[:4] == b"\x7fELF"
        found = cuda_toolchain.resources((tmp_path / cuda_toolchain.LOG).read_text())
        assert {r.kernel for r in found} == {k.kernel for k in made.launches}
        for item in found:
            assert 0 < item.registers <= 255 and item.spill_stores == item.spill_loads == 0, item


def test_nvcc_says_the_same_as_nvrtc(tmp_path: Path) -> None:
    """Whichever compiler there is, it finds the same kernels, in texts of every storage."""
    path = cuda_toolchain.shutil.which("nvcc")
    if path is None:
        pytest.skip("nvcc is not on PATH")
    made = passes("selective_scan()", "f16")[1]
    cuda_toolchain._nvcc(path).build(made.text, tmp_path, "sm_90")
    found = cuda_toolchain.resources((tmp_path / cuda_toolchain.LOG).read_text())
    assert {r.kernel for r in found} == {k.kernel for k in made.launches}


def test_what_is_said_of_resources() -> None:
    log = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'ssmc_k1' for 'sm_90'
ptxas info    : Function properties for ssmc_k1
    48 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 48 bytes cumulative stack size, 1024 bytes smem
ptxas info    : Compiling entry function 'ssmc_k0' for 'sm_90'
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers
"""
    assert cuda_toolchain.resources(log) == (
        cuda_toolchain.Resources("ssmc_k1", 40, 1024, 48, 12, 16),
        cuda_toolchain.Resources("ssmc_k0", 32, 0, 0, 0, 0),
    )


# ---------------------------------------------------------------- errors


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cuda_toolchain, "_nvrtc_version", lambda: "")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SSMC_NVCC", raising=False)
    with pytest.raises(ToolchainError, match="no CUDA compiler found") as caught:
        cuda_toolchain.find()
    assert "ssmc[gpu]" in str(caught.value)


def test_a_named_compiler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSMC_NVCC", "nvcc-of-nowhere")
    with pytest.raises(ToolchainError, match="SSMC_NVCC names the compiler 'nvcc-of-nowhere'"):
        cuda_toolchain.find()


def test_a_compiler_that_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSMC_NVCC", "false")
    with pytest.raises(ToolchainError, match="does not work"):
        cuda_toolchain.find()


def test_a_text_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match="failed on kernel.cu for sm_90:\n.*error"):
        compiler().build("__global__ void k() { nothing(); }", tmp_path, "sm_90")


def test_unknown_architectures() -> None:
    with pytest.raises(UserError, match="unknown target 'cuda:sm_1'") as caught:
        stages(passes("rg_lru_gated()")[0].program, "cuda:sm_1")
    assert "cuda:sm_90" in str(caught.value)


def test_machine_code_for_a_gpu_is_no_function(tmp_path: Path) -> None:
    compiler()
    (case,) = [case for case in LOWERED if case.name == "rg_lru_gated()"]
    made = compile_program(case.program(), "cuda:sm_80", sizes=dict(case.sizes))
    assert made.library.suffix == ".cubin" and made.launches
    with pytest.raises(UserError, match="machine code for cuda:sm_80 runs on a GPU only"):
        made.entry(None, None, 1)


def blocks_at_once(text: str) -> dict[str, str]:
    """Of each kernel for how many blocks a multiprocessor is to have room."""
    return {kernel: many for many, kernel in re.findall(r"SSMC_KERNEL\(\d+, (\d+)\) (\w+)", text)}


def test_fewer_blocks_at_once_where_registers_do_not_suffice(tmp_path: Path) -> None:
    """Only of the kernels that spill, unless the plan says how many; what was compiled is not compiled again."""
    module = load_module("mamba_inner")
    program = elaborate(module, "mamba_inner", next(choices(module, module.layer("mamba_inner"))))
    gradient = grad(program)
    backward = rebuilding(gradient, kept_values(gradient))
    sizes = solve(program, dict.fromkeys(free_axes(program), 16)) or {}
    own = {axis.name: sizes[axis.name] for axis in backward.axes if axis.extent is None and axis.name in sizes}
    usual = stages(backward, "cuda", default_storage(backward, "bf16"), own)
    compiler().build(usual.text, tmp_path, "sm_90")
    found = cuda_toolchain.resources((tmp_path / cuda_toolchain.LOG).read_text())
    spilling = {item.kernel for item in found if item.spill_stores}
    if not spilling:
        pytest.skip("registers suffice with this version of the compiler")
    cache = Cache(tmp_path / "cache")

    def compiled(options: PlanOptions) -> tuple[Compiled, bool]:
        made = compile_program(backward, "cuda:sm_90", default_storage(backward, "bf16"), own, options, cache)
        return made, any(kernel.spilled for kernel in taken(made, TARGETS["cuda"].limits))

    made, spills = compiled(PlanOptions())
    before, after = blocks_at_once(usual.text), blocks_at_once(made.text.read_text())
    assert not spills and {kernel for kernel in after if after[kernel] != before[kernel]} == spilling
    built = len(list(cache.root.rglob(cuda_toolchain.CUBIN)))
    assert compiled(PlanOptions())[0].library == made.library
    assert len(list(cache.root.rglob(cuda_toolchain.CUBIN))) == built <= 4
    asked, spills = compiled(PlanOptions(together=4))
    assert spills and set(blocks_at_once(asked.text.read_text()).values()) == {"4"}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compiler()
    assert cli.run(["compile", "rg_lru:rg_lru_gated", "--target", "cuda:sm_90", "-o", str(tmp_path)]) == 0
    capsys.readouterr()
    about = json.loads((tmp_path / "rg_lru_gated.json").read_text())
    assert about["target"] == "cuda:sm_90" and "entry" not in about
    assert [launch["kernel"] for launch in about["launches"]] == ["ssmc_k0", "ssmc_p2"]
    assert (tmp_path / "rg_lru_gated.cubin").read_bytes()[:4] == b"\x7fELF"
    assert "ssmc_k0(const ssmc_arguments a)" in (tmp_path / "rg_lru_gated.cu").read_text()
