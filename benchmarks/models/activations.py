"""What training holds besides weights and gradients, each measured in a process of its own.

``python -m benchmarks.models.activations ssmc 512`` prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
SHARE = 1 / 6  # of what transformers' loop over time needs, at most


def table(say: Any, length: int) -> dict[str, Any]:
    """The peak of one step of training, beyond what is there before it: imports, weights and gradients."""
    grown = {}
    for name in ("ssmc", "transformers, unbind"):
        say(f"activations of training, {name}")
        grown[name] = _child(name, length) / 1e6
    ratio = grown["ssmc"] / grown["transformers, unbind"]
    text = f"ssmc needs 1/{1 / ratio:.1f} of transformers, unbind; goal at most 1/{1 / SHARE:g}"
    return {
        "name": "Mamba-130m, forward and backward: memory beyond weights and gradients",
        "sizes": {"b": 1, "t": length},
        "unit": "MB",
        "rows": [{"name": n, "median": v, "min": v, "max": v, "count": 1} for n, v in grown.items()],
        "goals": [{"text": text, "value": ratio, "met": ratio <= SHARE}],
    }


def _child(name: str, length: int) -> int:
    """Run this module in a fresh process, whose freed memory goes back to the system."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.models.activations", name, str(length)],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{name}: {done.stderr.strip().splitlines()[-1:]}")
    return int(json.loads(done.stdout.splitlines()[-1])["grown_bytes"])


def main() -> None:
    import torch

    from benchmarks.fresh import _status
    from benchmarks.models.setting import mamba_130m, unbinding

    name, length = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(2)
    setting = mamba_130m()
    model = setting.model if name == "ssmc" else setting.transformers()
    model.train()

    def step(tokens: int) -> None:
        ids = setting.tokens(tokens)
        with unbinding():
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()

    step(4)  # gradients are there, threads run, layers are compiled
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts at what is resident now
    before = _status("VmRSS")
    step(length)
    print(json.dumps({"grown_bytes": _status("VmHWM") - before}))


if __name__ == "__main__":
    main()
