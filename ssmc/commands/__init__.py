"""The commands of the command line, one module each; derivations share one.

None of them loads a compiler before it is run.
"""

from .check import check
from .compile import compile_
from .convert import convert
from .derive import DERIVED
from .doctor import doctor
from .explain import explain
from .fmt import fmt
from .library import library
from .report import BUG, WRONG_USAGE, Report, as_object, guarded, show
from .resources import resources
from .targets import targets
from .tune import tune
from .verify import verify

COMMANDS = (check, fmt, library, compile_, *DERIVED, explain, verify, tune, resources, targets, convert, doctor)

__all__ = ["BUG", "COMMANDS", "WRONG_USAGE", "Report", "as_object", "guarded", "show"]
