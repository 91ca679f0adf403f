"""``ssmc compile``: a layer as a library with a plain C entry, or any level on the way there."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssmc.errors import ToolchainError

from .interface import describe, header, loader, names
from .layer import LayerChoice, layer_options
from .report import Report, command, table

if TYPE_CHECKING:
    from ssmc.compiler import Stages
    from ssmc.ir import Program
    from ssmc.passes import PlanOptions

ASSUMED_EXTENT = 16
LEVELS = ("ast", "program", "plan", "loops", "c", "text")


@command("compile")
@layer_options
@click.option("--target", default="c", show_default=True, help="What to compile for.")
@click.option("--emit", type=click.Choice(LEVELS), help="Print this level instead of building a library.")
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder for the library.")
def compile_(target: str, emit: str | None, output: Path | None, **layer: Any) -> Report:
    """Compile LAYER to a library, or to a cubin for a GPU, or print a level on the way there.

    LAYER is a name from `ssmc library`, FILE.ssm, or either with :NAME for one of its layers. The library, its C
    text, a header, the plan, a description of its entry, and a Python file that calls it with PyTorch's tensors, for
    machines without ssmc, go to the folder given by -o. Extents of inner axes (states, taps) are compiled in; those
    that --sizes does not give are taken to be 16, and the output says so.
    A target is `c`, or `cuda:sm_90`, `triton:sm_90`, `triton:gfx942` and the like, for which no GPU is needed;
    instead of a header there is then a report of the resources that each kernel takes (Triton: in the description).
    The level `text` is what the target's compiler is given.
    """
    if emit is None and output is None:
        raise click.UsageError("give a folder with -o DIR, or a level with --emit")
    chosen = LayerChoice.parse(**layer)
    if emit == "ast":
        text = "\n".join(_tree(chosen.module.layer(chosen.signature.name)))
    elif emit == "program":
        from ssmc.ir import print_program

        text = print_program(chosen.elaborate())
    elif emit is not None:
        done, assumed = _stages(chosen, chosen.elaborate(), target)
        text = done.show(emit)
        if assumed:
            click.echo(f"assumed: {_note(assumed)}", err=True)
    else:
        assert output is not None
        return _build(chosen, target, output)
    return Report(text, {**chosen.facts(), "target": target, "level": emit, "text": text})


def _stages(chosen: LayerChoice, program: Program, target: str) -> tuple[Stages, dict[str, int]]:
    return staged(program, target, chosen.dtype, chosen.sizes, chosen.plan)


def staged(
    program: Program, target: str, dtype: str, sizes: Mapping[str, int], plan: PlanOptions | None = None
) -> tuple[Stages, dict[str, int]]:
    """Every level, and the extents that had to be assumed because ``sizes`` does not give them."""
    from ssmc.backends import default_storage
    from ssmc.compiler import stages
    from ssmc.passes import MissingExtent

    assumed: dict[str, int] = {}
    while True:
        try:
            known = {**sizes, **assumed}
            return stages(program, target, default_storage(program, dtype), known, plan), assumed
        except MissingExtent as missing:
            if missing.axis in assumed:
                raise
            assumed[missing.axis] = ASSUMED_EXTENT


def _note(assumed: Mapping[str, int]) -> str:
    return ", ".join(f"#{a} = {n}" for a, n in assumed.items()) + " (give --sizes to choose)"


def _build(chosen: LayerChoice, target: str, folder: Path) -> Report:
    from ssmc.backends import default_storage
    from ssmc.compiler import compile_program

    program = chosen.elaborate()
    done, assumed = _stages(chosen, program, target)
    sizes = {**chosen.sizes, **assumed}
    compiled = compile_program(program, target, default_storage(program, chosen.dtype), sizes, chosen.plan)
    interface = describe(compiled, target)
    files = {kind: folder / file for kind, (file, _) in names(compiled).items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, (_, source) in names(compiled).items():
            if source is not None:
                shutil.copyfile(source, files[kind])
        if "header" in files:
            files["header"].write_text(header(compiled), encoding="utf-8")
        files["loader"].write_text(loader(), encoding="utf-8")
        files["plan"].write_text(done.show("plan"), encoding="utf-8")
        files["interface"].write_text(json.dumps(interface, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ToolchainError(
            f"{folder} cannot be written: {error.strerror}", hint="choose another folder with -o"
        ) from None
    shown = {kind: str(path) for kind, path in files.items()}
    rows = [*shown.items(), ("entry", compiled.symbol), ("axes", ", ".join(compiled.axes) or "none")]
    rows.append(("compiled in", ", ".join(f"#{a} = {n}" for a, n in compiled.fixed.items()) or "nothing"))
    if assumed:
        rows.append(("assumed", _note(assumed)))
    rows.append(("arguments", "\n".join(_argument(item) for item in interface["arguments"])))
    return Report(table(rows), {**chosen.facts(), "target": target, "files": shown, "interface": interface})


def _argument(item: Mapping[str, Any]) -> str:
    return f"{item['name']}[{', '.join(item['axes'])}]: {item['storage']}, {item['role']}"


def _tree(node: Any, name: str = "", indent: str = "") -> Iterator[str]:
    """A syntax tree, one node per line."""
    label = f"{indent}{name}: " if name else indent
    parts: list[tuple[str, Any]]
    if isinstance(node, tuple):
        title, parts = "list", [("", item) for item in node]
    elif dataclasses.is_dataclass(node):
        title = type(node).__name__
        parts = [(item.name, getattr(node, item.name)) for item in dataclasses.fields(node) if item.repr]
    else:
        yield f"{label}{node!r}"
        return
    parts = [(inner, part) for inner, part in parts if part not in (None, (), False, "")]
    if any(isinstance(part, tuple) or dataclasses.is_dataclass(part) for _, part in parts):
        yield f"{label}{title}"
        for inner, part in parts:
            yield from _tree(part, inner, indent + "  ")
    else:
        yield f"{label}{title} {' '.join(repr(part) for _, part in parts)}".rstrip()
