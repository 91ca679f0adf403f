"""Contestants, their checks, and interleaved timing."""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

# A contestant that takes longer than this is not called once more, untimed, before each timed call.
WARM_SECONDS = 0.2


@dataclass(frozen=True)
class Contestant:
    """Something to time: ``call`` runs it once and returns its output as a tensor."""

    call: Callable[[], torch.Tensor]
    note: str = ""


@dataclass(frozen=True)
class Entry:
    """A contestant by name, made only when its turn comes: what it needs may be absent."""

    name: str
    make: Callable[[], Contestant]
    limit: float = 60.0  # seconds for making it and its first call


@dataclass(frozen=True)
class Goal:
    """``name`` is to take at most ``factor`` times what the fastest of ``against`` takes."""

    name: str
    against: tuple[str, ...]
    factor: float


@dataclass(frozen=True)
class Case:
    """One table: who competes on which sizes.

    ``setup`` makes the inputs and returns the float64 output to compare with, and the entries.
    """

    title: str
    sizes: dict[str, int]
    setup: Callable[[], tuple[torch.Tensor, list[Entry]]]
    tolerance: float = 1e-4  # largest difference from the reference over the reference's largest value
    goals: tuple[Goal, ...] = ()


@dataclass
class Row:
    """What became of one entry: seconds of every timed call, or why there are none."""

    name: str
    seconds: list[float] = field(default_factory=list)
    error: float | None = None
    first_call: float | None = None
    note: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.seconds) if self.seconds else None


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block after so many seconds (in the main thread of a POSIX system)."""

    def ring(_number: int, _frame: Any) -> None:
        raise TimeoutError(f"no result in {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """The largest difference over the largest value."""
    return float((got.reshape(want.shape).to(want.dtype) - want).abs().max() / want.abs().max())


def run_case(case: Case, rounds: int, seconds: float, say: Callable[[str], None]) -> list[Row]:
    """Check every entry, then time them in turn.

    Args:
        case: what to run.
        rounds: how often each is timed, unless that takes longer than ``seconds`` for it; at least three times.
        seconds: for the timed calls of one entry.
        say: told what is being done.
    """
    reference, entries = case.setup()
    rows, ready = [], []
    for entry in entries:
        say(f"{case.title}: {entry.name}")
        row, contestant = _prepare(entry, reference, case.tolerance)
        rows.append(row)
        if contestant is not None:
            ready.append((row, contestant))
    say(f"{case.title}: timing")
    _interleave(ready, rounds, seconds)
    return rows


def _prepare(entry: Entry, reference: torch.Tensor, tolerance: float) -> tuple[Row, Contestant | None]:
    """Make a contestant, call it once, compare what it returns with the reference."""
    row = Row(entry.name)
    start = time.perf_counter()
    try:
        with time_limit(entry.limit):
            contestant = entry.make()
            output = contestant.call()
        row.first_call = time.perf_counter() - start
    except ImportError as missing:
        row.note = f"absent: {missing}"
        return row, None
    except Exception as failure:
        lines = str(failure).strip().splitlines() or [""]
        row.note = f"failed: {type(failure).__name__}: {lines[0][:120]}"
        return row, None
    row.note = contestant.note
    row.error = relative_error(output, reference)
    if not row.error <= tolerance:
        row.note = f"wrong: differs by {row.error:.1e}, more than {tolerance:.0e}"
        return row, None
    return row, contestant


def _interleave(ready: Sequence[tuple[Row, Contestant]], rounds: int, seconds: float) -> None:
    for _ in range(rounds):
        for row, contestant in ready:
            spent = sum(row.seconds)
            if len(row.seconds) >= 3 and spent + spent / len(row.seconds) > seconds:
                continue
            if not row.seconds or min(row.seconds) < WARM_SECONDS:
                contestant.call()
            start = time.perf_counter()
            contestant.call()
            row.seconds.append(time.perf_counter() - start)
