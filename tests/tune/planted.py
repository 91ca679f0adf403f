"""A job with plans that end the process, never end, and compute something else."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, fields
from typing import Any

from ssmc.passes import PlanOptions
from ssmc.runtime import Examined
from ssmc.tune import Job
from ssmc.tune.worker import Bench

CRASHES, HANGS, WRONG, REFUSED, GOOD = "lanes=64", "lanes=128", "lanes=256", "threads=64", "lanes=32,tile=0"


@dataclass(frozen=True)
class Planted(Job):
    """See the module."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Planted, tuple(getattr(self, item.name) for item in fields(self))

    def examined(self, plan: str | PlanOptions = "") -> Examined:
        if plan == CRASHES:
            os.abort()
        if plan == HANGS:
            time.sleep(600)
        found = super().examined("" if plan == WRONG else plan)
        if plan == WRONG:
            prepared = found.prepared

            def spoilt(name: str, values: Any) -> Any:
                made = prepared(name, values)
                run = made.run
                made.run = lambda: (run(), made.made[0].view(-1)[0].add_(1.0))[0]
                return made

            found.prepared = spoilt  # type: ignore[method-assign]
        return found


def job(what: str = "forward") -> Planted:
    return Planted("affine_scan", {"b": 1, "t": 65, "d": 40}, what)


__all__ = ["CRASHES", "GOOD", "HANGS", "REFUSED", "WRONG", "Bench", "Planted", "job"]
