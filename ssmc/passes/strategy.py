"""Program → Program: how its recurrences run through time, as a plan says or as a model of cost chooses.

    time in order:   n steps, each of which takes a latency
    in p parts:      2 n / p steps, and p steps of the carry between parts

A device runs many threads at once, and one for each channel of each sequence is often not enough: then time is cut,
into as many parts as there is room for. What a call costs follows from its extents, and so does the length of parts,
which is an extent that the text is given like all others: one text serves all sizes, results depend on nothing else,
and where there is one part, time runs in order and nothing else is launched.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from ssmc.ir import INT, OPERATIONS, Const, Expr, Op, Program, Size, Where, dependence, walk

from .chunks import chunks
from .options import PlanOptions
from .recompute import CHUNK

_IN_PARTS = ("chunks", "look_back", "lanes")  # ways through time that cut it
_MOST_PARTS = 256  # of a sequence: the carry takes a step for each
_SHORTEST = 128  # steps of a part
_WORTH_IT = 512  # steps of a sequence, from which on parts are worth two more launches
_PAYS = 2  # parts for which the second run through time pays
_PAYS_TWICE = 6  # the same where each step takes exponentials, which then are what there is most of


@dataclass(frozen=True)
class Device:
    """What keeps a device busy, of a model and not measured: so many threads, each with so many neighbouring channels
    of a sequence."""

    threads: int
    channels: int


PROCESSOR = Device(16, 64)
GPU = Device(1 << 16, 1)  # a quarter of what an H200 holds


def timed(program: Program, options: PlanOptions, device: Device) -> Program:
    """The Program with its recurrences as ``options`` say: in order, or in chunks, of so many steps or, where that is
    not said, of as many as a device and the sizes of each call ask for.

    Raises Unsupported where chunks are asked for that a recurrence does not have.
    """
    if options.time not in _IN_PARTS:
        return program
    if options.chunk or options.time == "lanes":
        return chunks(program, options.chunk or CHUNK)
    return chunks(program, by_sizes=lambda time, points: _steps(program, time, points, device))


def _steps(program: Program, time: str, points: tuple[str, ...], device: Device) -> Expr:
    """How many steps a part of ``time`` has, where the recurrences along it run for all ``points`` at once."""
    sizes: list[Expr] = [Size(axis) for axis in points] or [_int(1)]
    if device.channels > 1:
        sizes[-1] = _in_blocks(sizes[-1], _int(device.channels))
    threads = reduce(lambda a, b: Op("mul", (a, b)), sizes)
    length, pays = Size(time), _PAYS_TWICE if _takes_exponentials(program) else _PAYS
    parts = Op(
        "minimum", (Op("floordiv", (_int(device.threads), Op("maximum", (threads, _int(1))))), _int(_MOST_PARTS))
    )
    worth = Op("and", (Op("ge", (parts, _int(pays))), Op("ge", (length, _int(_WORTH_IT)))))
    whole = Op("mul", (Where(worth, parts, _int(1)), _int(CHUNK)))
    return Op("maximum", (Op("mul", (_in_blocks(length, whole), _int(CHUNK))), _int(_SHORTEST)))


def _in_blocks(extent: Expr, each: Expr) -> Expr:
    """How many blocks of so many there are, the last of which may be smaller."""
    return Op("floordiv", (Op("sub", (Op("add", (extent, each)), _int(1))), each))


def _takes_exponentials(program: Program) -> bool:
    """Whether recurrences do, in themselves or in what belongs to them alone."""
    names = {name for loop in dependence(program).recurrences for name in loop.equations()}
    nodes = [node for e in program.equations if e.name in names for node in walk(e.expr)]
    return any(isinstance(node, Op) and OPERATIONS[node.op].exponentials > 0 for node in nodes)


def _int(value: int) -> Const:
    return Const(value, INT)
