"""A layer as users call it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ssmc.dsl import LayerSignature, StaticValue
from ssmc.errors import UserError
from ssmc.explain import Explanation, explain
from ssmc.ir import BOOL, COMPLEX, INT, REAL, Program
from ssmc.passes import PlanOptions

from .arrange import Arranged, Geometry, arguments, arranged, split
from .binding import as_tensor, bind, check_static_names, checked_static, complete_statics, describe
from .build import Call, Planned
from .dtypes import STORAGE
from .forms import are_plain_types, form_check, is_plain, nobody_watches
from .gradient import asks_for_derivatives
from .operator import CALLS_KEPT, Operator, check_out, operator_of
from .specialise import Kind
from .state import State, rebuilt
from .tuned import Results, Subject

if TYPE_CHECKING:
    from ssmc.verify import Verification

_size, _stride, _data_ptr = torch.Tensor.size, torch.Tensor.stride, torch.Tensor.data_ptr
_dtype = torch.Tensor.dtype.__get__  # type: ignore[attr-defined]
_requires_grad = torch.Tensor.requires_grad.__get__  # type: ignore[attr-defined]
_is_compiling, _grad_enabled = torch.compiler.is_compiling, torch.is_grad_enabled


class _Ready:
    """A call that was made before in exactly this form: which argument goes where, and what comes back."""

    __slots__ = ("check", "complex", "gradients", "names", "order", "run")

    def __init__(self, call: Call, order: Sequence[int], given: Sequence[torch.Tensor]) -> None:
        self.run = call.run
        self.names = call.spec.state_names
        self.order = None if list(order) == sorted(order) else itemgetter(*order)
        self.complex = any(v.is_complex() for v in given)
        self.gradients = any(v.requires_grad for v in given)
        self.check = form_check(given)

    def renewed(self, given: Sequence[torch.Tensor]) -> _Ready:
        """The same, to be found faster by these arguments."""
        self.gradients = self.gradients or any(map(_requires_grad, given))
        self.check = form_check(given)
        return self

    def fits(self, given: Sequence[Any]) -> bool:
        """Whether these are plain tensors of this form and nobody watches; False when unsure."""
        return self.check(*given) and nobody_watches() and not (self.gradients and _grad_enabled())


class Layer:
    """A compiled layer: call it with tensors, by position or by name.

    ``layer(x, …)`` returns the output, or a tuple where the layer has several. Every input has the axes of
    the layer's signature in their order, with any strides; inputs with a default, or marked ``?``, may be
    left out or None. Outputs are new and contiguous.

    Dtypes: real inputs float64, float32, bfloat16 or float16, mixed at will; arithmetic is done in
    float32, in float64 if any input is; outputs have the dtype of the real inputs if all have the same,
    else the one computed in. ints are int64 or int32, conditions bool. Under ``torch.autocast`` no input is
    cast, so that parameters are not rounded; but where some real inputs have the dtype of autocast and none
    is float64, so do real outputs. States and arithmetic stay as they are.

    Args:
        state: a ``State`` that an earlier call returned; the call continues from there, with one time
            step or many.
        return_state: also return the state after the last step, as the last value.
        out: a tensor, or a tuple of them, that takes the outputs.
        cu_seqlens: (documents + 1,) ints: the sequence is many documents, one after the other, the same in
            all rows; where each begins, and the end of the last. Nothing passes from one to the next.
        seq_idx: (length,) or (batch, length) ints: the same, a document being a stretch of equal numbers.
        position_ids: (length,) or (batch, length) ints: the same, a document beginning where there is 0.
        mask: (length,) or (batch, length) bools or ints: where there is a token. Elsewhere is padding, in
            any place: it changes no state, is no position, and its outputs are 0.
        reverse: run from the last token to the first, in each document.
        states_at: (number,) or (batch, number) ints: return the states after so many indices of the
            sequence in place of the last one.
        others: inputs, and static parameters to change for this call.

    A state of packed documents has one more axis, with an entry for each: in front, or after the batch axes
    where rows have documents of their own; rows with fewer of them have empty ones at the end, which return
    the state that came in. The same goes for the states of `states_at`. A state that a padded call returned
    is like any other, but its position is one for each row. Where a layer has an input or a static parameter
    of one of these names, as causal_conv1d has `seq_idx`, the name means that.

    Raises:
        UserError: an argument is wrong; the message names it, what it is and what was expected.
        Unsupported: a layer has no such form, such as a state where it looks ahead; the equation is named.
        ToolchainError: no compiler, or not enough memory for working space.

    The first call with new dtypes, numbers of axes or inner extents compiles (about a second); a new
    batch size or length never does.
    """

    state_type = State

    def __init__(
        self, operator: Operator, statics: Mapping[str, StaticValue] | None = None, recipe: tuple[Any, ...] = ()
    ) -> None:
        """Use ``load`` and ``compile``. ``recipe``: which of them, with which arguments, makes it again."""
        fixed = dict(statics or {})
        check_static_names(operator.signature, fixed)
        known = {item.name: item for item in operator.signature.statics}
        self._fixed = {n: checked_static(operator.layer, known[n], v) for n, v in fixed.items()}
        self._recipe = recipe
        self._operator = operator
        self._overload = operator.overload
        self._outputs = len(operator.signature.outputs)
        self._statics = known
        self._others: dict[Any, Layer] = {}
        self._forms: dict[Any, _Ready] = {}
        self._recent: dict[Any, _Ready] = {}
        self.__doc__ = f"{describe(operator.signature)}\n\n{operator.signature.doc}".rstrip()

    # ------------------------------------------------------------ about it

    @property
    def name(self) -> str:
        return self._operator.layer

    @property
    def signature(self) -> LayerSignature:
        """What it takes and returns."""
        return self._operator.signature

    @property
    def statics(self) -> dict[str, StaticValue]:
        """The static parameters it was loaded with."""
        return dict(self._fixed)

    @property
    def plan(self) -> PlanOptions:
        """How its kernels are to run, where that is not left to the compiler."""
        return self._operator.source.plan

    def subject(self, kind: Kind, device: torch.device) -> Subject:
        """What results of tuning for calls of that kind on that device are stored under."""
        return self._operator.source.subject(kind, device)

    @property
    def results(self) -> Results:
        """Where results of tuning are."""
        return self._operator.source.results

    def device_of(self, target: str) -> str:
        """The type of device on which a target's tensors live; Unsupported if nothing here runs its kernels."""
        return self._operator.source.machines.device_of(target)

    def choosing(self, target: str) -> Layer:
        """The same layer, run as nothing but that target; arguments and errors as for ``load(target=)``."""
        operator = operator_of(self._operator.source.choosing(target))
        return Layer(operator, self._fixed, (*self._recipe[:3], target, *self._recipe[4:]))

    def __repr__(self) -> str:
        fixed = "".join(f", {name}={value!r}" for name, value in self._fixed.items())
        return f"<ssmc layer {describe(self.signature)}{fixed}>"

    def __deepcopy__(self, memo: Any) -> Layer:
        return Layer(self._operator, self._fixed, self._recipe)

    def __reduce__(self) -> tuple[Any, ...]:
        make, *arguments = self._recipe
        return partial(make, **self._fixed), tuple(arguments)

    @property
    def source(self) -> Path:
        """The text of the machine code that the latest call ran; UserError before the first call."""
        if self._operator.latest is None:
            raise UserError(f"{self.name} has not been compiled yet", hint="call it once")
        return self._operator.latest[1].variant.text

    # ------------------------------------------------------------ calls

    def __call__(
        self,
        /,
        *args: Any,
        state: State | None = None,
        return_state: bool = False,
        out: torch.Tensor | Sequence[torch.Tensor] | None = None,
        **named: Any,
    ) -> Any:
        if _is_compiling():
            return self._general(args, named, state, return_state, out)
        if out is None:
            # Most calls were made before with the same shapes: then only addresses are fetched.
            try:
                if state is None:
                    given, names = (*args, *named.values()), None
                else:
                    given, names = (*args, *named.values(), *state.values), state.names
                head = (len(args), *named, names, return_state)
                ready = self._recent.get(head)
                if ready is None or not ready.fits(given):
                    ready = self._forms.get((*head, *map(_size, given), *map(_stride, given), *map(_dtype, given)))
                    if ready is not None and not is_plain(given, ready.complex):
                        ready = None
                    elif ready is not None:
                        self._recent[head] = ready.renewed(given)
            except (TypeError, AttributeError, RuntimeError):
                ready = None
            if ready is not None:
                pointers: Any = [*map(_data_ptr, given)]
                if ready.order is not None:
                    pointers = ready.order(pointers)
                made = ready.run(pointers)
                if not return_state:
                    return made[0] if self._outputs == 1 else tuple(made)
                if self._outputs == 1:
                    return made[0], rebuilt(ready.names, tuple(made[1:]))
                return self._returned(made, ready.names)
            if any(v is None for v in (*args[-1:], *named.values())) or self._statics.keys() & named:
                return self._simplified(args, named, state, return_state)
        return self._general(args, named, state, return_state, out)

    def ready(
        self, /, *args: Any, state: State | None = None, return_state: bool = False, **named: Any
    ) -> tuple[Call, Sequence[torch.Tensor]] | None:
        """The compiled call that a call with these arguments is, and the tensors whose addresses it takes, in order.

        None where it is more than that: where something is converted, tensors are not plain ones on the CPU, PyTorch
        wants to see the call go by, or the sequences are packed, padded or run backwards. Errors as for the call.
        """
        inputs, asked = split(self.signature, named)
        values, statics = self._bound(args, inputs)
        states = self._state_values(state)
        tensors = [v for v in (*values, *(states or ())) if v is not None]
        if asked or _is_seen(tensors) or not all(v.is_cpu for v in tensors):
            return None
        call, given = self._operator.call(values, statics, states, return_state)
        if state is not None:
            self._check_state_names(state, [p.shown for p in call.spec.states])
        return (call, given) if {*map(id, given)} == {*map(id, tensors)} else None

    def _simplified(self, args: tuple[Any, ...], named: dict[str, Any], state: State | None, return_state: bool) -> Any:
        """The same call without what is None, on a layer that has the static parameters given now."""
        while args and args[-1] is None and len(args) <= len(self.signature.inputs):
            args = args[:-1]
        fewer = {name: value for name, value in named.items() if value is not None and name not in self._statics}
        given = {name: value for name, value in named.items() if name in self._statics}
        if args and args[-1] is None:
            return self._general(args, named, state, return_state, None)
        if not given:
            return self(*args, state=state, return_state=return_state, **fewer)
        key = tuple((name, type(value), value) for name, value in given.items())
        other = self._others.get(key)
        if other is None:
            other = self._others[key] = Layer(self._operator, {**self._fixed, **given}, self._recipe)
        return other(*args, state=state, return_state=return_state, **fewer)

    def _general(
        self,
        args: tuple[Any, ...],
        named: dict[str, Any],
        state: State | None,
        return_state: bool,
        out: torch.Tensor | Sequence[torch.Tensor] | None,
    ) -> Any:
        """Any call: check everything; outside of tracing compile if need be, and remember the form."""
        inputs, asked = split(self.signature, named)
        values, statics = self._bound(args, inputs)
        states = self._state_values(state)
        outs = self._out_values(out, (*values, *(states or ())))
        if asked or state is not None:
            passes = arranged(self.signature, asked, state)
            if passes:
                return self._arranged(passes, asked, values, statics, state, return_state, outs)
        tensors = [v for v in (*values, *(states or ()), *outs) if v is not None]
        if _is_seen(tensors):
            return self._dispatched(values, statics, state, bool(return_state), outs)
        ready, given = self._operator.call(values, statics, states, bool(return_state), outs)
        if state is not None:
            self._check_state_names(state, [p.shown for p in ready.spec.states])
        made = self._run(ready, given, outs)
        if not outs and {*map(id, given)} == {*map(id, tensors)}:  # nothing was converted on the way
            self._remember(args, named, state, return_state, ready)
        return self._returned(made, ready.spec.state_names if return_state else None)

    def _dispatched(
        self,
        values: list[torch.Tensor | None],
        statics: tuple[StaticValue, ...],
        state: State | None,
        return_state: bool,
        outs: Sequence[torch.Tensor],
    ) -> Any:
        """A call of the registered operator: tracing, tensor subclasses, modes and profilers see it."""
        ranks = tuple([None if v is None else v.dim() for v in values])
        states = self._state_values(state)
        if state is not None:
            self._check_state_names(state, self._names(ranks, statics, True))
        made = self._overload(*values, *statics, None if states is None else list(states), return_state)
        return self._returned(
            _copied(made, outs), self._names(ranks, statics, state is not None) if return_state else None
        )

    def _arranged(
        self,
        passes: Arranged,
        asked: dict[str, Any],
        values: list[torch.Tensor | None],
        statics: tuple[StaticValue, ...],
        state: State | None,
        return_state: bool,
        outs: Sequence[torch.Tensor],
    ) -> Any:
        """A call whose sequences are packed, padded or run backwards, or that gives states on the way."""
        gives = bool(return_state) or "states_at" in asked
        if _is_compiling():
            forms = tuple([None if v is None else (v.dim(), v.dtype) for v in values])
            known = self._geometry(forms, statics, state is not None, gives, passes)
        else:
            known = self._operator.geometry(self._operator.kind(values, statics, state is not None, gives, passes))
        if state is not None:
            self._check_state_names(state, known.names)
        given = _on_one_device(arguments(self.name, asked, known, values, state))
        names = known.returned if gives else None
        if _is_seen(given):
            return self._returned(_copied(self._operator.derived(given, known.text), outs), names)
        ready, taken = self._operator.call_derived(given, known.text, outs)
        return self._returned(self._run(ready, taken, outs), names)

    def _run(self, ready: Call, given: Sequence[torch.Tensor], outs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What a ready call gives, written to ``outs`` as far as there are any."""
        if not outs:
            return ready.run(map(_data_ptr, given))
        check_out(self.name, ready, given, outs)
        made = ready.run(map(_data_ptr, given), outs)
        for value in outs:
            torch.autograd.graph.increment_version(value)
        return made

    def _returned(self, made: list[torch.Tensor], names: Sequence[str] | None) -> Any:
        """What a call returns: the output or outputs, then the state."""
        if names is None:
            return made[0] if self._outputs == 1 else tuple(made)
        return (*made[: self._outputs], State(names, made[self._outputs :]))

    # ------------------------------------------------------------ arguments

    def _bound(
        self, args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[list[torch.Tensor | None], tuple[StaticValue, ...]]:
        """A tensor or None for every input, a value for every static parameter."""
        signature = self._operator.signature
        values, given = bind(signature, args, named)
        double = any(isinstance(v, torch.Tensor) and v.dtype in (torch.float64, torch.complex128) for v in values)
        device = next((v.device for v in values if isinstance(v, torch.Tensor)), None)
        for number, item in enumerate(signature.inputs):
            if values[number] is not None:
                values[number] = as_tensor(signature.name, item, values[number], double, device)
        return values, self._completed(tuple(given.items()))

    def _completed(self, given: tuple[tuple[str, StaticValue], ...]) -> tuple[StaticValue, ...]:
        """A value for every static parameter."""
        return complete_statics(self._operator.signature, self._fixed, dict(given))

    _completed._dynamo_marked_constant = True  # type: ignore[attr-defined]  # else its reals are of any value

    def _state_values(self, state: State | None) -> tuple[torch.Tensor, ...] | None:
        if state is None:
            return None
        if not isinstance(state, State):
            raise UserError(
                f"{self.name}: `state` is an object of type {type(state).__name__}",
                expected="a State, as returned with return_state=True",
            )
        return state.values

    def _check_state_names(self, state: State, expected: Sequence[str]) -> None:
        if tuple(state.names) != tuple(expected):
            raise UserError(
                f"{self.name}: the state holds {', '.join(state.names) or 'nothing'}",
                expected=f"{', '.join(expected) or 'nothing'}, in this order",
                hint="a state belongs to the layer that returned it, called with the same inputs present",
            )

    def _out_values(
        self, out: torch.Tensor | Sequence[torch.Tensor] | None, given: Sequence[torch.Tensor | None]
    ) -> tuple[torch.Tensor, ...]:
        """The tensors that take the outputs of a call with the arguments ``given``."""
        if out is None:
            return ()
        found = (out,) if isinstance(out, torch.Tensor) else tuple(out)
        if asks_for_derivatives(given):
            raise UserError(
                f"{self.name}: `out` is given, and an argument requires a gradient",
                hint="leave out `out`, or call it under torch.no_grad()",
            )
        if len(found) != self._outputs or not all(isinstance(v, torch.Tensor) for v in found):
            names = ", ".join(o.name for o in self.signature.outputs)
            raise UserError(
                f"{self.name}: `out` holds {len(found)} values", expected=f"{self._outputs} tensors: {names}"
            )
        return found

    def _names(self, ranks: tuple[int | None, ...], statics: tuple[StaticValue, ...], takes: bool) -> tuple[str, ...]:
        """The names of the state that such a call returns."""
        return self._operator.specialisation(self._operator.kind_of_ranks(ranks, statics, takes, True)).state_names

    # Dynamo takes the result as a constant instead of tracing into the compiler; the public decorator
    # torch.compiler.assume_constant_result sets this too, but imports Dynamo, which takes a second.
    _names._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def _geometry(
        self,
        forms: tuple[tuple[int, torch.dtype] | None, ...],
        statics: tuple[StaticValue, ...],
        takes: bool,
        gives: bool,
        passes: Arranged,
    ) -> Geometry:
        """The geometry of a call whose inputs have that many axes and these dtypes."""
        values = [None if form is None else torch.empty((0,) * form[0], dtype=form[1]) for form in forms]
        return self._operator.geometry(self._operator.kind(values, statics, takes, gives, passes))

    _geometry._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def _remember(
        self, args: tuple[Any, ...], named: dict[str, Any], state: State | None, return_state: bool, call: Call
    ) -> None:
        """Note how arguments given in this form become those of the compiled entry."""
        given = [*args, *named.values(), *(state.values if state is not None else ())]
        if call.device.type != "cpu" or not all(isinstance(v, torch.Tensor) for v in given):
            return
        places = {item.name: number for number, item in enumerate(self.signature.inputs)}
        numbers = [*range(len(args)), *(places[name] for name in named)]
        order = [numbers.index(place.number) for place in call.spec.inputs]
        order += range(len(numbers), len(given))
        head = (len(args), *named, state.names if state is not None else None, return_state)
        key = (*head, *map(_size, given), *map(_stride, given), *map(_dtype, given))
        if len(self._forms) >= CALLS_KEPT:
            self._forms.clear()
            self._recent.clear()
        self._recent[head] = self._forms[key] = _Ready(call, order, given)

    # ------------------------------------------------------------ looking inside

    def explain(
        self,
        present: Sequence[str] | None = None,
        signatures: Mapping[str, Sequence[str]] | None = None,
        dtype: torch.dtype = torch.float32,
        takes_state: bool = False,
        returns_state: bool = False,
        **sizes: Any,
    ) -> Explanation:
        """What a call costs: its target, kernels, bytes, operations and, on the CPU, a bound on this machine. ``print``
        it.

        Without arguments it is about the latest call. Else ``sizes`` are the extents of the inputs' axes
        (and static parameters), ``dtype`` that of real inputs, and the others are as for ``program``; it is then about
        the target that the layer was loaded with, or about C.
        The first time on a machine its speed is measured, which takes a second.
        """
        threads = torch.get_num_threads()
        if not sizes and self._operator.latest is not None:
            kind, call = self._operator.latest
            own = {axis: n for axis, n in call.extents.items() if axis not in dict(call.variant.derived)}
            plan, program, target = call.variant.planned, call.spec.program(), call.variant.target
            return explain(program, own, call.spec.storage, threads, plan.options, target, plan.because)
        statics = {name: sizes.pop(name) for name in [*sizes] if name in self._statics}
        kind = self._kind_for(present, signatures, takes_state, returns_state, statics, STORAGE[dtype])
        spec = self._operator.specialisation(kind)
        target = self._operator.source.machines.target or "c"
        if target == "c":
            plan = self._operator.source.planned(kind, sizes, torch.device("cpu"))
        else:
            plan = Planned(self.plan, "as was asked for" if self.plan.chosen else "")
        return explain(spec.program(), sizes, spec.storage, threads, plan.options, target, plan.because)

    def verify(
        self,
        targets: Sequence[str] | None = None,
        dtypes: Sequence[torch.dtype] = (torch.float32, torch.float64),
        present: Sequence[str] | None = None,
        signatures: Mapping[str, Sequence[str]] | None = None,
        seed: int = 0,
        **sizes: int,
    ) -> Verification:
        """Whether every variant of the layer agrees with every other: a table, with ``ok``. ``print`` it.

        Args:
            targets: what to compile for; by default every target there is, of those that the layer's plan concerns.
            dtypes: of real inputs.
            present, signatures: as for ``program``; with one of them only that specialisation is looked at.
            seed: of the inputs that are drawn.
            sizes: extents of small cases; by default they follow from the equations.
        """
        from ssmc.verify import verify

        storages = [STORAGE[dtype] for dtype in dtypes]
        return verify(self, targets, storages, present, signatures, sizes, seed, jobs=os.cpu_count() or 1)

    def program(
        self,
        present: Sequence[str] | None = None,
        signatures: Mapping[str, Sequence[str]] | None = None,
        takes_state: bool = False,
        returns_state: bool = False,
        **statics: StaticValue,
    ) -> Program:
        """The specialised Program; by default with every input present and its first signature.

        Args:
            present: the optional inputs that are given.
            signatures: the axes of inputs that have several signatures.
            takes_state, returns_state: as a call with ``state=``, with ``return_state=True``.
            statics: static parameters that differ from those the layer was loaded with.
        """
        return self._operator.source.program(
            self._kind_for(present, signatures, takes_state, returns_state, statics, "f32")
        )

    def _kind_for(
        self,
        present: Sequence[str] | None,
        signatures: Mapping[str, Sequence[str]] | None,
        takes_state: bool,
        returns_state: bool,
        statics: Mapping[str, StaticValue],
        real: str,
    ) -> Kind:
        """The kind of call that is described by names; ``real`` is the storage of real inputs."""
        check_static_names(self.signature, statics)
        usual = {REAL: real, COMPLEX: {"f64": "c128"}.get(real, "c64"), INT: "i64", BOOL: "b8"}
        inputs = []
        for item in self.signature.inputs:
            chosen = tuple((signatures or {}).get(item.name, item.alternatives[0]))
            if chosen not in item.alternatives:
                raise UserError(f"{self.name}: {item.name!r} has no signature [{', '.join(chosen)}]")
            absent = present is not None and not item.required and item.name not in present
            inputs.append(None if absent else (chosen, usual[item.dtype]))
        return Kind(tuple(inputs), complete_statics(self.signature, self._fixed, statics), takes_state, returns_state)


def _is_seen(values: Sequence[torch.Tensor]) -> bool:
    """Whether PyTorch wants to see a call with these arguments go by: for a graph, a mode, a subclass, a gradient."""
    return _is_compiling() or not nobody_watches() or not are_plain_types(values) or asks_for_derivatives(values)


def _copied(made: list[torch.Tensor], outs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What a call gave, the outputs copied to ``outs`` if there are any."""
    if not outs:
        return made
    return [*(target.copy_(value) for target, value in zip(outs, made, strict=False)), *made[len(outs) :]]


def _on_one_device(given: list[torch.Tensor]) -> list[torch.Tensor]:
    """With what says where sequences lie, which comes last, on the device of the inputs, which come first."""
    device = given[0].device
    return given if device.type == "cpu" else [value.to(device) for value in given]
