"""The cache: whole entries or none, built once, repaired when damaged, and clear about a bad disk."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from ssmc.backends import cache as cache_module
from ssmc.backends.cache import Cache, default_root, digest, entry_folder
from ssmc.errors import ToolchainError

PARTS = {"source": "int f(void);", "compiler": "gcc 12"}


class Builder:
    """Writes a file and counts how often it was asked to."""

    def __init__(self, content: bytes = b"machine code" * 100) -> None:
        self.content, self.calls = content, 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "kernel.so").write_bytes(self.content)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def leftovers(root: Path) -> list[Path]:
    return [*(root / "v1" / "tmp").iterdir()]


def test_builds_once_and_finds_again(root: Path) -> None:
    build = Builder()
    cache = Cache(root)
    first = cache.get(PARTS, build)
    assert (first / "kernel.so").read_bytes() == build.content
    assert cache.get(dict(reversed(PARTS.items())), build) == first
    assert Cache(root).get(PARTS, build) == first
    assert build.calls == 1 and not leftovers(root)
    assert cache.get({**PARTS, "compiler": "gcc 13"}, build) != first


def test_key_parts_are_not_confused() -> None:
    assert digest({"a": "b", "c": ""}) != digest({"a": "", "c": "b"}) != digest({"a": "bc"})


def test_manifest_says_what_an_entry_was_built_from(root: Path) -> None:
    folder = Cache(root).get({**PARTS, "long": "x" * 1000}, Builder())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["parts"]["compiler"] == "gcc 12"
    assert manifest["parts"]["long"].startswith("sha256:")
    assert manifest["files"]["kernel.so"]["size"] == 1200


def truncate(folder: Path) -> None:
    os.truncate(folder / "kernel.so", 100)


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "kernel.so").read_bytes())
    content[5] ^= 1
    (folder / "kernel.so").write_bytes(content)


def lose_the_library(folder: Path) -> None:
    (folder / "kernel.so").unlink()


def empty_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("")


def spoil_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"key": 3, "files": []}')


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lose_the_library, empty_the_manifest, spoil_the_manifest])
def test_damaged_entry_is_rebuilt(root: Path, damage: Callable[[Path], None]) -> None:
    build = Builder()
    damage(Cache(root).get(PARTS, build))
    again = Cache(root).get(PARTS, build)
    assert (again / "kernel.so").read_bytes() == build.content
    assert build.calls == 2 and not leftovers(root)


def test_entry_damaged_under_a_running_process_is_rebuilt(root: Path) -> None:
    build, cache = Builder(), Cache(root)
    truncate(cache.get(PARTS, build))
    assert (cache.get(PARTS, build) / "kernel.so").read_bytes() == build.content


def test_entry_that_is_a_file_is_replaced(root: Path) -> None:
    folder = entry_folder(root, digest(PARTS))
    folder.parent.mkdir(parents=True)
    folder.write_text("not a folder")
    assert (Cache(root).get(PARTS, Builder()) / "kernel.so").is_file()


def test_failed_build_leaves_nothing(root: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise ToolchainError("the compiler failed")

    with pytest.raises(ToolchainError, match="the compiler failed"):
        Cache(root).get(PARTS, fail)
    assert not leftovers(root) and not entry_folder(root, digest(PARTS)).exists()


def test_errors_of_the_build_pass_unchanged(root: Path) -> None:
    def fail(folder: Path) -> None:
        raise PermissionError(errno.EACCES, "the build's own")

    with pytest.raises(PermissionError, match="the build's own"):
        Cache(root).get(PARTS, fail)


def test_full_disk_is_named(root: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ToolchainError) as caught:
        Cache(root).get(PARTS, fill)
    message = str(caught.value)
    assert str(root) in message and "MB" in message and "SSMC_CACHE_DIR" in message
    assert not leftovers(root) and not entry_folder(root, digest(PARTS)).exists()


def test_disk_full_before_the_build(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache_module.tempfile, "mkdtemp", full)
    with pytest.raises(ToolchainError, match="no space left"):
        Cache(root).get(PARTS, Builder())


def test_unwritable_root_falls_back_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache, build = Cache(tmp_path / "file" / "cache"), Builder()
    with pytest.warns(RuntimeWarning, match="cannot be written.*SSMC_CACHE_DIR"):
        folder = cache.get(PARTS, build)
    assert (folder / "kernel.so").is_file() and tmp_path not in folder.parents
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.get(PARTS, build) == folder
        cache.get({"other": "entry"}, build)
    assert build.calls == 2


def test_nowhere_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(cache_module.tempfile, "mkdtemp", denied)
    with pytest.raises(ToolchainError, match="nor a temporary folder can be written"):
        Cache(tmp_path / "cache").get(PARTS, Builder())


def test_read_only_root_is_still_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Cache(root).get(PARTS, Builder())

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", denied)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Cache(root).get(PARTS, Builder()) == folder


def test_fallback_folder_goes_with_its_process(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from ssmc.backends.cache import Cache\n"
        "print(Cache(sys.argv[1]).get({'a': 'b'}, lambda folder: (folder / 'x').write_text('y') and None))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "file" / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() and not Path(done.stdout.strip()).exists()


RACER = """
import sys, time
from pathlib import Path
from ssmc.backends.cache import Cache

root, log, start = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])

def build(folder):
    with log.open("a") as file:
        file.write("built\\n")
    (folder / "kernel.so").write_text("1")
    time.sleep(0.3)

time.sleep(max(0.0, start - time.time()))
print(Cache(root).get({"a": "b"}, build))
"""


def test_racing_processes_build_once(tmp_path: Path) -> None:
    import time

    log = tmp_path / "log"
    command = [sys.executable, "-c", RACER, str(tmp_path / "cache"), str(log), str(time.time() + 1.0)]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = {racer.communicate(timeout=60)[0] for racer in racers}
    assert all(racer.returncode == 0 for racer in racers)
    assert len(printed) == 1 and log.read_text() == "built\n"


def test_without_locks_the_first_entry_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that both build (no lock to be had): the second finds the first's entry and takes it."""
    first = Builder(b"first")

    def second(folder: Path) -> None:
        monkeypatch.undo()
        Cache(root).get(PARTS, first)
        (folder / "kernel.so").write_bytes(b"second")

    import filelock

    def none(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(filelock.FileLock, "acquire", none)
    assert (Cache(root).get(PARTS, second) / "kernel.so").read_bytes() == b"first"


def test_root_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSMC_CACHE_DIR", str(tmp_path))
    assert default_root() == tmp_path == Cache().root
    monkeypatch.delenv("SSMC_CACHE_DIR")
    assert default_root().name == "ssmc"
