"""What can be derived from a layer: names and meanings, one row each, and what each says to a given layer.

Each derivation is a function Program → Program of ``ssmc.passes``, under the name of its row. It is looked up when it
is applied, so that this table can be printed without loading any of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .errors import Unsupported

if TYPE_CHECKING:
    from .dsl import Choice, Module
    from .ir import Program


@dataclass(frozen=True)
class Derivation:
    """``meaning`` is one line, ``detail`` what else a reader of the result needs to know; its function gets
    ``arguments`` where nothing else is said."""

    name: str
    meaning: str
    detail: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, program: Program, **options: Any) -> Program:
        """What it makes of ``program``. Raises Unsupported for a layer that has no such form."""
        from . import passes

        if self.name == "grad" and not passes.differentiable(program)[1]:
            names = ", ".join(map(repr, program.outputs))
            raise Unsupported(f"no gradient: no real or complex numbers in {names}", span=program.span)
        if self.name == "states_at" and not passes.gives_state(program):
            program = derivation("step").apply(program)
        derived: Program = getattr(passes, self.name)(program, **{**self.arguments, **options})
        return derived


DERIVATIONS = (
    Derivation(
        "step",
        "the layer on a piece of a sequence, with the state that goes in and out",
        "X.state holds the last values of X before the piece, X.next those at its end.",
        {"takes": True, "gives": True},
    ),
    Derivation(
        "reverse",
        "the layer from the last index of its sequence to the first",
        "Inputs and outputs keep their order: it is as if each were turned around.",
    ),
    Derivation(
        "pack",
        "the layer on many documents that lie one after the other",
        "t.doc is the document of each token, t.start and t.end where it begins and ends, along the axis t.docs.",
    ),
    Derivation(
        "mask",
        "the layer on sequences with padding, in any place",
        "t.valid says where tokens are. A padded position changes no state, and 0 comes out there.",
    ),
    Derivation(
        "states_at",
        "the layer on a piece of a sequence, with the states after some of its indices",
        "t.at says after how many indices, along the axis t.stops; X.at holds the values of X that step gives there.",
    ),
    Derivation(
        "grad",
        "the gradient: from the adjoints of the outputs to those of the inputs",
        "d.y is the adjoint of output y, d.x that of input x. A complex one is the derivative along the real part "
        "plus i times that along the imaginary part.",
    ),
    Derivation(
        "jvp",
        "the derivative along a direction: how fast the outputs move as the inputs do",
        "dot.x is the direction of input x, dot.y how fast output y moves.",
    ),
)


def derivation(name: str) -> Derivation:
    """The row of that name; KeyError if there is none."""
    return {row.name: row for row in DERIVATIONS}[name]


# ---------------------------------------------------------------- which apply


@dataclass(frozen=True)
class Verdict:
    """Whether a derivation applies to a layer. ``without`` are the optional inputs that must be absent for it,
    ``reason`` says why it does not apply, or not with these."""

    without: tuple[str, ...] = ()
    reason: str = ""

    @property
    def applies(self) -> bool:
        return not self.reason or bool(self.without)


def verdicts(module: Module, layer: str) -> dict[str, Verdict]:
    """What every derivation says to a layer, all optional inputs present if they may be."""
    from . import dsl

    choice = next(iter(dsl.choices(module, module.layer(layer))))
    optional = [item.name for item in dsl.signature(module, layer).inputs if not item.required]
    return {row.name: _verdict(row, module, layer, choice, optional) for row in DERIVATIONS}


def _verdict(row: Derivation, module: Module, layer: str, choice: Choice, optional: list[str]) -> Verdict:
    from . import dsl

    reason = ""
    for without in _fewer(optional):
        present = replace(choice, present=frozenset(optional) - set(without))
        try:
            row.apply(dsl.elaborate(module, layer, present))
        except Unsupported as error:
            reason = reason or error.diagnostics[0].message
        else:
            return Verdict(without, reason)
    return Verdict((), reason)


def _fewer(optional: list[str]) -> Iterable[tuple[str, ...]]:
    """Nothing absent, then one input, then all."""
    yield ()
    yield from ((name,) for name in optional)
    if len(optional) > 1:
        yield tuple(optional)
