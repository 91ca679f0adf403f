"""``.ssm`` text in its settled layout: four spaces a block, one space around operators, 100 columns.

Tokens and comments are kept as they are; only the space between them changes. Line breaks inside
brackets stay where they were put, unless the line fits without them. A list of parameters that ends
with a comma keeps its lines.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ssmc.errors import UserError
from ssmc.source import Source

from .lexer import Token, tokenize
from .parse import parse
from .spacing import render, spaced, token_text

WIDTH = 100
_TAB = "    "


@dataclass
class _Line:
    """A logical line: its tokens, the comments inside and behind it; or one comment alone."""

    level: int
    tokens: list[Token] = field(default_factory=list)
    comments: list[Token] = field(default_factory=list)
    blank_before: bool = False

    @property
    def start(self) -> int:
        return min(t.start for t in (*self.tokens, *self.comments))


def format_text(source: str | Source) -> str:
    """The same program in its settled layout; UserError if it cannot be parsed."""
    if isinstance(source, str):
        source = Source("<text>", source)
    text = source.text.removeprefix("\ufeff").replace("\r\n", "\n")
    source = Source(source.name, text)
    parsed = parse(source)
    if parsed.diagnostics:
        raise UserError(parsed.diagnostics)
    lines = _lines(text)
    written: list[str] = []
    for number, line in enumerate(lines):
        if number and _blank(lines[number - 1], line):
            written.append("")
        written.append(_write(line, text))
    return "\n".join(written) + "\n" if written else ""


# ---------------------------------------------------------------- lines


def _lines(text: str) -> list[_Line]:
    """The logical lines of a text, comments on lines of their own among them."""
    scanned = tokenize(text)
    lines: list[_Line] = []
    level = 0
    current: _Line | None = None
    for token in scanned.tokens:
        match token.kind:
            case "INDENT":
                level += 1
            case "DEDENT":
                level -= 1
            case "NEWLINE":
                current = None
            case _:
                if current is None:
                    current = _Line(level)
                    lines.append(current)
                current.tokens.append(token)
    for comment in scanned.comments:
        _place(comment, lines, text)
    lines.sort(key=lambda line: line.start)
    for line in lines:
        before = text[: line.start].rstrip(" ")
        line.blank_before = before.endswith("\n\n") or before[:-1].rstrip(" ").endswith("\n\n") or _empty_above(before)
    return lines


def _empty_above(before: str) -> bool:
    """Whether the physical line above is empty."""
    rows = before.split("\n")
    return len(rows) > 2 and not rows[-2].strip()


def _place(comment: Token, lines: list[_Line], text: str) -> None:
    """Give a comment to the line it is inside of or behind, or make it a line."""
    code = [line for line in lines if line.tokens]
    for line in code:
        if line.tokens[0].start <= comment.start:
            end = text.find("\n", line.tokens[-1].end)
            if comment.start < (len(text) if end < 0 else end):
                line.comments.append(comment)
                return
    column = comment.start - (text.rfind("\n", 0, comment.start) + 1)
    follows = next((line for line in code if line.tokens[0].start > comment.start), None)
    before = next((line for line in reversed(code) if line.tokens[0].start < comment.start), None)
    level = follows.level if follows is not None else 0
    if before is not None and before.level > level and column > _column(follows, text):
        level = before.level
    lines.append(_Line(level, [], [comment]))


def _column(line: _Line | None, text: str) -> int:
    return 0 if line is None else line.start - (text.rfind("\n", 0, line.start) + 1)


def _blank(before: _Line, line: _Line) -> bool:
    """Whether an empty line stands between two lines: as written, and around definitions."""
    if before.tokens and before.tokens[-1].kind == ":":
        return False  # the head of a block
    if line.level == 0 and line.tokens and line.tokens[0].kind in ("layer", "fn") and before.tokens:
        return True
    if line.level == 0 and before.level > 0:
        return True
    return line.blank_before


# ---------------------------------------------------------------- one line


def _write(line: _Line, text: str) -> str:
    indent = _TAB * line.level
    if not line.tokens:
        return indent + line.comments[0].text.rstrip()
    if line.tokens[0].kind == "DOC":
        return _documented(line, indent, text)
    inner = [c for c in line.comments if c.start < line.tokens[-1].start]
    behind = [c for c in line.comments if c not in inner]
    if inner:
        return _broken_as_written(line, indent, text)
    tail = "".join("  " + c.text.rstrip() for c in behind)
    joined = indent + render(_without_trailing_commas(line.tokens))
    if line.tokens[0].kind in ("layer", "fn") and (_asks_for_lines(line.tokens, text) or len(joined) > WIDTH):
        return _header(line, indent, text) + tail
    if len(joined) <= WIDTH:
        return joined + tail
    if "\n" in text[line.tokens[0].start : line.tokens[-1].end]:
        return _broken_as_written(line, indent, text)
    return _wrapped_call(line.tokens, indent, joined) + tail


def _documented(line: _Line, indent: str, text: str) -> str:
    """Documentation, moved with its block."""
    doc = line.tokens[0]
    column = doc.start - (text.rfind("\n", 0, doc.start) + 1)
    rows = doc.text.split("\n")
    moved = [rows[0].rstrip()]
    for row in rows[1:]:
        bare = row.lstrip(" ")
        depth = max(0, len(row) - len(bare) - column)
        moved.append((indent + " " * depth + bare).rstrip() if bare.strip() else "")
    return indent + "\n".join(moved) + "".join("  " + c.text.rstrip() for c in line.comments)


def _without_trailing_commas(tokens: list[Token]) -> list[Token]:
    """Commas before a closing bracket belong to the layout in lines, not to the one in one line."""
    return [
        t
        for i, t in enumerate(tokens)
        if not (t.kind == "," and i + 1 < len(tokens) and tokens[i + 1].kind in (")", "]"))
    ]


def _asks_for_lines(tokens: list[Token], text: str) -> bool:
    """A header whose parameters end with a comma and stand on lines of their own."""
    close = _closing(tokens)
    if close is None or tokens[close - 1].kind != ",":
        return False
    return "\n" in text[tokens[close - 1].end : tokens[close].start]


def _closing(tokens: list[Token]) -> int | None:
    """The index of the parenthesis that closes the parameters of a header."""
    depth = 0
    for index, token in enumerate(tokens):
        depth += (token.kind in ("(", "[")) - (token.kind in (")", "]"))
        if depth == 0 and token.kind == ")":
            return index
    return None


def _header(line: _Line, indent: str, text: str) -> str:
    """A header with its parameters on lines of their own, broken where the author broke them."""
    tokens = line.tokens
    close = _closing(tokens)
    if close is None:
        return indent + render(tokens)
    texts = spaced(tokens)
    rows: list[str] = []
    row = ""
    for start, end in _parameters(tokens, close):
        piece = "".join(texts[start:end]).strip() + ","
        fresh = tokens[start].kind == "*" or "\n" in text[tokens[start - 1].end : tokens[start].start]
        if row and (fresh or len(indent + _TAB + row + " " + piece) > WIDTH):
            rows.append(row)
            row = piece
        else:
            row = f"{row} {piece}" if row else piece
    if row == "*,":  # nothing behind the star
        row = ""
    rows.append(row)
    first = "".join(texts[:3]) if tokens[2].kind == "(" else render(tokens[: close + 1])
    head = indent + first
    body = "".join(f"\n{indent}{_TAB}{r}" for r in rows if r)
    return f"{head}{body}\n{indent}" + "".join(texts[close:]).strip()


def _parameters(tokens: list[Token], close: int) -> list[tuple[int, int]]:
    """The token ranges of the parameters of a header, without their commas."""
    found: list[tuple[int, int]] = []
    depth = 0
    start = 3
    for index in range(3, close + 1):
        if (tokens[index].kind == "," and depth == 0) or index == close:
            if index > start:
                found.append((start, index))
            start = index + 1
        depth += (tokens[index].kind in ("(", "[")) - (tokens[index].kind in (")", "]"))
    return found


def _broken_as_written(line: _Line, indent: str, text: str) -> str:
    """The author's line breaks, each line spaced anew and indented by the brackets open around it."""
    tokens = sorted((*line.tokens, *line.comments), key=lambda t: t.start)
    texts = dict(zip((t.start for t in line.tokens), spaced(line.tokens), strict=True))
    rows: list[tuple[int, str]] = []
    opened: list[int] = []  # for each open bracket, the row that opened it
    row, depth, end = "", 0, tokens[0].start
    for token in tokens:
        if row and "\n" in text[end : token.start]:
            rows.append((depth, row))
            row = ""
        if not row:
            closing = len(set(opened[:-1])) if token.kind in (")", "]") else len(set(opened))
            depth = closing
        if token.kind == "COMMENT":
            row += ("  " if row else "") + token.text.rstrip()
        else:
            row += texts[token.start] if row else token_text(token)
        if token.kind in ("(", "["):
            opened.append(len(rows))
        elif token.kind in (")", "]") and opened:
            opened.pop()
        end = token.end
    rows.append((depth, row))
    return "\n".join(indent + _TAB * level + content for level, content in rows)


def _wrapped_call(tokens: list[Token], indent: str, joined: str) -> str:
    """A long line that ends with a call, its arguments filled into lines; other lines stay long."""
    if tokens[-1].kind != ")":
        return joined
    depth, start = 0, len(tokens) - 1
    for index in range(len(tokens) - 1, -1, -1):
        depth += (tokens[index].kind in (")", "]")) - (tokens[index].kind in ("(", "["))
        if depth == 0:
            start = index
            break
    texts = spaced(_without_trailing_commas(tokens))
    end = len(texts) - 1
    pieces: list[str] = []
    piece, depth = "", 0
    for token, part in zip(tokens[start + 1 : -1], texts[start + 1 : end], strict=False):
        depth += (token.kind in ("(", "[")) - (token.kind in (")", "]"))
        piece += part
        if token.kind == "," and depth == 0:
            pieces.append(piece.strip())
            piece = ""
    pieces.append(piece.strip())
    if len(pieces) < 2:
        return joined
    rows = [""]
    for piece in pieces:
        if rows[-1] and len(indent + _TAB + rows[-1] + " " + piece) > WIDTH:
            rows.append(piece)
        else:
            rows[-1] = f"{rows[-1]} {piece}".strip()
    inner = "".join(f"\n{indent}{_TAB}{row}" for row in rows)
    return f"{indent}{''.join(texts[: start + 1])}{inner}\n{indent})"
