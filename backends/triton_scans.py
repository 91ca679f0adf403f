"""Many steps at once → Triton: scans along the last dimension of tiles, and what is carried from tile to tile.

Steps beyond the end of time change nothing: backwards they come first. A scan that also gives what was one step before
costs as much as two; to take that from the neighbour, Triton would scan once more in another layout.
"""

from __future__ import annotations

from ssmc.ir import INT, REAL, DType
from ssmc.ir.loops import Let, RingSet, Variable
from ssmc.ir.scalar import Node

from .triton_expr import Expressions
from .writer import Names, Writer

_BEFORE = " before"


class Scans:
    """Writes what one kernel does along many steps into ``out``; see ``passes.at_once``."""

    def __init__(self, x: Expressions, names: Names, out: Writer) -> None:
        self.x, self.names, self.out = x, names, out
        self.scanned: set[str] = set()
        statements = [s for groups in x.kernel.sections.values() for g in groups for s in g.statements]
        nodes = [s.node for s in statements if isinstance(s, Let)]
        self.read_before = {n.name[0] for n in nodes if n.kind == "before" and _is_of_scan(n)}

    def let(self, variable: Variable, node: Node, section: str) -> None:
        """``variable = node``, which is a recurrence, what was one step before, or a sum over the steps."""
        if node.kind == "scan":
            if node.name[0] not in self.scanned:
                self._scan(node, section)
            value = self._applied(node)
        elif node.kind == "total":
            value = self._total(node, section)
        else:
            value = self._applied(node.args[0], _BEFORE) if _is_of_scan(node) else self._before(node, section)
        self.out.line(f"{self.names.get('v', variable.name)} = {value}")

    def carry(self, statement: RingSet, section: str) -> None:
        """Keep the value of the last step."""
        x, node, type = self.x, statement.node, self.x.rings[statement.tensor].type
        text, dims, wanted = x.expr(node, section), x.dims(node, section), x.ring_dims(statement.tensor)
        if x.many in dims:
            last = f"{x.row(x.many)} == {'0' if x.kernel.reverse else 'count - 1'}"
            text = x.reduced("tl.sum", f"tl.where({last}, {text}, {_zero(type)})", dims, [x.many])
            dims = dims - {x.many}
        self.out.line(f"{x.register(statement.tensor, statement.part, 1)} = {x.spread(text, dims, wanted, type)}")

    # ------------------------------------------------------------ values of many steps

    def _scan(self, node: Node, section: str) -> None:
        """The steps so far as one: what they multiply by, and what they add."""
        x, (tensor, _, backwards) = self.x, node.name
        self.scanned.add(tensor)
        ring, wanted = x.rings[tensor], x.dims(node, section)
        zero, one = _zero(ring.type), "1.0" if ring.type is REAL else "1"
        nothing = [one, *[zero] * (len(node.args) - 1)]
        given = []
        for arg, neutral in zip(node.args, nothing, strict=True):
            text = x.spread(x.expr(arg, section), x.dims(arg, section), wanted, ring.type)
            given.append(f"tl.where({x.mask(x.many)}, {text}, {neutral})" if backwards else text)
        combine, times = "ssmc_affine" if len(ring.parts) == 1 else "ssmc_affine_complex", [""]
        if tensor in self.read_before:
            given += [f"tl.full({x.shape(wanted)}, {text}, {x.type(ring.type)})" for text in nothing]
            combine, times = f"{combine}_both", ["", _BEFORE]
        x.needed.add(combine)
        names = [self._name(kind, time, tensor, p) for time in times for kind in ("factor", "rest") for p in ring.parts]
        way = ", reverse=True" if backwards else ""
        found = f"tl.associative_scan(({', '.join(given)}), {self._axis}, {combine}{way})"
        self.out.line(f"{', '.join(names)} = {found}")

    def _applied(self, node: Node, time: str = "") -> str:
        """What the steps so far make of what is carried."""
        tensor, part, _ = node.name
        parts = self.x.rings[tensor].parts
        factors = [self._name("factor", time, tensor, p) for p in parts]
        past = [self.x.register(tensor, p, 1) for p in parts]
        rest = self._name("rest", time, tensor, part)
        if len(parts) == 1:
            return f"{factors[0]} * {past[0]} + {rest}"
        if part == "re":
            return f"{factors[0]} * {past[0]} - {factors[1]} * {past[1]} + {rest}"
        return f"{factors[0]} * {past[1]} + {factors[1]} * {past[0]} + {rest}"

    def _before(self, node: Node, section: str) -> str:
        """A value that is no recurrence, one step before: of the first step, what is carried."""
        x, (tensor, part, backwards), (value,) = self.x, node.name, node.args
        wanted = x.dims(node, section)
        text = x.spread(x.expr(value, section), x.dims(value, section), wanted, x.rings[tensor].type)
        step, last = x.row(x.many), x.extent(x.many) - 1
        there = f"tl.minimum({step} + 1, {last})" if backwards else f"tl.maximum({step} - 1, 0)"
        if wanted != {x.many}:
            there = f"tl.broadcast_to({there}, {x.shape(wanted)})"
        first = f"{step} >= count - 1" if backwards else f"{step} == 0"
        return f"tl.where({first}, {x.register(tensor, part, 1)}, tl.gather({text}, {there}, {self._axis}))"

    def _total(self, node: Node, section: str) -> str:
        """What is carried after these steps, at each of which something is added."""
        x, (tensor, part, _), (rest,) = self.x, node.name, node.args
        live = f"tl.where({x.mask(x.many)}, {x.expr(rest, section)}, {_zero(rest.type)})"
        more = x.reduced("tl.sum", live, x.dims(rest, section) | {x.many}, [x.many])
        return f"{x.register(tensor, part, 1)} + {more}"

    @property
    def _axis(self) -> int:
        return self.x.order.index(self.x.many)

    def _name(self, kind: str, time: str, tensor: str, part: str) -> str:
        suffix = f" {part}" if len(self.x.rings[tensor].parts) > 1 else ""
        return self.names.get("s", f"{kind}{time} {tensor}{suffix}")


def _is_of_scan(node: Node) -> bool:
    """Whether what was one step before is that of a recurrence itself: another value that is equal to it at each step
    may have been something else before the first."""
    (value,) = node.args
    return value.kind == "scan" and value.name[0] == node.name[0]


def _zero(type: DType) -> str:
    return "0" if type is INT else "0.0"
