"""Where spaces stand between the tokens of one line of ``.ssm``."""

from __future__ import annotations

from .lexer import KEYWORDS, Token

_OPENING = frozenset(("(", "["))
_CLOSING = frozenset((")", "]"))
_ATOMS = frozenset(("NAME", "NUMBER", "SIZE", "true", "false", "pi", "inf"))
# After these a `-` is a sign and a bracket opens a group.
_BEFORE_OPERAND = frozenset(
    ("(", "[", ",", "=", ":", "|", "->", "+", "-", "*", "/", "//", "%", "^", "<", "<=", ">", ">=", "==", "!=")
) | (KEYWORDS - {"true", "false", "pi", "inf", "given", "carries"})


def render(tokens: list[Token]) -> str:
    """The tokens of one line, spaced."""
    return "".join(spaced(tokens))


def spaced(tokens: list[Token]) -> list[str]:
    """The text of each token with the space that stands before it."""
    spaces = _Spacing(tokens)
    return [(" " if i and spaces.before(i) else "") + token_text(t) for i, t in enumerate(tokens)]


def token_text(token: Token) -> str:
    return f"#{token.text}" if token.kind == "SIZE" else token.text


class _Spacing:
    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.partner: dict[int, int] = {}
        self.around: list[int | None] = []  # the bracket that each token stands in
        self._match()
        self.header = bool(tokens) and tokens[0].kind in ("layer", "fn")
        self.tight = [False] * len(tokens)
        for start, end in self.partner.items():
            if tokens[start].kind == "[" and self._is_index(start, end):
                self._tighten(start, end)

    def _match(self) -> None:
        stack: list[int] = []
        for index, token in enumerate(self.tokens):
            if token.kind in _CLOSING and stack:
                self.partner[stack.pop()] = index
            self.around.append(stack[-1] if stack else None)
            if token.kind in _OPENING:
                stack.append(index)

    def _is_index(self, start: int, end: int) -> bool:
        """Whether ``[…]`` indexes a value: it follows one, and no reduced value follows it."""
        follows = self.tokens[end + 1].kind if end + 1 < len(self.tokens) else ""
        return start > 0 and self._ends_value(start - 1) and follows != "("

    def _ends_value(self, index: int) -> bool:
        token = self.tokens[index]
        return token.kind in _CLOSING or token.kind in _ATOMS

    def _tighten(self, start: int, end: int) -> None:
        """``t-1``, ``v[t=s]``, ``l=t-s``, ``t<0``: short items are written without spaces."""
        item: list[int] = []
        for index in range(start + 1, end + 1):
            if index == end or (self.tokens[index].kind == "," and self.around[index] == start):
                if self._short([self.tokens[i] for i in item]):
                    for i in item:
                        self.tight[i] = True
                item = []
            else:
                item.append(index)

    def _short(self, item: list[Token]) -> bool:
        kinds = ["ATOM" if t.kind in _ATOMS else t.kind for t in item]
        if kinds[:2] == ["ATOM", "="]:
            kinds = kinds[2:]
            if len(kinds) > 1 and any(t.kind == "SIZE" for t in item):
                return False
        elif kinds == ["ATOM", "<", "ATOM"] and item[2].text == "0":
            return True
        return kinds in (["ATOM"], ["-", "ATOM"], ["ATOM", "+", "ATOM"], ["ATOM", "-", "ATOM"])

    def before(self, index: int) -> bool:
        """Whether a space stands before token ``index``."""
        tokens = self.tokens
        last, token = tokens[index - 1], tokens[index]
        if last.kind in _OPENING or token.kind in (*_CLOSING, ",", "?") or self._is_type_colon(token):
            return False
        if last.kind == ",":
            return True
        if token.kind == "=" or last.kind == "=":
            return self._spaced_equals(index if token.kind == "=" else index - 1)
        if self._is_sign(index - 1):
            return False
        if token.kind in _OPENING:
            return not self._attaches(index)
        return not (self.tight[index] and self.tight[index - 1])

    def _is_type_colon(self, token: Token) -> bool:
        return token.kind in (":", "LAST_COLON")

    def _spaced_equals(self, index: int) -> bool:
        around = self.around[index]
        if around is None or (self.header and self.tokens[around].kind == "(" and self.around[around] is None):
            return True
        return self.tokens[around].kind == "[" and not self.tight[index]

    def _is_sign(self, index: int) -> bool:
        if self.tokens[index].kind != "-":
            return False
        return index == 0 or self.tokens[index - 1].kind in _BEFORE_OPERAND

    def _attaches(self, index: int) -> bool:
        """Whether a bracket belongs to what stands before it: a call, an index, a signature."""
        last = self.tokens[index - 1]
        if last.kind in ("given", "carries"):
            return True
        if not (last.kind == "NAME" or last.kind in _CLOSING or last.kind in _ATOMS):
            return False
        typed = self.header and self.tokens[index].kind == "[" and self.tokens[index - 2].kind == ":"
        return not typed  # `B: complex [d, n]`
