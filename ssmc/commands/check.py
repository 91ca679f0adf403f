"""``ssmc check``: whether files say something that can be compiled."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from ssmc.errors import Diagnostic, UserError

from .report import OK, WRONG_INPUT, Report, command


@command("check")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def check(files: Sequence[str]) -> Report:
    """Report what is wrong in .ssm files.

    FILE is a path, the name of a module of the library, or - for standard input. Each layer is elaborated
    for every choice of its optional inputs, signatures, enums and switches, one at a time.
    """
    found: list[Diagnostic] = []
    facts, lines = [], []
    for file in files:
        diagnostics, layers = _check_one(file)
        found += diagnostics
        facts.append({"file": file, "ok": not diagnostics, "layers": layers})
        verdict = _count(len(diagnostics), "error") if diagnostics else f"ok ({_count(len(layers), 'layer')})"
        lines.append(f"{file}: {verdict}")
    if len(files) > 1:
        wrong = sum(not fact["ok"] for fact in facts)
        lines.append(f"{_count(len(files), 'file')}, {_count(len(found), 'error')}" + (f" in {wrong}" if wrong else ""))
    return Report("\n".join(lines), {"files": facts}, tuple(found), WRONG_INPUT if found else OK)


def _check_one(file: str) -> tuple[list[Diagnostic], list[str]]:
    """What is wrong with a file, and the layers it defines."""
    from ssmc import dsl

    try:
        module = dsl.module_from_text(_standard_input(), "<stdin>") if file == "-" else dsl.load_module(file)
        return list(dsl.check(module)), list(module.layers)
    except UserError as error:
        return list(error.diagnostics), []


def _standard_input() -> str:
    return sys.stdin.buffer.read().decode("utf-8", "replace")


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
