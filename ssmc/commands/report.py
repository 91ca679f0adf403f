"""What a command found, and the one way in which every command prints it."""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import click

from ssmc.errors import Diagnostic, SsmcError, ToolchainError, Unsupported, UserError

JSON_VERSION = 1
OK, WRONG_INPUT, WRONG_USAGE, MACHINE_LACKS, UNSUPPORTED, BUG = 0, 1, 2, 3, 4, 70


@dataclass
class Report:
    """Text for people on stdout, facts for ``--json``, diagnostics, and the exit status."""

    text: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    diagnostics: tuple[Diagnostic, ...] = ()
    code: int = OK


def command(name: str) -> Callable[[Callable[..., Report]], click.Command]:
    """Make a click command of a function that returns a Report; adds ``--json`` and handles errors."""

    def decorate(function: Callable[..., Report]) -> click.Command:
        @functools.wraps(function)
        def run(as_json: bool, **arguments: Any) -> None:
            report = guarded(lambda: function(**arguments))
            show(name, report, as_json)
            click.get_current_context().exit(report.code)

        option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
        return click.command(name)(option(run))

    return decorate


def guarded(function: Callable[[], Report]) -> Report:
    """Its Report, or one that says what went wrong and whose fault it is."""
    try:
        return function()
    except SsmcError as error:
        if exit_status(error) == BUG:
            return _bug(error)
        return Report(diagnostics=error.diagnostics, code=exit_status(error))
    except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
        raise
    except Exception as error:
        return _bug(error)


def exit_status(error: SsmcError) -> int:
    """Whose fault it is, as an exit status."""
    table = ((UserError, WRONG_INPUT), (ToolchainError, MACHINE_LACKS), (Unsupported, UNSUPPORTED))
    return next((status for kind, status in table if isinstance(error, kind)), BUG)


def show(name: str, report: Report, as_json: bool) -> None:
    """Print a Report: one object on stdout, or text on stdout and diagnostics on stderr."""
    if as_json:
        click.echo(json.dumps(as_object(name, report), indent=2, ensure_ascii=False, default=str))
        return
    if report.text:
        click.echo(report.text.rstrip("\n"))
    for diagnostic in report.diagnostics:
        click.echo(diagnostic.render(), err=True)


def as_object(name: str | None, report: Report) -> dict[str, Any]:
    return {
        "version": JSON_VERSION,
        "command": name,
        "ok": report.code == OK,
        "exit": report.code,
        "diagnostics": [diagnostic.as_dict() for diagnostic in report.diagnostics],
        **report.facts,
    }


def _bug(error: Exception) -> Report:
    """A Report of our own mistake: where it happened, and a request to tell us."""
    if os.environ.get("SSMC_TRACEBACK") == "1":
        traceback.print_exception(error, file=sys.stderr)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    text = str(error).removeprefix("error: ").partition("\n")[0] or "no message"
    diagnostic = Diagnostic(
        f"a bug in ssmc: {type(error).__name__}: {text}{where}",
        hint="please report it with the command, its input and what `ssmc doctor` prints; "
        "SSMC_TRACEBACK=1 shows where it happened",
    )
    return Report(diagnostics=(diagnostic,), code=BUG)


def table(rows: list[tuple[str, str]], indent: str = "") -> str:
    """Names and values in two aligned columns; further lines of a value stay in its column."""
    width = max((len(name) for name, _ in rows), default=0)
    lines = []
    for name, value in rows:
        first, *rest = value.split("\n")
        lines.append(f"{indent}{name:<{width}}  {first}".rstrip())
        lines += [f"{indent}{'':<{width}}  {line}".rstrip() for line in rest]
    return "\n".join(lines)
