"""Program → Program → Plan → Loops, one file per pass."""

from .inline import inline
from .lift import lift
from .lower import lower
from .plan import KernelPlan, Plan, PlanOptions, plan
from .ranges import MissingExtent
from .step import step
from .unshadow import unshadow

__all__ = ["KernelPlan", "MissingExtent", "Plan", "PlanOptions", "inline", "lift", "lower", "plan", "step", "unshadow"]
