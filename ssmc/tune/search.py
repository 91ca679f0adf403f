"""Which plans to try next: along one option after the other, at random, or as Optuna says.

A searcher is asked for some plans and told what became of each; it never asks for the same plan twice. Trials that
were stored earlier are told just the same, so a run goes on where another ended.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from ssmc.errors import ToolchainError, UserError
from ssmc.passes import DEFAULTS, KNOBS, PlanOptions, knobs_of


class Searcher(Protocol):
    """Where plans to try come from."""

    def ask(self, count: int) -> list[PlanOptions]:
        """Up to ``count`` plans that were not asked for before; none when there is nothing left to try."""
        ...

    def tell(self, options: PlanOptions, ratio: float | None) -> None:
        """A plan's time over that of the compiler's own plan; None if it could not be measured."""
        ...


def values_on(target: str) -> dict[str, list[Any]]:
    """The values of each option of a target that are tried, the default first."""
    return {
        name: list(dict.fromkeys((DEFAULTS[name], *KNOBS[name].words_of(target), *KNOBS[name].tried)))
        for name in knobs_of(target)
    }


def made(given: Mapping[str, Any]) -> PlanOptions | None:
    """The plan with these options; None if they do not go together."""
    try:
        return PlanOptions(**given)
    except UserError:
        return None


class Descent:
    """Along one option after the other, from the best plan so far, until no option makes it better."""

    def __init__(self, target: str, seed: int) -> None:
        self._values = values_on(target)
        self._best, self._least = PlanOptions(), 1.0
        self._asked = {PlanOptions()}
        self._steps = self._walk()
        self._waiting: list[PlanOptions] = []

    def _walk(self) -> Iterator[list[PlanOptions]]:
        """Neighbours of the best plan along each option in turn; ends after a round that brought nothing."""
        before: PlanOptions | None = None
        while before != self._best:
            before = self._best
            for name, values in self._values.items():
                here = dict(self._best.chosen)
                yield [p for value in values if (p := made({**here, name: value})) is not None]

    def ask(self, count: int) -> list[PlanOptions]:
        while not self._waiting:
            try:
                self._waiting = [p for p in next(self._steps) if p not in self._asked]
            except StopIteration:
                return []
        asked, self._waiting = self._waiting[:count], self._waiting[count:]
        self._asked |= {*asked}
        return asked

    def tell(self, options: PlanOptions, ratio: float | None) -> None:
        if ratio is not None and ratio < self._least:
            self._best, self._least = options, ratio


class Draws:
    """At random."""

    MOST = 10_000

    def __init__(self, target: str, seed: int) -> None:
        self._values, self._draw = values_on(target), random.Random(seed)
        self._asked = {PlanOptions()}

    def ask(self, count: int) -> list[PlanOptions]:
        found: list[PlanOptions] = []
        for _ in range(self.MOST):
            plan = made({name: self._draw.choice(values) for name, values in self._values.items()})
            if plan is not None and plan not in self._asked:
                self._asked.add(plan)
                found.append(plan)
            if len(found) == count:
                break
        return found

    def tell(self, options: PlanOptions, ratio: float | None) -> None:
        pass


class Optuna:
    """As Optuna's sampler of conditional densities says."""

    TRIES = 50

    def __init__(self, target: str, seed: int) -> None:
        try:
            import optuna
        except ImportError as error:
            raise ToolchainError("Optuna is not installed", hint="pip install 'ssmc[tune]'") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space: dict[str, Any] = {
            name: optuna.distributions.CategoricalDistribution(values) for name, values in values_on(target).items()
        }
        self._study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        self._failed = optuna.trial.TrialState.FAIL
        self._open: dict[PlanOptions, Any] = {}
        self._asked = {PlanOptions()}

    def ask(self, count: int) -> list[PlanOptions]:
        found: list[PlanOptions] = []
        for _ in range(self.TRIES * count):
            if len(found) == count:
                break
            trial = self._study.ask(self._space)
            plan = made(trial.params)
            if plan is None or plan in self._asked:
                self._study.tell(trial, state=self._failed)
                continue
            self._asked.add(plan)
            self._open[plan] = trial
            found.append(plan)
        return found

    def tell(self, options: PlanOptions, ratio: float | None) -> None:
        trial = self._open.pop(options, None)
        if trial is not None and ratio is None:
            self._study.tell(trial, state=self._failed)
        elif trial is not None:
            self._study.tell(trial, ratio)


SEARCHERS: Mapping[str, Callable[[str, int], Searcher]] = {"descent": Descent, "random": Draws, "optuna": Optuna}
