"""A folder of build results, addressed by what they were built from.

An entry is a folder ``root/v1/ab/abcd…`` whose name is the SHA-256 of its key parts. It is built in a
temporary folder on the same file system and renamed into place, so it is there wholly or not at all; a
file lock beside it only keeps processes from doing the same work twice. Its ``manifest.json`` lists the
sizes and hashes of its files: hashes are checked once per process, sizes at every read, and an entry
that fails is built again.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from ssmc.errors import ToolchainError

MANIFEST = "manifest.json"
LAYOUT = "v1"  # change it when entries of an older layout must not be read
LOCK_SECONDS = 600.0
STALE_SECONDS = 86400.0
NO_SPACE = {errno.ENOSPC, errno.EDQUOT}

Sizes = dict[str, int]


def default_root() -> Path:
    """``SSMC_CACHE_DIR``, else the user's cache folder."""
    chosen = os.environ.get("SSMC_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("ssmc", appauthor=False))


class Cache:
    """Build results under ``root`` (default: ``default_root()``); safe under many threads and processes.

    If the root cannot be written, results go to a temporary folder of this process, with a warning.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root) if root is not None else default_root()
        self._fallback: Path | None = None
        self._known: dict[str, tuple[Path, Sizes]] = {}

    def get(self, key_parts: Mapping[str, str], build: Callable[[Path], None]) -> Path:
        """The folder that ``build(folder)`` filled for these key parts, built now if it is not there.

        Raises ToolchainError if the disk is full, and whatever ``build`` raises; then nothing is kept.
        """
        key = digest(key_parts)
        found = self._recall(key) or self._read(self.root, key)
        if found is None and self._fallback is not None:
            found = self._read(self._fallback, key)
        if found is not None:
            return found
        try:
            return self._build_in(self.root, key, key_parts, build)
        except _Unwritable as reason:
            root = self._temporary_root(reason)
        try:
            return self._build_in(root, key, key_parts, build)
        except _Unwritable as reason:
            raise _nowhere(self.root, reason) from reason

    def _recall(self, key: str) -> Path | None:
        """An entry whose hashes this process has checked; now only the sizes are."""
        known = self._known.get(key)
        if known is None:
            return None
        folder, sizes = known
        with suppress(OSError):
            if all(os.stat(folder / name).st_size == size for name, size in sizes.items()):
                return folder
        del self._known[key]
        return None

    def _read(self, root: Path, key: str) -> Path | None:
        """The entry if it is there and undamaged, hashes and all."""
        folder = entry_folder(root, key)
        sizes = check_entry(folder, key)
        if sizes is None:
            return None
        self._known[key] = (folder, sizes)
        return folder

    def _build_in(self, root: Path, key: str, key_parts: Mapping[str, str], build: Callable[[Path], None]) -> Path:
        folder = entry_folder(root, key)
        with _disk_errors(root):
            shelf = _shelf(root, folder)
            with _lock(folder.with_name(key + ".lock")):
                found = self._read(root, key)  # another process may have built it meanwhile
                if found is not None:
                    return found
                with _scratch(shelf) as scratch:
                    inner = scratch / "entry"
                    inner.mkdir()
                    with _separate_errors():
                        build(inner)
                    write_manifest(inner, key, key_parts)
                    _install(inner, folder, key, scratch)
        found = self._read(root, key)
        if found is None:
            raise ToolchainError(
                f"the cache entry {folder} is damaged as soon as it is written",
                hint="set SSMC_CACHE_DIR to a folder on a local disk",
            )
        return found

    def _temporary_root(self, reason: Exception) -> Path:
        if self._fallback is None or not self._fallback.is_dir():
            try:
                self._fallback = Path(tempfile.mkdtemp(prefix="ssmc-cache-"))
            except OSError as error:
                raise _nowhere(self.root, error) from error
            atexit.register(_remove_own, self._fallback, os.getpid())
            warnings.warn(
                f"the cache folder {self.root} cannot be written ({reason}); compiled layers are kept in "
                f"{self._fallback} and lost when this process ends. Set SSMC_CACHE_DIR to a writable folder.",
                RuntimeWarning,
                stacklevel=4,
            )
        return self._fallback


def digest(key_parts: Mapping[str, str]) -> str:
    """The name of the entry for these key parts: 40 hexadecimal digits, independent of their order."""
    text = json.dumps(dict(key_parts), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def entry_folder(root: Path, key: str) -> Path:
    return root / LAYOUT / key[:2] / key


def write_manifest(folder: Path, key: str, key_parts: Mapping[str, str]) -> None:
    """Record the files of an entry and, in short, what it was built from."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            name = path.relative_to(folder).as_posix()
            files[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    parts = {name: text if len(text) <= 200 else f"sha256:{_sha256(text)}" for name, text in key_parts.items()}
    text = json.dumps({"key": key, "parts": parts, "files": files}, indent=1, sort_keys=True)
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def check_entry(folder: Path, key: str) -> Sizes | None:
    """The sizes of an entry's files if all are there with the hashes that its manifest states, else None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest["key"] != key:
            return None
        sizes: Sizes = {}
        for name, stated in manifest["files"].items():
            content = (folder / name).read_bytes()
            if len(content) != stated["size"] or hashlib.sha256(content).hexdigest() != stated["sha256"]:
                return None
            sizes[name] = len(content)
        return sizes
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


class _Unwritable(Exception):
    """The root of a cache cannot be written."""


class _BuildError(Exception):
    """Carries an exception of the ``build`` callable past the handling of the cache's own."""

    def __init__(self, inner: BaseException) -> None:
        self.inner = inner


@contextmanager
def _separate_errors() -> Iterator[None]:
    """Let a build's own errors pass unchanged; only a full disk is the cache's business."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        raise _BuildError(error) from error


@contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except _BuildError as error:
        raise error.inner from None
    except OSError as error:
        if error.errno in NO_SPACE:
            _raise_full(root, error)
        raise _Unwritable(error.strerror or str(error)) from error


def _raise_full(root: Path, error: OSError) -> NoReturn:
    free = "unknown"
    for folder in (root, *root.parents):
        with suppress(OSError):
            free = f"{shutil.disk_usage(folder).free / 1e6:.1f} MB"
            break
    raise ToolchainError(
        f"no space left in the cache folder {root} (free: {free})",
        hint="free some space there, or set SSMC_CACHE_DIR to a folder on another disk",
    ) from error


def _shelf(root: Path, folder: Path) -> Path:
    """Make the folders that an entry needs; return where temporary ones go, on the same file system."""
    shelf = root / LAYOUT / "tmp"
    shelf.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path in shelf.iterdir():  # left by processes that were killed
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
    return shelf


@contextmanager
def _scratch(shelf: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=shelf))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock, or go on without it where it cannot be had: it saves work, it guards nothing."""
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=LOCK_SECONDS)
    with suppress(Timeout, OSError, NotImplementedError):
        lock.acquire()
    try:
        yield
    finally:
        with suppress(OSError):
            lock.release()


def _install(built: Path, folder: Path, key: str, scratch: Path) -> None:
    """Rename a finished entry into place; if an undamaged one got there first, that one stays."""
    for attempt in range(3):
        try:
            os.rename(built, folder)
            return
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise
        if check_entry(folder, key) is not None:
            return
        with suppress(OSError):
            os.rename(folder, scratch / f"damaged{attempt}")


def _nowhere(root: Path, reason: Exception) -> ToolchainError:
    return ToolchainError(
        f"neither the cache folder {root} nor a temporary folder can be written ({reason})",
        hint="set SSMC_CACHE_DIR to a writable folder",
    )


def _remove_own(folder: Path, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
