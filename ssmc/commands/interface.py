"""What ``ssmc compile`` writes beside machine code, for those who call it without ssmc."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ssmc

if TYPE_CHECKING:
    from ssmc.compiler import Compiled
    from ssmc.ir import Program

WAVE = {"gfx": 64, "sm_": 32}  # threads that go together


def names(compiled: Compiled) -> dict[str, tuple[str, Path | None]]:
    """The files there are: of each kind its name, and which file it is a copy of, if it is one. Machine code is one
    file for all or, of Triton, one for each kernel."""
    name = compiled.program.name
    text = "triton.py" if compiled.programs else compiled.text.suffix[1:]
    found: dict[str, tuple[str, Path | None]] = {"text": (f"{name}.{text}", compiled.text)}
    found |= {"plan": (f"{name}.plan", None), "interface": (f"{name}.json", None), "loader": (f"{name}.py", None)}
    for launch in compiled.programs:
        source = compiled.library.with_name(f"{launch.kernel}{compiled.library.suffix}")
        found[launch.kernel] = f"{name}.{source.name}", source
    if compiled.programs:
        return found
    found["library"] = library_name(compiled), compiled.library
    if compiled.launches:
        return {**found, "resources": (f"{name}.log", compiled.text.with_suffix(".log"))}
    return {**found, "header": (f"{name}.h", None)}


def library_name(compiled: Compiled) -> str:
    """``libNAME.so``: Python would take ``NAME.so`` for the module ``NAME``."""
    return f"{'' if compiled.launches else 'lib'}{compiled.program.name}{compiled.library.suffix}"


def header(compiled: Compiled) -> str:
    """A C header for the library: the entry, and what its pointers and numbers are."""
    lines = [
        "#pragma once",
        "#include <stdint.h>",
        "",
        "/* `pointers`, in order:",
        *(f" *   {_place(n, a.storage, len(a.axes), a.role)}" for n, a in enumerate(compiled.arguments)),
        f" * `meta`: {len(compiled.axes)} extents, then the strides of each tensor in elements, axis by axis.",
        " * `threads`: how many may be used. Gives 0, or 1 when memory runs out. */",
        f"int64_t {compiled.symbol}(void *const *pointers, const int64_t *meta, int64_t threads);",
    ]
    return "\n".join(lines) + "\n"


def _place(number: int, storage: str, axes: int, role: str) -> str:
    return f"{number}: {role}, {storage}, {axes} axes"


def describe(compiled: Compiled, target: str) -> dict[str, Any]:
    """What a caller of the library has to know; docs/architecture.md says what it means."""
    entry = "int64_t entry(void *const *pointers, const int64_t *meta, int64_t threads)"
    from ssmc.backends import target_named, toolchain

    architecture = target_named(target).architecture
    processor = {"name": toolchain.cpu_name(), "has": toolchain.cpu_features()}
    how: dict[str, Any] = {"entry": entry, "processor": processor}
    if compiled.launches:
        how = {"launches": [launch.facts() for launch in compiled.launches], "gpu": _gpu(architecture, exactly=False)}
    elif compiled.programs:
        # Triton compiles for what only this very GPU has.
        how = {"programs": list(_programs(compiled, architecture)), "gpu": _gpu(architecture, architecture != "sm_80")}
    if not compiled.programs:
        how["library"] = library_name(compiled)
    return {
        "version": 1,
        "layer": compiled.program.name,
        "target": f"{target.partition(':')[0]}:{architecture}" if architecture else target,
        "symbol": compiled.symbol,
        **how,
        "axes": list(compiled.axes),
        "fixed": dict(compiled.fixed),
        "extents": _extents(compiled.program),
        "requirements": _requirements(compiled.program),
        "arguments": [dataclasses.asdict(argument) for argument in compiled.arguments],
    }


def _gpu(architecture: str, exactly: bool) -> dict[str, Any]:
    """Which GPUs run the machine code: those of a name, or of a compute capability, ``exactly`` or newer of the same
    generation."""
    if not architecture.startswith("sm_"):
        return {"name": architecture}
    number = int(architecture.removeprefix("sm_"))
    return {"capability": [number // 10, number % 10], "exactly": exactly}


def _extents(program: Program) -> dict[str, Any]:
    """The extents that the program states, in an order in which each is known when it is used."""
    from ssmc.ir import expr_to_json, sizes_used

    waiting = {axis.name: axis.extent for axis in program.axes if axis.extent is not None}
    found: dict[str, Any] = {}
    while waiting:
        name = next(n for n, extent in waiting.items() if not sizes_used(extent) & waiting.keys())
        found[name] = expr_to_json(waiting.pop(name))
    return found


def _requirements(program: Program) -> list[dict[str, Any]]:
    from ssmc.ir import expr_to_json, print_expr

    return [{"text": print_expr(r.condition), "condition": expr_to_json(r.condition)} for r in program.requirements]


def _programs(compiled: Compiled, architecture: str) -> Iterator[dict[str, Any]]:
    """Each program, with what its machine code says of itself; files have the names that are given here."""
    from ssmc.backends import triton_toolchain

    facts = {item["kernel"]: item for item in triton_toolchain.facts(compiled.library.parent)}
    for launch in compiled.programs:
        known = facts[launch.kernel]
        file = f"{compiled.program.name}.{known['file']}"
        yield {**launch.facts(), "threads": launch.warps * WAVE[architecture[:3]], **known, "file": file}


def loader() -> str:
    """The Python file that calls machine code by its description: it stands on nothing of ssmc."""
    source = Path(ssmc.__file__).with_name("runtime") / "shipped.py"
    return source.read_text(encoding="utf-8").rstrip() + '\n\n\nlayer = Layer(Path(__file__).with_suffix(".json"))\n'
