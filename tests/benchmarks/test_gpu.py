"""What `make gpu` does, without a GPU: sections, going on, tables, floors; the C target stands for what runs on one."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import ssmc as package
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import device as devices
from benchmarks.gpu import report, timed, work
from benchmarks.gpu.binaries import binaries
from benchmarks.gpu.exercise import exercised
from benchmarks.gpu.floors import KNOWN, Speeds, of_gpu
from benchmarks.gpu.sections import DONE, FAILED, LATE, Outcome, Section, State, in_a_process, run_all
from benchmarks.gpu.workloads import CONV, HGRN, SELECTIVE, WORKLOADS, workload
from ssmc import cli
from ssmc.backends import Cache, cuda_toolchain
from ssmc.errors import ToolchainError
from ssmc.tune import Job

SECTIONS = [Section(name, "kind", {"name": name}) for name in ("one", "two", "three")]


# ---------------------------------------------------------------- sections


def script(text: str) -> list[str]:
    return [sys.executable, "-c", f"import json, os, sys, time\n{text}"]


@pytest.mark.parametrize(
    "text, status, note",
    [
        ("json.dump(json.loads(sys.argv[1])['about'], open(sys.argv[2], 'w'))", DONE, ""),
        ("sys.exit('no luck')", FAILED, "exit status 1; no luck"),
        ("os.abort()", FAILED, "exit status -6; it said nothing"),
        ("pass", FAILED, "it wrote no result"),
        ("open(sys.argv[2], 'w').write('{')", FAILED, "it wrote no result"),
        ("time.sleep(60)", LATE, "no result in 1 s"),
        ("import subprocess; subprocess.run(['sleep', '60'])", LATE, "no result in 1 s"),
    ],
)
def test_whatever_a_section_does_is_recorded(text: str, status: str, note: str) -> None:
    found = in_a_process(script(text), {})(Section("s", "kind", {"a": 1}, limit=1 if status == LATE else 60))
    assert found.status == status and note in found.note and found.seconds < 30
    assert found.result == ({"a": 1} if status == DONE else None)


def test_a_run_goes_on_where_another_ended(tmp_path: Path) -> None:
    path, ran = tmp_path / "state.json", list[str]()

    def run(section: Section) -> Outcome:
        ran.append(section.name)
        if section.name == "three" and len(ran) < 4:
            raise KeyboardInterrupt
        return Outcome(FAILED if section.name == "two" else DONE, 1.0, {"x": 1})

    with pytest.raises(KeyboardInterrupt):
        run_all(SECTIONS, State(path, {"date": "first"}), run, say=lambda _: None)
    state = State(path, {"date": "second"})
    assert state.about == {"date": "first"} and [*state.outcomes] == ["one", "two"]
    said: list[str] = []
    run_all(SECTIONS, state, run, say=said.append)
    assert ran == ["one", "two", "three", "three"] and "two: failed before" in said
    run_all(SECTIONS, State(path, {}), run, again=True, say=lambda _: None)
    assert ran[4:] == ["two"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"about": {}, "sections": {"one": {"nonsense": 1}}}'])
def test_a_damaged_state_begins_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    state = State(tmp_path / "state.json", {"date": "now"})
    assert not state.outcomes and state.about in ({"date": "now"}, {})


def test_sections_cover_everything_once() -> None:
    found = command.planned(("cuda", "triton"), False, command.KINDS, "bf16")
    assert len({s.name for s in found}) == len(found) and all(s.limit <= 480 for s in found)
    assert {s.kind for s in found} == {*command.KINDS} == {*work.WORK}
    verified = {(s.about["layer"], s.about["target"]) for s in found if s.kind == "verify"}
    assert {("selective_scan:mamba_scan", "triton"), ("lstm", "cuda")} <= verified
    assert {"verify selective_scan, cuda, time=look_back", "verify selective_scan, triton, time=lanes"} <= {
        s.name for s in found
    }
    assert len([s for s in found if s.kind == "bench"]) == len(WORKLOADS) * len(timed.PASSES)
    few = command.planned(("c",), True, ("bench",), "f32", workloads=["HGRN"])
    assert [s.name for s in few] == [f"bench HGRN, {what}" for what in timed.PASSES]


# ---------------------------------------------------------------- floors


def test_floors_are_those_of_the_physics() -> None:
    """Bytes and operations counted by hand, for bfloat16 on an H200 (microseconds): 202 MB, 403 million exponentials of
    states and 75 million others; gradients compute each of these once more."""
    forward = timed.floor_for(SELECTIVE, "forward", SELECTIVE.sizes, "bf16", KNOWN["H200"])
    backward = timed.floor_for(SELECTIVE, "backward", SELECTIVE.sizes, "bf16", KNOWN["H200"])
    both = timed.floor_for(SELECTIVE, "forward and backward", SELECTIVE.sizes, "bf16", KNOWN["H200"])
    assert forward is not None and backward is not None and both is not None
    b, t, d, n = (SELECTIVE.sizes[axis] for axis in "btdn")
    assert forward.special == b * t * d * n + 3 * b * t * d
    assert forward.bytes == pytest.approx(2 * (4 * b * t * d + 2 * b * t * n), rel=1e-2)
    assert forward.bound == "exponentials" and forward.least == pytest.approx(120e-6, rel=0.05)
    assert backward.bound == "multiply-adds" and backward.least == pytest.approx(190e-6, rel=0.1)
    assert both.seconds["memory"] == pytest.approx(forward.seconds["memory"] + backward.seconds["memory"])


def test_a_device_says_what_it_can_do() -> None:
    properties = SimpleNamespace(
        memory_clock_rate=2_619_000, memory_bus_width=5120, clock_rate=1_980_000, multi_processor_count=132
    )
    found = of_gpu("NVIDIA H100 80GB HBM3", properties)
    assert isinstance(found, Speeds) and found.bytes == pytest.approx(3.0e12, rel=0.02)
    assert found.special == pytest.approx(4.18e12, rel=0.01)
    assert of_gpu("NVIDIA H200", SimpleNamespace()) is KNOWN["H200"]
    assert of_gpu("unheard of", SimpleNamespace()) is None


# ---------------------------------------------------------------- measuring


@pytest.fixture
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timed, "ROUNDS", 3)


class NoGraphs(devices.Stand):
    """A device on which nothing can be captured."""

    def graphed(self, call: Any) -> Any:
        raise RuntimeError("capture")


def only(found: Mapping[str, Any], *names: str) -> list[dict[str, Any]]:
    return [row for row in found["rows"] if row["name"] in names]


def test_a_table(few_rounds: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(HGRN.peers, "torch.compile, associative scan")  # type: ignore[misc]
    monkeypatch.setitem(HGRN.peers, "off", lambda: lambda i: i["x"] + 1)  # type: ignore[index]
    monkeypatch.setitem(HGRN.peers, "broken", lambda: lambda i: 1 / 0)  # type: ignore[index]
    found = timed.measured(HGRN, "forward", NoGraphs(), "bf16", small=True)
    ours, loop = only(found, "ssmc, c", "PyTorch, loop over time")
    for row in (ours, loop):
        assert row["eager_s"] > 0 and row["graph_s"] is None and row["error"] < 1e-2
        assert row["note"] == "no graph: RuntimeError" and len(row["calls"]["eager"]) == 3
    (off,), (broken,) = only(found, "off"), only(found, "broken")
    assert off["note"].startswith("wrong: differs by") and off["eager_s"] is None
    assert broken["note"].startswith("failed: ZeroDivisionError")
    assert found["mark"] is None and found["floor"]["least"] > 0
    (absent,) = only(found, "fla, chunk")
    assert absent["note"].startswith("absent") or absent["note"].startswith("failed") or absent["eager_s"]


@pytest.mark.parametrize("item", WORKLOADS, ids=lambda item: item.name)
def test_ours_is_what_the_formulation_says(item: Any, few_rounds: None) -> None:
    """Values and gradients; the gradient's kernels by themselves."""
    assert exercised(item, "c", devices.Stand()) < 1e-4
    bare = timed.Workload(**{**vars(item), "peers": {}})
    for what in ("backward", "forward and backward"):
        (row,) = timed.measured(bare, what, devices.Stand(), "f32", small=True)["rows"]
        assert row["note"] == "" and row["graph_s"] > 0


@pytest.mark.parametrize("item", [SELECTIVE, HGRN], ids=lambda item: item.name)
def test_what_is_tuned_is_what_is_measured(item: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kinds of call of `ssmc tune`, as it is asked, are those of the calls that are measured."""
    asked: list[list[str]] = []

    def ssmc(words: list[str]) -> dict[str, Any]:
        asked.append(words)
        return {"passes": [{"trials": [], "extents": {}, "winner": None, "ended": ""}]}

    monkeypatch.setattr(work, "_ssmc", ssmc)
    work.tune(
        devices.Stand(), {"workload": item.name, "target": "c", "pass": "backward", "dtype": "bf16", "small": True}
    )
    jobs: list[Job] = []
    monkeypatch.setattr("ssmc.tune.tune", lambda *_, **__: 1 / 0)
    monkeypatch.setattr("ssmc.tune.pruner", lambda job: jobs.append(job))
    cli.run(asked[0])
    called = package.load(item.layer, **item.statics)
    inputs = {n: v.requires_grad_() for n, v in timed.placed(item, item.small, devices.Stand(), "bf16").items()}
    before = {*called._operator.families}
    with torch.autocast("cpu", torch.bfloat16):
        y = called(**inputs)
    y.sum().backward()
    kinds = {kind.text for kind, _ in called._operator.families}
    assert y.dtype is torch.bfloat16 and len(jobs) == 1 and before <= {*called._operator.families}
    assert {jobs[0].usual.kinds["training"].text, jobs[0].usual.kinds["backward"].text} <= kinds


def test_workloads_by_name() -> None:
    assert workload("short convolution") is CONV
    assert {*SELECTIVE.inputs(SELECTIVE.small)} == {"x", "dt", "A", "B", "C", "D", "z", "dt_bias"}
    assert work._absent("selective_scan", {*SELECTIVE.inputs(SELECTIVE.small)}) == ["h0"]


# ---------------------------------------------------------------- the page


def test_the_page(tmp_path: Path) -> None:
    state = State(tmp_path / "state.json", {"device": "A GPU", "date": "2026-12-01"})
    rows = [
        timed.Row("ssmc, cuda", [3e-4], [1e-4], 1e-3).facts(),
        timed.Row("mamba-ssm", [4e-4], [], 1e-3, "no graph: RuntimeError").facts(),
        timed.Row("fla", note="absent: a | b").facts(),
    ]
    floor = {"least": 8e-5, "bound": "memory", "seconds": {"memory": 8e-5}}
    table = {"workload": "w", "pass": "forward", "dtype": "bf16", "sizes": {"b": 8}, "floor": floor, "speeds": "known",
             "mark": 2.0, "plans": {"cuda, forward": "threads=64"}, "rows": rows}  # fmt: skip
    kinds = {
        "bench": table,
        "tune": {"winner": {"plan": "threads=64", "ratio": 0.9}, "outcomes": {"measured": 3, "crashed": 1}},
        "verify": {"verdict": "holds", "failing": []},
        "memory": {"checker": None, "note": "compute-sanitizer is not there"},
        "environment": {"python": "3.12", "packages": {"torch": "2.11"}, "targets": {"cuda": "runs"}},
    }
    sections = [Section(kind, kind) for kind in kinds] + [Section("lost", "bench"), Section("waiting", "bench")]
    for section in sections[:-2]:
        state.outcomes[section.name] = Outcome(DONE, 1.0, kinds[section.kind])
    state.outcomes["lost"] = Outcome(FAILED, 1.0, note="exit status -11; a | b")
    data, page = report.write(tmp_path / "results", "a-gpu-2026-12-01", state, sections)
    text = page.read_text()
    for wanted in (
        "| ssmc, cuda | 0.3 | 3.75 | 0.1 | 1.25 | 1.00 | 1.0e-03 | met: 2.0 × floor |",
        "| mamba-ssm | 0.4 | 5.00 |  |  | 4.00 | 1.0e-03 | no graph: RuntimeError |",
        "| fla |  |  |  |  |  |  | absent: a / b |",
        "| tune | `threads=64` | 0.90 | 3 measured, 1 crashed |",
        "| verify | holds |",
        "memory: compute-sanitizer is not there.",
        "| lost | failed | exit status -11; a / b |",
        "Not run yet: 1 of 7 sections",
        "Floor 80.0 µs, by memory",
        "Tuned, cuda, forward: `threads=64`.",
    ):
        assert wanted in text, text
    assert [item["name"] for item in json.loads(data.read_text())["sections"]] == [*kinds, "lost"]


# ---------------------------------------------------------------- the command


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == command.MACHINE_LACKS
    said = capsys.readouterr().err
    assert "Traceback" not in said and ("for the CPU only" in said or "sees no GPU" in said)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "NEEDED", ("torch", "surely_not_there"))
    assert command.main([]) == command.MACHINE_LACKS
    assert "not installed: surely_not_there" in capsys.readouterr().err


def run_whole(tmp_path: Path, *words: str) -> tuple[int, dict[str, Any]]:
    asked = ["--device", "cpu", "--small", "--output", str(tmp_path / "out"), "--state", str(tmp_path / "state")]
    status = command.main([*asked, *words])
    (data,) = (tmp_path / "out").glob("no-gpu-*.json")
    return status, json.loads(data.read_text())


def test_a_run_and_one_that_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = run_whole(tmp_path, "--only", "environment", "memory")
    assert status == 0, found
    assert [s["status"] for s in found["sections"]] == [DONE, DONE]
    assert found["sections"][0]["result"]["targets"]["c"].startswith("runs")
    capsys.readouterr()
    assert run_whole(tmp_path, "--only", "environment", "memory")[0] == 0
    assert "environment: done before" in capsys.readouterr().out


@pytest.mark.slow
def test_every_kind_of_section(tmp_path: Path) -> None:
    status, found = run_whole(tmp_path, "--layers", "affine_scan", "--workloads", "HGRN")
    assert status == 0, found
    by_kind = {s["kind"]: s["result"] for s in found["sections"]}
    assert {*by_kind} == {*command.KINDS} and by_kind["verify"]["verdict"].startswith("holds")
    assert by_kind["tune"]["outcomes"] and by_kind["bench"]["rows"][0]["eager_s"] > 0


def test_binaries_are_made_without_a_gpu_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        cuda_toolchain.find()
    except ToolchainError:
        pytest.skip("no CUDA compiler")
    monkeypatch.setattr("benchmarks.gpu.binaries.WORKLOADS", (HGRN,))
    found = dict(binaries("sm_90", Cache(tmp_path), ["bf16"]))
    assert [*found] == [f"HGRN, {what}, bf16" for what in ("forward", "training", "backward")]
    times = {path: path.stat().st_mtime_ns for path in found.values()}
    assert all(path.suffix == ".cubin" for path in times)
    again = dict(binaries("sm_90", Cache(tmp_path), ["bf16"]))
    assert again == found and {path: path.stat().st_mtime_ns for path in times} == times
