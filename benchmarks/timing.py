"""Contestants, their checks, and interleaved timing."""

from __future__ import annotations

import os
import resource
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

# A contestant that takes longer than this is not called once more, untimed, before each timed call.
WARM_SECONDS = 0.2
QUIET_SECONDS = 60.0  # how long a table waits for other programs to finish
LEAST = 3  # timed calls of every contestant, however slow


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
    """``name`` is to take at most ``factor`` times what the fastest of ``against`` takes; None: just say so."""

    name: str
    against: tuple[str, ...]
    factor: float | None = None


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
    """What became of one entry: seconds of every timed call, or why there are none.

    ``disturbed`` are calls during which other programs ran on the processors.
    """

    name: str
    undisturbed: list[float] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)
    error: float | None = None
    first_call: float | None = None
    note: str = ""

    @property
    def seconds(self) -> list[float]:
        """The undisturbed calls if there are at least three, else all."""
        return self.undisturbed if self.quiet else self.undisturbed + self.disturbed

    @property
    def quiet(self) -> bool:
        return len(self.undisturbed) >= LEAST

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
    wait_for_quiet(QUIET_SECONDS)
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
    """Rounds go on, up to three times as many, while somebody lacks undisturbed calls and has time left."""
    for number in range(3 * rounds):
        waiting = 0
        for row, contestant in ready:
            calls = row.undisturbed + row.disturbed
            late = len(calls) >= LEAST and sum(calls) * (1 + 1 / len(calls)) > seconds
            if late or (number >= rounds and len(row.undisturbed) >= rounds):
                continue
            waiting += 1
            if not calls or min(calls) < WARM_SECONDS:
                contestant.call()
            _time(row, contestant)
        if not waiting:
            return


def _time(row: Row, contestant: Contestant) -> None:
    before, mine, switches = _processor_seconds(), time.process_time(), _switches()
    start = time.perf_counter()
    contestant.call()
    taken = time.perf_counter() - start
    switches = _switches() - switches
    # The system counts in hundredths of a second: too coarse for a short call, but that is rarely interrupted.
    others = _processor_seconds()[0] - before[0] - (time.process_time() - mine)
    disturbed = switches > 0 if taken < 0.1 else others > 0.05 * taken
    (row.disturbed if disturbed else row.undisturbed).append(taken)


def _switches() -> int:
    """How often the system took a processor away from this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _processor_seconds() -> tuple[float, float]:
    """Seconds that all processors together have been busy and idle; zeros where nobody can tell."""
    path = Path("/proc/stat")
    if not path.exists():
        return 0.0, 0.0
    user, nice, system, idle, waiting, *rest = map(int, path.read_text().split("\n", 1)[0].split()[1:9])
    hertz = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + sum(rest)) / hertz, (idle + waiting) / hertz


def wait_for_quiet(limit: float) -> None:
    """Return when other programs leave the processors alone, or after ``limit`` seconds."""
    end = time.perf_counter() + limit
    while time.perf_counter() < end:
        before = _processor_seconds()
        time.sleep(0.5)
        busy, idle = (b - a for a, b in zip(before, _processor_seconds(), strict=True))
        if busy <= 0.1 * idle:
            return
