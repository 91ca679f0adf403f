"""The C compiler of this machine: find it, learn what it can do, compile with it.

What was learnt about a compiler is kept in the cache folder, by the compiler's path and time of change,
so that a later process finds it in well under five milliseconds without running it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ssmc.errors import ToolchainError

from .cache import default_root

PROBE_VERSION = 1  # change it when `_probe` learns something new
COMPILE_SECONDS = 900
CANDIDATES = ("gcc", "clang", "cc")

# No -ffast-math: NaN and infinities keep their meaning. That a function sets errno or traps, nobody asks;
# saying so is what lets a compiler vectorise selects and square roots.
BASE_FLAGS = (
    "-O3",
    "-std=gnu11",
    "-shared",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
)
INSTALL_HINT = (
    "install one: Debian, Ubuntu: apt install gcc; Fedora: dnf install gcc; macOS: xcode-select --install; "
    "or name one in SSMC_CC"
)


@dataclass(frozen=True)
class Toolchain:
    """A C compiler that works, and the flags it is used with."""

    command: tuple[str, ...]  # the executable, with arguments where SSMC_CC has some
    kind: str  # gcc, clang or cc
    version: str
    triple: str  # the machine it compiles for, such as x86_64-linux-gnu
    cpu: str  # a digest of this processor's model and features
    flags: tuple[str, ...]
    openmp: bool

    def key_parts(self) -> dict[str, str]:
        """What the machine code depends on besides its source; parts of a cache key."""
        return {
            "compiler": f"{self.kind} {self.version} {self.triple} {shlex.join(self.command)}",
            "flags": shlex.join(self.flags),
            "cpu": self.cpu,
        }

    def build(self, source: str, folder: Path | str, extra_flags: Sequence[str] = ()) -> Path:
        """Write ``source`` to ``folder/kernel.c`` and compile it to the shared library that is returned.

        Raises ToolchainError with the compiler's first error lines, and OSError if the disk is full.
        """
        text, library = Path(folder) / "kernel.c", Path(folder) / "kernel.so"
        text.write_text(source, encoding="utf-8")
        done = _run([*self.command, *self.flags, *extra_flags, str(text), "-o", str(library), "-lm"], Path(folder))
        if done.returncode != 0:
            _raise_failure(self.command, done, text)
        return library


def find() -> Toolchain:
    """The compiler to use: ``SSMC_CC``, else ``CC``, else the first of gcc, clang and cc on PATH.

    Raises ToolchainError, saying what to install or what to change, if there is none or it does not work.
    """
    environment = [os.environ.get(name, "") for name in ("SSMC_CC", "CC", "SSMC_CFLAGS", "PATH")]
    return _find(*environment)


def build(source: str, folder: Path | str) -> Path:
    """Compile ``source`` in ``folder`` with the compiler that ``find`` returns."""
    return find().build(source, folder)


@lru_cache(maxsize=8)
def _find(ssmc_cc: str, cc: str, extra_flags: str, search_path: str) -> Toolchain:
    command = _locate(ssmc_cc, cc, search_path)
    facts = _recall(command) or _probe_and_keep(command)
    toolchain = Toolchain(
        command=command,
        kind=facts["kind"],
        version=facts["version"],
        triple=facts["triple"],
        cpu=cpu_key(),
        flags=(*BASE_FLAGS, *facts["flags"], *shlex.split(extra_flags)),
        openmp=facts["openmp"],
    )
    if not toolchain.openmp:
        warnings.warn(
            f"{shlex.join(command)} cannot compile OpenMP, so compiled layers run on one thread"
            + (" (Apple's compiler has none; `brew install gcc` has)" if platform.system() == "Darwin" else ""),
            RuntimeWarning,
            stacklevel=3,
        )
    return toolchain


def _locate(ssmc_cc: str, cc: str, search_path: str) -> tuple[str, ...]:
    for variable, value in (("SSMC_CC", ssmc_cc), ("CC", cc)):
        words = shlex.split(value)
        if words:
            found = shutil.which(words[0], path=search_path)
            if found is None:
                raise ToolchainError(
                    f"{variable} names the compiler {words[0]!r}, which is not there",
                    hint=f"correct {variable} or unset it",
                )
            return (found, *words[1:])
    for name in CANDIDATES:
        found = shutil.which(name, path=search_path)
        if found is not None:
            return (found,)
    raise ToolchainError(
        f"no C compiler found: none of {', '.join(CANDIDATES)} is on PATH", expected="gcc or clang", hint=INSTALL_HINT
    )


# What was learnt about compilers, on disk.


def _facts_file(command: tuple[str, ...]) -> Path:
    real = os.path.realpath(command[0])
    about = os.stat(real)
    identity = [PROBE_VERSION, *command, real, about.st_mtime_ns, about.st_size, platform.machine(), cpu_key()]
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]
    return default_root() / "toolchains" / f"{name}.json"


def _recall(command: tuple[str, ...]) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        facts = json.loads(_facts_file(command).read_bytes())
        if isinstance(facts, dict) and set(facts) == set(asdict(_Facts())):
            return facts
    return None


def _probe_and_keep(command: tuple[str, ...]) -> dict[str, Any]:
    facts = asdict(_probe(command))
    with suppress(OSError):  # no writable cache: every process learns it again
        path = _facts_file(command)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w") as file:
            json.dump(facts, file)
        os.replace(name, path)
    return facts


@dataclass(frozen=True)
class _Facts:
    kind: str = ""
    version: str = ""
    triple: str = ""
    flags: tuple[str, ...] = ()
    openmp: bool = False


def _probe(command: tuple[str, ...]) -> _Facts:
    """Run the compiler to learn its kind and version and which flags it takes."""
    with tempfile.TemporaryDirectory(prefix="ssmc-probe-") as name:
        folder = Path(name)
        banner = _run([*command, "--version"], folder)
        if banner.returncode != 0:
            _raise_failure(command, banner, folder)
        first = _text(banner.stdout).strip().partition("\n")[0]
        version = re.search(r"\b\d+(\.\d+)+", first)
        kind = "clang" if "clang" in first else "gcc" if _is_gcc(command, folder) else "cc"
        triple = _text(_run([*command, "-dumpmachine"], folder).stdout).strip()
        native = _accepted(command, folder, _native_flags(triple))
        openmp = _accepted(
            command, folder, ["-fopenmp"], "#include <omp.h>\nint ssmc_n(void) { return omp_get_max_threads(); }"
        )
        parallel = openmp or _accepted(command, folder, ["-fopenmp-simd"])
        return _Facts(kind, version.group(0) if version else first, triple, (*native, *parallel), bool(openmp))


def _native_flags(triple: str) -> list[str]:
    if triple.startswith(("aarch64", "arm64")):
        return ["-mcpu=native"]
    wide = ["-mprefer-vector-width=512"] if "avx512f" in _cpu_description().split() else []
    return ["-march=native", *wide]


def _is_gcc(command: tuple[str, ...], folder: Path) -> bool:
    macros = _text(_run([*command, "-dM", "-E", "-x", "c", os.devnull], folder).stdout)
    return "__GNUC__" in macros and "__clang__" not in macros


def _accepted(command: tuple[str, ...], folder: Path, flags: list[str], source: str = "") -> tuple[str, ...]:
    """The flags if a library can be built with them, else none; raises if it cannot be built without them."""
    text, library = folder / "probe.c", folder / "probe.so"
    text.write_text(source or "double ssmc_half(double x) { return 0.5 * x; }\n")
    compile_it = [*command, "-shared", "-fPIC", str(text), "-o", str(library)]
    if _run([*compile_it, *flags], folder).returncode == 0:
        return tuple(flags)
    text.write_text("int ssmc_one(void) { return 1; }\n")
    plain = _run(compile_it, folder)
    if plain.returncode != 0:
        _raise_failure(command, plain, text)
    return ()


# Running it.


def _run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a compiler with messages in English and its temporary files in ``folder``."""
    environment = {**os.environ, "LC_ALL": "C", "TMPDIR": str(folder)}
    try:
        return subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMPILE_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ToolchainError(f"{command[0]} did not finish within {COMPILE_SECONDS} seconds") from None
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise ToolchainError(f"{command[0]} cannot be run: {error.strerror}", hint=INSTALL_HINT) from error


def _raise_failure(command: tuple[str, ...], done: subprocess.CompletedProcess[bytes], file: Path) -> None:
    messages = _text(done.stderr) + _text(done.stdout)
    if os.strerror(errno.ENOSPC) in messages or "No space left" in messages:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
    if done.returncode < 0:
        raise ToolchainError(
            f"{command[0]} was killed by signal {-done.returncode} while compiling {file.name}",
            hint="most often memory ran out" if done.returncode == -9 else "",
        )
    lines = [line for line in messages.splitlines() if line.strip()]
    first = [line for line in lines if "error" in line.lower()][:5] or lines[:5]
    report = "\n".join("    " + line for line in first)
    raise ToolchainError(f"{shlex.join(command)} failed (exit status {done.returncode}) on {file.name}:\n{report}")


def _text(output: bytes) -> str:
    return output.decode("utf-8", "replace")


# This processor.


@lru_cache(maxsize=1)
def cpu_key() -> str:
    """A digest of this processor's model and features: what ``-march=native`` depends on."""
    return hashlib.sha256(_cpu_description().encode()).hexdigest()[:16]


def cpu_name() -> str:
    """What the processor calls itself, for people."""
    for line in _cpu_description().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"model name", "brand"}:
            return value.strip()
    return platform.machine()


def cpu_features() -> list[str]:
    """The instructions that this processor has beyond the least of its kind, as the kernel calls them."""
    for line in _cpu_description().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return sorted(word for word in value.split() if name.strip() == "Features" or _INSTRUCTIONS.match(word))
    return []


_INSTRUCTIONS = re.compile(r"avx|sse|ssse|pni|fma|bmi|f16c|amx|popcnt|abm|movbe|aes|vaes|sha_ni|gfni|adx|v?pclmulqdq")
_CPU_FIELDS = {"vendor_id", "cpu family", "model", "model name", "flags", "Features"} | {
    "CPU implementer",
    "CPU variant",
    "CPU part",
    "isa",
}


@lru_cache(maxsize=1)
def _cpu_description() -> str:
    lines = [f"machine: {platform.machine()}"]
    with suppress(OSError), open("/proc/cpuinfo", "rb") as file:
        # Only the first processor: the file of a large machine takes milliseconds to read.
        block = file.read(8192).partition(b"\n\n")[0].decode("utf-8", "replace")
        lines += [line for line in block.splitlines() if line.partition(":")[0].strip() in _CPU_FIELDS]
    if len(lines) == 1 and platform.system() == "Darwin":
        lines.append(f"brand: {_sysctl('machdep.cpu.brand_string')}")
    return "\n".join(lines)


def _sysctl(name: str) -> str:
    import ctypes

    size = ctypes.c_size_t(256)
    buffer = ctypes.create_string_buffer(size.value)
    ctypes.CDLL(None).sysctlbyname(name.encode(), buffer, ctypes.byref(size), None, ctypes.c_size_t(0))
    return buffer.value.decode("utf-8", "replace")


def describe() -> Mapping[str, str]:
    """The facts that ``ssmc doctor`` prints."""
    found = find()
    return {
        "compiler": f"{shlex.join(found.command)} ({found.kind} {found.version}, {found.triple})",
        "flags": shlex.join(found.flags),
        "OpenMP": "yes" if found.openmp else "no",
        "processor": cpu_name(),
    }
