"""The drop-ins for mamba_ssm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from ssmc import compat
from tests.compat import meanings
from tests.compat.cases import Case, check, named


def selective_scan(case: Case) -> dict[str, Tensor]:
    names = ("in.u", "in.delta", "in.A", "in.B", "in.C", "in.D", "in.z", "in.delta_bias")
    arguments: Any = [case.get(name) for name in names]
    softplus = case.config["delta_softplus"]
    y, last = compat.selective_scan_fn(*arguments, softplus, return_last_state=True)
    assert torch.equal(compat.selective_scan_fn(*arguments, delta_softplus=softplus), y)
    return {"y": y, "last_state": last}


def state_update(case: Case) -> dict[str, Tensor]:
    state = case["in.state"].clone()
    arguments: Any = [case.get(f"in.{key}") for key in ("x", "dt", "A", "B", "C", "D", "z", "dt_bias")]
    y = compat.selective_state_update(state, *arguments, dt_softplus=case.config["dt_softplus"])
    return {"y": y, "new_state": state}


def inner(case: Case) -> dict[str, Tensor]:
    return {"y": compat.mamba_inner_fn(**{"out_proj_bias": None, **inputs_of(case)})}  # type: ignore[arg-type]


def chunk_scan(case: Case) -> dict[str, Tensor]:
    limit = case.config["dt_limit"]
    y = compat.mamba_chunk_scan_combined(
        **inputs_of(case), chunk_size=case.config["chunk"] or 64, dt_softplus=case.config["dt_softplus"],
        **({} if limit is None else {"dt_limit": tuple(limit)}),
    )  # type: ignore[arg-type]  # fmt: skip
    assert isinstance(y, Tensor)
    return {"y": y}


def minimal(case: Case) -> dict[str, Tensor]:
    """Here A is the logarithm of the decay at each step, and X has the step in it."""
    step, first = -case["in.A"], case.get("in.initial_states")
    y, last = compat.mamba_chunk_scan_combined(
        case["in.X"] / step[..., None], step, -torch.ones(step.shape[2]), case["in.B"], case["in.C"],
        case.config["block_len"], initial_states=None if first is None else first[:, 0], return_final_states=True,
    )  # fmt: skip
    return {"Y": y, "final_state": last}


def inputs_of(case: Case) -> dict[str, Tensor]:
    return {name.removeprefix("in."): value for name, value in case.tensors.items() if name.startswith("in.")}


@pytest.mark.parametrize("name", named("selscan_"))
def test_selective_scan(name: str) -> None:
    check(Case(name), selective_scan)


@pytest.mark.parametrize("name", named("stepupd_"))
def test_selective_state_update(name: str) -> None:
    check(Case(name), state_update)


@pytest.mark.parametrize("name", named("mamba_inner"))
def test_mamba_inner(name: str) -> None:
    check(Case(name), inner)


@pytest.mark.parametrize("name", named("ssd_"))
def test_chunk_scan(name: str) -> None:
    check(Case(name), minimal if "minimal" in name else chunk_scan)


def test_time_or_channels_last_in_memory() -> None:
    """Views of any strides give the same; half precision comes back as it came."""
    case = Case("selscan_grouped")
    wanted = selective_scan(case)
    strided = Case("selscan_grouped")
    for name in ("in.u", "in.delta", "in.z", "in.B", "in.C"):
        wide = torch.randn(*case[name].shape[:-1], 2 * case[name].shape[-1]).transpose(1, -1).contiguous()
        strided.tensors[name] = wide.transpose(1, -1)[..., ::2].copy_(case[name])
        assert not strided[name].is_contiguous()
    found = selective_scan(strided)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-5)
    for name in ("in.u", "in.delta", "in.z"):
        case.tensors[name] = case[name].bfloat16()
    y, last = compat.selective_scan_fn(
        *(case[f"in.{n}"] for n in ("u", "delta", "A", "B", "C")), D=case["in.D"], z=case["in.z"],
        delta_bias=case["in.delta_bias"], delta_softplus=True, return_last_state=True,
    )  # fmt: skip
    assert y.dtype is torch.bfloat16 and last.dtype is torch.float32
    scale = float(wanted["y"].abs().max())
    torch.testing.assert_close(y.float(), wanted["y"], atol=0.03 * scale, rtol=0.05)


# ---------------------------------------------------------------- the block


def block(width: int = 4, states: int = 3, rank: int = 2, length: int = 6, batch: int = 2, taps: int = 4,
          is_complex: bool = False) -> dict[str, Any]:  # fmt: skip
    draw = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).double()

    A = -torch.rand(width, states, generator=draw).double() - 0.1
    return {
        "xz": normal(2 * width, batch, length).transpose(0, 1),  # as a matrix product with channels first leaves it
        "conv1d_weight": normal(width, 1, taps),
        "conv1d_bias": normal(width),
        "x_proj_weight": normal(rank + 2 * states * (2 if is_complex else 1), width) / 2,
        "delta_proj_weight": normal(width, rank),
        "out_proj_weight": normal(5, width),
        "out_proj_bias": normal(5),
        "A": torch.complex(A, normal(width, states)) if is_complex else A,
        "D": normal(width),
        "delta_bias": normal(width),
    }


def compare_blocks(given: dict[str, Any]) -> None:
    meanings.compare(
        lambda **named: [compat.mamba_inner_fn(**named)],
        lambda checkpoint_lvl=1, **named: [meanings.mamba_inner(**named)],
        given,
    )


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("batch, length", [(2, 6), (1, 1), (1, 3)])
def test_inner_at_short_lengths(batch: int, length: int, is_complex: bool) -> None:
    compare_blocks(block(batch=batch, length=length, is_complex=is_complex))


def test_inner_with_normalised_projections() -> None:
    """As in Jamba and FalconMamba; with other settings of the rest."""
    given = block()
    weights = {"b_rms_weight": 3, "c_rms_weight": 3, "dt_rms_weight": 4, "B_proj_bias": 3, "C_proj_bias": 3}
    given |= {name: torch.rand(size).double() + 0.5 for name, size in weights.items()}
    given |= {"conv1d_bias": None, "out_proj_bias": None, "D": None, "checkpoint_lvl": 0, "b_c_dt_rms_eps": 1e-2}
    compare_blocks(given)


@pytest.mark.parametrize("rows", ["all", "needed"])
@pytest.mark.parametrize("is_complex", [False, True])
def test_inner_with_given_B_and_C(is_complex: bool, rows: str) -> None:
    """Constant, grouped, per step; the projection may lack their rows."""
    given = block(is_complex=is_complex)
    states = 3 * (2 if is_complex else 1)
    constant = torch.randn(4, 3, dtype=torch.complex128 if is_complex else torch.float64)
    if rows == "needed":
        given["x_proj_weight"] = given["x_proj_weight"][: 2 + states]
    compare_blocks({**given, "B": constant})
    compare_blocks({**given, "C": constant, "delta_bias": None})
    if rows == "needed":
        given["x_proj_weight"] = given["x_proj_weight"][:2]
    length = 6 * (2 if is_complex else 1)
    grouped, each = torch.randn(2, 2, 3, length).double(), torch.randn(2, 3, length).double()
    compare_blocks({**given, "B": grouped, "C": each, "delta_softplus": False})
    if not is_complex:
        compare_blocks({**given, "B": grouped, "C": each, "b_rms_weight": torch.rand(3).double()})


def test_inner_in_half_precision() -> None:
    given = {n: v.float() if isinstance(v, Tensor) else v for n, v in block().items()}
    half = {n: v if n in ("A", "D", "delta_bias") else v.bfloat16() for n, v in given.items()}
    wanted = compat.mamba_inner_fn(**given)
    found = compat.mamba_inner_fn(**half)
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, atol=0.05 * float(wanted.abs().max()), rtol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        found = compat.mamba_inner_fn(**given)
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, atol=0.05 * float(wanted.abs().max()), rtol=0.05)


def test_inner_is_what_its_layer_says() -> None:
    """The library's layer has the same equations, the linear maps inside included."""
    from ssmc.runtime import load

    given = block()
    x, z = given["xz"].transpose(1, 2).chunk(2, -1)
    W_r, W_B, W_C = given["x_proj_weight"].split([2, 3, 3])
    y = load("mamba_inner")(
        x, z, given["conv1d_weight"][:, 0], W_r, W_B, W_C, given["delta_proj_weight"], given["A"], D=given["D"],
        dt_bias=given["delta_bias"], conv_bias=given["conv1d_bias"],
    )  # fmt: skip
    y = linear(y, given["out_proj_weight"], given["out_proj_bias"])
    torch.testing.assert_close(compat.mamba_inner_fn(**given), y, atol=1e-12, rtol=1e-10)


# ---------------------------------------------------------------- Mamba-2


def heads(batch: int, length: int, groups: int = 2) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).double()

    return {
        "x": normal(batch, 4, length, 3).transpose(1, 2),
        "dt": normal(batch, length, 4),
        "A": -torch.rand(4, generator=draw).double() - 0.1,
        "B": normal(batch, length, groups, 5),
        "C": normal(batch, length, groups, 5),
        "z": normal(batch, length, 4, 3),
        "D": normal(4, 3),
        "dt_bias": normal(4),
        "initial_states": normal(batch, 4, 3, 5),
    }


@pytest.mark.parametrize("changed", [
    {"dt_softplus": True},
    {"dt_softplus": True, "dt_limit": (0.4, 0.9), "z": None},
    {"D": None, "dt_bias": None},  # a step below zero is clamped to it
    {"dt_limit": (-0.3, 0.7)},
    {"dt_softplus": True, "initial_states": None},
])  # fmt: skip
@pytest.mark.parametrize("batch, length", [(1, 1), (2, 7)])
def test_chunk_scan_meaning(batch: int, length: int, changed: dict[str, Any]) -> None:
    def wanted(**named: Any) -> list[Tensor]:
        y, S = meanings.chunk_scan(**named)
        return [y, S[:, -1]]

    def found(**named: Any) -> Any:
        return compat.mamba_chunk_scan_combined(**named, chunk_size=3, return_final_states=True)

    meanings.compare(found, wanted, {**heads(batch, length), **changed})


@pytest.mark.parametrize("first", [0, 1])
def test_chunk_scan_of_documents(first: int) -> None:
    """Rows have documents of their own; the state that comes in belongs to document 0."""
    given = heads(2, 9) | {"dt_softplus": True}
    seq_idx = torch.tensor([[0, 0, 0, 1, 2, 2, 2, 2, 2], [0, 0, 0, 0, 0, 0, 0, 0, 0]], dtype=torch.int32) + first

    def wanted(**named: Any) -> list[Tensor]:
        y, S = meanings.chunk_scan(**named, seq_idx=seq_idx)
        return [y, S[:, -1]]

    def found(**named: Any) -> Any:
        return compat.mamba_chunk_scan_combined(**named, chunk_size=4, seq_idx=seq_idx, return_final_states=True)

    meanings.compare(found, wanted, given)


@pytest.mark.parametrize("bounds, empty", [([0, 3, 4, 9], []), ([0, 3, 3, 4, 9, 9], [1, 4]), ([0, 3, 4], [])])
def test_chunk_scan_states_of_documents(bounds: list[int], empty: list[int]) -> None:
    """The state after each document; an empty one has zeros, what lies behind the last is nobody's."""
    given = heads(1, 9) | {"dt_softplus": True}
    seq_idx = torch.tensor([[0, 0, 0, 1, 2, 2, 2, 2, 2]])

    def wanted(**named: Any) -> list[Tensor]:
        y, S = meanings.chunk_scan(**named, seq_idx=seq_idx)
        ends = S[0, torch.tensor(bounds[1:]) - 1]
        alive = torch.tensor([k not in empty for k in range(len(bounds) - 1)])
        return [y, S[:, -1], ends * alive[:, None, None, None]]

    def found(**named: Any) -> Any:
        return compat.mamba_chunk_scan_combined(
            **named, chunk_size=4, seq_idx=seq_idx, cu_seqlens=torch.tensor(bounds), return_final_states=True,
            return_varlen_states=True,
        )  # fmt: skip

    meanings.compare(found, wanted, given)
    y, ends = compat.mamba_chunk_scan_combined(
        **given, chunk_size=4, seq_idx=seq_idx, cu_seqlens=torch.tensor(bounds), return_varlen_states=True
    )
    assert ends.shape == (len(bounds) - 1, 4, 3, 5)


def test_chunk_scan_dtypes() -> None:
    given = {n: v.float() for n, v in heads(1, 9).items()}
    wanted, last = compat.mamba_chunk_scan_combined(**given, chunk_size=4, dt_softplus=True, return_final_states=True)
    half = {n: v.bfloat16() if n in ["x", "B", "C", "z"] else v for n, v in given.items()}
    seq_idx, documents = torch.zeros(1, 9, dtype=torch.int32), torch.tensor([0, 9], dtype=torch.int32)
    y, final, ends = compat.mamba_chunk_scan_combined(
        **half, chunk_size=4, seq_idx=seq_idx, cu_seqlens=documents, dt_softplus=True, return_final_states=True,
        return_varlen_states=True,
    )  # fmt: skip
    assert [v.dtype for v in (y, final, ends)] == [torch.bfloat16, torch.float32, torch.bfloat16]
    torch.testing.assert_close(y.float(), wanted, atol=0.03 * float(wanted.abs().max()), rtol=0.05)
    torch.testing.assert_close(final, last, atol=0.03 * float(last.abs().max()), rtol=0.05)
    assert torch.equal(ends, final.bfloat16())


# ---------------------------------------------------------------- one token


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
    pool, rows = torch.randn(5, heads, width, states), torch.tensor([3, 1], dtype=torch.int32)
    others = pool[[0, 2, 4]]
    pool[[3, 1]] = state
    again = compat.selective_state_update(pool, x, dt, A, B, C, D, z, bias, True, rows)
    assert torch.equal(again, y) and torch.equal(pool[[3, 1]], expanded) and torch.equal(pool[[0, 2, 4]], others)
    half = state.bfloat16()
    y = compat.selective_state_update(half, x.bfloat16(), dt, A, B, C, D, z, bias, True)
    assert y.dtype is torch.bfloat16 and half.dtype is torch.bfloat16
    torch.testing.assert_close(half.float(), plain, atol=0.05, rtol=0.02)


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
