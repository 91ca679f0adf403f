"""Every workload once, small, forward and backward, on a target: what the memory checker watches.

python -m benchmarks.gpu.exercise cuda
"""

from __future__ import annotations

import sys

import torch

import ssmc
from benchmarks.gpu.device import Device, Gpu, Stand
from benchmarks.gpu.workloads import WORKLOADS, Workload
from benchmarks.timing import relative_error

ALLOWED = 1e-3


def exercised(workload: Workload, target: str, device: Device) -> float:
    """How far output and gradients are from those of the formulation in float64, relative to their largest values."""
    layer = ssmc.load(workload.layer, None, target, "", **workload.statics)
    made = workload.inputs(workload.small)
    wide = {n: v.double().to(device.torch).requires_grad_() for n, v in made.items()}
    leaves = {n: v.to(device.torch).requires_grad_() for n, v in made.items()}
    y, want = layer(**leaves), workload.meaning(wide)
    slopes = torch.autograd.grad(y.square().sum(), [*leaves.values()])
    expected = torch.autograd.grad(want.square().sum(), [*wide.values()])
    return relative_error((y.detach(), *slopes), (want.detach(), *expected))


def main(targets: list[str]) -> int:
    """1 if anything differs."""
    worst = 0.0
    for target in targets:
        device: Device = Stand() if target == "c" else Gpu()
        for workload in WORKLOADS:
            error = exercised(workload, target, device)
            print(f"{workload.name}, {target}: {error:.1e}")
            worst = max(worst, error)
    return int(not worst <= ALLOWED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
