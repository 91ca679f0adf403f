"""What tests of targets share."""

from __future__ import annotations

import pytest

from ssmc.backends import c_kernel


@pytest.fixture
def threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels use all threads they are given, however small their work."""
    monkeypatch.setattr(c_kernel, "_SMALL_WORK", 0)
