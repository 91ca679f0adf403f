"""The command line: ``ssmc COMMAND``."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Sequence

import click

from ssmc import __version__
from ssmc.commands import COMMANDS, WRONG_USAGE, Report, as_object, guarded, show
from ssmc.errors import Diagnostic

INTERRUPTED = 130


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Exit status:
  0   done, and nothing was found
  1   the input is wrong, or a check found something
  2   the command line is wrong
  3   this machine lacks something (`ssmc doctor` says what)
  4   the input is right, but this is not supported
  70  a bug in ssmc; please report it (SSMC_TRACEBACK=1 shows where)

Every command takes --json: one object on standard output, with "version", "command", "ok", "exit" and
"diagnostics". Without it, diagnostics go to standard error.""",
)
@click.version_option(__version__, prog_name="ssmc", message="%(prog)s %(version)s")
def group() -> None:
    """Compile sequence-mixing layers written as equations."""


for _command in COMMANDS:
    group.add_command(_command)


def main() -> None:
    """The entry point of the ``ssmc`` script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show a character shows ? instead
            stream.reconfigure(errors="replace")
    as_json = "--json" in arguments
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            report = guarded(lambda: Report(code=_invoke(arguments)))
            if report.diagnostics:  # from outside any command
                show("", report, as_json)
        sys.stdout.flush()
        return report.code
    except click.ClickException as error:
        _show_usage_error(error, as_json)
        return WRONG_USAGE
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _invoke(arguments: Sequence[str]) -> int:
    status = group.main(list(arguments), prog_name="ssmc", standalone_mode=False)
    return status if isinstance(status, int) else 0


def _show_usage_error(error: click.ClickException, as_json: bool) -> None:
    if not as_json:
        error.show()
        return
    context = getattr(error, "ctx", None)
    name = context.command.name if context is not None and context.parent is not None else None
    report = Report(diagnostics=(Diagnostic(error.format_message()),), code=WRONG_USAGE)
    click.echo(json.dumps(as_object(name, report), indent=2, ensure_ascii=False))


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    click.echo(f"warning: {message}", err=True)
