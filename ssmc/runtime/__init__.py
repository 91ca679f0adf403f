"""Machine code → a PyTorch operator: ``load``, ``compile``, the ``Layer`` they return, its ``State``.

``form_check`` and ``nobody_intercepts`` tell fast whether a call is a plain one that was made before.
"""

from .forms import form_check, nobody_intercepts
from .layer import Layer
from .library import Library
from .loading import compile, load
from .machines import reason_against
from .state import State

__all__ = ["Layer", "Library", "State", "compile", "form_check", "load", "nobody_intercepts", "reason_against"]
