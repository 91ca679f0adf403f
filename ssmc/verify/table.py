"""The table as text and as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .rows import DOES_NOT_APPLY, FAILS, HOLDS, Row


@dataclass(frozen=True)
class Verification:
    """Everything that was found of a layer. ``ok`` says whether all of it holds; ``print`` shows the table."""

    layer: str
    about: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    seconds: float

    @property
    def failed(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.verdict == FAILS)

    @property
    def ok(self) -> bool:
        return not self.failed

    @property
    def verdict(self) -> str:
        """The last line, in words."""
        count = {v: sum(row.verdict == v for row in self.rows) for v in (HOLDS, DOES_NOT_APPLY, FAILS)}
        rest = f"{count[HOLDS]} hold, {count[DOES_NOT_APPLY]} do not apply"
        if self.ok:
            return f"holds: {rest}, none fails"
        return f"fails: {count[FAILS]} ({', '.join(dict.fromkeys(row.name for row in self.failed))}); {rest}"

    def facts(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "layer": self.layer,
            "about": dict(self.about),
            "rows": [row.facts() for row in self.rows],
            "seconds": round(self.seconds, 1),
            "verdict": self.verdict,
        }

    def __str__(self) -> str:
        width = max((len(name) for name, _ in self.about), default=0)
        lines = [f"{name:<{width}}  {value}".rstrip() for name, value in self.about]
        names = max(len(row.name) for row in self.rows)
        compared = max(len(row.compared) for row in self.rows)
        sources = max(len(row.source.name) for row in self.rows)
        for subject in dict.fromkeys(row.subject for row in self.rows):
            title = f"{subject:<{names + 2}}  {'compared':<{compared}}  cases     error   allowed  {'by':<{sources}}"
            lines += ["", f"{title}  verdict"]
            for row in self.rows:
                if row.subject == subject:
                    lines += _lines(row, names, compared, sources)
        used = {row.source.name: row.source.meaning for row in self.rows}
        wide = max(len(name) for name in used)
        lines += ["", *(f"{name:<{wide}}  {meaning}" for name, meaning in used.items())]
        lines += ["", f"{'time':<{wide}}  {self.seconds:.1f} s", f"{'verdict':<{wide}}  {self.verdict}"]
        return "\n".join(lines)


def _lines(row: Row, names: int, compared: int, sources: int) -> Sequence[str]:
    head = f"  {row.name:<{names}}  {row.compared:<{compared}}"
    worst = row.worst
    if worst is None:
        return [f"{head}  {row.cases:>5}  {'':>8}  {'':>8}  {'':<{sources}}  {row.verdict}: {row.note}"]
    numbers = f"{row.cases:>5}  {worst.error:>8.1e}  {worst.tolerance:>8.1e}  {row.source.name:<{sources}}"
    lines = [f"{head}  {numbers}  {row.verdict}"]
    if row.verdict == FAILS:
        place = ", ".join(filter(None, (worst.case, worst.tensor)))
        lines.append(f"    {place} {worst.where}".rstrip())
    if row.note:
        lines.append(f"    not everywhere: {row.note}")
    return lines
