"""One token of one sequence through all blocks of a model, by compiled calls that were made ready before.

For a single token a model is a sweep over its weights with little around it. What is around it costs as much as a
quarter of the sweep where it is found out anew for each block which call to make, with what. So calls are written down
once, each reading what the one before it wrote; for a token it is asked, for all blocks at once, whether weights,
modules and the form of states are what they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Link:
    """A block as one call: ``layer(hidden, *weights)``, continued from its state.

    Attributes:
        states: the names under which a ``LayerCache`` has the parts of that state, in order, and those that the layer
            has for each.
        attributes: of modules, (module, name), beside weights and submodules that decide about the call.
    """

    layer: Library
    weights: Sequence[Tensor]
    states: Mapping[str, Sequence[str]]
    attributes: Sequence[tuple[nn.Module, str]] = ()


class Chain:
    """The calls of all blocks, on memory that they share: used by one thread at a time.

    Args:
        links: one for each block, in order.
        blocks: their list.
        hidden: (1, 1, width), of the dtype in which blocks are to hand on.
        before: the states of all blocks, in the order of their links.
    """

    def __init__(self, links: Sequence[Link], blocks: nn.ModuleList, hidden: Tensor, before: Sequence[Tensor]) -> None:
        self.names = [(*link.states,) for link in links]
        self._first, self._workspace = torch.empty_like(hidden), Workspace()
        self._blocks = blocks
        self._parts = Parts(blocks, [attribute for link in links for attribute in link.attributes])
        self._check = form_check(before)
        self._calls: list[Repeated] = []
        self._carried: list[int] = []
        self._last = self._first
        states = iter(before)
        for link in links:
            names = [name for own in link.states.values() for name in own]
            found = link.layer.loaded().ready(
                self._last, *link.weights, state=State(names, [next(states) for _ in names]), return_state=True
            )
            if found is None:
                raise NotRepeatable
            self._calls.append(Repeated(*found, len(names), self._workspace))
            self._carried.append(len(names))
            (self._last,) = self._calls[-1].outputs
            if self._last.dtype is not hidden.dtype:
                raise NotRepeatable

    def fits(self, blocks: nn.ModuleList, hidden: Tensor, before: Sequence[Tensor]) -> bool:
        """Whether it is the chain for these states, and blocks and weights are what they were."""
        known = blocks is self._blocks and hidden.dtype is self._first.dtype
        return known and self._check(*before) and self._parts.are_same()

    def run(self, hidden: Tensor, before: Iterable[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """What the last block gives, and all states after it."""
        self._first.copy_(hidden)
        addresses = [*map(_data_ptr, before)]
        after: list[Tensor] = []
        for call, carried in zip(self._calls, self._carried, strict=True):
            start = len(after)
            after += call.run(addresses[start : start + carried])
        return self._last.clone(), after


class NotRepeatable(Exception):
    """A call does more than to run machine code on the tensors that it is given."""


class TokenChain:
    """Where a model keeps its chains: more than one if several threads run it at once.

    Args:
        link: of a block, or None if it is no single call now.
    """

    def __init__(self, link: Callable[[Any], Link | None]) -> None:
        self._link = link
        self._idle: list[Chain] = []

    def __deepcopy__(self, memo: Any) -> TokenChain:
        return TokenChain(self._link)

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenChain, (self._link,)

    def run(self, blocks: nn.ModuleList, hidden: Tensor, entries: Sequence[LayerCache]) -> Tensor | None:
        """A token through all blocks, their states brought up to date; None where that is not one call for each.

        It is not for more than one token, at the start of a sequence, where earlier states are to be kept, where
        gradients are recorded or somebody traces, where a module is watched, and where a block is not what ``link``
        knows.

        Args:
            hidden: (1, 1, width), in the dtype in which blocks are to hand on.
        """
        if hidden.shape[0] * hidden.shape[1] != 1 or torch.compiler.is_compiling() or torch.is_grad_enabled():
            return None
        if not FORMS_ARE_TOLD or not nobody_watches() or _has_any_global_hook():  # type: ignore[no-untyped-call]
            return None
        if any(entry.keep or not entry.states for entry in entries):
            return None
        chain = self._idle.pop() if self._idle else None
        before = _states(chain.names, entries) if chain is not None else None
        if chain is None or before is None or not chain.fits(blocks, hidden, before):
            chain, before = self._made(blocks, hidden, entries)
        if chain is None or before is None:
            return None
        made, after = chain.run(hidden, before)
        values = iter(after)
        for names, entry in zip(chain.names, entries, strict=True):
            states = entry.states
            for name in names:
                own = states[name]
                states[name] = rebuilt(own.names, tuple([next(values) for _ in own.names]))
        self._idle.append(chain)
        return made

    def _made(
        self, blocks: nn.ModuleList, hidden: Tensor, entries: Sequence[LayerCache]
    ) -> tuple[Chain | None, list[Tensor] | None]:
        """A new chain, and the states that it begins with; None if there is none."""
        if any(map(is_watched, blocks.modules())):
            return None, None
        links: list[Link] = []
        for block in blocks:
            link = self._link(block)
            if link is None:
                return None, None
            links.append(link)
        before = _states([(*link.states,) for link in links], entries)
        if before is None or len(before) != sum(len(own) for link in links for own in link.states.values()):
            return None, None
        try:
            return Chain(links, blocks, hidden, before), before
        except NotRepeatable:
            return None, None


def _states(names: Sequence[Sequence[str]], entries: Sequence[LayerCache]) -> list[Tensor] | None:
    """The states of all blocks, one after the other; None if one has others."""
    found: list[Tensor] = []
    for own, entry in zip(names, entries, strict=True):
        states = entry.states
        if len(states) != len(own):
            return None
        for name in own:
            if name not in states:
                return None
            found += states[name].values
    return found
