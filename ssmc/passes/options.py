"""What a tuner may change about a plan: the knobs, what they may be, and how they are written.

    lanes=32,tile=0

Nothing here changes what a layer computes. 0 stands for the compiler's own choice, unless it is said otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from ssmc.errors import UserError


@dataclass(frozen=True)
class Knob:
    """What one option means, the targets that it concerns, and the values that it may have: numbers, or ``words``,
    each with the targets that have it; a tuner tries those in ``tried``, or all words."""

    meaning: str
    targets: tuple[str, ...]
    least: int = 0
    most: int = 0
    power: bool = False
    multiple: int = 1
    words: Mapping[str, str] = field(default_factory=dict)
    tried: tuple[int, ...] = ()

    def read(self, text: str) -> int | str | None:
        """The value that is written as ``text``; None if it is none."""
        if self.words:
            return text
        return int(text) if text.isascii() and text.isdigit() else None

    def allows(self, value: Any) -> bool:
        """Whether the option may be ``value``; its default always may."""
        if self.words:
            return value in self.words
        fits = self.least <= value <= self.most and value % self.multiple == 0
        return fits and (not self.power or value & (value - 1) == 0)

    def words_of(self, target: str) -> list[str]:
        """Those of its words that a target has."""
        return [word for word, targets in self.words.items() if target in targets.split()]

    @property
    def values(self) -> str:
        """What is allowed, in words."""
        if self.words:
            return " or ".join(self.words)
        kind = "powers of two" if self.power else f"multiples of {self.multiple}" if self.multiple > 1 else "numbers"
        return f"{kind} from {self.least} to {self.most}"


def _knob(default: int | str, meaning: str, targets: str, least: int = 0, most: int = 0, **kind: Any) -> Any:
    return field(default=default, metadata={"knob": Knob(meaning, tuple(targets.split()), least, most, **kind)})


@dataclass(frozen=True)
class PlanOptions:
    """How a Program is run, as far as that is a choice; ``KNOBS`` says of each what it means.

    ``PlanOptions.parse("lanes=32,tile=0")`` reads the form that ``str`` gives, which holds what is no default.
    Values are checked as soon as one is made: UserError, with what was expected.
    """

    lanes: int = _knob(
        0, "channels that a kernel takes at a time", "c", 1, 256, power=True, tried=(16, 32, 64, 128, 256)
    )  # fmt: skip
    tile: int = _knob(
        32, "steps of a tile of time, where states run in tiles (0: never)", "c", 0, 4096, tried=(0, 8, 16, 64, 128)
    )  # fmt: skip
    states: int = _knob(0, "states that stay in registers for a tile", "c", 1, 64, tried=(2, 4, 16))
    threads: int = _knob(
        0, "threads of a block, where it gathers no sums over lanes", "cuda", 32, 1024, multiple=32, tried=(32, 64, 256)
    )  # fmt: skip
    together: int = _knob(
        0, "blocks that a multiprocessor has room for at once, at least", "cuda", 1, 32, tried=(1, 2, 4, 8)
    )  # fmt: skip
    batch: int = _knob(0, "steps taken together, whose loads come first", "cuda", 1, 16, tried=(1, 2, 4, 8))
    ahead: int = _knob(0, "rounds of innermost loops that are written out", "cuda", 1, 16, tried=(1, 2, 4))
    shared: int = _knob(
        0, "steps of a tile, in shared memory, of what all lanes of a block read alike (1: none)", "cuda", 1, 64,
        power=True, tried=(1, 8, 16, 32),
    )  # fmt: skip
    block: int = _knob(
        0, "lanes of a program, at most, where it adds up no groups", "triton", 1, 1024, power=True,
        tried=(8, 16, 32, 64, 128, 256),
    )  # fmt: skip
    warps: int = _knob(0, "warps of a program", "triton", 1, 16, power=True, tried=(1, 2, 4, 8))
    steps: int = _knob(
        0, "steps of a thread or program, where steps do not depend on each other", "cuda triton", 1, 4096,
        tried=(4, 16, 32),
    )  # fmt: skip
    time: str = _knob(
        "auto", "how recurrences run through time", "c cuda triton",
        words={
            "auto": "c cuda triton", "in_order": "c cuda triton", "chunks": "c cuda triton", "look_back": "cuda",
            "lanes": "cuda triton",
        },
    )  # fmt: skip
    chunk: int = _knob(
        0, "steps of a chunk of time, where chunks run at once (0: as sizes ask for)", "c cuda triton",
        32, 1 << 20, multiple=32,
        tried=(64, 128, 256, 512, 1024),
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name, knob in KNOBS.items():
            value = getattr(self, name)
            if value != DEFAULTS[name] and not knob.allows(value):
                raise UserError(f"plan: {name} cannot be {value}", expected=knob.values, hint=f"{name}: {knob.meaning}")
        if self.threads * self.together > MOST_THREADS:
            raise UserError(
                f"plan: {self.together} blocks of {self.threads} threads together",
                expected=f"at most {MOST_THREADS} threads, which a multiprocessor holds",
            )

    @staticmethod
    def parse(text: str) -> PlanOptions:
        """The options that a text like ``lanes=32,tile=0`` stands for; an empty one for all defaults.

        Raises UserError for what is no NAME=VALUE, an unknown name, a name twice, a value that is not allowed.
        """
        given: dict[str, Any] = {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = (part.strip() for part in item.partition("="))
            if not equals or not name:
                raise UserError(f"plan: {item!r} is not NAME=VALUE", expected="such as lanes=32,tile=0")
            if name not in KNOBS:
                close = get_close_matches(name, KNOBS, 1)
                hint = f"did you mean `{close[0]}`?" if close else ""
                raise UserError(f"plan: there is no option `{name}`", expected=", ".join(KNOBS), hint=hint)
            if name in given:
                raise UserError(f"plan: `{name}` is given twice")
            given[name] = KNOBS[name].read(value)
            if given[name] is None:
                raise UserError(f"plan: {name} cannot be {value!r}", expected=KNOBS[name].values)
        return PlanOptions(**given)

    @property
    def chosen(self) -> Mapping[str, int | str]:
        """What is no default, by name."""
        return {name: value for name, default in DEFAULTS.items() if (value := getattr(self, name)) != default}

    def __str__(self) -> str:
        return ",".join(f"{name}={value}" for name, value in self.chosen.items())

    def describe(self) -> str:
        """A line for each option that is no default: its value and what it means."""
        lines = [f"{name:<9}{value:<6}{KNOBS[name].meaning}" for name, value in self.chosen.items()]
        return "\n".join(lines) or "as the compiler chooses"

    def check(self, target: str) -> None:
        """Raise UserError if an option does not concern a target (``c``, ``cuda``, ``triton``)."""
        for name, value in self.chosen.items():
            if target not in KNOBS[name].targets:
                raise UserError(
                    f"plan: `{name}` does not concern target {target}",
                    expected=", ".join(knobs_of(target)),
                    hint=f"it is an option of {' and '.join(KNOBS[name].targets)}",
                )
            knob = KNOBS[name]
            if knob.words and value not in knob.words_of(target):
                raise UserError(
                    f"plan: target {target} has no {name}={value}",
                    expected=" or ".join(knob.words_of(target)),
                    hint=f"{value} is for {knob.words[str(value)].replace(' ', ' and ')}",
                )

    def concerns(self, targets: Iterable[str]) -> list[str]:
        """Those of the targets that have all of these options."""
        return [target for target in targets if all(_has(target, name, v) for name, v in self.chosen.items())]


MOST_THREADS = 2048
KNOBS: Mapping[str, Knob] = {item.name: item.metadata["knob"] for item in fields(PlanOptions)}
DEFAULTS: Mapping[str, int | str] = {item.name: item.default for item in fields(PlanOptions)}  # type: ignore[misc]


def _has(target: str, name: str, value: int | str) -> bool:
    knob = KNOBS[name]
    return target in knob.targets and (not knob.words or value in knob.words_of(target))


def knobs_of(target: str) -> list[str]:
    """The names of the options that a target has."""
    return [name for name, knob in KNOBS.items() if target in knob.targets]
