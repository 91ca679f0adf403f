"""A run in sections: each a process of its own with a limit on its time; what is done is written down at once, so that
a run goes on where another ended. A section that fails, crashes or takes too long is recorded, and the rest goes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LIMIT = 480.0  # seconds of a section, at most
DONE, FAILED, LATE = "done", "failed", "late"


@dataclass(frozen=True)
class Section:
    """``kind`` says what is done (``work.WORK``), ``about`` with what; ``name`` is for people, and unique."""

    name: str
    kind: str
    about: Mapping[str, Any] = field(default_factory=dict)
    limit: float = LIMIT


@dataclass
class Outcome:
    """What became of a section: its result, or why there is none."""

    status: str
    seconds: float
    result: Any = None
    note: str = ""


class State:
    """What is done, in a file; ``about`` is kept with it from the first start on."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path, self.about, self.outcomes = path, dict(about), dict[str, Outcome]()
        try:
            known = json.loads(path.read_bytes())
            self.about = known["about"]
            self.outcomes = {name: Outcome(**item) for name, item in known["sections"].items()}
        except (OSError, ValueError, KeyError, TypeError):  # none yet, or damaged: begin anew
            pass

    def keep(self, section: Section, outcome: Outcome) -> None:
        """Write down what became of a section."""
        self.outcomes[section.name] = outcome
        self.path.parent.mkdir(parents=True, exist_ok=True)
        made = {"about": self.about, "sections": {n: asdict(o) for n, o in self.outcomes.items()}}
        scratch = self.path.with_suffix(".tmp")
        scratch.write_text(json.dumps(made, indent=1), encoding="utf-8")
        os.replace(scratch, self.path)


def run_all(
    sections: Iterable[Section],
    state: State,
    run: Callable[[Section], Outcome],
    again: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Run what is not done yet; with ``again`` also what failed before."""
    for section in sections:
        known = state.outcomes.get(section.name)
        if known is not None and (known.status == DONE or not again):
            say(f"{section.name}: {known.status} before")
            continue
        outcome = run(section)
        state.keep(section, outcome)
        note = f": {outcome.note}" if outcome.note else ""
        say(f"{section.name}: {outcome.status}, {outcome.seconds:.0f} s{note}")


def in_a_process(command: Sequence[str], environment: Mapping[str, str]) -> Callable[[Section], Outcome]:
    """What runs a section as ``command SECTION RESULT``: the section as JSON, and the file that takes its result."""

    def run(section: Section) -> Outcome:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="gpu-section-") as folder:
            result = Path(folder) / "result.json"
            words = [*command, json.dumps(asdict(section)), str(result)]
            status, said = _ended(words, section.limit, {**os.environ, **environment})
            seconds = time.monotonic() - start
            if status is None:
                return Outcome(LATE, seconds, note=f"no result in {section.limit:.0f} s")
            try:
                if status == 0:
                    return Outcome(DONE, seconds, json.loads(result.read_bytes()))
            except (OSError, ValueError):
                said = f"it wrote no result; {said}"
            return Outcome(FAILED, seconds, note=f"exit status {status}; {said}")

    return run


def _ended(words: Sequence[str], limit: float, environment: Mapping[str, str]) -> tuple[int | None, str]:
    """Exit status, None if it had to be ended, and the last line that was said."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=errors, env=dict(environment), start_new_session=True
        )
        status: int | None
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        except BaseException:
            _end(process)
            raise
        if status is None:
            _end(process)
        errors.seek(0)
        lines = errors.read().decode("utf-8", "replace").strip().splitlines()
        return status, lines[-1][:300] if lines else "it said nothing"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process with all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def worker(kind: str) -> list[str]:
    """The command that does the work of a section on a kind of device."""
    return [sys.executable, "-m", "benchmarks.gpu.work", kind]
