"""The results of a run as one JSON file and one page of Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu.sections import DONE, Outcome, Section, State


def write(folder: Path, name: str, state: State, sections: Sequence[Section]) -> tuple[Path, Path]:
    """Both files, in that folder."""
    folder.mkdir(parents=True, exist_ok=True)
    data, page = folder / f"{name}.json", folder / f"{name}.md"
    found = [{**asdict(s), **asdict(o)} for s in sections if (o := state.outcomes.get(s.name)) is not None]
    data.write_text(json.dumps({"about": state.about, "sections": found}, indent=1) + "\n", encoding="utf-8")
    page.write_text("\n".join(markdown(state, sections)) + "\n", encoding="utf-8")
    return data, page


def markdown(state: State, sections: Sequence[Section]) -> Iterator[str]:
    """The page, line by line."""
    done = [(s, o) for s in sections if (o := state.outcomes.get(s.name)) is not None]
    about = state.about
    yield f"# {about['device']}, {about['date']}"
    yield ""
    yield "`make gpu` makes this page, and the file of the same name with every time that was taken."
    waiting = [s.name for s in sections if s.name not in state.outcomes]
    if waiting:
        yield f"Not run yet: {len(waiting)} of {len(sections)} sections. The same command goes on."
    yield from _environment(_of(done, "environment"))
    yield from _benchmarks(_of(done, "bench"))
    yield from _tuning(_of(done, "tune"))
    yield from _verification(_of(done, "verify"))
    yield from _memory(_of(done, "memory"))
    yield from _failures(done)


Done = Sequence[tuple[Section, Outcome]]


def _of(done: Done, kind: str) -> list[tuple[Section, Any]]:
    return [(s, o.result) for s, o in done if s.kind == kind and o.status == DONE]


def _environment(found: Sequence[tuple[Section, Any]]) -> Iterator[str]:
    for _, result in found:
        yield ""
        packages = ", ".join(f"{name} {version}" for name, version in result["packages"].items() if version)
        yield f"Python {result['python']}; {packages}."
        for target, said in result["targets"].items():
            yield f"Target {target}: {said}."
        if result.get("nvidia_smi"):
            yield f"nvidia-smi: {result['nvidia_smi'].splitlines()[-1]}."


def _benchmarks(found: Sequence[tuple[Section, Any]]) -> Iterator[str]:
    if found:
        yield ""
        yield "## Benchmarks"
        yield ""
        yield "Medians of interleaved calls, as PyTorch makes them and as CUDA graphs; `floor` is what bytes,"
        yield "exponentials or multiply-adds take at least. `backward` is the gradient's kernels alone, for which peers"
        yield "have no call."
    for _, table in found:
        yield ""
        sizes = ", ".join(f"{axis} {n}" for axis, n in table["sizes"].items())
        yield f"### {table['workload']}, {table['pass']}: {sizes}, {table['dtype']}"
        yield ""
        floor = table["floor"]
        if floor:
            parts = ", ".join(f"{name} {seconds * 1e6:.1f} µs" for name, seconds in floor["seconds"].items())
            yield f"Floor {floor['least'] * 1e6:.1f} µs, by {floor['bound']} ({parts}; {table['speeds']})."
        else:
            yield f"Floor: {table['speeds']}."
        for call, plan in table["plans"].items():
            yield f"Tuned, {call}: `{plan}`."
        yield ""
        yield "| | eager ms | × floor | graph ms | × floor | × the fastest | error | |"
        yield "|---|---|---|---|---|---|---|---|"
        times = [row[kind] for row in table["rows"] for kind in ("graph_s", "eager_s") if row[kind]]
        for row in table["rows"]:
            yield _row(row, floor["least"] if floor else None, min(times, default=None), table)


def _row(row: Mapping[str, Any], floor: float | None, fastest: float | None, table: Mapping[str, Any]) -> str:
    best = min((t for t in (row["graph_s"], row["eager_s"]) if t), default=None)
    note = row["note"]
    if best and floor and table["mark"] and row["name"].startswith("ssmc"):
        verdict = "met" if best <= table["mark"] * floor else "MISS"
        note = f"{note}; {verdict}: {table['mark']} × floor".lstrip("; ")
    error = f"{row['error']:.1e}" if row["error"] is not None else ""
    eager, graph = row["eager_s"], row["graph_s"]
    cells = [row["name"], _ms(eager), _times(eager, floor), _ms(graph), _times(graph, floor), _times(best, fastest)]
    cells += [error, note.replace("|", "/")]
    return f"| {' | '.join(cells)} |"


def _ms(seconds: float | None) -> str:
    return f"{seconds * 1e3:.4g}" if seconds else ""


def _times(seconds: float | None, base: float | None) -> str:
    return f"{seconds / base:.2f}" if seconds and base else ""


def _tuning(found: Sequence[tuple[Section, Any]]) -> Iterator[str]:
    if not found:
        return
    yield from ("", "## Tuning", "", "| | plan | × the compiler's own | tried |", "|---|---|---|---|")
    for section, result in found:
        winner = result["winner"] or {"plan": "", "ratio": 1.0}
        tried = ", ".join(f"{n} {kind}" for kind, n in result["outcomes"].items())
        plan = f"`{winner['plan']}`" if winner["plan"] else "the compiler's own"
        yield f"| {section.name} | {plan} | {winner['ratio']:.2f} | {tried} |"


def _verification(found: Sequence[tuple[Section, Any]]) -> Iterator[str]:
    if not found:
        return
    yield from ("", "## Verification", "", "| | verdict |", "|---|---|")
    for section, result in found:
        yield f"| {section.name} | {result['verdict']} |"
        for row in result["failing"]:
            yield f"| {section.name}, {row['subject']}: {row['property']} | {row['note'].replace('|', '/')} |"


def _memory(found: Sequence[tuple[Section, Any]]) -> Iterator[str]:
    for section, result in found:
        yield ""
        if result["checker"] is None:
            yield f"{section.name}: {result['note']}."
        else:
            verdict = "no errors" if result["status"] == 0 else f"exit status {result['status']}"
            yield f"{section.name}: {verdict}; {' '.join(result['said'][-1:])}"


def _failures(done: Done) -> Iterator[str]:
    failed = [(s, o) for s, o in done if o.status != DONE]
    if failed:
        yield from ("", "## What failed", "", "| | | |", "|---|---|---|")
        for section, outcome in failed:
            yield f"| {section.name} | {outcome.status} | {outcome.note.replace('|', '/')} |"
