"""The three kinds of failure: the user's mistake, a known limit, and our bug."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .source import Span


@dataclass(frozen=True)
class Diagnostic:
    """One thing that is wrong: what was found, what was expected, and one thing to try."""

    message: str
    span: Span | None = None
    expected: str = ""
    hint: str = ""

    def render(self) -> str:
        """``file:line:column: error: message``, the line with a caret, expectation and hint."""
        where = ""
        if self.span is not None:
            where = f"{self.span.source.name}:{self.span.line}:{self.span.column}: "
        lines = [f"{where}error: {self.message}"]
        if self.span is not None:
            lines += ["    " + text for text in self.span.context().split("\n")]
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.hint:
            lines.append(f"  try: {self.hint}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The same facts as plain values, for ``--json``."""
        span = self.span
        return {
            "message": self.message,
            "file": span.source.name if span else None,
            "line": span.line if span else None,
            "column": span.column if span else None,
            "expected": self.expected,
            "hint": self.hint,
        }


class SsmcError(Exception):
    """Base of everything this package raises on purpose; carries its diagnostics."""

    def __init__(self, diagnostics: Diagnostic | Iterable[Diagnostic] | str, **details: Any) -> None:
        if isinstance(diagnostics, str):
            diagnostics = Diagnostic(diagnostics, **details)
        if isinstance(diagnostics, Diagnostic):
            diagnostics = (diagnostics,)
        self.diagnostics: tuple[Diagnostic, ...] = tuple(diagnostics)
        super().__init__("\n".join(d.render() for d in self.diagnostics))


class UserError(SsmcError):
    """The input is wrong: a ``.ssm`` text, an argument, a command line."""


class Unsupported(SsmcError):
    """The input is right, but this target or derivation cannot do it (yet); names the equation."""


class TooLarge(Unsupported):
    """A plan takes more than a GPU offers; a smaller one may not."""


class ToolchainError(SsmcError):
    """The machine lacks something: a compiler, a writable cache folder, disk space."""


class InternalError(SsmcError):
    """A bug in ssmc; the message asks for a report."""
