"""CUDA C → machine code for a GPU, without one: by NVRTC where its wheels are installed, else by nvcc.

NVRTC (``pip install ssmc[gpu]``) needs no toolkit and takes a tenth of nvcc's time. Either says what each kernel takes
of the GPU: registers, shared memory, memory of each thread's own, and what did not fit into registers.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ssmc.errors import ToolchainError

ARCHITECTURES = ("sm_90", "sm_80", "sm_100", "sm_120")
COMPILE_SECONDS = 600
TEXT, CUBIN, LOG = "kernel.cu", "kernel.cubin", "kernel.log"
INSTALL_HINT = "pip install 'ssmc[gpu]' brings NVRTC; or put nvcc of a CUDA toolkit on PATH, or name it in SSMC_NVCC"
_FLAGS = (
    "-std=c++17",
    "--ptxas-options=-v",
    "--diag-suppress=177",
)  # 177: what a prelude has and a kernel does not use


@dataclass(frozen=True)
class Resources:
    """What one kernel takes: registers of each thread, bytes of fixed shared memory of each block, bytes of memory of
    each thread's own (its stack), and bytes that are written to and read from there because registers ran out."""

    kernel: str
    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int


@dataclass(frozen=True)
class Compiler:
    """A CUDA compiler: NVRTC, or nvcc at ``path``."""

    kind: str
    version: str
    path: str = ""

    def key_parts(self, architecture: str) -> dict[str, str]:
        """What the machine code depends on besides its source; parts of a cache key."""
        return {"compiler": f"{self.kind} {self.version}", "architecture": architecture, "flags": " ".join(_FLAGS)}

    def build(self, source: str, folder: Path | str, architecture: str) -> Path:
        """Write ``source`` to ``folder/kernel.cu`` and compile it to the cubin that is returned; what the compiler
        says of resources goes to ``folder/kernel.log``.

        Raises ToolchainError with the compiler's first error lines, and OSError if the disk is full.
        """
        folder = Path(folder)
        (folder / TEXT).write_text(source, encoding="utf-8")
        if self.kind == "nvrtc":
            machine_code, log = _by_nvrtc(source, architecture)
            (folder / CUBIN).write_bytes(machine_code)
        else:
            log = _by_nvcc(self.path, folder, architecture)
        (folder / LOG).write_text(log, encoding="utf-8")
        return folder / CUBIN


def find() -> Compiler:
    """The compiler to use: nvcc if ``SSMC_NVCC`` names one, else NVRTC, else nvcc on PATH.

    Raises ToolchainError, saying what to install, if there is none or it does not work.
    """
    return _find(os.environ.get("SSMC_NVCC", ""), os.environ.get("PATH", ""))


@lru_cache(maxsize=8)
def _find(named: str, search_path: str) -> Compiler:
    if named:
        path = shutil.which(named, path=search_path)
        if path is None:
            raise ToolchainError(f"SSMC_NVCC names the compiler {named!r}, which is not there", hint=INSTALL_HINT)
        return _nvcc(path)
    version = _nvrtc_version()
    if version:
        return Compiler("nvrtc", version)
    path = shutil.which("nvcc", path=search_path)
    if path is None:
        raise ToolchainError(
            "no CUDA compiler found: NVRTC is not installed, and nvcc is not on PATH", hint=INSTALL_HINT
        )
    return _nvcc(path)


def resources(log: str) -> tuple[Resources, ...]:
    """What the compiler said of each kernel, in the order of its words."""
    found = []
    for part in re.split(r"Compiling entry function '", log)[1:]:
        name = part.partition("'")[0]
        registers = _number(r"Used (\d+) registers", part)
        shared = _number(r"(\d+) bytes smem", part)
        stack = _number(r"(\d+) bytes stack frame", part)
        stores, loads = _number(r"(\d+) bytes spill stores", part), _number(r"(\d+) bytes spill loads", part)
        found.append(Resources(name, registers, shared, stack, stores, loads))
    return tuple(found)


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


# ---------------------------------------------------------------- nvcc


def _nvcc(path: str) -> Compiler:
    done = _run([path, "--version"])
    version = re.search(r"release [\d.]+, V([\d.]+)", done.stdout)
    if done.returncode or not version:
        raise ToolchainError(f"{path} does not work: {(done.stderr or done.stdout).strip()[:200]}", hint=INSTALL_HINT)
    return Compiler("nvcc", version[1], path)


def _by_nvcc(path: str, folder: Path, architecture: str) -> str:
    command = [path, *_FLAGS, f"-arch={architecture}", "--cubin", str(folder / TEXT), "-o", str(folder / CUBIN)]
    done = _run(command)
    log = done.stdout + done.stderr
    if done.returncode:
        _raise_failure("nvcc", log, architecture)
    return log


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMPILE_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ToolchainError(f"{command[0]} did not finish within {COMPILE_SECONDS} seconds") from None
    except OSError as error:
        raise ToolchainError(f"{command[0]} cannot be run: {error.strerror}", hint=INSTALL_HINT) from error


def _raise_failure(kind: str, log: str, architecture: str) -> None:
    lines = [line for line in log.splitlines() if "error" in line.lower()][:5] or log.splitlines()[:5]
    report = "\n".join("    " + line for line in lines)
    raise ToolchainError(f"{kind} failed on {TEXT} for {architecture}:\n{report}")


# ---------------------------------------------------------------- NVRTC


def _nvrtc_version() -> str:
    """The version of NVRTC; empty if it is not there."""
    try:
        from cuda.bindings import nvrtc

        failed, major, minor = nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError, OSError):  # no bindings, or no library behind them
        return ""
    return "" if failed else f"{major}.{minor}"


def _by_nvrtc(source: str, architecture: str) -> tuple[bytes, str]:
    """The cubin, and the compiler's words."""
    from cuda.bindings import nvrtc

    failed, program = nvrtc.nvrtcCreateProgram(source.encode(), TEXT.encode(), 0, [], [])
    if failed:
        raise ToolchainError(f"NVRTC cannot be used: {failed.name}")
    try:
        options = [flag.encode() for flag in (*_FLAGS, f"--gpu-architecture={architecture}")]
        (failed,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program).decode("utf-8", "replace")
        if failed:
            _raise_failure("NVRTC", log.strip("\0 \n") or failed.name, architecture)
        return _text(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program), log.rstrip("\0")
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _text(size_of: Callable[..., tuple[int, int]], get: Callable[..., object], program: object) -> bytes:
    """What NVRTC has to give, of a size that it has to be asked for first."""
    _, size = size_of(program)
    memory = bytes(size)
    get(program, memory)
    return memory
