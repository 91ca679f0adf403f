"""``ssmc verify``: what it prints and exits with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ssmc import passes

LAYER = """layer decay(x[b, t, d], a[d], z[b, t, d]?) -> y[b, t, d]:
    seq t
    h = sigmoid(a) * h[t-1] + x
    y = h * silu(z) when given(z) else h
"""
MAP = """layer double(x[b, d]) -> y[b, d]:
    y = 2 * x
"""
AHEAD = """layer ahead(x[b, t]) -> y[b, t]:
    seq t
    y = x[t+1]
"""
QUICK = ("--only", "split", "--only", "packed", "--jobs", "1")


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    path = tmp_path / "decay.ssm"
    path.write_text(LAYER)
    return path


def test_a_layer_that_holds(ssmc: Any, layer: Path) -> None:
    """A row for each property that was asked for, the verdict last."""
    ran = ssmc("verify", layer, "--target", "none", *QUICK)
    assert ran.code == 0 and not ran.err
    lines = ran.out.splitlines()
    assert lines[-1].endswith("holds: 2 hold, 0 do not apply, none fails")
    rows = {line[2:].partition("  ")[0]: line for line in lines if line.endswith("holds")}
    assert list(rows) == ["split", "packed"]
    assert "roundoff" in rows["split"] and any(line.startswith("roundoff  what") for line in lines)
    assert "required inputs only" in ran.out and "#b = 2" in ran.out


def test_a_layer_that_fails(ssmc: Any, layer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It exits with 1 and says which property, in which case, and by how much."""
    monkeypatch.setattr(passes, "pack", lambda program, batch=(): passes.reverse(program))
    ran = ssmc("verify", layer, "--target", "none", *QUICK)
    assert ran.code == 1
    assert "fails: 1 (packed)" in ran.out.splitlines()[-1]
    ran = ssmc("verify", layer, "--target", "none", "--json", *QUICK)
    found = {row["property"]: row for row in ran.object()["rows"]}
    assert found["packed"]["verdict"] == "fails" and found["packed"]["case"] and found["packed"]["tensor"] == "y"
    assert found["split"]["verdict"] == "holds"


def test_json(ssmc: Any, layer: Path) -> None:
    found = ssmc("verify", layer, "--target", "none", "--json", *QUICK).object()
    assert found["layer"] == "decay" and found["verdict"].startswith("holds") and found["seconds"] > 0
    for row in found["rows"]:
        assert row["error"] <= row["tolerance"] and row["tolerance_from"] and row["cases"] > 0
        assert row["subject"] == "equations" and row["verdict"] == "holds"


def test_a_target_and_a_dtype(ssmc: Any, layer: Path) -> None:
    """bfloat16 is held to what the interpreter says at that precision, by another process as by this one."""
    only = [item for name in ("forward", "step by step", "padded") for item in ("--only", name)]
    ran = ssmc("verify", layer, "--target", "c", "--dtype", "bf16", "--json", "--jobs", "2", *only)
    rows = [row for row in ran.object()["rows"] if row["subject"] != "equations"]
    assert ran.code == 0 and {row["subject"] for row in rows} == {"c, bfloat16"}
    assert [row["property"] for row in rows] == ["forward", "step by step", "padded"]
    assert all(row["verdict"] == "holds" and 1e-4 < row["tolerance"] < 1 for row in rows)


def test_what_does_not_apply_says_why(ssmc: Any, tmp_path: Path) -> None:
    path = tmp_path / "layers.ssm"
    path.write_text(MAP)
    ran = ssmc("verify", path, "--target", "none", "--only", "split", "--only", "prepared")
    assert ran.code == 0 and "does not apply: double has no sequence axis" in ran.out
    path.write_text(AHEAD)
    ran = ssmc("verify", path, "--target", "none", "--only", "split", "--only", "backwards")
    (split,) = [line for line in ran.out.splitlines() if line.startswith("  split")]
    assert ran.code == 0 and "does not apply: " in split and "y" in split.partition("apply: ")[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonesuch"], ["nonesuch"]),
        (["{file}", "--target", "abacus"], ["abacus", "c"]),
        (["{file}", "--dtype", "f8"], ["f8", "bf16"]),
        (["{file}", "--only", "beauty"], ["beauty", "step by step"]),
        (["{file}", "--target", "none", "--only", "widths"], ["widths", "name a target"]),
        (["{file}", "--sizes", "q=3"], ["'q'", "b, t, d"]),
        (["{file}", "--without", "a"], ["a"]),
    ],
)
def test_what_cannot_be_asked(ssmc: Any, layer: Path, arguments: list[str], words: list[str]) -> None:
    ran = ssmc("verify", *(argument.format(file=layer) for argument in arguments))
    assert ran.code in (1, 2) and not ran.out
    assert all(word in ran.err for word in words), ran.err
