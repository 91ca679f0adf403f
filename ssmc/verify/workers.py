"""Parts of the table found out by other processes, and the process that does so.

Each starts afresh, loads the layer again, and answers one part after the other; machine code that ends its process
ends only that.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .rows import EXACT, FAILS, Row

if TYPE_CHECKING:
    from .conformance import Asked, Conformance, Part


def shared(table: Conformance, parts: list[Part], jobs: int) -> list[list[Row]]:
    """The rows of every part. ``jobs`` processes each take the next that nobody has taken; this one finds out the
    first, which is no machine code, and then has another at work in its place."""
    found: dict[Part, list[Row]] = {}
    failures: list[BaseException] = []
    waiting = deque(parts)
    own = waiting.popleft() if waiting and not waiting[0].target else None

    def others() -> None:
        worker = _Worker(table.asked)
        try:
            while waiting and not failures:
                part = waiting.popleft()
                found[part] = worker.rows(part)
        except IndexError:  # somebody took the last one in between
            pass
        except BaseException as error:
            failures.append(error)
        finally:
            worker.stop()

    threads = [threading.Thread(target=others) for _ in range(min(jobs - 1, len(waiting)))]
    for thread in threads:
        thread.start()
    try:
        if own is not None:
            found[own] = table.rows(own)
        others()
    finally:
        waiting.clear()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    return [found[part] for part in parts]


class _Worker:
    """Another process, which is started when the first part is asked for, and again after one that ended it."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.process: subprocess.Popen[bytes] | None = None
        self.errors: Any = None

    def rows(self, part: Part) -> list[Row]:
        """The rows of a part; one that fails if the process ends instead."""
        process = self.process or self._started()
        assert process.stdin is not None and process.stdout is not None
        try:
            pickle.dump(part, process.stdin)
            process.stdin.flush()
            answer: Any = pickle.load(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            return [self._ended(part)]
        if isinstance(answer, BaseException):
            raise answer
        rows: list[Row] = answer
        return rows

    def _started(self) -> subprocess.Popen[bytes]:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 it is read when the process has ended
        command = [sys.executable, "-P", "-m", __name__]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, env=_environment()
        )
        assert self.process.stdin is not None
        pickle.dump(self.asked, self.process.stdin)
        return self.process

    def _ended(self, part: Part) -> Row:
        assert self.process is not None
        errors = self.errors
        status = self.stop()
        errors.seek(0)
        last = errors.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
        note = f"the process ended with status {status}" + (f": {last}" if last else "")
        return Row(part.label, "process", "is there an answer at all", EXACT, 1, None, FAILS, note)

    def stop(self) -> int:
        """End the process, if there is one; its status."""
        if self.process is None:
            return 0
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:  # what was written last found nobody
                pass
        status = self.process.wait()
        self.process = None
        return status


def _environment() -> Mapping[str, str]:
    """That of this process, its module path included."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}


def _answer_all() -> None:
    """Read what is asked, then parts, and write what was found of each, until there are no more."""
    from .conformance import Conformance

    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed here is no answer
    table: Conformance | None = None
    try:
        asked = pickle.load(questions)
        while True:
            part = pickle.load(questions)
            try:
                table = table or Conformance(asked)
                result: Any = table.rows(part)
            except Exception as error:
                result = error
            pickle.dump(result, answers)
            answers.flush()
    except EOFError:
        pass


if __name__ == "__main__":
    _answer_all()
