"""Where documents lie, from what callers say: one PyTorch operator, so that graphs hold the checks of values too.

``ssmc::layout`` turns offsets, document numbers or positions into the inputs of a packed layer: the document of each
token, and the start and the end of each document. It raises UserError for values that say nothing of the kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ssmc.errors import UserError

Tensors = list[torch.Tensor]
_LIBRARY: Any = torch.library.Library("ssmc", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "layout(Tensor given, str option, str layer, SymInt length, SymInt? documents, bool continued) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _on_cpu(
    given: torch.Tensor, option: str, layer: str, length: int, documents: int | None, continued: bool
) -> Tensors:
    """The tensors of a layout, int64.

    Args:
        given: the argument ``option`` of a call of ``layer``.
        length: of the sequence.
        documents: how many there are room for, where ``given`` does not say how many there are; None to count them.
        continued: whether a state comes in, so that a document may begin in the middle.
    """
    _check_shape(given, option, layer, length)
    return _READERS[option](given.to(torch.int64), layer, length, documents, continued)


def _on_fake(
    given: torch.Tensor, option: str, layer: str, length: int, documents: int | None, continued: bool
) -> Tensors:
    """Empty tensors of the shapes of ``_on_cpu``."""
    _check_shape(given, option, layer, length)
    if option == "states_at":
        return [given.new_empty(given.shape, dtype=torch.int64)]
    counted: Any = documents
    if option == "cu_seqlens":
        counted = given.shape[0] - 1
    elif documents is None:
        counted = torch.library.get_ctx().new_dynamic_size()
    rows = [] if option == "cu_seqlens" else [*given.shape[:-1]]
    return [given.new_empty([*rows, extent], dtype=torch.int64) for extent in (length, counted, counted)]


def _check_shape(given: torch.Tensor, option: str, layer: str, length: int) -> None:
    if option in ("seq_idx", "position_ids") and given.shape[-1] != length:
        raise UserError(
            f"{layer}: {option!r} has extent {given.shape[-1]} along the sequence: its shape is {tuple(given.shape)}",
            expected=f"{length}, the length of the sequence",
        )


# ---------------------------------------------------------------- one function for each option


def _from_offsets(given: torch.Tensor, layer: str, length: int, documents: int | None, continued: bool) -> Tensors:
    """Documents between offsets: the same for all rows. Some may be empty."""
    found = given.tolist()
    if not found or found[0] != 0 or found[-1] != length or bool((given.diff() < 0).any()):
        behind = bool(found) and 0 <= found[-1] < length
        raise UserError(
            f"{layer}: 'cu_seqlens' is {_shortened(found)}",
            expected=f"offsets that begin with 0, never fall, and end with {length}, the length of the sequence",
            hint="tokens behind the last document need one of their own, or a `mask`" if behind else "",
        )
    start, end = given[:-1].clone(), given[1:].clone()
    return [torch.searchsorted(end, torch.arange(length), right=True), start, end]


def _from_numbers(given: torch.Tensor, layer: str, length: int, documents: int | None, continued: bool) -> Tensors:
    """Each stretch of equal numbers along the last axis is a document."""
    return _stretches(layer, "seq_idx", given[..., 1:] != given[..., :-1], given, documents)


def _from_positions(given: torch.Tensor, layer: str, length: int, documents: int | None, continued: bool) -> Tensors:
    """A document begins where the position is 0. Positions count up from there."""
    if length and not continued and bool((given[..., 0] != 0).any()):
        first = int(given[..., 0][given[..., 0] != 0][0])
        raise UserError(
            f"{layer}: 'position_ids' begins with {first}", expected="0, since no state comes in from before"
        )
    later = given[..., 1:]
    wrong = (later != 0) & (later != given[..., :-1] + 1)
    if bool(wrong.any()):
        *row, at = wrong.nonzero()[0].tolist()
        before, after = int(given[(*row, at)]), int(given[(*row, at + 1)])
        raise UserError(
            f"{layer}: 'position_ids' goes from {before} to {after} at index {(*row, at + 1)}",
            expected=f"{before + 1}, or 0 where a document begins",
            hint="padding is said by `mask`",
        )
    return _stretches(layer, "position_ids", later == 0, given, documents)


def _stops(given: torch.Tensor, layer: str, length: int, documents: int | None, continued: bool) -> Tensors:
    wrong = given[(given < 0) | (given > length)]
    if wrong.numel():
        raise UserError(
            f"{layer}: 'states_at' holds {int(wrong[0])}",
            expected=f"0 to {length}: how many indices of the sequence have been gone through",
        )
    return [given.clone()]


_READERS: dict[str, Callable[[torch.Tensor, str, int, int | None, bool], Tensors]] = {
    "cu_seqlens": _from_offsets,
    "seq_idx": _from_numbers,
    "position_ids": _from_positions,
    "states_at": _stops,
}


def _stretches(layer: str, option: str, begins: torch.Tensor, given: torch.Tensor, documents: int | None) -> Tensors:
    """Documents of each row, of which one begins at its first token and one at each ``begins`` of the later ones.

    Rows have as many documents as fit; those that a row lacks are empty and lie at its end.
    """
    length = given.shape[-1]
    first = torch.ones([*given.shape[:-1], min(length, 1)], dtype=torch.bool)
    number = torch.cat([first, begins], -1).cumsum(-1) - 1
    most = 1 + int(number[..., -1].max()) if number.numel() else 0
    if documents is None:
        documents = most
    elif most > documents:
        raise UserError(f"{layer}: 'state' holds {documents} documents", expected=f"{most}, as many as {option!r} has")
    ends = torch.full([*given.shape[:-1], documents], length)
    index = torch.arange(length).expand_as(number)
    start = ends.scatter_reduce(-1, number, index, "amin")
    end = torch.cat([start[..., 1:], ends[..., :1]], -1)
    return [number, start, end]


def _shortened(values: list[int]) -> str:
    shown = ", ".join(map(str, values[:8]))
    return f"[{shown}, …]" if len(values) > 8 else f"[{shown}]"


_LIBRARY.impl("layout", _on_cpu, "CPU")
torch.library.register_fake("ssmc::layout", _on_fake, lib=_LIBRARY)
layout: Any = torch.ops.ssmc.layout.default
