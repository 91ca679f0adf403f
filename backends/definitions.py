"""Headers of small functions, from which a text gets those that it calls.

Definitions stand between blank lines, each with the comment above it; none has a blank line inside. Larger
definitions come after those they use. Where two headers define the same, the first one counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files


@dataclass(frozen=True)
class Definition:
    """One definition of the headers: its (first) name, its text with the comment above it, what it mentions."""

    name: str
    text: str
    needs: frozenset[str]


@dataclass(frozen=True)
class Definitions:
    """The definitions of some headers. A text of them begins with ``start``, which has definitions of its own: the
    headers' are left out for them."""

    headers: tuple[str, ...]
    start: str

    def text(self, functions: Iterable[str], real: str = "float") -> str:
        """The definitions of these functions (with or without ``ssmc_``) and of all they need, in order; vectors
        are of the C type ``real``.

        Raises KeyError for a function that is not there.
        """
        own = self._own
        wanted: set[str] = set()
        stack = [name if name.lower().startswith("ssmc_") else f"ssmc_{name}" for name in functions]
        while stack:
            name = stack.pop()
            if name not in wanted and name not in own:
                wanted.add(self.table[name].name)
                stack.extend(self.table[name].needs - wanted)
        texts = dict.fromkeys(definition.text for definition in self.table.values() if definition.name in wanted)
        return re.sub(r"\bREAL\b", real, "\n\n".join([self.start, *texts])) + "\n"

    @cached_property
    def _own(self) -> frozenset[str]:
        return frozenset(_defined(self.start))

    @cached_property
    def table(self) -> Mapping[str, Definition]:
        """Every definition of the headers by name, in the order in which they must stand."""
        blocks: list[tuple[list[str], str]] = []
        known = set(self._own)
        for header in self.headers:
            for block in re.split(r"\n{2,}", read(header).strip()):
                names = _defined(block)
                if names and names[0] not in known:
                    blocks.append((names, block))
            known |= {name for names, _ in blocks for name in names}
        home = {name: names[0] for names, _ in blocks for name in names}
        table = {}
        for names, block in blocks:
            mentioned = set(re.findall(r"\b(?:ssmc_\w+|SSMC_\w+)", _without_comments(block)))
            needs = {home[name] for name in mentioned if name in home} - {names[0]}
            for name in names:
                table[name] = Definition(names[0], block, frozenset(needs))
        return table


def read(header: str) -> str:
    """The text of a header of this package."""
    return files(__package__).joinpath(header).read_text(encoding="utf-8")


def _defined(block: str) -> list[str]:
    """The names that a block defines; none if it is only a comment."""
    code = _without_comments(block)
    patterns = (
        r"^#define (\w+)",
        r"^def (\w+)\(",
        r"^SSMC_INLINE .*?(\w+)\(",
        r"^static const \w+ (\w+)\[",
        r"^struct (\w+) \{",
        r"^typedef .*?(\w+) __attribute__",
    )
    return list(dict.fromkeys(name for pattern in patterns for name in re.findall(pattern, code, re.MULTILINE)))


def _without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
