"""Calls whose sequences are packed, padded, or run backwards, against plain calls on what was cut out by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import ssmc
from ssmc.errors import Unsupported, UserError
from ssmc.runtime import Layer, State
from tests.runtime.layers import mixed, scan_inputs

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Sample:
    """A layer, and its inputs for a batch of 2 and some length: those ``along`` the sequence have it as their second
    axis, those that say what is before the ``starts`` of sequences have a batch and no more."""

    name: str
    make: Callable[[], Layer]
    inputs: Callable[[int], Inputs]
    along: tuple[str, ...]
    starts: tuple[str, ...] = ()


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def scan(length: int) -> Inputs:
    found = {name: value.double() for name, value in scan_inputs(length=length, channels=3, states=2).items()}
    return {**found, "h0": normal(2, 3, 2)}


def lstm(length: int) -> Inputs:
    return {
        "x": normal(2, length, 2), "W": normal(4, 3, 2), "U": normal(4, 3, 3), "bias": normal(4, 3),
        "y0": normal(2, 3), "c0": normal(2, 3),
    }  # fmt: skip


def gated(length: int) -> Inputs:
    return {
        "x": normal(2, length, 4), "W_a": normal(2, 2, 2), "b_a": normal(2, 2), "W_x": normal(2, 2, 2),
        "b_x": normal(2, 2), "Lambda": normal(4), "h0": normal(2, 4),
    }  # fmt: skip


def conv(length: int) -> Inputs:
    return {"x": normal(2, length, 3), "w": normal(3, 4), "bias": normal(3), "x0": normal(2, 3, 3)}


def affine(length: int) -> Inputs:
    return {"a": torch.rand(2, length, 3, dtype=torch.float64), "x": normal(2, length, 3), "h0": normal(2, 3)}


def positions(length: int) -> Inputs:
    return {"x": normal(2, length, 3), "w": normal(3, 3), "z": normal(2, length, 3)}


SAMPLES = (
    Sample("selective_scan", lambda: ssmc.load("selective_scan"), scan, ("x", "dt", "B", "C"), ("h0",)),
    Sample("causal_conv1d", lambda: ssmc.load("causal_conv1d", activation="silu"), conv, ("x",), ("x0",)),
    Sample("rg_lru", lambda: ssmc.load("rg_lru"), gated, ("x",), ("h0",)),
    Sample("lstm", lambda: ssmc.load("lstm"), lstm, ("x",), ("y0", "c0")),
    Sample("affine_scan", lambda: ssmc.load("affine_scan"), affine, ("a", "x"), ("h0",)),
    Sample("positions", lambda: mixed(gated=True), positions, ("x", "z")),
)
every_layer = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
some_layers = pytest.mark.parametrize(
    "sample",
    [
        pytest.param(sample, marks=[pytest.mark.slow] if sample.name in ("rg_lru", "lstm") else [], id=sample.name)
        for sample in SAMPLES
    ],
)


def part(sample: Sample, inputs: Inputs, rows: slice, places: Any) -> Inputs:
    """The inputs for some rows of the batch and some places in their sequences."""
    found = {}
    for name, value in inputs.items():
        if name in sample.along:
            found[name] = value[rows][:, places]
        else:
            found[name] = value[rows] if name in sample.starts else value
    return found


def outputs(made: Any) -> tuple[tuple[Tensor, ...], State]:
    """The outputs and the state that a call returned."""
    *found, state = made
    return tuple(found), state


Call = Callable[[Inputs, State | None], tuple[tuple[Tensor, ...], State]]


def agree(sample: Sample, found: Call, wanted: Call, inputs: Inputs, state: State | None) -> State:
    """Both give the same outputs, states, and gradients for all inputs and the state; return the state."""
    torch.manual_seed(1)
    weights: dict[int, Tensor] = {}
    grads, states = [], []
    for call in (found, wanted):
        given = {name: value.detach().requires_grad_() for name, value in inputs.items()}
        before = state
        if state is not None:
            given = {name: value for name, value in given.items() if name not in sample.starts}
            before = State(state.names, [_leaf(value) for value in state])
        outs, after = call(given, before)
        loss = torch.zeros((), dtype=torch.float64)
        for number, value in enumerate((*outs, *after)):
            weight = weights.setdefault(number, torch.randn(value.shape, dtype=torch.float64))
            loss = loss + (weight * value).sum()
        leaves = [*given.values(), *([] if before is None else [v for v in before if v.requires_grad])]
        slopes = torch.autograd.grad(loss, leaves, allow_unused=True)
        slopes = tuple(torch.zeros_like(v) if g is None else g for g, v in zip(slopes, leaves, strict=True))
        grads.append((outs, tuple(after), slopes))
        states.append(after)
    for one, other in zip(grads[0], grads[1], strict=True):
        same(one, other)
    return State(states[0].names, [value.detach() for value in states[0]])


def same(found: Any, wanted: Any) -> None:
    pairs = list(zip(pytree.tree_leaves(found), pytree.tree_leaves(wanted), strict=True))
    assert pairs
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=1e-11, rtol=1e-11)


def _leaf(value: Tensor) -> Tensor:
    return value.detach().requires_grad_(value.is_floating_point())


def document(state: State | None, *index: Any) -> State | None:
    """The part of a state that belongs to one document, or to one row."""
    if state is None:
        return None
    return State(state.names, [value[index] if value.dim() else value for value in state])


# ---------------------------------------------------------------- packed


@every_layer
def test_documents_that_all_rows_share(sample: Sample) -> None:
    """Some are empty, some shorter than a window. Each continues from its own state."""
    op = sample.make()
    state = None
    for offsets in ([0, 3, 3, 4, 9], [0, 0, 2, 7, 8]):
        places = [slice(*pair) for pair in pairwise(offsets)]

        def by_hand(inputs: Inputs, state: State | None, places: Any = places) -> Any:
            made = [
                outputs(op(**part(sample, inputs, slice(None), at), state=document(state, n), return_state=True))
                for n, at in enumerate(places)
            ]
            joined = tuple(torch.cat(parts, 1) for parts in zip(*(outs for outs, _ in made), strict=True))
            return joined, stacked([after for _, after in made])

        def packed(inputs: Inputs, state: State | None, offsets: Any = offsets) -> Any:
            return outputs(op(**inputs, state=state, return_state=True, cu_seqlens=torch.tensor(offsets)))

        state = agree(sample, packed, by_hand, sample.inputs(offsets[-1]), state)


def stacked(states: Sequence[State], axis: int = 0) -> State:
    return State(states[0].names, [torch.stack(values, axis) for values in zip(*states, strict=True)])


@some_layers
def test_documents_of_each_row(sample: Sample) -> None:
    """By numbers and by positions: rows have different numbers of them; those that a row lacks are empty."""
    op, length = sample.make(), 8
    own = sample.name != "causal_conv1d"  # which has a `seq_idx` of its own
    numbers = torch.tensor([[4, 4, 4, 0, 0, 0, 0, 4], [1, 1, 1, 1, 1, 1, 1, 1]])
    begins = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 0], [0, 1, 2, 3, 4, 5, 6, 7]])
    places = [[slice(0, 3), slice(3, 7), slice(7, 8)], [slice(0, 8), slice(8, 8), slice(8, 8)]]
    state = None
    for _ in range(2):

        def by_hand(inputs: Inputs, state: State | None) -> Any:
            rows, afters = [], []
            for row, own in enumerate(places):
                one = slice(row, row + 1)
                made = [
                    outputs(op(**part(sample, inputs, one, at), state=_of_row(state, row, n), return_state=True))
                    for n, at in enumerate(own)
                ]
                rows.append([torch.cat(parts, 1) for parts in zip(*(outs for outs, _ in made), strict=True)])
                afters.append(
                    State(
                        made[0][1].names,
                        [
                            torch.stack([v if v.dim() == 0 else v[0] for v in values])
                            for values in zip(*(after for _, after in made), strict=True)
                        ],
                    )
                )
            return tuple(torch.cat(parts) for parts in zip(*rows, strict=True)), stacked(afters)

        def packed(inputs: Inputs, state: State | None) -> Any:
            return outputs(op(**inputs, state=state, return_state=True, position_ids=begins.int()))

        inputs = sample.inputs(length)
        if own and state is None:
            whole = op(**inputs, position_ids=begins, return_state=True)
            same(op(**inputs, seq_idx=numbers, return_state=True), whole)
            same([op(**inputs, seq_idx=numbers)], [whole[0] if len(whole) == 2 else whole[:-1]])
        state = agree(sample, packed, by_hand, inputs, state)


def _of_row(state: State | None, row: int, number: int) -> State | None:
    """The state of one document of one row, for a batch of 1."""
    if state is None:
        return None
    return State(state.names, [v[row, number] if v.dim() == 2 else v[row : row + 1, number] for v in state])


# ---------------------------------------------------------------- padded, backwards, states on the way


@some_layers
def test_padding(sample: Sample) -> None:
    """On the left, on the right, in the middle, everywhere; two calls, the second with the state of the first."""
    op = sample.make()
    state = None
    for valid in ([[0, 0, 1, 1, 1, 0], [1, 0, 1, 0, 0, 1]], [[0, 0, 0, 0], [1, 1, 0, 1]]):
        mask = torch.tensor(valid, dtype=torch.bool)

        def by_hand(inputs: Inputs, state: State | None, mask: Tensor = mask) -> Any:
            rows, afters = [], []
            for row, kept in enumerate(mask):
                given = part(sample, inputs, slice(row, row + 1), kept)
                outs, after = outputs(op(**given, state=document(state, slice(row, row + 1)), return_state=True))
                placed = [v.new_zeros(1, len(kept), *v.shape[2:]).index_copy(1, kept.nonzero()[:, 0], v) for v in outs]
                rows.append(placed)
                afters.append(after)
            joined = tuple(torch.cat(parts) for parts in zip(*rows, strict=True))
            return joined, State(afters[0].names, [_rows(values) for values in zip(*afters, strict=True)])

        def padded(inputs: Inputs, state: State | None, mask: Tensor = mask) -> Any:
            return outputs(op(**inputs, state=state, return_state=True, mask=mask))

        inputs = sample.inputs(mask.shape[1])
        state = agree(sample, padded, by_hand, inputs, state)
        same(op(**inputs, mask=mask.int()), op(**inputs, mask=mask))
    # Without a mask, each row goes on from where it is.
    inputs = {n: v for n, v in sample.inputs(3).items() if n not in sample.starts}
    rows = [
        outputs(op(**part(sample, inputs, slice(row, row + 1), slice(None)), state=document(state, slice(row, row + 1)),
                   return_state=True))
        for row in range(2)
    ]  # fmt: skip
    outs, after = outputs(op(**inputs, state=state, return_state=True))
    same(outs, [torch.cat(parts) for parts in zip(*(outs for outs, _ in rows), strict=True)])
    same(tuple(after), [_rows(values) for values in zip(*(after for _, after in rows), strict=True)])


def _rows(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)) if values[0].dim() == 0 else torch.cat(list(values))


@some_layers
def test_backwards(sample: Sample) -> None:
    op = sample.make()
    state = None
    for length in (7, 2):

        def by_hand(inputs: Inputs, state: State | None) -> Any:
            turned = {name: value.flip(1) if name in sample.along else value for name, value in inputs.items()}
            outs, after = outputs(op(**turned, state=state, return_state=True))
            return tuple(value.flip(1) for value in outs), after

        def backwards(inputs: Inputs, state: State | None) -> Any:
            return outputs(op(**inputs, state=state, return_state=True, reverse=True))

        state = agree(sample, backwards, by_hand, sample.inputs(length), state)


@some_layers
def test_states_on_the_way(sample: Sample) -> None:
    op = sample.make()
    state = None
    for at in (torch.tensor([3, 0, 6, 3]), torch.tensor([[0, 1], [2, 0]], dtype=torch.int32)):

        def by_hand(inputs: Inputs, state: State | None, at: Tensor = at) -> Any:
            outs, _ = outputs(op(**inputs, state=state, return_state=True))
            each = [[_after(sample, op, inputs, state, int(n)) for n in row] for row in at.reshape(-1, at.shape[-1])]
            if at.dim() == 1:
                return outs, stacked(each[0])
            rows = [stacked([_row(after, row) for after in afters]) for row, afters in enumerate(each)]
            return outs, stacked(rows)

        def on_the_way(inputs: Inputs, state: State | None, at: Tensor = at) -> Any:
            return outputs(op(**inputs, state=state, states_at=at))

        states = agree(sample, on_the_way, by_hand, sample.inputs(6), state)
        state = document(states, 2) if state is None else state


def _row(state: State, row: int) -> State:
    return State(state.names, [value[row] if value.dim() else value for value in state])


def _after(sample: Sample, op: Layer, inputs: Inputs, state: State | None, length: int) -> State:
    return outputs(op(**part(sample, inputs, slice(None), slice(length)), state=state, return_state=True))[1]


# ---------------------------------------------------------------- together, and in graphs


def test_options_together() -> None:
    """Backwards within documents; padding within documents; padded and backwards, with states on the way."""
    op, inputs = ssmc.load("affine_scan"), affine(8)
    offsets, mask = torch.tensor([0, 3, 8]), torch.tensor([1, 0, 1, 1, 0, 1, 1, 0])
    places = [slice(0, 3), slice(3, 8)]
    sample = SAMPLES[4]

    def turned(given: Inputs) -> Inputs:
        return {name: value.flip(1) if name in sample.along else value for name, value in given.items()}

    parts = [part(sample, inputs, slice(None), at) for at in places]
    found, state = op(**inputs, cu_seqlens=offsets, reverse=True, return_state=True)
    made = [op(**turned(given), return_state=True) for given in parts]
    same(found, torch.cat([y.flip(1) for y, _ in made], 1))
    same(state, stacked([after for _, after in made]))
    found, state = op(**inputs, cu_seqlens=offsets, mask=mask, return_state=True)
    made = [op(**given, mask=mask[at], return_state=True) for given, at in zip(parts, places, strict=True)]
    same(found, torch.cat([y for y, _ in made], 1))
    same(state, stacked([after for _, after in made]))
    at = torch.tensor([0, 2, 5])
    found, state = op(**inputs, mask=mask, reverse=True, states_at=at)
    wanted, other = op(**turned(inputs), mask=mask.flip(0), states_at=at)
    same(found, wanted.flip(1))
    same(state, other)


def test_documents_are_a_batch_for_the_next_token() -> None:
    """Packed prompts, then one token for each."""
    op = mixed(gated=True)
    x, w, token = normal(1, 6, 3), normal(3, 3), normal(3, 1, 3)
    offsets = [0, 1, 4, 6]
    _, _, state = op(x, w, cu_seqlens=torch.tensor(offsets), return_state=True)
    state = State(state.names, [value[:, 0] if value.dim() > 1 else value for value in state])
    for _ in range(2):
        y, _, after = op(token, w, state=state, return_state=True)
        for number, (start, end) in enumerate(pairwise(offsets)):
            whole, _ = op(torch.cat([x[:, start:end], token[number : number + 1]], 1), w)
            same(y[number : number + 1], whole[:, -1:])
        assert after["t"].tolist() == [2, 4, 3]


def test_out() -> None:
    op, inputs = ssmc.load("affine_scan"), affine(5)
    mask = torch.tensor([1, 0, 1, 1, 0])
    target = torch.empty(2, 5, 3, dtype=torch.float64)
    version = target._version
    assert op(**inputs, mask=mask, out=target) is target and target._version > version
    same(target, op(**inputs, mask=mask))


def trained(op: Layer, inputs: Inputs, option: str, value: Any) -> Tensor:
    """The loss of two calls, the second with the state of the first."""
    y, state = op(**inputs, return_state=True, **{option: value})
    if option == "states_at":
        return y.square().mean() + state["h"].sum()
    later = {name: other for name, other in inputs.items() if name != "h0"}
    z, state = op(**later, state=state, return_state=True, **{option: value})
    return y.square().mean() + z.square().mean() + state["h"].sum()


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("option", ["cu_seqlens", "seq_idx", "position_ids", "mask", "reverse", "states_at"])
def test_a_training_step_is_one_graph(option: str, backend: str) -> None:
    torch.compiler.reset()  # or one function is compiled anew more often than it may be
    op = ssmc.load("affine_scan")
    value: dict[str, Any] = {
        "cu_seqlens": torch.tensor([0, 2, 5]), "seq_idx": torch.tensor([0, 0, 1, 1, 1]),
        "position_ids": torch.tensor([[0, 1, 0, 1, 2], [0, 1, 2, 3, 4]]), "mask": torch.tensor([1, 0, 1, 1, 0]),
        "reverse": True, "states_at": torch.tensor([0, 4]),
    }  # fmt: skip
    inputs = {name: v.requires_grad_() for name, v in affine(5).items()}
    wanted = torch.autograd.grad(trained(op, inputs, option, value[option]), list(inputs.values()))
    compiled = torch.compile(trained, fullgraph=True, dynamic=True, backend=backend)
    same(torch.autograd.grad(compiled(op, inputs, option, value[option]), list(inputs.values())), wanted)


# ---------------------------------------------------------------- names and mistakes


def test_an_input_of_the_layer_goes_before_an_option() -> None:
    op, inputs = ssmc.load("causal_conv1d"), conv(5)
    del inputs["x0"]
    numbers = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 0, 0]])
    y, state = op(**inputs, seq_idx=numbers, return_state=True)
    assert state.names == ("x", "seq_idx"), "one state for each row"
    same(y, op(**inputs, position_ids=torch.tensor([[0, 1, 0, 1, 2], [0, 1, 2, 3, 4]])))


@pytest.mark.parametrize("name, value, words", [
    ("cu_seqlens", [0, 5], "'cu_seqlens' is an object of type list\n  expected: an int64 or int32 tensor"),
    ("cu_seqlens", torch.tensor([0.0, 5]), "'cu_seqlens' is a float32 tensor of shape \\(2,\\)"),
    ("cu_seqlens", torch.tensor([[0, 5]]), "'cu_seqlens' is a int64 tensor of shape \\(1, 2\\)"),
    ("cu_seqlens", torch.tensor([1, 5]), "'cu_seqlens' is \\[1, 5\\]\n  expected: offsets that begin with 0"),
    ("cu_seqlens", torch.tensor([0, 4, 3, 5]), "'cu_seqlens' is \\[0, 4, 3, 5\\]"),
    ("cu_seqlens", torch.tensor([0, 4]), "end with 5, .*\n  try: tokens behind the last document"),
    ("cu_seqlens", torch.tensor([], dtype=torch.int64), "'cu_seqlens' is \\[\\]"),
    ("seq_idx", torch.tensor([0, 0, 1]), "'seq_idx' has extent 3 along the sequence.*\n  expected: 5"),
    ("seq_idx", torch.zeros(3, 5, dtype=torch.int64), "'documents' has extent 3 along 'b'"),
    ("seq_idx", torch.zeros(2, 2, 5, dtype=torch.int64), "cannot differ along 2 axes\n  expected: .*\\[b, t\\]"),
    ("position_ids", torch.tensor([0, 1, 3, 4, 5]), "goes from 1 to 3 at index \\(2,\\)\n  expected: 2, or 0"),
    ("position_ids", torch.tensor([2, 3, 4, 5, 6]), "begins with 2\n  expected: 0"),
    ("mask", torch.tensor([0.0, -1.0]), "'mask' is a float32 tensor.*\n.*\n  try: mask > 0"),
    ("mask", torch.ones(4, dtype=torch.bool), "'mask' has extent 4 along 't'"),
    ("mask", True, "'mask' is bool True"),
    ("reverse", 2, "`reverse` is int 2\n  expected: True or False"),
    ("states_at", torch.tensor([0, 6]), "'states_at' holds 6\n  expected: 0 to 5"),
    ("states_at", 3, "'states_at' is int 3"),
    ("cu_seqlen", torch.tensor([0, 5]), "there is no input 'cu_seqlen'.*\n.*\n  try: did you mean 'cu_seqlens'"),
], ids=lambda value: str(value)[:20])  # fmt: skip
def test_mistakes(name: str, value: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        ssmc.load("affine_scan")(**affine(5), **{name: value})


def test_options_that_exclude_each_other() -> None:
    op, ints = ssmc.load("affine_scan"), torch.tensor([0, 5])
    with pytest.raises(UserError, match="`cu_seqlens` and `states_at` are given together.*\n.*\n  try: return_state"):
        op(**affine(5), cu_seqlens=ints, states_at=ints)
    with pytest.raises(UserError, match="`cu_seqlens` and `seq_idx` are given together"):
        op(**affine(5), cu_seqlens=ints, seq_idx=ints)
    _, state = op(**affine(5), cu_seqlens=ints, return_state=True)
    inputs = affine(5)
    del inputs["h0"]
    with pytest.raises(UserError, match="state 'h' has .* along 't.docs'|'documents' has extent 2 along 't.docs'"):
        op(**inputs, cu_seqlens=torch.tensor([0, 2, 5]), state=state)
    with pytest.raises(UserError, match="'state' holds 1 documents\n  expected: 2, as many as 'seq_idx' has"):
        op(**inputs, seq_idx=torch.tensor([0, 0, 1, 1, 1]), state=state)


def test_layers_without_such_a_form_name_the_equation() -> None:
    with pytest.raises(Unsupported, match="rms_norm has 0 sequence axes, so it has no masked form"):
        ssmc.load("norms:rms_norm")(normal(2, 3, 4), normal(4), mask=torch.ones(2, 3, dtype=torch.bool))
    ahead = ssmc.compile("layer ahead(x[b, t]) -> y[b, t]:\n    seq t\n    y = x[t+1]\n")
    with pytest.raises(Unsupported, match="'y' reads 'x' later in 't'"):
        ahead(normal(2, 3), mask=torch.ones(2, 3, dtype=torch.bool), return_state=True)
