"""``ssmc resources``: what the kernels of the library take of a GPU, found out by compiling them, without one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssmc.errors import ToolchainError, Unsupported, UserError

from .compile import ASSUMED_EXTENT, staged
from .layer import DTYPES
from .report import Report, command

if TYPE_CHECKING:
    from ssmc.compiler import Compiled
    from ssmc.ir import Program

_HEAD = """\
# What kernels take of a GPU

`ssmc resources -o docs` makes this page, and resources.json with the numbers of each kernel. Every layer
of the library is compiled with its default static parameters (where one has none, a small one), all its optional
inputs, and extents of 16, or the nearest that meet what it requires; the way back is the gradient for all inputs.
Of all kernels of a pass the largest numbers stand here: bytes of shared memory of a block, registers of a thread,
bytes of memory of a thread's own (its stack: what is kept for a chunk of time, or along axes too long for registers),
and bytes written to and read from there because registers ran out.
"""

_HEAD_OF_TRITON = """\
# What Triton's kernels take of a GPU

`ssmc resources --target triton -o docs` makes this page, and resources-triton.json with the numbers and the plan of
each kernel, as that of CUDA C is made. Of all kernels of a pass the largest numbers stand here: bytes of shared memory
of a program, registers of a thread (AMD: vector registers), and bytes written and read because registers ran out.
Kernels that do not fit are planned smaller: what is spilled here is spilled by small ones, too.
"""


@command("resources")
@click.argument("layers", nargs=-1, metavar="[LAYER]...")
@click.option("--dtype", type=click.Choice(DTYPES), default="bf16", show_default=True, help="Storage of real inputs.")
@click.option("--target", type=click.Choice(("cuda", "triton")), default="cuda", show_default=True)
@click.option("--architecture", "architectures", multiple=True, help="Such as sm_90; all by default.")
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Write both forms there, too.")
def resources(
    layers: tuple[str, ...], dtype: str, target: str, architectures: tuple[str, ...], output: Path | None
) -> Report:
    """Compile layers for GPUs, forward and backward, and print the registers, shared memory and spills of kernels.

    LAYER is a name from `ssmc library`; all of them by default, which takes minutes. Of tables that are in the folder
    given by -o, and that were made alike, the rows of other layers stay.
    """
    from ssmc.backends import TARGETS, cuda_toolchain, target_named, triton_toolchain

    chosen = sorted(architectures or TARGETS[target].architectures, key=lambda name: (len(name), name))
    for name in chosen:
        target_named(f"{target}:{name}")
    if target == "cuda":
        compiler = cuda_toolchain.find()
        made_by = f"{compiler.kind} {compiler.version}"
    else:
        made_by = f"triton {triton_toolchain.find().version}"
    kernels = _kernels if target == "cuda" else _programs_on_tiles
    told = ("registers", "stack", "spilled") if target == "cuda" else ("registers", "spilled")
    head = f"{_HEAD if target == 'cuda' else _HEAD_OF_TRITON}\nMade by {made_by}; real inputs stored as {dtype}.\n"
    name = "resources" if target == "cuda" else "resources-triton"

    def report(rows: Sequence[Mapping[str, Any]]) -> Report:
        text = "\n".join([head, *_table(rows, chosen, told)])
        return Report(text, {"compiler": made_by, "dtype": dtype, "passes": rows})

    rows = found = list[dict[str, Any]]()
    for layer, program in _programs(layers):
        click.echo(layer, err=True)
        found += _passes(layer, program, dtype, chosen, kernels)
        if output is not None:  # what was found is there if the rest is not waited for
            rows = _among(found, output / f"{name}.json", made_by, dtype, chosen)
            _write(report(rows), output / name)
    if output is not None and not layers:  # what is of no layer any more goes
        rows = found
        _write(report(rows), output / name)
    return report(rows)


def _write(report: Report, name: Path) -> None:
    """Both forms, as NAME.md and NAME.json."""
    name.parent.mkdir(parents=True, exist_ok=True)
    name.with_suffix(".md").write_text(f"{report.text}\n", encoding="utf-8")
    name.with_suffix(".json").write_text(json.dumps(report.facts) + "\n", encoding="utf-8")


def _among(
    found: Sequence[dict[str, Any]], written: Path, made_by: str, dtype: str, architectures: Sequence[str]
) -> list[dict[str, Any]]:
    """What was found of some layers, in the place of what is written of them, if that was made alike."""
    told = json.loads(written.read_text(encoding="utf-8")) if written.exists() else {"passes": []}
    kernels = [kernel for row in told["passes"] for kernel in row.get("kernels", ())]
    alike = (told.get("compiler"), told.get("dtype")) == (made_by, dtype)
    if not alike or any(set(kernel["on"]) != set(architectures) for kernel in kernels):
        return list(found)
    rows: dict[str, list[dict[str, Any]]] = {row["layer"]: [] for row in (*told["passes"], *found)}
    new = {row["layer"] for row in found}
    for row in (*(old for old in told["passes"] if old["layer"] not in new), *found):
        rows[row["layer"]].append(row)
    return [row for of_layer in rows.values() for row in of_layer]


def _programs(layers: Sequence[str]) -> Iterator[tuple[str, Program]]:
    """The layers asked for, each as a Program."""
    from ssmc import dsl

    modules = {name: dsl.load_module(name) for name in dsl.library_names()}
    known = {
        name if number == 0 else f"{name}:{layer}": (module, layer)
        for name, module in modules.items()
        for number, layer in enumerate(module.layers)
    }
    for asked in layers:
        if asked not in known:
            raise UserError(f"the library has no layer `{asked}`", hint="`ssmc library` lists those that it has")
    for full, (module, layer) in known.items():
        if not layers or full in layers:
            yield full, dsl.elaborate(module, layer, next(dsl.choices(module, module.layer(layer))))


def _passes(
    layer: str, program: Program, dtype: str, architectures: Sequence[str], kernels: Callable[..., Any]
) -> Iterator[dict[str, Any]]:
    """The way forward and the way back, or why there is none."""
    from ssmc.passes import differentiable, grad, kept_values, rebuilding, saving
    from ssmc.verify import free_axes, solve

    try:
        sizes = solve(program, dict.fromkeys(free_axes(program), ASSUMED_EXTENT))
        forms = {"forward": program}
        if all(differentiable(program)):
            gradient = grad(program)
            kept = kept_values(gradient)
            forms = {"forward": saving(program, kept), "backward": rebuilding(gradient, kept)}
        for name, form in forms.items():
            yield {"layer": layer, "pass": name, **_taken(form, sizes or {}, dtype, architectures, kernels)}
    except Unsupported as refusal:
        yield {"layer": layer, "unsupported": refusal.diagnostics[0].message}


def _taken(
    program: Program, sizes: Mapping[str, int], dtype: str, architectures: Sequence[str], kernels: Callable[..., Any]
) -> dict[str, Any]:
    """What its kernels take, or why a compiler did not say so: that of one pass is no reason to stop."""
    try:
        return {"kernels": kernels(program, sizes, dtype, architectures)}
    except ToolchainError as failure:
        return {"failed": failure.diagnostics[0].message.splitlines()[0]}


def _kernels(
    program: Program, sizes: Mapping[str, int], dtype: str, architectures: Sequence[str]
) -> list[dict[str, Any]]:
    """What each kernel takes, by architecture."""
    from ssmc.backends import cuda_toolchain

    kernels: dict[str, dict[str, Any]] = {}
    for architecture, done in _compiled(program, "cuda", sizes, dtype, architectures):
        log = (done.library.parent / cuda_toolchain.LOG).read_text(encoding="utf-8")
        for launch in done.launches:
            about = {"kernel": launch.kernel, "threads": launch.threads, "shared": launch.shared, "on": {}}
            kernels.setdefault(launch.kernel, about)
        for item in cuda_toolchain.resources(log):
            taken = {"registers": item.registers, "stack": item.stack, "spilled": item.spill_stores + item.spill_loads}
            kernels[item.kernel]["on"][architecture] = taken
    return list(kernels.values())


def _programs_on_tiles(
    program: Program, sizes: Mapping[str, int], dtype: str, architectures: Sequence[str]
) -> list[dict[str, Any]]:
    """The same of Triton's kernels, whose plan is that of each architecture: block and warps, too."""
    from ssmc.backends import triton_toolchain

    kernels: dict[str, dict[str, Any]] = {}
    for architecture, done in _compiled(program, "triton", sizes, dtype, architectures):
        found = triton_toolchain.facts(done.library.parent)
        for launch, item in zip(done.programs, found, strict=True):
            kernel = kernels.setdefault(launch.kernel, {"kernel": launch.kernel, "shared": 0, "on": {}})
            kernel["shared"] = max(kernel["shared"], item["shared"])
            plan = {"block": launch.block, "warps": launch.warps}
            kernel["on"][architecture] = {**plan, "registers": item["registers"], "spilled": item["spilled"]}
    return list(kernels.values())


def _compiled(
    program: Program, target: str, sizes: Mapping[str, int], dtype: str, architectures: Sequence[str]
) -> Iterator[tuple[str, Compiled]]:
    """The kernels of each architecture, planned smaller where that helps; their files are there until the next."""
    from ssmc.backends import Cache, default_storage
    from ssmc.compiler import compile_program

    own = {axis.name: sizes[axis.name] for axis in program.axes if axis.extent is None and axis.name in sizes}
    _, assumed = staged(program, target, dtype, own)
    known, storage = {**own, **assumed}, default_storage(program, dtype)
    for architecture in architectures:
        with tempfile.TemporaryDirectory(prefix="ssmc-resources-") as folder:
            yield (
                architecture,
                compile_program(program, f"{target}:{architecture}", storage, known, None, Cache(folder)),
            )


def _table(
    found: Sequence[Mapping[str, Any]], architectures: Sequence[str], told: Sequence[str]
) -> Iterator[str]:  # fmt: skip
    head = ["layer", "pass", "kernels", "shared", *(f"{name}: {', '.join(told)}" for name in architectures)]
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in found:
        if "unsupported" in row:
            yield f"| `{row['layer']}` | {row['unsupported'].replace('|', '/')} |" + " |" * (len(head) - 2)
            continue
        if "failed" in row:
            yield f"| `{row['layer']}` | {row['pass']} | {row['failed'].replace('|', '/')} |" + " |" * (len(head) - 3)
            continue
        kernels = row["kernels"]
        cells = [f"`{row['layer']}`", row["pass"], str(len(kernels)), str(max(k["shared"] for k in kernels))]
        for name in architectures:
            most = [max(k["on"][name][what] for k in kernels) for what in told]
            cells.append(", ".join(map(str, most)))
        yield f"| {' | '.join(cells)} |"
