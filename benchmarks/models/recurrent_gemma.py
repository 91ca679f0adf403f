"""RecurrentGemma, six layers, forward."""

from __future__ import annotations

from benchmarks.models.mamba import forward
from benchmarks.models.setting import recurrent_gemma_6
from benchmarks.timing import Case, Goal


def cases(quick: bool) -> list[Case]:
    length = 128 if quick else 2048
    beside = ("transformers", "ssmc, bfloat16")
    goals = (Goal("ssmc", beside[:1]),), (Goal("ssmc, bfloat16", ("ssmc",), 1 / 1.6),)
    name = "RecurrentGemma, 6 layers"
    return [forward(recurrent_gemma_6(), name, length, b, g) for b, g in zip(beside, goals, strict=True)]
