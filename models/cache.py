"""What a model carries from one call to the next: one cache for every model of this package.

A layer of a model has a ``LayerCache``. It calls compiled layers through ``LayerCache.run``, which continues from the
state that the last call left and keeps the new one, and hands keys and values of attention to
``LayerCache.extend``. Neither writes to a tensor that it holds: so saving is noting references.

A ``StateCache`` has one of them for each layer of the model, counts tokens, and knows which of them are padding. A
model uses it like this:

    mask = cache.begin(attention_mask, batch, length)       # of the new tokens; None without padding
    for layer, entry in zip(layers, cache.layers): x = layer(x, entry, mask)
    cache.advance(length, mask)
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ssmc.errors import UserError
from ssmc.runtime import Layer, State

RECORDED = 64
"""How many positions back `activate_past_recording` lets a cache be cropped."""


class LayerCache:
    """What one layer of a model carries.

    Attributes:
        states: the states of its compiled layers, by the names given to ``run``; their tensors begin with the batch.
        keys, values: (batch, heads, kept, width), those that later tokens may attend to, or None.
        positions: (batch, kept) int64, which token of its row a key belongs to, -1 for padding; None if there has been
            no padding, and then the keys are those of tokens ``first``, ``first + 1``, …
        keep: how many positions back ``crop`` may go.
        is_ahead: whether it has seen tokens that the cache it belongs to has not counted yet.
    """

    def __init__(self, keep: int = 0) -> None:
        self.states: dict[str, State] = {}
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.positions: Tensor | None = None
        self.first = 0
        self.keep = keep
        self.is_ahead = False
        # For each compiled layer the states after the last positions, at most keep + 1, the present one at the end;
        # None stands for the one before the first token.
        self._past: dict[str, deque[State | None]] = {}

    # ------------------------------------------------------------ calls

    def run(self, name: str, op: Layer, *inputs: Any, **named: Any) -> Tensor:
        """``op(*inputs, **named)``, continued from the state ``name``, which becomes the one after the call.

        Args:
            name: of the state, one for each compiled layer that this layer of the model calls.
            op: a layer with one output; its first input has the axes (batch, time, …).
            inputs, named: its arguments; ``mask=`` too, but no packed documents.
        """
        self.is_ahead = True
        before = self.states.get(name)
        length = inputs[0].shape[1]
        if not self.keep or not length:
            y, self.states[name] = op(*inputs, state=before, return_state=True, **named)
            return y
        past = self._past.setdefault(name, deque([before], maxlen=self.keep + 1))
        if length == 1:
            y, after = op(*inputs, state=before, return_state=True, **named)
            past.append(after)
        else:
            ends = torch.arange(max(1, length - self.keep), length + 1)
            y, along = op(*inputs, state=before, states_at=ends, **named)
            past.extend(State(along.names, values) for values in zip(*(v.unbind(0) for v in along), strict=True))
            after = past[-1]
        self.states[name] = after
        return y

    def extend(
        self, keys: Tensor, values: Tensor, window: int | None = None, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Add keys and values; all that the new tokens may attend to.

        Args:
            keys, values: (batch, heads, length, width) of the new tokens.
            window: how many keys a token attends to, itself included; None for all.
            positions: (batch, length) int64, which token of its row each is, -1 for padding (``token_positions``);
                None if neither these nor earlier tokens are padding.

        Returns:
            keys and values (batch, heads, kept, width), and the positions of the keys, (1 or batch, kept) int64.
        """
        self.is_ahead = True
        kept = 0 if self.keys is None else self.keys.shape[2]
        if self.keys is not None and self.values is not None:
            keys, values = torch.cat([self.keys, keys], 2), torch.cat([self.values, values], 2)
        total = keys.shape[2]
        if positions is None and self.positions is None:
            known = torch.arange(self.first, self.first + total, device=keys.device)[None]
            excess = 0 if window is None else max(total - (window - 1) - self.keep, 0)
        else:
            earlier = self.positions
            if earlier is None:
                earlier = torch.arange(self.first, self.first + kept, device=keys.device).expand(keys.shape[0], -1)
            if positions is None:
                raise UserError("`positions` is None, and earlier tokens are padding")
            self.positions = known = torch.cat([earlier, positions], 1)
            excess = 0 if window is None else _unreachable(known, window + self.keep)
        self.keys, self.values = keys[:, :, excess:], values[:, :, excess:]
        self.first += excess
        if self.positions is not None:
            self.positions = self.positions[:, excess:]
        return keys, values, known

    # ------------------------------------------------------------ the whole of it

    def crop(self, tokens: int) -> None:
        """Forget the last ``tokens`` positions; ``StateCache.crop`` knows whether it can."""
        for name, past in self._past.items():
            for _ in range(tokens):
                past.pop()
            state = past[-1]
            if state is None:
                self.states.pop(name, None)
            else:
                self.states[name] = state
        if self.keys is not None and self.values is not None and tokens:
            self.keys, self.values = self.keys[:, :, :-tokens], self.values[:, :, :-tokens]
            self.positions = None if self.positions is None else self.positions[:, :-tokens]

    def record(self, keep: int) -> None:
        """Let ``crop`` go back ``keep`` positions from now on."""
        self.keep = keep
        self._past = {name: deque(past, maxlen=keep + 1) for name, past in self._past.items()} if keep else {}

    def map(self, function: Callable[[Tensor], Tensor]) -> None:
        """Replace every tensor that has a batch axis, which is its first."""

        def mapped(state: State | None) -> State | None:
            if state is None:
                return None
            return State(state.names, [function(value) if value.dim() else value for value in state])

        self.states = {name: mapped(state) for name, state in self.states.items()}  # type: ignore[misc]
        self._past = {name: deque(map(mapped, past), past.maxlen) for name, past in self._past.items()}
        for name in ("keys", "values", "positions"):
            value = getattr(self, name)
            setattr(self, name, None if value is None else function(value))

    def copy(self) -> LayerCache:
        """One that changes independently; it holds the same tensors, which nobody writes to."""
        other = copy.copy(self)
        other.states = dict(self.states)
        other._past = {name: deque(past, past.maxlen) for name, past in self._past.items()}
        return other


def _unreachable(positions: Tensor, window: int) -> int:
    """How many of the first keys no later token attends to."""
    if not positions.numel():
        return 0
    reachable = positions > positions.amax(1, keepdim=True) - (window - 1)
    columns = reachable.any(0).nonzero()
    return int(columns[0]) if len(columns) else positions.shape[1]


@dataclass(frozen=True)
class Snapshot:
    """A ``StateCache`` as it was; ``rewind`` takes it back there."""

    length: int
    mask: Tensor | None
    documents: bool
    croppable: int
    layers: tuple[LayerCache, ...]


class StateCache(Cache):
    """What a model carries from one call to the next, for each of its layers.

    Use it as transformers' caches are used: a model called with ``use_cache=True`` returns one, which the next call
    takes. Any number of tokens at a time gives what one call gives. It can be handed to ``generate``.

    Args:
        layers: how many layers the model has, or its config.
        keep: how many positions back ``crop`` may go. The states after each of the last ``keep`` positions are kept:
            for Mamba that is ``num_hidden_layers · intermediate_size · (state_size + conv_kernel - 1)`` numbers
            per row and position.

    Attributes:
        layers: a ``LayerCache`` for each layer.
        mask: (batch, length) bool, which of the positions so far are tokens; None if all are.
        documents: whether a document may have begun after the first token of a row, so that positions have to be given.
    """

    layers: list[LayerCache]

    def __init__(self, layers: Any, keep: int = 0) -> None:
        number: Any = layers if isinstance(layers, int) else getattr(layers, "num_hidden_layers", None)
        if not isinstance(number, int) or number < 0:
            raise UserError(f"StateCache: `layers` is {layers!r}", expected="a number of layers, or a model's config")
        if keep < 0:
            raise UserError(f"StateCache: `keep` is {keep!r}", expected="a number of positions")
        super().__init__(layers=[LayerCache(keep) for _ in range(number)])
        self.mask: Tensor | None = None
        self.documents = False
        self.keep = keep
        self._length = 0
        self._croppable = 0  # positions

    def __repr__(self) -> str:
        return f"StateCache({len(self.layers)} layers, {self._length} positions, keep={self.keep})"

    # ------------------------------------------------------------ what a model does with it

    def begin(self, attention_mask: Tensor | None, batch: int, length: int) -> Tensor | None:
        """Which of ``length`` new positions are tokens: (batch, length) bool, or None if all are.

        Args:
            attention_mask: (batch, length), or with the positions so far, (batch, past + length), as ``generate``
                passes it; bools or numbers, 0 for padding.

        Raises:
            UserError: a mask of another shape, a batch that differs from the one that the cache is of, or an earlier
                call that began and was interrupted.
        """
        if any(layer.is_ahead for layer in self.layers):
            raise UserError(
                "a call with this cache was interrupted: some layers have seen its tokens, others have not",
                hint="`rewind` it to a snapshot, or `reset` it",
            )
        if self.mask is not None and self.mask.shape[0] != batch:
            raise UserError(f"a cache of {self.mask.shape[0]} rows, and a call with {batch}")
        mask = new_columns(attention_mask, batch, length, self._length)
        if mask is None and self.mask is not None:
            mask = self.mask.new_ones(batch, length)
        return mask

    def advance(self, length: int, mask: Tensor | None) -> None:
        """Count ``length`` positions, which every layer has seen now; ``mask`` as ``begin`` returned it."""
        if mask is not None:
            before = self.mask
            if before is None:
                before = mask.new_ones(mask.shape[0], self._length)
            self.mask = torch.cat([before, mask], 1)
        self._length += length
        self._croppable = min(self._croppable + length, self.keep)
        for layer in self.layers:
            layer.is_ahead = False

    def token_positions(self, length: int, mask: Tensor | None) -> Tensor | None:
        """Which token of its row each of ``length`` new positions is, counted from the first token of the row:
        (batch, length) int64, -1 for padding; None without padding, where they are ``get_seq_length()`` and on."""
        if mask is None:
            return None
        return token_positions(mask, self.mask.sum(1) if self.mask is not None else self._length)

    # ------------------------------------------------------------ where it stands

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many positions it has seen, padding included."""
        return self._length

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last positions.

        Args:
            tokens_to_remove: minus the number of positions to forget, or, if it is positive, how many remain.

        Raises:
            UserError: the position lies further back than is kept.
        """
        remove = -tokens_to_remove if tokens_to_remove <= 0 else max(self._length - tokens_to_remove, 0)
        if remove > self._croppable:
            kept = f"the states after the last {self._croppable}" if self._croppable else "no earlier state"
            raise UserError(
                f"the cache is asked to forget {remove} of its {self._length} positions, and has {kept}",
                hint=f"cache = StateCache(model.config, keep={max(remove, RECORDED)}), and pass it to the calls; or "
                "`snapshot` before them and `rewind` after",
            )
        if not remove:
            return
        for layer in self.layers:
            layer.crop(remove)
        self._length -= remove
        self._croppable -= remove
        self.mask = None if self.mask is None else self.mask[:, : self._length]

    def activate_past_recording(self, keep: int = RECORDED) -> None:
        """Let ``crop`` go back as far as here from now on, but at most ``keep`` positions."""
        if keep > self.keep:
            self.keep = keep
            for layer in self.layers:
                layer.record(keep)

    def snapshot(self) -> Snapshot:
        """The cache as it is now, for ``rewind``; it costs no copy."""
        return Snapshot(
            self._length, self.mask, self.documents, self._croppable, tuple(layer.copy() for layer in self.layers)
        )

    def rewind(self, snapshot: Snapshot) -> None:
        """Make it what it was when the snapshot was taken, of this cache or of a clone."""
        if len(snapshot.layers) != len(self.layers):
            raise UserError(f"a snapshot of {len(snapshot.layers)} layers, and a cache of {len(self.layers)}")
        self._length, self.mask, self._croppable = snapshot.length, snapshot.mask, snapshot.croppable
        self.documents = snapshot.documents
        self.layers = [layer.copy() for layer in snapshot.layers]
        self.keep = max((layer.keep for layer in self.layers), default=self.keep)

    def clone(self) -> StateCache:
        """A copy that shares no memory with this one."""
        other = StateCache(len(self.layers))
        other.rewind(self.snapshot())
        other._map(torch.clone)
        return other

    def detach(self) -> StateCache:
        """Itself, cut off from the graph of the calls so far: for training in pieces."""
        self._map(Tensor.detach)
        return self

    def reset(self) -> None:
        """Back to before the first token."""
        self.layers = [LayerCache(self.keep) for _ in self.layers]
        self._length = self._croppable = 0
        self.documents = False
        self.mask = None

    # ------------------------------------------------------------ rows

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes what row ``beam_idx[i]`` was."""
        self._map(lambda value: value.index_select(0, beam_idx.to(value.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row becomes ``repeats`` equal ones, one after the other."""
        self._map(lambda value: value.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, given by numbers or by a (batch,) bool tensor."""
        self._map(lambda value: value[indices.to(value.device)])

    def _map(self, function: Callable[[Tensor], Tensor]) -> None:
        for layer in self.layers:
            layer.map(function)
        if self.mask is not None:
            self.mask = function(self.mask)

    # ------------------------------------------------------------ what transformers asks of a cache

    def __deepcopy__(self, memo: Any) -> StateCache:
        return self.clone()

    def __copy__(self) -> StateCache:
        other = StateCache(len(self.layers))
        other.rewind(self.snapshot())
        return other

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """-1: there is no limit."""
        return -1

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """-1: there is no limit."""
        return -1

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Number and first of the positions that a call with ``query_length`` new ones is about."""
        return self._length + query_length, 0

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        """Whether it has seen a position."""
        return self._length > 0

    @property
    def is_compileable(self) -> bool:
        """False: nothing is at a fixed address."""
        return False

    @property
    def is_initialized(self) -> bool:
        return self._length > 0

    @property
    def is_croppable(self) -> bool:
        """Whether ``crop`` can go back at all."""
        return self.keep > 0

    @property
    def is_sliding(self) -> list[bool]:
        return [False] * len(self.layers)

    @property
    def is_linear(self) -> list[bool]:
        """False for each: ``generate`` then takes the positions seen so far off what it is given."""
        return [False] * len(self.layers)

    def update(self, *args: Any, **named: Any) -> Any:
        """Raises UserError: models of this package fill it through its layers."""
        raise UserError(
            "a StateCache is given to a model that is not of ssmc.models",
            hint="transformers.DynamicCache is the cache of transformers' own models",
        )


# ---------------------------------------------------------------- masks


def new_columns(attention_mask: Tensor | None, batch: int, length: int, past: int = 0) -> Tensor | None:
    """Which of ``length`` new positions are tokens: (batch, length) bool, or None if all are.

    ``attention_mask`` is (batch, length) or (batch, past + length), bools or numbers; UserError otherwise.
    """
    if attention_mask is None:
        return None
    shapes = [(batch, length), (batch, past + length)]
    if tuple(attention_mask.shape) not in shapes:
        raise UserError(
            f"`attention_mask` has the shape {tuple(attention_mask.shape)}",
            expected=" or ".join(map(str, dict.fromkeys(shapes))),
            hint="padding is told by one number for each position, 0 or 1",
        )
    mask = attention_mask[:, -length:] != 0 if length else attention_mask[:, :0] != 0
    return with_padding(mask)


def with_padding(mask: Tensor | None) -> Tensor | None:
    """The mask, or None if all positions are tokens; while tracing, where nobody knows, the mask."""
    return mask if mask is None or torch.compiler.is_compiling() or not bool(mask.all()) else None


def token_positions(mask: Tensor, before: Tensor | int = 0) -> Tensor:
    """Which token of its row each position is: (batch, length) int64, -1 for padding.

    Args:
        mask: (batch, length) bool.
        before: how many tokens the rows have seen before, an int or (batch,).
    """
    start = before[:, None] if isinstance(before, Tensor) else before
    return torch.where(mask, mask.cumsum(1) - 1 + start, -1)


def chosen_cache(**given: Any) -> StateCache | None:
    """The cache among arguments that are names for the same thing; UserError if it is of another kind."""
    found: Sequence[tuple[str, Any]] = [(name, value) for name, value in given.items() if value is not None]
    if not found:
        return None
    name, cache = found[0]
    if any(value is not cache for _, value in found):
        raise UserError(f"{' and '.join(f'`{name}`' for name, _ in found)} are given, and differ")
    if not isinstance(cache, StateCache):
        raise UserError(
            f"`{name}` is an object of type {type(cache).__name__}",
            expected="a StateCache, as a call with use_cache=True returns",
            hint="ssmc.models.StateCache(model.config) makes an empty one",
        )
    return cache
