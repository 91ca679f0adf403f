"""What the strategy generates is well-formed, evaluates to moderate values, and covers the language."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from ssmc.ir import Program, Reduce, Where, walk
from ssmc.ir.interpret import interpret
from tests.strategies import DIFFERENTIATED, EVERYTHING, Features, extents, inputs_for, programs

SLOW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SLOW
@given(st.one_of(programs(), programs(DIFFERENTIATED)), st.data())
def test_values_are_moderate(program: Program, data: st.DataObject) -> None:
    sizes = data.draw(extents(program))
    values = interpret(program, inputs_for(program, sizes, np.random.default_rng(0)), keep="all")
    for name, array in values.items():
        assert array.shape == tuple(sizes[axis] for axis in program.tensors()[name].axes)
        assert np.isfinite(array).all() and np.abs(array).max(initial=0) < 1e6, name


def test_features_can_be_switched_off() -> None:
    none = Features(
        recurrences=False, windows=False, bands=False, unbounded=False, gathers=False, equal_codes=False,
        integers=False, complex_values=False, conditions=False, extensions=False, functions=False,
        transforms=False, positions=False, folds=("sum",),
    )  # fmt: skip

    @SLOW
    @given(programs(none))
    def check(program: Program) -> None:
        nodes = [node for equation in program.equations for node in walk(equation.expr)]
        assert not any(isinstance(node, Where) for node in nodes)
        assert all(node.kind == "sum" for node in nodes if isinstance(node, Reduce))
        assert not program.extensions and not program.functions

    check()


def test_every_construct_is_reached() -> None:
    def kinds(program: Program) -> set[str]:
        nodes = [node for equation in program.equations for node in walk(equation.expr)]
        return {type(node).__name__ for node in nodes} | {n.kind for n in nodes if isinstance(n, Reduce)}

    quick = settings(max_examples=3000, phases=(Phase.generate,), database=None)
    for wanted in ("Transform", "Call", "Where", "Size", *EVERYTHING.folds):
        find(programs(), lambda program, wanted=wanted: wanted in kinds(program), settings=quick)
