"""Results as dictionaries for the file, and as text for the screen."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.timing import Case, Goal, Row

UNITS = {"s": 1.0, "ms": 1e3, "µs": 1e6}
VERDICTS = {True: "met ", False: "MISS", None: "    "}


def of_case(case: Case, rows: Sequence[Row]) -> dict[str, Any]:
    """The table of one layer; ``ratio`` is a median over the first row's."""
    base = rows[0].median
    return {
        "name": case.title,
        "sizes": case.sizes,
        "unit": case.unit,
        "rows": [
            {
                **_summary(row.name, row.seconds, case.unit),
                "calls": {"undisturbed": row.undisturbed, "disturbed": row.disturbed},
                "ratio": row.median / base if row.median and base else None,
                "error": row.error,
                "first_call_s": row.first_call,
                "note": row.note if row.quiet or not row.seconds else f"{row.note}; disturbed".lstrip("; "),
            }
            for row in rows
        ],
        "goals": [made for goal in case.goals if (made := _judge(goal, rows, case.unit))],
    }


def of_callable(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rows = [Row(row["name"], undisturbed=row["seconds"]) for row in found]
    goals = Goal(rows[0].name, seconds=3.0), Goal(rows[-1].name, seconds=0.05)
    return {
        "name": "from the text of the selective scan to its first result, after imports",
        "sizes": {},
        "unit": "ms",
        "rows": [_summary(row.name, row.seconds, "ms") for row in rows],
        "goals": [made for goal in goals if (made := _judge(goal, rows, "ms"))],
    }


def of_memory(found: dict[str, Any]) -> dict[str, Any]:
    grown, output, states = (found[k] / 1e6 for k in ("grown_bytes", "output_bytes", "states_bytes"))
    extra = grown - output
    text = f"beside the output {extra:.1f} MB, goal nothing that grows with t d n ({states:.0f} MB)"
    rows = [("peak of one forward call", grown), ("of which the output", output), ("t d n floats would be", states)]
    return {
        "name": "memory of the selective scan",
        "sizes": {"b": 1, "t": found["length"], "d": 1536, "n": 16},
        "unit": "MB",
        "rows": [{"name": n, "median": v, "min": v, "max": v, "count": 1} for n, v in rows],
        "goals": [{"text": text, "value": extra, "met": extra < 0.02 * states}],
    }


def _summary(name: str, seconds: Sequence[float], unit: str) -> dict[str, Any]:
    scale = UNITS[unit]
    if not seconds:
        return {"name": name, "median": None, "min": None, "max": None, "count": 0}
    middle = statistics.median(seconds)
    low, high = min(seconds), max(seconds)
    return {"name": name, "median": middle * scale, "min": low * scale, "max": high * scale, "count": len(seconds)}


def _judge(goal: Goal, rows: Sequence[Row], unit: str) -> dict[str, Any] | None:
    """The verdict, or None if there is nothing to compare."""
    timed = {row.name: row for row in rows if row.seconds and row.name in (goal.name, *goal.against, goal.less)}
    quiet = all(row.quiet for row in timed.values())
    typical = {name: statistics.median(row.seconds) if quiet else min(row.seconds) for name, row in timed.items()}
    mine = typical.get(goal.name)
    others = [(typical[name], name) for name in goal.against if name in typical]
    if mine is None or (goal.against and not others):
        return None
    best, name = min(others) if others else (0.0, "")
    if goal.less:
        if goal.less not in typical:
            return None
        mine, best = mine - typical[goal.less], best - typical[goal.less]
    if goal.seconds is not None:
        return _within(goal, goal.seconds, mine - best, name, unit)
    ratio, factor = mine / best, goal.factor
    less = f", each less {goal.less}" if goal.less else ""
    if factor is not None and factor >= 1:
        text = f"{goal.name} / {name}{less} = {ratio:.2f}, goal at most {factor}"
    else:
        text = f"{goal.name} is {_number(1 / ratio)} times as fast as {name}{less}"
        text += f", goal at least {1 / factor:g}" if factor else ""
    return {"text": text, "value": ratio, "met": None if factor is None else ratio <= factor}


def _within(goal: Goal, limit: float, seconds: float, name: str, unit: str) -> dict[str, Any]:
    """The verdict on seconds: all of them, or those above what ``name`` takes."""
    scale = UNITS[unit]
    text = f"{goal.name} above {name}" if name else goal.name
    text += f" {_number(seconds * scale)} {unit}, goal at most {limit * scale:g} {unit}"
    return {"text": text, "value": seconds, "met": seconds <= limit}


def text(table: dict[str, Any]) -> str:
    """A table for the screen."""
    sizes = " ".join(f"{k}={v}" for k, v in table["sizes"].items())
    unit = table["unit"]
    wide = any("ratio" in row for row in table["rows"])
    header = ["", f"median {unit}", "min", "max", "n", *(["ratio", "error", "note"] if wide else [])]
    lines = [header, *(_cells(row, wide) for row in table["rows"])]
    widths = [max(len(line[k]) for line in lines) for k in range(len(header))]
    shown = []
    for line in lines:
        cells = [c.ljust(w) if k in (0, 7) else c.rjust(w) for k, (c, w) in enumerate(zip(line, widths, strict=True))]
        shown.append("  ".join(cells).rstrip())
    verdicts = [f"{VERDICTS[goal['met']]}  {goal['text']}" for goal in table["goals"]]
    return "\n".join([f"{table['name']}  {sizes}".rstrip(), *shown, *verdicts])


def _cells(row: dict[str, Any], wide: bool) -> list[str]:
    numbers = ["–"] * 3 if row["median"] is None else [_number(row[k]) for k in ("median", "min", "max")]
    cells = [row["name"], *numbers, str(row["count"])]
    if wide:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        error = "" if row["error"] is None else f"{row['error']:.0e}"
        cells += [ratio, error, row["note"]]
    return cells


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"
