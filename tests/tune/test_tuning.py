"""Tuning: what is measured, what is not, what wins, and what uses it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ssmc as package
from ssmc import runtime
from ssmc.backends import cuda_toolchain
from ssmc.errors import ToolchainError, UserError
from ssmc.passes import PlanOptions
from ssmc.runtime import Results, Subject, Trial, Winner, bucket_of
from ssmc.tune import SEARCHERS, Effort, Job, bound_of, local, over_ray, pruner, tune
from ssmc.tune.floors import KNOWN
from ssmc.tune.job import batch_and_time
from ssmc.tune.prune import Pruner, bound_by
from ssmc.tune.worker import Bench, Turns
from tests.cuda_host.driver import on_host
from tests.tune import planted

SUBJECT = Subject("scan", "texts", "kind", "c", "a processor", "a compiler")
SIZES = {"b": 2, "t": 100, "d": 64}
FEW = Turns(3, 0.1)


class Table:
    """A measurer with an answer for each plan; in a confirming run, another."""

    width = 2

    def __init__(self, first: dict[str, float | str], again: dict[str, float] | None = None) -> None:
        self.first, self.again, self.asked = first, again or {}, list[str]()

    def subject(self) -> Subject:
        return SUBJECT

    def trials(self, plans: Sequence[str], turns: Turns) -> Iterator[Trial]:
        for plan in reversed(plans):
            self.asked.append(plan)
            found = self.again.get(plan, 1.0) if turns.most > 10 else self.first.get(plan, 1.1)
            if isinstance(found, str):
                yield Trial(plan, found)
            else:
                yield Trial(plan, "measured", found, found * 1e-3, won=1.0 if found < 1 else 0.0)


def run(measurer: Table, tmp_path: Path, **options: Any) -> Any:
    return tune(bucket_of(SIZES, ["b", "t"]), Results(tmp_path), measurer, SEARCHERS["descent"]("c", 0), **options)


def test_the_fastest_confirmed_plan_wins(tmp_path: Path) -> None:
    first: dict[str, float | str] = {"lanes=32": 0.5, "lanes=64": 0.8, "lanes=16": "crashed", "lanes=128": "late"}
    found = run(Table(first, {"lanes=32": 1.02, "lanes=64": 0.85}), tmp_path)
    assert found.bucket.winner.plan == "lanes=64" and found.bucket.winner.ratio == 0.85
    assert found.bucket.trials["lanes=16"].outcome == "crashed" and found.ended == "no option made it faster"
    assert Results(tmp_path).winner(SUBJECT, SIZES) == found.bucket.winner


def test_what_is_not_fast_twice_does_not_win(tmp_path: Path) -> None:
    found = run(Table({"lanes=32": 0.5}, {"lanes=32": 0.99}), tmp_path)
    assert found.bucket.winner.plan == ""


def test_what_wins_few_turns_does_not_win(tmp_path: Path) -> None:
    class Lucky(Table):
        def trials(self, plans: Sequence[str], turns: Turns) -> Iterator[Trial]:
            for trial in super().trials(plans, turns):
                yield Trial(trial.plan, trial.outcome, trial.ratio, trial.seconds, won=0.6)

    assert run(Lucky({"lanes=32": 0.5}, {"lanes=32": 0.5}), tmp_path).bucket.winner.plan == ""


def test_a_run_goes_on_where_another_ended(tmp_path: Path) -> None:
    effort = Effort(trials=3)
    one, other, last = Table({"tile=8": 0.7}), Table({"tile=8": 0.7}), Table({"tile=8": 0.7}, {"tile=8": 0.7})
    assert run(one, tmp_path, effort=effort).tried == 3
    assert run(other, tmp_path, effort=effort).tried == 3
    assert not {*one.asked} & {*other.asked}
    found = run(last, tmp_path)
    assert found.bucket.winner.plan == "tile=8" and {*one.asked, *other.asked} <= {*found.bucket.trials}
    nothing = Table({}, {"tile=8": 0.7})
    assert run(nothing, tmp_path).tried == 0 and nothing.asked == ["tile=8"]  # which is confirmed again


def test_what_is_pruned_is_not_measured_and_budgets_are_kept(tmp_path: Path) -> None:
    measurer = Table({})
    found = run(measurer, tmp_path, reason_against=lambda o: "no tiles" if o.tile != 32 else "", effort=Effort(4))
    assert found.tried == 4 and found.ended == "4 plans were tried"
    assert not any("tile" in plan for plan in measurer.asked)
    assert run(Table({}), tmp_path / "b", effort=Effort(seconds=0)).ended == "0 s are over"
    assert run(Table({"lanes=16": 0.9}), tmp_path / "c", bound=0.89e-3).ended == "the bound of this machine is reached"
    assert run(Table({"lanes=16": 0.9}), tmp_path / "d", bound=1e-3).ended == "no option made it faster"


# ---------------------------------------------------------------- in a process


def test_a_plan_that_crashes_hangs_or_is_wrong_is_recorded() -> None:
    plans = [planted.WRONG, planted.CRASHES, planted.REFUSED, planted.HANGS, planted.GOOD]
    with local(planted.job(), 3) as measurer:
        first = measurer.subject()
        found = {t.plan: t for t in measurer.trials(plans, FEW)}
    outcomes = [found[plan].outcome for plan in plans]
    assert outcomes == ["wrong", "crashed", "refused", "late", "measured"], found
    assert "differs by" in found[planted.WRONG].note and "status -6" in found[planted.CRASHES].note
    assert "does not concern target c" in found[planted.REFUSED].note
    good = found[planted.GOOD]
    assert good.ratio is not None and good.seconds is not None and 0 < good.seconds < 1
    assert first.target == "c" and "threads" in first.device


@pytest.mark.parametrize("what", ["training", "backward"])
def test_the_way_back_is_measured(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSMC_TUNED", "0")
    bench = Bench(planted.job(what))
    trial = bench.trial("lanes=32,tile=0", FEW)
    assert trial.outcome == "measured", trial
    assert bench.trial(planted.WRONG, FEW).outcome == "wrong"


def test_pruned_are_the_same_kernels() -> None:
    reason = pruner(planted.job())
    assert reason(PlanOptions(states=4)) == "the same kernels as the compiler's own plan"
    assert reason(PlanOptions(lanes=32)) == ""
    assert "lanes=32" in reason(PlanOptions(lanes=32, states=4))
    assert "does not concern" in reason(PlanOptions(threads=64))
    assert bound_of(planted.job()) > 0


def test_plans_that_spill_registers_of_a_gpu_are_pruned() -> None:
    """What the assembler says is asked without a GPU."""
    try:
        cuda_toolchain.find()
    except ToolchainError:
        pytest.skip("no CUDA compiler")
    sizes = {"b": 8, "t": 2048, "d": 1536, "n": 16}
    job = Job("selective_scan", sizes, target="cuda", real="bf16", present=("D", "z", "dt_bias"))
    reason = Pruner(job, "sm_90").reason
    assert "registers are spilled" in reason(PlanOptions(together=16))
    assert reason(PlanOptions(threads=64)) == ""
    assert bound_by(job, KNOWN["H200"]) == pytest.approx(120e-6, rel=0.05)
    assert bound_by(replace(job, what="backward"), KNOWN["H200"]) == pytest.approx(132e-6, rel=0.05)


def test_jobs_that_are_wrong() -> None:
    with pytest.raises(UserError, match="no pass 'sideways'"):
        Job("affine_scan", {}, "sideways")
    with pytest.raises(UserError, match="target 'metal' cannot be tuned"):
        Job("affine_scan", {}, target="metal")
    with pytest.raises(UserError, match="extents of t are not known"):
        Job("affine_scan", {"b": 1, "d": 2}).bucket()


def test_batch_and_time() -> None:
    assert batch_and_time(Job("selective_scan", {}).usual.program) == ("b", "t")
    assert batch_and_time(Job("norms:rms_norm", {}).usual.program)[:1] == ("b",)


# ---------------------------------------------------------------- use


TEXT = """layer tuned_scan(x[b, t, d], a[d]) -> y[b, t, d]:
    seq t
    y = sigmoid(a) * y[t-1] + x
"""


def test_loaded_layers_use_what_was_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSMC_CACHE_DIR", str(tmp_path))
    text = TEXT + "# with a cache of its own\n"
    layer = package.compile(text)
    x, a = torch.randn(2, 100, 20), torch.randn(20)
    usual = layer(x, a)
    assert "plan:" not in str(layer.explain())
    kind = layer._operator.latest[0]  # type: ignore[index]
    subject = layer.subject(kind, torch.device("cpu"))
    bucket = bucket_of({"b": 2, "t": 100, "d": 20}, ["b", "t"])
    bucket.winner = Winner("lanes=32,tile=0", 0.5, "2026-12-01T00:00:00+00:00")
    layer.results.write(subject, bucket)
    other = layer(x[:, :99].contiguous(), a)  # a form that was not called before, in the same bucket
    torch.testing.assert_close(other, usual[:, :99])
    assert "options: lanes=32,tile=0" in str(layer.explain())
    assert "tuned on 2026-12-01T00:00:00+00:00: 0.50 of the time" in str(layer.explain())
    layer(x[:, :50].contiguous(), a)
    assert "options" not in str(layer.explain())
    (family,) = layer._operator.families.values()
    assert [str(v.planned.options) for v in family.built] == ["", "lanes=32,tile=0"]
    monkeypatch.setenv("SSMC_TUNED", "0")
    layer(x[:, :98].contiguous(), a)
    assert "options" not in str(layer.explain())


def test_the_command_explain_says_what_was_found(ssmc: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSMC_CACHE_DIR", str(tmp_path))
    file = tmp_path / "scan.ssm"
    file.write_text(TEXT + "# for explain\n")
    asked = ("explain", file, "--sizes", "b=2,t=100,d=20")
    assert "plan:" not in ssmc(*asked).out
    found = runtime.Examined(package.load(file))
    bucket = bucket_of({"b": 2, "t": 100, "d": 20}, ["b", "t"])
    bucket.winner = Winner("lanes=32,tile=0", 0.5, "2026-12-01T00:00:00+00:00")
    subject = found.layer.subject(found.kinds["forward"], torch.device("cpu"))
    found.layer.results.write(subject, bucket)
    said = ssmc(*asked).out
    assert "options: lanes=32,tile=0" in said and "tuned on 2026-12-01T00:00:00+00:00" in said
    assert "options: lanes=64" in ssmc(*asked, "--plan", "lanes=64").out


def test_a_stored_plan_that_does_not_fit_any_longer_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSMC_CACHE_DIR", str(tmp_path))
    layer = package.compile(TEXT + "# with another cache of its own\n")
    x, a = torch.randn(2, 100, 20), torch.randn(20)
    layer(x, a)
    subject = layer.subject(layer._operator.latest[0], torch.device("cpu"))  # type: ignore[index]
    bucket = bucket_of({"b": 2, "t": 100, "d": 20}, ["b", "t"])
    for plan, reason, length in (("lines=8", "no option `lines`", 99), ("threads=64", "does not concern", 98)):
        bucket.winner = Winner(plan, 0.5, "2026-12-01T00:00:00+00:00")
        layer.results.write(subject, bucket)
        with pytest.warns(RuntimeWarning, match=f"the tuned plan {plan} is not used: (.|\n)*{reason}"):
            layer(x[:, :length].contiguous(), a)


def test_a_device_that_is_no_processor() -> None:
    """The options of CUDA C, with a host in place of a GPU."""

    class OnHost(Bench):
        def _prepared(self, plan: str) -> Any:
            found = runtime.Examined(on_host(package.load("affine_scan", plan=plan)))
            return found.prepared("forward", found.values("forward", self.inputs))

    bench = OnHost(Job("affine_scan", {"b": 1, "t": 9, "d": 40}))
    assert bench.trial("threads=32,batch=2", FEW).outcome == "measured"
    assert bench.trial("lanes=32", FEW).outcome == "refused"


# ---------------------------------------------------------------- the command


def test_the_command(ssmc: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSMC_CACHE_DIR", str(tmp_path / "cache"))
    file = tmp_path / "scan.ssm"  # which no other test has loaded, with another cache
    file.write_text(TEXT + "# for the command\n")
    asked = ("tune", file, "--sizes", "b=1,t=65,d=40", "--trials", "1", "--pass", "forward")
    ran = ssmc(*asked, "--json")
    (found,) = ran.object()["passes"]
    assert ran.code == 0 and found["tried"] == 1 and found["extents"] == {"b": 1, "t": 128, "d": 40}
    ran = ssmc(*asked, "--trials", "0", "--json", "--export", tmp_path / "found.json")
    (again,) = ran.object()["passes"]
    assert again["tried"] == 0 and again["trials"] == found["trials"]
    given = json.loads((tmp_path / "found.json").read_text())
    assert [item["layer"] for item in given["results"]] == ["tuned_scan"]
    monkeypatch.setenv("SSMC_CACHE_DIR", str(tmp_path / "another"))
    ran = ssmc("tune", "--import", tmp_path / "found.json")
    assert ran.code == 0 and "1 results taken in, of tuned_scan" in ran.out
    assert ssmc("tune", "--export", tmp_path / "again.json").code == 0
    assert json.loads((tmp_path / "again.json").read_text()) == given


@pytest.mark.parametrize(
    "words, code, message",
    [
        (("affine_scan", "--sizes", "b=1"), 1, "extents of t, d are not known"),
        (("affine_scan", "--sizes", "b=1,t=2,q=3,d=3"), 1, "no axis `q`"),
        (("nothing",), 1, "nothing"),
        ((), 2, "name a LAYER"),
        (("--import", "/nowhere/at-all.json"), 1, "cannot be read"),
        (("--export", "/nowhere/at-all.json"), 3, "cannot be written"),
        (("affine_scan", "--sizes", "b=1,t=2,d=3", "--target", "cuda"), 3, "cannot be measured here"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_mistakes(ssmc: Any, words: tuple[str, ...], code: int, message: str) -> None:
    ran = ssmc("tune", *words)
    assert ran.code == code and message in ran.err


# ---------------------------------------------------------------- Ray


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'ssmc[ray]'")
def test_two_workers_of_ray(tmp_path: Path) -> None:
    """Every plan is measured once, by one of two; what ends a worker's process does not end the search."""
    job = planted.job()
    with over_ray(job, 60, 2) as measurer:
        assert measurer.width == 2
        found = tune(
            job.bucket(), Results(tmp_path), measurer, SEARCHERS["descent"]("c", 0), effort=Effort(6, look=FEW)
        )
    assert found.tried == 6 and found.bucket.trials[planted.CRASHES].outcome == "crashed"
    assert found.bucket.trials[planted.WRONG].outcome == "wrong"


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ToolchainError, match=r"Ray is not installed(.|\n)*ssmc\[ray\]"), over_ray(planted.job(), 1, 2):
        pass
