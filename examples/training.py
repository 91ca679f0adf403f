"""What the examples share: text to learn, a training loop with a progress bar, bits per byte, and a figure.

Text is bytes: files are joined by byte 0, which no text contains, and a model of bytes has 256 tokens.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import sys
import sysconfig
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from ssmc.errors import SsmcError, ToolchainError, UserError

SEPARATOR = b"\0"
OTHER_PEOPLES = {"site-packages", "dist-packages"}
LITTLE_TO_LEARN = {"test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__"}  # tables, and tests' data
LARGEST_FILE = 1 << 20  # bytes

# ---------------------------------------------------------------- text


def files_below(folder: Path, pattern: str = "*", without: Iterable[str] = OTHER_PEOPLES) -> list[Path]:
    """The files of a folder, then of those inside it, in alphabetical order; UserError if there are none."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder", expected="a folder with text files")
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - set(without))
        found += [Path(place, name) for name in sorted(names) if fnmatch(name, pattern)]
    found = [path for path in found if path.is_file() and 0 < path.stat().st_size <= LARGEST_FILE]
    if not found:
        raise UserError(f"{folder} has no files that match {pattern}", hint="name a folder with text files")
    return found


def standard_library() -> list[Path]:
    """Python's own modules: text that every machine has. Tests and tables are left out."""
    return files_below(Path(sysconfig.get_paths()["stdlib"]), "*.py", OTHER_PEOPLES | LITTLE_TO_LEARN)


def split(files: Sequence[Path], one_in: int = 10) -> tuple[list[Path], list[Path]]:
    """Files to train on, and about one in ten held out. A file's side follows from its name: others change nothing."""
    held_out = [path for path in files if _code(path) % one_in == 0] or list(files[-1:])
    training = [path for path in files if path not in set(held_out)]
    if not training:
        raise UserError("there is one file, and some are held out", expected="several files")
    return training, held_out


def _code(path: Path) -> int:
    """A number that follows from the names of a file and its folder, wherever that is."""
    return zlib.crc32("/".join(path.parts[-2:]).encode())


def read(files: Iterable[Path]) -> Tensor:
    """(bytes,) uint8, the files one after another."""
    return as_bytes(path.read_bytes() for path in files)


def as_bytes(texts: Iterable[bytes]) -> Tensor:
    """(bytes,) uint8, the texts one after another, with byte 0 before each."""
    return torch.frombuffer(bytearray(b"".join(SEPARATOR + text for text in texts)), dtype=torch.uint8)


# ---------------------------------------------------------------- training


@dataclass(frozen=True)
class Recipe:
    """How much is trained on, and how: AdamW with warm-up and a cosine down to a tenth."""

    tokens: int
    learning_rate: float
    length: int = 256
    batch: int = 8
    warm_up: float = 0.05  # of all steps
    weight_decay: float = 0.1  # of linear maps only
    seed: int = 0

    @property
    def steps(self) -> int:
        return max(self.tokens // (self.batch * self.length), 1)


@dataclass
class Curve:
    """Loss over tokens seen: of each batch before it is learnt from, in bits per byte; and tokens a second."""

    tokens: list[int] = field(default_factory=list)
    bits: list[float] = field(default_factory=list)
    speed: float = 0.0

    def recent(self, steps: int = 20) -> float:
        """Mean over the last steps."""
        last = self.bits[-steps:]
        return sum(last) / len(last)


def train(model: nn.Module, text: Tensor, recipe: Recipe, label: str = "training") -> Curve:
    """Train a language model in place on windows of a text, each seen once before any is seen again.

    Args:
        model: takes ``input_ids`` and ``labels`` (batch, length) int64 and returns a mean loss, in nats.
        text: (tokens,) of any integer type; at least one window long.
    """
    windows = text.unfold(0, recipe.length, recipe.length)
    draw = torch.Generator().manual_seed(recipe.seed)
    order = torch.cat([torch.randperm(len(windows), generator=draw) for _ in range(_epochs(len(windows), recipe))])
    optimizer = torch.optim.AdamW(_groups(model, recipe.weight_decay), lr=recipe.learning_rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    model.train()
    with Watch(label, recipe.steps * recipe.batch * recipe.length) as watch:
        for step in range(recipe.steps):
            batch = windows[order[step * recipe.batch : (step + 1) * recipe.batch]].long()
            loss = model(input_ids=batch, labels=batch).loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            watch.step(batch.numel(), loss.item())
    model.eval()
    return watch.curve


def _epochs(windows: int, recipe: Recipe) -> int:
    if not windows:
        raise UserError(f"the text is shorter than {recipe.length} tokens", expected="at least one window")
    return math.ceil(recipe.steps * recipe.batch / windows)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Linear maps decay towards 0; decays, steps, gains and biases do not."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    maps = [p for name, p in trained if name.endswith("proj.weight")]
    others = [p for name, p in trained if not name.endswith("proj.weight")]
    return [{"params": maps, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _rate(step: int, recipe: Recipe) -> float:
    """Factor of the learning rate."""
    warm = max(round(recipe.warm_up * recipe.steps), 1)
    if step < warm:
        return (step + 1) / warm
    along = (step - warm) / max(recipe.steps - warm, 1)
    return 0.55 + 0.45 * math.cos(math.pi * along)


@torch.no_grad()
def bits_per_byte(
    model: nn.Module, text: Tensor, most: int = 1 << 16, length: int = 1024, bytes_per_token: float = 1.0
) -> float:
    """How many bits a model needs for a byte of a text that it has not seen.

    The text, (tokens,), is cut into pieces of ``length`` tokens, of which at most ``most`` tokens are taken, spread
    over all of it; one is predicted from those before it in its piece and from the last one of the piece before.
    """
    length = min(length, len(text) - 1)
    pieces = text.unfold(0, length + 1, length)
    pieces = pieces[:: math.ceil(len(pieces) * length / most)]
    nats, count = 0.0, 0
    model.eval()
    for some in pieces.split(8):
        logits = model(input_ids=some[:, :-1].long()).logits
        nats += float(functional.cross_entropy(logits.flatten(0, 1), some[:, 1:].long().flatten(), reduction="sum"))
        count += some[:, 1:].numel()
    return nats / count / math.log(2) / bytes_per_token


# ---------------------------------------------------------------- what one sees


class Watch:
    """A progress bar with loss, bits per byte, tokens a second and time left; without a terminal a line now and then.

    Args:
        label: what is done.
        tokens: how many there are.
        bytes_per_token: 1 for a model of bytes.
        seconds: between lines, where there is no terminal.
    """

    def __init__(self, label: str, tokens: int, bytes_per_token: float = 1.0, seconds: float = 5.0) -> None:
        self.curve = Curve()
        self._label, self._tokens, self._seconds = label, tokens, seconds
        self._bits_per_nat = 1 / math.log(2) / bytes_per_token
        self._done = 0
        self._began: tuple[float, int] | None = None
        self._printed = -math.inf
        columns = (TextColumn("{task.description}"), BarColumn(12), TextColumn("{task.fields[facts]}"))
        self._bar = Progress(*columns, TimeRemainingColumn(compact=True), console=Console(file=sys.stdout))
        self._task: TaskID | None = None

    def __enter__(self) -> Watch:
        if self._bar.console.is_terminal:
            self._bar.start()
            self._task = self._bar.add_task(self._label, total=self._tokens, facts="the first step also compiles")
        return self

    def step(self, tokens: int, loss: float) -> None:
        """Count tokens whose mean loss was this, in nats per token."""
        self._done += tokens
        self.curve.tokens.append(self._done)
        self.curve.bits.append(loss * self._bits_per_nat)
        now = time.perf_counter()
        if self._began is None:  # the first step also compiles, and tells nothing of how fast the others are
            self._began = now, self._done
            return
        speed = self.curve.speed = (self._done - self._began[1]) / (now - self._began[0])
        bits = self.curve.recent()
        nats = bits / self._bits_per_nat
        facts = f"loss {nats:.3f}  {bits:.2f} bits/byte  {speed:,.0f} tokens/s"
        if self._task is not None:
            self._bar.update(self._task, completed=self._done, facts=facts)
        elif now - self._printed >= self._seconds or self._done >= self._tokens:
            self._printed = now
            left = (self._tokens - self._done) / speed
            print(f"{self._label}  {self._done / self._tokens:4.0%}  {facts}  {left:.0f} s left", flush=True)

    def __exit__(self, *error: object) -> None:
        if self._task is not None:
            self._bar.stop()


def print_table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table; columns of numbers stand to the right."""
    rows = list(rows)
    table = Table(*names, box=box.SIMPLE_HEAD if names else None, show_header=bool(names), pad_edge=False)
    for name in () if names else rows[0]:
        table.add_column(name)
    for column, values in zip(table.columns, zip(*rows, strict=True), strict=True):
        if all(value[-1:].isdigit() and value[:1] in "-0123456789" for value in values):
            column.justify = "right"
        column.no_wrap = True
    for row in rows:
        table.add_row(*(escape(value) for value in row))
    Console(file=sys.stdout).print(table)


def save_figure(
    path: Path, curves: Mapping[str, Curve], marks: Mapping[str, tuple[Sequence[int], Sequence[float]]] | None = None
) -> None:
    """A picture of losses over tokens; ``marks`` are points beside them, such as losses on files held out."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for label, curve in curves.items():
        (faint,) = axes.plot(curve.tokens, curve.bits, linewidth=0.6, alpha=0.3)
        axes.plot(curve.tokens, _smooth(curve.bits), color=faint.get_color(), label=label)
    for label, (tokens, bits) in (marks or {}).items():
        axes.plot(tokens, bits, "o", label=label)
    axes.set(xlabel="tokens", ylabel="bits per byte", ylim=(0, None))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _smooth(values: Sequence[float], keep: float = 0.95) -> list[float]:
    """Exponential averages, of which the first are not drawn towards 0."""
    found, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        found.append(total / weight)
    return found


# ---------------------------------------------------------------- how an example starts


def options(description: str | None, output: str) -> argparse.ArgumentParser:
    """The options that all examples have: ``--quick``, ``--seed``, ``--output``."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="much too little of everything, to see that it runs")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default 0)")
    parser.add_argument("--output", type=Path, default=Path("build") / output, help=f"folder (default build/{output})")
    return parser


def positive(text: str) -> int:
    """A number of an option, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def need(*libraries: str) -> None:
    """ToolchainError unless these can be imported: they come with the extras ``models`` and ``train``."""
    missing = [name for name in ("transformers", *libraries) if importlib.util.find_spec(name) is None]
    if missing:
        hint = "make demo, which installs all that is needed; or pip install -e '.[models,train]'"
        raise ToolchainError(f"{' and '.join(missing)} cannot be imported", hint=hint)
    from transformers.utils import logging

    logging.disable_progress_bar()  # of loading and saving, which take no time here
    logging.set_verbosity_error()


def start(main: Callable[[], None]) -> None:
    """Run it; what is wrong is said without a traceback."""
    try:
        main()
    except (SsmcError, OSError) as error:
        sys.exit(str(error) if isinstance(error, SsmcError) else f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped")
