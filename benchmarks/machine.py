"""What a result was measured on."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "numpy", "jax", "jaxlib", "mambapy", "scipy", "transformers")


def describe(threads: int) -> dict[str, Any]:
    """Processor, memory, compiler and versions."""
    from ssmc.backends import toolchain

    tools = toolchain.find()
    facts = _processor()
    return {
        "cpu": facts.get("model name", platform.processor() or platform.machine()),
        "family": facts.get("cpu family", ""),
        "model": facts.get("model", ""),
        "flags": facts.get("flags", facts.get("Features", "")),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "compiler": f"{tools.kind} {tools.version}",
        "compiler_flags": " ".join(tools.flags),
        "packages": {name: _version(name) for name in PACKAGES},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def result_name(machine: dict[str, Any]) -> str:
    """``<cpu model>-<date>``, as a file name."""
    words = re.sub(r"\(r\)|\(tm\)|\bcpu\b|@.*", " ", str(machine["cpu"]).lower())
    slug = re.sub(r"[^a-z0-9]+", "-", words).strip("-") or "cpu"
    if machine["family"]:
        slug += f"-{machine['family']}-{machine['model']}"
    return f"{slug}-{str(machine['date'])[:10]}"


def _processor() -> dict[str, str]:
    """The first processor of /proc/cpuinfo."""
    path = Path("/proc/cpuinfo")
    facts: dict[str, str] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        if not line.strip() and facts:
            break
        name, _, value = line.partition(":")
        facts[name.strip()] = value.strip()
    return facts


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
