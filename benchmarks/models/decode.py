"""One token after a prompt, batch 1, for both models."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.models.setting import PROMPT, Products, Setting, mamba_130m, recurrent_gemma_6
from benchmarks.timing import Case, Contestant, Entry, Goal, Output

SWEEPS = ("matrix-vector products, linear", "matrix-vector products, torch.mv")
SWEEPS_BFLOAT16 = tuple(f"{name}, bfloat16" for name in SWEEPS)


def case(setting: Setting, name: str) -> Case:
    """Every call is of the token after the one before; the first is compared."""

    def setup() -> tuple[Output, list[Entry]]:
        ids = setting.tokens(PROMPT + 1)

        def first(model: Any) -> tuple[torch.Tensor, Any]:
            made = model(ids[:, :PROMPT], use_cache=True)
            states = [getattr(made, name, None) for name in ("cache", "past_key_values")]
            if states == [None, None]:
                raise RuntimeError("its output holds no cache")
            return made.logits, states[0] if states[0] is not None else states[1]

        def stepping(model: Any, key: str = "cache") -> Contestant:
            _, state = first(model)
            return Contestant(lambda: model(ids[:, PROMPT:], **{key: state}, use_cache=True).logits)

        def exact(model: Any) -> torch.Tensor:
            _, state = first(model)
            return model(ids[:, PROMPT:], cache=state, use_cache=True).logits

        rounded = setting.bfloat16()
        alone, alone_rounded = Products(setting.model, 1), Products(rounded, 1)
        entries = [
            Entry(SWEEPS[0], lambda: Contestant(lambda: alone.forward() or (), returns=0)),
            Entry(SWEEPS[1], lambda: Contestant(lambda: alone.vectors() or (), returns=0)),
            Entry("ssmc", lambda: stepping(setting.model)),
            Entry(SWEEPS_BFLOAT16[0], lambda: Contestant(lambda: alone_rounded.forward() or (), returns=0)),
            Entry(SWEEPS_BFLOAT16[1], lambda: Contestant(lambda: alone_rounded.vectors() or (), returns=0)),
            Entry("ssmc, bfloat16", lambda: stepping(rounded), tolerance=0.05),
            Entry("transformers", lambda: stepping(setting.transformers())),
        ]
        return setting.exactly(exact), entries

    goals = (
        Goal("ssmc", SWEEPS, 1.25),
        Goal("ssmc, bfloat16", ("ssmc",), 1 / 1.6),
        Goal("ssmc, bfloat16", SWEEPS_BFLOAT16),
        Goal("ssmc", ("transformers",)),
    )
    return Case(f"{name}, one token", {"b": 1, "t": 1, "prompt": PROMPT}, setup, goals=goals)


def cases(quick: bool) -> list[Case]:
    return [case(mamba_130m(), "Mamba-130m"), case(recurrent_gemma_6(), "RecurrentGemma, 6 layers")]
