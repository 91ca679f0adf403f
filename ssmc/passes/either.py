"""Loops, Loops → Loops: time in order where it is one part, else in parts, as a call's sizes ask for.

    kernels of time in order      launched where every axis of parts has one index
    kernels of parts of time      launched where one of them has more

Both are in one text, so that sizes choose when a layer is called, and neither is slower for the other.
"""

from __future__ import annotations

from dataclasses import replace

from ssmc.ir import Program
from ssmc.ir.loops import Loops

from .parts import PART
from .plan import Plan


def either(plan: Plan, loops: Loops, parts_plan: Plan, parts: Loops) -> tuple[Plan, Loops] | None:
    """The plans and loops of time in order and of parts of time, one Program written in two ways, in one. None if parts
    have something for each step pass through memory that time in order has not, or if the two do not go together."""
    axes = tuple(axis.name for axis in parts.program.axes if axis.name.endswith(PART))
    if not axes or loops.fixed != parts.fixed:
        return None
    if not _as_long_as_sequences(parts, loops) <= _as_long_as_sequences(loops, loops):
        return None
    program = _both(loops.program, parts.program)
    if not _are_alike(loops.program, program):
        return None
    workspaces = tuple(dict.fromkeys((*loops.workspaces, *parts.workspaces)))
    kernels = (*(replace(k, one=axes) for k in loops.kernels), *(replace(k, more=axes) for k in parts.kernels))
    planned = (*(replace(k, one=axes) for k in plan.kernels), *(replace(k, more=axes) for k in parts_plan.kernels))
    return (
        replace(parts_plan, program=program, kernels=planned, workspaces=workspaces),
        replace(parts, program=program, kernels=kernels, workspaces=workspaces),
    )


def _both(program: Program, parts: Program) -> Program:
    """All that either of two Programs has: equations of the same name have the same values."""
    axes, equations = {a.name for a in parts.axes}, {e.name for e in parts.equations}
    outside = {(e.tensor, e.axis, e.side) for e in parts.extensions}
    return replace(
        parts,
        axes=(*parts.axes, *(a for a in program.axes if a.name not in axes)),
        equations=(*parts.equations, *(e for e in program.equations if e.name not in equations)),
        extensions=(
            *parts.extensions,
            *(e for e in program.extensions if (e.tensor, e.axis, e.side) not in outside),
        ),
    )


def _are_alike(program: Program, both: Program) -> bool:
    """Whether axes and tensors that two Programs name alike are alike."""
    tensors, others = program.tensors(), both.tensors()
    extents = {axis.name: axis.extent for axis in both.axes}
    return all(extents[axis.name] == axis.extent for axis in program.axes) and all(
        (tensor.axes, tensor.dtype) == (others[name].axes, others[name].dtype) for name, tensor in tensors.items()
    )


def _as_long_as_sequences(loops: Loops, of: Loops) -> set[str]:
    """What passes through memory for every step of the sequences of a Program."""
    tensors, time = loops.program.tensors(), {a.name for a in of.program.axes if a.sequence}
    return {name for name in loops.workspaces if time & set(tensors[name].axes)}
