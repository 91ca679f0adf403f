"""The process that measures plans, and how another one uses it.

A plan may bring down the process that runs it, or never end. So it runs in a process of its own, with a limit on the
time that it takes; what became of it is a Trial in any case.
"""

from __future__ import annotations

import os
import pickle
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ssmc.errors import SsmcError
from ssmc.runtime import MEASURED, Prepared, Subject, Trial

from .job import Job

ALLOWED = {"f64": 1e-10, "f32": 1e-4, "f16": 4e-3, "bf16": 3e-2}  # the error over the largest value
START_SECONDS = 300.0  # for a process to start, to compile the compiler's own plan and to run it
SAMPLE_SECONDS = 4e-3  # a sample is so many calls that it takes this long
HOPELESS, LOOKS = 1.5, 3  # after so many turns a plan that is so much slower is not looked at any longer


@dataclass(frozen=True)
class Turns:
    """How long to look: so often the compiler's own plan and the other are timed in turns, while there are seconds."""

    most: int
    seconds: float


class Bench:
    """A job in this process: the compiler's own plan, its values, and others beside it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.inputs = job.inputs()
        self.usual = self._prepared("")
        self.usual.run()
        self.reference = [value.clone() for value in self.usual.made]
        self.calls = max(1, int(SAMPLE_SECONDS / max(self._time(self.usual, 1), 1e-9)))

    def subject(self) -> Subject:
        return self.job.subject()

    def _prepared(self, plan: str) -> Prepared:
        found = self.job.examined(plan)
        return found.prepared(self.job.what, found.values(self.job.what, self.inputs))

    def trial(self, plan: str, turns: Turns) -> Trial:
        """Compile a plan, compare its values, time it."""
        try:
            other = self._prepared(plan)
        except SsmcError as refusal:
            return Trial(plan, "refused", note=refusal.diagnostics[0].message.partition("\n")[0])
        for value in other.made:
            value.fill_(float("nan") if value.is_floating_point() or value.is_complex() else 1)
        other.run()
        error = self._error(other)
        if error:
            return Trial(plan, "wrong", note=error)
        first, second = self._take_turns(other, turns)
        usual, seconds = statistics.median(first), statistics.median(second)
        ratio = statistics.median([b / a for a, b in zip(first, second, strict=True)])
        won = sum(b < a for a, b in zip(first, second, strict=True)) / len(first)
        note = f"{len(first)} turns; the compiler's own plan: {usual:.3g} s"
        return Trial(plan, MEASURED, ratio, seconds, note, won)

    def _error(self, other: Prepared) -> str:
        """Why the values are not those of the compiler's own plan; empty if they are."""
        allowed = ALLOWED[self.job.real]
        for place, got, want in zip(other.call.spec.gives, other.made, self.reference, strict=True):
            if got.shape != want.shape:
                return f"{place.shown}: its shape is {tuple(got.shape)}"
            if not (want.is_floating_point() or want.is_complex()):
                if not torch.equal(got, want):
                    return f"{place.shown}: other values"
                continue
            finite = want.isfinite()
            scale = float(want[finite].abs().max()) if bool(finite.any()) else 0.0
            error = float((got - want)[finite].abs().max()) if bool(finite.any()) else 0.0
            if not error <= allowed * scale + 1e-30:
                return f"{place.shown}: differs by {error / (scale or 1):.1e}, more than {allowed:.0e}"
        return ""

    def _take_turns(self, other: Prepared, turns: Turns) -> tuple[list[float], list[float]]:
        first: list[float] = []
        second: list[float] = []
        until = time.perf_counter() + turns.seconds
        while len(first) < turns.most and (len(first) < LOOKS or time.perf_counter() < until):
            pair = [(self.usual, first), (other, second)]
            for prepared, times in pair if len(first) % 2 == 0 else reversed(pair):
                times.append(self._time(prepared, self.calls))
            if len(first) == LOOKS and min(second) > HOPELESS * max(first):
                break
        return first, second

    def _time(self, prepared: Prepared, calls: int) -> float:
        """Seconds of one call, of so many in a row."""
        prepared.run()
        if self.job.device.type == "cpu":
            start = time.perf_counter()
            for _ in range(calls):
                prepared.run()
            return (time.perf_counter() - start) / calls
        event: Any = torch.cuda.Event
        begin, end = event(enable_timing=True), event(enable_timing=True)
        begin.record()
        for _ in range(calls):
            prepared.run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / calls


class Worker:
    """A process with a Bench. It is started when it is first needed, and again after a plan that ended it; ``limit``:
    seconds for one plan."""

    def __init__(self, job: Job, limit: float, environment: Mapping[str, str] | None = None) -> None:
        self.job, self.limit = job, limit
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        # Others are compared with the compiler's own plan, not with what was found before.
        self._environment = {**os.environ, "PYTHONPATH": path, "SSMC_TUNED": "0", **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: Any = None

    def subject(self) -> Subject:
        """What results of its machine are stored under; raises what the job's own plan raises."""
        found = self._asked(("subject",))
        if isinstance(found, Trial):
            raise RuntimeError(f"the compiler's own plan {found.outcome}: {found.note}")
        return found

    def trial(self, plan: str, turns: Turns) -> Trial:
        """What became of a plan."""
        found = self._asked(("trial", plan, turns), plan)
        assert isinstance(found, Trial)
        return found

    def _asked(self, question: tuple[Any, ...], plan: str = "") -> Any:
        """The answer; a Trial that says so if the process ends or takes too long instead."""
        try:
            if self._process is None:
                self._start()
                self._answer(("subject",), START_SECONDS)  # the first one loads and compiles what others stand beside
            answer = self._answer(question, self.limit)
        except TimeoutError as error:
            self.stop()
            return Trial(plan, "late", note=str(error))
        except (OSError, EOFError, pickle.UnpicklingError):
            return Trial(plan, "crashed", note=self._ended())
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _answer(self, question: tuple[Any, ...], limit: float) -> Any:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        pickle.dump(question, process.stdin)
        process.stdin.flush()
        if not select.select([process.stdout], [], [], limit)[0]:
            raise TimeoutError(f"no result in {limit:.0f} s")
        return pickle.load(process.stdout)

    def _start(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 it is read when the process has ended
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._errors, env=self._environment,
        )  # fmt: skip
        assert self._process.stdin is not None
        pickle.dump((self.job, torch.get_num_threads()), self._process.stdin)

    def _ended(self) -> str:
        """How the process ended."""
        errors, status = self._errors, self.stop()
        errors.seek(0)
        last = errors.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
        return f"the process ended with status {status}" + (f": {last[:200]}" if last else "")

    def stop(self) -> int:
        """End the process, if there is one; its status."""
        if self._process is None:
            return 0
        process, self._process = self._process, None
        if process.poll() is None:
            try:  # one that crashes ends by itself, with a status that says how
                process.wait(0.5)
            except subprocess.TimeoutExpired:
                process.kill()
        for pipe in (process.stdin, process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:
                pass
        return process.wait()


def _answer_all() -> None:
    """Read the job, then questions, and write answers until there are no more."""
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed here is no answer
    bench: Bench | None = None
    try:
        job, threads = pickle.load(questions)
        torch.set_num_threads(threads)
        while True:
            name, *arguments = pickle.load(questions)
            try:
                bench = bench or Bench(job)
                ask: Callable[..., Any] = getattr(bench, name)
                result: Any = ask(*arguments)
            except Exception as error:
                result = error if isinstance(error, SsmcError) else RuntimeError(f"{type(error).__name__}: {error}")
            pickle.dump(result, answers)
            answers.flush()
    except EOFError:
        pass


if __name__ == "__main__":
    _answer_all()
