"""A printed Program, read back: ``read_program(print_program(p)) == p``.

A printed Program is an ordinary ``.ssm`` text. It is read verbatim: nothing is simplified, and no
fact is added to those it states.
"""

from __future__ import annotations

from ssmc.errors import UserError
from ssmc.ir import Program

from .choice import Choice
from .elaborate import attempt
from .modules import read_text
from .problems import Problems


def read_program(text: str, name: str = "<program>") -> Program:
    """The Program that a text prints, that of its main layer; UserError if it is not one."""
    module = read_text(text, name)
    module.require_readable()
    problems = Problems()
    program = attempt(module, module.layer(), Choice(), problems, verbatim=True)
    if problems or program is None:
        raise UserError(problems.sorted() or "this text is not a Program")
    return program
