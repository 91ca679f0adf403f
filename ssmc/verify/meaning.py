"""What the variants of a layer mean, said with the layer itself: cut, run, join; turn, run, turn; and so on.

Everything here runs the Program as written, never a derived one. ``run`` is how: as it is, or disturbed, so that what
rounding does to a variant is found in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from ssmc.analysis import Counter, StateTensor, carried_state
from ssmc.ir import Program, Size, Tensor, evaluate_int

from .evaluate import Array, Arrays, Itself

# Every tensor of a Program for some inputs.
Run: TypeAlias = Callable[[Program, Mapping[str, Array]], Arrays]


# ---------------------------------------------------------------- along the sequence


def alike(program: Program, time: str) -> frozenset[str]:
    """The sequence axis and those that are as long by their declaration."""

    def root(axis: str) -> str:
        extent = program.axis(axis).extent
        return root(extent.axis) if isinstance(extent, Size) else axis

    return frozenset(axis.name for axis in program.axes if root(axis.name) == root(time))


def cut(inputs: Mapping[str, Array], tensors: Sequence[Tensor], time: str, start: int, end: int) -> Arrays:
    """A stretch of every input along the sequence axis; inputs without it are whole."""
    return {t.name: part(inputs[t.name], t.axes, time, start, end) for t in tensors if t.name in inputs}


def part(array: Array, axes: Sequence[str], time: str, start: int, end: int) -> Array:
    """``array`` from ``start`` to ``end`` along ``time``, if it has that axis."""
    return _at(array, axes, time, slice(start, end))


def _at(array: Array, axes: Sequence[str], axis: str, place: slice | Array) -> Array:
    if axis not in axes:
        return array
    where: list[slice | Array] = [slice(None)] * array.ndim
    where[axes.index(axis)] = place
    return array[tuple(where)]


def join(pieces: Sequence[Mapping[str, Array]], program: Program, time: str) -> Arrays:
    """The outputs of consecutive stretches as those of the whole."""
    found: Arrays = {}
    for name in program.outputs:
        axes = program.equation(name).axes
        parts = [piece[name] for piece in pieces]
        found[name] = np.concatenate(parts, axes.index(time)) if time in axes else parts[-1]
    return found


def final_state(program: Program, values: Mapping[str, Array], sizes: Mapping[str, int], time: str) -> Arrays:
    """The state after the last step, by name: the last values of what is read at a lag, and how many steps there
    were. What lies before the start is left out, so an array may be shorter than the state that it is the end of."""
    found: Arrays = {}
    for item in _carried(Itself(program)):
        if item.axis != time:
            continue
        if isinstance(item, Counter):
            found[time] = np.asarray(length_of(program, values, time))
        elif item.depth is not None:
            depth = evaluate_int(item.depth, sizes)
            end = values[item.name].shape[item.axes.index(time)]
            found[item.name] = part(values[item.name], item.axes, time, max(0, end - depth), end)
    return found


@lru_cache(maxsize=128)
def _carried(of: Itself) -> tuple[StateTensor | Counter, ...]:
    return carried_state(of.program)


def length_of(program: Program, values: Mapping[str, Array], time: str) -> int:
    """How long the sequence is that these values are of."""
    found = (values[t.name].shape[t.axes.index(time)] for t in program.tensors().values() if time in t.axes)
    return next(found)


def ends(
    program: Program, time: str, found: Mapping[str, Array], expected: Mapping[str, Array]
) -> tuple[Arrays, Arrays]:
    """Of a state that was found, and the final state expected, what can be compared: the last values of each."""
    mine: Arrays = {}
    for name, value in expected.items():
        if name == time and name in found:
            mine[name] = np.asarray(found[name]).reshape(())
        elif name in found:
            axis = program.tensors()[name].axes.index(time)
            length, kept = found[name].shape[axis], value.shape[axis]
            mine[name] = found[name].take(range(length - kept, length), axis)
    return mine, {name: value for name, value in expected.items() if name in mine}


def pieces_of(length: int, size: int) -> list[int]:
    """Where pieces of ``size`` end, the last excepted."""
    return list(range(size, length, size))


# ---------------------------------------------------------------- turned around


def turned(program: Program, time: str, inputs: Mapping[str, Array], run: Run) -> Arrays:
    """Turn every input around, run, turn every output around."""
    axes = alike(program, time)

    def flip(arrays: Mapping[str, Array], tensors: Sequence[Tensor]) -> Arrays:
        places = {t.name: [n for n, axis in enumerate(t.axes) if axis in axes] for t in tensors}
        return {name: np.flip(arrays[name], tuple(place)) for name, place in places.items()}

    values = run(program, flip(inputs, program.inputs))
    return flip(values, [program.equation(name).tensor for name in program.outputs])


# ---------------------------------------------------------------- documents


@dataclass(frozen=True)
class Documents:
    """Stretches of one array, each a sequence of its own; shared by all rows, or for each row of ``batch``."""

    lengths: tuple[tuple[int, ...], ...]
    batch: tuple[str, ...] = ()

    def inputs(self, time: str) -> Arrays:
        """What a packed Program takes beside the inputs of the layer."""
        rows = []
        for lengths in self.lengths:
            ends = np.cumsum(np.array(lengths, np.int64))
            doc = np.repeat(np.arange(len(lengths)), lengths)
            rows.append((doc, ends - np.array(lengths, np.int64), ends))
        arrays = [np.stack(parts) if self.batch else parts[0] for parts in zip(*rows, strict=True)]
        return dict(zip((f"{time}.doc", f"{time}.start", f"{time}.end"), arrays, strict=True))

    def stretches(self) -> Iterator[tuple[int, int, int, int]]:
        """(row, document, start, end) of every document."""
        for row, lengths in enumerate(self.lengths):
            ends = np.cumsum(lengths)
            for number, (length, end) in enumerate(zip(lengths, ends, strict=True)):
                yield row, number, int(end - length), int(end)


def packed(program: Program, time: str, inputs: Mapping[str, Array], documents: Documents, run: Run) -> Arrays:
    """Cut the documents out, run each, join. What has one value for a sequence gets an axis of documents, after
    those of the batch."""
    pieces: dict[tuple[int, int], Arrays] = {}
    for row, number, start, end in documents.stretches():
        mine = _row(program, inputs, documents.batch, row)
        pieces[row, number] = run(program, _cut_alike(program, mine, time, slice(start, end)))
    found: Arrays = {}
    for name in program.outputs:
        axes = program.equation(name).axes
        rows = []
        for row, lengths in enumerate(documents.lengths):
            parts = [pieces[row, number][name] for number in range(len(lengths))]
            along = [axis for axis in axes if axis in alike(program, time)]
            if along:
                rows.append(np.concatenate(parts, axes.index(along[0])))
            else:
                rows.append(np.stack(parts, 1 if set(documents.batch) & set(axes) else 0))
        found[name] = np.concatenate(rows, axes.index(documents.batch[0])) if documents.batch else rows[0]
    return found


def _row(program: Program, inputs: Mapping[str, Array], batch: Sequence[str], row: int) -> Arrays:
    """The inputs of one row of the batch, which keeps its axis."""
    found = {t.name: inputs[t.name] for t in program.inputs}
    for axis in batch:
        found = {t.name: _at(found[t.name], t.axes, axis, slice(row, row + 1)) for t in program.inputs}
    return found


def _cut_alike(program: Program, inputs: Mapping[str, Array], time: str, place: slice | Array) -> Arrays:
    found = dict(inputs)
    for axis in alike(program, time):
        found = {t.name: _at(found[t.name], t.axes, axis, place) for t in program.inputs}
    return found


# ---------------------------------------------------------------- gaps


def closed_up(
    program: Program, time: str, inputs: Mapping[str, Array], valid: Array, batch: str | None, run: Run
) -> tuple[Arrays, list[Arrays]]:
    """Move the valid tokens of each row together, run, put the results back, 0 elsewhere; and what each row gave.

    ``valid`` varies along ``batch``, if there is one, and the sequence.
    """
    rows = valid if batch else valid[None]
    runs = []
    for row, holds in enumerate(rows):
        mine = _row(program, inputs, (batch,) if batch else (), row)
        runs.append(run(program, _cut_alike(program, mine, time, np.flatnonzero(holds))))
    found: Arrays = {}
    for name in program.outputs:
        axes = program.equation(name).axes
        places = [n for n, axis in enumerate(axes) if axis in alike(program, time)]
        parts = [_put_back(values[name], places, holds) for values, holds in zip(runs, rows, strict=True)]
        found[name] = np.concatenate(parts, axes.index(batch)) if batch else parts[0]
    return found, runs


def _put_back(array: Array, places: Sequence[int], holds: Array) -> Array:
    """``array`` with zeros along those axes where nothing holds."""
    for place in places:
        shape = list(array.shape)
        shape[place] = len(holds)
        result = np.zeros(shape, array.dtype)
        np.moveaxis(result, place, 0)[holds] = np.moveaxis(array, place, 0)
        array = result
    return array
