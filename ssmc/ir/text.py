"""A Program as ``.ssm`` text, which ``ssmc.dsl`` reads back to an equal Program.

Axes of an equation and extents are always written, nothing is left to inference but the element type
``real``. An index is written as people would: ``h[t-1]``, ``v[t=s]``, and not at all when it is the
axis' own. (Axes are read back in the order of the inputs and then of the text, extensions in the order
of their tensors; passes keep to it.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ssmc.errors import InternalError

from .ops import CALL_NAMES, OPERATIONS
from .program import (
    Apply,
    Call,
    Const,
    CustomGradient,
    Equation,
    Expr,
    Extension,
    Function,
    Index,
    Op,
    Opaque,
    Program,
    Read,
    Reduce,
    Size,
    Tensor,
    Transform,
    Where,
    type_of,
    walk,
)
from .types import BOOL, COMPLEX, INT, REAL, DType

_OR, _AND, _NOT, _COMPARISON, _SUM, _PRODUCT, _UNARY, _POWER, _ATOM = range(1, 10)

# How tightly each symbol binds, and the least levels at which its operands need no parentheses.
_BINARY = {
    "or": (_OR, _OR, _AND),
    "and": (_AND, _AND, _NOT),
    "<": (_COMPARISON, _SUM, _SUM),
    "<=": (_COMPARISON, _SUM, _SUM),
    ">": (_COMPARISON, _SUM, _SUM),
    ">=": (_COMPARISON, _SUM, _SUM),
    "==": (_COMPARISON, _SUM, _SUM),
    "!=": (_COMPARISON, _SUM, _SUM),
    "+": (_SUM, _SUM, _PRODUCT),
    "-": (_SUM, _SUM, _PRODUCT),
    "*": (_PRODUCT, _PRODUCT, _UNARY),
    "/": (_PRODUCT, _PRODUCT, _UNARY),
    "//": (_PRODUCT, _PRODUCT, _UNARY),
    "%": (_PRODUCT, _PRODUCT, _UNARY),
    "^": (_POWER, _ATOM, _UNARY),
}
_WIDTH = 90  # of a list of parameters
_WRITTEN = {meaning: written for written, meaning in CALL_NAMES.items()}


def print_program(program: Program) -> str:
    """The text of ``program``, functions first."""
    blocks = [_function(function, program) for function in program.functions]
    blocks += [_opaque(opaque) for opaque in program.opaques]
    blocks.append(_layer(program))
    return "\n\n".join(blocks) + "\n"


def print_expr(expr: Expr, tensors: Mapping[str, Tensor] | None = None) -> str:
    """The text of one expression; reads of tensors that are not in ``tensors`` show every index."""
    return _Writer(tensors or {}).text(expr)


# ---------------------------------------------------------------- declarations


def _layer(program: Program) -> str:
    tensors = program.tensors()
    writer = _Writer(tensors, {function.name: function for function in program.functions})
    inputs = _parameters([_typed(tensor) for tensor in program.inputs])
    outputs = ", ".join(_typed(tensors[name]) for name in program.outputs)
    lines = _doc(program.doc)
    if program.sequence_axes:
        lines.append(f"seq {', '.join(program.sequence_axes)}")
    lines += [f"axis {a.name} < {writer.text(a.extent)}" for a in program.axes if a.extent is not None]
    lines += [f"require {writer.text(requirement.condition)}" for requirement in program.requirements]
    lines += _equations(program, writer)
    for custom in program.customs:
        lines += _custom(custom, program, writer)
    return f"layer {program.name}{inputs} -> {outputs}:\n{_indented(lines)}"


def _parameters(items: list[str]) -> str:
    """Parameters in parentheses, over several lines where one would be long."""
    if len(", ".join(items)) <= _WIDTH:
        return f"({', '.join(items)})"
    lines = [""]
    for item in items:
        if len(lines[-1]) + len(item) > _WIDTH:
            lines.append("")
        lines[-1] += f" {item}," if lines[-1] else f"{item},"
    return "(\n" + _indented(lines) + "\n)"


def _equations(program: Program, writer: _Writer) -> list[str]:
    """Equations in order; what is read outside a tensor follows its equation."""
    lines: list[str] = []
    for tensor in program.tensors().values():
        if tensor not in program.inputs:
            lines.append(writer.equation(program.equation(tensor.name)))
        lines += [writer.extension(x) for x in program.extensions if x.tensor == tensor.name]
    return lines


def _custom(custom: CustomGradient, program: Program, writer: _Writer) -> list[str]:
    whole = custom.outputs == program.outputs and custom.inputs == tuple(t.name for t in program.inputs)
    head = "backward" if whole else f"backward {', '.join(custom.outputs)} from {', '.join(custom.inputs)}"
    tensors = dict(writer.tensors)
    tensors.update((f"d.{name}", tensors[name]) for name in custom.outputs)
    tensors.update((equation.name, equation.tensor) for equation in custom.equations)
    inner = _Writer(tensors, writer.functions)
    return [f"{head}:", *("    " + inner.equation(equation) for equation in custom.equations)]


def _function(function: Function, program: Program) -> str:
    parameter_type = COMPLEX if function.dtype is COMPLEX else REAL
    values = {name: Tensor(name, (), parameter_type) for name in function.parameters}
    values[f"d.{function.result_name}"] = Tensor(f"d.{function.result_name}", (), function.dtype)
    for name, _ in (*function.bindings, (function.result_name, None)):
        values[name] = Tensor(name, (), parameter_type)
    writer = _Writer(values, {other.name: other for other in program.functions})
    lines = [f"{name} = {writer.text(expr)}" for name, expr in function.bindings]
    lines.append(f"{function.result_name} = {writer.text(function.result)}")
    if function.backward:
        lines.append("backward:")
        lines += [f"    d.{name} = {writer.text(expr)}" for name, expr in function.backward]
    dtype = "" if function.dtype is REAL else f": {function.dtype}"
    head = f"fn {function.name}({', '.join(function.parameters)}) -> {function.result_name}{dtype}:"
    return f"{head}\n{_indented(lines)}"


def _opaque(opaque: Opaque) -> str:
    return f"fn {opaque.name}({', '.join(map(_typed, opaque.parameters))}) -> {_typed(opaque.result)}"


def _typed(tensor: Tensor) -> str:
    dtype = "" if tensor.dtype is REAL else f": {tensor.dtype}"
    return f"{tensor.name}[{', '.join(tensor.axes)}]{dtype}"


def _doc(text: str) -> list[str]:
    return [f'"""{text}"""'] if text else []


def _indented(lines: Iterable[str]) -> str:
    return "\n".join("    " + part if part else "" for line in lines for part in line.split("\n"))


# ---------------------------------------------------------------- expressions


class _Writer:
    """Writes expressions over known tensors."""

    def __init__(self, tensors: Mapping[str, Tensor], functions: Mapping[str, Function] | None = None) -> None:
        self.tensors = tensors
        self.functions = functions or {}

    def equation(self, equation: Equation) -> str:
        left = f"{equation.name}[{', '.join(equation.axes)}]"
        if isinstance(equation.expr, Apply):
            inferred: DType | None = None
        else:
            inferred = type_of(equation.expr, self.tensors, self.functions)
        dtype = "" if equation.dtype is REAL and inferred in (REAL, None) else f": {equation.dtype}"
        return f"{left}{dtype} = {self.text(equation.expr)}"

    def extension(self, extension: Extension) -> str:
        outside = "<0" if extension.side == "before" else f" >= #{extension.axis}"
        return f"{extension.tensor}[{extension.axis}{outside}] = {self.text(extension.expr)}"

    def text(self, expr: Expr, least: int = _OR) -> str:
        """``expr``, in parentheses if it binds more loosely than ``least``."""
        level, written = self._written(expr)
        return written if level >= least else f"({written})"

    def _written(self, expr: Expr) -> tuple[int, str]:
        match expr:
            case Const():
                written = constant_text(expr)
                return (_UNARY if written.startswith("-") else _ATOM), written
            case Index(axis=axis):
                return _ATOM, axis
            case Size(axis=axis):
                return _ATOM, f"#{axis}"
            case Read():
                return _ATOM, self._read(expr)
            case Op(op=op, args=args):
                return self._operation(op, args)
            case Where(condition=c, then=a, otherwise=b):
                return _ATOM, f"where({self.text(c)}, {self.text(a)}, {self.text(b)})"
            case Reduce(kind=kind, axes=axes, condition=c, body=body):
                when = "" if c is None else f": {self.text(c)}"
                return _ATOM, f"{kind}[{', '.join(axes)}{when}]({self.text(body)})"
            case Transform(kind=kind, axis=axis, body=body):
                return _ATOM, f"{kind}[{axis}]({self.text(body)})"
            case Call(function=name, args=args):
                return _ATOM, f"{name}({', '.join(map(self.text, args))})"
            case Apply(function=name, args=names):
                return _ATOM, f"{name}({', '.join(names)})"
        raise InternalError(f"not an expression: {expr!r}")

    def _operation(self, op: str, args: tuple[Expr, ...]) -> tuple[int, str]:
        symbol = OPERATIONS[op].symbol
        if op == "not":
            return _NOT, f"not {self.text(args[0], _NOT)}"
        if op == "neg":
            inner = self.text(args[0], _UNARY)
            # Without parentheses `-1` would be a literal, not the negation of one.
            bare = not isinstance(args[0], Const) and not inner.startswith("-")
            return _UNARY, f"-{inner}" if bare else f"-({self.text(args[0])})"
        if symbol:
            level, left, right = _BINARY[symbol]
            return level, f"{self.text(args[0], left)} {symbol} {self.text(args[1], right)}"
        return _ATOM, f"{_WRITTEN[op]}({', '.join(map(self.text, args))})"

    def _read(self, read: Read) -> str:
        known = self.tensors.get(read.tensor)
        if known is None:
            return f"{read.tensor}[{', '.join(map(self.text, read.indices))}]"
        items = []
        for axis, index in zip(known.axes, read.indices, strict=True):
            if index != Index(axis):
                written, short = self._index(index)
                assign = f"{axis}={written}" if short else f"{axis} = {written}"
                items.append(written if _names_only(index, axis, known) else assign)
        return f"{read.tensor}[{', '.join(items)}]" if items else read.tensor

    def _index(self, index: Expr) -> tuple[str, bool]:
        """An index, and whether it is short: one name or number, or two written closely, ``t-1``."""
        match index:
            case Op(op="add" | "sub" as op, args=(Const() | Index() | Size() as a, Const() | Index() | Size() as b)):
                right = self.text(b, _PRODUCT)
                if not right.startswith("-"):
                    return f"{self.text(a, _SUM)}{OPERATIONS[op].symbol}{right}", True
        written = self.text(index)
        return written, " " not in written


def _names_only(index: Expr, axis: str, tensor: Tensor) -> bool:
    """Whether ``index`` itself says that it is for ``axis``: no other axis of the tensor occurs."""
    nodes = list(walk(index))
    plain = all(isinstance(node, (Const, Index, Size, Op)) for node in nodes)
    named = {node.axis for node in nodes if isinstance(node, Index)} & set(tensor.axes)
    sized = {node.axis for node in nodes if isinstance(node, Size)} & set(tensor.axes)
    return plain and named == {axis} and sized <= {axis}


def constant_text(constant: Const) -> str:
    """A literal that keeps type and value; negative ones start with ``-``."""
    value, dtype = constant.value, constant.dtype
    if dtype is BOOL:
        return "true" if value else "false"
    if dtype is INT:
        return str(value)
    if dtype is COMPLEX:
        return repr(complex(value).imag) + "i"
    return repr(float(value.real))
