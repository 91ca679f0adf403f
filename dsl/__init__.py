"""The front end: ``.ssm`` text → Program.

    module = load_module("selective_scan")        # or a path; module_from_text for a text
    check(module)                                 # every diagnostic of the file, none raised
    signature(module)                             # inputs, static parameters, outputs
    choices(module, module.layer())               # specialisations that meet each of its branches
    elaborate(module, choice=Choice(...))         # the Program, or UserError

In the order of processing: ``lexer``, ``parse`` (``grammar``, ``build``, ``syntax``) → ``ast``;
``modules``, ``headers``, ``signature``; ``frame`` (``scan``, ``resolve``, ``calls``, ``statics``) →
``flat`` equations over ``tree``; ``finish`` (``axes``, ``lower``, ``dtypes``) → Program, with
``circles``, ``conditions`` and ``linearity`` checked; ``check``, ``format`` and ``read`` around them.
"""

from .check import check, choices
from .choice import Choice, StaticValue
from .elaborate import elaborate
from .format import format_text
from .modules import Module, library_names
from .modules import read_module as load_module
from .modules import read_text as module_from_text
from .read import read_program
from .signature import InputSignature, LayerSignature, OutputSignature, StaticSignature, signature

__all__ = [
    "Choice",
    "InputSignature",
    "LayerSignature",
    "Module",
    "OutputSignature",
    "StaticSignature",
    "StaticValue",
    "check",
    "choices",
    "elaborate",
    "format_text",
    "library_names",
    "load_module",
    "module_from_text",
    "read_program",
    "signature",
]
