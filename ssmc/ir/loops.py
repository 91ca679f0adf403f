"""Loops: what a C-like target spells out. Kernels of groups of statements over scalar nodes.

A kernel runs once per point of its grid (parallel axes; a block of lanes counts as one point). It
runs ``before`` once, ``step`` once per time step, ``after`` once. Where time falls into chunks, ``enter``
runs at the start of each chunk and ``rebuild`` once per step, upwards, ahead of the chunk's ``step``s. Each
is a list of groups; a group is
one loop nest: ``outer`` loops, inside them ``inner`` loops over which accumulators gather, and in the
innermost body first the statements that are equal for all lanes, then one loop over the lanes.

An assigned node is a variable: a scalar of its group's body (``local``), or an array over inner axes
and lanes that lives as long as the kernel instance (``kernel``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from .program import Program
from .scalar import Node
from .types import DType

LANE_GROUP = 256  # lanes whose sum is one part of a sum over lanes


@dataclass(frozen=True)
class Variable:
    """A named value: ``dims`` are inner axes in order; ``lanes`` adds one entry per lane, ``chunk`` one for
    each step of a chunk of time."""

    name: str
    type: DType
    dims: tuple[str, ...]
    lanes: bool
    local: bool
    chunk: bool = False


@dataclass(frozen=True)
class Let:
    """``variable = node`` at the present loop point."""

    variable: Variable
    node: Node


@dataclass(frozen=True)
class Accumulate:
    """Fold ``node.args`` into ``variable`` (a ``reduce`` node); starts afresh at each outer point."""

    variable: Variable
    node: Node


@dataclass(frozen=True)
class Store:
    """Write to memory: element ``indices`` (one node per axis) of ``tensor``. ``once`` are grid axes
    along which the tensor does not vary: only the first point of them writes; of those in ``last`` only the last."""

    tensor: str
    part: str
    indices: tuple[Node, ...]
    node: Node
    once: tuple[str, ...] = ()
    last: tuple[str, ...] = ()


@dataclass(frozen=True)
class RingSet:
    """Write a carried value. ``lag`` 0 is the present step; before the first step, lag 1 is the value
    that the first step reads at ``t-1``, and so on. ``indices`` are inner indices."""

    tensor: str
    part: str
    lag: int
    indices: tuple[Node, ...]
    node: Node


@dataclass(frozen=True)
class LaneSum:
    """Add to a sum over a group of lanes: ``dims`` are its inner axes; it is written at the end of a chunk."""

    tensor: str
    part: str
    dims: tuple[str, ...]
    node: Node


@dataclass(frozen=True)
class Add:
    """Add to an element of memory, at ``indices``, where ``condition`` holds."""

    tensor: str
    part: str
    indices: tuple[Node, ...]
    condition: Node
    node: Node


Statement: TypeAlias = Let | Store | RingSet | Accumulate | LaneSum | Add


def operands(statement: Statement) -> tuple[Node, ...]:
    """The nodes that a statement uses: where it writes, whether, and what."""
    match statement:
        case Let(node=node):
            return (node,)
        case Accumulate(node=node) | LaneSum(node=node):
            return (node,)
        case Store(indices=indices, node=node) | RingSet(indices=indices, node=node):
            return (*indices, node)
        case Add(indices=indices, condition=condition, node=node):
            return (*indices, condition, node)


@dataclass
class Group:
    """One loop nest; see the module's head."""

    outer: tuple[str, ...]
    inner: tuple[str, ...]
    scalars: list[Statement] = field(default_factory=list)
    lanes: list[Statement] = field(default_factory=list)

    @property
    def axes(self) -> tuple[str, ...]:
        return (*self.outer, *self.inner)

    @property
    def statements(self) -> list[Statement]:
        return [*self.scalars, *self.lanes]


@dataclass(frozen=True)
class Ring:
    """A carried value: the last ``depth`` steps of it, in ``slots`` places (1: updated in place). It starts
    as zeros where ``before`` writes nothing else into it. A ``history`` holds all steps of a chunk of time,
    after the ``depth`` before it."""

    tensor: str
    parts: tuple[str, ...]
    type: DType
    dims: tuple[str, ...]
    lanes: bool
    depth: int
    slots: int
    history: bool = False


@dataclass(frozen=True)
class Tile:
    """Time in tiles of ``steps``, axis ``axis`` in blocks of ``states`` (which divides it): the group
    ``group`` of ``step`` runs block by block through a tile. ``crossing`` names the variables that
    live for a whole tile."""

    steps: int
    axis: str
    states: int
    group: int
    crossing: frozenset[str]


@dataclass(frozen=True)
class Limits:
    """What a GPU offers to one block: bytes of ``shared`` memory, and ``threads``."""

    shared: int
    threads: int = 1024


@dataclass(frozen=True)
class Halved:
    """How often a plan for a GPU is halved: the lanes whose sum is one part of a sum over lanes, and ``kernels``, by
    name: tiles of Triton, of CUDA C the blocks that a multiprocessor has room for at once. Where time runs as sizes
    choose, it may be left at ``in_order``."""

    sums: int = 0
    kernels: Mapping[str, int] = field(default_factory=dict)
    in_order: bool = False

    def again(self, kernels: Iterable[str], summing: Iterable[str]) -> Halved:
        """Once more for these kernels; those that are ``summing`` have as many lanes as sums do."""
        more = {name: self.kernels.get(name, 0) + 1 for name in kernels}
        return replace(self, sums=self.sums + any(name in more for name in summing), kernels={**self.kernels, **more})

    @property
    def most(self) -> int:
        return max(self.sums, *self.kernels.values(), 0)


@dataclass(frozen=True)
class SharedTile:
    """What a block fetches into shared memory for so many ``steps`` of time: the ``loads`` that are the same for all of
    its lanes, by number of node, each with its shape at a step; see ``passes.shared_reads``. Two tiles take ``bytes``:
    the one in use and the next."""

    steps: int
    loads: Mapping[int, tuple[Node, tuple[int, ...]]]
    bytes: int


@dataclass(frozen=True)
class Block:
    """How a kernel is spread over the threads of a GPU, one for each point of its grid and lane; see
    ``passes.blocks``.

    ``threads`` of a block, at most; ``together`` blocks should have room on a multiprocessor at once. ``grouped``: a
    block is one group of lanes, for which it fetches a ``tile`` and whose sums it gathers, at each step if
    ``each_step``, else at the end of each chunk; where it is not, threads are dealt out along the whole grid, lanes
    fastest. ``steps`` of time are one thread's where steps do not depend on each other (0: all of them). Loops over
    ``unrolled`` axes are written out, so that what is kept along them stays in registers; of other innermost loops
    ``ahead`` rounds are, so that their loads are issued together. ``batch`` steps are taken together: their ``loads``,
    by number of node and section, come first.
    ``rows`` are the loads of a group, by section and place in it, that are fetched whole ahead of its innermost loop.
    ``shared`` variables, and rings of ``shared_rings``, lie in shared memory. In ``shifted`` rings all values move on
    by one place after each step."""

    threads: int
    together: int
    grouped: bool
    each_step: bool
    steps: int
    unrolled: frozenset[str]
    ahead: int
    shared: frozenset[str]
    shared_rings: frozenset[str]
    shifted: frozenset[str]
    batch: int = 1
    loads: Mapping[tuple[str, int], Node] = field(default_factory=dict)
    rows: Mapping[tuple[str, int], tuple[Node, ...]] = field(default_factory=dict)
    tile: SharedTile | None = None


@dataclass(frozen=True)
class Tiles:
    """How a kernel is dealt out to programs that work on whole tiles, see ``passes.tiles_of_lanes``.

    A program takes ``block`` neighbours along ``lane`` (0: there is no such axis) at one point of the rest of the
    grid, and ``steps`` of time where steps do not depend on each other (0: all of them). Inner axes in ``axes`` are
    dimensions of its tiles, in that order, after the lanes; along all others it loops. ``warps`` work on a program.
    Of the carried values those in ``moving`` are as many variables as steps, which move on by one after each step;
    those in ``remembered``, and variables of that name, lie in memory of the program's own, and reads with a number in
    ``addressed`` are made there. Variables in ``reloaded`` are fetched from there ahead of each loop over a chunk."""

    lane: str | None
    block: int
    steps: int
    axes: tuple[str, ...]
    warps: int
    moving: frozenset[str]
    remembered: frozenset[str]
    addressed: frozenset[int]
    reloaded: frozenset[str]


@dataclass(frozen=True)
class Passed:
    """What passes from one part of time to the next; all are names of tensors over cuts, and no ``factor`` is one.

    value[cut] = factor[cut] * value[cut - 1] + addend[cut]
    """

    value: str
    factor: str | None
    addend: str


@dataclass(frozen=True)
class Joined:
    """What a kernel that runs through parts of time does first, in the same launch: ``summaries`` of each part, then
    ``carries`` from part to part, which are of what is ``passed``; see ``passes.joined``.

    ``way`` is ``look_back``, where the blocks of a part wait for those of the part before it, or ``lanes``, where the
    lanes of a warp have neighbouring parts. What ``kept`` names, over cuts, never leaves registers."""

    way: str
    summaries: tuple[Kernel, ...]
    carries: tuple[tuple[Kernel, tuple[Passed, ...]], ...]
    kept: frozenset[str]

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        return (*self.summaries, *(kernel for kernel, _ in self.carries))


def padded(extent: int) -> int:
    """The power of two that holds an extent: what a dimension of a tile has."""
    return 1 << max(0, extent - 1).bit_length()


@dataclass(frozen=True)
class Kernel:
    """One loop nest over a grid. ``time`` is None when nothing varies along a sequence; otherwise it
    runs in order (``recurrent``), backwards (``reverse``), or in independent blocks. An axis ``part`` of the grid, if
    there is one, says which ``steps`` of time (a number or an axis of such an extent) a point runs through: those of
    that part or, if it is the axis of ``cut``s between parts, those that come before a cut. Where it is not 0, so many
    steps are taken ``at_once``: values of one section are there for all of them. It is launched only where all axes in
    ``one`` have one index, and only where one of those in ``more`` has more, if there are any."""

    name: str
    grid: tuple[str, ...]
    lane: str | None
    time: str | None
    reverse: bool
    recurrent: bool
    before: tuple[Group, ...]
    step: tuple[Group, ...]
    after: tuple[Group, ...]
    rings: tuple[Ring, ...]
    variables: Mapping[tuple[str, int], Variable]
    arrays: Mapping[tuple[str, str, str], Variable]
    tensors: tuple[str, ...]
    lanes: int
    tile: Tile | None = None
    enter: tuple[Group, ...] = ()
    rebuild: tuple[Group, ...] = ()
    sums: tuple[str, ...] = ()
    chunk: int = 0
    part: str | None = None
    steps: int | str = 0
    cut: bool = False
    at_once: int = 0
    block: Block | None = None
    tiles: Tiles | None = None
    joined: Joined | None = None
    one: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    @property
    def sections(self) -> dict[str, tuple[Group, ...]]:
        """All groups, in the order in which they run."""
        return {"before": self.before, "enter": self.enter, "rebuild": self.rebuild, "step": self.step,
                "after": self.after}  # fmt: skip

    def holder(self, section: str, node: Node) -> Variable | None:
        """The variable that holds a node, if it has one that is visible from ``section``."""
        for place in (section, "rebuild", "before"):
            found = self.variables.get((place, node.number))
            if found is None or (place != section and found.local):
                continue
            if place == section or place == "before" or (section == "step" and found.chunk):
                return found
        return None


def inner_axes(axes: Iterable[str], kernel: Kernel) -> tuple[str, ...]:
    """Those axes of a tensor that are inner ones of a kernel."""
    return tuple(a for a in axes if a not in (*kernel.grid, kernel.lane, kernel.time))


def own_nodes(kernel: Kernel, section: str, statement: Statement) -> list[Node]:
    """The nodes that a statement evaluates itself: what variables hold is left out."""
    assigned = isinstance(statement, (Let, Accumulate))
    found = [statement.node] if assigned else []
    stack, seen = list(statement.node.args if assigned else operands(statement)), set()
    while stack:
        node = stack.pop()
        if node.number in seen or kernel.holder(section, node) is not None:
            continue
        seen.add(node.number)
        found.append(node)
        stack.extend(node.args)
    return found


@dataclass(frozen=True)
class Loops:
    """All kernels of a Program, in order; ``fixed`` extents are constants of the text."""

    program: Program
    kernels: tuple[Kernel, ...]
    workspaces: tuple[str, ...]
    fixed: Mapping[str, int]
