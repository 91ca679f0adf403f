"""No text, however broken, brings anything but diagnostics."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssmc.dsl import check, format_text, library_names, load_module, module_from_text
from ssmc.errors import UserError

FUZZ = settings(
    max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
LIBRARY = {name: load_module(name).source.text for name in library_names()}
ERRORS = [path.read_text() for path in sorted((Path(__file__).parent.parent / "errors").glob("*.ssm"))]
TOKENS = (
    "layer fn import from as seq axis require backward when else and or not given carries true false pi inf "
    "f g x y h z t s d n b sum softmax argsort concat where exp clamp d.y d.x #t #d 0 1 2 0.5 2i real int bool "
    'complex enum norms ( ) [ ] , : = + - * / // % ^ < <= > >= == != -> ? | """ ² … #c'
)
WORDS = [*TOKENS.split(), "\n", "\n    ", "\n        ", "\t", "# c\n"]


def survives(text: str) -> None:
    """Check the text, and format it: only UserError may come out."""
    try:
        for diagnostic in check(module_from_text(text)):
            assert diagnostic.render()
    except UserError as error:
        assert error.diagnostics
    try:
        once = format_text(text)
    except UserError:
        return
    assert format_text(once) == once


@FUZZ
@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    survives(text)


@FUZZ
@given(st.lists(st.sampled_from(WORDS), max_size=60))
def test_token_soup(words: list[str]) -> None:
    survives(" ".join(words))


@FUZZ
@given(st.lists(st.sampled_from(WORDS), max_size=25))
def test_token_soup_in_a_body(words: list[str]) -> None:
    survives("layer f(x[b, t, d], z[t]?, *, k: int = 2) -> y[b, t, d]:\n    seq t\n    y = x " + " ".join(words) + "\n")


@FUZZ
@given(st.data())
def test_mutated_programs(data: st.DataObject) -> None:
    short = [text for text in LIBRARY.values() if len(text) < 2500] + ERRORS
    text = data.draw(st.sampled_from(short))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        match data.draw(st.sampled_from(["delete", "double", "swap", "insert"])):
            case "delete":
                text = text[:start] + text[end:]
            case "double":
                text = text[:end] + text[start:end] + text[end:]
            case "swap":
                text = text[:start] + text[start:end][::-1] + text[end:]
            case "insert":
                text = text[:start] + " " + data.draw(st.sampled_from(WORDS)) + " " + text[start:]
    survives(text)
