"""The compiler is found, understood, remembered; and every way it can be missing or fail has its message."""

from __future__ import annotations

import ctypes
import errno
import os
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from ssmc.backends import toolchain
from ssmc.errors import ToolchainError

SOURCE = """
#include <math.h>
__attribute__((visibility("default"))) double ssmc_test(double x) { return sqrt(x); }
double ssmc_hidden(double x) { return x; }
"""


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, no choice of compiler, and nothing remembered in this process."""
    monkeypatch.setenv("SSMC_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("SSMC_CC", "CC", "SSMC_CFLAGS"):
        monkeypatch.delenv(name, raising=False)
    toolchain._find.cache_clear()


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_builds_a_library_that_shows_only_what_it_should(tmp_path: Path) -> None:
    library = ctypes.CDLL(str(toolchain.build(SOURCE, tmp_path)))
    library.ssmc_test.restype, library.ssmc_test.argtypes = ctypes.c_double, [ctypes.c_double]
    assert library.ssmc_test(9.0) == 3.0
    assert not hasattr(library, "ssmc_hidden")


def test_facts() -> None:
    found = toolchain.find()
    assert found.kind in {"gcc", "clang", "cc"} and found.version[0].isdigit() and found.triple
    assert "-ffast-math" not in found.flags and "-O3" in found.flags
    assert set(found.key_parts()) == {"compiler", "flags", "cpu"}
    assert toolchain.cpu_name()


def test_remembered_compiler_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = toolchain.find()
    toolchain._find.cache_clear()

    def never(*_: object) -> None:
        raise AssertionError("the compiler was run")

    monkeypatch.setattr(toolchain, "_run", never)
    start = time.perf_counter()
    assert toolchain.find() == first
    assert time.perf_counter() - start < 0.05  # 1 ms where this was written; 5 is the aim


def test_unwritable_cache_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SSMC_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert toolchain.find().version


def test_damaged_memory_is_learnt_again(tmp_path: Path) -> None:
    first = toolchain.find()
    for path in (tmp_path / "cache" / "toolchains").iterdir():
        path.write_text("{")
    toolchain._find.cache_clear()
    assert toolchain.find() == first


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError) as caught:
        toolchain.find()
    for words in ("no C compiler", "apt install gcc", "dnf install gcc", "xcode-select --install"):
        assert words in str(caught.value)


@pytest.mark.parametrize("variable", ["SSMC_CC", "CC"])
def test_named_compiler_that_is_missing(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "no-such-cc -m64")
    with pytest.raises(ToolchainError, match=f"{variable} names the compiler 'no-such-cc'"):
        toolchain.find()


def test_named_compiler_goes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = toolchain.find().command[0]
    toolchain._find.cache_clear()
    mine = script(tmp_path / "my-cc", f'exec {real} "$@"')
    monkeypatch.setenv("CC", "no-such-cc")
    monkeypatch.setenv("SSMC_CC", f"{mine} -DSSMC_MARK=7")
    found = toolchain.find()
    assert found.command == (str(mine), "-DSSMC_MARK=7")
    library = ctypes.CDLL(str(found.build('__attribute__((visibility("default"))) int ssmc_m = SSMC_MARK;', tmp_path)))
    assert ctypes.c_int.in_dll(library, "ssmc_m").value == 7


def test_compiler_that_cannot_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF nonsense")
    broken.chmod(0o755)
    monkeypatch.setenv("SSMC_CC", str(broken))
    with pytest.raises(ToolchainError, match="cannot be run"):
        toolchain.find()


def test_compiler_that_always_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = '[ "$1" = --version ] && { echo "gcc 99.1"; exit 0; }\necho "error: agree to the licence first" >&2; exit 69'
    monkeypatch.setenv("SSMC_CC", str(script(tmp_path / "cc", text)))
    with pytest.raises(ToolchainError, match=r"exit status 69(.|\n)*agree to the licence first"):
        toolchain.find()


def test_compiler_without_openmp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = toolchain.find().command[0]
    toolchain._find.cache_clear()
    text = f'for word in "$@"; do [ "$word" = -fopenmp ] && exit 1; done; exec {real} "$@"'
    monkeypatch.setenv("SSMC_CC", str(script(tmp_path / "cc", text)))
    with pytest.warns(RuntimeWarning, match="one thread"):
        found = toolchain.find()
    assert not found.openmp and "-fopenmp" not in found.flags and "-fopenmp-simd" in found.flags
    assert found.build(SOURCE, tmp_path).is_file()


def test_source_that_does_not_compile(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError) as caught:
        toolchain.build("int ssmc_f(void) {\n  return undeclared_name;\n}\n", tmp_path)
    assert "kernel.c:2" in str(caught.value) and "undeclared_name" in str(caught.value)
    assert not (tmp_path / "kernel.so").exists()


def test_killed_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = toolchain.find()
    killed = replace(found, command=(str(script(tmp_path / "cc", "kill -9 $$")),))
    with pytest.raises(ToolchainError, match="killed by signal 9(.|\n)*memory"):
        killed.build(SOURCE, tmp_path)


def test_full_disk_while_compiling(tmp_path: Path) -> None:
    found = toolchain.find()
    text = 'echo "as: kernel.o: No space left on device" >&2; exit 1'
    full = replace(found, command=(str(script(tmp_path / "cc", text)),))
    with pytest.raises(OSError) as caught:
        full.build(SOURCE, tmp_path)
    assert caught.value.errno == errno.ENOSPC


def test_extra_flags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = toolchain.find()
    monkeypatch.setenv("SSMC_CFLAGS", "-DSSMC_EXTRA=1 -g")
    after = toolchain.find()
    assert after.flags == (*before.flags, "-DSSMC_EXTRA=1", "-g")
    assert after.key_parts() != before.key_parts()


def test_temporary_files_stay_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "build"
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        toolchain.build(SOURCE, folder)
    assert sorted(os.listdir(folder)) == ["kernel.c", "kernel.so"]
