"""What is verified: the derived Programs, in the interpreter, and the compiled operator of each target.

Both answer the same questions about a case: the outputs of the whole, those of consecutive pieces, and so on. What
they answer is compared with what the interpreter says of the Program as written (``meaning``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from ssmc import compiler, passes
from ssmc.backends import target_named
from ssmc.dsl import LayerSignature
from ssmc.errors import Unsupported
from ssmc.ir import Program

from .cases import Case, Variant
from .evaluate import Array, Arrays, run
from .meaning import cut, join

TORCH = {
    "f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "i64": torch.int64,
    "c64": torch.complex64, "c128": torch.complex128, "b8": torch.bool,
}  # fmt: skip
WORDS = {"f64": "float64", "f32": "float32", "bf16": "bfloat16", "f16": "float16"}
# How states and what says where sequences lie are called in derived Programs.
STATES, GIVEN = (".state", ".offset"), (".next", ".next_offset", ".at", ".at_offset")
LAYOUTS = (".doc", ".start", ".end", ".valid", ".at")


class Layer(Protocol):
    """What is needed of a compiled layer; ``ssmc.runtime.Layer`` is one."""

    @property
    def name(self) -> str: ...
    @property
    def signature(self) -> LayerSignature: ...
    @property
    def statics(self) -> Mapping[str, Any]: ...
    @property
    def plan(self) -> passes.PlanOptions: ...
    @property
    def state_type(self) -> Callable[[Sequence[str], Sequence[torch.Tensor]], Any]: ...
    def __call__(self, /, *args: Any, **named: Any) -> Any: ...
    def device_of(self, target: str) -> str: ...
    def choosing(self, target: str) -> Layer: ...
    def program(
        self,
        present: Sequence[str] | None = ...,
        signatures: Mapping[str, Sequence[str]] | None = ...,
        takes_state: bool = ...,
        returns_state: bool = ...,
        **statics: Any,
    ) -> Program: ...


def time_axis(program: Program) -> str:
    """The one sequence axis; Unsupported if there is none, or several."""
    if not program.sequence_axes:
        raise Unsupported(f"{program.name} has no sequence axis: none is declared with `seq`")
    if len(program.sequence_axes) > 1:
        raise Unsupported(f"{program.name} has {len(program.sequence_axes)} sequence axes")
    return program.sequence_axes[0]


# ---------------------------------------------------------------- derived Programs


@dataclass
class Derived:
    """The derived Programs, run by the interpreter."""

    made: dict[Any, Program] = field(default_factory=dict)
    label: str = "equations"
    storage: str = "f64"

    def derive(self, key: Any, make: Any) -> Program:
        """A derived Program, made once."""
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def step(self, variant: Variant, takes: bool) -> Program:
        return self.derive(("step", id(variant), takes), lambda: passes.step(variant.program, takes=takes, gives=True))

    def whole(self, case: Case) -> Arrays:
        """The outputs of the Program that compilation starts from."""
        return run(compiler.prepared(case.program, case.sizes), case.inputs)

    def forms(
        self, variant: Variant, program: Program, given: Mapping[str, Array], backwards: bool = False
    ) -> Iterator[tuple[str, Arrays]]:
        """The outputs of a derived form of the layer, as its Program names them, for every way to ask for it, each
        with a label; ``given`` may hold more than it takes."""
        yield "", run(program, {t.name: given[t.name] for t in program.inputs})

    def pieces(self, case: Case, cuts: Sequence[int]) -> tuple[Arrays, Arrays]:
        """The outputs, joined, of the pieces between ``cuts``, and the state after the last."""
        time = time_axis(case.program)
        state: Arrays = {}
        made: list[Arrays] = []
        for start, end in pairs(cuts, case.sizes[time]):
            program = self.step(case.variant, bool(made))
            here = cut(case.inputs, case.program.inputs, time, start, end)
            found = run(program, {t.name: {**here, **state}[t.name] for t in program.inputs})
            state = {taken(name): array for name, array in found.items() if name not in case.program.outputs}
            made.append(found)
        return join(made, case.program, time), {shown(name): value for name, value in state.items()}


def pairs(cuts: Sequence[int], length: int) -> Iterator[tuple[int, int]]:
    """The stretches between ``cuts``."""
    ends = [0, *cuts, length]
    yield from zip(ends, ends[1:], strict=False)


def shown(name: str) -> str:
    """What a State calls what a stepped Program takes: ``h`` for ``h.state``, ``t`` for ``t.offset``."""
    return name.removesuffix(".state").removesuffix(".offset")


def taken(name: str) -> str:
    """The input that takes an output of a step: ``h.state`` for ``h.next``."""
    if name.endswith(".next_offset"):
        return name.removesuffix(".next_offset") + ".offset"
    return name.removesuffix(".next") + ".state"


# ---------------------------------------------------------------- compiled operators


@dataclass
class Compiled:
    """The operator of a layer on one target, for inputs of one storage."""

    layer: Layer
    target: str
    storage: str

    @property
    def label(self) -> str:
        return f"{self.target}, {WORDS[self.storage]}"

    @property
    def device(self) -> str:
        return self.layer.device_of(self.target)

    @property
    def is_spread(self) -> bool:
        """Whether its work is spread over threads; a processor that stands in for a GPU does one block at a time."""
        return self.device != "cpu" or not target_named(self.target.partition(":")[0]).blocks

    @functools.cached_property
    def operator(self) -> Layer:
        """The layer, run as this target even where tensors on its device usually run as another."""
        return self.layer if self.device == "cpu" else self.layer.choosing(self.target.partition(":")[0])

    def tensors(self, inputs: Mapping[str, Array]) -> dict[str, torch.Tensor]:
        """Arguments of the operator."""
        return {name: self.tensor(array) for name, array in inputs.items()}

    def tensor(self, array: Array) -> torch.Tensor:
        dtypes = {"f": TORCH[self.storage], "i": torch.int64, "b": torch.bool,
                  "c": torch.complex128 if self.storage == "f64" else torch.complex64}  # fmt: skip
        return torch.from_numpy(np.array(array)).to(self.device, dtypes[array.dtype.kind])

    def raw(self, variant: Variant, arguments: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """The outputs of a call by name, as it returns them; the state, if asked for, as ``state``."""
        made = self.operator(**arguments, **variant.statics, **options)
        values = made if isinstance(made, tuple) else (made,)
        names = [output.name for output in self.layer.signature.outputs]
        names += ["state"] * bool(options.get("return_state"))
        return dict(zip(names, values, strict=True))

    def arrays(self, made: Mapping[str, torch.Tensor]) -> Arrays:
        """What was returned, as arrays; its memory is spoiled, so that a call that leaves a gap in memory that comes
        after it does not find the right numbers there."""
        found = {name: np.array(array_of(value)) for name, value in made.items()}
        for value in made.values():
            spoil(value)
        return found

    def call(self, variant: Variant, arguments: Mapping[str, Any], **options: Any) -> tuple[Arrays, Any]:
        """The outputs by name, and the state if it is asked for."""
        made = self.raw(variant, arguments, **options)
        state = made.pop("state", None) if options.get("return_state") else None
        return self.arrays(made), state

    def whole(self, case: Case) -> Arrays:
        """The outputs of one call."""
        return self.call(case.variant, self.tensors(case.inputs))[0]

    def pieces(self, case: Case, cuts: Sequence[int]) -> tuple[Arrays, Arrays]:
        """As ``Derived.pieces``, by one call for each piece."""
        time = time_axis(case.program)
        arguments = self.tensors(case.inputs)
        later = {t.name for t in passes.step(case.program, takes=True, gives=True).inputs}
        state: Any = None
        made: list[Arrays] = []
        for start, end in pairs(cuts, case.sizes[time]):
            here = {
                t.name: stretch(arguments[t.name], t.axes, time, start, end)
                for t in case.program.inputs
                if state is None or t.name in later
            }
            given = {} if state is None else {"state": state}
            found, state = self.call(case.variant, here, return_state=True, **given)
            made.append(found)
        carried = {name: array_of(value) for name, value in state.tensors.items()}
        return join(made, case.program, time), carried

    def forms(
        self, variant: Variant, program: Program, given: Mapping[str, Array], backwards: bool = False
    ) -> Iterator[tuple[str, Arrays]]:
        """As ``Derived.forms``, by calls."""
        inputs = self.inputs_of(program, given)
        for options in self.options(program, given):
            label = ", ".join(name for name in ("cu_seqlens", "seq_idx", "position_ids") if name in options)
            made = self.formed(variant, program, inputs, options | ({"reverse": True} if backwards else {}))
            yield label, self.arrays(made)

    def options(self, program: Program, given: Mapping[str, Array]) -> Iterator[dict[str, Any]]:
        """``spellings``, but for those in which the layer calls an input or a static parameter of its own so."""
        taken = {item.name for item in self.layer.signature.inputs} | {s.name for s in self.layer.signature.statics}
        return (found for found in spellings(program, given) if not taken & found.keys())

    def inputs_of(self, program: Program, given: Mapping[str, Array]) -> dict[str, torch.Tensor]:
        """What a call is given for a derived Program, options excepted. A state is never narrower than float32."""
        found = {}
        for t in program.inputs:
            if t.name.endswith(STATES):
                wide = Compiled(self.layer, self.target, "f64" if self.storage == "f64" else "f32")
                found[t.name] = wide.tensor(given[t.name])
            elif not t.name.endswith(LAYOUTS):
                found[t.name] = self.tensor(given[t.name])
        return found

    def formed(
        self, variant: Variant, program: Program, inputs: Mapping[str, torch.Tensor], options: Mapping[str, Any]
    ) -> dict[str, torch.Tensor]:
        """The outputs of a derived Program by the call that asks for it."""
        own = {name: value for name, value in inputs.items() if not name.endswith(STATES)}
        held = {shown(name): value for name, value in inputs.items() if name.endswith(STATES)}
        more: dict[str, Any] = {"state": self.layer.state_type(tuple(held), tuple(held.values()))} if held else {}
        gives = any(name.endswith(GIVEN) for name in program.outputs)
        made = self.raw(variant, own, **options, **more, return_state=gives)
        state = made.pop("state").tensors if gives else {}
        return {n: state[n.rpartition(".")[0]] if n.endswith(GIVEN) else made[n] for n in program.outputs}

    def trained(
        self, variant: Variant, case: Case, adjoints: Mapping[str, Array], backwards: bool = False
    ) -> tuple[Arrays, Arrays]:
        """The outputs of a derived Program, and what autograd says of its inputs, by name, for adjoints of outputs."""
        sought, sources = passes.differentiable(case.program)
        inputs = {n: v.requires_grad_(n in sought) for n, v in self.inputs_of(case.program, case.inputs).items()}
        options = next(self.options(case.program, case.inputs), None)
        if options is None:
            raise Unsupported("an input of the layer is called as the option that would ask for it")
        options |= {"reverse": True} if backwards else {}
        with torch.enable_grad():
            made = self.formed(variant, case.program, inputs, options)
        seeds = [self.tensor(adjoints[n]).to(made[n].dtype) for n in sources]
        found = gradients([made[n] for n in sources], [inputs[n] for n in sought], seeds)
        slopes = {n: array_of(value) for n, value in zip(sought, found, strict=True)}
        return {name: array_of(value) for name, value in made.items()}, slopes

    def jvp(
        self, variant: Variant, arguments: Mapping[str, torch.Tensor], along: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """How the outputs move as the arguments do."""
        names = list(along)

        def function(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(self.raw(variant, {**arguments, **dict(zip(names, values, strict=True))}).values())

        made: Any = torch.func.jvp(function, tuple(arguments[n] for n in names), tuple(along[n] for n in names))
        return dict(zip((o.name for o in self.layer.signature.outputs), made[1], strict=True))


def spellings(program: Program, given: Mapping[str, Array]) -> Iterator[dict[str, Any]]:
    """The options that say what a derived Program takes beside the inputs of the layer and states, in every way in
    which they can be said: none for documents of each row's own with an empty one before others."""
    found: dict[str, Any] = {}
    layout = {t.name.rpartition(".")[2]: given[t.name] for t in program.inputs if t.name.endswith(LAYOUTS)}
    for name, option in (("valid", "mask"), ("at", "states_at")):
        if name in layout:
            found[option] = torch.from_numpy(np.array(layout[name]))
    if "doc" not in layout:
        yield found
        return
    doc, start, end = layout["doc"], layout["start"], layout["end"]
    if doc.ndim == 1:
        yield {**found, "cu_seqlens": torch.from_numpy(np.array([0, *end]))}
    empty = start == end
    if doc.ndim == 1 and empty.any() or (empty[..., :-1] & ~empty[..., 1:]).any():
        return
    told = any(t.name.endswith(STATES) for t in program.inputs)
    by_document = any(a.endswith(".docs") for name in program.outputs for a in program.equation(name).axes)
    if empty[..., -1].all() and by_document and not told:
        return  # how many documents there are is not said by these
    position = np.arange(doc.shape[-1]) - np.take_along_axis(start, doc, -1)
    yield {**found, "seq_idx": torch.from_numpy(np.array(3 - doc))}
    yield {**found, "position_ids": torch.from_numpy(position)}


def gradients(
    outputs: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], adjoints: Sequence[torch.Tensor], **more: Any
) -> list[torch.Tensor]:
    """What autograd gives; zeros where outputs do not depend on an input, or on none at all."""
    kept = [(output, adjoint) for output, adjoint in zip(outputs, adjoints, strict=True) if output.requires_grad]
    found: Sequence[Any] = [None] * len(inputs)
    if kept:
        ends, seeds = zip(*kept, strict=True)
        found = torch.autograd.grad(ends, inputs, seeds, allow_unused=True, **more)
    return [torch.zeros_like(i) if value is None else value for i, value in zip(inputs, found, strict=True)]


def stretch(tensor: torch.Tensor, axes: Sequence[str], time: str, start: int, end: int) -> torch.Tensor:
    """A tensor from ``start`` to ``end`` along ``time``, if it has that axis."""
    return tensor.narrow(axes.index(time), start, end - start) if time in axes else tensor


def spoil(value: torch.Tensor) -> None:
    """Overwrite a tensor with what no layer returns."""
    with torch.no_grad():
        value.fill_(torch.nan if value.is_floating_point() or value.is_complex() else 1)


def array_of(value: torch.Tensor) -> Array:
    """A tensor as the interpreter has it: reals in float64."""
    value = value.detach().resolve_conj().resolve_neg().cpu()
    if value.is_complex():
        value = value.to(torch.complex128)
    elif value.is_floating_point():
        value = value.to(torch.float64)
    result: Array = value.numpy()
    return result
