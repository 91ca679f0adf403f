"""One PyTorch operator per layer: registered once, run on tensors, traced on fake ones.

``ssmc::<layer>_<digest>(inputs…, static parameters…, Tensor[]? state, bool return_state) -> Tensor[]``
returns the outputs, then the state. The digest is that of the texts a layer consists of, so the same
layer loaded twice is one operator and two different ones never meet. A second overload, ``…_derived(Tensor[]
values, str kind) -> Tensor[]``, runs any kind of call: what is derived from the layer, such as its gradient.
"""

from __future__ import annotations

import functools
import keyword
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from ssmc.dsl import InputSignature, LayerSignature
from ssmc.errors import InternalError, UserError
from ssmc.ir import BOOL, COMPLEX, INT, REAL, Program
from ssmc.passes import PlanOptions

from .arrange import Arranged, Geometry, geometry
from .binding import alternative, check_kind, checked_static, shown
from .build import Call, Family, Planned, Variant, extent_in_bytes
from .dtypes import STORAGE, TORCH_DTYPES, short
from .gradient import Recipe, asks_for_derivatives
from .machines import DEVICES, Machines, one_device
from .specialise import STATE, Kind, Place, Specialisation
from .tuned import Results, Subject

NAMESPACE = "ssmc"
CALLS_KEPT = 1024
_RESERVED = ("self", "state", "return_state", "out")
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU) | torch._C.DispatchKeySet(
    torch._C.DispatchKey.AutocastCUDA
)
Tensors = Sequence[torch.Tensor]


class Source(Protocol):
    """Where the Programs of a layer come from."""

    digest: str
    signature: LayerSignature
    machines: Machines
    plan: PlanOptions

    def choosing(self, target: str) -> Source: ...

    def program(self, kind: Kind) -> Program: ...

    def specialisation(self, kind: Kind) -> Specialisation: ...

    def subject(self, kind: Kind, device: torch.device) -> Subject: ...

    @property
    def results(self) -> Results: ...

    def planned(self, kind: Kind, sizes: Mapping[str, int], device: torch.device) -> Planned: ...

    def build(
        self, spec: Specialisation, kind: Kind, sizes: dict[str, int], device: torch.device, options: PlanOptions
    ) -> Variant: ...


class Operator:
    """A layer as a PyTorch operator, with everything that was compiled for it; use ``operator_of``."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.signature = source.signature
        self.layer = source.signature.name
        self.specialisations: dict[Kind, Specialisation] = {}
        self.families: dict[tuple[Kind, torch.device], Family] = {}
        self.latest: tuple[Kind, Call] | None = None
        self._calls: dict[Any, Call] = {}
        self._geometries: dict[Kind, Geometry] = {}
        self._lock = threading.RLock()
        self._inputs = len(self.signature.inputs)
        self._library = torch.library.Library(NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]
        self.name = f"{_ascii(self.layer)}_{source.digest[:16]}"
        self._recipes: dict[tuple[Kind, tuple[str, ...]], Recipe] = {}
        self.overload, self.derived = self._register()

    # ------------------------------------------------------------ what kind of call it is

    def kind(
        self,
        values: Sequence[torch.Tensor | None],
        statics: tuple[Any, ...],
        takes: bool,
        gives: bool,
        arranged: Arranged = (),
    ) -> Kind:
        """The kind of a call; UserError for a device, dtype or number of axes that no layer is made for."""
        inputs: list[tuple[tuple[str, ...], str] | None] = []
        for item, value in zip(self.signature.inputs, values, strict=True):
            if value is None:
                inputs.append(None)
                continue
            check_kind(self.layer, item, value, DEVICES)
            inputs.append((alternative(self.layer, item, value), STORAGE[value.dtype]))
        return Kind(tuple(inputs), statics, takes, gives, arranged)

    def kind_of_ranks(self, ranks: tuple[int | None, ...], statics: tuple[Any, ...], takes: bool, gives: bool) -> Kind:
        """A kind of which only the names matter: the usual storage for every input."""
        usual = {REAL: "f32", COMPLEX: "c64", INT: "i64", BOOL: "b8"}
        inputs: list[tuple[tuple[str, ...], str] | None] = []
        for item, rank in zip(self.signature.inputs, ranks, strict=True):
            axes = next((a for a in item.alternatives if len(a) == rank), item.alternatives[0])
            inputs.append(None if rank is None else (axes, usual[item.dtype]))
        return Kind(tuple(inputs), statics, takes, gives)

    def specialisation(self, kind: Kind) -> Specialisation:
        """What a call of that kind takes and returns; made once."""
        found = self.specialisations.get(kind)
        if found is None:
            with self._lock:
                found = self.specialisations[kind] = self.source.specialisation(kind)
        return found

    def geometry(self, kind: Kind) -> Geometry:
        """Where a call of that kind finds what it takes."""
        found = self._geometries.get(kind)
        if found is None:
            found = self._geometries[kind] = geometry(kind, self.specialisation(kind))
        return found

    def arguments(self, spec: Specialisation, values: Sequence[torch.Tensor | None], states: Tensors | None) -> Tensors:
        """What a call passes on: inputs that the specialisation has, then the checked state."""
        found = []
        for place in spec.inputs:
            value = values[place.number]
            assert value is not None
            found.append(value)
        given = states or ()
        if len(given) != len(spec.states):
            names = ", ".join(place.shown for place in spec.states) or "nothing"
            raise UserError(f"{self.layer}: a state of {len(given)} tensors", expected=f"{len(spec.states)}: {names}")
        for place, value in zip(spec.states, given, strict=True):
            self._check_value(place, value)
            found.append(value)
        return found

    def _check_value(self, place: Place, value: torch.Tensor) -> None:
        wanted = TORCH_DTYPES[place.storage]
        if value.device.type not in DEVICES or value.dtype is not wanted:
            is_state = place.role == STATE
            raise UserError(
                f"{self.layer}: {place.described()} is {shown(value)}",
                expected=f"a {short(wanted)} tensor on {' or '.join(DEVICES)}"
                + (": what these inputs are computed in" if is_state else ""),
                hint="state.to(dtype=…) converts a state" if is_state else "",
            )

    # ------------------------------------------------------------ calls

    def call(
        self,
        values: Sequence[torch.Tensor | None],
        statics: tuple[Any, ...],
        states: Tensors | None,
        gives: bool,
        out: Tensors = (),
    ) -> tuple[Call, Tensors]:
        """A call made ready, and the arguments whose addresses it takes, in order.

        Arguments that are conjugate or negative views are made real ones.
        """
        values = [None if v is None else _plain(v) for v in values]
        states = None if states is None else [_plain(v) for v in states]
        key = (statics, gives, *map(_form, values), "state", *map(_form, states or ()), "out", *map(_form, out))
        key = (states is not None, *key)
        ready = self._calls.get(key)
        if ready is None:
            with self._lock:
                kind = self.kind(values, statics, states is not None, gives)
                given = self.arguments(self.specialisation(kind), values, states)
                return self._ready(key, kind, given, out), given
        given = [v for p in ready.spec.inputs if (v := values[p.number]) is not None]
        return ready, [*given, *(states or ())]

    def _ready(self, key: Any, kind: Kind, given: Tensors, out: Tensors) -> Call:
        """A call of that kind for these arguments, to be found by ``key`` from now on."""
        spec = self.specialisation(kind)
        sizes = spec.sizes(given)
        device = one_device(self.layer, [p.described() for p in spec.takes], given)
        family = self.families.get((kind, device))
        if family is None:
            family = Family(
                spec,
                lambda s, n, p: self.source.build(s, kind, n, device, p.options),
                lambda n: self.source.planned(kind, n, device),
            )
            self.families[kind, device] = family
        ready = Call(spec, family.compiled(sizes), sizes, given, out, device)
        self._check_order(ready)
        if not kind.derivatives:
            self.latest = kind, ready
        if len(self._calls) >= CALLS_KEPT:
            self._calls.clear()
        self._calls[key] = ready
        return ready

    def _check_order(self, ready: Call) -> None:
        """The compiler's arguments are those of the specialisation, in the same order and storage."""
        spec = ready.spec
        mine = [(p.name, p.storage) for p in (*spec.takes, *spec.gives)]
        theirs = [(a.name, a.storage) for a in ready.variant.arguments if a.role != "workspace"]
        if mine != theirs:
            raise InternalError(f"{self.layer}: the compiled entry takes {theirs}, expected {mine}; please report this")

    def run(
        self,
        values: Sequence[torch.Tensor | None],
        statics: tuple[Any, ...],
        states: Tensors | None,
        gives: bool,
        out: Tensors = (),
    ) -> list[torch.Tensor]:
        """Outputs, then the state if it is asked for, of one call.

        Raises UserError for wrong arguments, ToolchainError if there is no compiler.
        """
        ready, given = self.call(values, statics, states, gives, out)
        if out:
            check_out(self.layer, ready, given, out)
        return ready.run(map(torch.Tensor.data_ptr, given), out)

    def fake(
        self, values: Sequence[torch.Tensor | None], statics: tuple[Any, ...], states: Tensors | None, gives: bool
    ) -> list[torch.Tensor]:
        """Empty tensors of the shapes and dtypes that ``run`` returns; sizes may be symbolic."""
        spec = self.specialisation(self.kind(values, statics, states is not None, gives))
        return _empty(spec, self.arguments(spec, values, states))

    def run_derived(self, values: Tensors, text: str) -> list[torch.Tensor]:
        """All that a call of the kind that ``text`` stands for gives, from all that it takes."""
        ready, given = self.call_derived(values, text)
        return ready.run(map(torch.Tensor.data_ptr, given))

    def call_derived(self, values: Tensors, text: str, out: Tensors = ()) -> tuple[Call, Tensors]:
        """A call of that kind made ready, and the arguments whose addresses it takes, in order."""
        values = [_plain(v) for v in values]
        key = (text, *map(_form, values), "out", *map(_form, out))
        ready = self._calls.get(key)
        if ready is None:
            with self._lock:
                kind = kind_of(text)
                self._check_values(self.specialisation(kind), values)
                ready = self._ready(key, kind, values, out)
        return ready, values

    def fake_derived(self, values: Tensors, text: str) -> list[torch.Tensor]:
        """Empty tensors of the shapes and dtypes that ``run_derived`` returns; sizes may be symbolic."""
        spec = self.specialisation(kind_of(text))
        self._check_values(spec, values)
        return _empty(spec, values)

    def _check_values(self, spec: Specialisation, values: Tensors) -> None:
        if len(values) != len(spec.takes):
            names = ", ".join(place.name for place in spec.takes)
            raise UserError(f"{self.layer}: {len(values)} tensors", expected=f"{len(spec.takes)}: {names}")
        for place, value in zip(spec.takes, values, strict=True):
            self._check_value(place, value)

    # ------------------------------------------------------------ PyTorch

    def schema(self) -> str:
        """The operator's schema, without its namespace."""
        words = [f"{'Tensor' if item.required else 'Tensor?'} {n}" for item, n in self._parameter_names()]
        kinds = {"int": "int", "real": "float", "bool": "bool", "enum": "str"}
        words += [f"{kinds[item.kind]} static_{number}" for number, item in enumerate(self.signature.statics)]
        return f"{self.name}({', '.join([*words, 'Tensor[]? state', 'bool return_state'])}) -> Tensor[]"

    def _parameter_names(self) -> list[tuple[InputSignature, str]]:
        """Each input with a name that schemas accept."""
        found = []
        for number, item in enumerate(self.signature.inputs):
            good = item.name.isascii() and item.name.isidentifier() and not keyword.iskeyword(item.name)
            reserved = item.name in _RESERVED or item.name.startswith(("static_", "input_"))
            found.append((item, item.name if good and not reserved else f"input_{number}"))
        return found

    def _register(self) -> tuple[Any, Any]:
        tags = [torch.Tag.pt2_compliant_tag]
        if hasattr(torch.Tag, "needs_exact_strides"):
            tags.append(torch.Tag.needs_exact_strides)
        library: Any = self._library
        made = []
        for name, schema, run, fake, autograd, autocast in (
            (self.name, self.schema(), self._on_device, self._on_fake, self._on_autograd, self._on_autocast),
            (f"{self.name}_derived", f"{self.name}_derived(Tensor[] values, str kind) -> Tensor[]", self.run_derived,
             self.fake_derived, self._on_autograd_derived, self._on_autocast_derived),
        ):  # fmt: skip
            library.define(schema, tags=tuple(tags))
            for key in ("CPU", "CUDA"):
                library.impl(name, run, key)
            torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=library)
            library.impl(name, autograd, "Autograd", with_keyset=True)
            for device in DEVICES:
                library.impl(name, functools.partial(autocast, device), f"Autocast{device.upper()}")
            overload = getattr(getattr(torch.ops, NAMESPACE), name).default
            torch.library.register_vmap(f"{NAMESPACE}::{name}", functools.partial(_on_vmap, overload), lib=library)
            made.append(overload)
        return made[0], made[1]

    def split(self, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...], Any, bool]:
        """The operator's arguments as values, statics, state and whether to return one."""
        return args[: self._inputs], self.statics(args[self._inputs : -2]), args[-2], args[-1]

    def statics(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(checked_static(self.layer, s, v) for s, v in zip(self.signature.statics, values, strict=True))

    def _on_device(self, *args: Any) -> list[torch.Tensor]:
        return self.run(*self.split(args))

    def _on_fake(self, *args: Any) -> list[torch.Tensor]:
        return self.fake(*self.split(args))

    def _on_autograd(self, keyset: Any, *args: Any) -> list[torch.Tensor]:
        values, states = args[: self._inputs], args[-2]
        if asks_for_derivatives([*values, *(states or ())]):
            values, statics, states, gives = self.split(args)
            kind = self.kind(values, statics, states is not None, gives)
            return self._recorded(keyset, kind, self.arguments(self.specialisation(kind), values, states))
        with torch._C._AutoDispatchBelowAutograd():
            return self.overload.redispatch(keyset & torch._C._after_autograd_keyset, *args)

    def _on_autograd_derived(self, keyset: Any, values: Tensors, text: str) -> list[torch.Tensor]:
        if asks_for_derivatives(values):
            return self._recorded(keyset, kind_of(text), values)
        with torch._C._AutoDispatchBelowAutograd():
            return self.derived.redispatch(keyset & torch._C._after_autograd_keyset, values, text)

    def _on_autocast(self, device: str, *args: Any) -> list[torch.Tensor]:
        values, statics, states, gives = self.split(args)
        kind = self.kind(values, statics, states is not None, gives)
        narrow = kind.under_autocast(_preferred(device))
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            if narrow is kind:
                return self.overload(*args)
            return self.derived([*self.arguments(self.specialisation(kind), values, states)], narrow.text)

    def _on_autocast_derived(self, device: str, values: Tensors, text: str) -> list[torch.Tensor]:
        kind = kind_of(text).under_autocast(_preferred(device))
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            return self.derived(values, kind.text)

    def _recorded(self, keyset: Any, kind: Kind, values: Tensors) -> list[torch.Tensor]:
        """A call of that kind, recorded by autograd."""
        spec = self.specialisation(kind)
        if not any(p.differentiable for p in spec.gives):
            with torch._C._AutoDispatchBelowAutograd():
                return self.derived.redispatch(keyset & torch._C._after_autograd_keyset, list(values), kind.text)
        asked = [p.name for p, v in zip(spec.takes, values, strict=True) if v.requires_grad and p.differentiable]
        key = kind, tuple(asked)
        recipe = self._recipes.get(key)
        if recipe is None:
            recipe = self._recipes[key] = Recipe(self, *key)
        return recipe.recorded(keyset, values)


def _preferred(device: str) -> str:
    """What autocast wants values on such devices to be stored as."""
    return STORAGE.get(torch.get_autocast_dtype(device), "")


def _on_vmap(overload: Any, info: Any, dims: tuple[Any, ...], *args: Any) -> tuple[list[torch.Tensor], list[int]]:
    """``torch.vmap``: one call after the other."""
    runs = []
    for number in range(info.batch_size):
        own = [_entry(value, dim, number) for value, dim in zip(args, dims, strict=True)]
        runs.append(overload(*own))
    made = [torch.stack(values) for values in zip(*runs, strict=True)]
    return made, [0] * len(made)


def _entry(value: Any, dim: Any, number: int) -> Any:
    """An argument at one place of the axis that vmap maps over."""
    if isinstance(value, (list, tuple)):
        return [_entry(item, place, number) for item, place in zip(value, dim, strict=True)]
    return value if dim is None else value.select(dim, number)


def kind_of(text: str) -> Kind:
    """The kind of call that a text in a graph stands for; UserError if it stands for none."""
    try:
        return Kind.of(text)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{text!r} is no kind of call") from error


def _empty(spec: Specialisation, given: Tensors) -> list[torch.Tensor]:
    sizes, device = spec.sizes(given), given[0].device if given else "cpu"
    return [
        torch.empty([sizes[axis] for axis in place.axes], dtype=TORCH_DTYPES[place.storage], device=device)
        for place in spec.gives
    ]


def _plain(value: torch.Tensor) -> torch.Tensor:
    if value.is_conj() or value.is_neg():
        return value.resolve_conj().resolve_neg()
    return value


def _form(value: torch.Tensor | None) -> Any:
    """What a ready call depends on of one argument."""
    if value is None:
        return None
    if value.layout is not torch.strided:
        return value.layout
    return value.shape, value.stride(), value.dtype, value.device


def _ascii(name: str) -> str:
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def check_out(layer: str, ready: Call, given: Tensors, out: Tensors) -> None:
    """Raise UserError unless ``out`` can take the outputs of a call."""
    if len(out) != len(ready.spec.outputs):
        names = ", ".join(p.shown for p in ready.spec.outputs)
        raise UserError(f"{layer}: `out` holds {len(out)} tensors", expected=f"{len(ready.spec.outputs)}: {names}")
    spans = [extent_in_bytes(value) for value in given]
    for place, buffer, value in zip(ready.spec.outputs, ready.buffers, out, strict=False):
        name = f"`out` for {place.shown!r}"
        if tuple(value.shape) != buffer.shape or value.dtype is not buffer.dtype or value.device != ready.device:
            raise UserError(
                f"{layer}: {name} is {shown(value)}",
                expected=f"a {short(buffer.dtype)} tensor of shape {buffer.shape} on {ready.device}",
            )
        if any(stride == 0 and extent > 1 for stride, extent in zip(value.stride(), value.shape, strict=True)):
            raise UserError(f"{layer}: {name} has several elements in one place (stride 0)", hint=".contiguous()")
        start, end = extent_in_bytes(value)
        if any(start < other_end and other_start < end for other_start, other_end in spans):
            raise UserError(f"{layer}: {name} shares memory with an argument", hint="pass memory of its own")
        spans.append((start, end))


# ---------------------------------------------------------------- one operator per content

_OPERATORS: dict[str, Operator] = {}  # PyTorch's registry is per process, and so is this one
_OPERATORS_LOCK = threading.Lock()


def operator_of(source: Source) -> Operator:
    """The operator of a layer, registered now if this process has not seen the same text before."""
    with _OPERATORS_LOCK:
        key = f"{source.signature.name}:{source.digest}"
        if key not in _OPERATORS:
            _OPERATORS[key] = Operator(source)
        return _OPERATORS[key]
