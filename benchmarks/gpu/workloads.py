"""The layers that are measured, with their inputs, a formulation in PyTorch that says what they are, and their peers.

A formulation is a function of the inputs by name. Peers get the same inputs in the same layout and give the same
layout; changing it is part of their time. What a peer needs may not be installed: then its row says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.layers import rg_lru, selective_scan
from benchmarks.peers import compiled

Tensors = Mapping[str, torch.Tensor]
Formulation = Callable[[Tensors], torch.Tensor]


@dataclass(frozen=True)
class Workload:
    """``layer``: as ``ssmc.load`` takes it. ``inputs`` makes them, in float32 on the CPU, for given sizes; those in
    ``parameters`` stay in float32 where activations are narrower. ``marks``: for a pass, how many times its floor it is
    to take at most on an H200. ``matrix``: whether matrix products can do its multiply-adds."""

    name: str
    layer: str
    sizes: Mapping[str, int]
    small: Mapping[str, int]
    inputs: Callable[[Mapping[str, int]], dict[str, torch.Tensor]]
    meaning: Formulation
    peers: Mapping[str, Callable[[], Formulation]]
    statics: Mapping[str, Any] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()
    marks: Mapping[str, float] = field(default_factory=dict)
    matrix: bool = False


def _draw(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def scanned(decay: torch.Tensor, fed: torch.Tensor) -> torch.Tensor:
    """h[t] = decay h[t-1] + fed along axis 1, one step after another."""
    h, steps = torch.zeros_like(fed[:, 0]), []
    for a, x in zip(decay.unbind(1), fed.unbind(1), strict=True):
        h = torch.addcmul(x, a, h)
        steps.append(h)
    return torch.stack(steps, 1)


def _compiled_scan(decay: torch.Tensor, fed: torch.Tensor) -> torch.Tensor:
    """The same by PyTorch's associative scan; inside of a function that is compiled."""
    from torch._higher_order_ops.associative_scan import associative_scan

    def combine(left: Any, right: Any) -> Any:
        return left[0] * right[0], right[0] * left[1] + right[1]

    made: torch.Tensor = associative_scan(combine, (decay, fed), dim=1, combine_mode="generic")[1]
    return made


def _accelerated(kind: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """accelerated-scan's h = decay h + fed; it wants (batch, channels, time), and lengths that are powers of two."""
    from importlib import import_module

    scan = import_module(f"accelerated_scan.{kind}").scan

    def function(decay: torch.Tensor, fed: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = scan(decay.transpose(1, 2).contiguous(), fed.transpose(1, 2).contiguous())
        return made.transpose(1, 2)

    return function


def _all_at_once(function: Formulation) -> Formulation:
    """``torch.compile`` of a formulation."""
    names: list[str] = []
    fast = compiled(lambda *values: function(dict(zip(names, values, strict=True))))

    def call(i: Tensors) -> torch.Tensor:
        names[:] = list(i)
        made: torch.Tensor = fast(*i.values())
        return made

    return call


# ---------------------------------------------------------------- the selective scan


def _selective_inputs(sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
    made = selective_scan.make_inputs(sizes["b"], sizes["t"], sizes["d"])
    named = {name: getattr(made, name) for name in ("x", "dt", "A", "B", "C", "D", "z")}
    return {**named, "dt_bias": made.bias}


def _selective(i: Tensors) -> selective_scan.Inputs:
    return selective_scan.Inputs(*(i[n].to(i["A"].dtype) for n in ("x", "dt", "A", "B", "C", "D", "z", "dt_bias")))


def _selective_meaning(i: Tensors) -> torch.Tensor:
    return selective_scan.loop(_selective(i)).to(i["x"].dtype)


def _selective_compiled() -> Formulation:
    layer = selective_scan.by_states(_compiled_scan)
    return _all_at_once(lambda i: layer(_selective(i)).to(i["x"].dtype))


def _mamba_ssm() -> Formulation:
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    def call(i: Tensors) -> torch.Tensor:
        x, dt, z, b, c = (i[n].transpose(1, 2).contiguous() for n in ("x", "dt", "z", "B", "C"))
        made: torch.Tensor = selective_scan_fn(
            x, dt, i["A"], b, c, i["D"], z=z, delta_bias=i["dt_bias"], delta_softplus=True
        )
        return made.transpose(1, 2)

    return call


SELECTIVE = Workload(
    "selective scan", "selective_scan", {"b": 8, "t": 2048, "d": 1536, "n": 16}, {"b": 2, "t": 37, "d": 40, "n": 16},
    _selective_inputs, _selective_meaning,
    {"PyTorch, loop over time": lambda: _selective_meaning, "torch.compile, associative scan": _selective_compiled,
     "mamba-ssm": _mamba_ssm},
    parameters=("A", "D", "dt_bias"), marks={"forward": 2.0, "backward": 2.5},
)  # fmt: skip


# ---------------------------------------------------------------- RG-LRU


def _gated_inputs(sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
    made = rg_lru.make_inputs(sizes["b"], sizes["t"], sizes["d"])
    return {"x": made.x, "r": made.r, "g": made.g, "Lambda": made.Lambda}


def _gates(i: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    return rg_lru.gates(rg_lru.Inputs(*(i[n].to(i["Lambda"].dtype) for n in ("x", "r", "g", "Lambda"))))


def _gated_by(scan: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Formulation:
    return lambda i: scan(*_gates(i)).to(i["x"].dtype)


RG_LRU = Workload(
    "RG-LRU", "rg_lru:rg_lru_gated", {"b": 8, "t": 8192, "d": 2560}, {"b": 2, "t": 64, "d": 40},
    _gated_inputs, _gated_by(scanned),
    {"PyTorch, loop over time": lambda: _gated_by(scanned),
     "torch.compile, associative scan": lambda: _all_at_once(_gated_by(_compiled_scan)),
     "accelerated-scan, Triton, PyTorch's gates": lambda: _gated_by(_accelerated("scalar")),
     "accelerated-scan, CUDA, PyTorch's gates": lambda: _gated_by(_accelerated("warp"))},
    parameters=("Lambda",), marks={"forward": 1.5},
)  # fmt: skip


# ---------------------------------------------------------------- HGRN's recurrence


def _hgrn_inputs(sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
    made = _draw(g=(sizes["b"], sizes["t"], sizes["d"]), x=(sizes["b"], sizes["t"], sizes["d"]))
    return {"g": F.logsigmoid(made["g"]), "x": made["x"]}


def _hgrn_by(scan: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Formulation:
    def call(i: Tensors) -> torch.Tensor:
        wide = i["x"].dtype if i["x"].dtype is torch.float64 else torch.float32
        return scan(i["g"].to(wide).exp(), i["x"].to(wide)).to(i["x"].dtype)

    return call


def _fla_hgrn(name: str) -> Callable[[], Formulation]:
    def make() -> Formulation:
        import fla.ops.hgrn

        function = getattr(fla.ops.hgrn, name)
        return lambda i: function(i["x"], i["g"])[0]

    return make


HGRN = Workload(
    "HGRN", "affine_scan:log_affine_scan", {"b": 8, "t": 8192, "d": 2560}, {"b": 2, "t": 64, "d": 40},
    _hgrn_inputs, _hgrn_by(scanned),
    {"PyTorch, loop over time": lambda: _hgrn_by(scanned),
     "torch.compile, associative scan": lambda: _all_at_once(_hgrn_by(_compiled_scan)),
     "fla, chunk": _fla_hgrn("chunk_hgrn"), "fla, fused recurrent": _fla_hgrn("fused_recurrent_hgrn"),
     "accelerated-scan, Triton": lambda: _hgrn_by(_accelerated("scalar")),
     "accelerated-scan, CUDA": lambda: _hgrn_by(_accelerated("warp"))},
)  # fmt: skip


# ---------------------------------------------------------------- the short convolution


def _conv_inputs(sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
    return _draw(x=(sizes["b"], sizes["t"], sizes["d"]), w=(sizes["d"], sizes["k"]), bias=(sizes["d"],))


def _conv_meaning(i: Tensors) -> torch.Tensor:
    x, w, bias = i["x"].transpose(1, 2), i["w"].to(i["x"].dtype), i["bias"].to(i["x"].dtype)
    made = F.conv1d(F.pad(x, (w.shape[1] - 1, 0)), w[:, None], bias, groups=w.shape[0])
    return F.silu(made).transpose(1, 2)


def _causal_conv1d() -> Formulation:
    from causal_conv1d import causal_conv1d_fn

    def call(i: Tensors) -> torch.Tensor:
        made: torch.Tensor = causal_conv1d_fn(i["x"].transpose(1, 2), i["w"], i["bias"], activation="silu")
        return made.transpose(1, 2)

    return call


def _fla_conv() -> Formulation:
    from fla.modules.convolution import causal_conv1d

    def call(i: Tensors) -> torch.Tensor:
        made = causal_conv1d(i["x"], i["w"].to(i["x"].dtype), i["bias"].to(i["x"].dtype), activation="silu")
        return made[0] if isinstance(made, tuple) else made

    return call


CONV = Workload(
    "short convolution", "causal_conv1d", {"b": 8, "t": 2048, "d": 1536, "k": 4}, {"b": 2, "t": 37, "d": 40, "k": 4},
    _conv_inputs, _conv_meaning,
    {"PyTorch": lambda: _conv_meaning, "torch.compile": lambda: _all_at_once(_conv_meaning),
     "causal-conv1d": _causal_conv1d, "fla": _fla_conv},
    statics={"activation": "silu"}, parameters=("w", "bias"),
)  # fmt: skip


# ---------------------------------------------------------------- simple gated linear attention


def _gla_inputs(sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
    b, t, h, p, n = (sizes[a] for a in ("b", "t", "h", "p", "n"))
    made = _draw(x=(b, t, h, p), a=(b, t, h), B=(b, t, h, n), C=(b, t, h, n))
    scale = 1 / math.sqrt(n)
    return {"x": made["x"], "a": F.logsigmoid(made["a"] + 3), "B": scale * made["B"], "C": made["C"]}


def _gla_meaning(i: Tensors) -> torch.Tensor:
    wide = {n: v.to(v.dtype if v.dtype is torch.float64 else torch.float32) for n, v in i.items()}
    x, a, keys, queries = (wide[n] for n in ("x", "a", "B", "C"))
    state = x.new_zeros(*x.shape[:1], *x.shape[2:], keys.shape[-1])
    steps = []
    for now in zip(x.unbind(1), a.exp().unbind(1), keys.unbind(1), queries.unbind(1), strict=True):
        state = now[1][..., None, None] * state + now[0][..., None] * now[2][..., None, :]
        steps.append((state @ now[3][..., None])[..., 0])
    return torch.stack(steps, 1).to(i["x"].dtype)


def _fla_gla() -> Formulation:
    from fla.ops.simple_gla import chunk_simple_gla

    return lambda i: chunk_simple_gla(i["C"], i["B"], i["x"], i["a"], scale=1.0)[0]


GLA = Workload(
    "simple gated linear attention", "ssd:ssd_discrete", {"b": 4, "t": 2048, "h": 32, "p": 64, "g": 32, "n": 64},
    {"b": 1, "t": 19, "h": 2, "p": 8, "g": 2, "n": 8}, _gla_inputs, _gla_meaning,
    {"PyTorch, loop over time": lambda: _gla_meaning, "fla, chunk": _fla_gla},
    matrix=True,
)  # fmt: skip

WORKLOADS = (SELECTIVE, RG_LRU, HGRN, CONV, GLA)


def workload(name: str) -> Workload:
    """The workload of that name."""
    return next(item for item in WORKLOADS if item.name == name)
