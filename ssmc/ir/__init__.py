"""The Program, its operations and its meaning: what every other package talks about.

The interpreter is a second face, ``from ssmc.ir.interpret import interpret``, because it loads NumPy,
which ``check``, ``fmt`` and ``--help`` must not wait for. Nothing here loads NumPy or networkx.
"""

from .accesses import Access, Accesses, Lag
from .dependence import Dependence, Loop, Step, dependence
from .extents import (
    bind_extents,
    check_requirements,
    complete_extents,
    evaluate_int,
    expr_from_json,
    expr_to_json,
    sizes_used,
)
from .linear import (
    Linear,
    at_least,
    comparison,
    conjuncts,
    facts,
    known_extents,
    linear_form,
    lower_bound,
    upper_bound,
)
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
    rebound,
    reduced_type,
    rewrite,
    substitute,
    type_of,
    walk,
    with_children,
)
from .text import print_expr, print_program
from .types import BOOL, COMPLEX, INT, REAL, DType, join
from .verify import outside_reads, verify

__all__ = [name for name in dir() if not name.startswith("_")]
