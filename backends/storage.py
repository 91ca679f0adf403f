"""How numbers lie in memory, and the precision they are computed in: the promotion table.

======================= =============== =========================
storage of the inputs   computed in     outputs stored as
======================= =============== =========================
f32, bf16, f16          f32             the widest real input
any f64 or c128         f64             f64 (c128)
c64                     f32             f32 (c64)
i64, i32                64-bit integers i64
b8                      int             b8
======================= =============== =========================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ssmc.ir import BOOL, COMPLEX, INT, REAL, DType, Program

REALS = ("bf16", "f16", "f32", "f64")
COMPLEXES = ("c64", "c128")
BYTES = {"f64": 8, "f32": 4, "bf16": 2, "f16": 2, "i64": 8, "i32": 4, "b8": 1, "c128": 16, "c64": 8}
C_TYPES = {
    "f64": "double", "f32": "float", "bf16": "uint16_t", "f16": "uint16_t", "i64": "int64_t",
    "i32": "int32_t", "b8": "uint8_t", "c128": "double", "c64": "float",
}  # fmt: skip
ALLOWED = {REAL: REALS, COMPLEX: (*COMPLEXES, *REALS), INT: ("i64", "i32"), BOOL: ("b8",)}


def compute_type(storage: Iterable[str]) -> str:
    """``f64`` if any value is stored in double precision, else ``f32``."""
    return "f64" if any(s in ("f64", "c128") for s in storage) else "f32"


def output_storage(dtype: DType, inputs: Mapping[str, str]) -> str:
    """How an output of that type is stored, from the storage of the inputs."""
    double = compute_type(inputs.values()) == "f64"
    if dtype is COMPLEX:
        return "c128" if double else "c64"
    if dtype is REAL:
        reals = [s for s in inputs.values() if s in REALS]
        if double:
            return "f64"
        if any(s == "c64" for s in inputs.values()) or len(set(reals)) != 1:
            return "f32"
        return reals[0]
    return "i64" if dtype is INT else "b8"


def state_storage(dtype: DType, inputs: Mapping[str, str]) -> str:
    """How a carried state is stored: in the precision it is computed in, never narrower."""
    double = compute_type(inputs.values()) == "f64"
    if dtype is REAL:
        return "f64" if double else "f32"
    return output_storage(dtype, inputs)


def default_storage(program: Program, real: str = "f32") -> dict[str, str]:
    """Storage of every input when all reals are stored as ``real``."""
    wide = {"f64": "c128"}.get(real, "c64")
    table = {REAL: real, COMPLEX: wide, INT: "i64", BOOL: "b8"}
    return {t.name: table[t.dtype] for t in program.inputs}
