"""What a call of a layer costs on this machine: its kernels, what they move and compute, and, on the CPU, a bound.

The bound is a roofline: bytes at the speed of a copy, operations at that of multiply-adds, exponentials at
that of the emitted exponential, whichever takes longest. The three speeds are measured once per machine,
by a small C program, and kept in the cache.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ssmc.analysis import cost
from ssmc.backends import BYTES, Cache, prelude, toolchain, wanted
from ssmc.compiler import Stages, stages
from ssmc.errors import UserError
from ssmc.ir import Program, complete_extents
from ssmc.ir.loops import Kernel
from ssmc.passes import PlanOptions

CALL_SECONDS = 10e-6  # a call from Python without any work


@dataclass(frozen=True)
class Machine:
    """Measured speeds with some number of threads: bytes moved (read and written), float32 operations of
    multiply-adds, float32 exponentials, each per second."""

    name: str
    threads: int
    bytes: float
    flops: float
    exponentials: float


@dataclass(frozen=True)
class KernelCost:
    """One kernel: its plan in words, what it computes, the memory it touches (each tensor once)."""

    name: str
    plan: str
    flops: int
    exponentials: int
    bytes: int


@dataclass(frozen=True)
class Explanation:
    """The cost of one call; prints as text. ``machine`` is None for GPUs, whose speeds are not measured: then there is
    no bound."""

    layer: str
    extents: Mapping[str, int]
    tensors: tuple[tuple[str, str, int], ...]
    kernels: tuple[KernelCost, ...]
    plan: str
    machine: Machine | None
    target: str
    origin: str = ""

    @property
    def bytes(self) -> int:
        """Memory touched: inputs and outputs once, values between kernels once by each of them."""
        return sum(k.bytes for k in self.kernels)

    @property
    def flops(self) -> int:
        return sum(k.flops for k in self.kernels)

    @property
    def exponentials(self) -> int:
        return sum(k.exponentials for k in self.kernels)

    def seconds(self, kernel: KernelCost) -> dict[str, float]:
        """How long a kernel would take if it were bound by each of the machine's speeds, as far as they are known."""
        if self.machine is None:
            return {}
        return {
            "memory": kernel.bytes / self.machine.bytes,
            "arithmetic": kernel.flops / self.machine.flops,
            "exponentials": kernel.exponentials / self.machine.exponentials,
        }

    @property
    def predicted(self) -> float | None:
        """Seconds of a call: no kernel is faster than its slowest bound."""
        if self.machine is None:
            return None
        return CALL_SECONDS + sum(max(self.seconds(k).values()) for k in self.kernels)

    def facts(self) -> dict[str, Any]:
        """The same as plain values, for ``--json``."""
        kernels = [
            {**asdict(k), "bound": self._bound(k), "seconds": max(self.seconds(k).values(), default=None)}
            for k in self.kernels
        ]
        return {
            "layer": self.layer,
            "target": self.target,
            "extents": dict(self.extents),
            "bytes": self.bytes,
            "flops": self.flops,
            "exponentials": self.exponentials,
            "kernels": kernels,
            "machine": asdict(self.machine) if self.machine else None,
            "plan_origin": self.origin,
            "predicted_seconds": self.predicted,
        }

    def _bound(self, kernel: KernelCost) -> str | None:
        times = self.seconds(kernel)
        return max(times, key=lambda name: times[name]) if times else None

    def __str__(self) -> str:
        lines = [f"{self.layer}: " + ", ".join(f"#{axis} = {extent}" for axis, extent in self.extents.items()), ""]
        lines += [f"  {name:<14} {storage:<6} {scaled(size)}B" for name, storage, size in self.tensors]
        lines += ["", f"target: {self.target}", self.plan, *([f"plan: {self.origin}"] if self.origin else [])]
        for k in self.kernels:
            lines += ["", f"{k.name}: {scaled(k.bytes)}B, {scaled(k.flops)}flop, {scaled(k.exponentials)}exponentials"]
            lines += [f"  {name:<14} {scaled(seconds)}s" for name, seconds in self.seconds(k).items()]
            lines += [f"  bound by {self._bound(k)}"] if self.machine else []
        lines += [
            "",
            "copies: none; arguments are used with the strides they have (conjugate and negative views apart)",
        ]
        if self.machine is None or self.predicted is None:
            return "\n".join([*lines, "no bound: the speed of a GPU is not measured"])
        m = self.machine
        speeds = f"{scaled(m.bytes)}B/s, {scaled(m.flops)}flop/s, {scaled(m.exponentials)}exponentials/s"
        lines.insert(-1, f"machine: {m.name}, {m.threads} threads: {speeds}")
        return "\n".join([*lines, f"predicted: {scaled(self.predicted)}s, at best"])

    __repr__ = __str__


def explain(
    program: Program,
    sizes: Mapping[str, int],
    storage: Mapping[str, str] | None = None,
    threads: int | None = None,
    options: PlanOptions | None = None,
    target: str = "c",
    origin: str = "",
) -> Explanation:
    """What one call costs.

    Args:
        program: a specialised Program.
        sizes: the extent of every axis that an input binds.
        storage: storage name of each input; f32 by default.
        threads: how many run it; by default one per processor.
        options: how kernels are to run; by default the compiler chooses. ``origin`` says why they are these.

    Raises:
        UserError: an extent is missing. Unsupported: no strategy. ToolchainError: no compiler.
    """
    free = {axis.name for axis in program.axes if axis.extent is None}
    bound = dict.fromkeys(axis for tensor in program.inputs for axis in tensor.axes if axis in free)
    missing = [axis for axis in bound if axis not in sizes]
    if missing:
        raise UserError(
            f"{program.name}: the extents of {', '.join(missing)} are not known",
            hint="give " + ", ".join(f"{axis}=…" for axis in missing),
        )
    done = stages(program, target, storage, sizes, options)
    extents = complete_extents(done.program, {axis: sizes[axis] for axis in sizes if axis in free})
    memory = {a.name: BYTES[a.storage] * math.prod(extents[axis] for axis in a.axes) for a in done.arguments}
    tensors = tuple((a.name, a.storage, memory[a.name]) for a in done.arguments)
    kernels = _kernels(done, extents, memory)
    shown = {axis.name: extents[axis.name] for axis in program.axes}
    speeds = machine(threads or _processors()) if target == "c" else None
    return Explanation(program.name, shown, tensors, kernels, done.plan.describe(), speeds, target, origin)


def _kernels(done: Stages, extents: Mapping[str, int], memory: Mapping[str, int]) -> tuple[KernelCost, ...]:
    free = {axis.name: extents[axis.name] for axis in done.program.axes if axis.extent is None}
    spent = {item.name: item for item in cost(done.program, free).equations}
    found = []
    lowered = {each.name: each for kernel in done.loops.kernels for each in (kernel, *_before(kernel))}
    for planned in done.plan.kernels:
        if not wanted(extents, planned.one, planned.more):
            continue
        mine = [spent[name] for name in planned.equations if name in spent]
        found.append(
            KernelCost(
                planned.name,
                planned.describe(),
                sum(item.flops for item in mine),
                sum(item.exponentials for item in mine),
                sum(memory.get(tensor, 0) for tensor in lowered[planned.name].tensors),
            )
        )
    return tuple(found)


def _before(kernel: Kernel) -> tuple[Kernel, ...]:
    """Kernels that run in the launch of another, before it."""
    return kernel.joined.kernels if kernel.joined else ()


def scaled(number: float) -> str:
    """A number to three digits with a decimal prefix, ready for a unit: ``1.25 M``."""
    if number == 0:
        return "0 "
    exponent = min(max(math.floor(math.log10(abs(number)) / 3), -3), 4)
    return f"{number / 1000**exponent:.3g} {['n', 'µ', 'm', '', 'k', 'M', 'G', 'T'][exponent + 3]}"


# ---------------------------------------------------------------- the machine

_MEASURE = r"""
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* of this thread, while it runs: what else the machine does shall not count */
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* Bytes read and written per second by a copy that no cache holds. */
static double copy_speed(int threads) {
    const int64_t n = 24 << 20;
    float *a = malloc(n * sizeof(float)), *b = malloc(n * sizeof(float));
    double best = 0;
    if (a == NULL || b == NULL) { free(a); free(b); return 0; }
    for (int round = 0; round < 12; ++round) {
        double speed = 0;
        #pragma omp parallel for num_threads(threads) schedule(static) reduction(+:speed)
        for (int k = 0; k < threads; ++k) {
            const double start = now();
            const int64_t from = n / threads * k, to = n / threads * (k + 1);
            for (int64_t i = from; i < to; ++i) b[i] = round ? a[i] : (a[i] = 1);
            speed += 2.0 * (to - from) * sizeof(float) / (now() - start);
        }
        if (round && speed > best) best = speed;
    }
    free(a); free(b);
    return best;
}

enum { LANES = 256, ROUNDS = 8000 };

/* Operations of multiply-adds per second, two each, on values that stay in registers and first cache. */
static double multiply_speed(int threads, float *sink) {
    double best = 0;
    for (int round = 0; round < 60; ++round) {
        double speed = 0;
        #pragma omp parallel for num_threads(threads) schedule(static) reduction(+:speed)
        for (int k = 0; k < threads; ++k) {
            const double start = now();
            float x[LANES] __attribute__((aligned(64)));
            for (int j = 0; j < LANES; ++j) x[j] = j;
            for (int i = 0; i < ROUNDS; ++i) {
                #pragma omp simd
                for (int j = 0; j < LANES; ++j) {
                    float v = x[j];
                    v = v * 0.999f + 0.5f; v = v * 0.998f + 0.25f; v = v * 0.997f + 0.5f; v = v * 0.996f + 0.125f;
                    v = v * 0.999f + 0.5f; v = v * 0.998f + 0.25f; v = v * 0.997f + 0.5f; v = v * 0.996f + 0.125f;
                    x[j] = v;
                }
            }
            speed += 16.0 * LANES * ROUNDS / (now() - start);
            for (int j = 0; j < LANES; ++j) sink[k] += x[j];
        }
        if (speed > best) best = speed;
    }
    return best;
}

static double exp_speed(int threads, float *sink) {
    double best = 0;
    for (int round = 0; round < 60; ++round) {
        double speed = 0;
        #pragma omp parallel for num_threads(threads) schedule(static) reduction(+:speed)
        for (int k = 0; k < threads; ++k) {
            const double start = now();
            float x[LANES] __attribute__((aligned(64)));
            for (int j = 0; j < LANES; ++j) x[j] = -0.01f * j;
            for (int i = 0; i < ROUNDS / 4; ++i) {
                #pragma omp simd
                for (int j = 0; j < LANES; ++j) x[j] = -ssmc_exp_f32(x[j]);
            }
            speed += 1.0 * LANES * (ROUNDS / 4) / (now() - start);
            for (int j = 0; j < LANES; ++j) sink[k] += x[j];
        }
        if (speed > best) best = speed;
    }
    return best;
}

__attribute__((visibility("default"))) int64_t ssmc_measure_speeds(int64_t threads, double *speeds) {
    float *sink = calloc(threads, sizeof(float));
    if (sink == NULL) return 1;
    /* The best of many short rounds: other work on the machine disturbs some of them. */
    speeds[0] = copy_speed((int)threads);
    speeds[1] = multiply_speed((int)threads, sink);
    speeds[2] = exp_speed((int)threads, sink);
    free(sink);
    return speeds[0] == 0;
}
"""


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=8)
def machine(threads: int) -> Machine:
    """The speeds of this machine with so many threads: measured now (a second), or read from the cache."""
    tools = toolchain.find()
    text = prelude({"exp_f32"}) + _MEASURE

    def measure(folder: Path) -> None:
        library = ctypes.CDLL(str(tools.build(text, folder)))
        speeds = (ctypes.c_double * 3)()
        if library.ssmc_measure_speeds(ctypes.c_int64(threads), speeds):
            raise UserError("the speed of this machine cannot be measured: 200 MB of memory are not there")
        made = Machine(toolchain.cpu_name(), threads, *speeds)
        (folder / "machine.json").write_text(json.dumps(asdict(made)))

    key = {"what": "machine", "threads": str(threads), "text": text, **tools.key_parts()}
    return Machine(**json.loads((Cache().get(key, measure) / "machine.json").read_bytes()))
