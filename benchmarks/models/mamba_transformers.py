"""Mamba-130m, forward, beside transformers, which takes twenty seconds for it."""

from __future__ import annotations

from benchmarks.models.mamba import PRODUCTS, forward
from benchmarks.models.setting import mamba_130m
from benchmarks.timing import Case, Goal

NAME = "transformers"


def cases(quick: bool) -> list[Case]:
    goals = (Goal("ssmc", (NAME,), 0.1), Goal("ssmc", (NAME,), 0.05, less=PRODUCTS))
    return [forward(mamba_130m(), "Mamba-130m", 128 if quick else 2048, NAME, goals)]
