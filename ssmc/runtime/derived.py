"""The Program of a kind of call, and what each tensor that it takes and gives is.

    the layer  ->  step  ->  rows, mask, states_at, reverse, pack  ->  any number of jvp, grad  or  these and then save

The state that a call returns is said by its end: so ``step`` and ``states_at`` come before ``reverse``. A document is
run backwards as a whole sequence is, so ``pack`` comes after it. The places of ``states_at`` count padding too, so it
comes after ``mask``.

The gradient of a layer keeps what its recurrences hold at chunks of time, and what is discrete (``recompute``):
``save`` is the call that returns it further, every gradient takes it. Gradients of gradients differentiate what
was kept, too: they rebuild from it what it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ssmc.backends import output_storage, state_storage
from ssmc.errors import UserError
from ssmc.ir import COMPLEX, REAL, Program, Tensor
from ssmc.passes import (
    Kept,
    differentiable,
    flatten,
    grad,
    jvp,
    kept_values,
    leading_axes,
    mask,
    pack,
    rebuilding,
    reverse,
    rows,
    saving,
    states_at,
    step,
    tangent_names,
    tensors_read,
    tidied,
)

from .specialise import (
    ADJOINT,
    INPUT,
    LAYOUT,
    NEXT,
    OUTPUT,
    SAVED,
    STATE,
    TANGENT,
    Derivative,
    Kind,
    Place,
    Specialisation,
)

# How what is carried is called in Programs.
_TAKEN, _GIVEN = (".state", ".offset"), (".next", ".next_offset", ".at", ".at_offset")
# How what says where sequences lie is called in Programs, and in messages.
_LAYOUTS = {"doc": "documents", "start": "documents", "end": "documents", "valid": "mask", "at": "states_at"}
_ARRANGEMENTS: dict[str, Callable[[Program, Sequence[str]], Program]] = {
    "rows": rows,
    "mask": mask,
    "states_at": states_at,
    "reverse": lambda program, batch: reverse(program),
    "pack": pack,
}
ARRANGEMENTS = tuple(_ARRANGEMENTS)


@dataclass(frozen=True)
class Derived:
    """A Program with a place for each of its inputs and outputs, in its order."""

    program: Program
    takes: tuple[Place, ...]
    gives: tuple[Place, ...]

    def differentiated(self, what: Derivative) -> Derived:
        """The gradient, or the tangent: derivatives are stored as what they belong to."""
        if what.name == "jvp":
            return self._tangent(what)
        program = grad(self.program, what.wrt, what.of)
        tensors, given, wanted = program.tensors(), _by_name(self.gives), _by_name(self.takes)
        seeds = program.inputs[len(self.takes) :]
        takes = [_adjoint(t, given[name]) for name, t in zip(what.of, seeds, strict=True)]
        gives = [_adjoint(tensors[n], wanted[name]) for name, n in zip(what.wrt, program.outputs, strict=True)]
        return Derived(program, (*self.takes, *takes), tuple(gives))

    def _tangent(self, what: Derivative) -> Derived:
        program, names = jvp(self.program, what.wrt), tangent_names(self.program)
        wanted = _by_name(self.takes)
        takes = [replace(wanted[name], name=names[name], role=TANGENT, number=-1, of=name) for name in what.wrt]
        gives = [replace(p, name=names[p.name], role=TANGENT, of=p.name) for p in self.gives if p.name in names]
        return Derived(program, (*self.takes, *takes), tuple(gives))

    def without_unused(self) -> Derived:
        """Without inputs that nothing reads, unless they alone say how long an axis is."""
        read = tensors_read(self.program)
        kept = {p.name for p in self.takes if p.name in read}
        bound = {axis for p in self.takes if p.name in kept for axis in p.axes}
        free = {axis.name for axis in tidied(self.program).axes if axis.extent is None}
        for place in self.takes:
            if place.name not in kept and set(place.axes) & free - bound:
                kept.add(place.name)
                bound |= set(place.axes)
        program = replace(self.program, inputs=tuple(t for t in self.program.inputs if t.name in kept))
        return Derived(tidied(program), tuple(p for p in self.takes if p.name in kept), self.gives)


def specialised(layer: str, made: Derived, program: Callable[[], Program]) -> Specialisation:
    """What a call of a derived Program takes and gives; ``program`` makes it again."""
    stated = tuple((axis.name, axis.extent) for axis in made.program.axes if axis.extent is not None)
    requirements = tuple(r.condition for r in made.program.requirements)
    return Specialisation(layer, made.takes, made.gives, stated, requirements, program)


def arranged(layer: str, kind: Kind, program: Program) -> Program:
    """A layer on a piece of a sequence if a state comes in or goes out, its sequences lying as the kind says.

    Raises Unsupported, naming the equation, for a layer that has no such form; UserError for too many batch axes.
    """
    batch = leading_axes(program, program.sequence_axes[0]) if len(program.sequence_axes) == 1 else ()
    if kind.takes or kind.gives:
        program = step(program, kind.takes, kind.gives)
    for name, count in kind.arranged:
        if count > len(batch) and program.sequence_axes:
            shape = ", ".join((*batch, program.sequence_axes[0]))
            raise UserError(
                f"{layer}: sequences cannot differ along {count} axes", expected=f"at most those of [{shape}]"
            )
        program = _ARRANGEMENTS[name](program, batch[:count])
    return program


def derived(layer: str, kind: Kind, inputs: Sequence[str], program: Program) -> Derived:
    """All derivations of a kind of call, applied to the layer.

    Args:
        inputs: the names of the layer's inputs.
        program: the layer, arranged as the kind says.

    Raises UserError if a state comes in and an input is given that the state takes the place of.
    """
    made = _underived(layer, kind, inputs, program)
    held = {p.name: p.storage for p in made.takes if p.role == INPUT}
    kept: tuple[Kept, ...] | None = None
    for derivative in kind.derivatives:
        if derivative.name != "jvp" and kept is None:
            kept = kept_values(grad(made.program, derivative.wrt))
        if derivative.name == "save":
            return _saving(made.without_unused() if len(kind.derivatives) > 1 else made, kept or (), held)
        made = made.differentiated(derivative)
    if kept:
        defined = {e.name for e in made.program.equations}
        kept = tuple(k for k in kept if k.tensor.name in defined)
        made = Derived(rebuilding(made.program, kept), (*made.takes, *_saved(kept, held)), made.gives)
    return made.without_unused() if kind.derivatives else made


def _saving(made: Derived, kept: tuple[Kept, ...], held: dict[str, str]) -> Derived:
    known = made.program.tensors()
    source = made.program if all(k.tensor.name in known for k in kept) else flatten(made.program)
    return Derived(saving(source, kept), made.takes, (*made.gives, *_saved(kept, held)))


def _saved(kept: tuple[Kept, ...], held: dict[str, str]) -> list[Place]:
    """Where what is kept goes out and comes in."""
    return [Place(k.name, k.tensor.name, k.axes, state_storage(k.tensor.dtype, held), SAVED, False) for k in kept]


def _underived(layer: str, kind: Kind, inputs: Sequence[str], program: Program) -> Derived:
    """The layer itself."""
    given = {name: item for name, item in zip(inputs, kind.inputs, strict=True) if item is not None}
    taken = {t.name for t in program.inputs}
    replaced = [name for name in given if name not in taken]
    if replaced and kind.takes:
        raise UserError(
            f"{layer}: {replaced[0]!r} is given together with a state, which takes its place",
            hint=f"leave out {replaced[0]!r}, or start afresh without `state`",
        )
    held = {name: storage for name, (_, storage) in given.items()}
    able, numbers = differentiable(program), {name: number for number, name in enumerate(inputs)}
    takes = []
    for t in program.inputs:
        if t.name in given:
            takes.append(Place(t.name, t.name, t.axes, held[t.name], INPUT, t.name in able[0], numbers[t.name]))
        else:
            storage = state_storage(t.dtype, held)
            role = STATE if t.name.endswith(_TAKEN) else LAYOUT
            takes.append(Place(t.name, _shown(t.name, role), t.axes, storage, role, t.name in able[0]))
    gives = []
    tensors = program.tensors()
    for name in program.outputs:
        t, has_gradient = tensors[name], name in able[1]
        if name.endswith(_GIVEN):
            gives.append(Place(name, _shown(name, NEXT), t.axes, state_storage(t.dtype, held), NEXT, has_gradient))
        else:
            storage = kind.narrow if kind.narrow and t.dtype is REAL else output_storage(t.dtype, held)
            gives.append(Place(name, name, t.axes, storage, OUTPUT, has_gradient))
    return Derived(program, tuple(takes), tuple(gives))


def _by_name(places: Sequence[Place]) -> dict[str, Place]:
    return {place.name: place for place in places}


def _adjoint(tensor: Tensor, of: Place) -> Place:
    """The adjoint of what is at a place. That of a complex number is complex, also where a real one is stored."""
    storage = of.storage
    if tensor.dtype is COMPLEX and not storage.startswith("c"):
        storage = "c128" if storage == "f64" else "c64"
    return Place(tensor.name, of.shown, tensor.axes, storage, ADJOINT, of=of.name)


def _shown(name: str, role: str) -> str:
    """What users call a carried value: ``h`` for ``h.state`` and ``h.next``, ``t`` for ``t.offset``; and what says
    where sequences lie."""
    carrier, _, suffix = name.rpartition(".")
    return _LAYOUTS[suffix] if role == LAYOUT else carrier
