"""The front end: ``.ssm`` text → Program."""

from .check import check
from .choice import Choice, StaticValue
from .elaborate import elaborate
from .format import format_text
from .modules import Module, library_names
from .modules import read_module as load_module
from .modules import read_text as module_from_text
from .read import read_program
from .signature import InputSignature, LayerSignature, OutputSignature, StaticSignature, signature

__all__ = [name for name in dir() if not name.startswith("_")]
