"""Groups of statements → Triton: loops over what is no dimension of tiles, folds, writes to memory."""

from __future__ import annotations

from ssmc.ir import BOOL, INT, REAL, DType
from ssmc.ir.loops import (
    Accumulate,
    Add,
    Group,
    Kernel,
    LaneSum,
    Let,
    Ring,
    RingSet,
    Statement,
    Store,
    Variable,
    operands,
)  # fmt: skip
from ssmc.ir.scalar import Node, walk_nodes

from .storage import COMPLEXES
from .triton_expr import Dims, Expressions, Guard
from .triton_scans import Scans
from .writer import Names, Writer

_LEAST, _MOST = -(2**63), 2**63 - 1


class Nests:
    """Writes the groups of one kernel into ``out``."""

    def __init__(self, kernel: Kernel, x: Expressions, names: Names, out: Writer) -> None:
        self.kernel, self.x, self.names, self.out = kernel, x, names, out
        self.scans = Scans(x, names, out)
        statements = [s for groups in kernel.sections.values() for g in groups for s in g.statements]
        loaded = {n.name[0] for s in statements for n in walk_nodes(operands(s)) if n.kind == "load"}
        # What the kernel both writes and reads: its threads wait for each other after each write.
        self.rebuilt = frozenset(v.name for v in kernel.variables.values() if v.chunk and not v.local)
        self.reread = loaded & {s.tensor for s in statements if isinstance(s, (Store, Add))}

    def fetch(self, variable: Variable, section: str, slot: str) -> None:
        """Read a whole variable from the program's memory."""
        pointer = self.x.own_place(variable.name, slot, variable.dims)
        test = " != 0" if variable.type is BOOL else ""
        self.out.line(f"{self.x.name(variable, section)} = tl.load({pointer}){test}")

    def barrier(self) -> None:
        """The threads of a program wait for each other, and see what each has written."""
        self.out.line("tl.debug_barrier()")

    def groups(self, section: str) -> None:
        """All groups of a section; what was rebuilt for a step is fetched ahead of the first that reads it."""
        rebuilt = self.rebuilt if section == "step" else frozenset()
        for group in self.kernel.sections[section]:
            for variable in self.x.used_in([group], section, rebuilt):
                self.fetch(variable, section, "s")
                rebuilt -= {variable.name}
            self._loops(group, self._serial(group.outer), section, outer=True)

    def _serial(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(a for a in axes if a not in self.x.order)

    def _loops(self, group: Group, axes: tuple[str, ...], section: str, outer: bool) -> None:
        if axes:
            with self.out.block(f"for {self.names.get('at', axes[0])} in range(0, {self.x.size(axes[0])})"):
                self.out.line(f"{self.x.index(axes[0])} = tl.cast({self.names.get('at', axes[0])}, tl.int64)")
                self._loops(group, axes[1:], section, outer)
            return
        if outer and (inner := self._serial(group.inner)):
            for statement in group.statements:
                if isinstance(statement, Accumulate):
                    self._start(statement, section)
            self._loops(group, inner, section, outer=False)
        else:
            for statement in group.statements:
                self.statement(statement, section, group)
            return
        for statement in group.statements:
            if isinstance(statement, Accumulate):
                self._remember(statement.variable, section)

    # ------------------------------------------------------------ statements

    def statement(self, statement: Statement, section: str, group: Group) -> None:
        """One statement of a group."""
        x, looping = self.x, bool(self._serial(group.inner))
        match statement:
            case Let(variable=variable, node=node) if node.kind in ("scan", "before", "total"):
                self.scans.let(variable, node, section)
            case Let(variable=variable, node=node):
                self.out.line(f"{self.names.get('v', variable.name)} = {x.expr(node, section, own=True)}")
                self._remember(variable, section)
            case Accumulate(variable=variable):
                self._accumulate(statement, section, looping)
                if not looping:
                    self._remember(variable, section)
            case Store(tensor=tensor, part="im") if x.storage[tensor] not in COMPLEXES:
                pass  # the adjoint of a real number that is used as a complex one is real
            case Store():
                self._store(statement, section)
            case Add():
                self._add(statement, section, group)
            case LaneSum():
                self._lane_sum(statement, section)
            case RingSet():
                self._ring_set(statement, section)

    def full(self, text: str, ring: Ring) -> str:
        """A tile as a carried value has it, of one number."""
        return f"tl.full({self.x.shape(self.x.ring_dims(ring.tensor))}, {text}, {self.x.type(ring.type)})"

    def _ring_set(self, statement: RingSet, section: str) -> None:
        x, tensor, part, lag = self.x, statement.tensor, statement.part, statement.lag
        ring = x.rings[tensor]
        if x.many and section == "step":
            self.scans.carry(statement, section)
            return
        text = x.expr(statement.node, section)
        dims, wanted = x.dims(statement.node, section), x.ring_dims(tensor)
        if x.is_register(tensor, section):
            self.out.line(f"{x.register(tensor, part, lag)} = {x.spread(text, dims, wanted, ring.type)}")
            if not ring.history:
                return
            text, dims = x.register(tensor, part, lag), wanted
        if section == "before":
            slot = str((ring.slots - lag) % ring.slots)
        else:
            slot = x.slot(tensor, lag, section)
        if ring.slots == 1:
            self.barrier()
        pointer = x.own_place(f"{tensor} {part}", slot, ring.dims)
        self.out.line(f"tl.store({pointer}, {text})")
        if not x.is_register(tensor, section):
            self.barrier()

    def _remember(self, variable: Variable, section: str) -> None:
        """Write a variable to the program's memory if it is to be found there."""
        x = self.x
        if variable.local or variable.name not in x.tiles.remembered:
            return
        addressed = not variable.chunk or self._is_addressed(variable, section)
        if addressed:
            self.barrier()
        pointer = x.own_place(variable.name, "s" if variable.chunk else "0", variable.dims)
        self.out.line(f"tl.store({pointer}, {self.names.get('v', variable.name)})")
        if addressed:
            self.barrier()

    def _is_addressed(self, variable: Variable, section: str) -> bool:
        """Whether the section itself reads it at computed places."""
        nodes = [n for g in self.kernel.sections[section] for s in g.statements for n in walk_nodes(operands(s))]
        reads = [n for n in nodes if n.kind == "array" and n.number in self.x.tiles.addressed]
        return any(self.x.array_variable(n, section) is variable for n in reads)

    # ------------------------------------------------------------ writes

    def _store(self, statement: Store, section: str) -> None:
        x = self.x
        dims = frozenset[str]().union(*(x.dims(i, section) for i in statement.indices))
        pointer = x.address(statement.tensor, statement.part, [x.expr(i, section) for i in statement.indices])
        masks = x.masks(dims) + [f"({x.names.get('i', a)} == 0)" for a in statement.once if a != x.tiles.lane]
        masks += [f"({x.names.get('i', a)} == {x.size(a)} - 1)" for a in statement.last]
        if x.tiles.lane in statement.once:
            masks.append("(number == 0)")
        text = self._first(x.expr(statement.node, section), x.dims(statement.node, section), dims, statement.node.type)
        self._write(pointer, text, masks, statement.tensor)

    def _first(self, text: str, dims: Dims, wanted: Dims, type: DType) -> str:
        """A value of which all elements along axes that are not wanted are the same: the first of them."""
        x, zero = self.x, "0.0" if type is REAL else "0"
        for axis in x.order:
            if axis in dims - wanted:
                start = f"number * {x.tiles.block}" if axis == x.tiles.lane else "0"
                first = f"{x.use('i', axis)} == {start}"
                text = x.reduced("tl.sum", f"tl.where({first}, {text}, {zero})", dims, [axis])
                dims = dims - {axis}
        return text

    def _write(self, pointer: str, text: str, masks: list[str], tensor: str) -> None:
        mask = f", mask={' & '.join(masks)}" if masks else ""
        self.out.line(f"tl.store({pointer}, {text}{mask})")
        if tensor in self.reread:
            self.barrier()

    def _add(self, statement: Add, section: str, group: Group) -> None:
        """Along dimensions whose index an element is not written at, adds may meet: one follows the other."""
        x = self.x
        indices = [x.expr(i, section) for i in statement.indices]
        guard: Guard = ()
        condition = x.expr(statement.condition, section)
        if condition != "True":
            self.out.line(f"allowed = {condition}")
            guard = (("allowed", x.dims(statement.condition, section)),)
        self.out.line(f"more = {x.expr(statement.node, section, guard)}")
        self.out.line(f"places = {x.address(statement.tensor, statement.part, indices)}")
        plain = {i.name for i in statement.indices if i.kind == "index"}
        meeting = [a for a in (x.many, *group.axes) if a in x.order and a not in plain]
        dims = frozenset(meeting).union(*(x.dims(i, section) for i in statement.indices))
        if meeting:
            self.out.line(f"places = places + tl.full({x.shape(dims)}, 0, tl.int64)")
        masks = [*x.masks(dims), *(text for text, _ in guard)]
        if guard and x.many in meeting:  # most tiles have no step that adds anything
            along = guard[0][1]
            with self.out.block(f"if {x.reduced('tl.max', 'allowed.to(tl.int32)', along, along)} > 0"):
                self._add_in_turn(statement, masks, meeting)
        else:
            self._add_in_turn(statement, masks, meeting)

    def _add_in_turn(self, statement: Add, masks: list[str], meeting: list[str]) -> None:
        """Add ``more`` at ``places``, index by index along the dimensions in ``meeting``."""
        x = self.x
        if meeting:
            turn = self.names.get("at", meeting[0])
            many = meeting[0] == x.many
            last, here = ("count", x.row(x.many)) if many else (x.size(meeting[0]), x.index(meeting[0]))
            with self.out.block(f"for {turn} in range(0, {last})"):
                self._add_in_turn(statement, [*masks, f"({here} == {turn})"], meeting[1:])
            return
        found = x.widen(x.fetch("places", masks, statement.node.type), x.storage[statement.tensor])
        self._write("places", f"{found} + more", masks, statement.tensor)
        if statement.tensor not in self.reread:
            self.barrier()

    def _lane_sum(self, statement: LaneSum, section: str) -> None:
        x, node, lane = self.x, statement.node, self.x.tiles.lane
        assert lane is not None
        wanted = frozenset(a for a in (*statement.dims, x.many) if a in x.order)
        value = x.expr(node, section)
        if node.type is INT:
            value = f"tl.cast({value}, tl.int64)"
        live = f"tl.where({x.use('m', lane)}, {value}, {'0.0' if node.type is REAL else '0'})"
        dims = x.dims(node, section) | {lane}
        total = x.reduced("tl.sum", live, dims, [lane])
        group = f"{self.kernel.lane}.group"
        axes = x.tensors[statement.tensor].axes
        pointer = x.address(statement.tensor, statement.part, ["number" if a == group else x.index(a) for a in axes])
        self._write(pointer, total, x.masks(wanted), statement.tensor)

    # ------------------------------------------------------------ folds

    def _start(self, statement: Accumulate, section: str) -> None:
        """What a fold starts as that is gathered in a loop."""
        x, node = self.x, statement.node
        name, kind = self.names.get("v", statement.variable.name), str(node.name[0])
        shape = x.shape(x.dims(node, section))
        self.out.line(f"{name} = tl.full({shape}, {_neutral(kind, node.type)}, {x.type(node.type)})")
        if kind in ("argmax", "argmin"):
            type = node.args[-1].type
            self.out.line(f"{name}_best = tl.full({shape}, {'0.0' if type is REAL else '0'}, {x.type(type)})")

    def _accumulate(self, statement: Accumulate, section: str, looping: bool) -> None:
        node = statement.node
        kind = str(node.name[0])
        name = self.names.get("v", statement.variable.name)
        if kind in ("argmax", "argmin"):
            (self._next_best if looping else self._best)(node, name, section)
            return
        over = [a for a in node.name[1:] if a in self.x.order]
        value = self._folded(node, kind, over, name, section)
        if not looping:
            self.out.line(f"{name} = {value}")
            return
        if kind in ("max", "min"):
            self.out.line(f"{name}_next = {value}")
            sign = ">" if kind == "max" else "<"
            value = f"{name}_next"
            nan = f" | ({value} != {value})" if node.type is REAL else ""
            self.out.line(f"{name} = tl.where(({value} {sign} {name}){nan}, {value}, {name})")
        else:
            sign = {"sum": "+", "prod": "*", "any": "|", "all": "&"}[kind]
            self.out.line(f"{name} = {name} {sign} {value}")

    def _folded(self, node: Node, kind: str, over: list[str], name: str, section: str) -> str:
        """The body of a fold, folded along the dimensions of its tile."""
        x, body = self.x, node.args[-1]
        value = x.expr(body, section)
        if node.type is INT:
            value = f"tl.cast({value}, tl.int64)"
        if not over:
            return value
        dims = x.dims(body, section)
        masks = list(dict.fromkeys([*x.masks(over), *x.masks(set(over) - dims, all=True)]))
        if masks:
            value = f"tl.where({' & '.join(masks)}, {value}, {_neutral(kind, node.type)})"
        dims = dims | set(over)
        if kind == "sum":
            return x.reduced("tl.sum", value, dims, over)
        if kind == "prod":
            x.needed.add("ssmc_product")
            return x.reduced("tl.reduce", value, dims, over)
        if kind in ("any", "all"):
            function = "tl.max" if kind == "any" else "tl.min"
            return f"({x.reduced(function, f'({value}).to(tl.int32)', dims, over)} > 0)"
        function = f"tl.{kind}"
        if node.type is INT:
            return x.reduced(function, value, dims, over)
        self.out.line(f"{name}_all = {value}")
        value = f"{name}_all"
        nan = x.reduced("tl.max", f"({value} != {value}).to(tl.int32)", dims, over)
        return f'tl.where({nan} > 0, float("nan"), {x.reduced(function, value, dims, over)})'

    def _best(self, node: Node, name: str, section: str) -> None:
        """The first index of the largest (smallest) element along a dimension; a NaN is the largest."""
        x, out, kind, axis = self.x, self.out, str(node.name[0]), str(node.name[1])
        allowed, dims, value = self._candidates(node, section)
        masks = x.masks([axis], all=axis not in dims) + ([allowed] if allowed else [])
        real = node.args[-1].type is REAL
        worst = _neutral("max" if kind == "argmax" else "min", node.args[-1].type)
        function = "tl.max" if kind == "argmax" else "tl.min"
        live = " & ".join(masks) or f"({x.use('i', axis)} >= 0)"
        dims = dims | {axis}
        out.line(f"{name}_live = {live}")
        out.line(f"{name}_all = tl.where({name}_live, {value}, {worst})")
        best = x.reduced(function, f"{name}_all", dims, [axis])
        nan = f" | ({name}_all != {name}_all)" if real else ""
        out.line(f"{name}_found = {name}_live & (({name}_all == {best}){nan})")
        if real:  # NaNs alone are candidates where there are any
            any_nan = x.reduced("tl.max", f"({name}_all != {name}_all).to(tl.int32)", dims, [axis])
            out.line(f"{name}_found = {name}_found & (({any_nan} == 0) | ({name}_all != {name}_all))")
        index = x.reduced("tl.min", f"tl.where({name}_found, {x.use('i', axis)}, {_MOST})", dims, [axis])
        out.line(f"{name} = {index}")
        out.line(f"{name} = tl.where({name} == {_MOST}, -1, {name})")

    def _next_best(self, node: Node, name: str, section: str) -> None:
        """The same where a loop goes from index to index."""
        x, out, kind, axis = self.x, self.out, str(node.name[0]), str(node.name[1])
        allowed, _, value = self._candidates(node, section)
        sign = ">" if kind == "argmax" else "<"
        out.line(f"{name}_next = {value}")
        nan = f" | (({name}_next != {name}_next) & ({name}_best == {name}_best))" if node.args[-1].type is REAL else ""
        take = f"({name} < 0) | ({name}_next {sign} {name}_best){nan}"
        out.line(f"{name}_take = {f'{allowed} & ({take})' if allowed else take}")
        out.line(f"{name}_best = tl.where({name}_take, {name}_next, {name}_best)")
        out.line(f"{name} = tl.where({name}_take, {x.index(axis)}, {name})")

    def _candidates(self, node: Node, section: str) -> tuple[str, Dims, str]:
        """The condition of an argmax, the axes that it and its body vary along, and the body."""
        x = self.x
        dims = frozenset[str]().union(*(x.dims(a, section) for a in node.args))
        allowed = x.expr(node.args[0], section) if len(node.args) > 1 else ""
        guard = ((allowed, x.dims(node.args[0], section)),) if allowed and allowed.isidentifier() else ()
        value = x.expr(node.args[-1], section, guard)
        if node.args[-1].type is INT:
            value = f"tl.cast({value}, tl.int64)"
        return allowed, dims, value


def _neutral(kind: str, type: DType) -> str:
    """What changes nothing in a fold."""
    if kind in ("argmax", "argmin"):
        return "-1"
    if kind in ("any", "all"):
        return str(kind == "all")
    if kind in ("max", "min"):
        if type is INT:
            return str(_LEAST if kind == "max" else _MOST)
        return 'float("-inf")' if kind == "max" else 'float("inf")'
    one = kind == "prod"
    return (str(float(one))) if type is REAL else str(int(one))
