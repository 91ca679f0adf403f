"""Cases of H3, S4D and block-sparse linear maps, on the library's layers."""

from __future__ import annotations

import math

import numpy as np

from tests.library.adapters_scan import linear, time_last, time_second
from tests.library.golden import Adapter, Array, Case, paired, run

# ---------------------------------------------------------------- diagonal and shift SSM


def diagonal(case: Case) -> dict[str, Array]:
    """The kernel, the response of the initial state, the final state, and the first steps from it."""
    sets = case["param.kernel.inv_A_real"].shape[0]
    parameters = {
        "log_dt": case["param.kernel.log_dt"],
        "log_A_real": case["param.kernel.inv_A_real"],
        "A_imag": case["param.kernel.A_imag"],
        "B": paired(case["param.kernel.B"]),
        "C": paired(case["param.kernel.C"]),
    }
    disc, length = case.config["disc"], case.config["L"]
    u, state = time_second(case["in.u"]), case.get("in.state")

    def outputs(u: Array, x0: Array | None) -> dict[str, Array]:
        return run("s4d:s4d_channels", {"u": u, "x0": x0, **parameters}, {"s4d.x": 1}, disc=disc)

    repeats = case.config["H"] // sets
    wide = {
        key: np.tile(value, (repeats, 1)) if key in ("log_A_real", "A_imag", "B") else value
        for key, value in parameters.items()
    }
    kernels = [run("s4d:s4d_kernel", {**wide, "C": C}, disc=disc, length=length)["K"] for C in parameters["C"]]
    result = {"K": np.stack(kernels), "next_state": outputs(u, state)["s4d.x@last"][:, 0]}
    if state is not None:
        silence = outputs(np.zeros_like(u), state)
        result["K_state"] = silence["y"].transpose(0, 2, 3, 1)
    steps = outputs(u[:, : case["out.y_steps"].shape[-1]], state)
    result["y_steps"] = steps["y"].transpose(0, 2, 3, 1)
    return result


def shift(case: Case) -> dict[str, Array]:
    u, state = time_second(case["in.u"]), case.get("in.state")
    parameters = {"B": case["param.kernel.B"], "C": case["param.kernel.C"][0]}

    def outputs(u: Array) -> dict[str, Array]:
        return run("shift_ssm", {"u": u, "s0": state, **parameters}, {"s": 1})

    K = run("shift_ssm:shift_kernel", parameters, length=case.config["L"])["K"]
    result = {"K": K[None], "next_state": outputs(u)["s@last"][:, 0]}
    if state is not None:
        # The reference's response leaves out the shift at the first token, although its own step makes it
        # (y_steps agrees). So what it says of token l is true of token l - 1; token 0 is not compared.
        result["K_state"] = np.roll(time_last(outputs(np.zeros_like(u))["y"])[:, None], 1, axis=-1)
    steps = case["out.y_steps"].shape[-1]
    assert steps <= u.shape[1]
    result["y_steps"] = time_last(outputs(u[:, :steps])["y"])[:, None]
    return result


def s4d_kernel(case: Case) -> dict[str, Array]:
    return {"K": _s4d_kernel(case, case.config["L"])}


def _s4d_parameters(case: Case, prefix: str) -> dict[str, Array]:
    names = {"log_dt": "log_dt", "log_A_real": "log_A_real", "A_imag": "A_imag"}
    found = {name: case[f"param.{prefix}{theirs}"] for name, theirs in names.items()}
    return {**found, "C": paired(case[f"param.{prefix}C"])}


def _s4d_kernel(case: Case, length: int) -> Array:
    return run("s4d:s4d_kernel", _s4d_parameters(case, ""), length=length)["K"]


def s4_diagonal_kernel(case: Case) -> dict[str, Array]:
    """This reference stores the other pole of each pair, whose imaginary part is negative."""
    parameters = {
        "log_dt": case["param.inv_dt"][:, 0],
        "log_A_real": case["param.A_real"],
        "A_imag": -case["param.A_imag"],
        "B": paired(case["param.B"])[0],
        "C": paired(case["param.C"])[0],
    }
    return {"K": run("s4d:s4d_kernel", parameters, length=case.config["L"], disc=case.config["disc"])["K"][None]}


def s4d_layer(case: Case) -> dict[str, Array]:
    """The state space model, then GELU and a gated linear unit."""
    inputs = {"u": time_second(case["in.u"]), "D": case["param.D"], **_s4d_parameters(case, "kernel.")}
    y = run("s4d", inputs)["y"]
    y = y * (1 + np.vectorize(math.erf)(y / math.sqrt(2))) / 2
    y = linear(y, case["param.output_linear.0.weight"][..., 0], case["param.output_linear.0.bias"])
    value, gate = np.split(y, 2, axis=-1)
    return {"y": time_last(value / (1 + np.exp(-gate)))}


# ---------------------------------------------------------------- H3


def h3(case: Case) -> dict[str, Array]:
    y, _ = _h3(case, case["in.u"])
    return {"y": y}


def h3_decode(case: Case) -> dict[str, Array]:
    """Prefill, then one token after the other: both are parts of one run."""
    u, prefill = case["in.u"], case.config["prefill"]
    y_prefill, state_prefill = _h3(case, u[:, :prefill])
    y, state = _h3(case, u)
    return {
        "y_prefill": y_prefill,
        "state_k_prefill": state_prefill["shift_ssm.s@last"][:, 0, :, 0],
        "state_prefill": state_prefill["s4d.x@last"][:, 0, :, 0, 0],
        "y_steps": y[:, prefill:],
        "state_k_final": state["shift_ssm.s@last"][:, 0, :, 0],
        "state_final": state["s4d.x@last"][:, 0, :, 0, 0],
        "y_full": y,
    }


def _h3(case: Case, u: Array) -> tuple[Array, dict[str, Array]]:
    width = case.config["head_dim"]

    def heads(array: Array) -> Array:
        """Channels as (head, place in the head), on the last axis that holds channels."""
        return array.reshape(*array.shape[:-1], -1, width)

    def projected(name: str) -> Array:
        return heads(linear(u, case[f"param.{name}_proj.weight"], case[f"param.{name}_proj.bias"]))

    def per_channel(array: Array) -> Array:
        return array.reshape(-1, width, *array.shape[1:])

    length = case.config.get("l_max")
    found = run(
        "h3" if length is None else "h3:h3_truncated",
        {
            "q": projected("q"),
            "k": projected("k"),
            "v": projected("v"),
            "shift_B": per_channel(case["param.ssm_k_kernel.kernel.B"]),
            "shift_C": per_channel(case["param.ssm_k_kernel.kernel.C"][0]),
            "shift_D": per_channel(case["param.ssm_k_D"]),
            "log_dt": case["param.kernel.kernel.log_dt"],
            "log_A_real": case["param.kernel.kernel.inv_A_real"],
            "A_imag": case["param.kernel.kernel.A_imag"],
            "B": paired(case["param.kernel.kernel.B"]),
            "C": paired(case["param.kernel.kernel.C"])[0],
            "D": case["param.D"],
        },
        carried={"shift_ssm.s": 1, "s4d.x": 1} if length is None else None,
        disc="bilinear",
        **({} if length is None else {"length": length}),
    )
    # The reference splits channels as (head, place) but merges them as (place, head): its last linear
    # map was trained on that order. The layer keeps one order, so the swap is made here.
    y = found["y"].swapaxes(-1, -2).reshape(u.shape)
    return linear(y, case["param.output_linear.weight"], case["param.output_linear.bias"]), found


# ---------------------------------------------------------------- block-sparse


def block_sparse(case: Case) -> dict[str, Array]:
    rows, columns = case.config["block_shape"]
    blocks = case["aux.data"].reshape(-1, columns, rows).swapaxes(1, 2)  # each was stored transposed
    found = run(
        "block_sparse_linear",
        {
            "x": case["in.x"],
            "w": blocks,
            "start": case["aux.row_start_ends_a"],
            "column": case["aux.cols_a"][:, 0],
            "block": case["aux.cols_a"][:, 1],
            "bias": case.get("in.bias"),
        },
    )
    return {"y": found["y"]}


ADAPTERS: dict[str, Adapter] = {
    "h3_diag": diagonal,
    "h3_shift": shift,
    "h3_layer_decode": h3_decode,
    "h3_layer": h3,
    "s4d_kernel": s4d_kernel,
    "s4d_layer": s4d_layer,
    "s4_diag": s4_diagonal_kernel,
    "bsl_": block_sparse,
}
