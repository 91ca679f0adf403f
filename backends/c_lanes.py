"""Which loops over lanes are spelled on whole vectors: arithmetic on reals, in single precision.

What else there is (integers and conditions that differ from lane to lane, functions that have no vector form, reads
at places that are not one lane after another) is a loop over single lanes, which the compiler may vectorise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ssmc.ir import INT, REAL
from ssmc.ir.loops import Accumulate, Add, Kernel, Let, RingSet, Statement, Store, own_nodes
from ssmc.ir.scalar import Node, walk_nodes

from .storage import BYTES

PLAIN = frozenset({"add", "sub", "mul", "div", "neg"})
FUNCTIONS = frozenset(
    {
        "exp",
        "exp2",
        "expm1",
        "sigmoid",
        "silu",
        "softplus",
        "tanh",
        "sqrt",
        "rsqrt",
        "relu",
        "abs",
        "minimum",
        "maximum",
    }
)
SHORT = frozenset({"exp", "expm1", "sigmoid", "silu"})  # with a form that has fourteen bits, of the distance from 1 too
ROUGH = frozenset({"sigmoid", "silu", "sqrt"})  # with a form that has fourteen bits, and may exceed 1
LINE = 64  # bytes of a line of memory
_EXPONENTIALS = frozenset({"exp", "exp2", "expm1"})
_ADDITIVE = frozenset({"add", "sub", "neg", "real"})
_ROWS = frozenset({"f32", "bf16", "f16"})
_HALVES = frozenset({"bf16", "f16"})
_STORAGE = _ROWS | {"c64"}


def all_whole(kernel: Kernel, section: str, statements: Iterable[Statement], storage: Mapping[str, str]) -> bool:
    """Whether every statement can be written on whole vectors of floats."""
    return all(_is_whole(kernel, section, s, storage) for s in statements)


def written_in_rows(kernel: Kernel, storage: Mapping[str, str], axes: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Tensors of which every step writes whole lines of memory along the axis of the lanes, once, and that the
    kernel does not read."""
    rows: list[str] = []
    others: set[str] = set()
    for section, groups in kernel.sections.items():
        for group in groups:
            row = section == "step" and not group.axes and all_whole(kernel, section, group.lanes, storage)
            for statement in group.statements:
                others |= {n.name[0] for n in own_nodes(kernel, section, statement) if n.kind == "load"}
                if isinstance(statement, Store):
                    plain = row and statement in group.lanes and _is_row(kernel, statement, storage, axes)
                    (rows.append if plain else others.add)(statement.tensor)
    return frozenset(t for t in rows if rows.count(t) == 1 and t not in others)


def _is_row(kernel: Kernel, statement: Store, storage: Mapping[str, str], axes: Mapping[str, Sequence[str]]) -> bool:
    """Whether a statement writes whole lines, other ones at every step."""
    kind = storage[statement.tensor]
    if statement.once or statement.last or kind not in _ROWS or not _fills_lines(kernel, kind):
        return False
    places = list(zip(axes[statement.tensor], statement.indices, strict=True))
    along = any(axis == kernel.lane and i.kind == "index" and i.name == axis for axis, i in places)
    return along and any(kernel.time in i.axes for _, i in places)


def is_short(kernel: Kernel, storage: Mapping[str, str]) -> bool:
    """Whether every sequence of reals that the kernel reads or writes is stored in sixteen bits: functions that have
    fourteen then lose nothing."""
    found = set()
    for section, groups in kernel.sections.items():
        for statement in (s for g in groups for s in g.statements):
            for node in own_nodes(kernel, section, statement):
                if node.kind == "load" and node.type is REAL and kernel.time in node.axes:
                    found.add(storage[node.name[0]])
            if isinstance(statement, Store) and any(kernel.time in i.axes for i in statement.indices):
                found.add(storage[statement.tensor])
    return bool(found & _HALVES) and found <= _HALVES | {"i64", "i32", "b8"}


def multipliers(kernel: Kernel) -> frozenset[int]:
    """Numbers of the nodes that multiply a carried value on its way to the next step, and of all that they are made
    of: an error there is made anew at every step, and a decay that exceeds 1 makes a state grow without end. The
    factors of an exponent are left out: however wrong they are, relative to themselves, a decay stays below 1.
    """
    kept = (s.node for g in (*kernel.rebuild, *kernel.step) for s in g.statements if isinstance(s, RingSet))
    carrying: set[int] = set()
    found: set[int] = set()
    for node in walk_nodes(tuple(kept)):
        if node.kind in ("ring", "array") or any(a.number in carrying for a in node.args):
            carrying.add(node.number)
            if node.kind == "op" and node.name not in _ADDITIVE:
                if node.name != "mul":
                    found.add(node.number)
                _mark([a for a in node.args if a.number not in carrying], found)
    return frozenset(found)


def _mark(nodes: list[Node], found: set[int]) -> None:
    """Add these and all that they are made of, but for the factors of exponents."""
    while nodes:
        node = nodes.pop()
        if node.number not in found:
            found.add(node.number)
            exponent = node.kind == "op" and node.name in _EXPONENTIALS
            nodes.extend(a for f in _factors(node.args[0]) for a in f.args) if exponent else nodes.extend(node.args)


def _factors(node: Node) -> list[Node]:
    """What is multiplied to give a node."""
    if node.kind == "op" and node.name in ("mul", "neg"):
        return [f for a in node.args for f in _factors(a)]
    return [node]


def _fills_lines(kernel: Kernel, storage: str) -> bool:
    return kernel.lanes * BYTES[storage] % LINE == 0


def _is_whole(kernel: Kernel, section: str, statement: Statement, storage: Mapping[str, str]) -> bool:
    lane = str(kernel.lane)
    if isinstance(statement, Add):
        return False
    if isinstance(statement, (Let, Accumulate)) and statement.variable.type is not REAL:
        return False
    if isinstance(statement, Accumulate) and statement.node.name[0] != "sum":
        return False
    if statement.node.type is not REAL:
        return False
    if isinstance(statement, Store) and not _in_a_row(statement.tensor, statement.indices, lane, storage):
        return False
    # Whole numbers are fine as indices, which loads look at, and as nothing else, which what they go into looks at.
    return all(_is_plain(n, lane, storage) for n in own_nodes(kernel, section, statement) if n.type is not INT)


def _is_plain(node: Node, lane: str, storage: Mapping[str, str]) -> bool:
    """Whether a node is the same for all lanes, or a number per lane that vectors have."""
    varying = [n for n in (node, *node.args) if lane in n.axes]
    if not varying or node.kind == "index":
        return True
    if node.kind == "load":
        return lane not in node.axes or _in_a_row(node.name[0], node.args, lane, storage)
    if any(n.type is not REAL for n in varying):
        return False
    return node.kind != "op" or node.name in PLAIN | FUNCTIONS


def _in_a_row(tensor: str, indices: tuple[Node, ...], lane: str, storage: Mapping[str, str]) -> bool:
    """Whether one index is the lane's own, or that and something the same for all lanes, and no other depends on it."""
    along = [n for n in indices if lane in n.axes]
    return storage[tensor] in _STORAGE and len(along) == 1 and _is_shifted(along[0], lane)


def _is_shifted(index: Node, lane: str) -> bool:
    """Whether an index grows by one from lane to lane."""
    while index.kind == "op" and index.name in ("add", "sub"):
        varying = [lane in n.axes for n in index.args]
        if all(varying) or (index.name == "sub" and varying[1]):
            return False
        index = index.args[varying.index(True)]
    return index.kind == "index"
