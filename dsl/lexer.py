"""Text → tokens, with line ends, indents and dedents as tokens of their own.

The lexer never fails: what it cannot read becomes a ``BAD`` token that carries its message, so that
the parser meets it in place and goes on with the next statement. Comments are kept aside for the
formatter.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from typing import NamedTuple

_KEYWORDS = "layer fn import from as seq axis require backward when else and or not given carries true false pi inf"
KEYWORDS = frozenset(_KEYWORDS.split())
NESTING = 200

_LETTER = r"[^\W\d]"
_NAME = rf"{_LETTER}[\w\u0300-\u036f]*"
_PATTERN = re.compile(
    rf"""
    (?P<space>[ ]+)
  | (?P<newline>\n)
  | (?P<size>\#{_NAME}(?:\.{_NAME})*)
  | (?P<comment>\#[^\n]*)
  | (?P<string>\"\"\"(?:[^"]|"(?!""))*\"\"\")
  | (?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?i?(?![\w.]))
  | (?P<name>{_NAME}(?:\.{_NAME})*)
  | (?P<op>->|//|<=|>=|==|!=|(?<!\*)\*(?!\*)|[-+/%^<>=()\[\],:?|])
  | (?P<bad>\"\"\"|[0-9]+[\w.]*|\.[0-9]+|\*\*|&&|\|\||:=|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_CLOSES = {")": "(", "]": "["}
_RESYNC = frozenset(("layer", "fn", "from"))
# What people write instead, and what it is called here.
_SPELLINGS = {
    "**": "`^` is the power: `x^2`", "&&": "write `and`", "&": "write `and`", "||": "write `or`",
    "!": "write `not`", "~": "write `not`", "@": "a product with a sum is `sum[k](A * x)`",
    "{": "blocks are indented, brackets are `[ ]`", "}": "blocks are indented, brackets are `[ ]`",
    ";": "one statement per line", "\\": "inside brackets line ends do not matter", "−": "write `-`",
    "–": "write `-`", "×": "write `*`", "·": "write `*`", "÷": "write `/`", "≤": "write `<=`",
    "≥": "write `>=`", "≠": "write `!=`", "≔": "write `=`", ":=": "write `=`", "∑": "write `sum[n](…)`",
    "∏": "write `prod[n](…)`", "√": "write `sqrt(…)`", "∞": "write `inf`", "→": "write `->`",
    "'": "only documentation is quoted, in three double quotes", "…": "write the items out",
    '"': "only documentation is quoted, in three double quotes",
    ".": "a name does not begin with a dot; imports stay below this file's folder",
}  # fmt: skip


class Token(NamedTuple):
    """``kind`` is the text itself for keywords and operators, else one of NAME, NUMBER, SIZE, DOC,
    NEWLINE, INDENT, DEDENT, BAD; a BAD token says in ``message`` and ``hint`` what is wrong."""

    kind: str
    text: str
    start: int
    end: int
    message: str = ""
    hint: str = ""


@dataclass
class Tokens:
    """The tokens of a text, its comments, and where brackets nest too deeply (or None)."""

    tokens: list[Token]
    comments: list[Token] = field(default_factory=list)
    too_deep: int | None = None


def tokenize(text: str) -> Tokens:
    """Every token of ``text``, laid out in lines and blocks."""
    raw: list[Token] = []
    comments: list[Token] = []
    for match in _PATTERN.finditer(text):
        kind = match.lastgroup
        if kind == "space":
            continue
        if kind == "comment":
            comments.append(Token("COMMENT", match.group(), match.start(), match.end()))
            continue
        raw.append(_token(kind or "bad", match.group(), match.start(), match.end(), text))
        if raw[-1].message.startswith("this text is never closed"):
            break
    raw, too_deep = _match_brackets(raw, text)
    return Tokens(_lay_out(raw, text), comments, too_deep)


def _token(kind: str, word: str, start: int, end: int, text: str) -> Token:
    if kind == "name":
        name = unicodedata.normalize("NFC", word)
        if name in KEYWORDS:
            return Token(name, name, start, end)
        return _bad_name(name, start, end) or Token("NAME", name, start, end)
    if kind == "size":
        name = unicodedata.normalize("NFC", word[1:])
        return _bad_name(name, start, end) or Token("SIZE", name, start, end)
    if kind == "op":
        return Token(word, word, start, end)
    if kind == "bad":
        return _bad(word, start, end, text)
    return Token({"newline": "NEWLINE", "string": "DOC", "number": "NUMBER"}[kind], word, start, end)


def _bad_name(name: str, start: int, end: int) -> Token | None:
    """A word that only looks like a name (``x²``), as a BAD token."""
    if all(part.isidentifier() for part in name.split(".")):
        return None
    hint = "powers are written `x^2`" if any(c in name for c in "²³¹⁴") else "use letters, digits and `_`"
    return Token("BAD", name, start, end, f"`{name}` is not a name", hint)


def _bad(word: str, start: int, end: int, text: str) -> Token:
    if word == '"""':
        message, hint = "this text is never closed", 'end it with `"""`'
        end = start + 3
    elif word == "\t":
        message, hint = "a tab", "indent with spaces"
    elif word[0].isdigit() or (word[0] == "." and len(word) > 1):
        message = f"`{word}` is neither a number nor a name"
        hint = _number_hint(word)
    elif not word.isprintable():
        message, hint = f"character U+{ord(word[0]):04X}", "remove it"
    else:
        message, hint = f"`{word}` means nothing here", _SPELLINGS.get(word, "remove it")
    return Token("BAD", word, start, end, message, hint)


def _number_hint(word: str) -> str:
    if word.startswith("."):
        return f"write `0{word}`"
    if word.endswith(".") and word[:-1].isdigit():
        return f"write `{word}0`"
    digits = re.match(r"[0-9]+(?:\.[0-9]+)?", word)
    rest = word[digits.end() :] if digits else ""
    return f"write `{word[: len(word) - len(rest)]} * {rest}`" if rest.isidentifier() else "write `1.5` or `2e-3`"


# ---------------------------------------------------------------- layout


def _match_brackets(raw: list[Token], text: str) -> tuple[list[Token], int | None]:
    """Turn brackets without a partner into BAD tokens, so that an open one does not eat the file."""
    result = list(raw)
    stack: list[int] = []
    too_deep: int | None = None

    def unclosed(index: int) -> None:
        token = result[index]
        partner = {"(": ")", "[": "]"}[token.text]
        message = f"`{token.text}` is never closed"
        result[index] = token._replace(kind="BAD", message=message, hint=f"close it with `{partner}`")

    for index, token in enumerate(raw):
        if token.kind in ("(", "["):
            stack.append(index)
            if len(stack) > NESTING and too_deep is None:
                too_deep = token.start
        elif token.kind in _CLOSES:
            while stack and raw[stack[-1]].kind != _CLOSES[token.kind]:
                if not any(raw[i].kind == _CLOSES[token.kind] for i in stack):
                    break
                unclosed(stack.pop())
            if stack and raw[stack[-1]].kind == _CLOSES[token.kind]:
                stack.pop()
            else:
                result[index] = token._replace(
                    kind="BAD", message=f"`{token.text}` closes nothing", hint="remove it, or open a bracket before it"
                )
        elif token.kind in _RESYNC and (token.start == 0 or text[token.start - 1] == "\n"):
            while stack:
                unclosed(stack.pop())
    while stack:
        unclosed(stack.pop())
    return result, too_deep


def _lay_out(raw: list[Token], text: str) -> list[Token]:
    """Drop line ends inside brackets and on empty lines; add INDENT and DEDENT."""
    result: list[Token] = []
    indents = [0]
    depth = 0
    fresh = True  # at the start of a logical line
    for token in raw:
        if token.kind == "NEWLINE":
            if depth == 0 and not fresh:
                result.append(token)
                fresh = True
            continue
        if fresh:
            _indent(token, indents, result, text)
            fresh = False
        depth += (token.kind in ("(", "[")) - (token.kind in _CLOSES)
        if token.kind == "NEWLINE":
            continue
        result.append(token)
    end = len(text)
    if not fresh:
        result.append(Token("NEWLINE", "", end, end))
    result.extend(Token("DEDENT", "", end, end) for _ in indents[1:])
    return result


def _indent(token: Token, indents: list[int], result: list[Token], text: str) -> None:
    """Emit the INDENT or DEDENTs that the first token of a line calls for."""
    start = text.rfind("\n", 0, token.start) + 1
    column = len(text[start : token.start].expandtabs(8))
    if token.kind == "BAD" and token.text == "\t":
        column = indents[-1]  # the tab itself is the error; take the line to be where it was
    if column > indents[-1]:
        indents.append(column)
        result.append(Token("INDENT", "", token.start, token.start))
        return
    while len(indents) > 1 and column <= indents[-2]:
        indents.pop()
        result.append(Token("DEDENT", "", token.start, token.start))
    if column != indents[-1]:
        message = "this line is indented like no block before it"
        result.append(Token("BAD", "", token.start, token.start + 1, message, "align it with its block"))
