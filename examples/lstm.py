"""The library's LSTM beside ``torch.nn.LSTM``, with the weights of the latter."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

import ssmc

CHANNELS, SIZES = 256, ((1, 256), (8, 64))


def weights(module: torch.nn.LSTM) -> dict[str, torch.Tensor]:
    """What the layer calls W, U and bias: PyTorch keeps the four gates in one axis and two biases."""
    width = module.hidden_size
    return {
        "W": module.weight_ih_l0.unflatten(0, (4, width)),
        "U": module.weight_hh_l0.unflatten(0, (4, width)),
        "bias": (module.bias_ih_l0 + module.bias_hh_l0).unflatten(0, (4, width)),
    }


def one_at_a_time(op: ssmc.Layer, x: torch.Tensor, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Outputs of one call per token."""
    found, state = [], None
    for t in range(x.shape[1]):
        y, _, state = op(x[:, t : t + 1], **given, state=state, return_state=True)
        found.append(y)
    return torch.cat(found, 1)


def milliseconds(*runs: Callable[[], object]) -> list[float]:
    """Median wall time of each, taken in turns."""
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(5):
        for run, times in zip(runs, taken, strict=True):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return [statistics.median(times) * 1e3 for times in taken]


def main() -> None:
    """One row for each size."""
    torch.manual_seed(0)
    module = torch.nn.LSTM(CHANNELS, CHANNELS, batch_first=True)
    op, given = ssmc.load("lstm"), weights(module)
    print(f"LSTM, {CHANNELS} channels, float32, {torch.get_num_threads()} threads\n")
    print("batch  length   ssmc ms  torch.nn.LSTM ms  difference of y    of c  token by token")
    for batch, length in SIZES:
        x = torch.randn(batch, length, CHANNELS)
        y, c = op(x, **given)
        expected, (_, last) = module(x)
        apart = [(y - expected).abs().max(), (c[:, -1] - last[0]).abs().max()]
        apart.append((one_at_a_time(op, x, given) - expected).abs().max())
        ours, theirs = milliseconds(lambda x=x: op(x, **given), lambda x=x: module(x))
        print(f"{batch:5}  {length:6}  {ours:8.2f}  {theirs:16.2f}  {apart[0]:15.1e} {apart[1]:7.1e}  {apart[2]:14.1e}")


if __name__ == "__main__":
    with torch.no_grad():
        main()
