"""Library layers with static parameters and small extents that meet their requirements, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ssmc.dsl import Choice, elaborate, load_module
from ssmc.ir import Program


@dataclass(frozen=True)
class Case:
    """A layer, how it is specialised, and extents of the axes that inputs bind."""

    module: str
    layer: str
    sizes: Mapping[str, int]
    statics: Mapping[str, object] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    signatures: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        marks = [f"{k}={v}" for k, v in self.statics.items()] + [f"no {a}" for a in self.absent]
        marks += [f"{k}:{''.join(v)}" for k, v in self.signatures.items()]
        return f"{self.layer}({', '.join(marks)})"

    def program(self) -> Program:
        module = load_module(self.module)
        everything = elaborate(module, self.layer, Choice(statics=dict(self.statics), signatures=dict(self.signatures)))
        if not self.absent:
            return everything
        present = frozenset(t.name for t in everything.inputs) - set(self.absent)
        return elaborate(module, self.layer, Choice(dict(self.statics), present, dict(self.signatures)))


def _s(**sizes: int) -> Mapping[str, int]:
    return sizes


LOWERED = (
    Case("affine_scan", "affine_scan", _s(b=2, t=7, d=19)),
    Case("affine_scan", "affine_scan_complex", _s(b=2, t=5, d=3)),
    Case("affine_scan", "log_affine_scan", _s(b=2, t=6, d=17)),
    Case("causal_conv1d", "causal_conv1d", _s(b=2, t=9, d=21, k=4, j=3)),
    Case("causal_conv1d", "causal_conv1d", _s(b=2, t=3, d=5, k=4), {"activation": "silu"}, ("x0", "seq_idx", "bias")),
    Case("gated_delta", "gated_delta", _s(b=2, t=6, h=2, i=4, j=5, e=3, f=4, k=3, v=4, n=3, p=4)),
    Case("griffin_conv1d", "griffin_conv1d", _s(b=2, t=7, d=5, k=4, w=4, j=3)),
    Case("lstm", "lstm", _s(b=2, t=5, d=3, g=4, e=6, k=6)),
    Case("linear", "linear", _s(b=2, t=3, i=37, o=5)),
    Case("norms", "rms_norm", _s(b=2, t=3, d=37)),
    Case("norms", "rms_norm", _s(b=2, t=3, d=37), {"offset": 1.0}),
    Case("rg_lru", "rg_lru", _s(b=2, t=5, d=12, h=3, i=4, j=4)),
    Case("rg_lru", "rg_lru_gated", _s(b=2, t=9, d=70)),
    Case("rg_lru", "rg_lru_gated", _s(b=1, t=65, d=17), {}, ("segment_pos", "h0")),
    Case("rotary", "rotary", _s(b=2, t=5, h=2, e=8)),
    Case("s4d", "s4d", _s(b=2, t=65, d=18, n=8)),
    Case("s4d", "s4d", _s(b=1, t=7, d=3, n=5), {"disc": "bilinear"}),
    Case("s4d", "s4d_kernel", _s(d=5, n=4), {"length": 17}),
    Case("s4d", "s4d_channels", _s(b=2, t=5, d=6, s=2, n=3, c=2)),
    Case("selective_scan", "selective_scan", _s(b=2, t=67, d=18, n=16)),
    Case("selective_scan", "selective_scan", _s(b=2, t=7, d=12, n=4, g=3), {}, ("z", "D"),
         {"B": ("b", "t", "g", "n"), "C": ("b", "t", "g", "n")}),
    Case("selective_scan", "selective_scan", _s(b=1, t=5, d=5, n=3), {"softplus_dt": False}, ("h0", "dt_bias"),
         {"B": ("d", "n"), "C": ("d", "n")}),
    Case("selective_scan", "selective_scan_complex", _s(b=2, t=5, d=17, n=3)),
    Case("selective_scan", "mamba_scan", _s(b=2, t=7, d=18, n=4)),
    Case("shift_ssm", "shift_ssm", _s(b=2, t=9, d=5, m=4)),
    Case("ssd", "ssd", _s(b=2, t=5, h=4, p=6, g=2, n=8), {"dt_max": 0.5}),
    Case("h3", "h3", _s(b=1, t=7, h=3, i=2, j=2, m=4, n=3)),
    Case("reformer", "lsh_buckets", _s(b=2, h=2, t=5, e=4, r=3, n=4)),
    Case("yoso", "yoso_codes", _s(b=2, h=2, t=5, e=4, r=3, c=6)),
    Case("yoso", "yoso_expectation", _s(b=1, h=2, t=5, s=6, e=4, f=3)),
    Case("block_sparse_linear", "block_sparse_linear", _s(b=3, d=12, n=3, i=4, j=4, a=4, m=3, o=12)),
)  # fmt: skip

# What the C target lowers too. Tests that are to be fast do without.
FURTHER = (
    Case("block_sparse_linear", "block_sparse_linear", _s(b=3, d=12, n=3, i=4, j=4, a=4, m=3, o=12), {}, ("bias",)),
    Case("h3", "h3_truncated", _s(b=1, t=7, h=3, i=2, j=2, m=4, n=3), {"length": 5}),
    Case("long_conv", "long_conv", _s(b=2, t=6, d=3, l=4, m=8)),
    Case("long_conv", "long_conv", _s(b=2, t=5, d=3, l=9), {}, ("K_back", "D")),
    Case("mamba_block", "mamba_block", _s(b=2, t=5, e=7, f=12, d=6, k=3, q=8, r=2, n=3)),
    Case("griffin_block", "griffin_recurrent", _s(b=2, t=5, e=7, d=6, f=6, m=6, k=3, g=2, i=3, j=3)),
    Case("griffin_block", "gated_mlp", _s(b=2, t=3, d=5, f=6, m=6)),
    Case("griffin_block", "griffin_queries", _s(b=2, t=3, d=5, h=4, g=2, e=6, c=2)),
    Case("griffin_block", "turned", _s(b=2, t=3, h=3, e=7, c=3)),
    Case("mamba_inner", "mamba_inner", _s(b=2, t=5, d=6, k=3, r=2, n=3)),
    Case("mamba2_inner", "mamba2_inner", _s(b=1, t=5, d=8, h=4, c=20, k=3), {"groups": 2, "states": 3}),
    Case("mamba2_inner", "mamba2_inner", _s(b=1, t=4, d=4, h=2, c=8, k=3),
         {"groups": 1, "states": 2, "norm_before_gate": True, "dt_min": 0.3}),
    Case("gates", "gated", _s(b=2, t=3, d=5)),
    Case("gates", "gated", _s(b=2, t=3, d=5), {"activation": "gelu"}),
    Case("gates", "gated", _s(b=2, t=3, d=5), {"activation": "gelu_tanh"}),
    Case("linear", "linear", _s(b=2, t=3, i=4, o=5), {}, ("bias",)),
    Case("soft_cap", "soft_cap", _s(b=2, t=3, d=5), {"cap": 2.0}),
    Case("norms", "gated_rms_norm", _s(b=2, t=3, d=5)),
    Case("norms", "gated_rms_norm", _s(b=2, t=3, d=5), {"norm_before_gate": True}),
    Case("norms", "l2_normalize", _s(e=7)),
    Case("reformer", "lsh_buckets_factored", _s(b=2, h=2, t=5, e=4, r=3, n1=2, n2=3)),
    Case("reformer", "reformer_local", _s(b=2, h=2, t=8, e=4, f=3), {"chunk": 2}),
    Case("reformer", "reformer_local", _s(b=2, h=2, t=6, e=4, f=3), {"chunk": 3, "causal": True}, ("mask",)),
    Case("rg_lru", "block_diagonal", _s(b=2, t=3, d=6, h=2, i=3, j=3)),
    Case("s4d", "discretize", _s(d=3, n=4)),
    Case("s4d", "discretize", _s(d=3, n=4), {"disc": "bilinear"}, ("B",)),
    Case("s4d", "s4d_kernel", _s(d=3, n=4), {"length": 5, "disc": "bilinear"}),
    Case("shift_ssm", "shift_kernel", _s(d=3, m=4), {"length": 6}),
    Case("ssd", "ssd_discrete", _s(b=2, t=5, h=4, p=3, g=2, n=3)),
    Case("ssd", "ssd", _s(b=2, t=5, h=4, p=3, g=2, n=3), {}, ("z", "S0"), {"D": ("h", "p")}),
    Case("yoso", "yoso_expectation_exact", _s(b=1, h=2, t=5, s=6, e=4, f=3), {"tau": 3}),
    Case("yoso", "meeting_probability", _s(b=1, h=2, t=5, s=6, e=4), {"tau": 3, "scale": 0.98}),
    Case("yoso", "yoso_attention", _s(b=1, h=2, t=5, e=4, f=4, c=3), {"tau": 3}),
    Case("yoso", "yoso_attention", _s(b=1, h=2, t=5, e=4, f=4, c=3), {"tau": 3, "exact": True}, ("mask",)),
    Case("yoso", "depthwise", _s(b=1, h=2, s=5, f=4, c=3)),
)  # fmt: skip

# What the C target does not lower yet.
INTERPRETED = (
    Case("local_attention", "local_attention", _s(b=2, t=7, h=4, e=8, f=3), {"window": 3}),
    Case("local_attention", "local_attention", _s(b=1, t=6, h=4, e=8, f=3, g=2), {"window": 2}, ("segment_pos",),
         {"k": ("b", "t", "g", "e"), "v": ("b", "t", "g", "f")}),
    Case("reformer", "reformer_lsh", _s(b=2, h=2, t=8, e=4, f=3, r=2), {"chunk": 2}),
    Case("reformer", "reformer_lsh", _s(b=1, h=2, t=6, e=4, f=3, r=3),
         {"chunk": 3, "after": 1, "causal": True}, ("mask",)),
    Case("yoso", "yoso", _s(b=1, h=2, t=5, s=6, e=4, f=3, r=3, c=2), {"tau": 2}),
    Case("yoso", "yoso_sampled", _s(b=1, h=2, t=5, s=6, e=4, f=3, r=3), {"tau": 2}),
    Case("yoso", "yoso_sampled_once", _s(b=1, h=2, t=5, s=6, e=4, f=3, r=3), {"tau": 2}),
    Case("yoso", "yoso_codes_hadamard", _s(b=1, h=2, t=5, e=8, a=3, p=2), {"hashes": 4, "tau": 3}),
)  # fmt: skip

COMPILED = (*LOWERED, *FURTHER)
LIBRARY = (*COMPILED, *INTERPRETED)
