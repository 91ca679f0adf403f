"""Emitted CUDA C on a host: compiled as C++ against a prelude that has blocks, barriers and shuffles.

A test tool: kernels run many times slower than on any GPU, but with the same threads in the same blocks.
"""

from __future__ import annotations

import ctypes
import struct
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from ssmc.backends import Launch
from ssmc.backends.cuda import PRELUDE
from ssmc.backends.definitions import Definitions, read
from ssmc.compiler import Stages

# What the GPU's prelude has of those that C has functions for, too.
STORAGE = ("f16_to_f32", "f32_to_f16", "f32_to_bf16")
FLAGS = ("-std=gnu++17", "-O1", "-shared", "-fPIC", "-ffp-contract=fast", "-march=native", "-U_FORTIFY_SOURCE", "-w")


def source(text: str, launches: tuple[Launch, ...]) -> str:
    """The C++ text: the emitted one with another prelude, and functions that run its kernels."""
    prelude = (Path(__file__).parent / "prelude.h").read_text()
    definitions = Definitions(("c_exact.h",), prelude.rstrip())
    original = read(PRELUDE).rstrip()
    assert text.count(original) == 1
    runs = [
        f"static void run_{k.kernel}() {{ {k.kernel}(*given); }}\n"
        f'extern "C" int host_{k.kernel}(const ssmc_arguments *a, int64_t blocks, int threads, int64_t shared) {{\n'
        f"    given = a;\n    return host::run(run_{k.kernel}, blocks, threads, shared, {_in_turns(k)});\n}}\n"
        for k in launches
    ]
    shown = definitions.text(STORAGE)
    return "\n".join([text.replace(original, shown), "static const ssmc_arguments *given;", *runs])


def _in_turns(launch: Launch) -> int:
    """Whether threads of a block, or of a warp, wait for each other."""
    return int(bool(launch.group) or launch.width > 1)


def build(text: str, launches: tuple[Launch, ...], folder: Path) -> Path:
    """Compile emitted kernels in a folder; gives the shared object."""
    return compiled(source(text, launches), folder)


def compiled(text: str, folder: Path) -> Path:
    """Compile C++ in a folder; gives the shared object."""
    (folder / "kernel.cpp").write_text(text)
    command = ["g++", *FLAGS, str(folder / "kernel.cpp"), "-o", str(folder / "kernel.so"), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]
    return folder / "kernel.so"


class Host:
    """A device that is this machine: built kernels by name."""

    def __init__(self, text: str, launches: tuple[Launch, ...]) -> None:
        self.library = ctypes.CDLL(str(build(text, launches, Path(tempfile.mkdtemp(prefix="ssmc-test-")))))

    def launch(self, kernel: str, blocks: int, threads: int, shared: int, arguments: bytes) -> None:
        """Run one kernel."""
        function = self.library[f"host_{kernel}"]
        function.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_int64]
        assert function(arguments, blocks, threads, shared) == 0, f"{kernel}: its threads wait for each other in vain"


def entry(stages: Stages) -> Callable[[object, object, int], int]:
    """What the entry of a C library is: a function of pointers, extents and strides."""
    host = Host(stages.text, stages.launches)
    count = len(stages.axes) + sum(len(a.axes) for a in stages.arguments)

    def run(pointers: object, meta: object, threads: int) -> int:
        numbers = struct.unpack(f"{count}q", bytes(meta))
        extents: Mapping[str, int] = {**stages.plan.fixed, **dict(zip(stages.axes, numbers, strict=False))}
        for launch in stages.launches:
            for piece in launch.pieces(extents):
                signals = (ctypes.c_uint32 * piece.signals)()
                tail = struct.pack("3q", piece.first, piece.count, ctypes.addressof(signals))
                given = bytes(pointers) + bytes(meta) + tail
                host.launch(launch.kernel, piece.blocks, piece.threads, launch.shared, given)
        return 0

    return run
