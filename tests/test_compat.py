"""The drop-ins against what the originals returned, in float32 within the stored tolerances."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ssmc import compat
from ssmc.errors import UserError

FOLDER = Path(__file__).resolve().parent / "reference"
MANIFEST: dict[str, Any] = json.loads((FOLDER / "manifest.json").read_text())


class Case:
    """A reference case: inputs in float32, expected values with their tolerances."""

    def __init__(self, name: str) -> None:
        self.name, self.entry = name, MANIFEST[name]
        self.config = self.entry["config"]
        self.tensors: dict[str, Tensor] = {}
        for file in self.entry["files"]:
            self.tensors |= load_file(FOLDER / file)

    def __getitem__(self, name: str) -> Tensor:
        value = self.tensors[name]
        return torch.view_as_complex(value) if self.entry["tensors"][name].get("complex") else value

    def get(self, name: str) -> Tensor | None:
        return self[name] if name in self.tensors else None

    def check(self, name: str, found: Tensor) -> None:
        wanted, about = self[f"out.{name}"], self.entry["tensors"][f"out.{name}"]
        assert found.shape == wanted.shape
        double = found.to(torch.complex128 if found.is_complex() else torch.float64)
        error = (double - wanted).abs()
        allowed = about["atol"] + about["rtol"] * wanted.abs()
        assert bool((error <= allowed).all()), f"{self.name} {name}: {error.max():.3g}, allowed {allowed.max():.3g}"


def named(prefix: str) -> list[str]:
    return [name for name in MANIFEST if name.startswith(prefix)]


def scan_arguments(case: Case) -> tuple[Tensor | None, ...]:
    names = ("in.u", "in.delta", "in.A", "in.B", "in.C", "in.D", "in.z", "in.delta_bias")
    return tuple(case.get(name) for name in names)


@pytest.mark.parametrize("name", named("selscan_"))
def test_selective_scan_fn(name: str) -> None:
    case = Case(name)
    softplus = case.config["delta_softplus"]
    y, last = compat.selective_scan_fn(*scan_arguments(case), softplus, return_last_state=True)  # type: ignore[arg-type, misc]
    case.check("y", y)
    case.check("last_state", last)
    assert torch.equal(compat.selective_scan_fn(*scan_arguments(case), delta_softplus=softplus), y)  # type: ignore[arg-type, misc]


@pytest.mark.parametrize("name", named("stepupd_"))
def test_selective_state_update(name: str) -> None:
    case = Case(name)
    state = case["in.state"].clone()
    arguments = [case.get(f"in.{key}") for key in ("x", "dt", "A", "B", "C", "D", "z", "dt_bias")]
    y = compat.selective_state_update(state, *arguments, dt_softplus=case.config["dt_softplus"])  # type: ignore[arg-type]
    case.check("y", y)
    case.check("new_state", state)


def test_one_decay_per_head() -> None:
    """Expanded arguments take the other way; the result is the same."""
    batch, heads, width, states, groups = 2, 4, 8, 16, 2
    x, z = torch.randn(batch, heads, width), torch.randn(batch, heads, width)
    dt, A, bias = torch.randn(batch, heads), -torch.rand(heads), torch.randn(heads)
    B, C = torch.randn(batch, groups, states), torch.randn(batch, groups, states)
    D, state = torch.randn(heads, width), torch.randn(batch, heads, width, states)
    dt, bias = dt[..., None].expand(-1, -1, width), bias[:, None].expand(-1, width)
    A = A[:, None, None].expand(-1, width, states)
    expanded, plain = state.clone(), state.clone()
    y = compat.selective_state_update(expanded, x, dt, A, B, C, D, z, bias, True)
    wanted = compat.selective_state_update(plain, x, dt.clone(), A.clone(), B, C, D, z, bias.clone(), True)
    torch.testing.assert_close(y, wanted, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(expanded, plain)
    strided = torch.zeros(batch, heads, 2 * width, states)[:, :, ::2]
    compat.selective_state_update(strided.copy_(state), x, dt.clone(), A.clone(), B, C, D, z, bias.clone(), True)
    assert torch.equal(strided, plain)
    half = state.bfloat16()
    y = compat.selective_state_update(half, x.bfloat16(), dt, A, B, C, D, z, bias, True)
    assert y.dtype is torch.bfloat16 and half.dtype is torch.bfloat16
    torch.testing.assert_close(half.float(), plain, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("name", [name for name in named("cconv_") if "update" not in name])
def test_causal_conv1d_fn(name: str) -> None:
    case = Case(name)
    finals = "out.final_states" in case.tensors
    act = case.config["activation"]
    for x in (case["in.x"], case["in.x"].transpose(1, 2).contiguous().transpose(1, 2)):
        made = compat.causal_conv1d_fn(
            x, case["in.weight"], case.get("in.bias"), case.get("in.seq_idx"), case.get("in.initial_states"),
            return_final_states=finals, activation=act,
        )  # fmt: skip
        y, last = made if finals else (made, None)
        case.check("y", y)
        if last is not None:
            case.check("final_states", last)


@pytest.mark.parametrize("name", named("cconv_update"))
def test_causal_conv1d_update(name: str) -> None:
    case = Case(name)
    state = case["in.conv_state"].clone()
    y = compat.causal_conv1d_update(
        case["in.x"],
        state,
        case["in.weight"],
        case.get("in.bias"),
        case.config["activation"],
        case.get("in.cache_seqlens"),
    )
    case.check("y", y)
    case.check("new_conv_state", state)


def test_convolution_corners() -> None:
    x, weight, out = torch.randn(2, 3, 5), torch.randn(3, 4), torch.zeros(2, 3, 3)
    y, last = compat.causal_conv1d_fn(x, weight, return_final_states=True, final_states_out=out, activation="swish")
    assert last is out and torch.equal(out, x[..., 2:])
    assert torch.equal(y, compat.causal_conv1d_fn(x, weight, activation="silu"))
    y, last = compat.causal_conv1d_fn(x, weight[:, :1], return_final_states=True)
    assert torch.equal(y, x * weight[:, :1]) and last.shape == (2, 3, 0)
    padded = torch.tensor([[0, 0, 1, 1, -1]] * 2, dtype=torch.int32)
    y = compat.causal_conv1d_fn(x, weight, seq_idx=padded)
    assert not y[..., -1].any() and y[..., :-1].all()
    half = compat.causal_conv1d_fn(x.bfloat16(), weight, return_final_states=True)
    assert [v.dtype for v in half] == [torch.bfloat16] * 2


def test_a_ring_longer_and_shorter_than_the_tokens() -> None:
    """A ring and a row of the same inputs give the same, for more tokens than there are places, too."""
    weight, seen = torch.randn(3, 4), torch.tensor([5, 11], dtype=torch.int32)
    history, x = torch.randn(2, 3, 20), torch.randn(2, 3, 9)
    row = torch.stack([history[b, :, n - 4 : n] for b, n in enumerate([5, 11])])
    ring = torch.zeros(2, 3, 4)
    for b, n in enumerate([5, 11]):
        for place in range(n - 4, n):
            ring[b, :, place % 4] = history[b, :, place]
    y, wanted = (
        compat.causal_conv1d_update(x, ring, weight, cache_seqlens=seen),
        compat.causal_conv1d_update(x, row, weight),
    )
    assert torch.equal(y, wanted)
    for b, n in enumerate([5, 11]):
        assert torch.equal(torch.stack([ring[b, :, (n + 9 - 4 + k) % 4] for k in range(4)], -1), row[b])


@pytest.mark.parametrize("name", named("rg_scan"))
def test_rnn_scan(name: str) -> None:
    case = Case(name)
    for reset in (case["in.reset"], case["in.reset"].bool()):
        y, last = compat.rnn_scan(case["in.x"], case["in.a"], reset, case.get("in.h0"))
        case.check("y", y)
        case.check("last_h", last)


def test_rnn_scan_dtypes_and_shared_decays() -> None:
    x, a, reset = torch.randn(2, 5, 3).bfloat16(), torch.rand(3).bfloat16(), torch.zeros(2, 5, dtype=torch.bool)
    y, last = compat.rnn_scan(x, a, reset, torch.zeros(2, 3))
    assert y.dtype is torch.bfloat16 and last.dtype is torch.float32
    torch.testing.assert_close(y[:, -1].float(), last, atol=0.02, rtol=0.01)


def test_whole_graphs() -> None:
    u, delta, z = torch.randn(3, 2, 8, 10).unbind(0)
    A, B, C = -torch.rand(8, 4), torch.randn(2, 4, 10), torch.randn(2, 4, 10)
    state, weight = torch.randn(2, 8, 4), torch.randn(8, 4)

    def block(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, last = compat.selective_scan_fn(u, delta, A, B, C, z=x, return_last_state=True)
        return y + compat.causal_conv1d_update(x, state, weight), last

    compiled, plain = state.clone(), state.clone()
    found, wanted = torch.compile(block, fullgraph=True)(z, compiled), block(z, plain)
    torch.testing.assert_close(found, wanted)
    assert torch.equal(compiled, plain)


X = torch.randn(2, 3, 5)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: compat.selective_scan_fn(X[0], X, X[0], X[0], X[0]), "selective_scan_fn: 'u' has 2 axes"),
        (lambda: compat.causal_conv1d_fn(X, X[0, :, :4], activation="relu"), "`activation` is 'relu'"),
        (lambda: compat.causal_conv1d_fn(X, X[0, :, :4], seq_idx=X[:, 0], return_final_states=True), "together with"),
        (lambda: compat.causal_conv1d_update(X, X[..., :2], X[0, :, :4]), "holds 2 inputs\n  expected: 3 or more"),
        (lambda: compat.selective_state_update(X, X, X, X, X, X), "'x' has 3 axes"),
        (lambda: compat.rnn_scan(X[0], X[0], X[0], None), "'x' has 2 axes"),
    ],
)
def test_wrong_arguments(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    assert message in str(caught.value)
