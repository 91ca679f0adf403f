"""One token of one sequence through all blocks of a model, by compiled calls that were made ready before.

For a single token a model is a sweep over its weights with little around it. What is around it costs as much as a
quarter of the sweep where it is found out anew for each block which call to make, with what. So calls are written down
once, each reading what the one before it wrote; for a token it is asked, for all blocks at once, whether weights,
modules and the form of states are what they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from ssmc.runtime import (
    FORMS_ARE_TOLD,
    Library,
    Repeated,
    State,
    Workspace,
    form_check,
    nobody_watches,
    rebuilt,
)

from .cache import LayerCache
from .parts import Parts, is_watched

_data_ptr = Tensor.data_ptr


class StepByStep(Exception):
    """A token has to go through the model as longer sequences do."""


class Chain:
    """What is done for a token, in order, on memory of its own: used by one thread at a time.

    Args:
        blocks: those of the model.
        write: what a block does is written down by ``write(block, chain, hidden)``, which calls ``call``, ``do`` and
            ``depends`` and returns what the block gives: a tensor whose memory it writes for each token. It raises
            StepByStep for a block that it does not know.
        given: what comes with each token: first what enters the first block, then what else ``write`` finds in
            ``given``, which has the memory that tokens are copied to.
        entries: what the layers of the model carry, of the form in which later tokens find it.
    """

    def __init__(
        self,
        blocks: nn.ModuleList,
        write: Callable[[Any, Chain, Tensor], Tensor],
        given: Sequence[Tensor],
        entries: Sequence[LayerCache],
    ) -> None:
        self.given = [torch.empty_like(value) for value in given]
        self._blocks, self._workspace = blocks, Workspace()
        self._steps: list[tuple[Repeated | None, Callable[[LayerCache], None] | None, int, int]] = []
        self._carried: list[tuple[str, ...]] = []
        self._attributes: list[tuple[nn.Module, str]] = []
        self._entries, self._number = entries, 0
        self._last = self.given[0]
        for block in blocks:
            self._carried.append(())
            self._last = write(block, self, self._last)
            if self._last.dtype is not self.given[0].dtype:
                raise StepByStep
        states = self.states(entries)
        if states is None or len(states) != self._number:
            raise StepByStep
        self._parts, self._check = Parts(blocks, self._attributes), form_check([*given, *states])
        self._entries = ()  # nobody is to hold what others carry

    # ------------------------------------------------------------ writing down

    def call(self, layer: Library, *inputs: Tensor, carried: Mapping[str, Sequence[str]] | None = None) -> list[Tensor]:
        """``layer(*inputs)``, which is called for each token; its outputs, whose memory stays the same.

        Args:
            inputs: weights, and tensors whose memory is written for each token.
            carried: the names under which the block's ``LayerCache`` has the parts of the layer's state, in order, and
                those that the layer has for each.
        """
        names = [name for own in (carried or {}).values() for name in own]
        found = self._entries[len(self._carried) - 1].states
        states = [value for name in carried or () if name in found for value in found[name].values]
        if len(states) != len(names):
            raise StepByStep
        ready = layer.loaded().ready(*inputs, state=State(names, states) if names else None, return_state=bool(names))
        if ready is None:
            raise StepByStep
        made = Repeated(*ready, len(states), self._workspace)
        start, self._number = self._number, self._number + len(states)
        self._steps.append((made, None, start, self._number))
        self._carried[-1] += tuple(carried or ())
        return made.outputs

    def do(self, function: Callable[[LayerCache], None]) -> None:
        """``function(entry)`` is called for each token with what the block carries."""
        self._steps.append((None, function, len(self._carried) - 1, 0))

    def depends(self, module: nn.Module, name: str) -> None:
        """What is written down holds as long as this attribute of a module is what it is now."""
        self._attributes.append((module, name))

    # ------------------------------------------------------------ for each token

    def states(self, entries: Sequence[LayerCache]) -> list[Tensor] | None:
        """The states of all blocks, one after the other; None if a block has others."""
        found: list[Tensor] = []
        for names, entry in zip(self._carried, entries, strict=True):
            states = entry.states
            if states.keys() != {*names}:
                return None
            for name in names:
                found += states[name].values
        return found

    def fits(self, blocks: nn.ModuleList, given: Sequence[Tensor], states: Sequence[Tensor]) -> bool:
        """Whether it was written down for tensors of this form, and blocks and weights are what they were then."""
        return blocks is self._blocks and self._check(*given, *states) and self._parts.are_same()

    def run(self, given: Sequence[Tensor], entries: Sequence[LayerCache], states: Sequence[Tensor]) -> Tensor:
        """What the last block gives; what layers carry is brought up to date."""
        for own, value in zip(self.given, given, strict=True):
            own.copy_(value)
        addresses = [*map(_data_ptr, states)]
        after: list[Tensor] = []
        for call, function, start, end in self._steps:
            if call is not None:
                after += call.run(addresses[start:end])
            elif function is not None:
                function(entries[start])
        self._carry(entries, iter(after))
        return self._last.clone()

    def _carry(self, entries: Sequence[LayerCache], values: Iterator[Tensor]) -> None:
        for names, entry in zip(self._carried, entries, strict=True):
            states = entry.states
            for name in names:
                own = states[name].names
                states[name] = rebuilt(own, tuple([next(values) for _ in own]))


class TokenChain:
    """Where a model keeps its chains: more than one if several threads run it at once.

    Args:
        write: as a ``Chain`` takes it.
    """

    def __init__(self, write: Callable[[Any, Chain, Tensor], Tensor]) -> None:
        self._write = write
        self._idle: list[Chain] = []

    def __deepcopy__(self, memo: Any) -> TokenChain:
        return TokenChain(self._write)

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenChain, (self._write,)

    def run(self, blocks: nn.ModuleList, given: Sequence[Tensor], entries: Sequence[LayerCache]) -> Tensor | None:
        """A token through all blocks, what they carry brought up to date; None where it has to go step by step.

        It has to if it is more than one token, at the start of a sequence, where earlier states are to be kept, where
        there was padding, where gradients are recorded or somebody traces, where a module is watched, and where a block
        is not what ``write`` knows.

        Args:
            given: first the hidden values, (1, 1, width), in the dtype in which blocks are to hand them on.
        """
        if given[0].shape[0] * given[0].shape[1] != 1 or torch.compiler.is_compiling() or torch.is_grad_enabled():
            return None
        if not FORMS_ARE_TOLD or not nobody_watches() or _has_any_global_hook():  # type: ignore[no-untyped-call]
            return None
        if any(entry.keep or entry.positions is not None for entry in entries):
            return None
        chain = self._idle.pop() if self._idle else None
        states = None if chain is None else chain.states(entries)
        if chain is None or states is None or not chain.fits(blocks, given, states):
            if any(map(is_watched, blocks.modules())):
                return None
            try:
                chain = Chain(blocks, self._write, given, entries)
            except StepByStep:
                return None
            states = chain.states(entries)
            assert states is not None
        made = chain.run(given, entries, states)
        self._idle.append(chain)
        return made
