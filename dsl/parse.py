"""Text → ast, going on after an error with the next statement so that one run reports them all."""

from __future__ import annotations

from dataclasses import dataclass

from ssmc.errors import Diagnostic
from ssmc.source import Source, Span

from . import ast
from .build import BadLiteral, Builder, TooDeep, Word
from .grammar import Machine, Saved, Unexpected, tables
from .lexer import NESTING, Token, tokenize
from .syntax import explain

LIMIT = 20  # errors reported at once


@dataclass(frozen=True)
class Parsed:
    """The part of a text that could be read, and what is wrong with the rest."""

    file: ast.File
    diagnostics: tuple[Diagnostic, ...]


def parse(source: Source) -> Parsed:
    """The ast of a text; statements that cannot be read become ``Broken``."""
    scanned = tokenize(source.text)
    if scanned.too_deep is not None:
        empty = ast.File("", (), (), ())
        return Parsed(empty, (too_deep(Span(source, scanned.too_deep, scanned.too_deep + 1)),))
    return _Reader(source, _mark_last_colons(scanned.tokens)).read()


def too_deep(span: Span) -> Diagnostic:
    """The error for what nests (brackets, operators) beyond the limit."""
    message = f"this nests more than {NESTING} levels deep"
    return Diagnostic(message, span, hint="give a part of it a name, in an equation of its own")


def _mark_last_colons(tokens: list[Token]) -> list[Token]:
    """A colon at the end of a line opens a block; it is a token of its own, so that one token of
    look-ahead tells it from the colon of a type."""
    result = list(tokens)
    for index in range(len(tokens) - 1):
        if tokens[index].kind == ":" and tokens[index + 1].kind == "NEWLINE":
            result[index] = tokens[index]._replace(kind="LAST_COLON")
    return result


class _Reader:
    """Feeds tokens to the LALR machine and rewinds it to the start of the statement at an error."""

    def __init__(self, source: Source, tokens: list[Token]) -> None:
        self.source = source
        self.tokens = tokens
        self.names = tables().spellings
        self.machine = Machine(Builder())
        self.diagnostics: list[Diagnostic] = []

    def read(self) -> Parsed:
        at = 0
        fresh = True
        saved = self.machine.save()
        start = 0
        while at < len(self.tokens):
            token = self.tokens[at]
            if fresh:
                saved, start = self.machine.save(), at
            try:
                self._feed(token)
            except (Unexpected, TooDeep, BadLiteral) as error:
                self._report(error, token, at)
                if len(self.diagnostics) >= LIMIT:
                    return Parsed(ast.File("", (), (), ()), tuple(self.diagnostics))
                at = self._recover(saved, start, at)
                fresh = True
                continue
            fresh = token.kind in ("NEWLINE", "INDENT", "DEDENT")
            at += 1
        return self._finish()

    def _finish(self) -> Parsed:
        end = len(self.source.text)
        try:
            file: ast.File = self.machine.finish()
        except Unexpected:
            hint = "a definition ends with an indented body"
            self.diagnostics.append(Diagnostic("the text ends too early", Span(self.source, end, end), hint=hint))
            file = ast.File("", (), (), ())
        return Parsed(file, tuple(self.diagnostics))

    def _feed(self, token: Token) -> None:
        word = Word(token.text)
        word.type = self.names.get(token.kind, token.kind)
        word.span = Span(self.source, token.start, token.end)
        self.machine.feed(word.type, word)

    # ------------------------------------------------------------ errors

    def _report(self, error: Exception, token: Token, at: int) -> None:
        if isinstance(error, TooDeep):
            self.diagnostics.append(too_deep(error.span))
        elif isinstance(error, BadLiteral):
            self.diagnostics.append(error.diagnostic)
        else:
            accepted = self.machine.accepted(self.machine.before)
            self.diagnostics.append(explain(self.source, self.tokens, at, accepted))

    def _recover(self, saved: Saved, start: int, at: int) -> int:
        """Put ``BROKEN`` in place of the statement that began at ``start``; the index to go on from."""
        self.machine.restore(saved)
        token = self.tokens[start]
        accepted = self.machine.accepted()
        if accepted == {"INDENT"}:  # a header without a block: give it one, then read on
            for kind in ("INDENT", "BROKEN", "NEWLINE", "DEDENT"):
                self._feed(token._replace(kind=kind, text=""))
            return start
        after = self._skip(start, at)
        if "BROKEN" in accepted:
            self._feed(token._replace(kind="BROKEN", text=self._defined_name(start)))
            self._feed(token._replace(kind="NEWLINE", text=""))
        return after

    def _skip(self, start: int, at: int) -> int:
        """The index behind the logical line of ``at`` and behind the block that hangs below it."""
        end = start
        depth = 0
        while end < len(self.tokens):
            kind = self.tokens[end].kind
            if kind == "DEDENT" and depth == 0 and end >= at:
                return end if end > start else end + 1
            depth += (kind == "INDENT") - (kind == "DEDENT")
            end += 1
            if end <= at or depth > 0:
                continue
            follows = self.tokens[end].kind if end < len(self.tokens) else ""
            if kind in ("NEWLINE", "DEDENT") and follows != "INDENT":
                break
        return end

    def _defined_name(self, start: int) -> str:
        """The name that the broken statement at ``start`` would have defined, as far as one can see."""
        names = [t for t in self.tokens[start : start + 2] if t.kind in ("NAME", "layer", "fn")]
        if not names:
            return ""
        if names[0].kind == "NAME":
            return names[0].text
        return names[1].text if len(names) > 1 and names[1].kind == "NAME" else ""
