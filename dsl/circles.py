"""Circles of equations must pass through time; written after the IR's dependence is exported."""

from __future__ import annotations

from ssmc.ir import Program

from .problems import Problems


def check_circles(program: Program, problems: Problems) -> None:
    """Placeholder."""
