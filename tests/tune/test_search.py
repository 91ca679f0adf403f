"""Searchers: they never ask twice, and find what there is to find."""

from __future__ import annotations

import importlib.util
import math

import pytest

from ssmc.backends import TARGETS
from ssmc.errors import ToolchainError
from ssmc.passes import PlanOptions, knobs_of
from ssmc.tune import SEARCHERS
from ssmc.tune.search import Searcher, values_on

HAS_OPTUNA = importlib.util.find_spec("optuna") is not None
HERE = [name for name in SEARCHERS if name != "optuna" or HAS_OPTUNA]


def ratio(options: PlanOptions) -> float:
    """A time that is least for lanes=64, tile=8, states=4."""
    lanes = abs(math.log2((options.lanes or 16) / 64))
    return 0.5 + 0.1 * lanes + 0.05 * (options.tile != 8) + 0.05 * (options.states != 4)


def asked(searcher: Searcher, most: int = 60, width: int = 2) -> list[PlanOptions]:
    found: list[PlanOptions] = []
    while len(found) < most and (new := searcher.ask(width)):
        assert len(new) <= width
        for options in new:
            searcher.tell(options, None if options.lanes == 256 else ratio(options))
        found += new
    return found


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("target", TARGETS)
def test_no_plan_is_asked_for_twice(name: str, target: str) -> None:
    found = asked(SEARCHERS[name](target, 0))
    assert len({*found}) == len(found) > 5 and PlanOptions() not in found
    for options in found:
        options.check(target)


@pytest.mark.parametrize("name", HERE)
def test_the_same_seed_asks_the_same(name: str) -> None:
    assert asked(SEARCHERS[name]("c", 3), 20) == asked(SEARCHERS[name]("c", 3), 20)


def test_descent_finds_the_least_of_independent_options() -> None:
    found = asked(SEARCHERS["descent"]("c", 0), 1000)
    assert min(found, key=ratio) == PlanOptions(lanes=64, tile=8, states=4)
    assert len(found) < 40  # of the 144 that there are


@pytest.mark.skipif(not HAS_OPTUNA, reason="Optuna is not installed: pip install 'ssmc[tune]'")
def test_optuna_finds_it_too() -> None:
    found = asked(SEARCHERS["optuna"]("c", 0), 100, 1)
    assert ratio(min(found, key=ratio)) <= 0.55


def test_every_option_is_tried() -> None:
    for target in TARGETS:
        assert {*values_on(target)} == {*knobs_of(target)}
        assert all(len(values) > 1 for values in values_on(target).values())


def test_without_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ToolchainError, match=r"Optuna is not installed(.|\n)*ssmc\[tune\]"):
        SEARCHERS["optuna"]("c", 0)
