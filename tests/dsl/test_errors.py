"""Every program in tests/errors/ is wrong, and says so as its first lines ask:

    # error: PART OF THE MESSAGE
    # at: LINE:COLUMN

once for each diagnostic, in the order of the text. No other diagnostics may come.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ssmc.dsl import check, load_module, module_from_text
from ssmc.errors import Diagnostic, UserError

FOLDER = Path(__file__).parent.parent / "errors"
PROGRAMS = sorted(FOLDER.glob("*.ssm"))


def diagnostics(path: Path) -> list[Diagnostic]:
    try:
        return check(load_module(path))
    except UserError as error:
        return list(error.diagnostics)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_program_is_refused(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    messages = re.findall(r"^# error: (.+)$", text, re.MULTILINE)
    places = re.findall(r"^# at: (\d+):(\d+)$", text, re.MULTILINE)
    assert messages and len(messages) == len(places), "the file says what is wrong, and where"
    found = diagnostics(path)
    rendered = "\n".join(d.render() for d in found)
    assert len(found) == len(messages), rendered
    for diagnostic, message, (line, column) in zip(found, messages, places, strict=True):
        assert message in diagnostic.message, rendered
        assert diagnostic.span is not None
        assert (diagnostic.span.line, diagnostic.span.column) == (int(line), int(column)), rendered


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_diagnostic_is_complete(path: Path) -> None:
    for diagnostic in diagnostics(path):
        assert diagnostic.expected or diagnostic.hint, diagnostic.render()
        assert "^" in diagnostic.render()


def refused(text: str) -> list[Diagnostic]:
    try:
        return check(module_from_text(text))
    except UserError as error:
        return list(error.diagnostics)


BODY = "layer f(x[t]) -> y[t]:\n    y = {}\n"


@pytest.mark.parametrize(
    "expression",
    [
        "(" * 300 + "x" + ")" * 300,
        "exp(" * 201 + "x" + ")" * 201,
        "-" * 300 + "x",
        " + ".join(["x"] * 100_000),
        "2 ^ " * 300 + "x",
        "where(" + "not " * 300 + "true, x, 0)",
        " when true else ".join(["x"] * 300),
        "x" + "[t-1]" * 300,
        "(" * 100_000,
    ],
    ids=["brackets", "calls", "minus", "sum", "powers", "not", "when", "indices", "unclosed"],
)
def test_deep_nesting_is_refused(expression: str) -> None:
    (found, *_) = refused(BODY.format(expression))
    assert "levels deep" in found.message


def test_nesting_at_the_limit_is_read() -> None:
    assert refused(BODY.format("exp(" * 190 + "x" + ")" * 190)) == []
    assert refused(BODY.format(" + ".join(["x"] * 190))) == []


def test_bytes_that_are_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / "bad.ssm"
    path.write_bytes(b"layer f(x[t]) -> y[t]:\n    y = \xff * x\n")
    with pytest.raises(UserError, match="byte 0xff is not UTF-8") as caught:
        load_module(path)
    span = caught.value.diagnostics[0].span
    assert span is not None and (span.line, span.column) == (2, 9)


def test_nul_and_bom(tmp_path: Path) -> None:
    path = tmp_path / "nul.ssm"
    path.write_bytes(b"layer f(x[t]) -> y[t]:\n    y = 2 * x \x00\n")
    assert "U+0000" in diagnostics(path)[0].message
    path.write_bytes(b"\xef\xbb\xbflayer f(x[t]) -> y[t]:\r\n    y = 2 * x\r\n")
    assert diagnostics(path) == []


def test_too_large(tmp_path: Path) -> None:
    path = tmp_path / "large.ssm"
    path.write_text("# " + "x" * (1 << 20) + "\n")
    assert "larger than 1 MiB" in diagnostics(path)[0].message


def test_absent_file() -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_module("./no/such/file.ssm")
    with pytest.raises(UserError, match="did you mean `rotary`"):
        load_module("rotari")


def test_import_through_a_link_stays_inside(tmp_path: Path) -> None:
    outside = tmp_path / "outside.ssm"
    outside.write_text("layer g(x[t]) -> y[t]:\n    y = 2 * x\n")
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "link.ssm").symlink_to(outside)
    path = folder / "main.ssm"
    path.write_text("from link import g\n\nlayer f(x[t]) -> y[t]:\n    y = g(x)\n")
    (found,) = diagnostics(path)
    assert "outside the folder" in found.message


def test_errors_of_an_imported_module_name_its_file(tmp_path: Path) -> None:
    (tmp_path / "other.ssm").write_text("layer g(x[t]) -> y[t]:\n    y = 2 * * x\n")
    path = tmp_path / "main.ssm"
    path.write_text("from other import g\n\nlayer f(x[t]) -> y[t]:\n    y = g(x)\n")
    (found,) = diagnostics(path)
    assert found.span is not None and found.span.source.name.endswith("other.ssm")


def test_at_most_twenty() -> None:
    lines = "".join(f"    a{i} = unknown{i}\n" for i in range(50))
    assert len(refused(f"layer f(x[t]) -> y[t]:\n{lines}    y = 2 * x\n")) == 20
    assert len(refused("layer f(x[t]) -> y[t]:\n" + "    a = 2 * * x\n" * 50 + "    y = 2 * x\n")) == 20


def test_choice_that_does_not_fit() -> None:
    from ssmc.dsl import Choice, elaborate

    module = module_from_text("layer f(x[t], *, n: int, kind: enum(a, b) = a) -> y[t]:\n    y = n * x\n")
    for choice, message in [
        (Choice(), "needs static parameter `n`"),
        (Choice({"n": 1, "m": 2}), "no static parameter `m`"),
        (Choice({"n": 0.5}), "does not fit static parameter `n`"),
        (Choice({"n": 1, "kind": "c"}), "does not fit static parameter `kind`"),
        (Choice({"n": 1}, frozenset({"z"})), "no input `z`"),
        (Choice({"n": 1}, None, {"x": ("t", "d")}), "cannot be [t, d]"),
    ]:
        with pytest.raises(UserError) as caught:
            elaborate(module, None, choice)
        assert message in str(caught.value)
