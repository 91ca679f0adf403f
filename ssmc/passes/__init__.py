"""Program → Program → Plan → Loops, one file per pass."""

from .at_once import TOGETHER, NotAtOnce, at_once
from .blocks import spread
from .chunks import chunks
from .either import either
from .flatten import flatten
from .grad import adjoint_names, differentiable, grad
from .inline import inline
from .joined import JOINED, joined
from .jvp import jvp, tangent_names
from .lift import lift
from .lower import Unbounded, lower
from .mask import mask
from .options import DEFAULTS, KNOBS, PlanOptions, knobs_of
from .pack import pack
from .partial import partial
from .plan import KernelPlan, Plan, plan
from .ragged import leading_axes
from .ranges import MissingExtent
from .recompute import CHUNK, SAVED, Kept, kept_values, rebuilding, saving
from .reverse import reverse
from .rows import rows
from .states_at import gives_state, states_at
from .step import step
from .strategy import GPU, PROCESSOR, Device, timed
from .sweep import MOST_AHEAD, sweep
from .tables import tables
from .tidy import tensors_read, tidied
from .tiles_of_lanes import tiles_of_lanes
from .unnest import unnest
from .unshadow import unshadow

__all__ = [name for name in dir() if not name.startswith("_")]
