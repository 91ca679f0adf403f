"""``python -m benchmarks.gpu``: check, verify, tune and measure on a GPU, in sections, and write a page of tables.

It goes on where an earlier run ended. Exit status: 0 all done, 1 some sections failed (the page says which), 3 no GPU
or something is not installed.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.gpu.sections import DONE, Section, State, in_a_process, run_all, worker

ROOT = Path(__file__).resolve().parent.parent.parent
NEEDED = ("torch", "numpy", "click", "filelock", "lark", "networkx", "platformdirs", "rich", "sympy")
KINDS = ("environment", "verify", "memory", "tune", "bench")
MACHINE_LACKS = 3
IN_PARTS = ("selective_scan", "rg_lru:rg_lru_gated", "affine_scan:affine_scan_complex")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; the exit status."""
    asked = _options(arguments)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return _refuse(f"not installed: {', '.join(missing)}; pip install -e '.[gpu]' has them")
    from benchmarks.gpu import device as devices
    from benchmarks.gpu.report import write

    reason = devices.reason_against(asked.device)
    if reason:
        return _refuse(f"{reason}; everything else is tested without one: make test")
    device = devices.named(asked.device)
    folder = asked.state / devices.slug(device.name)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    state = State(folder / "state.json", {"device": device.name, "date": today, "small": asked.small})
    sections = planned(device.targets, asked.small, asked.only, asked.dtype, asked.layers, asked.workloads)
    name = f"{devices.slug(device.name)}-{state.about['date']}"
    environment = {"SSMC_CACHE_DIR": str(asked.cache or folder / "cache")}
    try:
        run_all(sections, state, in_a_process(worker(asked.device), environment), asked.again)
    finally:  # what is there is written even when a person ends it
        data, page = write(asked.output, name, state, sections)
        print(f"written: {data}, {page}")
    return int(any(state.outcomes[s.name].status != DONE for s in sections))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--layers", nargs="+", default=(), metavar="NAME", help="verify only these of the library")
    parser.add_argument("--workloads", nargs="+", default=(), metavar="NAME", help="tune and measure only these")
    parser.add_argument("--again", action="store_true", help="run what failed before once more")
    parser.add_argument("--small", action="store_true", help="small sizes and few properties: only shows that it runs")
    parser.add_argument("--dtype", choices=("bf16", "f32"), default="bf16", help="of activations")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="where the page goes")
    parser.add_argument("--state", type=Path, default=ROOT / "build" / "gpu", help="where a run keeps what is done")
    parser.add_argument(
        "--cache", type=Path, help="compiled layers, such as `make gpu-binaries` made on another machine"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _refuse(why: str) -> int:
    print(f"benchmarks.gpu: {why}", file=sys.stderr)
    return MACHINE_LACKS


def planned(
    targets: Sequence[str],
    small: bool,
    only: Sequence[str],
    dtype: str,
    layers: Sequence[str] = (),
    workloads: Sequence[str] = (),
) -> list[Section]:
    """All sections of a run, in order: what is cheap and telling first."""
    from benchmarks.gpu.timed import PASSES
    from benchmarks.gpu.workloads import WORKLOADS

    found = [Section("environment", "environment")]
    found += [
        Section(f"verify {layer}, {target}", "verify", {"layer": layer, "target": target, "quick": small})
        for layer in layers or library()
        for target in targets
    ]
    found += list(_in_parts(targets, small, layers))
    found += [Section(f"memory checker, {target}", "memory", {"target": target}) for target in targets]
    about = {"dtype": dtype, "small": small}
    searched = {**about, "seconds": 30, "trials": 2} if small else about
    chosen = [item.name for item in WORKLOADS if not workloads or item.name in workloads]
    found += [
        Section(
            f"tune {name}, {what}, {target}", "tune", {**searched, "workload": name, "target": target, "pass": what}
        )
        for name in chosen
        for target in targets
        for what in ("forward", "training", "backward")
    ]
    found += [
        Section(f"bench {name}, {what}", "bench", {**about, "workload": name, "pass": what})
        for name in chosen
        for what in PASSES
    ]
    return [section for section in found if section.kind in only]


def _in_parts(targets: Sequence[str], small: bool, layers: Sequence[str]) -> Iterator[Section]:
    """Layers whose sequences are cut, which the short ones that are verified are not by themselves."""
    from ssmc.passes import KNOBS

    for layer in IN_PARTS:
        for target in targets if not layers or layer in layers else ():
            for way in KNOBS["time"].words_of(target):
                if way not in ("auto", "in_order"):
                    about = {"layer": layer, "target": target, "quick": small, "plan": f"time={way},chunk=32"}
                    yield Section(f"verify {layer}, {target}, time={way}", "verify", about)


def library() -> list[str]:
    """The layers of the library, as ``ssmc verify`` takes them."""
    from ssmc import dsl

    found = []
    for name in dsl.library_names():
        layers = list(dsl.load_module(name).layers)
        found += [name if number == 0 else f"{name}:{layer}" for number, layer in enumerate(layers)]
    return found


if __name__ == "__main__":
    sys.exit(main())
