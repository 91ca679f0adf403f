"""The texts that a layer consists of, found without parsing: what its name and its cache keys are made of.

Imports are looked for by pattern. A line of prose that looks like one makes the list longer than it need
be, never shorter: a text that is not listed would be a layer that changes unnoticed.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import ssmc.dsl

LIBRARY = Path(ssmc.dsl.__file__).with_name("library")
_IMPORT = re.compile(r"\bfrom\b[^\S\n]+([^\s#]+)[^\S\n]+import\b")


def texts_of_path(path: Path) -> list[tuple[str, str]] | None:
    """(name, text) of a file and all that it imports, itself first; None if it cannot be read as UTF-8."""
    try:
        real = path.resolve()
        text = real.read_text(encoding="utf-8")
    except (OSError, ValueError, RuntimeError):
        return None
    return texts_of(text, real.stem, real.parent, {real})


def texts_of(text: str, name: str, folder: Path | None, seen: set[Path] | None = None) -> list[tuple[str, str]]:
    """(name, text) of a text and all that it imports from ``folder`` and the library, itself first."""
    found = [(name, text)]
    seen = set() if seen is None else seen
    for module in _IMPORT.findall(text):
        parts = unicodedata.normalize("NFC", module).split(".")
        for root in (folder, LIBRARY):
            other = None if root is None else root.joinpath(*parts).with_suffix(".ssm")
            if other is None or not other.is_file():
                continue
            real = other.resolve()
            if real not in seen:
                seen.add(real)
                inner = real.read_text(encoding="utf-8", errors="surrogateescape")
                found += texts_of(inner, module, real.parent, seen)
            break
    return found


def library_path(name: str) -> Path | None:
    """The file of a library module, if there is one of that name."""
    path = LIBRARY.joinpath(*name.split(".")).with_suffix(".ssm") if name.replace(".", "").isidentifier() else None
    return path if path is not None and path.is_file() else None
