"""The formatter: settled, idempotent, and without changing what is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssmc.dsl import format_text, library_names, load_module
from ssmc.dsl.lexer import tokenize
from ssmc.dsl.parse import parse
from ssmc.errors import UserError
from ssmc.source import Source

TEXTS = {name: load_module(name).source.text for name in library_names()}
TEXTS.update((path.stem, path.read_text()) for path in (Path(__file__).parent.parent / "errors").glob("*.ssm"))
READABLE = [pytest.param(t, id=n) for n, t in sorted(TEXTS.items()) if not parse(Source(n, t)).diagnostics]


@pytest.mark.parametrize("text", READABLE)
def test_formatting_is_idempotent_and_changes_no_meaning(text: str) -> None:
    once = format_text(text)
    assert format_text(once) == once
    assert parse(Source("", once)).file == parse(Source("", text)).file
    assert [c.text.strip() for c in tokenize(once).comments] == [c.text.strip() for c in tokenize(text).comments]


@pytest.mark.parametrize("text", READABLE)
def test_any_layout_of_spaces_is_settled(text: str) -> None:
    """Spaces doubled after every token that is followed by one."""
    rows = [row if '"""' in row or "#" in row else row.rstrip() for row in text.split("\n")]
    loose = "\n".join(
        row[: len(row) - len(row.lstrip())] + row.lstrip().replace(" ", "  ")
        if '"' not in row and "# " not in row
        else row
        for row in rows
    )
    if '"""' not in text:
        assert format_text(loose) == format_text(text)


def formatted(body: str) -> str:
    text = format_text(f"layer f(x[t]) -> y[t]:\n    {body}\n")
    return text.split("\n", 1)[1].strip()


@pytest.mark.parametrize(
    "written, settled",
    [
        ("y=a*b+c", "y = a * b + c"),
        ("y = h[ t - 1 ]", "y = h[t-1]"),
        ("y = v[ t = s ]", "y = v[t=s]"),
        ("y = K[l = t-s]", "y = K[l=t-s]"),
        ("y = u[c=h*#p+p]", "y = u[c = h * #p + p]"),
        ("y = h0[k=#k+t]", "y = h0[k = #k + t]"),
        ("h[t < 0] = h0", "h[t<0] = h0"),
        ("g[t>=#t] = 0", "g[t >= #t] = 0"),
        ("w[m<2*#n] = 1", "w[m < 2 * #n] = 1"),
        ("y = sum [s:s<=t and t-s<W] (p*v[t=s])", "y = sum[s: s <= t and t - s < W](p * v[t=s])"),
        ("y = - x ^ - 2", "y = -x ^ -2"),
        ("y = a when given( z ) else - b", "y = a when given(z) else -b"),
        ("y = f( x , window = 4 )", "y = f(x, window=4)"),
        ("y , s = f(x) [ d = h ]", "y, s = f(x)[d=h]"),
        ("axis  d=(g  r)", "axis d = (g r)"),
        ("y = not(a and b)", "y = not (a and b)"),
        ("y:int = int( x )", "y: int = int(x)"),
        ("y = x  # why", "y = x  # why"),
        ("y = (a+\n        b)", "y = (a + b)"),
    ],
)
def test_spacing(written: str, settled: str) -> None:
    assert formatted(written) == settled


def test_headers() -> None:
    short = "layer f( x[b,t] , B : complex [d,n]|[n] , D[d]=0 , z[t] ? ,*,k:enum(a,b)=a)->y[b,t] :\n  y = x\n"
    assert format_text(short) == (
        "layer f(x[b, t], B: complex [d, n] | [n], D[d] = 0, z[t]?, *, k: enum(a, b) = a) -> y[b, t]:\n    y = x\n"
    )
    long = (
        "layer f("
        + ", ".join(f"input_number_{i}[b, t]" for i in range(9))
        + ", *, w: int = 4) -> y[b, t]:\n    y = x\n"
    )
    lines = format_text(long).split("\n")
    assert lines[0] == "layer f(" and lines[-4:-2] == ["    *, w: int = 4,", ") -> y[b, t]:"]
    assert max(map(len, lines)) <= 100
    kept = "layer f(\n    x[b, t],\n    w[b],\n) -> y[b, t]:\n    y = x * w\n"
    assert format_text(kept) == kept


def test_blank_lines_and_comments() -> None:
    text = "\n\n# top\nlayer f(x[t]) -> y[t]:\n\n\n    # first\n    a = x  \n\n\n\n    y = a#  not a comment\n"
    with pytest.raises(UserError):
        format_text(text.replace("#  not", "#not"))
    text += "    # last\nlayer g(x[t]) -> y[t]:\n  y = (x  # one\n + 1)\n# end\n"
    assert format_text(text) == (
        "# top\nlayer f(x[t]) -> y[t]:\n    # first\n    a = x\n\n    y = a  #  not a comment\n    # last\n\n"
        "layer g(x[t]) -> y[t]:\n    y = (x  # one\n        + 1)\n\n# end\n"
    )


def test_documentation_moves_with_its_block() -> None:
    text = 'layer f(x[t]) -> y[t]:\n  """One.\n\n    Two.\n  """\n  y = 2 * x\n'
    assert format_text(text) == 'layer f(x[t]) -> y[t]:\n    """One.\n\n      Two.\n    """\n    y = 2 * x\n'


def test_texts_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(UserError, match="unexpected"):
        format_text("layer f(x[t]) -> y[t]:\n    y = 2 2\n")
    assert format_text("") == ""
    assert format_text("# only a comment") == "# only a comment\n"
