"""Mamba-130m, forward and in training."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.models.setting import LAST, Products, Setting, mamba_130m, unbinding
from benchmarks.timing import Case, Contestant, Entry, Goal, Output

PRODUCTS = "its matrix products"


def forward(setting: Setting, name: str, length: int, beside: str, goals: tuple[Goal, ...] = ()) -> Case:
    """Logits of all positions, without a cache; compared are the last ones. ``beside``: who else takes part."""

    def setup() -> tuple[Output, list[Entry]]:
        ids = setting.tokens(length)

        def run(model: Any) -> torch.Tensor:
            return model(ids, use_cache=False).logits[:, -LAST:]

        def products() -> Contestant:
            alone = Products(setting.model, length)
            return Contestant(lambda: alone.forward() or (), "fastest route of each", returns=0)

        entries = [
            Entry(PRODUCTS, products),
            Entry("ssmc", lambda: Contestant(lambda: run(setting.model))),
            Entry("ssmc, bfloat16", lambda: _of(run, setting.bfloat16()), tolerance=0.05),
            Entry("transformers", lambda: _of(run, setting.transformers()), 120),
        ]
        kept = setting.exactly(lambda model: model(ids, use_cache=False, logits_to_keep=LAST).logits)
        return kept, [entry for entry in entries if entry.name in (PRODUCTS, "ssmc", beside)]

    goals = (Goal("ssmc", (PRODUCTS,), 1.3), *goals)
    return Case(f"{name}, forward", {"b": 1, "t": length}, setup, tolerance=1e-4, goals=goals)


def _of(run: Any, model: Any) -> Contestant:
    return Contestant(lambda: run(model))


def training(setting: Setting, length: int) -> Case:
    """The loss of all positions and the gradients of all parameters; compared are the loss and three gradients."""

    def setup() -> tuple[Output, list[Entry]]:
        ids = setting.tokens(length)

        def step(model: Any) -> tuple[torch.Tensor, ...]:
            model.train()
            with torch.enable_grad():
                loss = model(input_ids=ids, labels=ids, use_cache=False).loss
                loss.backward()
            mixer = (model.backbone.layers[0] if hasattr(model, "backbone") else model.model.layers[0]).mixer
            found = [mixer.in_proj.weight.grad, mixer.A_log.grad, mixer.D.grad]
            for parameter in model.parameters():
                parameter.grad = None
            model.eval()
            return (loss.detach(), *found)

        def products() -> Contestant:
            alone = Products(setting.model, length)
            return Contestant(lambda: alone.training() or (), "forward, two gradients each", returns=0)

        def theirs() -> Contestant:
            model = setting.transformers()

            def call() -> Output:
                with unbinding():
                    return step(model)

            return Contestant(call, "scan on views by unbind")

        entries = [
            Entry(PRODUCTS, products),
            Entry("ssmc", lambda: Contestant(lambda: step(setting.model))),
            Entry("transformers, unbind", theirs, 120),
        ]
        return setting.exactly(step), entries

    goals = (Goal("ssmc", (PRODUCTS,), 1.3), Goal("ssmc", ("transformers, unbind",), 0.2))
    return Case("Mamba-130m, forward and backward", {"b": 1, "t": length}, setup, tolerance=1e-3, goals=goals)


def cases(quick: bool) -> list[Case]:
    goals = (Goal("ssmc, bfloat16", ("ssmc",), 1 / 1.6),)
    return [forward(mamba_130m(), "Mamba-130m", 128 if quick else 2048, "ssmc, bfloat16", goals)]
