"""The LALR tables of ``grammar.lark``: built by lark once per machine, then read from the cache folder.

Importing lark takes longer than checking a file does, so only the tables are kept, as plain values,
and the machine that runs them is here: shift, reduce, and going back to a saved state.
"""

from __future__ import annotations

import marshal
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

# For each state and symbol: a state to go to (≥ 0) or ~rule to reduce by.
Actions: TypeAlias = list[dict[str, int]]
# For each rule: what it makes, the method that makes it, and which of its symbols are lists to splice.
Rules: TypeAlias = list[tuple[str, str, tuple[bool, ...]]]
_FORMAT = 2  # of the tables; a new number makes caches anew


@dataclass(frozen=True)
class Tables:
    actions: Actions
    rules: Rules
    start: int
    end: int
    spellings: Mapping[str, str]  # of keywords and operators → the name of the terminal


class Unexpected(Exception):
    """The machine has no action for a token."""


def cache_folder() -> Path:
    """Where ssmc keeps what it can rebuild: ``$SSMC_CACHE_DIR``, else the user's cache folder."""
    chosen = os.environ.get("SSMC_CACHE_DIR")
    if chosen:
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_cache_dir("ssmc"))


@cache
def tables() -> Tables:
    """The tables; a cache folder that cannot be used costs time, never an error."""
    text = Path(__file__).with_name("grammar.lark").read_text(encoding="utf-8")
    key = f"{_FORMAT}-{zlib.crc32(text.encode()):08x}"
    try:
        path = cache_folder() / f"grammar-{key}.tables"
        with path.open("rb") as file:
            return Tables(*marshal.load(file))
    except Exception:  # absent, unreadable, half-written: build them again
        built = _build(text)
    try:
        path = cache_folder() / f"grammar-{key}.tables"
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        beside.write_bytes(marshal.dumps((built.actions, built.rules, built.start, built.end, dict(built.spellings))))
        beside.replace(path)
    except Exception:  # an unwritable cache is no reason to fail
        pass
    return built


def _build(text: str) -> Tables:
    from lark import Lark

    parser = Lark(text, parser="lalr", lexer="basic", keep_all_tokens=True, maybe_placeholders=False)
    table = parser.parser.parser._parse_table
    numbers: dict[Any, int] = {}
    rules: Rules = []
    actions: Actions = [{} for _ in table.states]
    for state, row in table.states.items():
        for symbol, (action, argument) in row.items():
            if str(action) == "Shift":
                actions[state][str(symbol)] = argument
                continue
            if argument not in numbers:
                numbers[argument] = len(rules)
                splice = tuple(s.name.startswith("_") and not s.is_term for s in argument.expansion)
                name = str(argument.origin.name)
                rules.append((name, str(argument.alias or name), splice))
            actions[state][str(symbol)] = ~numbers[argument]
    spellings = {str(t.pattern.value): str(t.name) for t in parser.terminals if getattr(t.pattern, "type", "") == "str"}
    (start,), (end,) = table.start_states.values(), table.end_states.values()
    return Tables(actions, rules, start, end, spellings)


Saved: TypeAlias = tuple[list[int], list[Any]]


class Machine:
    """Runs the tables over a stream of (terminal, value); ``builder`` has a method for each rule."""

    def __init__(self, builder: object) -> None:
        self.tables = tables()
        self.makers = [
            None if origin.startswith("_") and name == origin else getattr(builder, name)
            for origin, name, _ in self.tables.rules
        ]
        self.states = [self.tables.start]
        self.values: list[Any] = []
        self.before = list(self.states)  # as of the last token, before the reductions it caused

    def save(self) -> Saved:
        return list(self.states), list(self.values)

    def restore(self, saved: Saved) -> None:
        self.states[:], self.values[:] = saved

    def feed(self, terminal: str, value: Any) -> None:
        """Take one token; Unexpected if the grammar has no place for it."""
        self.before = list(self.states)
        while True:
            action = self.tables.actions[self.states[-1]].get(terminal)
            if action is None:
                raise Unexpected(terminal)
            if action >= 0:
                self.states.append(action)
                self.values.append(value)
                return
            self._reduce(~action)

    def finish(self) -> Any:
        """The value of the whole text; Unexpected if it is not complete."""
        while self.states[-1] != self.tables.end:
            action = self.tables.actions[self.states[-1]].get("$END")
            if action is None or action >= 0:
                raise Unexpected("$END")
            self._reduce(~action)
        return self.values[-1]

    def _reduce(self, rule: int) -> None:
        origin, _, splice = self.tables.rules[rule]
        children: list[Any] = []
        if splice:
            for spliced, value in zip(splice, self.values[-len(splice) :], strict=True):
                if spliced:
                    children.extend(value)
                else:
                    children.append(value)
            maker = self.makers[rule]
            made = children if maker is None else maker(children)
            del self.states[-len(splice) :], self.values[-len(splice) :]
        else:
            maker = self.makers[rule]
            made = children if maker is None else maker(children)
        self.states.append(self.tables.actions[self.states[-1]][origin])
        self.values.append(made)

    def accepted(self, states: list[int] | None = None) -> set[str]:
        """The terminals that have a place in a state, the current one by default."""
        states = self.states if states is None else states
        row = self.tables.actions[states[-1]]
        return {t for t in row if (t.isupper() or t.startswith(("__ANON", "$"))) and self._takes(t, list(states))}

    def _takes(self, terminal: str, states: list[int]) -> bool:
        while True:
            action = self.tables.actions[states[-1]].get(terminal)
            if action is None or action >= 0:
                return action is not None
            origin, _, splice = self.tables.rules[~action]
            if splice:
                del states[-len(splice) :]
            states.append(self.tables.actions[states[-1]][origin])
            if terminal == "$END" and states[-1] == self.tables.end:
                return True
