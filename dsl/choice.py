"""What a layer is specialised for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

StaticValue: TypeAlias = bool | int | float | str


@dataclass(frozen=True)
class Choice:
    """One specialisation: values of static parameters (enum values by name), which of the inputs
    that may be absent are present (None: all of them), and the axes chosen for inputs with several
    signatures. What is not mentioned takes its default: the static's, the first signature."""

    statics: Mapping[str, StaticValue] = field(default_factory=dict)
    present: frozenset[str] | None = None
    signatures: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
