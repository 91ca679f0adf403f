"""The parser tables of ``grammar.lark``, built once per machine and kept in the cache folder."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from lark import Lark

from .build import Builder

_OPTIONS = {
    "parser": "lalr",
    "lexer": "basic",
    "keep_all_tokens": True,
    "maybe_placeholders": False,
}


def cache_folder() -> Path:
    """Where ssmc keeps what it can rebuild: ``$SSMC_CACHE_DIR``, else the user's cache folder."""
    chosen = os.environ.get("SSMC_CACHE_DIR")
    if chosen:
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_cache_dir("ssmc"))


@cache
def parser() -> Lark:
    """The LALR parser; a cache folder that cannot be used costs time, never an error."""
    text = Path(__file__).with_name("grammar.lark").read_text(encoding="utf-8")
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        return Lark(text, transformer=Builder(), cache=str(folder / "grammar.lark.pickle"), **_OPTIONS)
    except Exception:  # unwritable, unreadable, stale or half-written by another version of lark
        return Lark(text, transformer=Builder(), **_OPTIONS)


@cache
def terminal_names() -> dict[str, str]:
    """Spelling of a keyword or an operator → the name lark gives its terminal."""
    return {t.pattern.value: t.name for t in parser().terminals if t.pattern is not None and t.pattern.type == "str"}
