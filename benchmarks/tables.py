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
        "unit": "ms",
        "rows": [
            {
                **_summary(row.name, row.seconds, "ms"),
                "calls": {"undisturbed": row.undisturbed, "disturbed": row.disturbed},
                "ratio": row.median / base if row.median and base else None,
                "error": row.error,
                "first_call_s": row.first_call,
                "note": row.note if row.quiet or not row.seconds else f"{row.note}; disturbed".lstrip("; "),
            }
            for row in rows
        ],
        "goals": [made for goal in case.goals if (made := _judge(goal, rows))],
    }


def of_step(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    medians = {row["name"]: row["median"] for row in rows}
    above = (medians["ssmc"] - medians["ctypes"]) * 1e6
    goal = {"text": f"ssmc above ctypes {above:.1f} µs, goal at most 15 µs", "value": above, "met": above <= 15}
    return {
        "name": "one token of the selective scan, with state",
        "sizes": {"b": 1, "t": 1, "d": 1536, "n": 16},
        "unit": "µs",
        "rows": [_summary(row["name"], row["seconds"], "µs") for row in rows],
        "goals": [goal],
    }


def of_callable(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    goals = []
    for row, limit in ((rows[0], 3.0), (rows[-1], 0.05)):
        text = f"{row['name']} {row['median'] * 1e3:.0f} ms, goal at most {limit * 1e3:.0f} ms"
        goals.append({"text": text, "value": row["median"], "met": row["median"] <= limit})
    return {
        "name": "from the text of the selective scan to its first result, after imports",
        "sizes": {},
        "unit": "ms",
        "rows": [_summary(row["name"], row["seconds"], "ms") for row in rows],
        "goals": goals,
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


def _judge(goal: Goal, rows: Sequence[Row]) -> dict[str, Any] | None:
    timed = {row.name: row for row in rows if row.seconds and row.name in (goal.name, *goal.against)}
    quiet = all(row.quiet for row in timed.values())
    typical = {name: statistics.median(row.seconds) if quiet else min(row.seconds) for name, row in timed.items()}
    mine = typical.get(goal.name)
    others = [(typical[name], name) for name in goal.against if name in typical]
    if mine is None or not others:
        return None
    best, name = min(others)
    ratio, factor = mine / best, goal.factor
    if factor is not None and factor >= 1:
        text = f"{goal.name} / {name} = {ratio:.2f}, goal at most {factor}"
    else:
        text = f"{goal.name} is {1 / ratio:.1f} times as fast as {name}"
        text += f", goal at least {1 / factor:.0f}" if factor else ""
    return {"text": text, "value": ratio, "met": None if factor is None else ratio <= factor}


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
