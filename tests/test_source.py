"""What a diagnostic shows of the text it is about."""

from __future__ import annotations

from ssmc.source import Source, Span


def shown(text: str, start: int, end: int) -> tuple[str, str]:
    line, caret = Span(Source("a.ssm", text), start, end).context().split("\n")
    return line, caret


def test_a_short_line_is_shown_whole() -> None:
    assert shown("layer\n\ty = xx\n", 11, 13) == ("\ty = xx", "\t    ^^")


def test_a_span_past_the_end_of_a_line_has_one_caret() -> None:
    assert shown("y = ", 4, 4) == ("y = ", "    ^")


def test_of_a_long_line_the_part_around_the_span_is_shown() -> None:
    for start in (0, 50, 500, 5000, 9996):
        line, caret = shown("x" * start + "here" + "x" * (9996 - start), start, start + 4)
        assert len(line) <= 204 and caret.count("^") == 4
        place = caret.index("^")
        assert line[place : place + 4] == "here"
        assert line.startswith("… ") == (start > 100) and line.endswith(" …") == (start < 9000)


def test_a_span_over_a_long_line_ends_with_what_is_shown() -> None:
    line, caret = shown("x" * 5000, 0, 5000)
    assert len(caret) == 200 and line == "x" * 200 + " …"


def test_control_characters_never_reach_the_terminal() -> None:
    assert shown("a\x1b[31m\x00 = b\r", 0, 1) == ("a\ufffd[31m\ufffd = b\ufffd", "^")
