"""The library's layers against third-party implementations, in float64."""

from __future__ import annotations

import numpy as np
import pytest

from tests.library import adapters_attention, adapters_scan, adapters_ssm
from tests.library.golden import Adapter, Array, Case, assert_agrees, load_case, manifest

ADAPTERS: dict[str, Adapter] = {
    **adapters_scan.ADAPTERS,
    **adapters_ssm.ADAPTERS,
    **adapters_attention.ADAPTERS,
}


def adapter_of(name: str) -> Adapter:
    """The adapter with the longest prefix of the name."""
    return ADAPTERS[max((prefix for prefix in ADAPTERS if name.startswith(prefix)), key=len)]


def compared(case: Case) -> dict[str, Array | None]:
    """Which outputs are compared, and where: everywhere unless said here why not."""
    where: dict[str, Array | None] = {name: None for name in case.outputs if not name.startswith("grad_")}
    if case.get("in.attention_mask") is not None:
        # What stands at padding is unspecified: the reference pays attention to masked keys there.
        where["y"] = case["in.attention_mask"].astype(bool)[..., None]
    if case.name == "h3_shift_state_short":
        where["K_state"] = np.arange(case.config["L"]) > 0
    if case.name == "rg_conv":
        # The reference multiplies its input in place, so that its cache has zeros where tokens of an
        # earlier document stood; they are not read again, because position tells documents apart.
        kept = case["in.segment_pos"][:, -1:] >= np.arange(case.config["temporal_width"] - 2, -1, -1)
        where["new_cache"] = kept[..., None]
    if case.name == "rg_conv_decode":
        # With a cache the reference lets taps cross into the document before. A row at position 0 starts
        # a document: there the right value has the last tap alone (test_a_document_starts_afresh).
        where["y"] = (case["in.segment_pos"] >= case.config["temporal_width"] - 1)[..., None]
    return where


@pytest.mark.parametrize("name", list(manifest()))
def test_layer_agrees_with_reference(name: str) -> None:
    case = load_case(name)
    found = adapter_of(name)(case)
    places = compared(case)
    assert found.keys() == places.keys()
    for output, where in places.items():
        assert_agrees(case, output, found[output], where)
