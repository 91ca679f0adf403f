"""What the drop-ins share: variants of layers, and what is said of arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssmc.errors import UserError
from ssmc.runtime import Library


def by_softplus(name: str) -> tuple[Library, Library]:
    """The layer with ``softplus_dt`` false, and true."""
    return Library(name, softplus_dt=False), Library(name, softplus_dt=True)


def given(**values: Tensor | None) -> dict[str, Any]:
    """The arguments that are there."""
    return {name: value for name, value in values.items() if value is not None}


def time_second(value: Tensor) -> Tensor:
    """(B, D, L) as (B, L, D)."""
    return value.transpose(1, 2)


# ---------------------------------------------------------------- arguments


def check_axes(function: str, name: str, value: Tensor, *allowed: int) -> None:
    """Raise UserError unless an argument has one of the allowed numbers of axes."""
    if value.dim() not in allowed:
        raise UserError(
            f"{function}: {name!r} has {value.dim()} axes, shape {tuple(value.shape)}",
            expected=f"{' or '.join(map(str, allowed))} axes",
        )


def check_shape(function: str, name: str, value: Tensor, *expected: int) -> None:
    """Raise UserError unless an argument has the expected shape."""
    if value.shape != expected:
        raise UserError(f"{function}: {name!r} has the shape {tuple(value.shape)}", expected=str(expected))


def as_activation(function: str, activation: str | None) -> str:
    """The library's word for an activation; UserError for one that the originals do not have."""
    if activation not in (None, "silu", "swish"):
        raise UserError(f"{function}: `activation` is {activation!r}", expected="None, 'silu' or 'swish'")
    return "none" if activation is None else "silu"


# ---------------------------------------------------------------- states that are written in place


def recorded(*values: Tensor | None) -> bool:
    """Whether autograd records calls with these arguments."""
    return torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in values)


def check_writable(function: str, name: str, target: Tensor) -> None:
    """Raise UserError for what autograd does not let anybody write to."""
    if target.requires_grad and target.is_leaf and torch.is_grad_enabled():
        raise UserError(
            f"{function}: {name!r} is written in place, and it is a leaf that requires a gradient",
            hint=f"pass {name}.clone(), and read the new state from that",
        )


def write(target: Tensor, value: Tensor, rows: Tensor | None = None) -> None:
    """Put ``value`` into ``target``, or into the ``rows`` of it along the first axis.

    What autograd recorded must not have kept ``target`` itself: it changes here.
    """
    if rows is None:
        target.copy_(value)
    else:
        target.index_copy_(0, rows.long(), value.to(target.dtype))


def check_rows(function: str, name: str, rows: Tensor, batch: int, count: int, least: int = 0) -> None:
    """Raise UserError unless ``rows`` are ``batch`` numbers of rows of a tensor that has ``count``.

    What they are is looked at outside of tracing only.
    """
    check_shape(function, name, rows, batch)
    if rows.is_floating_point() or rows.is_complex() or rows.dtype is torch.bool:
        raise UserError(f"{function}: {name!r} has dtype {rows.dtype}", expected="ints")
    if torch.compiler.is_compiling() or not batch:
        return
    low, high = rows.aminmax()
    if low < least or high >= count:
        raise UserError(f"{function}: {name!r} holds {int(low)} to {int(high)}", expected=f"{least} to {count - 1}")
