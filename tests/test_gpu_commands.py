"""``ssmc targets`` and ``ssmc resources``."""

from __future__ import annotations

import json

import pytest

from ssmc import cli
from ssmc.backends import TARGETS, cuda_toolchain
from ssmc.errors import ToolchainError


def test_targets(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["targets", "--json"]) == 0
    found = {item["target"]: item for item in json.loads(capsys.readouterr().out)["targets"]}
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
