"""A list of diagnostics in the making, and the exception that gives up on one equation."""

from __future__ import annotations

from collections.abc import Iterable

from ssmc.errors import Diagnostic
from ssmc.source import Span


class Abandon(Exception):
    """The equation at hand cannot be understood; what is wrong has been recorded."""


class Problems:
    """Diagnostics, at most one per place (later ones there would be consequences of the first)."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, int], Diagnostic] = {}
        self.overflow = False  # some layer is too large to be read on
        self.circles: set[frozenset[tuple[str, str]]] = set()  # of calls, reported once each

    def add(self, message: str, span: Span | None, expected: str = "", hint: str = "") -> None:
        self.take(Diagnostic(message, span, expected, hint))

    def take(self, diagnostic: Diagnostic) -> None:
        span = diagnostic.span
        key = (span.source.name, span.start) if span else (diagnostic.message, -1)
        self.found.setdefault(key, diagnostic)

    def abandon(self, message: str, span: Span | None, expected: str = "", hint: str = "") -> Abandon:
        """Record a problem and return the exception to raise."""
        self.add(message, span, expected, hint)
        return Abandon(message)

    def __bool__(self) -> bool:
        return bool(self.found)

    def sorted(self) -> list[Diagnostic]:
        """In the order of the text."""
        return sorted(self.found.values(), key=_place)


def _place(diagnostic: Diagnostic) -> tuple[str, int]:
    span = diagnostic.span
    return (span.source.name, span.start) if span else ("", -1)


def nearest(name: str, known: Iterable[str]) -> str:
    """``did you mean `…`?`` for the most similar known name, or nothing."""
    import difflib  # only texts with mistakes wait for it

    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean `{found[0]}`?" if found else ""


def listed(names: Iterable[str], last: str = "and") -> str:
    """``a, b and c``, each in backquotes."""
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} {last} {quoted[-1]}" if quoted else "nothing"
