"""The wheel and the source distribution hold what they should, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LINKS = {"dsl", "backends", "models"}
SHIPPED = {".py", ".typed", ".lark", ".ssm", ".h"}


def folder_of(package: str) -> Path:
    first, _, rest = package.removeprefix("ssmc").lstrip(".").partition(".")
    base = ROOT / first if first in LINKS else ROOT / "ssmc" / first
    return base / rest.replace(".", "/")


def expected_files(tree: Path) -> set[str]:
    """Every file of the packages, by the name it should have in the wheel."""
    names = set()
    for top in [tree / "ssmc", *(tree / name for name in LINKS)]:
        prefix = "ssmc" if top.name == "ssmc" else f"ssmc/{top.name}"
        for path in top.rglob("*"):
            inner = path.relative_to(top)
            linked = top.name == "ssmc" and inner.parts[0] in LINKS
            if path.is_file() and path.suffix in SHIPPED and not linked:
                names.add(f"{prefix}/{inner.as_posix()}")
    return names


def build(command: list[str], cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def build_wheel(tree: Path, into: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "--no-index"]
    build([*pip, "--wheel-dir", str(into), "."], tree)
    (wheel,) = into.glob("*.whl")
    return wheel


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return [name for name in archive.namelist() if ".dist-info/" not in name]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged, links kept as links, to build in."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ["pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"]:
        shutil.copy(ROOT / name, copy)
    for name in ["ssmc", *LINKS, "docs", "tests"]:
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tree, tmp_path_factory.mktemp("wheel"))


def test_every_package_is_listed() -> None:
    folders = {Path(name).parent for name in expected_files(ROOT) if name.endswith(".py")}
    assert set(CONFIG["tool"]["setuptools"]["packages"]) == {".".join(folder.parts) for folder in folders}


def test_every_package_has_a_face() -> None:
    for package in CONFIG["tool"]["setuptools"]["packages"]:
        assert (folder_of(package) / "__init__.py").is_file(), package


@pytest.mark.parametrize("name", sorted(LINKS))
def test_links_show_the_same_tree(name: str) -> None:
    link = ROOT / "ssmc" / name
    assert link.is_symlink() and os.readlink(link) == f"../{name}"


def test_wheel_has_every_file_once(tree: Path, wheel: Path) -> None:
    names = names_in(wheel)
    assert len(names) == len(set(names))
    assert set(names) == expected_files(tree)
    assert "ssmc/py.typed" in names
    assert wheel.name.endswith("-py3-none-any.whl")


def test_source_distribution_builds_the_same_wheel(tree: Path, wheel: Path, tmp_path: Path) -> None:
    code = "import sys, setuptools.build_meta as b; b.build_sdist(sys.argv[1])"
    build([sys.executable, "-c", code, str(tmp_path)], tree)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        assert not any(member.issym() or member.islnk() for member in tar.getmembers())
        tar.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert (unpacked / "LICENSE").is_file() and (unpacked / "tests/test_packaging.py").is_file()
    (tmp_path / "again").mkdir()
    assert sorted(names_in(build_wheel(unpacked, tmp_path / "again"))) == sorted(names_in(wheel))


def test_wheel_is_usable(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "import ssmc, ssmc.backends, ssmc.dsl, ssmc.ir; print(ssmc.__file__, ssmc.dsl.__file__)"
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd="/", env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(Path(name).is_relative_to(tmp_path) for name in done.stdout.split())


def test_checkout_is_usable_uninstalled() -> None:
    code = "import ssmc.backends; print(ssmc.backends.__file__)"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == ROOT / "ssmc/backends/__init__.py"
