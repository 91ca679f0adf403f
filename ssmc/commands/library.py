"""``ssmc library``: the layers that come with ssmc."""

from __future__ import annotations

import click

from .report import Report, command, table


@command("library")
@click.option("--all", "everything", is_flag=True, help="List every layer of a module, not only the main one.")
def library(everything: bool) -> Report:
    """List the layers that come with ssmc, each with what it is.

    Any name printed here can stand for LAYER in the other commands and in ssmc.load().
    """
    from ssmc import dsl

    rows, facts = [], []
    for name in dsl.library_names():
        module = dsl.load_module(name)
        for number, layer in enumerate(module.layers):
            signature = dsl.signature(module, layer)
            doc = module.file.doc if number == 0 and module.file.doc else signature.doc
            summary = doc.strip().partition("\n")[0]
            full = name if number == 0 else f"{name}:{layer}"
            facts.append({"name": full, "module": name, "layer": layer, "summary": summary})
            if number == 0 or everything:
                rows.append((full, summary))
    return Report(table(rows), {"layers": facts})
