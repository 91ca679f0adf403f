"""The mathematics of emitted C: static functions that a compiler can vectorise without -ffast-math.

``prelude({"exp_f32"})`` is the text of ``ssmc_exp_f32`` and of what it needs. A function is called
``ssmc_<operation>_<type>`` where the operation is a row of ``ssmc.ir.OPERATIONS`` and the type ``f32``, ``f64``
or ``i64``; conversions of storage are ``ssmc_bf16_to_f32``, ``ssmc_f32_to_bf16`` and the same with ``f16``. On
whole vectors of lanes it is ``ssmc_<operation>_vector``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

FILES = ("c_math.h", "c_exact.h", "c_vector.h")
INCLUDES = "#include <math.h>\n#include <stdint.h>\n"

# The largest errors that were measured in single precision, in units in the last place of the exact result,
# with gcc 12 and clang 22, with fused multiply-adds and without, over dense grids and random bit patterns.
# Results below the normal numbers are left out. Where e^x is huge or tiny its error is that of log(2), rounded
# once, times x; for |x| <= 20 the functions with 4 or more have at most 3.1, and exp 1.5.
MAX_ULP = {
    "exp": 4.6,
    "exp2": 1.1,
    "expm1": 4.6,
    "log": 1.2,
    "log2": 2.4,
    "log1p": 1.9,
    "sigmoid": 5.2,
    "softplus": 5.4,
    "tanh": 2.5,
    "sinh": 4.6,
    "cosh": 4.6,
    "erf": 1.3,
    "sin_bounded": 1.6,
    "cos_bounded": 1.6,
    "tan_bounded": 3.4,
    "arcsin": 2.3,
    "arccos": 1.3,
    "arctan": 1.9,
    "rsqrt": 1.5,
}

# The same of the functions on whole vectors, with and without AVX-512, which has shorter forms. An argument of sqrt
# and rsqrt below the normal numbers is not counted.
MAX_VECTOR_ULP = {
    "exp": 4.6,
    "exp2": 1.6,
    "expm1": 4.6,
    "sigmoid": 6.4,
    "softplus": 5.0,
    "tanh": 3.1,
    "sqrt": 0.8,
    "rsqrt": 1.6,
    "relu": 0.0,
    "abs": 0.0,
}

# These fall towards 0 on the left, where their relative error grows: errors in units of 2^-24 |x| instead.
MAX_ERROR_OF_ARGUMENT = {"silu": 2.0, "gelu": 2.0, "gelu_tanh": 2.0}


@dataclass(frozen=True)
class Definition:
    """One definition of the headers: its (first) name, its text with the comment above it, what it mentions."""

    name: str
    text: str
    needs: frozenset[str]


def prelude(functions: Iterable[str], real: str = "float") -> str:
    """The definitions of these functions (with or without ``ssmc_``) and of all they need, in order; vectors are
    of the C type ``real``.

    Raises KeyError for a function that is not there.
    """
    table = definitions()
    wanted: set[str] = set()
    stack = [name if name.lower().startswith("ssmc_") else f"ssmc_{name}" for name in functions]
    while stack:
        name = stack.pop()
        if name not in wanted:
            wanted.add(table[name].name)
            stack.extend(table[name].needs - wanted)
    texts = dict.fromkeys(definition.text for definition in table.values() if definition.name in wanted)
    return re.sub(r"\bREAL\b", real, "\n\n".join([INCLUDES.rstrip(), *texts])) + "\n"


def has(function: str) -> bool:
    """Whether there is a function of that name (with or without ``ssmc_``)."""
    return (function if function.startswith("ssmc_") else f"ssmc_{function}") in definitions()


@lru_cache(maxsize=1)
def definitions() -> dict[str, Definition]:
    """Every definition of the headers by name, in the order in which they must stand."""
    blocks: list[tuple[list[str], str]] = []
    for file in FILES:
        text = files(__package__).joinpath(file).read_text(encoding="utf-8")
        for block in re.split(r"\n{2,}", text.strip()):
            names = _defined(block)
            if names:
                blocks.append((names, block))
    home = {name: names[0] for names, _ in blocks for name in names}
    table = {}
    for names, block in blocks:
        mentioned = set(re.findall(r"\b(?:ssmc_\w+|SSMC_\w+)", _without_comments(block)))
        needs = {home[name] for name in mentioned if name in home} - {names[0]}
        for name in names:
            table[name] = Definition(names[0], block, frozenset(needs))
    return table


def _defined(block: str) -> list[str]:
    """The names that a block defines; none if it is only a comment."""
    code = _without_comments(block)
    patterns = (
        r"^#define (\w+)",
        r"^SSMC_INLINE .*?(\w+)\(",
        r"^static const \w+ (\w+)\[",
        r"^struct (\w+) \{",
        r"^typedef .*?(\w+) __attribute__",
    )
    return list(dict.fromkeys(name for pattern in patterns for name in re.findall(pattern, code, re.MULTILINE)))


def _without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
