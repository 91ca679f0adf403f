"""What Triton compiles for."""

from __future__ import annotations

ARCHITECTURES = ("sm_90", "sm_80", "sm_100", "sm_120", "gfx942")
