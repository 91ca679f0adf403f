"""The spine: Program → Plan → Loops → C, CUDA C → library → callable."""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ssmc.backends import (
    BYTES,
    COMPLEXES,
    TARGETS,
    Cache,
    Launch,
    Target,
    TileLaunch,
    compute_type,
    cuda_toolchain,
    default_storage,
    output_storage,
    state_storage,
    target_named,
    toolchain,
    triton_toolchain,
)
from ssmc.errors import TooLarge, Unsupported, UserError
from ssmc.ir import Program, Tensor, print_program
from ssmc.ir.loops import LANE_GROUP, Halved, Limits, Loops
from ssmc.passes import (
    GPU,
    JOINED,
    PROCESSOR,
    SAVED,
    TOGETHER,
    Device,
    NotAtOnce,
    Plan,
    PlanOptions,
    Unbounded,
    at_once,
    either,
    inline,
    joined,
    lift,
    lower,
    partial,
    plan,
    spread,
    sweep,
    tables,
    tiles_of_lanes,
    timed,
    unnest,
    unshadow,
)

__all__ = ["TARGETS", "Argument", "Compiled", "Stages", "compile_program", "emit_program", "prepared", "stages"]


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
    launches: tuple[Launch, ...] = ()
    programs: tuple[TileLaunch, ...] = ()

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
    """A library and what its entry expects; see ``docs/architecture.md``. Of a GPU the library is a cubin, whose
    kernels are launched as ``launches`` say, or one of the files beside it that have one kernel each, launched as
    ``programs`` say; only a GPU can run it, and the entry here says so. ``text`` is the file that it was compiled
    from. ``summing`` are the names of kernels that are as large as what they gather sums over."""

    program: Program
    arguments: tuple[Argument, ...]
    axes: tuple[str, ...]
    fixed: Mapping[str, int]
    symbol: str
    library: Path
    text: Path
    entry: Callable[..., int]
    launches: tuple[Launch, ...] = ()
    programs: tuple[TileLaunch, ...] = ()
    summing: tuple[str, ...] = ()


def stages(
    program: Program,
    target: str = "c",
    storage: Mapping[str, str] | None = None,
    sizes: Mapping[str, int] | None = None,
    options: PlanOptions | None = None,
    outputs: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    halved: Halved = Halved(),  # noqa: B008 it is frozen
) -> Stages:
    """Run every pass for a target, without building. Where a plan takes more than a GPU has, a smaller one is made.

    Args:
        program: a specialised Program.
        target: a name from ``TARGETS``.
        storage: storage name of each input; all f32 by default.
        sizes: extents of the axes that inputs bind; those of inner axes are compiled in.
        options: what a tuner may change; by default the compiler chooses.
        outputs: storage of outputs where it is not what follows from the inputs.
        limits: what the GPU offers to a block; by default what those of the target's architecture do.
        halved: how often the plan is halved to begin with.

    Raises:
        Unsupported: an equation has no strategy on this target; TooLarge, which is one, if no plan fits a GPU.
        UserError: static parameters make an extent negative; options do not concern the target or fit the layer.
    """
    backend, options = target_named(target), options or PlanOptions()
    options.check(backend.name)
    while True:
        try:
            return _Staging(program, backend, storage, dict(sizes or {}), options, outputs, limits, halved).run()
        except TooLarge:
            if halved.sums >= backend.smaller:
                raise
            halved = replace(halved, sums=halved.sums + 1)


@dataclass(frozen=True)
class _Staging:
    """The stages of one Program, with a plan that is halved so often; see ``stages``."""

    program: Program
    backend: Target
    storage: Mapping[str, str] | None
    sizes: dict[str, int]
    options: PlanOptions
    outputs: Mapping[str, str] | None
    limits: Limits | None
    halved: Halved

    def run(self) -> Stages:
        if self.options.time != "auto":
            return self._emitted(*self._planned(self.options.time))
        plain = self._planned("in_order")
        alone = self.halved.in_order or self.backend.time == "in_order"
        if alone or not any(kernel.recurrent for kernel in plain[1].kernels):
            return self._emitted(*plain)
        try:
            found = either(*plain, *self._planned(self.backend.time, "p"))
        except Unsupported:
            found = None
        return self._emitted(*(found or plain))

    @functools.cached_property
    def held(self) -> dict[str, str]:
        """How inputs are stored."""
        return _storage(self.program, self.storage)

    @functools.cached_property
    def stored(self) -> dict[str, str]:
        """How outputs are."""
        tensors = self.program.tensors()
        found = {name: _output_storage(tensors[name], self.held) for name in self.program.outputs}
        return found | dict(self.outputs or {})

    def _prepared(self, together: int) -> Program:
        """The Program as it is planned, where sums over so many lanes are one part."""
        tensors = self.program.tensors()
        wide = {name: state_storage(tensors[name].dtype, self.held) for name in self.program.outputs}
        narrow = [name for name, storage in self.stored.items() if storage != wide[name]]
        return prepared(self.program, self.sizes, narrow, together, not self.backend.blocks)

    def _planned(self, time: str, prefix: str = "k") -> tuple[Plan, Loops]:
        """The plan and loops whose recurrences run as ``time`` says; names of kernels begin with ``prefix``, which is
        another one for those that sizes choose."""
        if not self.backend.tiles or time != "lanes":
            together = self.backend.together >> self.halved.sums
            program = timed(self._prepared(together), replace(self.options, time=time), self._device)
            return self._looped(program, time, prefix, together)
        together = max(1, TOGETHER >> self.halved.sums)
        program = self._prepared(together)
        try:
            return self._looped(program, time, prefix, together)
        except NotAtOnce as reason:
            planned, loops = self._planned("chunks", prefix)
            return replace(planned, instead=f"in chunks of time instead of lanes over time: {reason}"), loops

    @property
    def _device(self) -> Device:
        return GPU if self.backend.blocks else PROCESSOR

    def _looped(self, program: Program, time: str, prefix: str, together: int) -> tuple[Plan, Loops]:
        """The plan and loops of a Program whose recurrences run that way."""
        backend, options, name = self.backend, self.options, self.program.name
        least = backend.lanes(self.held.values())
        if 0 < options.lanes < least:
            raise UserError(f"plan: {name} with lanes={options.lanes}", expected=f"{least} or more: a whole vector")
        # A thread of a GPU has one lane, and keeps what it can in registers anyway.
        lowering = replace(options, lanes=1, tile=0) if backend.blocks else options
        vectors, at_once = backend.vector_operations(self.held.values()), backend.tiles and time == "lanes"
        planned, loops = _lowered(program, self.sizes, lowering, lowering.lanes or least, vectors, prefix, at_once)
        for axis, extent in planned.fixed.items():
            if extent < 0:
                raise UserError(f"{name}: the extent of axis '{axis}' would be {extent}")
        loops = self._on_a_gpu(loops, time, together) if backend.blocks else loops
        joined = _launched_together(loops)
        return replace(planned, options=options, workspaces=loops.workspaces, joined=joined), loops

    def _on_a_gpu(self, loops: Loops, time: str, together: int) -> Loops:
        """Every kernel with how it is spread."""
        if self.backend.tiles:
            return tiles_of_lanes(loops, together, self.options, self.halved.kernels)
        arguments = _arguments(loops.program, loops, self.held, self.stored)
        precision = compute_type(a.storage for a in arguments)
        stored_in = {a.name: BYTES[a.storage] for a in arguments if a.storage not in COMPLEXES}
        limits = self.limits or self.backend.limits
        options = replace(self.options, time=time)
        loops = spread(loops, precision, stored_in, options, limits, together, self.halved.kernels)
        return joined(loops, time) if time in JOINED else loops

    def _emitted(self, planned: Plan, loops: Loops) -> Stages:
        program = loops.program
        arguments = _arguments(program, loops, self.held, self.stored)
        axes = tuple(a.name for a in program.axes if a.name not in planned.fixed)
        made = self.backend.emit(loops, {a.name: a.storage for a in arguments}, [a.name for a in arguments], axes)
        return Stages(program, planned, loops, arguments, axes, made.text, made.symbol, made.launches,
                      made.programs)  # fmt: skip


def _launched_together(loops: Loops) -> dict[tuple[str, ...], str]:
    """Names of kernels that run in one launch, and how."""
    found = [(kernel, kernel.joined) for kernel in loops.kernels if kernel.joined]
    return {(*(k.name for k in made.kernels), kernel.name): made.way for kernel, made in found}


def prepared(
    program: Program, sizes: Mapping[str, int], narrow: Collection[str] = (), together: int = LANE_GROUP,
    in_order: bool = True,
) -> Program:  # fmt: skip
    """``program`` as it is planned: the same values, written as kernels compute them. Outputs in ``narrow`` are
    stored in less precision than they are computed in; sums over channels have parts of so many ``together``; where
    steps of time are best taken ``in_order``, sums over time are gathered on the way even if nothing recurs."""
    made = partial(tables(inline(program), narrow), dict(sizes), together)
    return lift(unshadow(unnest(sweep(made, sizes, together) if in_order else made)))


def _lowered(
    program: Program, sizes: dict[str, int], options: PlanOptions, lanes: int, operations: frozenset[str], prefix: str,
    steps_at_once: bool,
) -> tuple[Plan, Loops]:  # fmt: skip
    """Plan and lower; extents that turn out to be needed in the text are compiled in."""
    fixed: frozenset[str] = frozenset()
    while True:
        planned = plan(program, sizes, options, fixed, prefix)
        if steps_at_once:
            planned = at_once(planned)
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
    limits: Limits | None = None,
) -> Compiled:
    """Compile a Program, or find it compiled in the cache; arguments as for ``stages``. What kernels take of a GPU
    shows when they are compiled: those that do not fit are planned smaller, and so are those whose registers do not
    suffice, where that helps.

    Raises:
        Unsupported: an equation has no strategy on this target; TooLarge, which is one, if no plan fits a GPU.
        ToolchainError: no compiler, no place for its output, or it fails.
    """
    backend = target_named(target)

    def made(halved: Halved) -> Compiled:
        done = stages(program, target, storage, sizes, options, outputs, limits, halved)
        build, tools = _builder(done, backend)
        folder = (cache or Cache()).get({"target": backend.name, "text": done.text, **tools}, build)
        files = sorted(folder.iterdir())
        library = next(p for p in files if p.suffix in (".so", ".dylib", *triton_toolchain.CODE))
        text = next(p for p in files if p.suffix in (".c", ".cu", ".py"))
        entry = functools.partial(_on_a_gpu, target) if backend.blocks else load_entry(library, done.symbol)
        return _compiled(done, library, text, entry)

    if not backend.blocks:
        return made(Halved())
    return fitting(made, lambda found: taken(found, limits or backend.limits), options, backend,
                   f"{program.name} on {target}")  # fmt: skip


@dataclass(frozen=True)
class Taken:
    """What a kernel, by its name in the plan, takes of a GPU: why it does not fit, if it does not, and how much of it
    registers do not hold."""

    kernel: str
    excess: str
    spilled: int


def fitting(
    make: Callable[[Halved], Compiled],
    taken: Callable[[Compiled], Sequence[Taken]],
    options: PlanOptions | None,
    target: Target,
    what: str,
) -> Compiled:
    """The first plan that fits and keeps all in registers, of those whose kernels are halved where they do not; else
    the one that keeps most. Where ``options`` say how large it is, that is so unless it does not fit. TooLarge if none
    does.
    """
    excess = ""
    for begin in (Halved(), Halved(in_order=True)):
        best, excess = _fitted(make, taken, options or PlanOptions(), target, begin)
        if best is not None:
            return best
    raise TooLarge(f"{what}: no plan fits: {excess}")


def _fitted(
    make: Callable[[Halved], Compiled],
    taken: Callable[[Compiled], Sequence[Taken]],
    options: PlanOptions,
    target: Target,
    halved: Halved,
) -> tuple[Compiled | None, str]:
    """As ``fitting``, from a plan on that is halved so often; if none fits, why."""
    best: tuple[int, Compiled] | None = None
    excess = ""
    said = bool(options.together or options.block or options.warps)
    while halved.most <= target.smaller:
        made = make(halved)
        found = taken(made)
        large = {item.kernel for item in found if item.excess}
        spilled = sum(item.spilled for item in found)
        if not large and (best is None or spilled < best[0]):
            best = spilled, made
        spilling = {item.kernel for item in found if item.spilled}
        again = large if large or said else spilling
        if not again:
            break
        excess = next((item.excess for item in found if item.excess), excess)
        halved = halved.again(again, made.summing)
    return (best[1] if best else None), excess


def emit_program(
    program: Program,
    target: str,
    storage: Mapping[str, str] | None = None,
    sizes: Mapping[str, int] | None = None,
    options: PlanOptions | None = None,
    cache: Cache | None = None,
    outputs: Mapping[str, str] | None = None,
    halved: Halved = Halved(),  # noqa: B008 it is frozen
) -> Compiled:
    """As ``compile_program``, for a target whose text is compiled when it is launched: its text is its library, and
    whether it fits shows then."""
    done = stages(program, target, storage, sizes, options, outputs, None, halved)

    def write(folder: Path) -> None:
        (folder / triton_toolchain.TEXT).write_text(done.text, encoding="utf-8")

    text = (cache or Cache()).get({"target": target, "text": done.text}, write) / triton_toolchain.TEXT
    return _compiled(done, text, text, functools.partial(_on_a_gpu, target))


def _compiled(done: Stages, library: Path, text: Path, entry: Callable[..., int]) -> Compiled:
    # Programs on tiles that gather sums have as many lanes as those; threads of blocks have a lane each.
    summing = tuple(kernel.name for kernel in done.loops.kernels if kernel.sums and kernel.tiles)
    return Compiled(done.program, done.arguments, done.axes, done.plan.fixed, done.symbol, library, text, entry,
                    done.launches, done.programs, summing)  # fmt: skip


def _builder(done: Stages, backend: Target) -> tuple[Callable[[Path], None], dict[str, str]]:
    """What compiles a text in a folder, and what the result depends on besides the text."""
    if backend.tiles:
        triton, processor = triton_toolchain.find(), backend.architecture

        def build_programs(folder: Path) -> None:
            triton.build(done.text, done.programs, folder, processor)

        return build_programs, triton.key_parts(processor)
    if backend.blocks:
        compiler, architecture = cuda_toolchain.find(), backend.architecture

        def build_for_gpu(folder: Path) -> None:
            compiler.build(done.text, folder, architecture)

        return build_for_gpu, compiler.key_parts(architecture)
    tools = toolchain.find()

    def build(folder: Path) -> None:
        tools.build(done.text, folder)

    return build, tools.key_parts()


def taken(made: Compiled, limits: Limits) -> list[Taken]:
    """What each kernel takes of a GPU that offers so much. In the plan of CUDA C it was seen to that it fits."""
    if made.launches:
        log = (made.library.parent / cuda_toolchain.LOG).read_text(encoding="utf-8")
        found = cuda_toolchain.resources(log)
        return [Taken(planned(item.kernel), "", item.spill_stores + item.spill_loads) for item in found]
    taken = []
    for item in triton_toolchain.facts(made.library.parent):
        large = item["shared"] > limits.shared
        words = f"{item['kernel']} takes {item['shared']} bytes of shared memory; a block has {limits.shared}"
        taken.append(Taken(planned(item["kernel"]), words if large else "", item["spilled"]))
    return taken


def planned(symbol: str) -> str:
    """The name in the plan of a kernel that machine code knows as ``symbol``."""
    return symbol.removeprefix("ssmc_")


def _on_a_gpu(target: str, *_: object) -> int:
    raise UserError(f"machine code for {target} runs on a GPU only", hint="call the layer with tensors on one")


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
