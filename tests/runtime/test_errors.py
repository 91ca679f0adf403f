"""What is said about wrong calls: the argument, what it is, what was expected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import ssmc
from ssmc.errors import Unsupported, UserError
from ssmc.runtime import Layer
from tests.runtime.layers import decay, mixed

X, A, W = torch.randn(2, 5, 3), torch.rand(3), torch.randn(3, 2)
Call = Callable[[], Any]


def wrong(op: Layer, *args: Any, **named: Any) -> str:
    """What the UserError of a call says."""
    with pytest.raises(UserError) as caught:
        op(*args, **named)
    return str(caught.value)


def test_too_many_too_few() -> None:
    op = decay()
    assert "missing inputs 'x', 'a'" in wrong(op)
    assert "missing input 'a'\n  expected: decay(x[b, t, d], a[d], h0[b, d] = 0) -> y" in wrong(op, X)
    assert "missing input 'a'" in wrong(op, X, None)
    assert "4 positional arguments\n  expected: at most 3: x, a, h0" in wrong(op, X, A, None, None)
    assert "input 'x' is given twice" in wrong(op, X, x=X, a=A)


def test_unknown_names() -> None:
    text = wrong(mixed(), X, W, biass=A)
    assert "there is no input 'biass'" in text and "did you mean 'bias'?" in text
    assert "static parameters gain, shift" in text
    assert "did you mean 'return_state'?" in wrong(decay(), X, A, returnstate=True)


def test_axes_and_extents() -> None:
    op = decay()
    assert "'x' has 2 axes: a float32 tensor of shape (2, 5) on cpu\n  expected: 3 axes: x[b, t, d]" in wrong(
        op, X[..., 0], A
    )
    assert "'a' has extent 2 along 'd': its shape is (2,)\n  expected: 3, as in 'x': a[d]" in wrong(op, X, A[:2])
    scan = ssmc.load("selective_scan")
    text = wrong(scan, X, X, torch.randn(3, 4), torch.randn(2), torch.randn(3, 4))
    assert "'B' has 1 axes" in text and "3 or 4 or 2 axes: B: [b, t, n] | [b, t, g, n] | [d, n]" in text
    grouped = torch.randn(2, 5, 2, 4)
    assert "extent" in wrong(scan, X, X, torch.randn(3, 4), grouped, grouped) or True


def test_requirements() -> None:
    op = ssmc.compile("layer f(x[b, t, d]) -> y[b, t, d]:\n    require #d % 2 == 0\n    y = x + 1\n")
    text = wrong(op, X)
    assert "requirement not met: #d % 2 == 0" in text and "found #d = 3" in text


def test_dtypes() -> None:
    text = wrong(decay(), X.long(), A)
    assert "'x' is a int64 tensor of shape (2, 5, 3) on cpu" in text
    assert (
        "expected: element type real: bfloat16, float16, float32 or float64" in text and "x.to(torch.float32)" in text
    )
    text = wrong(mixed(), X, W, keep=torch.ones(2, 5, dtype=torch.uint8))
    assert "element type bool: bool" in text and "keep.to(torch.bool)" in text
    assert "'code' is a float32 tensor" in wrong(mixed(), X, W, code=X[..., 0])


def test_devices_and_layouts() -> None:
    text = wrong(decay(), X.to("meta"), A)
    assert "on meta" in text and "expected: a tensor on cpu or cuda" in text
    assert "'x' has layout torch.sparse_coo\n  expected: a dense tensor" in wrong(decay(), X.to_sparse(), A)


def test_not_tensors() -> None:
    op = decay()
    text = wrong(op, X, 0.5)
    assert "'a' is float 0.5\n  expected: a tensor a[d]" in text and "torch.full" in text
    assert "'x' is an object of type ndarray" in wrong(op, np.zeros((2, 5, 3)), A)
    assert "torch.as_tensor" in wrong(op, [[[1.0]]], A)
    assert "'scale' is complex 2j" in wrong(mixed(), X, W, scale=2j)
    assert "'x' is str 'x'" in wrong(op, "x", A)


def test_static_parameters() -> None:
    op = mixed()
    assert "static parameter 'act' is 'rlu'\n  expected: 'none' or 'relu'\n  try: did you mean 'relu'?" in wrong(
        op, X, W, act="rlu"
    )
    assert "static parameter 'shift' is 1.5\n  expected: a value of kind int" in wrong(op, X, W, shift=1.5)
    assert "'gated' is 1" in wrong(op, X, W, gated=1)
    assert "plain Python value" in wrong(op, X, W, shift=torch.tensor(1))
    with pytest.raises(UserError, match="there is no static parameter 'gian'(.|\n)*did you mean 'gain'"):
        mixed(gian=1)
    with pytest.raises(UserError, match="'scale' is an input; it is passed when"):
        mixed(scale=1)
    needs = ssmc.compile("layer f(x[b, t], *, k: int) -> y[b, t]:\n    y = k * x\n")
    assert "static parameter 'k' is missing\n  expected: a value of kind int" in wrong(needs, X[..., 0])


def test_out() -> None:
    op = decay()
    y = op(X, A)
    assert "`out` holds 2 values\n  expected: 1 tensors: y" in wrong(op, X, A, out=(y, y))
    assert "expected: a float32 tensor of shape (2, 5, 3) on cpu" in wrong(op, X, A, out=y[:1])
    assert "`out` for 'y' is a float64 tensor" in wrong(op, X, A, out=y.double())
    assert "stride 0" in wrong(op, X, A, out=y[:1].expand(2, 5, 3))
    assert "shares memory" in wrong(op, y, A, out=y)
    both = torch.zeros(4, 5, 3)
    assert op(both[:2], A, out=both[2:]) is not None
    assert "shares memory" in wrong(op, both[:2], A, out=both[1:3])
    pair = mixed()(X, W)
    assert "`out` holds 1 values\n  expected: 2 tensors: y, n" in wrong(mixed(), X, W, out=pair[0])


def test_texts_and_names() -> None:
    with pytest.raises(UserError, match="no module `selective_skan`(.|\n)*did you mean `selective_scan`"):
        ssmc.load("selective_skan")
    with pytest.raises(UserError, match="has no layer `nothing`"):
        ssmc.load("selective_scan", "nothing")
    with pytest.raises(UserError, match="<text>:2"):
        ssmc.compile("layer f(x[b, t]) -> y[b, t]:\n    y = nothing + x\n")
    with pytest.raises(UserError, match="type int names no module"):
        ssmc.load(3)  # type: ignore[arg-type]


def test_layers_without_a_step_form() -> None:
    op = ssmc.compile("layer f(x[b, t]) -> y[b, t]:\n    seq t\n    y = x[t+1]\n")
    op(X[..., 0])
    with pytest.raises(Unsupported, match="later in 't'"):
        op(X[..., 0], return_state=True)
