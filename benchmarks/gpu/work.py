"""What a section does, in a process of its own: ``python -m benchmarks.gpu.work KIND SECTION RESULT``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu import device as devices
from benchmarks.gpu.sections import LIMIT

SANITIZERS = ("compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer")
LEFT = 40.0  # seconds of a section's limit for what is not the work itself


def environment(device: devices.Device, about: Mapping[str, Any]) -> dict[str, Any]:
    """Versions, and whether each target runs a small layer at all."""
    from benchmarks.gpu.exercise import exercised
    from benchmarks.gpu.workloads import HGRN

    checks = {}
    for target in device.targets:
        try:
            checks[target] = f"runs; differs by {exercised(HGRN, target, device):.1e}"
        except Exception as failure:  # what is missing is what is asked here
            checks[target] = f"{type(failure).__name__}: {str(failure).splitlines()[0][:200]}"
    return {**devices.describe(device), "targets": checks}


def verify(device: devices.Device, about: Mapping[str, Any]) -> dict[str, Any]:
    """``ssmc verify`` of a layer on a target; ``about``: layer, target, quick, plan."""
    words = ["verify", about["layer"], "--target", about["target"], "--dtype", "f32"]
    words += ["--plan", about["plan"]] if about.get("plan") else []
    words += ["--only", "forward"] if about.get("quick") else []
    found = _ssmc(words)
    failing = [row for row in found["rows"] if row["verdict"] == "fails"]
    return {"verdict": found["verdict"], "rows": len(found["rows"]), "failing": failing}


def memory(device: devices.Device, about: Mapping[str, Any]) -> dict[str, Any]:
    """All workloads, small, forward and backward, under the memory checker, if there is one."""
    found = next((path for name in SANITIZERS if (path := shutil.which(name))), None)
    if found is None or device.torch.type != "cuda":
        return {"checker": None, "note": "compute-sanitizer is not there"}
    command = [found, "--tool", "memcheck", "--error-exitcode", "9"]
    command += [sys.executable, "-m", "benchmarks.gpu.exercise", about["target"]]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR SUMMARY" in line or "Invalid" in line]
    return {"checker": found, "status": done.returncode, "said": lines[-5:]}


def tune(device: devices.Device, about: Mapping[str, Any]) -> dict[str, Any]:
    """``ssmc tune`` of one pass of a workload; ``about``: workload, target, pass, dtype, small."""
    from benchmarks.gpu.workloads import workload

    chosen = workload(about["workload"])
    sizes = chosen.small if about.get("small") else chosen.sizes
    words = ["tune", chosen.layer, "--sizes", ",".join(f"{axis}={n}" for axis, n in sizes.items())]
    words += ["--target", about["target"], "--pass", about["pass"], "--dtype", about["dtype"]]
    if about["dtype"] != "f32":  # as benchmarks call it: parameters stay wide, results are narrow
        words += ["--autocast"]
        words += ["--stored", ",".join(f"{name}=f32" for name in chosen.parameters)] if chosen.parameters else []
    absent = _absent(chosen.layer, set(chosen.inputs(chosen.small)))
    words += ["--without", ",".join(absent)] if absent else []
    words += [word for name, value in chosen.statics.items() for word in ("--set", f"{name}={value}")]
    words += ["--seconds", str(about.get("seconds", LIMIT - 3 * LEFT)), "--trials", str(about.get("trials", 60))]
    (found,) = _ssmc(words)["passes"]
    kinds = [trial["outcome"] for trial in found["trials"]]
    return {
        "extents": found["extents"],
        "winner": found["winner"],
        "ended": found["ended"],
        "outcomes": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
    }


def _absent(name: str, given: set[str]) -> list[str]:
    """Optional inputs of a layer that a workload does not give."""
    import ssmc

    return [item.name for item in ssmc.load(name).signature.inputs if not item.required and item.name not in given]


def bench(device: devices.Device, about: Mapping[str, Any]) -> dict[str, Any]:
    """One table; ``about``: workload, pass, dtype, small."""
    from benchmarks.gpu.timed import measured
    from benchmarks.gpu.workloads import workload

    return measured(workload(about["workload"]), about["pass"], device, about["dtype"], bool(about.get("small")))


WORK: Mapping[str, Callable[[devices.Device, Mapping[str, Any]], dict[str, Any]]] = {
    "environment": environment, "verify": verify, "memory": memory, "tune": tune, "bench": bench,
}  # fmt: skip


def _ssmc(words: list[str]) -> dict[str, Any]:
    """What a command says with ``--json``; RuntimeError with its first diagnostic if it cannot do its work."""
    done = subprocess.run([sys.executable, "-m", "ssmc", *words, "--json"], capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    if found["diagnostics"]:
        raise RuntimeError(f"ssmc {words[0]}: {found['diagnostics'][0]['message']}")
    return found


def main(arguments: list[str]) -> None:
    """Do the work of a section and write its result."""
    kind, section, result = arguments
    asked = json.loads(section)
    made = WORK[asked["kind"]](devices.named(kind), asked["about"])
    Path(result).write_text(json.dumps(made), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # a broken context of a GPU may hang what is done at exit


if __name__ == "__main__":
    main(sys.argv[1:])
