"""What is true of every valid Program, and a check of it.

1. Axes, inputs and equations share one namespace; functions and opaque functions another.
2. Every axis has an extent: an int expression over sizes, constants and no circle, or from an input.
3. A read has one int index for each axis of its tensor. An index or a kept axis occurs only where an
   equation or a reduction around it runs along that axis.
4. Operations and reductions get as many arguments, and of such types, as their table row accepts;
   conditions are bool. An expression's type is at most that of its equation. A constant is what a
   literal can say, perhaps with a minus: complex constants are imaginary.
5. An extension is along a sequence axis of its tensor, one per side, and extensions that read outside
   each other's tensors form no circle.
6. Functions are elementwise and read only parameters and earlier bindings. An ``Apply`` is a whole
   right side, on tensors with exactly the axes and types of the opaque function.
7. A custom gradient has an equation ``d.<input>``, like the input, for each real or complex input.
8. Outputs are equations. Circles of equations pass through time in one direction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ssmc.errors import InternalError, UserError

from .dependence import dependence
from .extents import sizes_used
from .linear import at_least, facts, known_extents, lower_bound
from .ops import OPERATIONS, REDUCTIONS, TRANSFORMS
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
    Program,
    Read,
    Reduce,
    Size,
    Tensor,
    Transform,
    Where,
    free_axes,
    type_of,
    walk,
)
from .types import BOOL, COMPLEX, INT, REAL, DType


def verify(program: Program) -> None:
    """Raise InternalError, naming the rule and the node, if ``program`` is not valid."""
    _Verifier(program).run()


class _Verifier:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.tensors = program.tensors()
        self.axes = {axis.name for axis in program.axes}
        self.functions = {function.name: function for function in program.functions}
        self.opaques = {opaque.name: opaque for opaque in program.opaques}

    def run(self) -> None:
        self._names()
        self._extents()
        for index, function in enumerate(self.program.functions):
            self._function(function, self.program.functions[:index])
        for equation in self.program.equations:
            self._equation(equation, self.tensors)
        self._extensions()
        for requirement in self.program.requirements:
            self._over_sizes("a requirement", requirement.condition)
        for custom in self.program.customs:
            self._custom(custom)
        self._circles()

    def _check(self, holds: bool, rule: str, node: object) -> None:
        if not holds:
            raise InternalError(
                f"invalid Program {self.program.name!r}: {rule}: {node}",
                span=getattr(node, "span", None),
                hint="report this, with the layer that led to it",
            )

    # ------------------------------------------------------------ declarations

    def _names(self) -> None:
        program = self.program
        names = [a.name for a in program.axes] + [t.name for t in program.inputs] + [e.name for e in program.equations]
        self._distinct("axes, inputs and equations have distinct names", names)
        functions = [f.name for f in program.functions] + [o.name for o in program.opaques]
        self._distinct("functions have distinct names", functions)
        self._distinct("outputs are distinct", program.outputs)
        for tensor in self.tensors.values():
            self._distinct(f"the axes of {tensor.name!r} are distinct", tensor.axes)
            self._check(self.axes.issuperset(tensor.axes), "the axes of a tensor are declared", tensor)
        equations = {equation.name for equation in program.equations}
        for output in program.outputs:
            self._check(output in equations, "an output is an equation", output)

    def _distinct(self, rule: str, names: Iterable[str]) -> None:
        seen: set[str] = set()
        for name in names:
            self._check(name not in seen, rule, name)
            seen.add(name)

    def _extents(self) -> None:
        bound = {axis for tensor in self.program.inputs for axis in tensor.axes}
        for axis in self.program.axes:
            if axis.extent is None:
                self._check(axis.name in bound, "an axis has an extent or is an axis of an input", axis)
            else:
                self._over_sizes(f"the extent of {axis.name!r}", axis.extent)
        waiting = {a.name: sizes_used(a.extent) - bound for a in self.program.axes if a.extent is not None}
        while waiting:
            ready = [name for name, needs in waiting.items() if not needs & waiting.keys()]
            self._check(bool(ready), "extents do not depend on each other in a circle", sorted(waiting))
            waiting = {name: needs for name, needs in waiting.items() if name not in ready}

    def _over_sizes(self, what: str, expr: Expr) -> None:
        for node in walk(expr):
            allowed = isinstance(node, (Const, Size, Op, Where))
            self._check(allowed, f"{what} is an expression over sizes and constants", node)
        self._expr(expr, frozenset(), {})
        dtype = type_of(expr, {})
        self._check(dtype in (INT, BOOL), f"{what} is an int or a bool", expr)

    # ------------------------------------------------------------ equations

    def _equation(self, equation: Equation, tensors: Mapping[str, Tensor]) -> None:
        if isinstance(equation.expr, Apply):
            self._apply(equation, equation.expr)
            return
        self._expr(equation.expr, frozenset(equation.axes), tensors)
        dtype = type_of(equation.expr, tensors, self.functions)
        self._check(dtype.rank <= equation.dtype.rank, f"{equation.name!r} can hold its value, a {dtype}", equation)

    def _apply(self, equation: Equation, apply: Apply) -> None:
        self._check(apply.function in self.opaques, "an opaque function is declared", apply)
        opaque = self.opaques[apply.function]
        self._check(len(apply.args) == len(opaque.parameters), "an opaque function gets its arguments", apply)
        for name, parameter in zip(apply.args, opaque.parameters, strict=True):
            self._check(name in self.tensors, "an argument of an opaque function is a tensor", apply)
            found = self.tensors[name]
            same = (found.axes, found.dtype) == (parameter.axes, parameter.dtype)
            self._check(same, f"an argument of {apply.function!r} has the axes and type of its parameter", found)
        same = (equation.axes, equation.dtype) == (opaque.result.axes, opaque.result.dtype)
        self._check(same, f"{equation.name!r} has the axes and type that {apply.function!r} returns", equation)

    def _extensions(self) -> None:
        self._distinct("extensions differ", (f"{x.tensor} {x.side} {x.axis}" for x in self.program.extensions))
        for extension in self.program.extensions:
            self._check(extension.tensor in self.tensors, "an extension extends a tensor", extension)
            tensor = self.tensors[extension.tensor]
            self._check(extension.side in ("before", "after"), "an extension is before or after", extension)
            along = extension.axis in tensor.axes and self.program.axis(extension.axis).sequence
            self._check(along, "an extension is along a sequence axis of its tensor", extension)
            self._expr(extension.expr, frozenset(tensor.axes), self.tensors)
            dtype = type_of(extension.expr, self.tensors, self.functions)
            self._check(dtype.rank <= tensor.dtype.rank, f"{tensor.name!r} can hold its extension", extension)
        needs = {x.tensor: set[str]() for x in self.program.extensions}
        for extension in self.program.extensions:
            needs[extension.tensor] |= {read.tensor for read in outside_reads(self.program, extension)}
        while needs:
            ready = [name for name, read in needs.items() if not read & needs.keys()]
            self._check(bool(ready), "extensions do not need each other in a circle", sorted(needs))
            needs = {name: read for name, read in needs.items() if name not in ready}

    def _custom(self, custom: CustomGradient) -> None:
        for name in custom.inputs + custom.outputs:
            self._check(name in self.tensors, "a custom gradient is between tensors", name)
        tensors = dict(self.tensors)
        for name in custom.outputs:
            tensors[f"d.{name}"] = self.tensors[name]
        self._distinct("equations of a custom gradient have distinct names", (e.name for e in custom.equations))
        tensors.update((equation.name, equation.tensor) for equation in custom.equations)
        for equation in custom.equations:
            self._check(self.axes.issuperset(equation.axes), "the axes of an equation are declared", equation)
            self._equation(equation, tensors)
        for name in custom.inputs:
            if self.tensors[name].dtype in (REAL, COMPLEX):
                given = tensors.get(f"d.{name}")
                same = given is not None and set(given.axes) == set(self.tensors[name].axes)
                self._check(same, f"custom gradient {custom.name!r} defines d.{name} like {name}", custom)

    def _circles(self) -> None:
        try:
            dependence(self.program)
        except UserError as error:
            self._check(False, "circles of equations pass through time in one direction", error)

    # ------------------------------------------------------------ expressions

    def _function(self, function: Function, earlier: tuple[Function, ...]) -> None:
        known = {f.name for f in earlier}
        parameter_type = COMPLEX if function.dtype is COMPLEX else REAL
        values = {name: Tensor(name, (), parameter_type) for name in function.parameters}
        bodies = [*function.bindings, (function.result_name, function.result)]
        for name, expr in bodies:
            self._elementwise(function, expr, known)
            self._expr(expr, frozenset(), values)
            values[name] = Tensor(name, (), type_of(expr, values, self.functions))
        result = values[function.result_name].dtype
        self._check(result.rank <= function.dtype.rank, f"{function.name!r} can return its value, a {result}", function)
        values[f"d.{function.result_name}"] = Tensor(f"d.{function.result_name}", (), function.dtype)
        for name, expr in function.backward:
            self._check(name in function.parameters, "a backward equation is for a parameter", name)
            self._elementwise(function, expr, known)
            self._expr(expr, frozenset(), values)

    def _elementwise(self, function: Function, expr: Expr, known: set[str]) -> None:
        for node in walk(expr):
            self._check(not isinstance(node, (Index, Size, Reduce, Transform)), "a function is elementwise", node)
            if isinstance(node, Call):
                self._check(node.function in known, "a function calls earlier functions", function)

    def _expr(self, expr: Expr, scope: frozenset[str], tensors: Mapping[str, Tensor]) -> DType:
        """Check an expression where ``scope`` are the axes that have an index; its type."""
        match expr:
            case Const(value=value, dtype=dtype):
                types = {BOOL: bool, INT: int, REAL: float, COMPLEX: complex}
                self._check(type(value) is types[dtype], f"a {dtype} constant is written as one", expr)
                self._check(value == value, "a constant is a number", expr)
                self._check(dtype is not COMPLEX or not value.real, "a complex constant is imaginary", expr)
            case Index(axis=axis):
                self._check(axis in scope, f"index {axis!r} is bound around it (bound: {sorted(scope)})", expr)
            case Size(axis=axis):
                self._check(axis in self.axes, "a size is that of a declared axis", expr)
            case Read():
                self._read(expr, scope, tensors)
            case Op(op=op, args=args):
                self._check(op in OPERATIONS, "an operation is in the table", expr)
                self._check(len(args) == OPERATIONS[op].arity, f"{op!r} gets its arguments", expr)
                for arg in args:
                    self._accepts(op, OPERATIONS[op].accepts, self._expr(arg, scope, tensors), expr)
            case Where(condition=c, then=a, otherwise=b):
                self._condition(c, scope, tensors)
                self._expr(a, scope, tensors)
                self._expr(b, scope, tensors)
            case Reduce():
                self._reduce(expr, scope, tensors)
            case Transform(kind=kind, axis=axis, body=body):
                self._check(kind in TRANSFORMS, "a whole-axis operation is in the table", expr)
                self._check(axis in scope, f"axis {axis!r} is bound around the operation that keeps it", expr)
                self._accepts(kind, TRANSFORMS[kind][0], self._expr(body, scope, tensors), expr)
            case Call(function=name, args=args):
                self._check(name in self.functions, "a function is declared", expr)
                function = self.functions[name]
                self._check(len(args) == len(function.parameters), f"{name!r} gets its arguments", expr)
                accepted = COMPLEX if function.dtype is COMPLEX else REAL
                for arg in args:
                    self._accepts(name, accepted, self._expr(arg, scope, tensors), expr)
            case Apply():
                self._check(False, "an opaque function is a whole right side", expr)
        return type_of(expr, tensors, self.functions)

    def _accepts(self, name: str, accepted: DType, found: DType, node: Expr) -> None:
        self._check(found.rank <= accepted.rank, f"{name!r} takes at most {accepted}, not {found}", node)

    def _condition(self, expr: Expr, scope: frozenset[str], tensors: Mapping[str, Tensor]) -> None:
        self._check(self._expr(expr, scope, tensors) is BOOL, "a condition is a bool", expr)

    def _read(self, read: Read, scope: frozenset[str], tensors: Mapping[str, Tensor]) -> None:
        self._check(read.tensor in tensors, "what is read exists", read)
        axes = tensors[read.tensor].axes
        self._check(len(read.indices) == len(axes), f"a read of {read.tensor!r} has {len(axes)} indices", read)
        for index in read.indices:
            found = self._expr(index, scope, tensors)
            self._check(found.rank <= INT.rank, f"an index is an int, not {found}", read)

    def _reduce(self, reduce: Reduce, scope: frozenset[str], tensors: Mapping[str, Tensor]) -> None:
        self._check(reduce.kind in REDUCTIONS, "a reduction is in the table", reduce)
        row = REDUCTIONS[reduce.kind]
        self._distinct("the axes of a reduction are distinct", reduce.axes)
        self._check(self.axes.issuperset(reduce.axes), "the axes of a reduction are declared", reduce)
        single = row.keeps_axis or row.name in ("argmax", "argmin")
        self._check(len(reduce.axes) >= 1 and (len(reduce.axes) == 1 or not single), "it has its axes", reduce)
        if row.keeps_axis:
            kept = scope.issuperset(reduce.axes)
            self._check(kept, f"axis {reduce.axes[0]!r} is bound around the {reduce.kind} that keeps it", reduce)
        inner = scope | set(reduce.axes)
        if reduce.condition is not None:
            self._condition(reduce.condition, inner, tensors)
        self._accepts(reduce.kind, row.accepts, self._expr(reduce.body, inner, tensors), reduce)


def outside_reads(program: Program, extension: Extension) -> list[Read]:
    """What an extension may read outside a tensor that has extensions: all but what certainly lies inside, at an
    index that has nothing to do with the one outside."""
    extents, own = known_extents(program), frozenset(program.tensors()[extension.tensor].axes)
    return [
        node
        for node in walk(extension.expr)
        if isinstance(node, Read) and not all(_is_inside(node, x, program, own, extents) for x in program.extensions)
    ]


def _is_inside(
    read: Read, extension: Extension, program: Program, own: frozenset[str], extents: Mapping[str, Expr]
) -> bool:
    """Whether ``read`` is not one of what ``extension`` stands for; its indices may not depend on the axes ``own``."""
    if read.tensor != extension.tensor:
        return True
    index = read.indices[program.tensors()[read.tensor].axes.index(extension.axis)]
    if free_axes(index) & own:
        return False
    limits = {"before": Op("ge", (index, Const(0, INT))), "after": Op("lt", (index, Size(extension.axis)))}
    forms = facts(limits[extension.side], extents)
    return bool(forms) and all(at_least(lower_bound(form, (), extents), 0) for form in forms)
