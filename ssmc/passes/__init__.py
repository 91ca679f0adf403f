"""Program → Program → Plan → Loops, one file per pass."""

from .inline import inline
from .lift import lift
from .lower import Unbounded, lower
from .partial import GROUP, partial
from .plan import KernelPlan, Plan, PlanOptions, plan
from .ranges import MissingExtent
from .recompute import CHUNK, kept_values, rebuilding, saving
from .step import step
from .unshadow import unshadow

__all__ = [name for name in dir() if not name.startswith("_")]
