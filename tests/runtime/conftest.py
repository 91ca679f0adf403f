"""What tests of the runtime share."""

from __future__ import annotations

import pytest


@pytest.fixture
def fast_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed is tested, not how fast: a C compiler that does not optimise takes a fifth of the time."""
    monkeypatch.setenv("SSMC_CFLAGS", "-O0")
