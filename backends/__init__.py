"""Targets: what turns loops into text, and text into machine code.

``toolchain`` finds and runs the C compiler, ``cache`` keeps what it built, ``c_math`` is the
mathematics that emitted C brings along.
"""

from . import toolchain
from .base import TARGETS, Target, target_named
from .c_math import prelude
from .cache import Cache
from .storage import ALLOWED, BYTES, REALS, default_storage, output_storage, state_storage

__all__ = [
    "ALLOWED",
    "BYTES",
    "REALS",
    "TARGETS",
    "Cache",
    "Target",
    "default_storage",
    "output_storage",
    "prelude",
    "state_storage",
    "target_named",
    "toolchain",
]
