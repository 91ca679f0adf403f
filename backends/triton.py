"""Loops → a Python module of Triton kernels, launched one after the other.

No two programs write the same element and sums are gathered in a fixed order, so results are the same bits each time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ssmc.ir.loops import Loops

from .definitions import Definitions
from .launch import Emitted
from .storage import compute_type
from .triton_kernel import KernelEmitter, Lines
from .writer import Names

_START = """import triton
import triton.language as tl"""
_MATHEMATICS = Definitions(("triton_math.py",), _START)


def emit(loops: Loops, storage: Mapping[str, str], arguments: Iterable[str], axes: Iterable[str]) -> Emitted:
    """The Triton text of a Program and how its kernels are launched.

    Args:
        loops: the kernels, each with its tiles.
        storage: storage name of every tensor in memory (inputs, outputs, workspaces).
        arguments: tensors in the order of the pointers.
        axes: axes whose extents are passed, in order.
    """
    names, needed, bodies = Names(), set[str](), Lines()
    precision = compute_type(storage.values())
    launches = []
    for kernel in loops.kernels:
        bodies.line()
        bodies.line()
        launch = KernelEmitter(loops, kernel, names, precision, storage, needed).run(bodies)
        launches.append(replace(launch, one=kernel.one, more=kernel.more))
    title = '"""Emitted by ssmc. How the kernels are launched is said beside them."""'
    text = "\n".join([title, "", _MATHEMATICS.text(needed).rstrip().replace("\n\n@", "\n\n\n@"), *bodies.lines]) + "\n"
    return Emitted(text, f"ssmc_{hashlib.sha256(text.encode()).hexdigest()[:16]}", programs=tuple(launches))
