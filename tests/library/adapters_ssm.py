"""Cases of H3, S4D and block-sparse linear maps, on the library's layers."""

from __future__ import annotations

import torch

from tests.library.adapters_scan import linear, time_last, time_second
from tests.library.golden import Adapter, Case, Tensor, call, paired

# ---------------------------------------------------------------- diagonal and shift SSM


def diagonal(case: Case) -> dict[str, Tensor]:
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

    def outputs(u: Tensor, x0: Tensor | None) -> dict[str, Tensor]:
        return call("s4d:s4d_channels", {"u": u, "x0": x0, **parameters}, {"s4d.x": 1}, disc=disc)

    repeats = case.config["H"] // sets
    wide = {
        key: value.tile(repeats, 1) if key in ("log_A_real", "A_imag", "B") else value
        for key, value in parameters.items()
    }
    kernels = [call("s4d:s4d_kernel", {**wide, "C": C}, disc=disc, length=length)["K"] for C in parameters["C"]]
    result = {"K": torch.stack(kernels), "next_state": outputs(u, state)["s4d.x@last"][:, 0]}
    if state is not None:
        silence = outputs(torch.zeros_like(u), state)
        result["K_state"] = silence["y"].permute(0, 2, 3, 1)
    steps = outputs(u[:, : case["out.y_steps"].shape[-1]], state)
    result["y_steps"] = steps["y"].permute(0, 2, 3, 1)
    return result


def shift(case: Case) -> dict[str, Tensor]:
    u, state = time_second(case["in.u"]), case.get("in.state")
    parameters = {"B": case["param.kernel.B"], "C": case["param.kernel.C"][0]}

    def outputs(u: Tensor) -> dict[str, Tensor]:
        return call("shift_ssm", {"u": u, "s0": state, **parameters}, {"s": 1})

    K = call("shift_ssm:shift_kernel", parameters, length=case.config["L"])["K"]
    result = {"K": K[None], "next_state": outputs(u)["s@last"][:, 0]}
    if state is not None:
        # The reference's response leaves out the shift at the first token, although its own step makes it
        # (y_steps agrees). So what it says of token l is true of token l - 1, and of token 0 it says what the
        # state before the start would read out.
        before = (parameters["C"] * state).sum(-1, keepdim=True)
        response = time_last(outputs(torch.zeros_like(u))["y"])
        result["K_state"] = torch.cat((before, response[..., :-1]), -1)[:, None]
    steps = case["out.y_steps"].shape[-1]
    assert steps <= u.shape[1]
    result["y_steps"] = time_last(outputs(u[:, :steps])["y"])[:, None]
    return result


def s4d_kernel(case: Case) -> dict[str, Tensor]:
    return {"K": _s4d_kernel(case, case.config["L"])}


def _s4d_parameters(case: Case, prefix: str) -> dict[str, Tensor]:
    names = {"log_dt": "log_dt", "log_A_real": "log_A_real", "A_imag": "A_imag"}
    found = {name: case[f"param.{prefix}{theirs}"] for name, theirs in names.items()}
    return {**found, "C": paired(case[f"param.{prefix}C"])}


def _s4d_kernel(case: Case, length: int) -> Tensor:
    return call("s4d:s4d_kernel", _s4d_parameters(case, ""), length=length)["K"]


def s4_diagonal_kernel(case: Case) -> dict[str, Tensor]:
    """This reference stores the other pole of each pair, whose imaginary part is negative."""
    parameters = {
        "log_dt": case["param.inv_dt"][:, 0],
        "log_A_real": case["param.A_real"],
        "A_imag": -case["param.A_imag"],
        "B": paired(case["param.B"])[0],
        "C": paired(case["param.C"])[0],
    }
    return {"K": call("s4d:s4d_kernel", parameters, length=case.config["L"], disc=case.config["disc"])["K"][None]}


def s4d_layer(case: Case) -> dict[str, Tensor]:
    """The state space model, then GELU and a gated linear unit."""
    inputs = {"u": time_second(case["in.u"]), "D": case["param.D"], **_s4d_parameters(case, "kernel.")}
    y = call("s4d", inputs)["y"]
    y = torch.nn.functional.gelu(y)
    y = linear(y, case["param.output_linear.0.weight"][..., 0], case["param.output_linear.0.bias"])
    value, gate = y.chunk(2, -1)
    return {"y": time_last(value * torch.sigmoid(gate))}


# ---------------------------------------------------------------- H3


def h3(case: Case) -> dict[str, Tensor]:
    y, _ = _h3(case, case["in.u"])
    return {"y": y}


def h3_decode(case: Case) -> dict[str, Tensor]:
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


def _h3(case: Case, u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    width = case.config["head_dim"]

    def heads(array: Tensor) -> Tensor:
        """Channels as (head, place in the head), on the last axis that holds channels."""
        return array.reshape(*array.shape[:-1], -1, width)

    def projected(name: str) -> Tensor:
        return heads(linear(u, case[f"param.{name}_proj.weight"], case[f"param.{name}_proj.bias"]))

    def per_channel(array: Tensor) -> Tensor:
        return array.reshape(-1, width, *array.shape[1:])

    length = case.config.get("l_max")
    found = call(
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


def block_sparse(case: Case) -> dict[str, Tensor]:
    start, entries = case["aux.row_start_ends_a"], case["aux.cols_a"]
    found = call(
        "block_sparse_linear",
        {
            "x": case["in.x"],
            "w": _blocks(case),
            "start": start,
            "column": entries[:, 0],
            "block": entries[:, 1],
            "bias": case.get("in.bias"),
        },
    )
    return {"y": found["y"]}


def _blocks(case: Case) -> Tensor:
    """The blocks of the dense matrix, in the order in which the reference stores them (each transposed)."""
    rows, columns = case.config["block_shape"]
    grid = case["in.weight_dense"].unflatten(1, (-1, columns)).unflatten(0, (-1, rows)).swapaxes(1, 2)
    start, entries = case["aux.row_start_ends_a"], case["aux.cols_a"]
    places = sorted(
        (block, row, column)
        for row in range(len(start) - 1)
        for column, block in entries[start[row] : start[row + 1]].tolist()
    )
    blocks = torch.stack([grid[row, column] for _, row, column in places])
    assert torch.equal(blocks, case["aux.data"].reshape(-1, columns, rows).swapaxes(1, 2))
    return blocks


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
