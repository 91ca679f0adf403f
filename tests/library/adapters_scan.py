"""Cases of Mamba, Mamba-2 and short convolutions, on the library's layers.

The references keep time last, (B, D, L); the layers are run on (b, t, d).
"""

from __future__ import annotations

import torch

from tests.library.golden import Adapter, Case, Tensor, call, paired


def time_second(array: Tensor | None) -> Tensor | None:
    """(B, …, L) as (b, t, …)."""
    return None if array is None else torch.movedim(array, -1, 1)


def time_last(array: Tensor) -> Tensor:
    return torch.movedim(array, 1, -1)


# ---------------------------------------------------------------- selective scan


def selective_scan(case: Case) -> dict[str, Tensor]:
    complex_values = case.config["complex"]

    def projection(name: str) -> Tensor:
        array = case[f"in.{name}"]
        if case.config[name] == "c":
            return array
        if complex_values:  # real and imaginary parts alternate along time
            array = paired(array.reshape(*array.shape[:-1], -1, 2))
        return time_second(array)

    found = call(
        "selective_scan:selective_scan_complex" if complex_values else "selective_scan",
        {
            "x": time_second(case["in.u"]),
            "dt": time_second(case["in.delta"]),
            "A": case["in.A"],
            "B": projection("B"),
            "C": projection("C"),
            "D": case.get("in.D"),
            "z": time_second(case.get("in.z")),
            "dt_bias": case.get("in.delta_bias"),
        },
        carried={"h": 1},
        softplus_dt=case.config["delta_softplus"],
    )
    return {"y": time_last(found["y"]), "last_state": found["h@last"][:, 0]}


def state_update(case: Case) -> dict[str, Tensor]:
    """One token from a given state. Heads times their width are the scan's channels."""
    batch, states = case["in.state"].shape[0], case["in.state"].shape[-1]

    def token(name: str) -> Tensor | None:
        array = case.get(f"in.{name}")
        return None if array is None else array.reshape(batch, 1, -1)

    def channels(name: str) -> Tensor | None:
        array = case.get(f"in.{name}")
        return None if array is None else array.reshape(-1)

    found = call(
        "selective_scan",
        {
            "x": token("x"),
            "dt": token("dt"),
            "A": case["in.A"].reshape(-1, states),
            "B": case["in.B"][:, None],
            "C": case["in.C"][:, None],
            "D": channels("D"),
            "z": token("z"),
            "dt_bias": channels("dt_bias"),
            "h0": case["in.state"].reshape(batch, -1, states),
        },
        carried={"h": 1},
        softplus_dt=case.config["dt_softplus"],
    )
    return {
        "y": found["y"].reshape(case["in.x"].shape),
        "new_state": found["h@last"].reshape(case["in.state"].shape),
    }


def ssd_minimal(case: Case) -> dict[str, Tensor]:
    initial = case.get("in.initial_states")
    found = call(
        "ssd:ssd_discrete",
        {
            "x": case["in.X"],
            "a": case["in.A"],
            "B": case["in.B"],
            "C": case["in.C"],
            "S0": None if initial is None else initial[:, 0],
        },
        carried={"S": 1},
    )
    return {"Y": found["y"], "final_state": found["S@last"][:, 0]}


def ssd(case: Case) -> dict[str, Tensor]:
    limit = case.config["dt_limit"]
    found = call(
        "ssd",
        {name: case.get(f"in.{name}") for name in ("x", "dt", "A", "B", "C", "D", "z", "dt_bias")},
        softplus_dt=case.config["dt_softplus"],
        **({} if limit is None else {"dt_min": limit[0], "dt_max": limit[1]}),
    )
    return {"y": found["y"]}


def mamba_inner(case: Case) -> dict[str, Tensor]:
    x, z = time_second(case["in.xz"]).chunk(2, -1)
    rank, states = case.config["dt_rank"], case.config["dstate"]
    W_r, W_B, W_C = case["in.x_proj_weight"].tensor_split((rank, rank + states))
    found = call(
        "mamba_inner",
        {
            "x": x,
            "z": z,
            "conv_w": case["in.conv1d_weight"][:, 0],
            "conv_bias": case["in.conv1d_bias"],
            "W_r": W_r,
            "W_B": W_B,
            "W_C": W_C,
            "W_dt": case["in.delta_proj_weight"],
            "A": case["in.A"],
            "D": case["in.D"],
            "dt_bias": case["in.delta_bias"],
            "B_bias": case.get("in.B_proj_bias"),
            "C_bias": case.get("in.C_proj_bias"),
        },
    )
    return {"y": linear(found["y"], case["in.out_proj_weight"], case.get("in.out_proj_bias"))}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The linear map before or after a layer."""
    y = x @ weight.T
    return y if bias is None else y + bias


def mamba2_inner(case: Case) -> dict[str, Tensor]:
    config = case.config
    width = config["nheads"] * config["headdim"]
    shared = 2 * config["ngroups"] * config["dstate"]
    z, xBC, dt = case["in.zxbcdt"].tensor_split((width, 2 * width + shared), -1)
    found = call(
        "mamba2_inner",
        {
            "z": z,
            "xBC": xBC,
            "dt": dt,
            "conv_w": case["in.conv1d_weight"],
            "conv_bias": case["in.conv1d_bias"],
            "A": case["in.A"],
            "D": case["in.D"],
            "dt_bias": case["in.dt_bias"],
            "norm_weight": case["in.rmsnorm_weight"],
        },
        groups=config["ngroups"],
        states=config["dstate"],
        eps=1e-6,
        norm_before_gate=config["norm_before_gate"],
    )
    y = found["y"]
    if config["outproj"]:
        y = linear(y, case["in.outproj_weight"], case["in.outproj_bias"])
    return {"y": y}


# ---------------------------------------------------------------- convolution


def convolution(case: Case) -> dict[str, Tensor]:
    found = call(
        "causal_conv1d",
        {
            "x": time_second(case["in.x"]),
            "w": case["in.weight"],
            "bias": case["in.bias"],
            "x0": time_second(case.get("in.initial_states")),
            "seq_idx": case.get("in.seq_idx"),
        },
        carried={"x": case.config["width"] - 1},
        activation=case.config["activation"] or "none",
    )
    result = {"y": time_last(found["y"])}
    if "final_states" in case.outputs:
        result["final_states"] = time_last(found["x@last"])
    return result


def convolution_update(case: Case) -> dict[str, Tensor]:
    """The state given and returned is a row of the last inputs, longer than the filter needs.

    The circular one keeps the input number i in place i modulo its length.
    """
    x = case["in.x"].reshape(*case["in.x"].shape[:2], -1)
    state = case["in.conv_state"]
    length = state.shape[-1]
    if case.config["circular"]:
        seen = case["in.cache_seqlens"][:, None, None]
        state = torch.take_along_dim(state, (seen + torch.arange(length)) % length, dim=2)
    found = call(
        "causal_conv1d",
        {"x": time_second(x), "w": case["in.weight"], "bias": case["in.bias"], "x0": time_second(state)},
        carried={"x": length},
        activation=case.config["activation"] or "none",
    )
    last = time_last(found["x@last"])
    if case.config["circular"]:
        last = torch.take_along_dim(last, (torch.arange(length) - seen - x.shape[-1]) % length, dim=2)
    return {"y": time_last(found["y"]).reshape(case["in.x"].shape), "new_conv_state": last}


ADAPTERS: dict[str, Adapter] = {
    "selscan_": selective_scan,
    "stepupd_": state_update,
    "ssd_minimal": ssd_minimal,
    "ssd_chunk": ssd,
    "ssd_selscan": ssd,
    "mamba_inner": mamba_inner,
    "mamba2_inner": mamba2_inner,
    "cconv_update": convolution_update,
    "cconv_": convolution,
}
