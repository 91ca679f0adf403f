"""What only a fresh process shows: time from text to callable, and the memory of a call.

``python -m benchmarks.fresh callable`` and ``python -m benchmarks.fresh memory`` print one line of JSON.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

D, N = 1536, 16


def time_to_callable(say: Any, repeats: int) -> list[dict[str, Any]]:
    """Seconds from the text of the selective scan to its first result, each in a process of its own."""
    rows = []
    for name in ("cold: empty cache", "cold: compiler known", "warm: compiled before"):
        say(f"text to callable, {name}")
        found = []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
                if name.startswith("cold: compiler"):
                    _child("toolchain", folder)
                elif name.startswith("warm"):
                    _child("callable", folder)
                found.append(_child("callable", folder)["seconds"])
        rows.append({"name": name, "seconds": found, "median": statistics.median(found)})
    return rows


def memory_of_call(say: Any, length: int) -> dict[str, Any]:
    """Bytes by which the resident set grows at its peak during one call that makes its own output."""
    say(f"memory of a call, t={length}")
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        return _child("memory", folder, str(length))


def _child(*arguments: str) -> dict[str, Any]:
    """Run this module in a fresh process with its own cache folder; what it printed."""
    task, folder, *rest = arguments
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.fresh", task, *rest],
        env={**os.environ, "SSMC_CACHE_DIR": folder},
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{task}: {done.stderr.strip().splitlines()[-1:]}")
    return dict(json.loads(done.stdout))


# In the child.


def _inputs(length: int) -> tuple[list[Any], dict[str, Any]]:
    from benchmarks.layers.selective_scan import make_inputs

    i = make_inputs(1, length, D)
    return [i.x, i.dt, i.A, i.B, i.C], {"D": i.D, "z": i.z, "dt_bias": i.bias}


def _callable() -> dict[str, Any]:
    import ssmc
    import ssmc.runtime

    positional, named = _inputs(2)
    start = time.perf_counter()
    layer = ssmc.load("selective_scan")
    layer(*positional, **named)
    return {"seconds": time.perf_counter() - start}


def _memory(length: int) -> dict[str, Any]:
    import torch

    import ssmc

    torch.set_grad_enabled(False)
    torch.set_num_threads(2)
    positional, named = _inputs(length)
    layer = ssmc.load("selective_scan")
    short = [v[:, :64] if v.dim() == 3 else v for v in positional]
    layer(*short, **{k: v[:, :64] if v.dim() == 3 else v for k, v in named.items()})  # compile, start threads
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts at what is resident now
    before = _status("VmRSS")
    y = layer(*positional, **named)
    grown = _status("VmHWM") - before
    return {
        "length": length,
        "grown_bytes": grown,
        "output_bytes": y.numel() * y.element_size(),
        "states_bytes": length * D * N * 4,
    }


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def main() -> None:
    task, *rest = sys.argv[1:]
    if task == "toolchain":
        from ssmc.backends import toolchain

        toolchain.find()
        print("{}")
    elif task == "callable":
        print(json.dumps(_callable()))
    else:
        print(json.dumps(_memory(int(rest[0]))))


if __name__ == "__main__":
    main()
