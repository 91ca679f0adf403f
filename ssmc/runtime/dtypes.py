"""PyTorch's dtypes and the compiler's storage names."""

from __future__ import annotations

import torch

from ssmc.ir import BOOL, COMPLEX, INT, REAL, DType

TORCH_DTYPES: dict[str, torch.dtype] = {
    "f64": torch.float64,
    "f32": torch.float32,
    "bf16": torch.bfloat16,
    "f16": torch.float16,
    "i64": torch.int64,
    "i32": torch.int32,
    "b8": torch.bool,
    "c128": torch.complex128,
    "c64": torch.complex64,
}
STORAGE: dict[torch.dtype, str] = {dtype: name for name, dtype in TORCH_DTYPES.items()}
SCALARS: dict[DType, tuple[type, ...]] = {
    REAL: (bool, int, float),
    COMPLEX: (bool, int, float, complex),
    INT: (int,),
    BOOL: (bool,),
}


def short(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def names_of(storage: tuple[str, ...]) -> str:
    """``bfloat16, float16 or float32``: storage names as PyTorch's users know them."""
    words = [short(TORCH_DTYPES[name]) for name in storage]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]
