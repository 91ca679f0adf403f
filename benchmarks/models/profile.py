"""Where the time of both models goes: matrix products, ours, and the rest of PyTorch's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.models.setting import mamba_130m, recurrent_gemma_6

PRODUCTS = {"mm", "addmm", "mv", "addmv", "bmm", "baddbmm", "linear", "_linear_pointwise", "dot"}
ATTENTION = "attention"


def profiles(say: Any, quick: bool) -> Iterator[dict[str, Any]]:
    """A table for each model and way of running it."""
    length, shorter = (64, 32) if quick else (2048, 512)
    mamba, gemma = mamba_130m(), recurrent_gemma_6()
    ids, few = mamba.tokens(length), mamba.tokens(shorter)
    others = gemma.tokens(length)
    yield _table("Mamba-130m, forward", length, say, lambda: mamba.model(ids, use_cache=False))
    yield _table("RecurrentGemma, 6 layers, forward", length, say, lambda: gemma.model(others, use_cache=False))

    def step() -> None:
        with torch.enable_grad():
            mamba.model(few, labels=few, use_cache=False).loss.backward()

    mamba.model.train()
    yield _table("Mamba-130m, forward and backward", shorter, say, step)
    mamba.model.eval()


def _table(name: str, length: int, say: Any, run: Callable[[], Any]) -> dict[str, Any]:
    """Milliseconds of one run, by what took them; the run before is not looked at."""
    say(f"profile: {name}")
    run()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        run()
    spent: dict[str, float] = {}
    for event in found.key_averages():
        kind = _kind(str(event.key))
        spent[kind] = spent.get(kind, 0.0) + event.self_cpu_time_total / 1e3
    whole = sum(spent.values())
    kinds = sorted(spent, key=lambda kind: -spent[kind])
    shown = [kind for kind in kinds if spent[kind] >= 0.002 * whole]
    rows = [(kind, spent[kind]) for kind in shown] + [
        ("less than 0.2 % each", sum(spent[k] for k in kinds[len(shown) :]))
    ]
    shares = {"matrix products": spent.get("matrix products", 0.0)}
    shares["ours"] = sum(value for kind, value in spent.items() if kind.startswith("ssmc "))
    shares["other of PyTorch"] = whole - sum(shares.values())
    text = ", ".join(f"{kind} {100 * value / whole:.1f} %" for kind, value in shares.items())
    return {
        "name": f"profile of {name}",
        "sizes": {"b": 1, "t": length},
        "unit": "ms",
        "rows": [{"name": kind, "median": v, "min": v, "max": v, "count": 1} for kind, v in rows],
        "goals": [{"text": text, "value": shares["matrix products"] / whole, "met": None}],
    }


def _kind(operator: str) -> str:
    """What a row of the profiler belongs to."""
    space, _, name = operator.rpartition("::")
    if space.startswith("ssmc"):
        return "ssmc " + re.sub("_[0-9a-f]{16}", "", name).replace("_derived", ", training")
    if name in PRODUCTS:
        return "matrix products"
    return ATTENTION if ATTENTION in name else operator
