"""RecurrentGemma, six layers, forward."""

from __future__ import annotations

from benchmarks.models.mamba import forward
from benchmarks.models.setting import recurrent_gemma_6
from benchmarks.timing import Case, Goal


def cases(quick: bool) -> list[Case]:
    goals = (Goal("ssmc", ("transformers",)),)
    return [forward(recurrent_gemma_6(), "RecurrentGemma, 6 layers", 128 if quick else 2048, True, goals)]
