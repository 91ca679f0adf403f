"""The physical floors of calls, which `ssmc tune` knows of GPUs; and the speeds of this processor in a GPU's place."""

from __future__ import annotations

from ssmc.tune.floors import KNOWN, Floor, Speeds, floor_of, of_gpu

__all__ = ["KNOWN", "Floor", "Speeds", "floor_of", "of_gpu", "of_processor"]


def of_processor() -> Speeds:
    """Those of this processor, measured."""
    from ssmc.explain import machine

    found = machine(2)
    return Speeds(found.bytes, found.exponentials, found.flops / 2, 0.0, f"{found.name}, measured")
