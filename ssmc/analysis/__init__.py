"""Facts about a Program: its recurrences and their kinds, how far back it looks, its state, its cost.

``dependence`` and linear forms belong to the meaning of the language, so ``ssmc.ir`` owns them.
"""

from ssmc.ir import Dependence, Linear, Loop, Step, dependence, linear_form

from .cost import Cost, EquationCost, cost
from .lookback import LookBack, demanded_regions, longest, look_back
from .recurrence import AffineForm, Recurrence, Term, affine_form, classify
from .state import Counter, StateTensor, carried_state, position_uses, size_uses
