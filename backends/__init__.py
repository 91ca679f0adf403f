"""Targets: what turns loops into text, and text into machine code.

``toolchain`` finds and runs the C compiler, ``cuda_toolchain`` the CUDA compiler, ``triton_toolchain`` Triton;
``cache`` keeps what they built, ``c_math`` is the mathematics that emitted C brings along.
"""

from . import cuda_toolchain, toolchain, triton_toolchain
from .base import TARGETS, Target, target_named
from .c_math import prelude
from .cache import Cache
from .launch import Emitted, Launch, Piece
from .storage import ALLOWED, BYTES, COMPLEXES, REALS, compute_type, default_storage, output_storage, state_storage
from .triton_launch import Parameter, TileLaunch, tile_launch, wanted

__all__ = [
    "ALLOWED",
    "BYTES",
    "COMPLEXES",
    "REALS",
    "TARGETS",
    "Cache",
    "Emitted",
    "Launch",
    "Piece",
    "Parameter",
    "Target",
    "TileLaunch",
    "compute_type",
    "cuda_toolchain",
    "default_storage",
    "output_storage",
    "prelude",
    "state_storage",
    "target_named",
    "tile_launch",
    "toolchain",
    "triton_toolchain",
    "wanted",
]
