"""Parts of the table found out by other processes, and the process that does so.

Each starts afresh, loads the layer again, and answers one part; machine code that ends its process ends only that.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .rows import EXACT, FAILS, Row

if TYPE_CHECKING:
    from .conformance import Conformance, Part


def shared(table: Conformance, parts: list[Part], jobs: int) -> list[list[Row]]:
    """The rows of every part: this process takes them from the front, ``jobs - 1`` others from the back."""
    found: dict[Part, list[Row]] = {}
    failures: list[BaseException] = []
    waiting = deque(parts)

    def others() -> None:
        while True:
            try:
                part = waiting.pop()
            except IndexError:
                return
            try:
                found[part] = _elsewhere(table, part)
            except BaseException as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=others) for _ in range(min(jobs, len(parts)) - 1)]
    for thread in threads:
        thread.start()
    try:
        while waiting:
            part = waiting.popleft()
            found[part] = table.rows(part)
    finally:
        waiting.clear()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    return [found[part] for part in parts]


def _elsewhere(table: Conformance, part: Part) -> list[Row]:
    """The rows of a part, found by another process."""
    with tempfile.TemporaryDirectory(prefix="ssmc-verify-") as folder:
        question, answer = Path(folder, "question"), Path(folder, "answer")
        question.write_bytes(pickle.dumps((table.asked, part)))
        command = [sys.executable, "-m", "ssmc.verify.workers", str(question), str(answer)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if not answer.exists():
            label = f"{part.target}, {part.storage}" if part.target else "equations"
            last = done.stderr.strip().rpartition("\n")[2]
            note = f"the process ended with status {done.returncode}" + (f": {last}" if last else "")
            return [Row(label, "process", "is there an answer at all", EXACT, 1, None, FAILS, note)]
        result: Any = pickle.loads(answer.read_bytes())
    if isinstance(result, BaseException):
        raise result
    rows: list[Row] = result
    return rows


def _answer(question: Path, answer: Path) -> None:
    from .conformance import Conformance

    asked, part = pickle.loads(question.read_bytes())
    try:
        result: Any = Conformance(asked).rows(part)
    except Exception as error:
        result = error
    made = answer.with_suffix(".part")
    made.write_bytes(pickle.dumps(result))
    made.rename(answer)


if __name__ == "__main__":
    _answer(Path(sys.argv[1]), Path(sys.argv[2]))
