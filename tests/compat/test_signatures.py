"""Names, order and defaults of arguments are those of the originals, and wrong arguments are named."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch

from ssmc import compat
from ssmc.errors import UserError

INNER = (
    "xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias, A, B=None, "
    "C=None, D=None, delta_bias=None, B_proj_bias=None, C_proj_bias=None, delta_softplus=True, checkpoint_lvl=1, "
    "b_rms_weight=None, c_rms_weight=None, dt_rms_weight=None, b_c_dt_rms_eps=1e-06"
)
SIGNATURES = {
    "causal_conv1d_fn": "x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False, "
    "final_states_out=None, activation=None",
    "causal_conv1d_update": "x, conv_state, weight, bias=None, activation=None, cache_seqlens=None, "
    "conv_state_indices=None",
    "chunk_hgrn": "x, g, initial_state=None, output_final_state=False",
    "fused_recurrent_hgrn": "x, g, initial_state=None, output_final_state=False, cu_seqlens=None",
    "mamba_chunk_scan_combined": "x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, initial_states=None, "
    "seq_idx=None, cu_seqlens=None, dt_softplus=False, dt_limit=(0.0, inf), return_final_states=False, "
    "return_varlen_states=False",
    "mamba_inner_fn": INNER,
    "rnn_scan": "x, a, reset, h0, acc_dtype=torch.float32",
    "selective_scan_fn": "u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, "
    "return_last_state=False",
    "selective_state_update": "state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False, "
    "state_batch_indices=None",
}


def test_every_function_is_listed() -> None:
    assert sorted(SIGNATURES) == sorted(compat.__all__)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    found = [
        p.name if p.default is p.empty else f"{p.name}={p.default}"
        for p in inspect.signature(getattr(compat, name)).parameters.values()
    ]
    assert ", ".join(found) == SIGNATURES[name]


X = torch.randn(2, 3, 5)
W = X[0, :, :4]
HEADS = (torch.randn(1, 6, 2, 4), torch.rand(1, 6, 2), -torch.rand(2), torch.randn(1, 6, 1, 3), torch.randn(1, 6, 1, 3))
DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 1]])


def inner(**changed: object) -> object:
    """The block with 3 channels, 2 states, a rank of 1."""
    given = {
        "xz": torch.randn(2, 6, 5), "conv1d_weight": torch.randn(3, 1, 4), "conv1d_bias": None,
        "x_proj_weight": torch.randn(5, 3), "delta_proj_weight": torch.randn(3, 1),
        "out_proj_weight": torch.randn(4, 3), "out_proj_bias": None, "A": -torch.rand(3, 2),
    }  # fmt: skip
    return compat.mamba_inner_fn(**{**given, **changed})  # type: ignore[arg-type]


def chunks(**named: object) -> object:
    return compat.mamba_chunk_scan_combined(*HEADS, 4, **named)  # type: ignore[arg-type]


def hgrn(*offsets: int, **named: object) -> object:
    return compat.fused_recurrent_hgrn(X[:1], X[:1], cu_seqlens=torch.tensor(offsets), **named)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: compat.selective_scan_fn(X[0], X, X[0], X[0], X[0]), "selective_scan_fn: 'u' has 2 axes"),
        (lambda: compat.causal_conv1d_fn(X, W, activation="relu"), "`activation` is 'relu'"),
        (lambda: compat.causal_conv1d_fn(X, W, seq_idx=X[:, 0], return_final_states=True), "together with"),
        (lambda: compat.causal_conv1d_update(X, X[..., :2], W), "holds 2 inputs\n  expected: 3 or more"),
        (
            lambda: compat.causal_conv1d_update(X, X, W, conv_state_indices=torch.tensor([1, 2])),
            "'conv_state_indices' holds 1 to 2\n  expected: -1 to 1",
        ),
        (
            lambda: compat.causal_conv1d_update(X, X, W, conv_state_indices=torch.tensor([1])),
            "'conv_state_indices' has the shape (1,)\n  expected: (2,)",
        ),
        (
            lambda: compat.causal_conv1d_update(X, X.clone().requires_grad_(), W),
            "'conv_state' is written in place, and it is a leaf",
        ),
        (lambda: compat.selective_state_update(X, X, X, X, X, X), "'x' has 3 axes"),
        (
            lambda: compat.selective_state_update(
                X, X[..., 0], X[..., 0], X[0], X[:, 0], X[:, 0], state_batch_indices=torch.tensor([-1, 0])
            ),
            "'state_batch_indices' holds -1 to 0\n  expected: 0 to 1",
        ),
        (
            lambda: compat.selective_state_update(
                X, X[..., 0], X[..., 0], X[0], X[:, 0], X[:, 0], state_batch_indices=torch.tensor([0.0, 1.0])
            ),
            "'state_batch_indices' has dtype torch.float32",
        ),
        (lambda: compat.rnn_scan(X[0], X[0], X[0], None), "'x' has 2 axes"),
        (lambda: compat.rnn_scan(X, X[:1], X[..., 0], None), "'a' has the shape (1, 3, 5)"),
        (lambda: compat.rnn_scan(X, X, X[..., 0], None, torch.bfloat16), "`acc_dtype` is torch.bfloat16"),
        (lambda: inner(checkpoint_lvl=2), "`checkpoint_lvl` is 2\n  expected: 0 or 1"),
        (lambda: inner(xz=torch.randn(2, 5, 5)), "'xz' has the shape (2, 5, 5)\n  expected: (2, 6, 5)"),
        (lambda: inner(x_proj_weight=torch.randn(4, 3)), "'x_proj_weight' has the shape (4, 3)\n  expected: (5, 3)"),
        (lambda: inner(conv1d_weight=W), "'conv1d_weight' has the shape (3, 4)"),
        (lambda: inner(B=X[0, :, :2], B_proj_bias=X[0, 0, :2]), "`B_proj_bias` and 'B' itself are given"),
        (lambda: inner(C=X[0, :, :2], c_rms_weight=X[0, 0, :2]), "`c_rms_weight` is given, and 'C' does not vary"),
        (
            lambda: inner(A=torch.randn(3, 1) + 1j, b_rms_weight=X[0, 0, :2]),
            "`b_rms_weight` is given, and A is complex",
        ),
        (lambda: compat.mamba_chunk_scan_combined(*HEADS, 0), "`chunk_size` is 0"),
        (lambda: chunks(return_varlen_states=True), "without `seq_idx`"),
        (lambda: chunks(return_varlen_states=True, seq_idx=DOCUMENTS), "without `cu_seqlens`"),
        (lambda: chunks(seq_idx=DOCUMENTS[:, :5]), "'seq_idx' has the shape (1, 5)\n  expected: (1, 6)"),
        (
            lambda: chunks(return_varlen_states=True, seq_idx=DOCUMENTS, cu_seqlens=torch.tensor([0, 2, 6])),
            "the documents of `cu_seqlens` do not begin where `seq_idx` changes\n  expected: `cu_seqlens` of [0, 3, 6]",
        ),
        (
            lambda: compat.mamba_chunk_scan_combined(
                *(v.expand(2, *v.shape[1:]) if v.dim() > 1 else v for v in HEADS),
                4,
                seq_idx=DOCUMENTS.expand(2, 6),
                cu_seqlens=torch.tensor([0, 3, 6]),
                return_varlen_states=True,
            ),  # fmt: skip
            "`return_varlen_states` with a batch of 2",
        ),
        (lambda: compat.chunk_hgrn(X, X[0]), "chunk_hgrn: 'g' has the shape (3, 5)"),
        (lambda: hgrn(0, 2, 1, 3), "`cu_seqlens` is [0, 2, 1, 3]"),
        (lambda: hgrn(*range(12)), "[0, 1, 2, 3, 4, 5, 6, 7, …]\n  expected: numbers that begin with 0, never fall"),
        (lambda: hgrn(1, 3), "`cu_seqlens` is [1, 3]"),
        (lambda: hgrn(0), "`cu_seqlens` is [0]"),
        (lambda: hgrn(0, 1, 3, initial_state=X[0]), "'initial_state' has the shape (3, 5)\n  expected: (2, 5)"),
        (lambda: compat.fused_recurrent_hgrn(X, X, cu_seqlens=torch.tensor([0, 3])), "'x' has a batch of 2"),
    ],
)
def test_wrong_arguments(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    assert message in str(caught.value)
