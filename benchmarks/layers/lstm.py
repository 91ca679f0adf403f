"""A recurrence that contracts its own past with a matrix."""

from __future__ import annotations

import torch

import ssmc
from benchmarks.timing import Case, Contestant, Entry


def case(b: int, t: int, d: int) -> Case:
    def setup() -> tuple[torch.Tensor, list[Entry]]:
        torch.manual_seed(0)
        module = torch.nn.LSTM(d, d, batch_first=True)
        x = torch.randn(b, t, d)
        values = dict(module.named_parameters())
        W, U = (values[name].detach().reshape(4, d, d) for name in ("weight_ih_l0", "weight_hh_l0"))
        bias = (values["bias_ih_l0"] + values["bias_hh_l0"]).detach().reshape(4, d)
        layer = ssmc.load("lstm")
        outs = (torch.empty(b, t, d), torch.empty(b, t, d))
        wide = torch.nn.LSTM(d, d, batch_first=True).double()
        wide.load_state_dict({k: v.double() for k, v in module.state_dict().items()})
        entries = [
            Entry("ssmc", lambda: Contestant(lambda: layer(x, W, U, bias, out=outs)[0])),
            Entry("torch.nn.LSTM", lambda: Contestant(lambda: module(x)[0])),
        ]
        return wide(x.double())[0], entries

    return Case("LSTM", {"b": b, "t": t, "d": d}, setup)


def cases(quick: bool) -> list[Case]:
    return [case(1, 128, 256)] if quick else [case(1, 512, 256), case(16, 256, 256)]
