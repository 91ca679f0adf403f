"""``ssmc doctor``: whether this machine has what compiling and running layers takes."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from ssmc.errors import SsmcError, ToolchainError

from .report import MACHINE_LACKS, OK, Report, command, table

# Run apart, so that a crash while loading is a finding: torch first, then a library of ours, as in real use.
_LOAD = """
import ctypes, json, sys
import torch
library = sys.argv[1] if len(sys.argv) > 1 else ""
threads = ctypes.CDLL(library).ssmc_threads() if library else 0
runtimes = set()
try:
    with open("/proc/self/maps") as maps:
        names = {line.split()[-1] for line in maps if ".so" in line}
    runtimes = {n for n in names if any(k in n.rsplit("/", 1)[-1] for k in ("gomp", "iomp", "libomp"))}
except OSError:
    pass
print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "ours": threads,
                  "runtimes": sorted(runtimes)}))
"""
_OPENMP = """
#include <omp.h>
__attribute__((visibility("default"))) int ssmc_threads(void) { return omp_get_max_threads(); }
"""


class _Findings:
    """Rows for people, facts for ``--json``, and the number of things that are missing."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []
        self.facts: dict[str, Any] = {}
        self.missing: list[str] = []

    def add(self, name: str, text: str, fact: Any = None) -> None:
        self.rows.append((name, text))
        self.facts[name.replace(" ", "_")] = text if fact is None else fact

    def lacks(self, name: str, text: str) -> None:
        self.add(name, f"MISSING: {text}", None)
        self.missing.append(name)


@command("doctor")
def doctor() -> Report:
    """Say whether this machine has what ssmc needs: a compiler, OpenMP, PyTorch, a cache folder.

    Exits with 3 if something is missing.
    """
    import ssmc

    found = _Findings()
    found.add("ssmc", ssmc.__version__)
    found.add("python", f"{platform.python_version()} ({sys.executable})")
    found.add("system", f"{platform.system()} {platform.release()}, {platform.machine()}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it would warn of is a row here
        compiler_works = _compiler(found)
        _cache(found)
        _torch(found, compiler_works)
    verdict = f"missing: {', '.join(found.missing)}" if found.missing else "everything is there"
    found.facts["missing"] = found.missing
    code = MACHINE_LACKS if found.missing else OK
    return Report(table([*found.rows, ("verdict", verdict)]), found.facts, (), code)


def _compiler(found: _Findings) -> bool:
    """Whether there is a compiler with OpenMP."""
    from ssmc.backends import toolchain

    found.add("processor", f"{toolchain.cpu_name()}, {os.cpu_count()} cores")
    try:
        tools = toolchain.find()
        facts = toolchain.describe()
    except ToolchainError as error:
        first = error.diagnostics[0]
        found.lacks("compiler", "\n".join(filter(None, (first.message, first.hint))))
        return False
    found.add("compiler", facts["compiler"])
    found.add("flags", facts["flags"])
    found.add("openmp", "yes" if tools.openmp else "no: compiled layers run on one thread", tools.openmp)
    return tools.openmp


def _cache(found: _Findings) -> None:
    from ssmc.backends import Cache

    cache = Cache()
    files = [path for path in cache.root.rglob("*") if path.is_file()] if cache.root.is_dir() else []
    size = sum(_size(path) for path in files)
    try:
        cache.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=cache.root):
            pass
    except OSError as error:
        reason = f"{cache.root} cannot be written ({error.strerror}); set SSMC_CACHE_DIR to a folder that can"
        found.lacks("cache", reason)
        return
    entries = sum(path.name == "manifest.json" for path in files)
    found.add(
        "cache",
        f"{cache.root} ({entries} entries, {size / 1e6:.1f} MB)",
        {"folder": str(cache.root), "entries": entries, "bytes": size},
    )


def _size(path: Path) -> int:
    """Bytes of a file; 0 if another process has removed it in the meantime."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _torch(found: _Findings, compiler_works: bool) -> None:
    """Load torch and a library of ours in a process of their own, and see which OpenMP runtimes are there."""
    try:
        found.facts["torch"] = metadata.version("torch")
    except metadata.PackageNotFoundError:
        found.lacks("torch", "install it: https://pytorch.org")
        return
    with tempfile.TemporaryDirectory(prefix="ssmc-doctor-") as folder:
        library = _quietly(lambda: _build_probe(Path(folder))) if compiler_works else None
        command = [sys.executable, "-c", _LOAD, *([str(library)] if library else [])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    try:
        facts = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        found.lacks("torch", f"it is installed but cannot be used: {last}")
        return
    found.add("torch", f"{facts['torch']}, {facts['threads']} threads", facts["torch"])
    runtimes = facts["runtimes"]
    text = "\n".join(runtimes) or "none seen"
    if len(runtimes) > 1:
        text += "\nmore than one: torch and compiled layers do not share their threads"
    found.add("openmp runtimes", text, runtimes)


def _build_probe(folder: Path) -> Path:
    from ssmc.backends import toolchain

    return toolchain.build(_OPENMP, folder)


def _quietly(function: Callable[[], Path]) -> Path | None:
    try:
        return function()
    except (SsmcError, OSError):
        return None
