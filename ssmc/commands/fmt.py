"""``ssmc fmt``: the one layout of a ``.ssm`` text."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from ssmc.errors import Diagnostic, UserError
from ssmc.source import Source

from .report import OK, WRONG_INPUT, Report, command


@command("fmt")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--check", is_flag=True, help="Change nothing; name the files that would change and exit with 1.")
def fmt(files: Sequence[str], check: bool) -> Report:
    """Lay out .ssm files as the formatter does, in place.

    FILE is a path, or - to format standard input to standard output. A file with syntax errors is reported and
    left alone. Comments stay.
    """
    if "-" in files:
        if len(files) > 1:
            raise click.UsageError("- (standard input) stands alone")
        return _format_standard_input(check)
    diagnostics: list[Diagnostic] = []
    facts, lines = [], []
    for file in files:
        try:
            changed = _format_file(Path(file), write=not check)
        except UserError as error:
            diagnostics += error.diagnostics
            facts.append({"file": file, "status": "error"})
            continue
        facts.append({"file": file, "status": "changed" if changed else "unchanged"})
        if changed:
            lines.append(f"{file}: {'would be reformatted' if check else 'reformatted'}")
    failed = bool(diagnostics) or (check and bool(lines))
    noun, verb = "file" if len(files) == 1 else "files", "to reformat" if check else "reformatted"
    lines.append(f"{len(files)} {noun}, {len(lines) or 'none'} {verb}")
    return Report("\n".join(lines), {"files": facts}, tuple(diagnostics), WRONG_INPUT if failed else OK)


def _format_standard_input(check: bool) -> Report:
    from ssmc import dsl

    data = sys.stdin.buffer.read()
    text = _decode(data, "<stdin>")
    formatted = dsl.format_text(Source("<stdin>", text))
    facts = {"files": [{"file": "-", "status": "unchanged" if formatted == text else "changed"}], "text": formatted}
    if check:
        return Report("" if formatted == text else "<stdin>: would be reformatted", facts, (), int(formatted != text))
    return Report(formatted, facts)


def _format_file(path: Path, write: bool) -> bool:
    """Format one file; whether that changes it. UserError if it cannot be read, parsed or written."""
    from ssmc import dsl

    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", hint="check the path") from None
    formatted = dsl.format_text(Source(str(path), _decode(data, str(path)))).encode()
    if formatted == data:
        return False
    if write:
        try:
            _replace(path.resolve(), formatted)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}", hint="check its permissions") from None
    return True


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"{name} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}"
        raise UserError(message, hint="save the file as UTF-8") from None


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, keeping its permissions."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, path.stat().st_mode & 0o7777)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
