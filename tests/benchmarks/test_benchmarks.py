"""The hand-written kernels compute what the layers compute, and the harness reports what it must."""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any

import pytest
import torch

from benchmarks import tables, timing
from benchmarks.layers import diagonal_ssm, rg_lru, selective_scan, step
from benchmarks.models.setting import unbound_scan
from benchmarks.peers import cotangent, jax_trained, trained
from benchmarks.timing import Case, Contestant, Effort, Entry, Goal, Row, relative_error

EFFORT = Effort(rounds=3, seconds=1.0, patience=0.0)


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


FORMULATIONS = {
    "selective scan, ssmc": (selective_scan, selective_scan.ours),
    "selective scan, transformers": (selective_scan, lambda: selective_scan.transformers_scan),
    "selective scan, states": (selective_scan, lambda: selective_scan.by_states(selective_scan.stepwise)),
    "selective scan, mambapy": (selective_scan, selective_scan.parallel_scan),
    "rg_lru, ssmc": (rg_lru, rg_lru.ours),
    "rg_lru, mambapy": (rg_lru, rg_lru.parallel_scan),
}


def of_training(module: Any) -> tuple[Any, torch.Tensor, timing.Output]:
    """Inputs, what comes back to the output, and the float64 output and gradients."""
    i = module.make_inputs(1, 33, 64)
    dy = cotangent(i.x)
    return i, dy, trained(lambda: module.loop, module.wide(i), dy.double()).call()


@pytest.mark.parametrize("name", FORMULATIONS)
def test_contestants_return_all_gradients(name: str) -> None:
    module, make = FORMULATIONS[name]
    if "mambapy" in name:
        pytest.importorskip("mambapy")
    i, dy, want = of_training(module)
    assert len(want) == 1 + len(i)
    assert relative_error(trained(make, i, dy).call(), want) < 1e-5


@pytest.mark.parametrize("module", [selective_scan, rg_lru], ids=["selective_scan", "rg_lru"])
def test_jax_returns_all_gradients(module: Any) -> None:
    pytest.importorskip("jax")
    i, dy, want = of_training(module)
    assert relative_error(jax_trained(module.jax_layer, i, dy).call(), want) < 1e-5


def test_chunks_that_are_compiled_are_those_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selective_scan, "compiled", lambda function: function)
    i = selective_scan.make_inputs(2, 48, 16)
    out = torch.empty_like(i.x)
    selective_scan.compiled_chunks()(i, out)
    assert relative_error(out, selective_scan.reference(i)) < 1e-5


def test_bfloat16_is_held_to_its_rounding() -> None:
    case = rg_lru.bfloat16(33, 64)
    rows = timing.run_case(case, EFFORT, lambda _: None)
    exact, rounded, peer = (row.error or 0.0 for row in rows)
    assert exact < 1e-5
    assert 1e-4 < rounded < rg_lru.BF16_TOLERANCE
    assert peer == pytest.approx(rounded, rel=0.1)
    goals = tables.of_case(case, rows)["goals"]
    assert "times as fast as ssmc, float32, goal at least 1.3" in goals[0]["text"]


@pytest.mark.parametrize("number", [0, 1], ids=["selective scan", "conv1d"])
def test_one_token_continues_from_the_state(number: int) -> None:
    case = step.cases(quick=True)[number]
    reference, entries = case.setup()
    for entry in entries:
        assert relative_error(entry.make().call(), reference) < 1e-5, entry.name


def test_the_worst_tensor_counts() -> None:
    want = torch.tensor([1.0, 2.0]), torch.tensor([1e-3])
    assert relative_error(want, want) == 0
    assert relative_error((want[0], want[1] * 1.5), want) == pytest.approx(0.5)
    assert math.isnan(relative_error((want[0], want[1] * math.nan), want))
    with pytest.raises(ValueError, match="argument 2 is longer"):
        relative_error(want[0], want)


def test_goals_in_seconds_and_against_others() -> None:
    rows = [Row("plain", [5e-6] * 3), Row("ours", [12e-6] * 3)]
    goals = (
        Goal("ours", seconds=60e-6),
        Goal("ours", seconds=10e-6),
        Goal("ours", ("plain",), seconds=7.5e-6),
        Goal("plain", ("ours",), 1 / 1.3),
        Goal("ours", ("absent",), 2.0),
        Goal("absent", seconds=1.0),
    )
    case = Case("a step", {}, lambda: (torch.ones(1), []), goals=goals, unit="µs")
    verdicts = [(goal["text"], goal["met"]) for goal in tables.of_case(case, rows)["goals"]]
    assert verdicts == [
        ("ours 12.00 µs, goal at most 60 µs", True),
        ("ours 12.00 µs, goal at most 10 µs", False),
        ("ours above plain 7.00 µs, goal at most 7.5 µs", True),
        ("plain is 2.40 times as fast as ours, goal at least 1.3", True),
    ]
    with pytest.raises(ValueError, match="a factor or seconds"):
        Goal("ours", ("plain",), 1.0, 1.0)
    with pytest.raises(ValueError, match="against somebody"):
        Goal("ours")


def test_short_calls_are_timed_many_at_a_time() -> None:
    calls = []

    def call() -> torch.Tensor:
        calls.append(time.sleep(1e-3))
        return torch.ones(1)

    case = Case("a step", {}, lambda: (torch.ones(1), [Entry("ours", lambda: Contestant(call))]), calls=10)
    (row,) = timing.run_case(case, EFFORT, lambda _: None)
    assert len(calls) > 10 * len(row.seconds) >= 30
    assert 1e-3 < min(row.seconds) < 8e-3


def test_a_row_without_gradients_says_how_many_tensors_it_returns() -> None:
    right = torch.ones(3)
    entries = [
        Entry("forward", lambda: Contestant(lambda: right, returns=1)),
        Entry("both", lambda: Contestant(lambda: (right, right))),
        Entry("short", lambda: Contestant(lambda: right)),
    ]
    rows = timing.run_case(Case("a layer", {}, lambda: ((right, right), entries)), EFFORT, lambda _: None)
    assert [row.note.partition(":")[0] for row in rows] == ["", "", "failed"]
    assert [row.error for row in rows] == [0.0, 0.0, None]


def test_every_outcome_has_a_row() -> None:
    right = torch.ones(3)

    def missing() -> Contestant:
        raise ImportError("No module named 'peer'")

    def slow() -> torch.Tensor:
        with contextlib.suppress(OSError):  # as code does that does without a file it cannot read
            time.sleep(5)
        return right

    entries = [
        Entry("ours", lambda: Contestant(lambda: right)),
        Entry("peer", missing),
        Entry("off", lambda: Contestant(lambda: 2 * right)),
        Entry("slow", lambda: Contestant(slow), limit=0.1),
    ]
    case = Case("a layer", {"t": 3}, lambda: (right.double(), entries), goals=(Goal("ours", ("peer", "ours"), 1.5),))
    rows = timing.run_case(case, EFFORT, lambda _: None)
    assert [len(row.seconds) >= 3 for row in rows] == [True, False, False, False]
    assert [row.note.partition(":")[0] for row in rows] == ["", "absent", "wrong", "failed"]
    table = tables.of_case(case, rows)
    text = tables.text(table)
    assert "no result in 0 s" in text
    assert "absent: No module named 'peer'" in text
    assert table["goals"] == [{"text": "ours / ours = 1.00, goal at most 1.5", "value": 1.0, "met": True}]


def test_a_goal_may_leave_out_what_everybody_has_to_do() -> None:
    rows = [Row(name, undisturbed=[t] * 3) for name, t in (("products", 2.0), ("mine", 2.5), ("theirs", 12.0))]
    case = Case("", {}, lambda: ((), []), goals=(Goal("mine", ("theirs",), 0.05, less="products"),))
    (goal,) = tables.of_case(case, rows)["goals"]
    assert goal["value"] == pytest.approx(0.05) and goal["met"] and "each less products" in goal["text"]
    assert not tables.of_case(case, rows[1:])["goals"]


def test_rows_without_a_result_are_there_for_their_time() -> None:
    assert relative_error((), ()) == 0.0


def test_the_scan_on_views_is_the_scan() -> None:
    i = selective_scan.make_inputs(2, 9, 16)
    b = [v.transpose(1, 2) if v.dim() == 3 else v for v in i]
    made = unbound_scan(*b[:5], b[5], b[6], b[7], delta_softplus=True).transpose(1, 2)
    assert relative_error(made, selective_scan.reference(i)) < 1e-5
