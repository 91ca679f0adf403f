"""What each streaming layer of the library carries, and that a sequence in pieces is the sequence whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ssmc.analysis import Counter, carried_state
from ssmc.dsl import Choice, elaborate, library_names, load_module
from ssmc.ir import Program
from ssmc.ir.interpret import interpret
from tests.passes.continuation import run_pieces

SIZES = {"b": 2, "t": 6, "d": 6, "h": 2, "i": 3, "j": 3, "n": 2, "m": 4, "p": 2, "g": 2, "k": 3, "e": 8, "f": 3}
SIZES |= {"l": 4, "r": 2, "s": 3, "c": 2}

# layer → what is carried; `position` stands for a counter. Further sizes and static parameters follow.
CARRIED: dict[str, tuple[set[str], dict[str, int], dict[str, Any]]] = {
    "affine_scan": ({"h"}, {}, {}),
    "affine_scan:affine_scan_complex": ({"h"}, {}, {}),
    "affine_scan:log_affine_scan": ({"h"}, {}, {}),
    "causal_conv1d": ({"x"}, {}, {}),
    "gated_delta": ({"S"}, {}, {}),
    "griffin_block:griffin_recurrent": ({"v", "rg_lru_gated.h"}, {"f": 6, "m": 6}, {}),
    "griffin_conv1d": ({"x"}, {}, {}),
    "h3": ({"shift_ssm.s", "s4d.x"}, {}, {}),
    "h3:h3_truncated": ({"k", "kv", "position"}, {}, {"length": 3}),
    "local_attention": ({"k_turned", "v", "position"}, {}, {"window": 2}),
    "long_conv": ({"u", "position"}, {}, {}),
    "lstm": ({"y", "c"}, {"g": 4, "k": 8}, {}),
    "mamba_block": ({"v", "h"}, {"f": 12, "q": 6}, {}),
    "mamba_inner": ({"x", "selective_scan.h"}, {}, {}),
    "mamba2_inner": ({"xBC", "ssd.ssd_discrete.S"}, {"c": 10}, {"states": 2}),
    "rg_lru": ({"rg_lru_gated.h"}, {}, {}),
    "rg_lru:rg_lru_gated": ({"h"}, {}, {}),
    "s4d": ({"x"}, {}, {}),
    "s4d:s4d_channels": ({"s4d.x"}, {}, {}),
    "selective_scan": ({"h"}, {}, {}),
    "selective_scan:selective_scan_complex": ({"h"}, {}, {}),
    "shift_ssm": ({"s"}, {}, {}),
    "ssd": ({"ssd_discrete.S"}, {}, {}),
    "ssd:ssd_discrete": ({"S"}, {}, {}),
}


def program_of(layer: str) -> Program:
    """The layer with nothing given that may be absent."""
    module_name, _, name = layer.partition(":")
    return elaborate(load_module(module_name), name or module_name, Choice(CARRIED[layer][2], frozenset()))


@pytest.mark.parametrize("layer", CARRIED)
def test_layer_carries_its_state(layer: str) -> None:
    state = carried_state(program_of(layer))
    assert {"position" if isinstance(item, Counter) else item.name for item in state} == CARRIED[layer][0]


@pytest.mark.parametrize("layer", CARRIED)
def test_layer_in_pieces_is_the_layer_whole(layer: str) -> None:
    program, sizes = program_of(layer), SIZES | CARRIED[layer][1]
    rng = np.random.default_rng(3)
    inputs: dict[str, Any] = {}
    for item in program.inputs:
        shape = tuple(sizes[axis] for axis in item.axes)
        inputs[item.name] = rng.integers(0, 4, shape) if item.dtype.value == "int" else 0.5 * rng.normal(size=shape)
    whole = interpret(program, inputs)
    for cuts in ([3], [0, 1, 5], range(1, sizes["t"])):
        found = run_pieces(program, inputs, cuts)
        for name, expected in whole.items():
            np.testing.assert_allclose(found[name], expected, rtol=1e-12, atol=1e-12)


def test_every_layer_with_a_sequence_axis_is_listed() -> None:
    """Of the library's first layers; those without one (attention over all tokens) cannot be streamed."""
    for name in library_names():
        module = load_module(name)
        if elaborate(module, module.layers[0], Choice(present=frozenset())).sequence_axes:
            assert {name, f"{name}:{module.layers[0]}"} & CARRIED.keys()
