"""What tests of the command line share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ssmc import cli


class Ran:
    """What one command line printed and exited with."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def object(self) -> dict[str, Any]:
        """What was printed with ``--json``."""
        found = json.loads(self.out)
        assert found["version"] == 1 and found["exit"] == self.code and found["ok"] == (self.code == 0)
        assert isinstance(found, dict)
        return found


@pytest.fixture
def ssmc(capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line in this process."""

    def run(*arguments: str | Path) -> Ran:
        code = cli.run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err and "\x1b" not in captured.out + captured.err
        return Ran(code, captured.out, captured.err)

    return run
