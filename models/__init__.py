"""Complete models built from compiled layers.

Each name is loaded when it is first used: they stand on transformers (``pip install ssmc[models]``).
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ssmc.errors import UserError

if TYPE_CHECKING:
    from .cache import LayerCache, Snapshot, StateCache
    from .convert import Conversion, convert_checkpoint
    from .griffin import recurrent_block
    from .in_place import Replaced, accelerate, restore
    from .linear import linear_routes
    from .mamba import MambaForCausalLM, MambaModel
    from .mixer import MixerLayers, mamba_mixer
    from .recurrent_gemma import RecurrentGemmaForCausalLM, RecurrentGemmaModel

_HOME = {
    "Conversion": "convert",
    "LayerCache": "cache",
    "Snapshot": "cache",
    "Replaced": "in_place",
    "StateCache": "cache",
    "accelerate": "in_place",
    "MambaForCausalLM": "mamba",
    "MambaModel": "mamba",
    "MixerLayers": "mixer",
    "RecurrentGemmaForCausalLM": "recurrent_gemma",
    "RecurrentGemmaModel": "recurrent_gemma",
    "convert_checkpoint": "convert",
    "linear_routes": "linear",
    "mamba_mixer": "mixer",
    "recurrent_block": "griffin",
    "restore": "in_place",
}

__all__ = [
    "Conversion",
    "LayerCache",
    "MambaForCausalLM",
    "MambaModel",
    "MixerLayers",
    "RecurrentGemmaForCausalLM",
    "RecurrentGemmaModel",
    "Replaced",
    "Snapshot",
    "StateCache",
    "accelerate",
    "convert_checkpoint",
    "linear_routes",
    "mamba_mixer",
    "recurrent_block",
    "restore",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'ssmc.models' has no attribute {name!r}")
    if find_spec("transformers") is None:
        raise UserError(
            f"ssmc.models.{name} stands on transformers, which is not installed",
            expected="transformers 5.17 or later",
            hint="pip install 'ssmc[models]'",
        )
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
