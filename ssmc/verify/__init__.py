"""Does every variant of a layer agree with every other? ``verify(layer)`` finds out and gives a table.

In the order of processing: ``variants`` (which specialisations), ``sizes`` and ``inputs`` (at which extents, on
what), ``cases`` (what the interpreter says, and how far rounding may lead away from it; ``evaluate``), ``subjects``
(derived Programs, compiled operators), ``properties``, ``machine`` (what must hold; ``meaning``, ``layouts``),
``rows`` and ``table`` (what was found), ``conformance`` (all of it, in order).
"""

from .conformance import STORAGES, verify
from .inputs import draw_inputs, settle
from .rows import DOES_NOT_APPLY, FAILS, HOLDS, Finding, Row
from .sizes import free_axes, small, solve
from .table import Verification

__all__ = [
    "DOES_NOT_APPLY",
    "FAILS",
    "HOLDS",
    "STORAGES",
    "Finding",
    "Row",
    "Verification",
    "draw_inputs",
    "free_axes",
    "settle",
    "small",
    "solve",
    "verify",
]
