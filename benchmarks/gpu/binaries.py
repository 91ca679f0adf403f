"""``python -m benchmarks.gpu.binaries``: compile what `make gpu` measures beforehand, on a machine without a GPU.

    python -m benchmarks.gpu.binaries sm_90 -o build/gpu-binaries

The folder is a cache: copied to the machine with the GPU, `python -m benchmarks.gpu --cache FOLDER` finds the machine
code of CUDA C there, if its NVRTC is of the same version. Triton compiles when it first launches.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.gpu.timed import examined
from benchmarks.gpu.workloads import WORKLOADS
from ssmc.backends import Cache, cuda_toolchain
from ssmc.compiler import compile_program
from ssmc.errors import SsmcError


def binaries(architecture: str, cache: Cache, dtypes: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """What is compiled, and where it is: every pass of every workload, alike as tuning and benchmarks call it."""
    for workload in WORKLOADS:
        for real in dtypes:
            found = examined(workload, real)
            for what in found.kinds:
                spec = found.specialisation(what)
                outputs = {place.name: place.storage for place in spec.gives}
                made = compile_program(
                    spec.program(), f"cuda:{architecture}", spec.storage, dict(workload.sizes), None, cache, outputs
                )
                yield f"{workload.name}, {what}, {real}", made.library


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if all is compiled."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.binaries", description=__doc__)
    parser.add_argument("architectures", nargs="*", default=["sm_90"], help="such as sm_90 sm_100; sm_90 by default")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/gpu-binaries"))
    parser.add_argument("--dtype", nargs="+", choices=("bf16", "f32"), default=["bf16"])
    asked = parser.parse_args(arguments)
    try:
        compiler = cuda_toolchain.find()
        print(f"{compiler.kind} {compiler.version}")
        for architecture in asked.architectures:
            for what, _ in binaries(architecture, Cache(asked.output.absolute()), asked.dtype):
                print(f"{architecture}: {what}")
    except SsmcError as error:
        print(error, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
