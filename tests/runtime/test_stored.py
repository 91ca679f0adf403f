"""Warm starts, and what must make them cold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ssmc
from ssmc.dsl import library_names, load_module, module_from_text, signature
from ssmc.ir import INT, REAL, Const, Op, Size, Where, expr_from_json, expr_to_json
from ssmc.runtime.codec import signature_from_json, signature_to_json
from ssmc.runtime.texts import texts_of, texts_of_path
from tests.runtime.layers import MIXED

ROOT = Path(__file__).resolve().parent.parent.parent

WARM = """
import sys, time, torch, ssmc, ssmc.runtime
torch.manual_seed(0)
x, w = torch.randn(2, 9, 5), torch.randn(5, 4)
start = time.perf_counter()
y, state = ssmc.load("causal_conv1d", activation="silu")(x, w, return_state=True)
spent = time.perf_counter() - start
print(y.sum().item(), "lark" in sys.modules, "networkx" in sys.modules, f"{1e3 * spent:.0f} ms")
"""


def run(code: str, cache: Path) -> list[str]:
    environment = {**os.environ, "SSMC_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_warm_start_neither_parses_nor_plans(tmp_path: Path) -> None:
    cold, warm = run(WARM, tmp_path), run(WARM, tmp_path)
    assert warm[:3] == [cold[0], "False", "False"]


def test_a_changed_import_is_another_layer(tmp_path: Path) -> None:
    (tmp_path / "inner.ssm").write_text("layer scale(x[b, t]) -> y[b, t]:\n    y = 2 * x\n")
    main = tmp_path / "main.ssm"
    main.write_text("from inner import scale\n\nlayer f(x[b, t]) -> y[b, t]:\n    y = scale(x) + 1\n")
    x = torch.randn(2, 3)
    first = ssmc.load(main)
    torch.testing.assert_close(first(x), 2 * x + 1)
    torch.testing.assert_close(ssmc.load(str(main))(x), 2 * x + 1)
    (tmp_path / "inner.ssm").write_text("layer scale(x[b, t]) -> y[b, t]:\n    y = 3 * x\n")
    second = ssmc.load(main)
    torch.testing.assert_close(second(x), 3 * x + 1)
    torch.testing.assert_close(first(x), 2 * x + 1)
    assert first._overload is not second._overload


@pytest.mark.parametrize("name", library_names())
def test_every_imported_text_is_found(name: str) -> None:
    module = load_module(name)
    assert module.path is not None
    texts = texts_of_path(module.path)
    assert texts is not None
    assert {m.source.text for m in module.everything()} <= {text for _, text in texts}


def test_imports_are_found_in_every_spelling(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.ssm").write_text("from c import g\n")
    (tmp_path / "a" / "c.ssm").write_text("from c import g\n")
    found = texts_of(
        "  from\ta.b   import f as g # x\nfrom nothing import h\nfrom selective_scan import x", "<text>", tmp_path
    )
    assert [name for name, _ in found] == ["<text>", "a.b", "c", "selective_scan"]
    assert texts_of_path(tmp_path / "none.ssm") is None


def test_signatures_survive() -> None:
    modules = [module_from_text(MIXED), *map(load_module, library_names())]
    for module in modules:
        for name in module.layers:
            found = signature(module, name)
            assert signature_from_json(signature_to_json(found)) == found


def test_extents_survive() -> None:
    expr = Where(Op("lt", (Size("d"), Const(3, REAL))), Op("add", (Size("d"), Size("k"))), Const(2, INT))
    assert expr_from_json(expr_to_json(expr)) == expr


def test_layers_of_a_module() -> None:
    names = [
        op.name
        for op in (ssmc.load("affine_scan:affine_scan_complex"), ssmc.load("affine_scan", "affine_scan_complex"))
    ]
    assert names == ["affine_scan_complex"] * 2
    assert ssmc.load("affine_scan").name == "affine_scan"
