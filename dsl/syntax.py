"""Syntax errors in human words: what was found, what was expected, one thing to try."""

from __future__ import annotations

from ssmc.errors import Diagnostic
from ssmc.source import Source, Span

from .grammar import tables
from .lexer import KEYWORDS, Token

_COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")
_SHOWN = {
    "NAME": "a name", "NEWLINE": "the end of the line", "INDENT": "an indented block",
    "LAST_COLON": "`:`", "SIZE": "an extent `#axis`", "NUMBER": "a number", "DOC": "documentation",
}  # fmt: skip


def explain(source: Source, tokens: list[Token], at: int, accepted: set[str]) -> Diagnostic:
    """The error at ``tokens[at]``, where the parser would have accepted the terminals ``accepted``."""
    token = tokens[at]
    bad = _bad_token(tokens, at)
    if bad is not None:
        return Diagnostic(bad.message, Span(source, bad.start, bad.end), "", bad.hint)
    span = Span(source, token.start, max(token.end, token.start))
    spelled = {name: text for text, name in tables().spellings.items()}
    expected = _expected(accepted, spelled)
    return Diagnostic(_found(token), span, expected, _hint(source, tokens, at, accepted, spelled))


def _bad_token(tokens: list[Token], at: int) -> Token | None:
    """The unreadable token to blame: this one, or an unclosed bracket earlier on this line."""
    return tokens[at] if tokens[at].kind == "BAD" else None


def _found(token: Token) -> str:
    match token.kind:
        case "NEWLINE":
            return "the line ends too early"
        case "INDENT":
            return "an indented line where no block begins"
        case "DEDENT":
            return "the block ends too early"
        case "SIZE":
            return f"unexpected `#{token.text}`"
        case "DOC":
            return "documentation in the wrong place"
        case "LAST_COLON":
            return "unexpected `:`"
    return f"unexpected `{token.text}`"


def _expected(accepted: set[str], spelled: dict[str, str]) -> str:
    """The accepted terminals in a few words: whole groups first."""
    kinds = {spelled.get(name, name) for name in accepted} - {"BROKEN", "$END"}
    words: list[str] = []
    if {"NUMBER", "NAME", "("} <= kinds:
        words.append("an expression")
        kinds -= {"NUMBER", "NAME", "(", "SIZE", "true", "false", "pi", "inf", "given", "carries", "-", "not"}
    if {"seq", "axis", "require"} <= kinds:
        words.append("a statement")
        kinds -= {"seq", "axis", "require", "backward", "NAME", "DEDENT", "DOC"}
    if {"layer", "fn"} <= kinds:
        words.append("a layer, an `fn` or an import")
        kinds -= {"layer", "fn", "from", "DOC"}
    if {"+", "*"} <= kinds:
        words.append("an operator")
        kinds -= {"+", "-", "*", "/", "//", "%", "^", "and", "or", "when", "[", "(", *_COMPARISONS}
    words.extend(_SHOWN.get(kind) or f"`{kind}`" for kind in sorted(kinds - {"DEDENT"}))
    if len(words) < 2:
        return "".join(words)
    return ", ".join(words[:-1]) + " or " + words[-1]


def _hint(source: Source, tokens: list[Token], at: int, accepted: set[str], spelled: dict[str, str]) -> str:
    token = tokens[at]
    before = tokens[at - 1] if at else None
    kinds = {spelled.get(name, name) for name in accepted}
    if token.kind == "SIZE":
        return f"a comment needs a space: `# {token.text}`"
    if token.kind in _COMPARISONS and "+" in kinds:
        return "comparisons do not chain: write `a < b and b < c`"
    if token.kind in KEYWORDS and "NAME" in kinds:
        return f"`{token.kind}` is a keyword; choose another name"
    if token.kind == "INDENT":
        return "align the line with its block; only `layer`, `fn` and `backward` open blocks, with `:`"
    if kinds == {"INDENT"}:
        return "indent the body"
    if token.kind == "NEWLINE":
        return _hint_at_line_end(kinds)
    values = ("NAME", "NUMBER", "SIZE")
    if before is not None and before.kind in values and token.kind in values and "*" in kinds:
        return f"a product needs its sign: `{before.text} * {token.text}`"
    if token.kind == "NAME" and before is not None and before.kind in ("NEWLINE", "INDENT", "DEDENT"):
        return "equations stand in the indented body of a layer" if "layer" in kinds else "one statement per line"
    if token.kind == "=" and "==" in kinds:
        return "equality is `==`; `=` defines a name at the start of a line"
    if token.kind == "else" or (token.kind == "when"):
        return "a static choice is `a when condition else b`; inside operators put it in brackets"
    if token.kind == "DOC":
        return "documentation stands first in a file, a layer or an `fn`"
    return _hint_for_statement(tokens, at, kinds)


def _hint_at_line_end(kinds: set[str]) -> str:
    if "LAST_COLON" in kinds:
        return "end the line with `:` and indent the body"
    if "else" in kinds:
        return "a static choice needs its other side: `a when condition else b`"
    if "->" in kinds:
        return "state the outputs: `-> y[b, t, d]:`"
    if "=" in kinds:
        return "an equation is `name = expression`"
    return "finish the expression; inside brackets it may go on over several lines"


def _hint_for_statement(tokens: list[Token], at: int, kinds: set[str]) -> str:
    """Hints for words of other languages at the start of a statement."""
    first = at
    while first > 0 and tokens[first - 1].kind not in ("NEWLINE", "INDENT", "DEDENT"):
        first -= 1
    word = tokens[first].text
    if word in ("return", "let", "var", "const"):
        return "drop the word: an output is defined by an equation of its name"
    if word in ("def", "func", "function", "class"):
        return "a layer begins with `layer`, an elementwise function with `fn`"
    if word in ("if", "for", "while"):
        return "there are no statements for control: use `where(c, a, b)`, `a when s else b`, or a reduction"
    if "=" in kinds:
        return "an equation is `name = expression`"
    if "->" in kinds:
        return "state the outputs: `-> y[b, t, d]:`"
    if "LAST_COLON" in kinds:
        return "end the line with `:` and indent the body"
    if "layer" in kinds:
        return "equations stand in the indented body of a layer"
    if {"NUMBER", "("} <= kinds:
        return f"a value is missing before `{tokens[at].text}`"
    return "check the line up to this place"
