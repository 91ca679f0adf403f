"""Gradients of calls: what PyTorch's autograd runs, itself made of calls that have gradients.

    y = layer(x)                   y, h.saved = layer with `save`(x)
    d.x from d.y            =      d.x = grad of the layer(x, d.y, h.saved)
    dot.y from dot.x               dot.y = jvp of the layer(x, dot.x)

The gradient of a call is a call of another kind, of the same operator. So its gradient is the gradient of the
derived backward, and so on. Only what is asked for is computed: there is one backward for each set of arguments
that require a gradient and of outputs that receive one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad

from .dtypes import TORCH_DTYPES
from .specialise import SAVED, Kind, Place, Specialisation

_transforms: Callable[[], Any] = torch._C._functorch.peek_interpreter_stack
_after_autograd = torch._C._after_autograd_keyset


class Operators(Protocol):
    """What gradients need of an operator: its specialisations, and the overload that runs any kind of call."""

    derived: Any

    def specialisation(self, kind: Kind) -> Specialisation: ...


class Recipe:
    """How calls of one kind are differentiated for the same arguments.

    ``run`` is what is called in place of the kind. Of what that gives, ``returned`` are the places of what the kind
    gives. ``kept`` are the names of what the backward needs.
    """

    def __init__(self, operator: Operators, kind: Kind, wrt: tuple[str, ...]) -> None:
        self._operator = operator
        self._wrt = wrt
        asked = operator.specialisation(kind)
        self._takes = asked.takes
        self._kind, before = kind.plain()
        self._gradients: dict[tuple[str, ...], tuple[Kind, Specialisation]] = {}
        self._tangents: dict[tuple[str, ...], tuple[Kind, Specialisation]] = {}
        run, spec = kind, asked
        if wrt:
            run = self._kind.saving([p.name for p in asked.takes if p.name in wrt or p.name in before])
            spec = operator.specialisation(run)
            if all(p.role != SAVED for p in spec.gives):
                run = self._kind
        self.run = run.text
        self._gives = spec.gives
        places = {p.name: place for place, p in enumerate(spec.gives)}
        self.returned = [places[p.name] for p in asked.gives]
        self._able: tuple[str, ...] = ()
        self.kept: tuple[str, ...] = ()
        if wrt:
            able = tuple(p.name for p in spec.gives if p.differentiable)
            full = operator.specialisation(self._kind.gradient(wrt, able))
            # Outputs that do not depend on what is differentiated for have no gradient.
            reached = {p.of for p in full.takes}
            self._able = tuple(name for name in able if name in reached)
            own = {p.name for p in (*asked.takes, *spec.gives)}
            self.kept = tuple(p.name for p in full.takes if p.name in own)
        self.fixed = [places[p.name] for p in spec.gives if p.name not in self._able]
        self.discrete = [places[p.name] for p in spec.gives if not p.differentiable]

    def recorded(self, keyset: Any, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """A call of the kind, recorded by autograd, from inside the dispatcher's kernel for autograd."""
        # That kernel is called once for each level of torch.func, with the values of this level.
        with enable_single_level_autograd_function():
            made = Recorded.apply(self, keyset, *values)  # type: ignore[attr-defined]
        return [made[place] for place in self.returned]

    def known(self, values: Sequence[torch.Tensor], made: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What is kept, from the arguments and results of ``run``."""
        found = {p.name: v for p, v in zip((*self._takes, *self._gives), (*values, *made), strict=True)}
        return [found[name] for name in self.kept]

    def backward(
        self, kept: Sequence[torch.Tensor], shapes: Sequence[Sequence[int]], grads: Sequence[torch.Tensor | None]
    ) -> list[torch.Tensor | None]:
        """The gradients of the arguments. ``shapes`` and ``grads`` are those of what ``run`` gives."""
        seeds = {p.name: g for p, g in zip(self._gives, grads, strict=True) if g is not None and p.name in self._able}
        if not seeds:
            return [None] * len(self._takes)
        kind, spec = self._gradient(tuple(p.name for p in self._gives if p.name in seeds))
        known = dict(zip(self.kept, kept, strict=True))
        extents = {p.name: shape for p, shape in zip(self._gives, shapes, strict=True)}
        device = next(g.device for g in grads if g is not None)
        values = []
        for place in spec.takes:
            value = known.get(place.name)
            if value is None:
                value = seeds.get(place.of)
            if value is None:
                value = torch.zeros(extents[place.of], dtype=TORCH_DTYPES[place.storage], device=device)
            values.append(value)
        made = self._operator.derived(values, kind.text)
        found = dict(zip(self._wrt, made, strict=True))
        return [_like(place, found.get(place.name)) for place in self._takes]

    def forward_derivative(
        self, values: Sequence[torch.Tensor], tangents: Sequence[torch.Tensor | None]
    ) -> list[torch.Tensor | None]:
        """The tangents of what ``run`` gives, from the arguments and those of their tangents that are not zero."""
        moving = {p.name: v for p, v in zip(self._takes, tangents, strict=True) if v is not None and p.differentiable}
        wrt = tuple(moving)
        if wrt not in self._tangents:
            kind = self._kind.tangent(wrt)
            self._tangents[wrt] = kind, self._operator.specialisation(kind)
        kind, spec = self._tangents[wrt]
        known = {p.name: v for p, v in zip(self._takes, values, strict=True)}
        takes = [known[p.name] if p.name in known else moving[p.of] for p in spec.takes]
        made = self._operator.derived(takes, kind.text)
        found = {p.of: v for p, v in zip(spec.gives, made, strict=True)}
        return [found.get(p.name) for p in self._gives]

    @property
    def gradient(self) -> Kind:
        """The gradient from all outputs that have one."""
        return self._gradient(self._able)[0]

    def _gradient(self, of: tuple[str, ...]) -> tuple[Kind, Specialisation]:
        """The gradient from these outputs. Where it needs what was not kept, it is the one from all of them."""
        found = self._gradients.get(of)
        if found is None:
            kind = self._kind.gradient(self._wrt, of)
            spec = self._operator.specialisation(kind)
            enough = all(p.name in self.kept or p.of in of for p in spec.takes)
            found = self._gradients[of] = (kind, spec) if enough else self._gradient(self._able)
        return found


def _like(place: Place, value: torch.Tensor | None) -> torch.Tensor | None:
    """The gradient of a real value that stands for a complex one is real."""
    if value is not None and value.is_complex() and not TORCH_DTYPES[place.storage].is_complex:
        return value.real
    return value


class Recorded(torch.autograd.function._SingleLevelFunction):
    """A call that autograd records; apply it to a Recipe, the dispatcher's keys, and the arguments."""

    @staticmethod
    def forward(ctx: Any, recipe: Recipe, keyset: Any, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # In here gradients are off; the levels of torch.func around this one may want theirs.
        on = bool(_transforms())
        with torch._C._AutoDispatchBelowAutograd(), torch.set_grad_enabled(on), forward_ad._set_fwd_grad_enabled(on):
            made = recipe._operator.derived.redispatch(keyset & _after_autograd, list(values), recipe.run)
        ctx.recipe = recipe
        ctx.shapes = [value.shape for value in made]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*recipe.known(values, made))
        moving = has_levels()
        ctx.mark_non_differentiable(*[made[place] for place in (recipe.discrete if moving else recipe.fixed)])
        if moving:
            ctx.save_for_forward(*values)
        return tuple(made)

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor | None) -> Any:
        with forward_ad._set_fwd_grad_enabled(bool(_transforms())):
            values = [forward_ad.unpack_dual(value).primal for value in ctx.saved_tensors]  # type: ignore[no-untyped-call]
            return tuple(ctx.recipe.forward_derivative(values, tangents[2:]))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> Any:
        return None, None, *ctx.recipe.backward(ctx.saved_tensors, ctx.shapes, grads)


def asks_for_derivatives(values: Sequence[torch.Tensor | None]) -> bool:
    """Whether autograd must see a call with these arguments: for gradients, or because they have tangents."""
    if torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in values):
        return True
    return has_levels() and any(v is not None and _has_tangent(v) for v in values)


def _has_tangent(value: torch.Tensor) -> bool:
    return forward_ad.unpack_dual(value).tangent is not None  # type: ignore[no-untyped-call]


def has_levels() -> bool:
    """Whether forward derivatives are being taken."""
    return forward_ad._current_level >= 0
