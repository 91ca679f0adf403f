"""What a call of a model says about its sequences: their ids, where there is padding, where documents begin."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ssmc.errors import UserError


def embedded(
    embeddings: Callable[[Tensor], Tensor], input_ids: Tensor | None, inputs_embeds: Tensor | None, width: int
) -> Tensor:
    """The sequences that a model runs, (batch, length, width): ids looked up, or what was given in their place.

    Raises UserError unless exactly one is given: ids (batch, length), ints that the vocabulary has, or reals
    (batch, length, width).
    """
    if (input_ids is None) == (inputs_embeds is None):
        given = "neither" if input_ids is None else "both"
        raise UserError(f"{given} of `input_ids` and `inputs_embeds` given", expected="one of them")
    if inputs_embeds is not None:
        if inputs_embeds.dim() != 3 or inputs_embeds.shape[2] != width or not inputs_embeds.is_floating_point():
            raise UserError(f"`inputs_embeds` is {shown(inputs_embeds)}", expected=f"reals, (batch, length, {width})")
        return inputs_embeds
    assert input_ids is not None
    if input_ids.dim() != 2 or input_ids.dtype not in (torch.int64, torch.int32):
        raise UserError(f"`input_ids` is {shown(input_ids)}", expected="an int64 or int32 tensor, (batch, length)")
    try:
        return embeddings(input_ids)
    except IndexError:
        low, high = (int(bound) for bound in input_ids.aminmax())
        raise UserError(f"`input_ids` holds {low} to {high}", expected="ids that the vocabulary has") from None


def shown(value: Tensor) -> str:
    return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"


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


def without_first(
    labels: Tensor, position_ids: Tensor | None, cu_seqlens: Tensor | None, seq_idx: Tensor | None
) -> Tensor:
    """Labels that count nothing where a document begins: the token before is not of it."""
    if cu_seqlens is not None:
        first = torch.zeros_like(labels[0], dtype=torch.bool)
        first[cu_seqlens[:-1][cu_seqlens[:-1] < len(first)].long()] = True
    elif seq_idx is not None:
        first = nn.functional.pad(seq_idx[..., 1:] != seq_idx[..., :-1], (1, 0))
    elif position_ids is not None:
        first = position_ids == 0
    else:
        return labels
    return labels.masked_fill(first, -100)
