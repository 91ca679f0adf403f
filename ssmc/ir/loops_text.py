"""Loops as text for people: what ``--emit loops`` prints."""

from __future__ import annotations

from .loops import Accumulate, Add, Group, Kernel, LaneSum, Let, Loops, RingSet, Statement, Store, Variable
from .scalar import Node

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==",
    "ne": "!=", "and": "and", "or": "or", "floordiv": "//", "mod": "%", "pow": "^",
}  # fmt: skip


def print_loops(loops: Loops) -> str:
    """Every kernel: its grid, what it keeps, and the groups of its three sections."""
    return "\n".join(_kernel(kernel) for kernel in loops.kernels)


def _kernel(kernel: Kernel) -> str:
    grid = [*kernel.grid, *([f"{kernel.lane} by {kernel.lanes} lanes"] if kernel.lane else [])]
    lines = [f"kernel {kernel.name} over {', '.join(grid) or 'nothing'}:"]
    for ring in kernel.rings:
        shape = ", ".join((*ring.dims, *(["lanes"] if ring.lanes else [])))
        lines.append(f"    carry {ring.tensor}[{shape}] × {ring.depth}")
    shown = _Shown(kernel)
    for title, groups in kernel.sections.items():
        if not groups:
            continue
        order = "backwards" if kernel.reverse else "in order" if kernel.recurrent else "in blocks"
        lines.append(f"    for {kernel.time} {order}:" if title == "step" and kernel.time else f"    {title}:")
        if title in ("enter", "rebuild"):
            lines[-1] = f"    {title} {kernel.chunk} steps of {kernel.time}:"
        for group in groups:
            lines += ["        " + line for line in shown.group(group, title)]
    if kernel.tile:
        t = kernel.tile
        lines.append(f"    tiled: {t.steps} steps, {t.states} of {t.axis} at a time")
    return "\n".join(lines) + "\n"


class _Shown:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def group(self, group: Group, section: str) -> list[str]:
        lines, depth = [], 0
        for axis in group.axes:
            lines.append("    " * depth + f"for {axis}:" + (" (fold)" if axis in group.inner else ""))
            depth += 1
        for statement in group.scalars:
            lines.append("    " * depth + self.statement(statement, section))
        if group.lanes:
            lines.append("    " * depth + "for lanes:")
            lines += ["    " * (depth + 1) + self.statement(s, section) for s in group.lanes]
        return lines

    def statement(self, statement: Statement, section: str) -> str:
        match statement:
            case Let(variable=variable, node=node):
                return f"{self.variable(variable)} = {self.node(node, section, own=True)}"
            case Accumulate(variable=variable, node=node):
                kind = str(node.name[0])
                return f"{self.variable(variable)} {kind}= {self.node(node.args[-1], section)}"
            case Store(tensor=tensor, indices=indices, node=node):
                at = ", ".join(self.node(i, section) for i in indices)
                return f"store {tensor}[{at}] = {self.node(node, section)}"
            case Add(tensor=tensor, indices=indices, condition=condition, node=node):
                at = ", ".join(self.node(i, section) for i in indices)
                where = self.node(condition, section)
                return f"where {where}: add to {tensor}[{at}] {self.node(node, section)}"
            case LaneSum(tensor=tensor, dims=dims, node=node):
                return f"sum over lanes {tensor}[{', '.join(dims)}] += {self.node(node, section)}"
            case RingSet(tensor=tensor, lag=lag, node=node):
                when = f" {lag} before the start" if lag else ""
                return f"keep {tensor}{when} = {self.node(node, section)}"

    def variable(self, variable: Variable) -> str:
        return variable.name + (f"[{', '.join(variable.dims)}]" if variable.dims else "")

    def node(self, node: Node, section: str, own: bool = False) -> str:
        if not own:
            variable = self.kernel.holder(section, node)
            if variable is not None:
                return self.variable(variable)
        args = [self.node(a, section) for a in node.args]
        match node.kind:
            case "scan" | "before" | "total":
                return f"{node.kind}({', '.join(args)})"
            case "const" | "index":
                return str(node.name)
            case "size":
                return f"#{node.name}"
            case "load" | "array":
                return f"{node.name[0]}[{', '.join(args)}]"
            case "ring":
                return f"{node.name[0]}[{args[0]} ago]"
            case "final":
                return f"{node.name[0]}[{args[0]} before the end]"
            case "select":
                return f"({args[0]} ? {args[1]} : {args[2]})"
        if node.name in _INFIX:
            return f"({args[0]} {_INFIX[str(node.name)]} {args[1]})"
        return f"{node.name}({', '.join(args)})"
