"""The hand-written kernels compute what the layers compute, and the harness reports what it must."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from benchmarks import tables, timing
from benchmarks.layers import diagonal_ssm, rg_lru, selective_scan
from benchmarks.timing import Case, Contestant, Entry, Goal, relative_error


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["usual steps", "steps that underflow"])
@pytest.mark.parametrize("sizes", [(1, 64, 32), (2, 45, 272)])
def test_selective_scan_ceiling(sizes: tuple[int, int, int], scale: float) -> None:
    i = selective_scan.make_inputs(*sizes)
    i = i._replace(dt=i.dt * scale)
    made = selective_scan.ceiling(i, torch.empty_like(i.x)).call()
    assert relative_error(made, selective_scan.reference(i)) < 1e-5


@pytest.mark.parametrize("sizes", [(1, 40, 64), (1, 33, 2240)])
def test_rg_lru_ceiling(sizes: tuple[int, int, int]) -> None:
    i = rg_lru.make_inputs(*sizes)
    i = i._replace(r=i.r * 40, g=i.g * 40)
    made = rg_lru.ceiling(i, torch.empty_like(i.x)).call()
    assert relative_error(made, rg_lru.reference(i)) < 1e-3  # 1 - a^2 cancels where a gate is closed


@pytest.mark.parametrize("blocked", [False, True])
def test_diagonal_ssm_ceiling(blocked: bool) -> None:
    i, _ = diagonal_ssm.make_inputs(1, 512, 48)
    made = diagonal_ssm.ceiling(i, torch.empty_like(i.u), blocked).call()
    assert relative_error(made, diagonal_ssm.reference(i)) < 1e-5


def test_both_forms_of_the_diagonal_ssm_are_one() -> None:
    i, p = diagonal_ssm.make_inputs(1, 64, 16)
    want = diagonal_ssm.reference(i)
    for contestant in (diagonal_ssm.ours(i, torch.empty_like(i.u)), diagonal_ssm.library(i, p, torch.empty_like(i.u))):
        assert relative_error(contestant.call(), want) < 1e-4


def test_every_outcome_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "QUIET_SECONDS", 0.0)
    right = torch.ones(3)

    def missing() -> Contestant:
        raise ImportError("No module named 'peer'")

    entries = [
        Entry("ours", lambda: Contestant(lambda: right)),
        Entry("peer", missing),
        Entry("off", lambda: Contestant(lambda: 2 * right)),
        Entry("slow", lambda: Contestant(lambda: (time.sleep(5), right)[1]), limit=0.1),
    ]
    case = Case("a layer", {"t": 3}, lambda: (right.double(), entries), goals=(Goal("ours", ("peer", "ours"), 1.5),))
    rows = timing.run_case(case, 3, 1.0, lambda _: None)
    assert [len(row.seconds) >= 3 for row in rows] == [True, False, False, False]
    assert [row.note.partition(":")[0] for row in rows] == ["", "absent", "wrong", "failed"]
    table = tables.of_case(case, rows)
    text = tables.text(table)
    assert "no result in 0 s" in text
    assert "absent: No module named 'peer'" in text
    assert table["goals"] == [{"text": "ours / ours = 1.00, goal at most 1.5", "value": 1.0, "met": True}]
