"""Mamba-130m in training."""

from __future__ import annotations

from benchmarks.models.mamba import training
from benchmarks.models.setting import mamba_130m
from benchmarks.timing import Case


def cases(quick: bool) -> list[Case]:
    return [training(mamba_130m(), 64 if quick else 512)]
