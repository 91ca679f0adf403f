"""Which plans are not worth measuring: found out from what is emitted and compiled, without running it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping

import torch

from ssmc.backends import BYTES, Cache, target_named
from ssmc.compiler import Stages, compile_program, stages, taken
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
        self._spills = self._spilled(PlanOptions()) if architecture else False

    @property
    def _outputs(self) -> Mapping[str, str]:
        return {place.name: place.storage for place in self._spec.gives}

    def _staged(self, options: PlanOptions) -> Stages:
        spec = self._spec
        return stages(spec.program(), self._target, spec.storage, self._sizes, options, self._outputs)

    def reason(self, options: PlanOptions) -> str:
        """Why a plan is not measured; empty if it is to be."""
        try:
            return self._reason(options)
        except SsmcError as refusal:
            return refusal.diagnostics[0].message

    def _reason(self, options: PlanOptions) -> str:
        done = self._staged(options)
        kernels = f"{done.text} {done.launches} {done.programs}"
        same = self._seen.setdefault(kernels, str(options) or "the compiler's own plan")
        if options.chosen and same != str(options):
            return f"the same kernels as {same}"
        if not target_named(self._target).blocks:
            kept = max((_kept(k, done.loops.fixed) for k in done.loops.kernels), default=0)
            return f"keeps {kept} bytes for a block of lanes" if kept > NEAR_MEMORY else ""
        return self._on_gpu(done, options)

    def _on_gpu(self, done: Stages, options: PlanOptions) -> str:
        if any(item.shared > SHARED for item in done.launches):
            return f"takes more than {SHARED} bytes of shared memory for a block"
        if ":" not in self._target or self._spills:
            return ""
        return "registers are spilled, which the compiler's own plan avoids" if self._spilled(options) else ""

    def _spilled(self, options: PlanOptions) -> bool:
        """Whether the assembler reports registers that went to memory, of what is made with these options."""
        spec, limits = self._spec, target_named(self._target).limits
        with tempfile.TemporaryDirectory(prefix="ssmc-prune-") as folder:
            made = compile_program(spec.program(), self._target, spec.storage, self._sizes, options,
                                   Cache(folder), self._outputs)  # fmt: skip
            return any(kernel.spilled for kernel in taken(made, limits))


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
