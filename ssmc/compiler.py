"""The spine: Program → Plan → Loops → C → library → callable."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssmc.backends import TARGETS, Cache, default_storage, output_storage, state_storage, target_named, toolchain
from ssmc.errors import UserError
from ssmc.ir import Program, Tensor, print_program
from ssmc.ir.loops import Loops
from ssmc.passes import (
    SAVED,
    Plan,
    PlanOptions,
    Unbounded,
    inline,
    lift,
    lower,
    partial,
    plan,
    tables,
    unnest,
    unshadow,
)

__all__ = ["TARGETS", "Argument", "Compiled", "Stages", "compile_program", "prepared", "stages"]


@dataclass(frozen=True)
class Argument:
    """One tensor of the entry, in the order of the pointers."""

    name: str
    axes: tuple[str, ...]
    storage: str
    role: str


@dataclass(frozen=True)
class Stages:
    """Every level of one compilation."""

    program: Program
    plan: Plan
    loops: Loops
    arguments: tuple[Argument, ...]
    axes: tuple[str, ...]
    text: str
    symbol: str

    def show(self, level: str) -> str:
        """One level as text: ``program``, ``plan``, ``loops`` or ``c``."""
        if level == "program":
            return print_program(self.program)
        if level == "plan":
            return self.plan.describe() + "\n"
        if level == "loops":
            from ssmc.ir.loops_text import print_loops

            return print_loops(self.loops)
        return self.text


@dataclass(frozen=True)
class Compiled:
    """A library and what its entry expects; see ``docs/architecture.md``."""

    program: Program
    arguments: tuple[Argument, ...]
    axes: tuple[str, ...]
    fixed: Mapping[str, int]
    symbol: str
    library: Path
    entry: Callable[..., int]


def stages(
    program: Program,
    target: str = "c",
    storage: Mapping[str, str] | None = None,
    sizes: Mapping[str, int] | None = None,
    options: PlanOptions | None = None,
    outputs: Mapping[str, str] | None = None,
) -> Stages:
    """Run every pass for a target, without building.

    Args:
        program: a specialised Program.
        target: a name from ``TARGETS``.
        storage: storage name of each input; all f32 by default.
        sizes: extents of the axes that inputs bind; those of inner axes are compiled in.
        options: what a tuner may change.
        outputs: storage of outputs where it is not what follows from the inputs.

    Raises:
        Unsupported: an equation has no strategy on this target.
        UserError: static parameters make an extent negative.
    """
    backend = target_named(target)
    held = _storage(program, storage)
    stored = {name: _output_storage(program.tensors()[name], held) for name in program.outputs} | dict(outputs or {})
    wide = {name: state_storage(program.tensors()[name].dtype, held) for name in program.outputs}
    narrow = [name for name, storage in stored.items() if storage != wide[name]]
    program = prepared(program, sizes or {}, narrow)
    options = options or PlanOptions()
    known = dict(sizes or {})
    lanes = options.lanes or backend.lanes(held.values())
    planned, loops = _lowered(program, known, options, lanes, backend.vector_operations(held.values()))
    for axis, extent in planned.fixed.items():
        if extent < 0:
            raise UserError(f"{program.name}: the extent of axis '{axis}' would be {extent}")
    arguments = _arguments(program, loops, held, stored)
    axes = tuple(a.name for a in program.axes if a.name not in planned.fixed)
    text, symbol = backend.emit(loops, {a.name: a.storage for a in arguments}, [a.name for a in arguments], axes)
    return Stages(program, planned, loops, arguments, axes, text, symbol)


def prepared(program: Program, sizes: Mapping[str, int], narrow: Collection[str] = ()) -> Program:
    """``program`` as it is planned: the same values, written as kernels compute them. Outputs in ``narrow`` are
    stored in less precision than they are computed in."""
    return lift(unshadow(unnest(partial(tables(inline(program), narrow), dict(sizes)))))


def _lowered(
    program: Program, sizes: dict[str, int], options: PlanOptions, lanes: int, operations: frozenset[str]
) -> tuple[Plan, Loops]:
    """Plan and lower; extents that turn out to be needed in the text are compiled in."""
    fixed: frozenset[str] = frozenset()
    while True:
        planned = plan(program, sizes, options, fixed)
        try:
            return planned, lower(planned, sizes, lanes, operations)
        except Unbounded as refusal:
            if refusal.axis in fixed or refusal.axis not in {a for k in planned.kernels for a in k.inner}:
                raise
            fixed |= {refusal.axis}


def compile_program(
    program: Program,
    target: str = "c",
    storage: Mapping[str, str] | None = None,
    sizes: Mapping[str, int] | None = None,
    options: PlanOptions | None = None,
    cache: Cache | None = None,
    outputs: Mapping[str, str] | None = None,
) -> Compiled:
    """Compile a Program, or find it compiled in the cache; arguments as for ``stages``.

    Raises:
        Unsupported: an equation has no strategy on this target.
        ToolchainError: no compiler, no place for its output, or it fails.
    """
    done = stages(program, target, storage, sizes, options, outputs)
    tools = toolchain.find()

    def build(folder: Path) -> None:
        tools.build(done.text, folder)

    key: dict[str, str] = {"target": target, "text": done.text, **tools.key_parts()}
    folder = (cache or Cache()).get(key, build)
    library = next(p for p in sorted(folder.iterdir()) if p.suffix in (".so", ".dylib"))
    return Compiled(done.program, done.arguments, done.axes, done.plan.fixed, done.symbol, library,
                    load_entry(library, done.symbol))  # fmt: skip


def load_entry(library: Path, symbol: str) -> Callable[..., int]:
    """The entry of a built library as a ctypes function of (pointers, meta, threads)."""
    entry: Any = ctypes.CDLL(str(library))[symbol]
    entry.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    entry.restype = ctypes.c_int64
    return entry


def _storage(program: Program, storage: Mapping[str, str] | None) -> dict[str, str]:
    held = default_storage(program) | dict(storage or {})
    for name in held:
        if name not in {t.name for t in program.inputs}:
            raise UserError(f"storage is given for {name!r}, which is not an input of `{program.name}`")
    return held


def _arguments(
    program: Program, loops: Loops, held: Mapping[str, str], stored: Mapping[str, str]
) -> tuple[Argument, ...]:
    """Inputs, outputs and workspaces with their storage."""
    tensors = program.tensors()
    found = [Argument(t.name, t.axes, held[t.name], "input") for t in program.inputs]
    for name in program.outputs:
        found.append(Argument(name, tensors[name].axes, stored[name], "output"))
    for name in loops.workspaces:
        tensor = tensors[name]
        found.append(Argument(name, tensor.axes, state_storage(tensor.dtype, held), "workspace"))
    return tuple(found)


def _output_storage(tensor: Tensor, held: Mapping[str, str]) -> str:
    """Carried state, and what is saved of it, keeps the precision it is computed in; the adjoint of an input is
    stored as that input; other outputs follow the inputs."""
    if tensor.name.endswith((".next", SAVED)):
        return state_storage(tensor.dtype, held)
    primal = re.sub(r"^d\d*\.", "", tensor.name)
    if primal != tensor.name and primal in held:
        return held[primal]
    own = {name: storage for name, storage in held.items() if not name.endswith((".state", SAVED))}
    return output_storage(tensor.dtype, own)
