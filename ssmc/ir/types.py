"""Value types of the language and how they combine."""

from __future__ import annotations

from enum import Enum
from functools import cache


class DType(Enum):
    """What a value is; storage width is the compiler's business (``passes.promotion``)."""

    BOOL = "bool"
    INT = "int"
    REAL = "real"
    COMPLEX = "complex"

    @property
    def rank(self) -> int:
        """Position in the promotion order bool < int < real < complex."""
        return _ORDER.index(self)

    def __str__(self) -> str:
        return self.value


_ORDER = (DType.BOOL, DType.INT, DType.REAL, DType.COMPLEX)

BOOL, INT, REAL, COMPLEX = _ORDER


@cache  # the interpreter asks for every operation
def join(*types: DType) -> DType:
    """The smallest type that holds every given one."""
    return max(types, key=lambda t: t.rank)
