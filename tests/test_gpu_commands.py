"""``ssmc targets`` and ``ssmc resources``, and the committed page that the latter made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssmc import cli
from ssmc.backends import TARGETS, cuda_toolchain, triton_toolchain
from ssmc.errors import ToolchainError

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_targets(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["targets", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["devices"][0] == {"device": "cpu", "name": "", "runs_as": "c"}
    found = {item["target"]: item for item in told["targets"]}
    assert {name.partition(":")[0] for name in found} == set(TARGETS)
    assert found["c"]["builds"] and found["c"]["runs"] and not found["c"]["why"]
    for item in found.values():
        assert len(item["why"]) == (not item["builds"]) + (not item["runs"])


def test_targets_without_a_compiler(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSMC_NVCC", "nvcc-of-nowhere")
    assert cli.run(["targets"]) == 0
    assert "builds: no, SSMC_NVCC names the compiler 'nvcc-of-nowhere'" in capsys.readouterr().out


def test_resources(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        cuda_toolchain.find()
    except ToolchainError as error:
        pytest.skip(error.diagnostics[0].message)
    asked = ["resources", "rg_lru:rg_lru_gated", "local_attention", "--architecture", "sm_90", "--json"]
    assert cli.run(asked) == 0
    passes = json.loads(capsys.readouterr().out)["passes"]
    assert [(row["layer"], row.get("pass")) for row in passes] == [
        ("local_attention", None), ("rg_lru:rg_lru_gated", "forward"), ("rg_lru:rg_lru_gated", "backward"),
    ]  # fmt: skip
    assert "no strategy on this target" in passes[0]["unsupported"]
    for row in passes[1:]:
        for kernel in row["kernels"]:
            assert 0 < kernel["on"]["sm_90"]["registers"] <= 255 and kernel["on"]["sm_90"]["spilled"] == 0
    assert cli.run(["resources", "--architecture", "sm_1"]) == 1
    assert cli.run(["resources", "rg_lru:nothing"]) == 1
    assert "the library has no layer `rg_lru:nothing`" in capsys.readouterr().err


def test_rows_of_other_layers_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If they were made by the same compiler, for the same architectures; else all is new."""
    try:
        cuda_toolchain.find()
    except ToolchainError as error:
        pytest.skip(error.diagnostics[0].message)

    def told(*asked: str) -> list[tuple[str, str]]:
        assert cli.run(["resources", *asked, "-o", str(tmp_path)]) == 0
        found = json.loads((tmp_path / "resources.json").read_text())["passes"]
        page = (tmp_path / "resources.md").read_text()
        assert all(f"| `{row['layer']}` | {row['pass']} |" in page for row in found)
        return [(row["layer"], row["pass"]) for row in found]

    gated, scan = (
        [(layer, way) for way in ("forward", "backward")] for layer in ("rg_lru:rg_lru_gated", "affine_scan")
    )
    assert told("affine_scan", "rg_lru:rg_lru_gated", "--architecture", "sm_90") == scan + gated
    assert told("affine_scan", "--architecture", "sm_90") == scan + gated
    assert told("rg_lru:rg_lru_gated", "--architecture", "sm_80") == gated
    capsys.readouterr()


def test_the_committed_table_of_triton() -> None:
    """Of the whole library and all architectures; on sm_90 nothing is spilled."""
    found = json.loads((DOCS / "resources-triton.json").read_text())
    passes = [row for row in found["passes"] if "kernels" in row]
    assert len(passes) > 80 and not any("failed" in row for row in found["passes"])
    kernels = [(row["layer"], row["pass"], kernel["on"]) for row in passes for kernel in row["kernels"]]
    assert all(set(on) == set(triton_toolchain.ARCHITECTURES) for _, _, on in kernels)
    assert not [(layer, name) for layer, name, on in kernels if on["sm_90"]["spilled"]]
    assert all(item["registers"] > 0 and item["warps"] > 0 for _, _, on in kernels for item in on.values())


def test_the_committed_table_is_of_all_architectures_where_registers_suffice() -> None:
    found = json.loads((DOCS / "resources.json").read_text())
    passes = [row for row in found["passes"] if "kernels" in row]
    assert len(passes) > 80
    kernels = [(row["layer"], row["pass"], kernel["on"]) for row in passes for kernel in row["kernels"]]
    assert all(set(on) == set(cuda_toolchain.ARCHITECTURES) for _, _, on in kernels)
    assert not [(layer, name) for layer, name, on in kernels if any(item["spilled"] for item in on.values())]
