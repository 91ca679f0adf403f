"""Machine code → a PyTorch operator: ``load``, ``compile``, the ``Layer`` they return, its ``State``."""

from .layer import Layer
from .loading import compile, load
from .state import State

__all__ = ["Layer", "State", "compile", "load"]
