"""Calls of layers and functions: arguments bound, the callee read into the same Program."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ssmc.ir import INT

from . import ast
from .choice import StaticValue
from .flat import Flat, Promise
from .headers import check_header
from .modules import Module
from .problems import Abandon, listed, nearest
from .signature import InputSignature, LayerSignature, StaticSignature, signature_of
from .statics import Facts, NotStatic, converted, fits
from .tree import Access, Invoke, Lit, Outside, Tree

if TYPE_CHECKING:
    from .frame import Frame
    from .resolve import Resolver

_DEEPEST = 40  # calls inside calls


@dataclass
class _Callee:
    """The definition a call names, where it was written, and its header."""

    module: Module
    definition: ast.Definition
    header: LayerSignature

    @property
    def name(self) -> str:
        return self.definition.name.text

    def axes(self) -> set[str]:
        """Axes of its inputs and outputs: those a caller can name."""
        found = {axis for item in self.header.inputs for axes in item.alternatives for axis in axes}
        return found | {axis for output in self.header.outputs for axis in output.axes or ()}


@dataclass
class _Arguments:
    """What a call gives: trees by input, values by static; ``absent`` inputs are left out."""

    given: dict[str, Tree] = field(default_factory=dict)
    spans: dict[str, ast.Item] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    statics: dict[str, StaticValue] = field(default_factory=dict)
    signatures: dict[str, tuple[str, ...]] = field(default_factory=dict)


class Calls:
    """Expands the calls of one frame."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.build = frame.build
        self.problems = frame.build.problems

    # ------------------------------------------------------------ entries

    def value(self, call: ast.Call, resolver: Resolver, renames: dict[str, str] | None = None) -> Tree:
        """A call as a value."""
        callee = self._callee(call)
        if callee.definition.kind == "fn" and callee.definition.body is not None:
            return self._function(callee, call, resolver)
        outputs = self._expand(callee, call, resolver, renames or {})
        if len(outputs) > 1:
            names = ", ".join("abcdefgh"[: len(outputs)])
            hint = f"name them: `{names} = {callee.name}(…)`"
            raise self.problems.abandon(f"`{callee.name}` has {len(outputs)} outputs", call.span, "one", hint)
        return Access(outputs[0], (), call.span)

    def several(self, statement: ast.Equation, resolver: Resolver) -> list[str]:
        """The outputs of the call on the right of ``y, s = f(x)``."""
        call, renames = self._call_and_renames(statement.expr, resolver)
        count = len(statement.targets)
        if call is None:
            hint = "define one name per line, or call a layer with several outputs"
            raise self.problems.abandon(f"{count} names for one value", statement.expr.span, "a call of a layer", hint)
        callee = self._callee(call)
        if len(callee.header.outputs) != count:
            found = listed(o.name for o in callee.header.outputs)
            raise self.problems.abandon(
                f"{count} names for the outputs of `{callee.name}`", statement.span, f"its outputs {found}"
            )
        return self._expand(callee, call, resolver, renames)

    def renaming(self, call: ast.Call, bracket: ast.Bracket, resolver: Resolver) -> Tree | None:
        """``f(x)[d=h]``: the callee's axis is another one here; None if no item says so."""
        found, renames = self._call_and_renames(bracket, resolver)
        if found is None or not renames:
            return None
        left = tuple(i for i in bracket.items if i.name is None or i.name.text not in renames)
        value = self.value(call, resolver, renames)
        if not left:
            return value
        if not isinstance(value, Access):
            value = self.frame.bind_value(value, call.span, resolver)
        return Access(value.tensor, resolver.places(left), bracket.span)

    def opaque_right_side(self, expr: ast.Expr, resolver: Resolver) -> Tree | None:
        """``y = F(x)`` with an opaque F as the whole right side; None for anything else."""
        call, renames = self._call_and_renames(expr, resolver)
        if call is None or not isinstance(call.function, ast.Name):
            return None
        found = self.frame.module.find(call.function.text)
        if found is None or found[1].kind != "fn" or found[1].body is not None:
            return None
        return self._outside(self._callee(call), call, resolver, renames)

    def names_before(self, expr: ast.Expr) -> set[str]:
        """The names in an expression whose axes must be known before it is read, as it has a call
        that chooses among signatures."""
        names: set[str] = set()
        chooses = False
        stack = [expr]
        while stack:
            node = stack.pop()
            stack.extend(ast.parts(node))
            if isinstance(node, ast.Name):
                names.add(node.text)
            if isinstance(node, ast.Call) and isinstance(node.function, ast.Name):
                found = self.frame.module.find(node.function.text)
                chooses |= found is not None and any(len(p.signatures or ()) > 1 for p in found[1].inputs)
        return names if chooses else set()

    # ------------------------------------------------------------ the callee

    def _call_and_renames(self, expr: ast.Expr, resolver: Resolver) -> tuple[ast.Call | None, dict[str, str]]:
        """``f(x)`` or ``f(x)[d=h]`` taken apart; a renamed axis is one of the callee's header."""
        if isinstance(expr, ast.Group):
            expr = expr.inner
        if isinstance(expr, ast.Call):
            return expr, {}
        if not (isinstance(expr, ast.Bracket) and isinstance(expr.base, ast.Call)):
            return None, {}
        call = expr.base
        found = self.frame.module.find(call.function.text) if isinstance(call.function, ast.Name) else None
        if found is None or check_header(found[1]):
            return None, {}
        module, definition = found
        if definition.kind == "fn" and definition.body is not None:
            return None, {}
        own = _Callee(module, definition, signature_of(definition, module)).axes()
        renames: dict[str, str] = {}
        for item in expr.items:
            if item.name is not None and item.name.text in own and isinstance(item.value, ast.Name):
                if item.value.text in self.frame.axes or item.value.text not in self.frame.tensors:
                    renames[item.name.text] = self.frame.axis(item.value)
        return call, renames

    def _callee(self, call: ast.Call) -> _Callee:
        name = call.function
        if not isinstance(name, ast.Name):
            raise self.problems.abandon("only a name can be called", call.function.span, "a function or a layer")
        found = self.frame.module.find(name.text)
        if found is None:
            if name.text in self.frame.module.broken:
                raise Abandon(name.text)
            hint = nearest(name.text, self.frame.module.callable_names()) or "define it, or import it"
            raise self.problems.abandon(f"unknown layer `{name.text}`", name.span, "a layer", hint)
        module, definition = found
        wrong = check_header(definition)
        if wrong:
            for diagnostic in wrong.sorted():
                self.problems.take(diagnostic)
            raise Abandon(name.text)
        self._no_recursion(module, definition, name)
        if definition.broken:
            raise Abandon(name.text)
        return _Callee(module, definition, signature_of(definition, module))

    def _no_recursion(self, module: Module, definition: ast.Definition, name: ast.Name) -> None:
        here = (module.source.name, definition.name.text)
        stack = self.frame.stack
        if here in stack:
            members = frozenset(stack[stack.index(here) :])
            if members in self.problems.circles:
                raise Abandon(name.text)
            self.problems.circles.add(members)
            circle = " → ".join(f"`{n}`" for _, n in (*stack[stack.index(here) :], here))
            what = f"`{here[1]}` calls itself"
            if stack[-1] != here:
                what = f"layers call each other in a circle: {circle}"
            raise self.problems.abandon(what, name.span, hint="repeat over an axis instead: a recurrence along time")
        if len(stack) > _DEEPEST:
            raise self.problems.abandon(f"calls nest more than {_DEEPEST} deep", name.span, hint="call fewer layers")

    # ------------------------------------------------------------ arguments

    def _arguments(self, callee: _Callee, call: ast.Call, resolver: Resolver) -> _Arguments:
        """Arguments by parameter; every mistake among them is reported before giving up."""
        found = _Arguments()
        inputs = {item.name: item for item in callee.header.inputs}
        statics = {item.name: item for item in callee.header.statics}
        failed = False
        for index, item in enumerate(call.arguments):
            try:
                self._argument(index, item, callee, inputs, statics, found, resolver)
            except Abandon:
                failed = True
        for name, static in statics.items():
            if name not in found.statics and static.default is not None:
                found.statics[name] = static.default
        missing = [n for n, i in inputs.items() if i.required and n not in found.spans]
        missing += [n for n in statics if n not in found.statics and n not in found.spans]
        if missing and not failed:
            hint = f"`{callee.name}` takes {listed([*inputs, *statics])}"
            raise self.problems.abandon(f"the call of `{callee.name}` lacks {listed(missing)}", call.span, hint=hint)
        if failed:
            raise Abandon(callee.name)
        found.absent = {name for name in inputs if name not in found.given}
        return found

    def _argument(
        self,
        index: int,
        item: ast.Item,
        callee: _Callee,
        inputs: dict[str, InputSignature],
        statics: dict[str, StaticSignature],
        found: _Arguments,
        resolver: Resolver,
    ) -> None:
        name = item.name.text if item.name is not None else list(inputs)[index] if index < len(inputs) else None
        if name is None:
            takes = f"at most {len(inputs)}" if inputs else "none"
            hint = f"static parameters are given by name: `{next(iter(statics))}=…`" if statics else "remove it"
            raise self.problems.abandon(
                f"`{callee.name}` gets {index + 1} arguments by position", item.span, f"{takes}", hint
            )
        if name in found.spans:
            raise self.problems.abandon(f"`{name}` is given twice", item.span, hint="remove one")
        found.spans[name] = item
        if name in statics:
            found.statics[name] = self._static(item, statics[name])
        elif name in inputs:
            tree = self._input(item, inputs[name], resolver)
            if tree is not None:
                found.given[name] = tree
        else:
            hint = nearest(name, [*inputs, *statics]) or f"it takes {listed([*inputs, *statics])}"
            place = item.name.span if item.name else item.span
            raise self.problems.abandon(f"`{callee.name}` has no parameter `{name}`", place, hint=hint)

    def _static(self, item: ast.Item, static: StaticSignature) -> StaticValue:
        choices = static.choices
        try:
            value = self.frame.facts.value(item.value, choices)
        except NotStatic as error:
            if choices and isinstance(error.node, ast.Name):
                hint = nearest(error.node.text, choices) or f"write `{static.name}={choices[0]}`"
                raise self.problems.abandon(
                    f"`{error.node.text}` is not a choice of `{static.name}`",
                    error.node.span,
                    listed(choices, "or"),
                    hint,
                ) from None
            hint = "static parameters are fixed when the layer is compiled"
            raise self.problems.abandon(
                f"`{static.name}` is not given a static value", error.node.span, f"a static {static.kind}", hint
            ) from None
        if not fits(value, static):
            expected = listed(choices, "or") if choices else f"{'an' if static.kind == 'int' else 'a'} {static.kind}"
            raise self.problems.abandon(f"this does not fit `{static.name}`", item.value.span, expected)
        return converted(value, static)

    def _input(self, item: ast.Item, parameter: InputSignature, resolver: Resolver) -> Tree | None:
        """The tree of an argument; None when it is absent here and may be absent there."""
        value = item.value
        if isinstance(value, ast.Name) and value.text in self.frame.absent and not parameter.required:
            default = self.frame.absent[value.text]
            if default is None or default.value == parameter.default:
                return None
        tree = resolver.tree(value)
        if isinstance(tree, Lit) and tree.absent and parameter.default is not None and tree.value == parameter.default:
            return None
        return tree

    # ------------------------------------------------------------ layers

    def _expand(self, callee: _Callee, call: ast.Call, resolver: Resolver, renames: dict[str, str]) -> list[str]:
        """Read the callee into the Program; the flat names of its outputs."""
        from .frame import Frame

        if callee.definition.kind == "fn":
            if callee.definition.body is not None:
                hint = "make it a layer"
                raise self.problems.abandon(f"`fn {callee.name}` gives one value", call.span, hint=hint)
            return [self._opaque_value(callee, call, resolver, renames)]
        if self.frame.definition.kind == "fn":
            raise self.problems.abandon(
                f"an `fn` cannot call layer `{callee.name}`", call.span, "an `fn`", "make it a layer"
            )
        given = self._arguments(callee, call, resolver)
        prefix = self._prefix(callee.name)
        self._choose_signatures(callee, given, renames)
        facts = Facts(
            given.statics, {s.name: s for s in callee.header.statics}, given.absent, given.signatures, self.problems
        )
        key = resolver.next_key()
        child = Frame(
            self.build,
            callee.module,
            callee.definition,
            callee.header,
            facts,
            prefix,
            key,
            self.frame.stack,
            resolver.block,
        )
        child.map_axes(self._interface(callee, given, renames, prefix, call))
        for item in callee.header.inputs:
            if item.name in given.absent:
                child.be_absent(item.name)
            else:
                self._bind(child, item, given, resolver)
        child.run()
        outputs = [child.tensors.get(o.name) for o in callee.header.outputs]
        if any(o is None or o in self.build.broken for o in outputs):
            raise Abandon(callee.name)
        return [o for o in outputs if o is not None]

    def _prefix(self, name: str) -> str:
        """The call path, with a number when it is taken."""
        base = prefix = self.frame.flat(name)
        number = 1
        taken = [n for n in (*self.build.inputs, *self.frame.tensors.values()) if n.startswith(base)]
        while prefix in self.build.prefixes or any(n.startswith(prefix + ".") for n in taken):
            number += 1
            prefix = f"{base}_{number}"
        self.build.prefixes.add(prefix)
        return prefix

    def _choose_signatures(self, callee: _Callee, given: _Arguments, renames: dict[str, str]) -> None:
        """The alternative with most axes among those whose axes the argument has."""
        from .axes import Inference

        for item in callee.header.inputs:
            chosen = item.alternatives[0]
            if len(item.alternatives) > 1 and item.name in given.given:
                axes = Inference(self.build).axes_of(given.given[item.name])
                fitting = [a for a in item.alternatives if {self._here(x, renames) for x in a} <= axes]
                by_rank = [a for a in item.alternatives if len(a) == len(axes)]
                if fitting:
                    chosen = max(fitting, key=len)
                elif by_rank:
                    chosen = by_rank[0]
            given.signatures[item.name] = chosen

    def _here(self, axis: str, renames: dict[str, str]) -> str:
        """The flat axis that a callee's axis is in this frame."""
        return renames.get(axis) or self.frame.axes.get(axis) or self.frame.flat(axis)

    def _interface(
        self, callee: _Callee, given: _Arguments, renames: dict[str, str], prefix: str, call: ast.Call
    ) -> dict[str, str]:
        """Flat names for the callee's axes that its inputs and outputs show."""
        local = {axis for name in given.given for axis in given.signatures[name]}
        local |= {axis for output in callee.header.outputs for axis in output.axes or ()}
        found: dict[str, str] = {}
        for axis in sorted(local):
            flat = self._here(axis, renames)
            if axis not in renames and axis not in self.frame.axes:
                if axis in self.frame.tensors or axis in self.frame.facts.statics or axis in self.frame.absent:
                    flat = f"{prefix}.{axis}"
                self.build.axes.introduce(flat, call.span, axis)
            found[axis] = flat
        return found

    def _bind(self, child: Frame, item: InputSignature, given: _Arguments, resolver: Resolver) -> None:
        """Let an input of the callee be its argument, by an equation ``f.x``. Those that only copy a
        tensor are taken out later, unless a backward block or an extension needs them."""
        tree = given.given[item.name]
        axes = tuple(child.axes[a] for a in given.signatures[item.name])
        span = given.spans[item.name].span
        shown = child.block is None and _has_block(child.definition)  # named by a CustomGradient
        copy = isinstance(tree, Access) and not tree.places and not shown
        name = child.flat(item.name)
        dtype = item.dtype if item.dtype.rank > INT.rank and not copy else None
        key, own = (*child.key, -1), frozenset(axes)
        flat = Flat(name, tree, span, key, axes, dtype, own, resolver.block, shown=item.name, copy=copy)
        self.build.flats[name] = flat
        child.tensors[item.name] = name
        known = frozenset(self.frame.axes.values())
        self.build.promises.append(
            Promise(name, axes, item.dtype, span, child.definition.name.text, item.name, child.prefix, known)
        )

    # ------------------------------------------------------------ functions

    def _function(self, callee: _Callee, call: ast.Call, resolver: Resolver) -> Tree:
        from .functions import function_name

        given = self._arguments(callee, call, resolver)
        name = function_name(self.frame, callee.module, callee.definition, callee.header, given.statics)
        return Invoke(name, tuple(given.given[i.name] for i in callee.header.inputs), call.span)

    def _opaque_value(self, callee: _Callee, call: ast.Call, resolver: Resolver, renames: dict[str, str]) -> str:
        """An opaque call inside an expression gets an equation of its own."""
        tree = self._outside(callee, call, resolver, renames)
        name = f"{self._prefix(callee.name)}.{callee.header.outputs[0].name}"
        own = frozenset(self.frame.axes.values()) if self.frame.prefix else None
        key = resolver.next_key()
        self.build.flats[name] = Flat(name, tree, call.span, key, own=own, block=resolver.block, shown=callee.name)
        return name

    def _outside(self, callee: _Callee, call: ast.Call, resolver: Resolver, renames: dict[str, str]) -> Outside:
        from .functions import opaque_name

        if self.frame.definition.kind == "fn":
            raise self.problems.abandon("an `fn` cannot call an opaque function", call.span, hint="make it a layer")
        given = self._arguments(callee, call, resolver)
        self._choose_signatures(callee, given, renames)
        axes = {axis: self._here(axis, renames) for axis in callee.axes()}
        name = opaque_name(self.build, callee.module, callee.definition, callee.header, axes)
        names = []
        for item, parameter in zip(callee.header.inputs, self.build.opaques[name].parameters, strict=True):
            tree = given.given[item.name]
            names.append(self._whole(tree, parameter.axes, item, callee, given, resolver))
        return Outside(name, tuple(names), call.span)

    def _whole(
        self,
        tree: Tree,
        axes: tuple[str, ...],
        item: InputSignature,
        callee: _Callee,
        given: _Arguments,
        resolver: Resolver,
    ) -> str:
        """The tensor that is an argument of an opaque function, with exactly the axes it asks for."""
        span = given.spans[item.name].span
        if isinstance(tree, Access) and not tree.places:
            known = self.build.inputs.get(tree.tensor) or self.build.flats.get(tree.tensor)
            if self.build.verbatim or (known is not None and (known.axes, known.dtype) == (axes, item.dtype)):
                return tree.tensor
        name = self.frame.flat(f"{callee.name}.{item.name}")
        number = 1
        while self.build.known(name):
            number += 1
            name = self.frame.flat(f"{callee.name}_{number}.{item.name}")
        own = frozenset(self.frame.axes.values()) if self.frame.prefix else None
        key = resolver.next_key()
        self.build.flats[name] = Flat(name, tree, span, key, axes, item.dtype, own, resolver.block, shown=item.name)
        self.build.promises.append(Promise(name, axes, item.dtype, span, callee.name, item.name, name, frozenset()))
        return name


def _has_block(definition: ast.Definition) -> bool:
    return any(isinstance(statement, ast.Backward) for statement in definition.body or ())
