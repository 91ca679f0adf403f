"""Loops → C: a few functions per kernel, one entry that runs the kernels in order.

Threads share the grid; no two threads write the same element, so results never depend on their number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from ssmc.ir.loops import Loops

from . import c_lanes
from .c_kernel import KernelEmitter
from .c_math import prelude
from .launch import Emitted
from .storage import compute_type
from .writer import Names, Writer


def vector_operations(storage: Iterable[str]) -> frozenset[str]:
    """Operations that can be written on whole vectors when values of these storages are computed with."""
    return c_lanes.PLAIN | c_lanes.FUNCTIONS if compute_type(storage) == "f32" else c_lanes.PLAIN


def emit(loops: Loops, storage: Mapping[str, str], arguments: Iterable[str], axes: Iterable[str]) -> Emitted:
    """The C text of a Program and the name of its entry.

    Args:
        loops: the kernels.
        storage: storage name of every tensor in memory (inputs, outputs, workspaces).
        arguments: tensors in the order of the pointers.
        axes: axes whose extents are passed, in order.
    """
    return _Emitter(loops, dict(storage), tuple(arguments), tuple(axes)).run()


class _Emitter:
    def __init__(
        self, loops: Loops, storage: dict[str, str], arguments: tuple[str, ...], axes: tuple[str, ...]
    ) -> None:
        self.loops, self.storage, self.arguments, self.axes = loops, storage, arguments, axes
        self.names = Names()
        self.needed: set[str] = set()
        self.precision = compute_type(storage.values())
        self.tensors = loops.program.tensors()
        self.pointers = {name: place for place, name in enumerate(arguments)}
        self.extents = {axis: place for place, axis in enumerate(axes)}
        self.strides: dict[str, int] = {}
        place = len(axes)
        for name in arguments:
            self.strides[name] = place
            place += len(self.tensors[name].axes)

    def run(self) -> Emitted:
        bodies = Writer()
        for kernel in self.loops.kernels:
            KernelEmitter(
                self.loops, kernel, self.names, self.precision, self.storage, self.pointers, self.strides,
                self.extents, self.needed, bodies,
            ).run()  # fmt: skip
        text = bodies.text()
        shown = prelude(self.needed, "float" if self.precision == "f32" else "double")
        digest = hashlib.sha256((shown + text).encode()).hexdigest()[:16]
        entry = f"ssmc_{digest}"
        out = Writer()
        out.line("/* Emitted by ssmc. Entry: pointers to the tensors below, extents and strides in `m`.")
        for name in self.arguments:
            out.line(f" *   {self.names.get('p', name)}: {self.storage[name]}, {len(self.tensors[name].axes)} axes")
        out.line(" */")
        out.line(shown)
        out.line("#include <stdlib.h>")
        out.lines += bodies.lines
        out.line('__attribute__((visibility("default")))')
        with out.block(f"int64_t {entry}(void *const *p, const int64_t *m, int64_t threads)"):
            for kernel in self.loops.kernels:
                out.line(f"if ({kernel.name}(p, m, threads)) return 1;")
            out.line("return 0;")
        return Emitted(out.text(), entry)
