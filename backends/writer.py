"""Indented text, and safe names for it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager


class Writer:
    """Collects lines at the present indentation."""

    def __init__(self, indent: str = "    ") -> None:
        self.lines: list[str] = []
        self._indent = indent
        self._depth = 0

    def line(self, text: str = "") -> None:
        self.lines.append(self._indent * self._depth + text if text and not text.startswith("#") else text)

    @contextmanager
    def block(self, head: str = "", end: str = "}") -> Iterator[None]:
        """``head {`` … ``}``."""
        self.line(f"{head} {{".lstrip())
        self._depth += 1
        yield
        self._depth -= 1
        self.line(end)

    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


class Names:
    """Identifiers of the emitted language for names of a ``.ssm`` file.

    Every identifier is a prefix of ours, then the ASCII letters, digits and underscores of the name,
    then a number where two names would meet; nothing else of a file's text reaches emitted code.
    """

    def __init__(self) -> None:
        self._given: dict[tuple[str, str], str] = {}
        self._taken: set[str] = set()

    def get(self, prefix: str, name: str) -> str:
        key = (prefix, name)
        if key not in self._given:
            plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
            base = f"{prefix}_{re.sub(r'[^A-Za-z0-9]+', '_', plain).strip('_')}"[:60]
            chosen, count = base, 1
            while chosen in self._taken:
                count += 1
                chosen = f"{base}_{count}"
            self._taken.add(chosen)
            self._given[key] = chosen
        return self._given[key]
