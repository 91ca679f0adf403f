"""One workload and one pass: every contestant is checked, then all take turns, as called and as CUDA graphs."""

from __future__ import annotations

import contextlib
import gc
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

import ssmc
from benchmarks.gpu.device import Device
from benchmarks.gpu.floors import Floor, Speeds, floor_of
from benchmarks.gpu.workloads import Formulation, Tensors, Workload
from benchmarks.timing import relative_error, time_limit
from ssmc.errors import SsmcError
from ssmc.passes import grad
from ssmc.runtime import Examined

PASSES = ("forward", "backward", "forward and backward")
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
TOLERANCE = {"f32": 2e-3, "bf16": 5e-2}  # of the largest value; gradients of narrow activations are rounded on the way
ROUNDS, LEAST, SECONDS = 30, 3, 6.0  # turns of each contestant, at most and at least; seconds for one in all
MARKED = "H200"  # the device that workloads' marks are for
LIMIT = 120.0  # seconds for making a contestant and its first call


@dataclass
class Row:
    """What became of a contestant: seconds of its timed calls, of those of its graph, or why there are none."""

    name: str
    eager: list[float] = field(default_factory=list)
    graph: list[float] = field(default_factory=list)
    error: float | None = None
    note: str = ""

    def facts(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "eager_s": statistics.median(self.eager) if self.eager else None,
            "graph_s": statistics.median(self.graph) if self.graph else None,
            "calls": {"eager": self.eager, "graph": self.graph},
            "error": self.error,
            "note": self.note,
        }


@dataclass(frozen=True)
class _Setting:
    """What contestants of one workload have in common."""

    workload: Workload
    what: str
    real: str
    inputs: dict[str, torch.Tensor]
    dy: torch.Tensor
    reference: tuple[torch.Tensor, ...]


def measured(workload: Workload, what: str, device: Device, real: str, small: bool = False) -> dict[str, Any]:
    """The table of a workload and a pass."""
    sizes = workload.small if small else workload.sizes
    inputs = placed(workload, sizes, device, real)
    setting = _setting(workload, what, real, inputs)
    makers = {f"ssmc, {target}": _ours(setting, target) for target in device.targets}
    if what != "backward":  # of which peers have no call of their own
        makers |= {name: _peer(setting, make) for name, make in workload.peers.items()}
    rows, ready = [], []
    for name, make in makers.items():
        row, call = _prepared(name, make, setting)
        rows.append(row)
        if call is not None:
            ready.append((row, call))
    _take_turns(device, ready)
    speeds = device.speeds()
    floor = floor_for(workload, what, sizes, real, speeds) if speeds else None
    return {
        "workload": workload.name,
        "pass": what,
        "dtype": real,
        "sizes": dict(sizes),
        "floor": floor.facts() if floor else None,
        "speeds": speeds.source if speeds else "not known of this device",
        "mark": workload.marks.get(what) if MARKED in device.name and real == "bf16" and not small else None,
        "plans": _plans(workload, what, device, real, sizes),
        "rows": [row.facts() for row in rows],
    }


def _plans(workload: Workload, what: str, device: Device, real: str, sizes: Mapping[str, int]) -> dict[str, str]:
    """The plans that tuning has found for the machine code of a pass, which is then used, by target and call."""
    names = {"forward": ["forward"], "backward": ["backward"]}.get(what, ["training", "backward"])
    found = {}
    for target in device.targets:
        layer = ssmc.load(workload.layer, None, target, "", **workload.statics)
        calls = examined(workload, real, layer)
        for name in names:
            options = calls.planned(sizes, name, device.torch.type).options
            if options.chosen:
                found[f"{target}, {name}"] = str(options)
    return found


def placed(workload: Workload, sizes: Mapping[str, int], device: Device, real: str) -> dict[str, torch.Tensor]:
    """The inputs on the device, activations in the dtype that is measured."""
    made = workload.inputs(sizes)
    return {
        name: value.to(device.torch, torch.float32 if name in workload.parameters else DTYPES[real])
        for name, value in made.items()
    }


def _setting(workload: Workload, what: str, real: str, inputs: dict[str, torch.Tensor]) -> _Setting:
    """The inputs, what comes back, and the results of the formulation in float64."""
    wide = {name: value.double() for name, value in inputs.items()}
    y = workload.meaning(wide) if what == "forward" else None
    if y is not None:
        return _Setting(workload, what, real, inputs, torch.empty(0), (y,))
    leaves = {name: value.requires_grad_() for name, value in wide.items()}
    with torch.enable_grad():
        y = workload.meaning(leaves)
        generator = torch.Generator().manual_seed(1)
        dy = torch.randn(y.shape, generator=generator).to(y.device, DTYPES[real])
        slopes = torch.autograd.grad(y, list(leaves.values()), dy.double())
    outputs = () if what == "backward" else (y.detach(),)
    return _Setting(workload, what, real, inputs, dy, (*outputs, *slopes))


Call = Callable[[], tuple[torch.Tensor, ...]]


def _ours(setting: _Setting, target: str) -> Callable[[], Call]:
    def make() -> Call:
        layer = ssmc.load(setting.workload.layer, None, target, "", **setting.workload.statics)
        if setting.what == "backward":
            return _kernels_of_gradient(setting, layer)
        return _calling(setting, _narrow(lambda i: layer(**i), setting))

    return make


def _narrow(function: Formulation, setting: _Setting) -> Formulation:
    """The same with results as narrow as activations are, which parameters in float32 would widen."""
    if setting.real == "f32":
        return function
    device = next(iter(setting.inputs.values())).device.type

    def call(i: Tensors) -> torch.Tensor:
        with torch.autocast(device, DTYPES[setting.real]):
            return function(i)

    return call


def _kernels_of_gradient(setting: _Setting, layer: ssmc.Layer) -> Call:
    """The gradient's machine code by itself, given what the way forward kept."""
    found = examined(setting.workload, setting.real, layer)
    values = found.values("backward", setting.inputs)
    for number, place in enumerate(found.specialisation("backward").takes):
        if place.role == "adjoint":
            values[number] = setting.dy.to(values[number].dtype)
    prepared = found.prepared("backward", values)

    def call() -> tuple[torch.Tensor, ...]:
        prepared.run()
        return tuple(prepared.made)

    return call


def examined(workload: Workload, real: str, layer: ssmc.Layer | None = None) -> Examined:
    """The layer as it is called here: parameters stay in float32, results are as narrow as activations."""
    layer = layer or ssmc.load(workload.layer, **workload.statics)
    wide = dict.fromkeys(workload.parameters, "f32")
    present = list(workload.inputs(workload.small))
    return Examined(layer, present, None, real, None, wide, "" if real == "f32" else real)


def _peer(setting: _Setting, make: Callable[[], Formulation]) -> Callable[[], Call]:
    return lambda: _calling(setting, make())


def _calling(setting: _Setting, function: Formulation) -> Call:
    """A call of the pass: forward, or forward and the gradients of all inputs."""
    if setting.what == "forward":

        def forward() -> tuple[torch.Tensor, ...]:
            with torch.no_grad():
                return (function(setting.inputs),)

        return forward
    leaves = {name: value.detach().requires_grad_() for name, value in setting.inputs.items()}

    def both() -> tuple[torch.Tensor, ...]:
        with torch.enable_grad():
            y = function(leaves)
            return (y.detach(), *torch.autograd.grad(y, list(leaves.values()), setting.dy))

    return both


def _prepared(name: str, make: Callable[[], Call], setting: _Setting) -> tuple[Row, Call | None]:
    """Make a contestant, call it, compare its results."""
    row = Row(name)
    try:
        with time_limit(LIMIT):
            call = make()
            made = call()
        row.error = relative_error(made, setting.reference)
    except ImportError as missing:
        row.note = f"absent: {missing}"
        return row, None
    except Exception as failure:  # the others are still worth their numbers
        lines = str(failure).strip().splitlines() or [""]
        row.note = f"failed: {type(failure).__name__}: {lines[0][:150]}"
        return row, None
    finally:
        gc.collect()
    if not row.error <= TOLERANCE[setting.real]:
        row.note = f"wrong: differs by {row.error:.1e}, more than {TOLERANCE[setting.real]:.0e}"
        return row, None
    return row, call


def _take_turns(device: Device, ready: list[tuple[Row, Call]]) -> None:
    """Every contestant once in each round, as called and as a graph, until its time is over."""
    graphs: dict[str, Callable[[], Any]] = {}
    for row, call in ready:
        try:
            graphs[row.name] = device.graphed(call)
        except Exception as failure:  # what waits for the GPU, or allocates in its own way, cannot be captured
            row.note = f"{row.note}; no graph: {type(failure).__name__}".lstrip("; ")
            with contextlib.suppress(RuntimeError, AssertionError):
                torch.cuda.synchronize()
    for _ in range(ROUNDS):
        for row, call in ready:
            for times, function in ((row.eager, call), (row.graph, graphs.get(row.name))):
                if function is not None and (len(times) < LEAST or sum(times) < SECONDS):
                    times.append(device.seconds(function))


# ---------------------------------------------------------------- floors


def floor_for(workload: Workload, what: str, sizes: Mapping[str, int], real: str, speeds: Speeds) -> Floor | None:
    """The floor of a pass; that of forward and backward is the sum of both."""
    layer = ssmc.load(workload.layer, **workload.statics)
    program = layer.program(present=list(workload.inputs(workload.small)))
    size = {"f32": 4, "bf16": 2}[real]
    try:
        forward = floor_of(program, sizes, size, speeds, workload.matrix)
        if what == "forward":
            return forward
        backward = floor_of(grad(program), sizes, size, speeds, workload.matrix)
    except SsmcError:
        return None
    if what == "backward":
        return backward
    return Floor(
        forward.bytes + backward.bytes,
        forward.special + backward.special,
        forward.multiply_adds + backward.multiply_adds,
        {name: forward.seconds[name] + backward.seconds[name] for name in forward.seconds},
    )
