"""A property of a layer, what was found of it, and the verdict: one row of the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssmc.errors import SsmcError, ToolchainError, Unsupported

from .cases import difference
from .evaluate import Array

HOLDS, FAILS, DOES_NOT_APPLY = "holds", "fails", "does not apply"


@dataclass(frozen=True)
class Finding:
    """One tensor of one case: how far it is off, how far it may be, and where it is furthest off."""

    case: str
    tensor: str
    error: float
    tolerance: float
    where: str = ""

    @property
    def holds(self) -> bool:
        return self.error <= self.tolerance

    @property
    def excess(self) -> float:
        """Error over tolerance; infinite where nothing is tolerated and something is off."""
        if self.error == 0:
            return 0.0
        return self.error / self.tolerance if self.tolerance > 0 else math.inf


@dataclass(frozen=True)
class Source:
    """Where a tolerance comes from, in a word and in a sentence."""

    name: str
    meaning: str


ROUNDOFF = Source(
    "roundoff",
    "what the interpreter errs by when operations are off by 16 unit roundoffs, and literals and storage rounded",
)
EXACT = Source("exact", "nothing may differ")


@dataclass(frozen=True)
class Property:
    """Something that must hold. ``check`` finds it out for one subject and one specialisation of the layer; it
    raises Unsupported where it does not apply. It is asked of the usual specialisation, with ``everywhere`` of all
    others too, with ``others`` of those alone, with ``least`` of one with few inputs. With ``once`` it is asked for one
    storage of each target."""

    name: str
    compared: str
    source: Source
    check: Callable[[Any, Any], Iterable[Finding]]
    everywhere: bool = False
    others: bool = False
    once: bool = False
    least: bool = False


@dataclass(frozen=True)
class Row:
    """What was found of one property of one subject."""

    subject: str
    name: str
    compared: str
    source: Source
    cases: int
    worst: Finding | None
    verdict: str
    note: str = ""

    def facts(self) -> dict[str, Any]:
        """As plain values, for ``--json``."""
        worst = self.worst
        return {
            "subject": self.subject,
            "property": self.name,
            "compared": self.compared,
            "cases": self.cases,
            "error": number(worst.error) if worst else None,
            "tolerance": number(worst.tolerance) if worst else None,
            "tolerance_from": self.source.meaning,
            "case": worst.case if worst else None,
            "tensor": worst.tensor if worst else None,
            "where": worst.where if worst else None,
            "verdict": self.verdict,
            "note": self.note,
        }


def number(value: float) -> float | str:
    """A number as JSON has it; it has no infinities."""
    return value if math.isfinite(value) else str(value)


def compare(
    case: str, found: Mapping[str, Array], expected: Mapping[str, Array], tolerance: Callable[[str], float]
) -> Iterator[Finding]:
    """A finding for each tensor that is expected."""
    for name, value in expected.items():
        if name not in found:
            yield Finding(case, name, math.inf, 0.0, "it is missing")
            continue
        other = found[name]
        if other.shape != value.shape:
            yield Finding(case, name, math.inf, 0.0, f"its shape is {other.shape}, expected {value.shape}")
            continue
        apart = difference(other, value)
        if not apart.size:
            yield Finding(case, name, 0.0, 0.0)
            continue
        place = np.unravel_index(int(np.argmax(apart)), apart.shape)
        error = float(apart[place])
        where = "" if error == 0 else f"at {[int(i) for i in place]}: {other[place]:.9g}, expected {value[place]:.9g}"
        yield Finding(case, name, error, tolerance(name), where)


def equal(case: str, what: str, same: bool, where: str = "") -> Finding:
    """A finding about something that is so or is not."""
    return Finding(case, what, 0.0 if same else math.inf, 0.0, "" if same else where)


def judge(subject: str, asked: Property, looks: Iterable[tuple[str, Callable[[], Iterable[Finding]]]]) -> Row:
    """The row of a property, from what was found for each of several labelled specialisations."""
    cases, worst, refused = 0, None, []
    for label, look in looks:
        try:
            for finding in look():
                cases += 1
                if worst is None or (finding.excess, finding.tolerance) > (worst.excess, worst.tolerance):
                    worst = finding
        except Unsupported as refusal:
            refused.append(f"{refusal.diagnostics[0].message}" + (f" ({label})" if label else ""))
        except ToolchainError:
            raise
        except Exception as error:
            message = error.diagnostics[0].message if isinstance(error, SsmcError) else str(error)
            worst = Finding(label, "", math.inf, 0.0, f"{type(error).__name__}: {message}")
            cases += 1
    note = refused[0] if refused else ""
    if worst is None:
        return Row(subject, asked.name, asked.compared, asked.source, cases, None, DOES_NOT_APPLY, note or "no cases")
    verdict = HOLDS if worst.holds else FAILS
    return Row(subject, asked.name, asked.compared, asked.source, cases, worst, verdict, note)
