"""State in, state out."""

from __future__ import annotations

import io
import pickle

import pytest
import torch
from torch.utils import _pytree as pytree

import ssmc
from ssmc.errors import UserError
from ssmc.runtime import Layer, State
from tests.runtime.layers import close, decay, expected, mixed, scan_inputs

TIMED = {"x", "dt", "B", "C", "z"}


def piece(inputs: dict[str, torch.Tensor], start: int, end: int) -> dict[str, torch.Tensor]:
    """The inputs between two time steps."""
    return {name: value[:, start:end] if name in TIMED else value for name, value in inputs.items()}


def in_pieces(op: Layer, inputs: dict[str, torch.Tensor], cuts: list[int]) -> tuple[torch.Tensor, State]:
    """The layer run from cut to cut, the state passed on."""
    state, found = None, []
    for start, end in zip([0, *cuts], [*cuts, inputs["x"].shape[1]], strict=True):
        y, state = op(**piece(inputs, start, end), state=state, return_state=True)
        found.append(y)
    assert state is not None
    return torch.cat(found, 1), state


@pytest.mark.parametrize("cuts", [[4], [1], [1, 2, 3], [2, 2, 5], [8]])
def test_pieces_are_the_whole(cuts: list[int]) -> None:
    op = ssmc.load("selective_scan")
    inputs = scan_inputs(length=9)
    y, state = op(**inputs, return_state=True)
    pieces, last = in_pieces(op, inputs, cuts)
    assert torch.equal(pieces, y) and torch.equal(last["h"], state["h"])
    close(state["h"], expected(op, state=True, **inputs)["h.next"])


@pytest.mark.parametrize("cuts", [[1], [1, 2, 3, 4, 5], [3, 3, 4]])
def test_windows_carry_their_inputs(cuts: list[int]) -> None:
    op = ssmc.load("causal_conv1d", activation="silu")
    inputs = {"x": torch.randn(2, 6, 5), "w": torch.randn(5, 4), "bias": torch.randn(5)}
    y, state = op(**inputs, return_state=True)
    pieces, last = in_pieces(op, inputs, cuts)
    assert torch.equal(pieces, y)
    assert torch.equal(state["x"], inputs["x"][:, 3:]) and torch.equal(last["x"], state["x"])


def test_short_pieces_keep_part_of_the_old_window() -> None:
    op = ssmc.load("causal_conv1d")
    x, w, before = torch.randn(1, 1, 3), torch.randn(3, 4), torch.randn(1, 3, 3)
    _, state = op(x, w, x0=before, return_state=True)
    assert torch.equal(state["x"], torch.cat([before[:, 1:], x], 1))


def test_positions_are_counted() -> None:
    op = mixed(gated=True)
    x, w = torch.randn(2, 7, 3), torch.randn(3, 2)
    whole, _ = op(x, w)
    y, n, state = op(x[:, :3], w, return_state=True)
    assert state.names == ("x", "t") and state["t"].dtype is torch.int64 and state["t"].item() == 3
    y2, _, state = op(x[:, 3:], w, state=state, return_state=True)
    assert torch.equal(torch.cat([y, y2], 1), whole) and state["t"].item() == 7
    assert n.shape == (2, 3)


def test_a_state_without_its_return() -> None:
    op = ssmc.load("selective_scan")
    inputs = scan_inputs(length=6)
    y = op(**inputs)
    _, state = op(**piece(inputs, 0, 4), return_state=True)
    kept = state.clone()
    assert torch.equal(op(**piece(inputs, 4, 6), state=state), y[:, 4:])
    assert torch.equal(state["h"], kept["h"]), "a call does not write to the state it is given"


def test_an_empty_piece_changes_nothing() -> None:
    op = ssmc.load("selective_scan")
    inputs = scan_inputs(length=6)
    _, state = op(**inputs, return_state=True)
    y, after = op(**piece(inputs, 6, 6), state=state, return_state=True)
    assert y.shape == (2, 0, 8) and torch.equal(after["h"], state["h"])
    conv = ssmc.load("causal_conv1d")
    _, state = conv(torch.randn(2, 6, 5), torch.randn(5, 4), return_state=True)
    _, after = conv(torch.randn(2, 0, 5), torch.randn(5, 4), state=state, return_state=True)
    assert torch.equal(after["x"], state["x"])


def test_initial_values_and_state() -> None:
    op = decay()
    x, a, h0 = torch.randn(2, 6, 3), torch.rand(3), torch.randn(2, 3)
    y = op(x, a, h0)
    first, state = op(x[:, :2], a, h0, return_state=True)
    assert torch.equal(torch.cat([first, op(x[:, 2:], a, state=state)], 1), y)
    with pytest.raises(UserError, match="'h0' is given together with a state"):
        op(x, a, h0, state=state)


def test_half_precision_carries_float32() -> None:
    op = decay()
    x, a = torch.randn(2, 40, 3).bfloat16(), torch.rand(3).bfloat16()
    y, state = op(x, a, return_state=True)
    assert state["y"].dtype is torch.float32
    last = None
    for t in range(40):
        token, last = op(x[:, t : t + 1], a, state=last, return_state=True)
        assert token.dtype is torch.bfloat16 and torch.equal(token, y[:, t : t + 1])
    assert last is not None and torch.equal(last["y"], state["y"])


def test_wrong_states() -> None:
    op = decay()
    x, a = torch.randn(2, 3, 3), torch.rand(3)
    _, state = op(x, a, return_state=True)
    with pytest.raises(UserError, match="state 'y' has extent 2 along 'b'.*\n.*expected: 5, as in 'x'"):
        op(torch.randn(5, 3, 3), a, state=state)
    with pytest.raises(UserError, match="state 'y' is a float64 tensor.*\n.*expected: a float32"):
        op(x, a, state=state.to(dtype=torch.float64))
    with pytest.raises(UserError, match="`state` is an object of type tuple"):
        op(x, a, state=state.values)
    with pytest.raises(UserError, match="the state holds h\n.*expected: y"):
        op(x, a, state=State(["h"], state.values))
    with pytest.raises(UserError, match="a state of 0 tensors"):
        op(x, a, state=State([], []))


def test_state_is_a_flat_named_tuple() -> None:
    values = torch.randn(2, 3), torch.tensor(3), torch.randn(2, dtype=torch.complex64)
    state = State(["h", "t", "c"], values)
    assert list(state) == list(values) and len(state) == 3 and state[0] is values[0] and state[1:] == values[1:]
    assert state.tensors == dict(zip("htc", values, strict=True))
    assert repr(state) == "State(h: float32[2, 3], t: int64[], c: complex64[2])"
    with pytest.raises(KeyError, match="holds h, t, c"):
        state["g"]
    copy = state.clone()
    assert torch.equal(copy["h"], state["h"]) and copy["h"].data_ptr() != state["h"].data_ptr()
    wide = state.to(dtype=torch.float64)
    assert [v.dtype for v in wide] == [torch.float64, torch.int64, torch.complex128]
    assert [v.dtype for v in state.to(torch.float64)] == [v.dtype for v in wide]
    assert state.to("meta")["h"].is_meta and not state.detach()["h"].requires_grad
    leaves, spec = pytree.tree_flatten({"s": state})
    assert leaves == list(values)
    again = pytree.tree_unflatten(leaves, pytree.treespec_loads(pytree.treespec_dumps(spec)))
    assert again["s"].names == state.names
    copy = pickle.loads(pickle.dumps(state))
    assert copy.names == state.names and torch.equal(copy["h"], state["h"])
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=True)["h"], state["h"])
    with pytest.raises(UserError, match="2 names and 1"):
        State(["a", "b"], [values[0]])


def test_a_piece_without_tokens_hands_its_initial_state_on() -> None:
    """Whole numbers, too, which are read before the start of a sequence that has no address."""
    op = ssmc.load("causal_conv1d")
    x, w, x0 = torch.randn(2, 6, 5), torch.randn(5, 5), torch.randn(2, 3, 5)
    document = torch.tensor([[0, 0, 1, 1, 1, 2]] * 2)
    whole = op(x, w, x0=x0, seq_idx=document)
    _, state = op(x[:, :0], w, x0=x0, seq_idx=document[:, :0].clone(), return_state=True)
    later, _ = op(x, w, seq_idx=document, state=state, return_state=True)
    torch.testing.assert_close(later, whole)
