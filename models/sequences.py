"""What a call of a model says about its sequences: where there is padding, and where documents begin."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ssmc.errors import UserError

PACKED = ("position_ids", "cu_seqlens", "seq_idx")


def packing(given: Mapping[str, Tensor | None], batch: int, length: int) -> dict[str, Tensor]:
    """The documents of a call, as compiled layers take them; nothing if each row is one document.

    Args:
        given: ``position_ids`` (rows, length) or (length,), a document beginning where there is 0; ``cu_seqlens``
            (documents + 1,); ``seq_idx`` (rows, length) or (length,), a document being a stretch of equal numbers.
            All are ints, or None; one row stands for all.
        batch, length: of the sequences.

    Raises:
        UserError: several are given that say something, or one has another shape.
    """
    found = {name: value for name, value in given.items() if value is not None}
    for name, value in found.items():
        if name == "cu_seqlens" and value.dim() != 1:
            raise UserError(f"`cu_seqlens` has the shape {tuple(value.shape)}", expected="(documents + 1,)")
        if name != "cu_seqlens":
            if value.shape not in ((batch, length), (1, length), (length,)):
                raise UserError(
                    f"`{name}` has the shape {tuple(value.shape)}", expected=f"({batch}, {length}) or ({length},)"
                )
            found[name] = value[0] if value.dim() == 2 and value.shape[0] == 1 else value
    if len(found) > 1:
        # Collators that pack give positions beside one of the others, which says the same.
        found.pop("position_ids", None)
    if len(found) > 1:
        raise UserError(f"{' and '.join(f'`{name}`' for name in found)} are given together", expected="one of them")
    if "seq_idx" in found:
        # Said in a way that no compiled layer has an input for: causal_conv1d has one that is called seq_idx.
        found["position_ids"] = _positions(found.pop("seq_idx"))
    positions = found.get("position_ids")
    # While tracing nobody knows whether a document begins inside of a row.
    if positions is not None and not torch.compiler.is_compiling() and not bool((positions[..., 1:] == 0).any()):
        return {}
    return found


def _positions(numbers: Tensor) -> Tensor:
    """Where each token is in its stretch of equal numbers along the last axis."""
    index = torch.arange(numbers.shape[-1], device=numbers.device).expand(numbers.shape)
    begins = torch.ones_like(numbers, dtype=torch.bool)
    begins[..., 1:] = numbers[..., 1:] != numbers[..., :-1]
    return index - torch.where(begins, index, 0).cummax(-1).values
