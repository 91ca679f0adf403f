"""The Program, its operations and its meaning: what every other package talks about."""

from .ops import CALL_NAMES, OPERATIONS, REDUCTIONS, TRANSFORMS, Operation, Reduction, result_type
from .program import (
    Apply,
    Axis,
    Call,
    Const,
    CustomGradient,
    Equation,
    Expr,
    Extension,
    Function,
    Index,
    Number,
    Op,
    Opaque,
    Program,
    Read,
    Reduce,
    Requirement,
    Size,
    Tensor,
    Transform,
    Where,
    bound_axes,
    children,
    free_axes,
    reduced_type,
    rewrite,
    substitute,
    type_of,
    walk,
    with_children,
)
from .types import BOOL, COMPLEX, INT, REAL, DType, join

__all__ = [name for name in dir() if not name.startswith("_")]
