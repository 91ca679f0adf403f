"""The library's layers against third-party implementations, in float64."""

from __future__ import annotations

import pytest
import torch

from tests.library import adapters_attention, adapters_scan, adapters_ssm
from tests.library.golden import Adapter, Case, Tensor, assert_agrees, load_case, manifest

ADAPTERS: dict[str, Adapter] = {
    **adapters_scan.ADAPTERS,
    **adapters_ssm.ADAPTERS,
    **adapters_attention.ADAPTERS,
}


def adapter_of(name: str) -> Adapter:
    """The adapter with the longest prefix of the name."""
    return ADAPTERS[max((prefix for prefix in ADAPTERS if name.startswith(prefix)), key=len)]


def compared(case: Case) -> dict[str, Tensor | None]:
    """Which outputs are compared, and where: everywhere unless said here why not."""
    where: dict[str, Tensor | None] = {name: None for name in case.outputs if not name.startswith("grad_")}
    if case.get("in.attention_mask") is not None:
        # What stands at padding is unspecified: the reference pays attention to masked keys there.
        where["y"] = case["in.attention_mask"].bool()[..., None]
    return where


@pytest.mark.parametrize("name", list(manifest()))
def test_layer_agrees_with_reference(name: str) -> None:
    """Values, and where the reference returned gradients of a loss, those too."""
    case = load_case(name).with_gradients()
    found = adapter_of(name)(case)
    places = compared(case)
    assert found.keys() == places.keys()
    for output, where in places.items():
        assert_agrees(case, f"out.{output}", found[output], where)
    if not case.differentiated:
        return
    loss(case, found).backward()
    for tensor in case.differentiated:
        received = case[tensor].grad
        assert received is not None
        assert_agrees(case, f"grad.{tensor}", received)


def loss(case: Case, found: dict[str, Tensor]) -> Tensor:
    """What the reference differentiated: outputs times fixed weights; a complex number counts as two."""
    total = torch.zeros((), dtype=torch.float64)
    for name in case.loss_on:
        values = torch.view_as_real(found[name]) if found[name].is_complex() else found[name]
        total = total + (values * case[f"w.{name}"]).sum()
    return total
