"""The commands of the command line, one module each. None of them loads a compiler before it is run."""

from .check import check
from .compile import compile_
from .doctor import doctor
from .explain import explain
from .fmt import fmt
from .library import library
from .report import BUG, WRONG_USAGE, Report, as_object, guarded, show

COMMANDS = (check, fmt, library, compile_, explain, doctor)

__all__ = ["BUG", "COMMANDS", "WRONG_USAGE", "Report", "as_object", "guarded", "show"]
