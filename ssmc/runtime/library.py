"""Layers that come with ssmc, for modules that call them: loaded when they are first called."""

from __future__ import annotations

from typing import Any

import torch

from .layer import Layer
from .loading import load


class Library:
    """A layer of the library, loaded when it is first called."""

    def __init__(self, name: str, **statics: Any) -> None:
        self.name = name
        self.statics = statics
        self.layer: Layer | None = None

    def _load(self) -> bool:
        if self.layer is None:
            self.layer = load(self.name, **self.statics)
        return True

    _load._dynamo_marked_constant = True  # type: ignore[attr-defined]  # done while tracing, not traced

    def __deepcopy__(self, memo: Any) -> Library:
        """Itself: a copy of a module calls the same layer."""
        return self

    def loaded(self) -> Layer:
        """The layer itself."""
        self._load()
        assert self.layer is not None
        return self.layer

    def __call__(self, *args: Any, **named: Any) -> Any:
        # Dynamo remembers what it has read: it must not see the layer before it is there.
        if torch.compiler.is_compiling() or self.layer is None:
            self._load()
        return self.layer(*args, **named)  # type: ignore[misc]
