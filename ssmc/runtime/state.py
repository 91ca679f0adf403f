"""What a layer carries from one call to the next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, overload

import torch
from torch.utils import _pytree as pytree

from ssmc.errors import UserError


class State:
    """The state of a layer: a flat tuple of tensors, each with the name of what it carries.

    ``state["h"]`` holds the last values of the tensor ``h`` of the layer, ``state["t"]`` the position
    reached along sequence axis ``t``, a 0-axis int64 tensor. Real values are kept in the precision they
    are computed in, never narrower than float32. A call never writes to the state it is given.

    PyTorch takes a State apart where it takes tuples apart (``torch.compile``, ``torch.export``,
    ``torch.utils._pytree``).
    """

    __slots__ = ("names", "values")

    def __init__(self, names: Iterable[str], values: Iterable[torch.Tensor]) -> None:
        self.names = tuple(names)
        self.values = tuple(values)
        if len(self.names) != len(self.values):
            raise UserError(f"a state of {len(self.names)} names and {len(self.values)} tensors")

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Its tensors by name."""
        return dict(zip(self.names, self.values, strict=True))

    def clone(self) -> State:
        """A copy that shares no memory with this one."""
        return State(self.names, [value.clone() for value in self.values])

    def detach(self) -> State:
        return State(self.names, [value.detach() for value in self.values])

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> State:
        """On another device, or with real values as ``dtype`` (complex values as its complex partner)."""
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        return State(self.names, [_to(value, device, dtype) for value in self.values])

    @overload
    def __getitem__(self, key: str | int) -> torch.Tensor: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[torch.Tensor, ...]: ...
    def __getitem__(self, key: str | int | slice) -> torch.Tensor | tuple[torch.Tensor, ...]:
        if isinstance(key, str):
            if key not in self.names:
                raise KeyError(f"the state holds {', '.join(self.names) or 'nothing'}, not {key!r}")
            key = self.names.index(key)
        return self.values[key]

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def __reduce__(self) -> tuple[type[State], tuple[tuple[str, ...], tuple[torch.Tensor, ...]]]:
        return State, (self.names, self.values)

    def __repr__(self) -> str:
        parts = [f"{n}: {str(v.dtype).removeprefix('torch.')}{list(v.shape)}" for n, v in self.tensors.items()]
        return f"State({', '.join(parts)})"


def _to(value: torch.Tensor, device: Any, dtype: torch.dtype | None) -> torch.Tensor:
    if dtype is not None and value.is_complex():
        dtype = dtype if dtype.is_complex else dtype.to_complex()
    elif not value.is_floating_point():
        dtype = None
    return value.to(device=device, dtype=dtype)


def rebuilt(names: tuple[str, ...], values: tuple[Any, ...]) -> State:
    """A State around leaves of any kind: PyTorch puts its own placeholders there."""
    state = State.__new__(State)
    state.names, state.values = names, values
    return state


# Without this PyTorch takes a State for a leaf; it must be known before a saved graph is loaded.
pytree.register_pytree_node(
    State,
    lambda state: (list(state.values), state.names),
    lambda values, names: rebuilt(tuple(names), tuple(values)),
    serialized_type_name="ssmc.State",
    to_dumpable_context=list,
    from_dumpable_context=tuple,
    flatten_with_keys_fn=lambda state: (
        [(pytree.MappingKey(n), v) for n, v in zip(state.names, state.values, strict=True)],
        state.names,
    ),
)
torch.serialization.add_safe_globals([State])  # torch.load takes it with weights_only=True
