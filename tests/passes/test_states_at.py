"""The state after some indices is that of a call on so many."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st

from ssmc.errors import Unsupported, UserError
from ssmc.ir import Program, complete_extents, print_program, verify
from ssmc.ir.interpret import interpret
from ssmc.passes import mask, pack, reverse, states_at, step
from tests.building import before, equation, fold, index, program, read, tensor
from tests.library_cases import Case
from tests.passes.meanings import LAYERS, check_form, check_gradient, run_masked, run_reversed, same
from tests.strategies import CAUSAL, extents, inputs_for, programs

SAMPLED = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
t = index("t")


def arguments(program: Program, sizes: Mapping[str, int], stops: list[int] | list[list[int]]) -> dict[str, np.ndarray]:
    """Random inputs, and the indices after which the state is asked for."""
    at = np.array(stops, np.int64)
    sizes = {**sizes, "t.stops": at.shape[-1]}
    sizes = complete_extents(program, {axis.name: sizes[axis.name] for axis in program.axes if axis.extent is None})
    found = inputs_for(program, sizes, np.random.default_rng(0)) | {"t.at": at}
    if "t.valid" in found:
        found["t.valid"] = np.random.default_rng(1).random(found["t.valid"].shape) < 0.6
    return found


def run_prefixes(stepped: Program, inputs: Mapping[str, np.ndarray], each: bool) -> dict[str, np.ndarray]:
    """The outputs of the whole, and the state after each prefix; with ``each`` row of b at places of its own."""
    tensors = stepped.tensors()
    whole = {tensor.name: inputs[tensor.name] for tensor in stepped.inputs}

    def run(length: int) -> dict[str, np.ndarray]:
        axes = {name: tensors[name].axes for name in whole}
        parts = {n: np.take(a, range(length), axes[n].index("t")) if "t" in axes[n] else a for n, a in whole.items()}
        return interpret(stepped, parts)

    found: dict[str, np.ndarray] = {}
    for name, array in interpret(stepped, whole).items():
        if ".next" not in name:
            found[name] = array
        elif not each:
            found[name.replace(".next", ".at")] = np.stack([run(int(at))[name] for at in inputs["t.at"]])
        else:
            axes = tensors[name].axes
            place = axes.index("b") if "b" in axes else 0
            kept = [[run(int(at))[name] for at in row] for row in inputs["t.at"]]
            if "b" in axes:
                kept = [[np.take(state, row, place) for state in states] for row, states in enumerate(kept)]
            found[name.replace(".next", ".at")] = np.stack([np.stack(row, place) for row in kept], place)
    return found


def check(stepped: Program, sizes: Mapping[str, int], stops: list[int], batch: tuple[str, ...] = ()) -> Program:
    found = states_at(stepped, batch)
    check_form(found)
    inputs = arguments(
        found, sizes, [stops if row % 2 else stops[::-1] for row in range(sizes["b"])] if batch else stops
    )
    same(interpret(found, inputs), run_prefixes(stepped, inputs, bool(batch)))
    return found


@SAMPLED
@given(programs(CAUSAL), st.data())
def test_random_steps(given: Program, data: st.DataObject) -> None:
    stepped = step(given, takes=data.draw(st.booleans()), gives=True)
    assume(stepped.outputs != given.outputs)
    batch = data.draw(st.sampled_from(((), ("b",))))
    if data.draw(st.booleans()):
        try:
            stepped = mask(stepped, ("b",))
        except Unsupported:
            assume(False)
    note(print_program(stepped))
    sizes = data.draw(extents(stepped, longest=7))
    check(stepped, sizes, data.draw(st.lists(st.integers(0, sizes["t"]), min_size=1, max_size=4)), batch)


CARRYING = [case for case in LAYERS if case.name not in ("long_conv()",) and case.program().sequence_axes]


@pytest.mark.parametrize("case", CARRYING, ids=lambda case: case.name)
def test_library(case: Case) -> None:
    stepped = step(case.program(), takes=True, gives=True)
    sizes = {**case.sizes, "t": 5}
    check(stepped, sizes, [0, 5, 1, 3, 3])
    found = check(mask(stepped), sizes, [4, 0, 5, 2], ("b",))
    stops = [[4, 0, 5], [0, 1, 3]][: sizes["b"]]
    check_gradient(found, arguments(found, sizes, stops), np.random.default_rng(1))


def test_the_text() -> None:
    taps = fold("sum", "j", read("w", "j") * read("x", t - index("j")))
    given = program(
        [tensor("x t"), tensor("w j"), tensor("h0")],
        [equation("u t", taps * t), equation("h t", 0.5 * read("h", t - 1) + read("u", "t"))],
        "h",
        extensions=[before("h", "t", read("h0"))],
    )
    assert (
        print_program(states_at(step(given, takes=False, gives=True)))
        == """\
layer test(x[t], w[j], h0[], t.at[t.stops]: int) -> h[t], x.at[t.stops, x.past], h.at[t.stops, h.past], t.at_offset[t.stops]: int:
    seq t
    axis x.past < #j - 1
    axis h.past < 1
    u[t] = sum[j](w * x[t-j]) * t
    h[t] = 0.5 * h[t-1] + u
    h[t<0] = h0
    x.at[t.stops, x.past] = where(t.at + x.past - #j + 1 >= 0, x[t = t.at + x.past - #j + 1], 0.0)
    h.at[t.stops, h.past] = where(t.at > 0, sum[t: t == t.at - 1](h), h0)
    t.at_offset[t.stops]: int = t.at
"""  # noqa: E501
    )


def test_before_a_mask_tokens_are_counted_and_backwards_from_the_end() -> None:
    taps = fold("sum", "j", read("w", "j") * read("x", "b", t - index("j")))
    scan = 0.5 * read("h", "b", t - 1) + read("u", "b", "t")
    given = program([tensor("x b t"), tensor("w j")], [equation("u b t", taps), equation("h b t", scan)], "h")
    found = states_at(step(given, takes=True, gives=True))
    backwards, masked = reverse(found), mask(found)
    inputs = arguments(masked, {"b": 2, "t": 8, "j": 3}, [0, 1, 2])
    inputs["t.valid"][:, -3:] = True  # no more is asked for than there are
    verify(masked)
    same(interpret(masked, inputs), run_masked(found, masked, inputs, ("b",)))
    del inputs["t.valid"]
    verify(backwards)
    same(interpret(backwards, inputs), run_reversed(found, inputs))


def test_what_gives_no_state_at_its_end() -> None:
    given = program([tensor("x b t")], [equation("h b t", 0.5 * read("h", "b", t - 1) + read("x", "b", "t"))], "h")
    stepped = step(given, takes=True, gives=True)
    for other in (given, step(given, takes=True, gives=False)):
        with pytest.raises(Unsupported, match="no states-at form: it gives no state"):
            states_at(other)
    for other in (reverse(stepped), pack(stepped)):
        with pytest.raises(Unsupported, match="'h.next' is not said to be at the end of the sequence"):
            states_at(other)
    with pytest.raises(UserError, match="'t' is no batch axis"):
        states_at(stepped, ("t",))
    with pytest.raises(Unsupported, match="'t.at' is there already"):
        states_at(states_at(stepped))
