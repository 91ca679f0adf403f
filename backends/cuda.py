"""Loops → CUDA C without headers: one function per kernel, launched one after the other.

No two threads write the same element and sums are gathered in a fixed order, so results are the same bits each time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ssmc.ir.loops import Kernel, Loops

from .cuda_kernel import KernelEmitter
from .cuda_parts import PartsEmitter
from .definitions import Definitions, read
from .launch import Emitted
from .storage import compute_type, state_storage
from .writer import Names, Writer

PRELUDE = "cuda_prelude.h"
HEADERS = ("cuda_math.h", "c_math.h", "c_exact.h")

_MATHEMATICS = Definitions(HEADERS, read(PRELUDE).rstrip())


def emit(loops: Loops, storage: Mapping[str, str], arguments: Iterable[str], axes: Iterable[str]) -> Emitted:
    """The CUDA C text of a Program and how its kernels are launched.

    Args:
        loops: the kernels, each with its block.
        storage: storage name of every tensor in memory (inputs, outputs, workspaces).
        arguments: tensors in the order of the pointers.
        axes: axes whose extents are passed, in order.
    """
    names, needed, bodies = Names(), set[str](), Writer()
    arguments, axes = tuple(arguments), tuple(axes)
    precision = compute_type(storage.values())
    tensors = loops.program.tensors()
    kept = {name for kernel in loops.kernels if kernel.joined for name in kernel.joined.kept}
    held = {**storage, **{name: state_storage(tensors[name].dtype, storage) for name in kept}}
    strides: dict[str, int] = {}
    place = len(axes)
    for name in arguments:
        strides[name] = place
        place += len(tensors[name].axes)
    pointers = {name: number for number, name in enumerate(arguments)}
    extents = {axis: number for number, axis in enumerate(axes)}

    def emitter(kernel: Kernel) -> KernelEmitter:
        return KernelEmitter(loops, kernel, names, precision, held, pointers, strides, extents, needed, bodies)

    launches = tuple(
        replace((PartsEmitter(k, emitter) if k.joined else emitter(k)).run(), one=k.one, more=k.more)
        for k in loops.kernels
    )
    out = Writer()
    out.line("/* Emitted by ssmc. Pointers to the tensors below in `p`, extents and strides in `m`.")
    for name in arguments:
        out.line(f" *   {names.get('p', name)}: {storage[name]}, {len(tensors[name].axes)} axes")
    out.line(" */")
    out.line(_MATHEMATICS.text(needed, "float" if precision == "f32" else "double"))
    with out.block("struct ssmc_arguments", "};"):
        out.line(f"void *p[{len(arguments)}];")
        if place:
            out.line(f"int64_t m[{place}];")
        out.line("int64_t first, count; /* what this launch takes of its kernel's first axis */")
        out.line("uint32_t *signals; /* zeros, where blocks wait for each other */")
    out.line()
    out.lines += bodies.lines
    text = out.text()
    return Emitted(text, f"ssmc_{hashlib.sha256(text.encode()).hexdigest()[:16]}", launches)
