"""A compiler for sequence-mixing layers written as equations.

The map, in the order of processing:

``ssmc.source``, ``ssmc.errors``
    texts with spans, and the kinds of failure
``ssmc.dsl``
    ``.ssm`` text → syntax tree → Program; the formatter; the library of layers
``ssmc.ir``
    the Program: equations over named axes, its operations, its meaning (an interpreter)
``ssmc.analysis``
    facts about a Program: which equations are recurrences, of which kind, at what cost
``ssmc.passes``
    Program → Program (step, grad, …) → Plan (strategies) → Loops
``ssmc.derivations``
    what can be derived from a layer, in a table
``ssmc.backends``
    Loops → target text → machine code; the C toolchain and the cache
``ssmc.compiler``
    the spine, all of the above in one screen
``ssmc.runtime``
    machine code → a PyTorch operator: ``ssmc.load``, ``ssmc.compile``
``ssmc.tune``
    plans that run faster than the compiler's own, found by trying them
``ssmc.models``
    complete models that stand on compiled layers
``ssmc.cli``
    the command line

``import ssmc`` loads none of them; each public name is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import Diagnostic, InternalError, SsmcError, ToolchainError, Unsupported, UserError
    from .runtime import Layer, State, compile, load

__version__ = "0.1.0"

__all__ = [
    "Diagnostic",
    "InternalError",
    "Layer",
    "SsmcError",
    "State",
    "ToolchainError",
    "Unsupported",
    "UserError",
    "__version__",
    "compile",
    "load",
]

_HOME = {
    "Diagnostic": "ssmc.errors",
    "InternalError": "ssmc.errors",
    "SsmcError": "ssmc.errors",
    "ToolchainError": "ssmc.errors",
    "Unsupported": "ssmc.errors",
    "UserError": "ssmc.errors",
    "Layer": "ssmc.runtime",
    "State": "ssmc.runtime",
    "compile": "ssmc.runtime",
    "load": "ssmc.runtime",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'ssmc' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
