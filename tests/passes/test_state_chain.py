"""States of plain, padded and packed calls are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from ssmc.ir import Program, complete_extents
from ssmc.ir.interpret import interpret
from ssmc.passes import mask, pack, rows, step
from tests.passes.meanings import LAYERS, documents_of
from tests.strategies import inputs_for

CHAINED = (
    "selective_scan()",
    "causal_conv1d()",
    "griffin_conv1d()",
    "lstm()",
    "ssd(dt_max=0.5)",
    "local_attention(window=3, no segment_pos)",
    "mamba_inner()",
    "h3_truncated(length=3)",
)


@pytest.mark.parametrize("name", CHAINED)
def test_a_state_goes_from_padded_to_plain_to_packed_and_back(name: str) -> None:
    """The states of all forms are the same: tokens come in pieces of every form, and it is one sequence."""
    case = next(case for case in LAYERS if case.name == name)
    whole = case.program()
    taking = step(whole, takes=True, gives=True)
    sizes = {
        **complete_extents(whole, {a.name: case.sizes.get(a.name, 1) for a in whole.axes if a.extent is None}),
        "t": 11,
        "b": 2,
    }
    inputs = inputs_for(whole, sizes, np.random.default_rng(2))
    expected = interpret(whole, inputs)
    chain = _Chain(whole, inputs)
    chain.run(mask(step(whole, takes=False, gives=True)), ["..xx.x", "x....."])
    chain.run(rows(taking), ["xx", "xx"])
    chain.run_packed(pack(taking), [1, 4])
    chain.run(mask(taking), ["...", "x.."])
    chain.run(mask(taking), ["xxxxx", "xxx.."])
    assert chain.done == [11, 11]
    for name, array in expected.items():
        for row in range(2):
            found = np.concatenate(
                [part[row] for part in chain.found[name]], axis=whole.tensors()[name].axes.index("t") - 1
            )
            np.testing.assert_allclose(found, array[row], 1e-10, 1e-10, err_msg=name)


class _Chain:
    """Calls one after the other on what is left of each row; the batch is the first axis."""

    def __init__(self, whole: Program, inputs: Mapping[str, np.ndarray]) -> None:
        self.whole, self.inputs = whole, inputs
        self.axes = {name: tensor.axes for name, tensor in whole.tensors().items()}
        self.done = [0, 0]
        self.state: dict[str, np.ndarray] = {}
        self.found: dict[str, list[list[np.ndarray]]] = {name: [] for name in whole.outputs}

    def run(self, program: Program, valid: list[str]) -> None:
        """A plain call, or one with padding."""
        given: dict[str, Any] = {"t.valid": np.array([[mark == "x" for mark in row] for row in valid])}
        counts = given["t.valid"].sum(1)
        for name, array in self.inputs.items():
            given[name] = array
            if "t" in self.axes[name]:
                time = self.axes[name].index("t")
                shape = (*array.shape[:time], len(valid[0]), *array.shape[time + 1 :])
                given[name] = np.full(shape, np.nan if array.dtype.kind in "fc" else 1).astype(array.dtype)
                for row in range(2):
                    places = np.flatnonzero(given["t.valid"][row])
                    np.moveaxis(given[name][row], time - 1, 0)[places] = np.moveaxis(
                        self._next(name, row, counts[row]), time - 1, 0
                    )
        found = interpret(program, {t.name: {**given, **self.state}[t.name] for t in program.inputs})
        for name in self.whole.outputs:
            parts = [np.compress(given["t.valid"][row], found[name][row], self.time(name)) for row in range(2)]
            self.found[name].append(parts)
        self._advance(counts, {name: array for name, array in found.items() if name not in self.whole.outputs})

    def run_packed(self, program: Program, counts: list[int]) -> None:
        """The rows as documents of one row."""
        given: dict[str, Any] = {f"t.{name}": array for name, array in documents_of(counts).items()}
        for name, array in self.inputs.items():
            given[name] = array
            if "t" in self.axes[name]:
                parts = [self._next(name, row, counts[row])[None] for row in range(2)]
                given[name] = np.concatenate(parts, self.time(name) + 1)
        states = {name: array[:, None] if name != "t.offset" else array for name, array in self.state.items()}
        found = interpret(program, {t.name: {**given, **states}[t.name] for t in program.inputs})
        for name in self.whole.outputs:
            self.found[name].append(np.split(found[name][0], [counts[0]], self.time(name)))
        after = {name: array for name, array in found.items() if name not in self.whole.outputs}
        self._advance(counts, {name: array if array.ndim == 1 else array[:, 0] for name, array in after.items()})

    def _next(self, name: str, row: int, count: int) -> np.ndarray:
        """The next tokens of a row."""
        places = range(self.done[row], self.done[row] + count)
        return np.take(self.inputs[name][row], places, self.time(name))

    def time(self, name: str) -> int:
        """The place of the sequence axis in one row of a tensor."""
        return self.axes[name].index("t") - 1

    def _advance(self, counts: Any, after: Mapping[str, np.ndarray]) -> None:
        self.done = [done + int(count) for done, count in zip(self.done, counts, strict=True)]
        self.state = {
            "t.offset" if name == "t.next_offset" else f"{name.removesuffix('.next')}.state": array
            for name, array in after.items()
        }
