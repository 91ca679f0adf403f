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


@pytest.fixture(autouse=True)
def _compiler_that_does_not_optimise(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed is tested, not how fast: this takes a fifth of the time. Operators are shared by all tests of a
    process, and what is compiled with other flags may round otherwise: so it is this for all that call operators.
    Tests of the compiler itself say what they want."""
    if "backends" not in set(request.path.relative_to(request.config.rootpath).parts):
        monkeypatch.setenv("SSMC_CFLAGS", "-O0")


@pytest.fixture(autouse=True)
def _nothing_is_tuned(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found on this machine is not what is tested."""
    if "tune" not in set(request.path.relative_to(request.config.rootpath).parts):
        monkeypatch.setenv("SSMC_TUNED", "0")
