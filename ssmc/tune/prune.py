"""Which plans are not worth measuring: found out from what is emitted and compiled, without running it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from ssmc.backends import BYTES, cuda_toolchain, target_named, triton_toolchain
from ssmc.compiler import Stages, stages
from ssmc.errors import SsmcError
from ssmc.explain import CALL_SECONDS, explain
from ssmc.ir.loops import Kernel
from ssmc.passes import PlanOptions, grad
from ssmc.runtime import architecture_of

from .floors import Speeds, floor_of, of_gpu
from .job import Job

NEAR_MEMORY = 1 << 20  # bytes that a block of lanes keeps on a CPU: more do not stay in the caches near a core
REGISTERS = 1 << 16  # of a multiprocessor
SHARED = 227 << 10  # bytes of shared memory that the largest block gets


class Pruner:
    """Says of each plan why it need not be measured; ``architecture`` is that of the GPU it is for."""

    def __init__(self, job: Job, architecture: str = "") -> None:
        self._spec = job.usual.specialisation(job.what)
        self._sizes = dict(job.extents())
        self._target = f"{job.target}:{architecture}" if architecture else job.target
        self._seen: dict[str, str] = {}
        self._spills = True
        self.reason(PlanOptions())
        self._spills = self._spilled(self._staged(PlanOptions())) if architecture else False

    def _staged(self, options: PlanOptions) -> Stages:
        outputs = {place.name: place.storage for place in self._spec.gives}
        return stages(self._spec.program(), self._target, self._spec.storage, self._sizes, options, outputs)

    def reason(self, options: PlanOptions) -> str:
        """Why a plan is not measured; empty if it is to be."""
        try:
            done = self._staged(options)
        except SsmcError as refusal:
            return refusal.diagnostics[0].message
        kernels = f"{done.text} {done.launches} {done.programs}"
        same = self._seen.setdefault(kernels, str(options) or "the compiler's own plan")
        if options.chosen and same != str(options):
            return f"the same kernels as {same}"
        if not target_named(self._target).blocks:
            kept = max((_kept(k, done.loops.fixed) for k in done.loops.kernels), default=0)
            return f"keeps {kept} bytes for a block of lanes" if kept > NEAR_MEMORY else ""
        return self._on_gpu(done)

    def _on_gpu(self, done: Stages) -> str:
        if any(item.shared > SHARED for item in done.launches):
            return f"takes more than {SHARED} bytes of shared memory for a block"
        if ":" not in self._target or self._spills:
            return ""
        return "registers are spilled, which the compiler's own plan avoids" if self._spilled(done) else ""

    def _spilled(self, done: Stages) -> bool:
        """Whether the assembler reports registers that went to memory."""
        _, _, architecture = self._target.partition(":")
        with tempfile.TemporaryDirectory(prefix="ssmc-prune-") as folder:
            if done.programs:
                triton_toolchain.find().build(done.text, done.programs, folder, architecture)
                return any(item["spilled"] for item in triton_toolchain.facts(Path(folder)))
            cuda_toolchain.find().build(done.text, folder, architecture)
            log = (Path(folder) / cuda_toolchain.LOG).read_text(encoding="utf-8")
            return any(r.spill_stores or r.spill_loads for r in cuda_toolchain.resources(log))


def _kept(kernel: Kernel, fixed: Mapping[str, int]) -> int:
    """Bytes that a kernel keeps for a block of lanes."""
    words = sum(
        ring.slots * len(ring.parts) * math.prod(fixed[a] for a in ring.dims) * (kernel.lanes if ring.lanes else 1)
        for ring in kernel.rings
    )
    for variable in kernel.variables.values():
        if not variable.local:
            many = math.prod(fixed[a] for a in variable.dims) * (kernel.chunk if variable.chunk else 1)
            words += many * (kernel.lanes if variable.lanes else 1)
    return words * BYTES["f32"]


def pruner(job: Job) -> Callable[[PlanOptions], str]:
    """What says of each plan of a job why it need not be measured on this machine."""
    if job.device.type == "cpu":
        return Pruner(job).reason
    return Pruner(job, architecture_of(job.device)).reason


def bound_of(job: Job) -> float:
    """Seconds that no plan can beat on this machine, 0 where that is not known: of a processor by its measured speeds,
    of a GPU by those that are known of it or that it states of itself."""
    if job.device.type != "cpu":
        properties = torch.cuda.get_device_properties(job.device)
        speeds = of_gpu(torch.cuda.get_device_name(job.device), properties)
        return bound_by(job, speeds) if speeds else 0.0
    spec = job.usual.specialisation(job.what)
    try:
        found = explain(spec.program(), job.extents(), spec.storage, torch.get_num_threads())
    except SsmcError:
        return 0.0
    return found.predicted - CALL_SECONDS if found.predicted is not None else 0.0


def bound_by(job: Job, speeds: Speeds) -> float:
    """Seconds that bytes and exponentials take at these speeds; what is multiplied, matrix units might do."""
    program = job.usual.program if job.what != "backward" else grad(job.usual.program)
    seconds = floor_of(program, job.extents(), BYTES[job.real], speeds).seconds
    return max(seconds["memory"], seconds["exponentials"])
