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
LEAST = 3  # timed calls of every contestant, however slow

Output = torch.Tensor | tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Effort:
    """How hard to look.

    Args:
        rounds: how often each contestant is timed, unless that takes longer than ``seconds`` for it; at least
            three times.
        seconds: for the timed calls of one contestant.
        patience: seconds that a table waits for other programs to finish.
    """

    rounds: int
    seconds: float
    patience: float


FULL = Effort(20, 8.0, 60.0)
MODELS = Effort(6, 6.0, 20.0)  # of complete models, whose calls take seconds
QUICK = Effort(5, 1.0, 0.0)


@dataclass(frozen=True)
class Contestant:
    """Something to time: ``call`` runs it once and returns its output, one tensor or several.

    ``returns`` says how many, the first ones, of the reference's tensors those are; None: all. 0: it is there for its
    time alone, and returns ().
    """

    call: Callable[[], Output]
    note: str = ""
    returns: int | None = None


@dataclass(frozen=True)
class Entry:
    """A contestant by name, made only when its turn comes: what it needs may be absent."""

    name: str
    make: Callable[[], Contestant]
    limit: float = 60.0  # seconds for making it and its first call
    tolerance: float | None = None  # its own, where its case's is not right for it


@dataclass(frozen=True)
class Goal:
    """``name`` is to take at most ``factor`` times what the fastest of ``against`` takes; None: just say so.

    With ``seconds`` it is to take at most so much longer than the fastest of ``against``, or at most so much
    if that is empty. With ``less`` what that row takes is taken off both first.
    """

    name: str
    against: tuple[str, ...] = ()
    factor: float | None = None
    seconds: float | None = None
    less: str = ""

    def __post_init__(self) -> None:
        if self.factor is not None and self.seconds is not None:
            raise ValueError("a goal is a factor or seconds")
        if not self.against and self.seconds is None:
            raise ValueError("a goal is against somebody, or in seconds")


@dataclass(frozen=True)
class Case:
    """One table: who competes on which sizes.

    ``setup`` makes the inputs and returns the float64 output to compare with, and the entries. Short calls are
    timed ``calls`` at a time.
    """

    title: str
    sizes: dict[str, int]
    setup: Callable[[], tuple[Output, list[Entry]]]
    tolerance: float = 1e-4  # largest difference from the reference over the reference's largest value
    goals: tuple[Goal, ...] = ()
    calls: int = 1
    unit: str = "ms"


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


class OverTime(Exception):
    """No TimeoutError: that is an OSError, which code that reads and writes files may take for one of its own."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OverTime in the block after so many seconds (in the main thread of a POSIX system)."""

    def ring(_number: int, _frame: Any) -> None:
        raise OverTime(f"no result in {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def relative_error(got: Output, want: Output) -> float:
    """The largest difference over the largest value; of several tensors, that of the worst. NaN if any is."""
    parts = [
        (g.reshape(w.shape).to(w.dtype) - w).abs().max() / w.abs().max()
        for g, w in zip(_several(got), _several(want), strict=True)
    ]
    return float(torch.stack(parts).max()) if parts else 0.0


def _several(output: Output) -> tuple[torch.Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


def run_case(case: Case, effort: Effort, say: Callable[[str], None]) -> list[Row]:
    """Check every entry, then time them in turn; ``say`` is told what is being done."""
    reference, entries = case.setup()
    rows, ready = [], []
    for entry in entries:
        say(f"{case.title}: {entry.name}")
        row, contestant = _prepare(entry, reference, case.tolerance if entry.tolerance is None else entry.tolerance)
        rows.append(row)
        if contestant is not None:
            ready.append((row, contestant))
    say(f"{case.title}: timing")
    wait_for_quiet(effort.patience)
    _interleave(ready, effort, case.calls)
    return rows


def _prepare(entry: Entry, reference: Output, tolerance: float) -> tuple[Row, Contestant | None]:
    """Make a contestant, call it once, compare what it returns with the reference."""
    row = Row(entry.name)
    start = time.perf_counter()
    try:
        with time_limit(entry.limit):
            contestant = entry.make()
            output = contestant.call()
        row.first_call = time.perf_counter() - start
        row.error = relative_error(output, _several(reference)[: contestant.returns])
    except ImportError as missing:
        row.note = f"absent: {missing}"
        return row, None
    except Exception as failure:
        lines = str(failure).strip().splitlines() or [""]
        row.note = f"failed: {type(failure).__name__}: {lines[0][:120]}"
        return row, None
    row.note = contestant.note
    if not row.error <= tolerance:
        row.note = f"wrong: differs by {row.error:.1e}, more than {tolerance:.0e}"
        return row, None
    return row, contestant


def _interleave(ready: Sequence[tuple[Row, Contestant]], effort: Effort, calls: int) -> None:
    """Rounds go on, up to three times as many, while somebody lacks undisturbed calls and has time left."""
    for number in range(3 * effort.rounds):
        waiting = 0
        for row, contestant in ready:
            timed = row.undisturbed + row.disturbed
            late = len(timed) >= LEAST and calls * sum(timed) * (1 + 1 / len(timed)) > effort.seconds
            if late or (number >= effort.rounds and len(row.undisturbed) >= effort.rounds):
                continue
            waiting += 1
            if not timed or min(timed) < WARM_SECONDS:
                contestant.call()
            _time(row, contestant, calls)
        if not waiting:
            return


def _time(row: Row, contestant: Contestant, calls: int) -> None:
    """Seconds of one call, from so many in one go."""
    before, mine, switches = _processor_seconds(), time.process_time(), _switches()
    start = time.perf_counter()
    for _ in range(calls):
        contestant.call()
    taken = time.perf_counter() - start
    switches = _switches() - switches
    # The system counts in hundredths of a second: too coarse for a short call, but that is rarely interrupted.
    others = _processor_seconds()[0] - before[0] - (time.process_time() - mine)
    disturbed = switches > 0 if taken < 0.1 else others > 0.05 * taken
    (row.disturbed if disturbed else row.undisturbed).append(taken / calls)


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
