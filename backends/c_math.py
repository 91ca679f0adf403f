"""The mathematics of emitted C: static functions that a compiler can vectorise without -ffast-math.

``prelude({"exp_f32"})`` is the text of ``ssmc_exp_f32`` and of what it needs. A function is called
``ssmc_<operation>_<type>`` where the operation is a row of ``ssmc.ir.OPERATIONS`` and the type ``f32``, ``f64``
or ``i64``; conversions of storage are ``ssmc_bf16_to_f32``, ``ssmc_f32_to_bf16`` and the same with ``f16``. On
whole vectors of lanes it is ``ssmc_<operation>_vector``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .definitions import Definition, Definitions

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


_C = Definitions(FILES, INCLUDES.rstrip())


def prelude(functions: Iterable[str], real: str = "float") -> str:
    """The definitions of these functions (with or without ``ssmc_``) and of all they need, in order; vectors are
    of the C type ``real``.

    Raises KeyError for a function that is not there.
    """
    return _C.text(functions, real)


def has(function: str) -> bool:
    """Whether there is a function of that name (with or without ``ssmc_``)."""
    return (function if function.startswith("ssmc_") else f"ssmc_{function}") in definitions()


def definitions() -> Mapping[str, Definition]:
    """Every definition of the headers by name, in the order in which they must stand."""
    return _C.table
