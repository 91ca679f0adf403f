"""``python -m benchmarks.run``: every table, in one process, and a file of the numbers behind them."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import tables

RESULTS = Path(__file__).resolve().parent / "results"
THREADS = 2
LAYERS = ("selective_scan", "rg_lru", "diagonal_ssm", "conv1d", "lstm", "step")
MODELS = ("mamba", "mamba_transformers", "mamba_training", "recurrent_gemma", "decode")
PARTS = (*LAYERS, "callable", "memory", *MODELS, "activations", "profile")

# Read when a process starts. glibc hands large blocks back at every free otherwise, and PyTorch's
# intermediate tensors then cost a page fault per page; JAX and torch.compile would use every core.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 36),
    "OMP_NUM_THREADS": str(THREADS),
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen=true intra_op_parallelism_threads={THREADS}",
    "JAX_PLATFORMS": "cpu",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    options = _options(arguments)
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        words = sys.argv[1:] if arguments is None else list(arguments)
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.run", *words], {**os.environ, **ENVIRONMENT})
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    import torch

    from benchmarks import machine

    torch.set_num_threads(THREADS)
    torch.set_grad_enabled(False)
    about = machine.describe(THREADS)
    load = os.getloadavg()[0]
    print(
        f"{about['cpu']}, {THREADS} of {about['cores']} cores, {about['compiler']}, torch {about['packages']['torch']}"
    )
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as cache:
        os.environ["SSMC_CACHE_DIR"] = options.cache or cache
        found = [table for part in options.only for table in _run(part, options.quick, _say)]
    about["load_average"] = {"before": load, "after": os.getloadavg()[0]}
    path = Path(options.json) if options.json else RESULTS / f"{machine.result_name(about)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": about, "quick": options.quick, "tables": found}, indent=1) + "\n")
    print(f"written: {path}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short sequences, few rounds, nothing that compiles long")
    parser.add_argument("--json", metavar="FILE", help="where the numbers go (default: benchmarks/results/)")
    parser.add_argument("--cache", metavar="FOLDER", help="keep what is compiled (default: compile everything now)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    return parser.parse_args(arguments)


def _say(text: str) -> None:
    """Progress, for people who watch."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _run(part: str, quick: bool, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The tables of one part, printed as they are finished."""
    found = []
    try:
        for table in _tables(part, quick, say):
            say("")
            print(f"\n{tables.text(table)}", flush=True)
            found.append(table)
    except Exception as failure:  # the other parts are still worth their numbers
        print(f"\n{part}: failed", flush=True)
        traceback.print_exception(failure)
        found.append({"name": part, "failed": f"{type(failure).__name__}: {failure}", "rows": [], "goals": []})
    return found


def _tables(part: str, quick: bool, say: Callable[[str], None]) -> Any:
    if part == "callable":
        from benchmarks.fresh import time_to_callable

        yield tables.of_callable(time_to_callable(say, 1 if quick else 5))
    elif part == "memory":
        from benchmarks.fresh import memory_of_call

        yield tables.of_memory(memory_of_call(say, 8192))
    elif part == "activations":
        from benchmarks.models.activations import table

        yield table(say, 64 if quick else 512)
    elif part == "profile":
        from benchmarks.models.profile import profiles

        yield from profiles(say, quick)
    else:
        from importlib import import_module

        from benchmarks import timing

        folder, effort = ("models", timing.MODELS) if part in MODELS else ("layers", timing.FULL)
        for case in import_module(f"benchmarks.{folder}.{part}").cases(quick):
            yield tables.of_case(case, timing.run_case(case, timing.QUICK if quick else effort, say))


if __name__ == "__main__":
    main()
