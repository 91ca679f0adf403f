"""Scalar values: the hash-consed graph that lies between equations and loops.

A ``Node`` is one real, integer or boolean number as a function of loop variables. Complex values are
pairs of nodes before they get here. Equal nodes are the same object, so a value that two equations
share is computed once, and where it is computed follows from the loops it varies along.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .types import BOOL, COMPLEX, INT, REAL, DType

Attribute: TypeAlias = Any  # what a kind's name is: see the table


@dataclass(frozen=True, eq=False)
class Node:
    """One scalar. ``kind`` decides what ``name`` and ``args`` mean:

    ========== =============================== =========================================
    kind       name                            args
    ========== =============================== =========================================
    const      the value                       –
    index      axis                            –
    size       axis                            –
    load       (tensor, part)                  one index per axis of the tensor in memory
    ring       (tensor, part)                  lag, then one index per inner axis
    array      (tensor, part)                  one index per inner axis: the whole of a
                                               value of the present step
    op         operation                       operands
    select     –                               condition, value if so, value if not
    reduce     (kind, axes…)                   body, or condition and body
    scan       (tensor, part, backwards)       parts of a factor, then of what is added: of many
                                               steps at once v = factor · v of the step before + rest
    before     (tensor, part, backwards)       a value of many steps: what it is one step before
    total      (tensor, part, backwards)       what is added over many steps to what is carried
    ========== =============================== =========================================

    ``part`` is ``re`` or ``im`` (``re`` for what is not complex). ``axes`` are the loop variables
    that the value varies along.
    """

    kind: str
    type: DType
    name: Attribute
    args: tuple[Node, ...]
    axes: frozenset[str]
    number: int = field(compare=False)

    def __repr__(self) -> str:
        inside = ", ".join(map(repr, self.args))
        return f"{self.kind}:{self.name}({inside})" if inside else f"{self.kind}:{self.name}"


class Graph:
    """Makes nodes; the same description gives the same node."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[object, ...], Node] = {}

    def node(
        self, kind: str, type: DType, name: Attribute = None, args: tuple[Node, ...] = (),
        along: frozenset[str] = frozenset(),
    ) -> Node:  # fmt: skip
        """The node of that description; ``along`` adds axes that no operand shows (rings, arrays)."""
        key = (kind, type, name.__class__, repr(name) if isinstance(name, float) else name, along, *map(id, args))
        found = self._nodes.get(key)
        if found is None:
            axes: frozenset[str] = along.union(*(a.axes for a in args))
            if kind == "index":
                axes = frozenset((str(name),))
            if kind == "reduce":
                axes -= set(name[1:])
            found = Node(kind, type, name, args, axes, len(self._nodes))
            self._nodes[key] = found
        return found

    def const(self, value: float | int | bool, type: DType = REAL) -> Node:
        if type is REAL:
            value = float(value)
        return self.node("const", type, value)

    def index(self, axis: str) -> Node:
        return self.node("index", INT, axis)

    def size(self, axis: str) -> Node:
        return self.node("size", INT, axis)

    def select(self, condition: Node, then: Node, otherwise: Node) -> Node:
        if condition.kind == "const":
            return then if condition.name else otherwise
        if then is otherwise:
            return then
        return self.node("select", then.type, None, (condition, then, otherwise))

    def convert(self, node: Node, type: DType) -> Node:
        """The same number as another type; to BOOL it is a comparison with 0."""
        if node.type is type:
            return node
        if node.kind == "const" and type is not BOOL:
            return self.const(int(node.name) if type is INT else float(node.name), type)
        name = {REAL: "real", INT: "int", BOOL: "bool"}[type]
        return self.node("op", type, name, (node,))

    def op(self, name: str, *args: Node, type: DType | None = None) -> Node:
        """An elementwise operation on operands that already have the operation's type."""
        return self.node("op", type or args[0].type, name, args)


Value: TypeAlias = Node | tuple[Node, Node]


def parts(value: Value) -> tuple[Node, ...]:
    """The node itself, or real and imaginary part."""
    return value if isinstance(value, tuple) else (value,)


def part_names(dtype: DType) -> tuple[str, ...]:
    """The parts in which a tensor of that type is held."""
    return ("re", "im") if dtype is COMPLEX else ("re",)


def is_plain(index: Node, axis: str) -> bool:
    """Whether an index is that along an axis itself."""
    return index.kind == "index" and index.name == axis


def walk_nodes(roots: tuple[Node, ...]) -> list[Node]:
    """Every node below the roots, operands before their users, each once."""
    seen: set[int] = set()
    order: list[Node] = []
    stack: list[tuple[Node, bool]] = [(root, False) for root in reversed(roots)]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
        elif node.number not in seen:
            seen.add(node.number)
            stack.append((node, True))
            stack.extend((a, False) for a in reversed(node.args))
    return order
