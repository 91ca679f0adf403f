"""One layer at one call: its names, and its statements turned into flat equations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

from ssmc.ir import BOOL, INT, DType, Tensor
from ssmc.source import Span

from . import ast
from .calls import Calls
from .flat import Block, Build, Flat, Outer, Splitting
from .modules import Module
from .problems import Abandon, Problems, listed, nearest
from .resolve import Resolver
from .scan import axis_names, defined_names, extension_of
from .signature import TYPES, LayerSignature
from .statics import Facts
from .tree import Access, Lit, Tree

_MOST = 4000  # equations of one Program


class Frame:
    """``tensors`` and ``axes`` map the names of the layer to flat ones; ``absent`` holds inputs that
    are not there, with the number in their place; ``failed`` names whose equations are wrong;
    ``block`` is the backward block that the layer is called in."""

    def __init__(
        self,
        build: Build,
        module: Module,
        definition: ast.Definition,
        header: LayerSignature,
        facts: Facts,
        prefix: str = "",
        key: tuple[float, ...] = (),
        stack: tuple[tuple[str, str], ...] = (),
        block: str | None = None,
    ) -> None:
        self.build = build
        self.module = module
        self.definition = definition
        self.header = header
        self.facts = facts
        self.prefix = prefix
        self.key = key
        self.block = block
        self.stack = (*stack, (module.source.name, definition.name.text))
        self.absent: dict[str, Lit | None] = {}
        self.tensors: dict[str, str] = {}
        self.axes: dict[str, str] = {}
        self.block_tensors: dict[str, str] = {}
        self.failed: set[str] = set()
        self.defined: set[str] = set()  # by an equation, and of these the ones that are read
        self.done: set[str] = set()
        self.calls = Calls(self)

    # ------------------------------------------------------------ names

    def flat(self, name: str) -> str:
        """The flat name of something defined here."""
        return f"{self.prefix}.{name}" if self.prefix else name

    def tensor(self, name: str, block: str | None = None) -> str | None:
        """The flat tensor that a name stands for, in a backward block or in the body."""
        if block != self.block and name in self.block_tensors:
            return self.block_tensors[name]
        return self.tensors.get(name)

    def all_names(self, block: str | None = None) -> list[str]:
        names = [*self.tensors, *self.absent]
        return names if block == self.block else [*names, *self.block_tensors]

    def axis(self, name: ast.Name) -> str:
        """The flat axis that a name stands for; Abandon (reported) if it is none."""
        if name.text in self.axes:
            return self.axes[name.text]
        if name.text in self.tensors or name.text in self.facts.statics or name.text in self.absent:
            hint = f"axes here are {listed(self.axes)}" if self.axes else "state the axes of the inputs"
            raise self.build.problems.abandon(f"`{name.text}` is not an axis", name.span, "an axis", hint)
        hint = nearest(name.text, self.axes) or f"introduce it: `axis {name.text} < extent`"
        raise self.build.problems.abandon(f"unknown axis `{name.text}`", name.span, "an axis", hint)

    def map_axes(self, given: Mapping[str, str] | None = None) -> None:
        """Give every axis its flat name: those in ``given`` are the caller's, the others new. Abandon
        (reported) if a name is an axis and something else, too."""
        problems = Problems()
        names = axis_names(self.definition, problems, self.build.verbatim)
        if problems:
            for diagnostic in problems.sorted():
                self.build.problems.take(diagnostic)
            raise Abandon(self.definition.name.text)
        for local, name in names.items():
            flat = (given or {}).get(local) or self.flat(local)
            self.axes[local] = flat
            self.build.axes.introduce(flat, name.span, local)

    def state_extent(self, name: ast.Name, extent: ast.Expr, resolver: Resolver) -> str:
        """``j < extent``: give the axis that extent; a different one is an error."""
        axis = self.axis(name)
        tree = resolver.tree(extent)
        table = self.build.axes
        if axis in table.stated and table.stated[axis][0] != tree:
            line = table.stated[axis][1].line
            hint = "one axis name has one extent; use another name"
            raise self.build.problems.abandon(
                f"axis `{name.text}` has another extent already, on line {line}", extent.span, hint=hint
            )
        table.stated.setdefault(axis, (tree, extent.span))
        return axis

    def bind_value(self, value: Tree, span: Span, resolver: Resolver) -> Access:
        """A value that is indexed gets an equation of its own, so that it has an outside."""
        number = 1
        while self.build.known(self.flat(f"_{number}")) or f"_{number}" in self.tensors:
            number += 1
        name = self.flat(f"_{number}")
        own = frozenset(self.axes.values()) if self.prefix else None
        key = resolver.next_key()
        self.build.flats[name] = Flat(name, value, span, key, own=own, block=resolver.block, shown="this value")
        return Access(name, (), span)

    # ------------------------------------------------------------ inputs

    def take_inputs(self) -> None:
        """Bind the inputs of the outermost layer: tensors of the Program, or numbers."""
        for item, parameter in zip(self.header.inputs, self.definition.inputs, strict=True):
            if item.name in self.facts.absent:
                self.be_absent(item.name)
                continue
            axes = tuple(self.axes.get(a, a) for a in self.facts.signatures[item.name])
            self.tensors[item.name] = item.name
            self.build.inputs[item.name] = Tensor(item.name, axes, item.dtype, parameter.name.span)
            for axis in axes:
                self.build.axes.bound.setdefault(axis, item.name)

    def be_absent(self, name: str) -> None:
        """Let a name stand for an input that is not there."""
        item = next(i for i in self.header.inputs if i.name == name)
        span = next(p for p in self.definition.inputs if p.name.text == name).name.span
        self.absent[name] = None if item.default is None else default_literal(item.default, item.dtype, span)

    # ------------------------------------------------------------ statements

    def run(self) -> None:
        """Read every statement; what is wrong is reported, and the rest is read on."""
        body = self.definition.body or ()
        self._define_names(body)
        self._guarded(self._declare, body)
        waiting = [(index, s) for index, s in enumerate(body) if isinstance(s, ast.Equation)]
        while waiting:
            left = []
            for index, statement in waiting:
                if self._must_wait(statement):
                    left.append((index, statement))
                else:
                    self._equation(statement, (*self.key, index), self.block)
            if len(left) == len(waiting):  # they wait for each other: take what is known
                index, statement = left.pop(0)
                self._equation(statement, (*self.key, index), self.block)
            waiting = left
        for index, block in enumerate(body):
            if isinstance(block, ast.Backward) and self.block is None:
                self._guarded(self._backward, block, (*self.key, index))
        self._check_outputs()

    def _must_wait(self, statement: ast.Equation) -> bool:
        """Whether a call in it needs the rank of arguments that depend on equations not read yet."""
        own = {target.name.text for target in statement.targets}
        needs = self.calls.names_before(statement.expr) - own
        return any(name in self.defined and name not in self.done for name in needs)

    def _guarded(self, action: Callable[..., object], *arguments: object) -> None:
        with suppress(Abandon):
            action(*arguments)

    def _define_names(self, body: tuple[ast.Statement, ...]) -> None:
        """Names of equations are known before any equation is read."""
        seen = dict.fromkeys((*self.tensors, *self.absent, *self.facts.statics), "an input")
        seen.update(dict.fromkeys(self.facts.statics, "a static parameter"))
        names = defined_names(self.definition)
        for statement in body:
            for target in statement.targets if isinstance(statement, ast.Equation) else ():
                if extension_of(target) is not None:
                    continue
                name = target.name.text
                if name in seen:
                    hint = "each name is defined once; choose another name"
                    self.build.problems.add(f"`{name}` is defined already: {seen[name]}", target.name.span, hint=hint)
                    continue
                seen[name] = f"an equation on line {names[name].span.line}"
                self.tensors[name] = self.flat(name)
                self.defined.add(name)
        for statement in ast.flatten(body):
            if isinstance(statement, ast.Broken) and statement.name:
                self.failed.add(statement.name)

    def _declare(self, body: tuple[ast.Statement, ...]) -> None:
        for index, statement in enumerate(body):
            resolver = Resolver(self, (*self.key, index))
            match statement:
                case ast.Seq(axes=axes):
                    for axis in axes:
                        self._guarded(lambda axis=axis: self.build.axes.sequence.add(self.axis(axis)))
                case ast.AxisExtent(axis=axis, extent=extent):
                    self._guarded(self.state_extent, axis, extent, resolver)
                case ast.Split(whole=whole, parts=parts, span=span):
                    self._guarded(self._split, whole, parts, span)
                case ast.Require(condition=condition):
                    self._guarded(self._require, condition, resolver)

    def _split(self, whole: ast.Name, parts: tuple[ast.Name, ...], span: Span) -> None:
        axes = tuple(self.axis(name) for name in (whole, *parts))
        if len(set(axes)) < len(axes) or len(parts) < 2:
            hint = "write `axis d = (g r)`: `g` is slow, `r` is fast"
            raise self.build.problems.abandon("a split needs distinct axes, two at least", span, hint=hint)
        splitting = Splitting(axes[0], axes[1:], span)
        if splitting not in self.build.axes.splits:
            self.build.axes.splits.append(splitting)

    def _require(self, condition: ast.Expr, resolver: Resolver) -> None:
        self.build.requirements.append((resolver.tree(condition), condition.span))

    # ------------------------------------------------------------ equations

    def _equation(self, statement: ast.Equation, key: tuple[float, ...], block: str | None) -> None:
        names = [t.name.text for t in statement.targets]
        try:
            if len(self.build.flats) > _MOST:
                hint = "calls are inlined; call fewer layers"
                self.build.problems.overflow = True
                raise self.build.problems.abandon(
                    f"this layer has more than {_MOST} equations", statement.span, hint=hint
                )
            self._read_equation(statement, Resolver(self, key, block), key, block)
        except Abandon:
            self.failed.update(names)
            for name in names:
                self.build.broken.add((self.tensor(name, block)) or self.flat(name))
        self.done.update(names)

    def _read_equation(
        self, statement: ast.Equation, resolver: Resolver, key: tuple[float, ...], block: str | None
    ) -> None:
        dtype = self.type_named(statement.dtype)
        first = statement.targets[0]
        if len(statement.targets) > 1:
            self._several(statement, resolver, key, block)
            return
        outside = extension_of(first)
        if outside is not None:
            self._extension(first, outside, statement, resolver, key)
            return
        opaque = self.calls.opaque_right_side(statement.expr, resolver)
        axes = self._stated_axes(first, resolver)
        tree = resolver.tree(statement.expr) if opaque is None else opaque
        self._add(first, tree, axes, dtype, statement, key, block)

    def _add(
        self,
        target: ast.Target,
        tree: Tree,
        axes: tuple[str, ...] | None,
        dtype: DType | None,
        statement: ast.Equation,
        key: tuple[float, ...],
        block: str | None,
    ) -> None:
        local = target.name.text
        flat = self.tensor(local, block) or self.flat(local)
        if flat in self.build.flats or flat in self.build.inputs:
            return  # defined twice, reported
        if block == self.block and any(o.name == local for o in self.header.outputs):
            axes, dtype = self._as_output(target, local, axes, dtype)
        own = frozenset(self.axes.values()) if self.prefix else None
        self.build.flats[flat] = Flat(flat, tree, target.span, key, axes, dtype, own, block, shown=local)

    def _as_output(
        self, target: ast.Target, name: str, axes: tuple[str, ...] | None, dtype: DType | None
    ) -> tuple[tuple[str, ...] | None, DType]:
        """The axes and the type of an output: as the header says, and no different here."""
        written = next(o for o in self.definition.outputs if o.name.text == name)
        header = next(o for o in self.header.outputs if o.name == name)
        if header.axes is not None:
            stated = tuple(self.axes[a] for a in header.axes)
            if axes is not None and axes != stated:
                expected = f"`{name}[{', '.join(header.axes)}]`, as in the header"
                raise self.build.problems.abandon(
                    f"output `{name}` has other axes in the header", target.span, expected, "state them once"
                )
            axes = stated
        if dtype is not None and written.dtype is not None and dtype is not header.dtype:
            raise self.build.problems.abandon(
                f"output `{name}` is {header.dtype} in the header",
                target.span,
                str(header.dtype),
                "state the type once",
            )
        return axes, dtype or header.dtype

    def _stated_axes(self, target: ast.Target, resolver: Resolver) -> tuple[str, ...] | None:
        if target.items is None:
            return None
        axes: list[str] = []
        for item in target.items:
            match item:
                case ast.Item(name=None, value=ast.Name() as name):
                    axis = self.axis(name)
                case ast.Item(name=None, value=ast.Binary(op="<", left=ast.Name() as name, right=extent)):
                    axis = self.state_extent(name, extent, resolver)
                case _:
                    hint = f"define all points at once, `{target.name.text}[t] = …`; shifts stand on the right"
                    raise self.build.problems.abandon(
                        "the left side states axes, not indices", item.span, "an axis", hint
                    )
            if axis in axes:
                raise self.build.problems.abandon(
                    f"axis `{self.build.axes.name(axis)}` appears twice",
                    item.span,
                    hint="an axis stands once in a tensor",
                )
            axes.append(axis)
        return tuple(axes)

    def type_named(self, name: ast.Name | None) -> DType | None:
        """A stated element type; Abandon (reported) for an unknown one."""
        if name is None:
            return None
        if name.text not in TYPES:
            hint = nearest(name.text, TYPES) or "leave it out to let the value decide"
            raise self.build.problems.abandon(f"unknown type `{name.text}`", name.span, listed(TYPES, "or"), hint)
        return TYPES[name.text]

    def _several(self, statement: ast.Equation, resolver: Resolver, key: tuple[float, ...], block: str | None) -> None:
        """``y, s = f(x, w)``: each name is an output of the call."""
        outputs = self.calls.several(statement, resolver)
        for target, output in zip(statement.targets, outputs, strict=True):
            axes = self._stated_axes(target, resolver)
            dtype = self.type_named(statement.dtype)
            self._add(target, Access(output, (), target.span), axes, dtype, statement, key, block)

    def _extension(
        self,
        target: ast.Target,
        outside: tuple[ast.Name, str],
        statement: ast.Equation,
        resolver: Resolver,
        key: tuple[float, ...],
    ) -> None:
        name = target.name.text
        if name in self.absent:
            return
        if resolver.block is not None:
            hint = "write out what is read outside with `where`"
            raise self.build.problems.abandon("an extension in a `backward` block", target.span, hint=hint)
        tensor = self.tensors.get(name)
        if tensor is None:
            raise resolver.unknown(target.name)
        axis = self.axis(outside[0])
        tree = resolver.tree(statement.expr)
        same = [o for o in self.build.outers if (o.tensor, o.axis, o.side) == (tensor, axis, outside[1])]
        if same:
            hint = f"the first is on line {same[0].span.line}"
            raise self.build.problems.abandon(f"the outside of `{name}` is defined twice", target.span, hint=hint)
        if isinstance(tree, Lit) and tree.absent and tree.value == 0:
            return  # what is read outside anyway
        self.build.outers.append(Outer(tensor, axis, outside[1], tree, target.span, key, name))

    def _check_outputs(self) -> None:
        if self.definition.broken:
            return
        for output in self.definition.outputs:
            name = output.name.text
            if name not in self.tensors and name not in self.failed:
                hint = nearest(name, self.tensors) or f"add an equation: `{name} = …`"
                self.build.problems.add(f"output `{name}` is never defined", output.name.span, hint=hint)

    # ------------------------------------------------------------ backward blocks

    def _backward(self, statement: ast.Backward, key: tuple[float, ...]) -> None:
        inputs, outputs = self._ends(statement)
        block = outputs[0].rpartition(".")[0] or self.definition.name.text
        if any(b.name == block for b in self.build.blocks):
            raise self.build.problems.abandon("a second `backward` block", statement.span, "one", "join the two")
        self.block_tensors = {f"d.{local}": f"d.{self.tensors[local]}" for local in self._locals(outputs)}
        targets = {f"d.{local}": f"d.{self.tensors[local]}" for local in self._locals(inputs)}
        equations = [s for s in statement.body if isinstance(s, ast.Equation)]
        for other in statement.body:
            if not isinstance(other, ast.Equation | ast.Broken):
                self.build.problems.add("a `backward` block holds only equations", other.span, hint="move it out")
        equations = [e for e in equations if not self._is_for_absent(e)]
        for equation in equations:
            for target in equation.targets:
                self._block_target(target, targets)
        self.build.blocks.append(Block(block, inputs, outputs, statement.span))
        for index, equation in enumerate(equations):
            self._equation(equation, (*key, index), block)
        defined = {t.name.text for e in equations for t in e.targets}
        for local, flat in targets.items():
            if flat in self.build.flats:
                self.build.flats[flat].like = flat[2:]
            elif local not in defined and local not in self.failed and not self.build.broken & set(inputs):
                hint = f"add `{local} = …`, or `{local} = 0` if none flows there"
                self.build.problems.add(f"the `backward` block lacks `{local}`", statement.span, hint=hint)

    def _ends(self, statement: ast.Backward) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The flat inputs and outputs of a block; those of the layer unless they are named."""
        for name in (*statement.inputs, *statement.outputs):
            if name.text not in self.tensors:
                hint = nearest(name.text, self.tensors)
                raise self.build.problems.abandon(f"unknown name `{name.text}`", name.span, "a tensor", hint)
        if statement.outputs:
            return tuple(self.tensors[n.text] for n in statement.inputs), tuple(
                self.tensors[n.text] for n in statement.outputs
            )
        smooth = [i.name for i in self.header.inputs if i.name not in self.absent and i.dtype not in (INT, BOOL)]
        outputs = [o.name for o in self.header.outputs if o.name in self.tensors]
        if len(outputs) < len(self.header.outputs):
            raise Abandon("outputs")
        return tuple(self.tensors[n] for n in smooth), tuple(self.tensors[n] for n in outputs)

    def _locals(self, flats: tuple[str, ...]) -> list[str]:
        return [local for local, flat in self.tensors.items() if flat in flats]

    def _is_for_absent(self, equation: ast.Equation) -> bool:
        return all(t.name.text.startswith("d.") and t.name.text[2:] in self.absent for t in equation.targets)

    def _block_target(self, target: ast.Target, targets: dict[str, str]) -> None:
        name = target.name.text
        problems = self.build.problems
        if extension_of(target) is not None:
            return  # refused where it is read
        if name in self.block_tensors or name in self.tensors or name in self.absent:
            problems.add(f"`{name}` is defined already", target.name.span, hint="choose another name")
        elif name in targets:
            self.block_tensors[name] = targets[name]
        elif name.startswith("d."):
            inputs = listed(t[2:] for t in targets)
            hint = nearest(name, targets) or "adjoints are those of the real and complex inputs"
            problems.add(f"there is no adjoint `{name}` to define", target.name.span, f"inputs {inputs}", hint)
        else:
            self.block_tensors[name] = self.flat(name)


def default_literal(value: object, dtype: DType, span: Span) -> Lit:
    """The number that stands for an absent input, of the input's type."""
    from .simplify import number

    return number(value, dtype, span, absent=True)  # type: ignore[arg-type]
