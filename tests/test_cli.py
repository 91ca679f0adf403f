"""The command line: what it prints, what it exits with, what it never loads, and that it never falls over."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ssmc import cli, commands, dsl
from ssmc.commands import report
from ssmc.errors import InternalError, ToolchainError, Unsupported, UserError

ROOT = Path(__file__).resolve().parent.parent
GOOD = """layer decay(x[b, t, d], a[d], z[b, t, d]?, *, scale: real = 1.0, on: bool = true) -> y[b, t, d]:
    seq t
    h = a * h[t-1] + scale * x
    y = h * silu(z) when given(z) else h
"""
BROKEN = "layer broken(x[t]) -> y[t]:\n    y = x +\n"
UGLY = "layer f(x[t])->y[t]:\n    y=x+1   # more\n"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "decay.ssm"
    path.write_text(GOOD)
    return path


def script(*arguments: str, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, with ``code`` run after it."""
    program = f"import sys\nfrom ssmc.cli import run\nstatus = run(sys.argv[1:])\n{code}\nsys.exit(status)"
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)


# What is loaded


@pytest.mark.parametrize("arguments", [["--help"], ["check", "{file}"], ["fmt", "--check", "{file}"], ["library"]])
def test_light_commands_load_nothing_heavy(good: Path, arguments: list[str]) -> None:
    loaded = "print(*{m.partition('.')[0] for m in sys.modules}, file=sys.stderr)"
    done = script(*(a.format(file=good) for a in arguments), code=loaded)
    assert done.returncode in (0, 1), done.stderr
    heavy = {"torch", "numpy", "sympy", "networkx", "triton", "scipy", "rich"}
    assert not set(done.stderr.split()) & heavy


# Help and usage


def test_help_documents_the_exit_codes(ssmc: Any) -> None:
    ran = ssmc("--help")
    assert ran.code == 0
    codes = [report.OK, report.WRONG_INPUT, report.WRONG_USAGE, report.MACHINE_LACKS, report.UNSUPPORTED, report.BUG]
    documented = [int(word) for word in re.findall(r"^\s+(\d+)  ", ran.out, re.MULTILINE)]
    assert documented == codes
    assert all(command.name in ran.out for command in commands.COMMANDS)


@pytest.mark.parametrize("command", [command.name for command in commands.COMMANDS])
def test_every_command_has_help_and_json(ssmc: Any, command: str) -> None:
    ran = ssmc(command, "--help")
    assert ran.code == 0 and "--json" in ran.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["check"],
        ["check", "--frobnicate"],
        ["compile", "selective_scan"],
        ["compile", "selective_scan", "--emit", "fortran"],
        ["explain", "selective_scan", "--sizes", "b"],
        ["explain", "selective_scan", "--sizes", "b=many"],
        ["explain", "selective_scan", "--dtype", "f8"],
        ["fmt", "-", "x.ssm"],
    ],
)
def test_wrong_usage(ssmc: Any, arguments: list[str]) -> None:
    ran = ssmc(*arguments)
    assert ran.code == 2 and not ran.out and "Error" in ran.err
    ran = ssmc(*arguments, "--json")
    assert ran.code == 2 and ran.object()["diagnostics"][0]["message"]


def test_version(ssmc: Any) -> None:
    import ssmc as package

    assert ssmc("--version").out == f"ssmc {package.__version__}\n"


# check


def test_check_of_a_good_file(ssmc: Any, good: Path) -> None:
    ran = ssmc("check", good)
    assert (ran.code, ran.err) == (0, "") and ran.out == f"{good}: ok (1 layer)\n"
    assert ssmc("check", good, "--json").object()["files"] == [{"file": str(good), "ok": True, "layers": ["decay"]}]


def test_check_reports_every_file(ssmc: Any, good: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.ssm"
    broken.write_text(BROKEN)
    ran = ssmc("check", broken, tmp_path / "missing.ssm", good)
    assert ran.code == 1 and "^" in ran.err and "broken.ssm:2:" in ran.err and "cannot be read" in ran.err
    assert ran.out.splitlines()[-1] == "3 files, 2 errors in 2"
    found = ssmc("check", broken, good, "--json")
    assert found.err == "" and [d["line"] for d in found.object()["diagnostics"]] == [2]


def test_check_of_the_library(ssmc: Any) -> None:
    assert ssmc("check", "selective_scan").code == 0
    assert "did you mean" in ssmc("check", "selectve_scan").err


@pytest.mark.parametrize("data", [b"\xff\xfe", b"\x00" * 10, b"(" * 5000, "layer é".encode(), b"", b"layer"])
def test_check_survives_any_bytes(ssmc: Any, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "any.ssm"
    path.write_bytes(data)
    assert ssmc("check", path).code in (0, 1)
    assert ssmc("fmt", "--check", path).code in (0, 1)


def test_check_of_standard_input() -> None:
    command = [sys.executable, "-c", "import sys; from ssmc.cli import main; main()", "check", "-"]
    done = subprocess.run(command, input=BROKEN, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "<stdin>:2:" in done.stderr


# fmt


def test_fmt_settles_a_file_and_then_leaves_it(ssmc: Any, tmp_path: Path) -> None:
    path = tmp_path / "ugly.ssm"
    path.write_text(UGLY)
    path.chmod(0o640)
    ran = ssmc("fmt", "--check", path)
    assert ran.code == 1 and path.read_text() == UGLY and "would be reformatted" in ran.out
    assert ssmc("fmt", path).code == 0
    settled = path.read_text()
    assert settled != UGLY and "# more" in settled and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert ssmc("fmt", "--check", path).code == 0 and list(tmp_path.iterdir()) == [path]
    assert ssmc("fmt", path, "--json").object()["files"] == [{"file": str(path), "status": "unchanged"}]


def test_fmt_leaves_a_broken_file_alone(ssmc: Any, tmp_path: Path, good: Path) -> None:
    path = tmp_path / "broken.ssm"
    path.write_text(BROKEN)
    ran = ssmc("fmt", path, tmp_path / "missing.ssm", good)
    assert ran.code == 1 and "broken.ssm:2" in ran.err and "missing.ssm cannot be read" in ran.err
    assert path.read_text() == BROKEN


def test_fmt_of_standard_input() -> None:
    command = [sys.executable, "-c", "import sys; from ssmc.cli import main; main()", "fmt", "-"]
    done = subprocess.run(command, input=UGLY, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == dsl.format_text(UGLY)


# library


def test_library_lists_every_module(ssmc: Any) -> None:
    ran = ssmc("library")
    assert ran.code == 0 and [line.split()[0] for line in ran.out.splitlines()] == list(dsl.library_names())
    layers = ssmc("library", "--json").object()["layers"]
    assert all(layer["summary"] for layer in layers if ":" not in layer["name"])
    assert len(ssmc("library", "--all").out.splitlines()) == len(layers)


# compile


@pytest.mark.parametrize("level", ["ast", "program", "plan", "loops", "c"])
def test_every_level_can_be_printed(ssmc: Any, good: Path, level: str) -> None:
    ran = ssmc("compile", good, "--emit", level)
    assert ran.code == 0 and "h" in ran.out and not ran.err
    assert ssmc("compile", good, "--emit", level, "--json").object()["text"].strip() == ran.out.strip()


def test_the_printed_program_is_specialised(ssmc: Any, good: Path) -> None:
    options = ["--emit", "program", "--without", "z", "--set", "scale=2.5", "--set", "on=false"]
    text = ssmc("compile", f"{good}:decay", *options).out
    assert "silu" not in text and "2.5" in text
    assert dsl.check(dsl.module_from_text(text)) == []


def test_a_signature_can_be_chosen(ssmc: Any) -> None:
    text = ssmc("compile", "selective_scan", "--emit", "program", "--signature", "B=d,n").out
    assert "B[d, n]" in text


def test_compile_writes_a_library_and_its_description(ssmc: Any, good: Path, tmp_path: Path) -> None:
    import ctypes

    ran = ssmc("compile", good, "-o", tmp_path / "out", "--without", "z", "--dtype", "f64")
    assert ran.code == 0, ran.err
    interface = json.loads((tmp_path / "out" / "decay.json").read_text())
    assert [(a["name"], a["storage"]) for a in interface["arguments"]][:2] == [("x", "f64"), ("a", "f64")]
    assert ctypes.CDLL(str(tmp_path / "out" / "libdecay.so"))[interface["symbol"]]
    for suffix in (".c", ".h"):
        assert interface["symbol"] in (tmp_path / "out" / f"decay{suffix}").read_text()
    assert "kernel k0" in (tmp_path / "out" / "decay.plan").read_text()


@pytest.mark.parametrize(
    "options, words",
    [
        (["--set", "scal=2"], "has no static parameter `scal`"),
        (["--set", "scale=big"], "a number"),
        (["--set", "on=perhaps"], "true or false"),
        (["--without", "x"], "is required"),
        (["--without", "w"], "has no input `w`"),
        (["--signature", "x=b,d"], "b,t,d"),
        (["--signature", "w=d"], "has no input `w`"),
        (["--sizes", "q=2"], "has no axis `q`"),
    ],
)
def test_choices_that_make_no_sense(ssmc: Any, good: Path, options: list[str], words: str) -> None:
    ran = ssmc("compile", good, "--emit", "program", *options)
    assert ran.code == 1 and words in ran.err


def test_layers_that_are_not_there(ssmc: Any, good: Path, tmp_path: Path) -> None:
    assert "has no layer `nosuch`" in ssmc("compile", f"{good}:nosuch", "--emit", "c").err
    assert "cannot be read" in ssmc("compile", tmp_path / "none.ssm", "--emit", "c").err
    assert "unknown target" in ssmc("compile", good, "--emit", "c", "--target", "abacus").err
    (tmp_path / "broken.ssm").write_text(BROKEN)
    assert "broken.ssm:2:" in ssmc("compile", tmp_path / "broken.ssm", "--emit", "c").err


def test_extents_that_are_compiled_in_are_assumed_aloud(ssmc: Any, tmp_path: Path) -> None:
    ran = ssmc("compile", "selective_scan", "--emit", "plan", "--sizes", "b=1")
    assert ran.code == 0 and "#n = 16" in ran.out and "assumed: #n = 16" in ran.err
    ran = ssmc("compile", "selective_scan", "-o", tmp_path / "out")
    assert ran.code == 0 and "assumed      #n = 16" in ran.out


def test_without_a_compiler(good: Path, tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "SSMC_CC": "", "CC": "", "SSMC_CACHE_DIR": str(tmp_path / "cache")}
    done = script("compile", str(good), "-o", str(tmp_path), **environment)
    assert done.returncode == 3 and "apt install gcc" in done.stderr
    done = script("doctor", "--json", **environment)
    assert done.returncode == 3 and "compiler" in json.loads(done.stdout)["missing"]


def test_a_folder_that_cannot_be_written(ssmc: Any, good: Path) -> None:
    ran = ssmc("compile", good, "-o", good / "below")
    assert ran.code == 3 and "cannot be written" in ran.err


# explain


def test_explain(ssmc: Any) -> None:
    sizes = ["--sizes", "b=1,t=2048,d=1536,n=16"]
    ran = ssmc("explain", "selective_scan", *sizes)
    assert ran.code == 0, ran.err
    for words in ("h along t: affine in its past", "h[b, d, n]: last 1, 98.3 kB", "flop per byte", "kernel"):
        assert words in ran.out
    found = ssmc("explain", "selective_scan", *sizes, "--json").object()
    assert found["axes"]["t"] == 2048 and found["state"][0]["bytes"] == 1536 * 16 * 4
    assert found["cost"]["bytes_out"] == 2048 * 1536 * 4 and found["target"] == "c"


@pytest.mark.parametrize("target", ["cuda", "triton:gfx942"])
def test_explain_for_gpus(ssmc: Any, target: str) -> None:
    """The target's own plan; no speed of this machine is taken for that of a GPU."""
    asked = ("explain", "selective_scan", "--sizes", "b=1,t=2048,d=1536,n=16", "--target", target)
    ran = ssmc(*asked)
    assert ran.code == 0, ran.err
    assert f"target: {target}" in ran.out and "no bound: the speed of a GPU is not measured" in ran.out
    kernels = ssmc(*asked, "--json").object()["kernels"]
    assert kernels["target"] == target and kernels["machine"] is kernels["predicted_seconds"] is None


def test_explain_names_gradients_that_are_stated(ssmc: Any) -> None:
    sizes = "b=1,t=4,d=4,h=2,i=2,j=2"
    found = ssmc("explain", "rg_lru", "--sizes", sizes, "--json").object()
    assert found["gradients"] == [{"of": ["bounded_sqrt"], "for": ["v"]}]
    ran = ssmc("explain", "yoso:yoso_expectation", "--sizes", "b=1,h=1,t=4,s=4,e=2,f=2")
    assert "stated: y from q, k, v" in ran.out
    assert "stated:" not in ssmc("explain", "selective_scan", "--sizes", "b=1,t=4,d=4,n=2").out


def test_explain_says_which_sizes_are_missing(ssmc: Any) -> None:
    ran = ssmc("explain", "selective_scan", "--sizes", "b=1,d=2")
    assert ran.code == 1 and "extents of t, n are not known" in ran.err


# doctor


def test_doctor(ssmc: Any) -> None:
    ran = ssmc("doctor", "--json")
    found = ran.object()
    assert ran.code == 0 and found["missing"] == []
    assert found["torch"] and found["compiler"] and Path(found["cache"]["folder"]).is_dir()


# Whose fault it is


@pytest.mark.parametrize(
    "error, code",
    [
        (UserError("yours"), 1),
        (ToolchainError("the machine's"), 3),
        (Unsupported("a limit"), 4),
        (InternalError("ours"), 70),
        (RecursionError("ours"), 70),
        (KeyError("ours"), 70),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_error_has_its_exit_status(
    ssmc: Any, monkeypatch: pytest.MonkeyPatch, good: Path, error: BaseException, code: int
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.delenv("SSMC_TRACEBACK", raising=False)
    monkeypatch.setattr(dsl, "load_module", fail)
    ran = ssmc("compile", good, "--emit", "c")
    assert ran.code == code and not ran.out
    assert ("please report it" in ran.err) == (code == 70)
    if code != 130:
        found = ssmc("compile", good, "--emit", "c", "--json").object()
        assert found["command"] == "compile" and found["diagnostics"]


def test_a_traceback_only_on_request(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, good: Path
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(dsl, "load_module", fail)
    monkeypatch.setenv("SSMC_TRACEBACK", "1")
    assert cli.run(["compile", str(good), "--emit", "c"]) == 70
    assert "Traceback" in capfd.readouterr().err


def test_a_reader_that_stops_early() -> None:
    command = f"{sys.executable} -c 'from ssmc.cli import main; main()' library --json | head -n 1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "{\n" and "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_a_terminal_that_knows_only_ascii(good: Path) -> None:
    done = script("compile", str(good), "--emit", "plan", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "kernel" in done.stdout


def test_a_negative_extent_is_refused(ssmc: Any, tmp_path: Path) -> None:
    path = tmp_path / "window.ssm"
    path.write_text("layer window(x[b, t], *, W: int = 4) -> y[b, t]:\n    seq t\n    y = sum[j < W](x[t-j])\n")
    ran = ssmc("compile", path, "--set", "W=-3", "-o", tmp_path / "out")
    assert ran.code == 1 and "the extent of axis 'j' would be -3" in ran.err
    assert not (tmp_path / "out").exists()


def test_a_binary_file_is_refused_in_few_words(ssmc: Any, tmp_path: Path) -> None:
    path = tmp_path / "binary.ssm"
    path.write_bytes(b"\x7fELF\x1b[31m" + bytes(range(256)) * 20)
    ran = ssmc("check", path)
    assert ran.code == 1 and "is not UTF-8" in ran.err and len(ran.err) < 600
