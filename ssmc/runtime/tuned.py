"""What tuning has found: which plan a kind of call is best run with, on which device, for which extents.

One file for each layer, kind of call, target, device and its tools, in ``<cache>/tuned``. In it, extents fall into
buckets: those of batch and time are rounded up to powers of two, others count as they are. A bucket holds all trials
and the winner, if one was confirmed. Files are data: copied to another machine of the same kind they serve there.

``SSMC_TUNED=0`` makes layers ignore them.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ssmc.errors import ToolchainError, UserError

FOLDER, VERSION = "tuned", 1
MEASURED = "measured"


@dataclass(frozen=True)
class Subject:
    """What is tuned: a kind of call (``specialise.Kind.text``) of the layer whose ``texts`` have that digest, run as a
    target (``c``, ``cuda``, ``triton``) on a device with its tools, such as driver and compiler."""

    layer: str
    texts: str
    kind: str
    target: str
    device: str
    tools: str

    @property
    def key(self) -> str:
        """The name of its file."""
        parts = [self.texts, self.kind, self.target, self.device, self.tools]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Trial:
    """One plan that was tried. ``outcome``: ``measured``, or why it was not: ``refused`` (the compiler says no),
    ``pruned`` (not worth measuring), ``wrong`` (other values), ``crashed``, ``late``. ``ratio``: its median time over
    that of the compiler's own plan, measured in turns, of which it ``won`` that share; ``seconds``: its median."""

    plan: str
    outcome: str
    ratio: float | None = None
    seconds: float | None = None
    note: str = ""
    won: float | None = None

    @property
    def result(self) -> str:
        """What became of it, for people."""
        return f"{self.outcome}: {self.note}" if self.ratio is None else f"{self.ratio:.3f} of the compiler's own plan"


@dataclass(frozen=True)
class Winner:
    """The plan to use, an empty one where the compiler's own is best; ``ratio`` is that of the confirming run."""

    plan: str
    ratio: float
    when: str


@dataclass
class Bucket:
    """What is known for extents that fall together. ``rounded``: the axes that are batch and time."""

    extents: dict[str, int]
    rounded: tuple[str, ...]
    trials: dict[str, Trial] = field(default_factory=dict)
    winner: Winner | None = None

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether these extents fall into it."""
        return all(axis in sizes and self._place(axis, sizes[axis]) == n for axis, n in self.extents.items())

    def _place(self, axis: str, extent: int) -> int:
        return power_above(extent) if axis in self.rounded else extent

    def describe(self) -> str:
        """Its extents, for people."""
        return ", ".join(f"#{axis} {'≤' if axis in self.rounded else '='} {n}" for axis, n in self.extents.items())


def power_above(extent: int) -> int:
    """The power of two that an extent is rounded up to."""
    return 1 << max(0, extent - 1).bit_length()


def bucket_of(sizes: Mapping[str, int], rounded: Iterable[str]) -> Bucket:
    """The bucket, with nothing in it, for these extents."""
    together = tuple(axis for axis in rounded if axis in sizes)
    return Bucket({axis: power_above(n) if axis in together else n for axis, n in sizes.items()}, together)


class Results:
    """The files under ``root``."""

    def __init__(self, root: Path) -> None:
        self.folder = root / FOLDER
        self._read: dict[str, tuple[tuple[int, int], list[Bucket]]] = {}

    def path(self, subject: Subject) -> Path:
        return self.folder / f"{subject.key}.json"

    def buckets(self, subject: Subject) -> list[Bucket]:
        """All that is known of a subject; nothing where its file is absent or unreadable."""
        path = self.path(subject)
        try:
            about = path.stat()
        except OSError:
            return []
        state = (about.st_mtime_ns, about.st_size)
        known = self._read.get(subject.key)
        if known is None or known[0] != state:
            try:
                known = state, _buckets(json.loads(path.read_bytes()))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                known = state, []
            self._read[subject.key] = known
        return known[1]

    def winner(self, subject: Subject, sizes: Mapping[str, int]) -> Winner | None:
        """The confirmed winner for these extents."""
        return next((b.winner for b in self.buckets(subject) if b.winner and b.holds(sizes)), None)

    def bucket(self, subject: Subject, fresh: Bucket) -> Bucket:
        """What is stored for a bucket, or that bucket."""
        return next((b for b in self.buckets(subject) if b.extents == fresh.extents), fresh)

    def write(self, subject: Subject, bucket: Bucket) -> None:
        """Store a bucket beside those that are there; ToolchainError if the folder cannot be written."""
        from filelock import FileLock

        path = self.path(subject)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                others = [b for b in self.buckets(subject) if b.extents != bucket.extents]
                made = {"version": VERSION, **asdict(subject), "buckets": [asdict(b) for b in (*others, bucket)]}
                _replace(path, json.dumps(made, indent=1, ensure_ascii=False) + "\n")
        except OSError as error:
            raise ToolchainError(f"{path} cannot be written: {error.strerror or error}") from error

    # ------------------------------------------------------------ elsewhere

    def exported(self, layers: Iterable[str] = ()) -> dict[str, Any]:
        """All results, or those of the layers named, as one object."""
        wanted = set(layers)
        found = [json.loads(path.read_bytes()) for path in sorted(self.folder.glob("*.json"))]
        return {"version": VERSION, "results": [item for item in found if not wanted or item["layer"] in wanted]}

    def take_in(self, given: Any) -> list[Subject]:
        """Store what ``exported`` gave, on this machine or another; a bucket that is there already gets the trials that
        it lacks, and the winner that was found last. The subjects; UserError if it is something else."""
        try:
            if given["version"] != VERSION:
                raise UserError(f"results of version {given['version']}", expected=f"version {VERSION}")
            found = [(_subject(item), _buckets(item)) for item in given["results"]]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError("this is no export of tuning results", hint="ssmc tune --export FILE writes one") from error
        for subject, buckets in found:
            for bucket in buckets:
                self.write(subject, _merged(self.bucket(subject, bucket), bucket))
        return [subject for subject, _ in found]


def _merged(known: Bucket, other: Bucket) -> Bucket:
    trials = {**other.trials, **known.trials}
    winners = [w for w in (known.winner, other.winner) if w]
    return Bucket(known.extents, known.rounded, trials, max(winners, key=lambda w: w.when, default=None))


def _subject(made: Mapping[str, Any]) -> Subject:
    return Subject(*(made[name] for name in ("layer", "texts", "kind", "target", "device", "tools")))


def _buckets(made: Mapping[str, Any]) -> list[Bucket]:
    return [
        Bucket(
            {axis: int(n) for axis, n in item["extents"].items()},
            tuple(item["rounded"]),
            {plan: Trial(**trial) for plan, trial in item["trials"].items()},
            Winner(**item["winner"]) if item["winner"] else None,
        )
        for item in made["buckets"]
    ]


def _replace(path: Path, text: str) -> None:
    """Write a file wholly or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def is_used() -> bool:
    """Whether layers ask for results at all."""
    return os.environ.get("SSMC_TUNED", "") != "0"
