"""Source texts and the spans that point into them."""

from __future__ import annotations

from dataclasses import dataclass

_WIDEST = 200  # characters of a source line that a diagnostic shows


@dataclass(frozen=True)
class Source:
    """A named text; ``name`` is what diagnostics call it (a path, or ``<text>``)."""

    name: str
    text: str

    def position(self, offset: int) -> tuple[int, int]:
        """1-based (line, column) of a character offset; offsets past the end give the last line."""
        offset = max(0, min(offset, len(self.text)))
        line = self.text.count("\n", 0, offset) + 1
        return line, offset - (self.text.rfind("\n", 0, offset) + 1) + 1

    def line(self, number: int) -> str:
        """The text of 1-based line ``number`` without its line end; empty beyond the text."""
        lines = self.text.split("\n")
        return lines[number - 1] if 1 <= number <= len(lines) else ""


@dataclass(frozen=True)
class Span:
    """Characters ``start`` up to ``end`` (exclusive) of a source."""

    source: Source
    start: int
    end: int

    def join(self, other: Span) -> Span:
        """The smallest span that covers both."""
        return Span(self.source, min(self.start, other.start), max(self.end, other.end))

    @property
    def line(self) -> int:
        return self.source.position(self.start)[0]

    @property
    def column(self) -> int:
        return self.source.position(self.start)[1]

    def context(self) -> str:
        """The source line with a caret under the span, two lines of text; a piece of it where it is long."""
        line, column = self.source.position(self.start)
        text = self.source.line(line)
        shown = "".join(c if c == "\t" or c.isprintable() else "\ufffd" for c in text)
        first = 0 if len(text) <= _WIDEST else max(0, min(column - 1 - _WIDEST // 3, len(text) - _WIDEST))
        piece = shown[first : first + _WIDEST]
        before, after = "… " if first else "", " …" if first + _WIDEST < len(text) else ""
        width = max(1, min(self.end - self.start, first + len(piece) - column + 1))
        indent = "".join("\t" if c == "\t" else " " for c in before + piece[: column - 1 - first])
        return f"{before}{piece}{after}\n{indent}{'^' * width}"
