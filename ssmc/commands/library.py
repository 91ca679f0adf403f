"""``ssmc library``: the layers that come with ssmc."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import click

from ssmc.derivations import DERIVATIONS, verdicts

from .report import Report, command, table

if TYPE_CHECKING:
    from ssmc.derivations import Verdict

_HEAD = """\
# What can be derived from each layer

`ssmc library --derivations` makes this page. A layer is taken with its default static parameters (where one has
none, a small one) and all its optional inputs, or without one where only that has the form. `ssmc NAME LAYER` prints
the derived equations.
"""


@command("library")
@click.option("--all", "everything", is_flag=True, help="List every layer of a module, not only the main one.")
@click.option("--derivations", is_flag=True, help="Say what can be derived from each layer, and why not the rest.")
def library(everything: bool, derivations: bool) -> Report:
    """List the layers that come with ssmc, each with what it is.

    Any name printed here can stand for LAYER in the other commands and in ssmc.load().
    """
    if derivations:
        return _derivations()
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


def _derivations() -> Report:
    """A page of Markdown: which derivations apply to each layer, and why the others do not."""
    found = dict(_verdicts())
    names = [row.name for row in DERIVATIONS]
    lines = [_HEAD, "| | meaning |", "|---|---|"]
    lines += [f"| `{row.name}` | {row.meaning} |" for row in DERIVATIONS]
    lines += ["", f"| layer | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| `{layer}` | {' | '.join(_cell(of[name]) for name in names)} |" for layer, of in found.items()]
    lines += ["", "## Why not"]
    for name in names:
        because: dict[str, list[str]] = {}
        for layer, of in found.items():
            if of[name].reason:
                because.setdefault(_reason(of[name]), []).append(f"`{layer}`")
        reasons = [f"* {', '.join(layers)}: {reason}" for reason, layers in because.items()]
        lines += ["", f"`{name}`:", "", *reasons] if reasons else []
    facts = {layer: {name: _facts(verdict) for name, verdict in of.items()} for layer, of in found.items()}
    return Report("\n".join(lines) + "\n", {"derivations": facts})


def _verdicts() -> Iterator[tuple[str, Mapping[str, Verdict]]]:
    from ssmc import dsl

    for name in dsl.library_names():
        module = dsl.load_module(name)
        for number, layer in enumerate(module.layers):
            yield name if number == 0 else f"{name}:{layer}", verdicts(module, layer)


def _cell(verdict: Verdict) -> str:
    if not verdict.reason:
        return "yes"
    return f"without {_listed(verdict)}" if verdict.without else "no"


def _reason(verdict: Verdict) -> str:
    """Why a layer has no such form, without saying again which layer and that it has none."""
    text = re.sub(r"^no [a-z ]+: |^[\w.]+ (?=has )|, so it has no [a-z ]+$", "", verdict.reason)
    return f"with {_listed(verdict)} {text}" if verdict.without else text


def _listed(verdict: Verdict) -> str:
    return ", ".join(f"`{name}`" for name in verdict.without)


def _facts(verdict: Verdict) -> dict[str, object]:
    return {"applies": verdict.applies, "without": list(verdict.without), "reason": verdict.reason}
