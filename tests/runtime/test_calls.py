"""Calls of layers: values, dtypes, strides, sizes, outputs."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

import ssmc
from ssmc.errors import UserError
from ssmc.runtime.dtypes import TORCH_DTYPES
from tests.runtime.layers import close, decay, expected, mixed, scan_inputs

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 1e-3}


def test_a_library_layer() -> None:
    op = ssmc.load("selective_scan")
    inputs = scan_inputs()
    y = op(**inputs)
    assert y.is_contiguous() and y.dtype is torch.float32
    close(y, expected(op, **inputs)["y"])
    close(op(*inputs.values()), expected(op, **inputs)["y"])


def test_optional_inputs_and_signatures() -> None:
    op = ssmc.load("selective_scan")
    inputs = scan_inputs()
    grouped = {**inputs, "B": torch.randn(2, 5, 2, 4), "z": torch.randn(2, 5, 8)}
    close(op(**grouped), expected(op, **grouped)["y"])
    assert torch.equal(op(**inputs), op(**inputs, z=None))
    x, dt, A, B, C, D = inputs.values()
    assert torch.equal(op(x, dt, A, B, C, None), op(x, dt, A, B, C))
    close(op(x, dt, A, B, C, None), expected(op, x=x, dt=dt, A=A, B=B, C=C)["y"])


def test_static_parameters() -> None:
    op = mixed(gain=2)
    assert op.statics == {"gain": 2.0}
    x, w = torch.randn(2, 5, 3), torch.randn(3, 2)
    for statics in ({}, {"gain": 0.25}, {"shift": 7}, {"gated": True}, {"act": "relu"}):
        y, n = op(x, w, **statics)
        wanted = expected(op, statics={"gain": 2.0, **statics}, x=x, w=w)
        close(y, wanted["y"])
        assert n.dtype is torch.int64 and np.array_equal(n.numpy(), wanted["n"])
        assert torch.equal(op(x, w, **statics)[0], y)


def test_numbers_stand_for_inputs_without_axes() -> None:
    op = mixed()
    x, w = torch.randn(2, 5, 3), torch.randn(3, 2)
    assert torch.equal(op(x, w, scale=3)[0], op(x, w, scale=torch.tensor(3.0))[0])
    assert torch.equal(op(x, w, scale=2.0)[0], op(x, w)[0])
    x, w = x.double(), w.double()
    assert torch.equal(op(x, w, scale=0.1)[0], op(x, w, scale=torch.tensor(0.1, dtype=torch.float64))[0])
    with torch.device("meta"):
        assert not op(x, w, scale=0.1)[0].is_meta


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_real_dtypes(dtype: torch.dtype) -> None:
    op = decay()
    x, a, h0 = torch.randn(2, 7, 5).to(dtype), torch.rand(5).to(dtype), torch.randn(2, 5).to(dtype)
    y = op(x, a, h0)
    assert y.dtype is dtype
    close(y, expected(op, x=x, a=a, h0=h0)["y"], TOLERANCE[dtype])


def test_mixed_dtypes() -> None:
    op = decay()
    x, a = torch.randn(2, 7, 5, dtype=torch.bfloat16), torch.rand(5)
    y = op(x, a)
    assert y.dtype is torch.float32
    close(y, expected(op, x=x, a=a)["y"], 2e-5)
    assert op(x, a.double()).dtype is torch.float64
    _, state = op(x, a.bfloat16(), return_state=True)
    assert state["y"].dtype is torch.float32, "a state is never narrower than what is computed in"
    assert op(x, a.bfloat16(), state=state).dtype is torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_dtypes(dtype: torch.dtype) -> None:
    op = ssmc.load("affine_scan:affine_scan_complex")
    a, x = 0.9 * torch.randn(2, 4, 3, dtype=dtype), torch.randn(2, 4, 3, dtype=dtype)
    h = op(a, x)
    assert h.dtype is dtype
    close(h, expected(op, a=a, x=x)["h"], 1e-12 if dtype is torch.complex128 else 2e-5)
    conjugate = op(a, x)
    assert torch.equal(op(a.conj(), x.conj()), op(a.conj().resolve_conj(), x.conj().resolve_conj()))
    assert torch.equal(op(a, x), conjugate)


def test_negative_views() -> None:
    op = decay()
    pairs = torch.randn(2, 4, 3, dtype=torch.complex64)
    x = pairs.conj().imag
    assert x.is_neg()
    plain = -pairs.imag
    assert plain.stride() != x.stride() or not plain.is_neg()
    a = torch.rand(3)
    for _ in range(2):
        assert torch.equal(op(pairs.imag, a), -op(x, a))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_int_dtypes(dtype: torch.dtype) -> None:
    op = mixed(shift=3)
    x, w = torch.randn(2, 5, 3), torch.randn(3, 2)
    code, keep = torch.randint(-9, 9, (2, 5), dtype=dtype), torch.rand(2, 5) < 0.5
    y, n = op(x, w, code=code, keep=keep)
    wanted = expected(op, statics={"shift": 3}, x=x, w=w, code=code, keep=keep)
    close(y, wanted["y"])
    assert n.dtype is torch.int64 and np.array_equal(n.numpy(), wanted["n"])


def strided_views(value: torch.Tensor) -> list[torch.Tensor]:
    """The same values with other strides."""
    reversed_axes = value.permute(*reversed(range(value.dim()))).contiguous().permute(*reversed(range(value.dim())))
    wide = torch.zeros(*(2 * n + 1 for n in value.shape))
    spread = wide[tuple(slice(1, 2 * n + 1, 2) for n in value.shape)]
    spread.copy_(value)
    return [reversed_axes, spread]


def test_any_strides() -> None:
    op = ssmc.load("selective_scan")
    inputs = scan_inputs(channels=20)
    y = op(**inputs)
    for views in zip(*(strided_views(v) for v in inputs.values()), strict=True):
        for _ in range(2):
            assert torch.equal(op(**dict(zip(inputs, views, strict=True))), y)


def test_expanded_inputs() -> None:
    op = decay()
    x, a = torch.randn(1, 1, 5), torch.rand(1)
    assert torch.equal(op(x.expand(3, 4, 5), a.expand(5)), op(x.expand(3, 4, 5).clone(), a.expand(5).clone()))


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3), (0, 0, 3), (2, 4, 0)])
def test_nothing_to_do(shape: tuple[int, ...]) -> None:
    op = decay()
    h0 = torch.randn(shape[0], shape[2])
    y, state = op(torch.randn(shape), torch.rand(shape[2]), h0, return_state=True)
    assert y.shape == shape
    if shape[1] == 0:
        assert torch.equal(state["y"][:, 0], h0)


def test_out() -> None:
    op = mixed()
    x, w = torch.randn(2, 5, 3), torch.randn(3, 2)
    y, n = op(x, w)
    target = torch.zeros(2, 5, 6)[..., ::2], torch.zeros(2, 5, dtype=torch.int64)
    version = target[0]._version
    found = op(x, w, out=target)
    assert found[0] is target[0] and found[1] is target[1] and target[0]._version > version
    assert torch.equal(target[0], y) and torch.equal(target[1], n)
    single = torch.empty(2, 5, 3)
    assert decay()(x, torch.rand(3), out=single) is single


def test_batch_and_length_never_compile() -> None:
    op = ssmc.load("selective_scan")
    op(**scan_inputs())
    built = [len(f.built) for f in op._operator.families.values()]
    for batch, length in [(1, 1), (3, 2), (1, 70), (5, 3)]:
        inputs = scan_inputs(batch, length)
        close(op(**inputs), expected(op, **inputs)["y"])
    assert [len(f.built) for f in op._operator.families.values()] == built


def test_other_inner_extents_do() -> None:
    op = ssmc.load("selective_scan")
    for states in (4, 3, 4):
        inputs = scan_inputs(states=states)
        close(op(**inputs), expected(op, **inputs)["y"])


def test_the_same_text_is_one_operator() -> None:
    assert decay()._operator is decay()._operator
    assert ssmc.load("selective_scan")._operator is ssmc.load("selective_scan", softplus_dt=False)._operator
    other = ssmc.compile(decay()._operator.source.module.source.text.replace("x", "u"))  # type: ignore[attr-defined]
    assert other._operator.name != decay()._operator.name


def test_source_and_program() -> None:
    op = ssmc.compile("layer twice(x[b, t]) -> y[b, t]:\n    y = x + x\n")
    with pytest.raises(UserError, match="not been compiled"):
        _ = op.source
    op(torch.ones(1, 2))
    assert "ssmc_" in op.source.read_text()
    assert [t.name for t in op.program().inputs] == ["x"]
    assert "twice(x[b, t]) -> y" in repr(op) and op.signature.outputs[0].name == "y"


def test_copies_and_pickles() -> None:
    x, a = torch.randn(2, 5, 3), torch.rand(3)
    for op in (decay(), ssmc.load("affine_scan:affine_scan"), mixed(gain=2.0)):
        for again in (copy.copy(op), copy.deepcopy(op), pickle.loads(pickle.dumps(op))):
            assert again._operator is op._operator and again.statics == op.statics
            assert isinstance(again.signature.name, str)
    assert torch.equal(copy.deepcopy(decay())(x, a), decay()(x, a))


def test_every_storage_is_a_dtype() -> None:
    assert len(TORCH_DTYPES) == len(set(TORCH_DTYPES.values())) == 9
