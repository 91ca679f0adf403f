"""Checkpoints of other libraries as tables: which of their tensors becomes which of ours, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ssmc.errors import Diagnostic, UserError

Reader = Callable[[Tensor], Sequence[Tensor]]
Writer = Callable[[Sequence[Tensor]], Tensor]


def _alone(value: Tensor) -> Sequence[Tensor]:
    return (value,)


def _only(values: Sequence[Tensor]) -> Tensor:
    return values[0]


@dataclass(frozen=True)
class Row:
    """One tensor of theirs.

    Attributes:
        theirs: its name.
        ours: the names of those that it becomes.
        read, write: theirs → ours, and back; by default they are the same tensor.
        optional: it may be missing, since others say what it holds.
    """

    theirs: str
    ours: tuple[str, ...]
    read: Reader = _alone
    write: Writer = _only
    optional: bool = False


@dataclass(frozen=True)
class Format:
    """How a library stores the checkpoints of one kind of model.

    Attributes:
        name: of the library.
        model: the class that they become, as transformers and this package name it.
        config: what describes the model: from the library's configuration, or from the tensors where it stores none.
        settings: the library's configuration of a model, None where it stores none; UserError if it has none for it.
        rows: its tensors.
    """

    name: str
    model: Callable[[], type[PreTrainedModel]]
    config: Callable[[Mapping[str, Any] | None, Mapping[str, Tensor], Mapping[str, Any]], PreTrainedConfig]
    settings: Callable[[PreTrainedConfig], dict[str, Any] | None]
    rows: Callable[[PreTrainedConfig], list[Row]]

    def read(self, config: PreTrainedConfig, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors; UserError, with every mistake, if theirs are not those of such a model."""
        rows = self.rows(config)
        expected = {row.theirs: row.write(shapes).shape for row, shapes in self._shapes(config, rows)}
        optional = {row.theirs for row in rows if row.optional}
        _check(self.name, theirs, expected, optional)
        made: dict[str, Tensor] = {}
        for row in rows:
            if row.theirs in theirs:
                made.update(zip(row.ours, row.read(theirs[row.theirs]), strict=True))
        return {name: value.contiguous() for name, value in made.items()}

    def write(self, config: PreTrainedConfig, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their tensors; UserError, with every mistake, if ours are not those of such a model."""
        rows = self.rows(config)
        shapes = {
            name: shape.shape
            for row, values in self._shapes(config, rows)
            for name, shape in zip(row.ours, values, strict=True)
        }
        optional = {name for row in rows if row.optional for name in row.ours}
        _check("transformers", ours, shapes, optional)
        return {
            row.theirs: row.write([ours[name] for name in row.ours]).contiguous() for row in rows if row.ours[0] in ours
        }

    def _shapes(self, config: PreTrainedConfig, rows: Sequence[Row]) -> Iterator[tuple[Row, list[Tensor]]]:
        """For each row ours, without memory."""
        with torch.device("meta"):
            known = self.model()(config).state_dict()
        for row in rows:
            yield row, [known[name] for name in row.ours]


def _check(library: str, found: Mapping[str, Tensor], expected: Mapping[str, torch.Size], optional: set[str]) -> None:
    """Raise UserError that lists what is missing, what nobody asked for, and what has another shape."""
    missing = [name for name in expected if name not in found and name not in optional]
    unexpected = [name for name in found if name not in expected]
    wrong = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    diagnostics = [
        Diagnostic(f"{len(names)} tensors of a checkpoint of {library} {what}: {_listed(names)}")
        for names, what in (
            (missing, "are missing"),
            (unexpected, "belong to no such model"),
            (wrong, "have another shape"),
        )
        if names
    ]
    if diagnostics:
        raise UserError(diagnostics)


def _listed(names: Sequence[str], most: int = 20) -> str:
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
