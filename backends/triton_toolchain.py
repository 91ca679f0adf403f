"""Triton kernels → machine code for a GPU, without one.

Triton compiles in a process of its own, with a time limit: assembling a large kernel may take minutes, and what an
environment says of interpreting kernels must not be heard. It compiles for tensors that are contiguous along their last
axes and begin at multiples of 16 bytes; lengths, and all other strides, stay open.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssmc.errors import ToolchainError

from .triton_launch import TileLaunch

ARCHITECTURES = ("sm_90", "sm_80", "sm_100", "sm_120", "gfx942")
COMPILE_SECONDS = 600
TEXT, LAUNCHES, FACTS = "kernel.py", "launches.json", "kernel.json"
CODE = (".cubin", ".hsaco")
PACKAGES = ("triton", "triton-rocm", "pytorch-triton-rocm", "pytorch-triton")  # the others come with some PyTorchs
LEAST = (3, 6)
INSTALL_HINT = "pip install 'ssmc[gpu]' brings Triton"


@dataclass(frozen=True)
class Compiler:
    """Triton."""

    version: str

    def key_parts(self, architecture: str) -> dict[str, str]:
        """What the machine code depends on besides its source; parts of a cache key."""
        return {"compiler": f"triton {self.version}", "architecture": architecture}

    def build(self, source: str, launches: Iterable[TileLaunch], folder: Path | str, architecture: str) -> None:
        """Write ``source`` to ``folder/kernel.py`` and compile it: the machine code of each kernel goes to a file of
        its name, what is known of it to ``folder/kernel.json`` (``facts``).

        Raises ToolchainError with what Triton says, and OSError if the disk is full.
        """
        folder = Path(folder)
        (folder / TEXT).write_text(source, encoding="utf-8")
        (folder / LAUNCHES).write_text(json.dumps([item.facts() for item in launches]), encoding="utf-8")
        script = Path(__file__).with_name("triton_offline.py")
        with tempfile.TemporaryDirectory(prefix="ssmc-triton-") as cache:
            environment = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
            environment["TRITON_CACHE_DIR"] = cache
            _run([sys.executable, "-P", str(script), str(folder), architecture], environment, architecture)
        (folder / LAUNCHES).unlink()


def find() -> Compiler:
    """The Triton that is installed; ToolchainError, saying how to install it, if there is none that is new enough."""
    for package in PACKAGES:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if numbers < LEAST:
            raise ToolchainError(f"Triton {version} is installed", expected="3.6 or newer", hint=INSTALL_HINT)
        return Compiler(version)
    raise ToolchainError("Triton is not installed", hint=INSTALL_HINT)


def facts(folder: Path) -> list[dict[str, Any]]:
    """What is known of each kernel in a folder: its name, the file and the symbol of its machine code, bytes of shared
    memory of a program, registers of a thread, the bytes of what did not fit into them, and how many null pointers
    follow the parameters: places for what Triton itself might want to keep, and does not here."""
    found: list[dict[str, Any]] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    return found


def _run(command: list[str], environment: Mapping[str, str], architecture: str) -> None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMPILE_SECONDS, env=environment
        )
    except subprocess.TimeoutExpired:
        raise ToolchainError(f"Triton did not finish within {COMPILE_SECONDS} seconds") from None
    except OSError as error:
        raise ToolchainError(f"{command[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()[-5:]
        report = "\n".join("    " + line for line in said)
        raise ToolchainError(f"Triton failed on {TEXT} for {architecture}:\n{report}")
