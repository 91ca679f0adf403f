"""Flat equations → a Program: axes and extents found, right sides lowered, types inferred."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ssmc.ir import (
    BOOL,
    INT,
    REAL,
    Axis,
    Const,
    CustomGradient,
    DType,
    Equation,
    Expr,
    Extension,
    Index,
    Op,
    Program,
    Reduce,
    Requirement,
    Size,
    Tensor,
    Transform,
    walk,
)

from .axes import Extents, Inference
from .circles import check_circles
from .conditions import check_conditions
from .dtypes import TypeCheck, in_words, infer_types
from .flat import Build, Flat, Outer
from .linearity import check_block
from .lower import Lowering, constant_value, depth_of, sizes_in
from .problems import Abandon, listed
from .signature import LayerSignature
from .simplify import drop_copies, fold, propagate
from .tree import Access, Ext, Lit, Outside, Tree
from .tree import walk as walk_tree

if TYPE_CHECKING:
    from .frame import Frame

_DEEPEST = 400  # levels of an IR expression; indices and splits add a few to those of the text


@dataclass
class _Lowered:
    """What has an IR form: right sides by name, with the tensors they define."""

    exprs: dict[str, Expr] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    stated: set[str] = field(default_factory=set)


def finish(build: Build, header: LayerSignature, frame: Frame) -> Program | None:
    """The Program of what the frames gathered, or None when something is wrong (reported)."""
    outputs = tuple(frame.tensors.get(o.name, o.name) for o in header.outputs)
    if not build.verbatim:
        propagate(build, set(outputs))
    _prune(build)
    inference = Inference(build)
    _check_promised_axes(build, inference)
    drop_copies(build, inference.tensor_axes)
    extents = Extents(build, inference)
    extents.find()
    lowering = Lowering(build, inference, extents)
    lowered = _lower_all(build, inference, lowering)
    _infer(build, lowered)
    check = TypeCheck(lowered.tensors, build.functions, build.problems)
    _check_types(build, lowered, check)
    extensions = _extensions(build, lowering, lowered, check)
    axes = _axes(build, extents, lowering, lowered, extensions, check)
    requirements = _requirements(build, extents, lowering)
    program = _program(build, header, frame, lowered, axes, extensions, requirements, outputs)
    if not build.verbatim:
        check_circles(program, build.problems)
        check_conditions(program, build.problems)
        for custom in program.customs:
            check_block(custom, build.problems)
    return None if build.problems else program


def _program(
    build: Build,
    header: LayerSignature,
    frame: Frame,
    lowered: _Lowered,
    axes: tuple[Axis, ...],
    extensions: tuple[Extension, ...],
    requirements: tuple[Requirement, ...],
    outputs: tuple[str, ...],
) -> Program:
    """The Program of the equations that are left: all of them, unless something is wrong."""
    flats = _in_order(build)
    customs = []
    for block in build.blocks:
        equations = tuple(_equation(f, lowered) for f in flats if f.block == block.name)
        customs.append(CustomGradient(block.name, block.inputs, block.outputs, equations, block.span))
    return Program(
        name=header.name,
        axes=axes,
        inputs=tuple(build.inputs.values()),
        outputs=outputs,
        equations=tuple(_equation(f, lowered) for f in flats if f.block is None),
        extensions=extensions,
        functions=tuple(build.functions.values()),
        opaques=tuple(build.opaques.values()),
        customs=tuple(customs),
        requirements=requirements,
        doc=header.doc,
        span=frame.definition.name.span,
    )


def lowered_function(build: Build, frame: Frame, dtype: DType) -> tuple[dict[str, Expr], dict[str, Expr]] | None:
    """The right sides of an elementwise ``fn`` and those of its backward block, by local name."""
    if not build.verbatim:
        propagate(build, {frame.tensors.get(frame.header.outputs[0].name, "")})
    _prune(build)
    inference = Inference(build)
    lowering = Lowering(build, inference, Extents(build, inference))
    lowered = _lower_all(build, inference, lowering)
    for name, expr in lowered.exprs.items():
        if inference.found[name] or any(isinstance(n, Size | Index | Reduce | Transform) for n in walk(expr)):
            hint = "it sees one point at a time; make it a layer"
            build.problems.add("an elementwise `fn` has no axes", build.flats[name].span, hint=hint)
    result = frame.header.outputs[0].name
    if result in lowered.tensors:
        lowered.tensors[result] = Tensor(result, (), dtype)
        lowered.stated.add(result)
    _infer(build, lowered)
    check = TypeCheck(lowered.tensors, build.functions, build.problems)
    _check_types(build, lowered, check)
    if build.problems:
        return None
    main = {n: e for n, e in lowered.exprs.items() if build.flats[n].block is None}
    return main, {n: e for n, e in lowered.exprs.items() if build.flats[n].block is not None}


# ---------------------------------------------------------------- equations


def _in_order(build: Build) -> list[Flat]:
    """Equations as written, those of a call before the equation that has the call."""
    return sorted(build.flats.values(), key=lambda flat: (*flat.key, float("inf")))


def _equation(flat: Flat, lowered: _Lowered) -> Equation:
    tensor = lowered.tensors[flat.name]
    return Equation(flat.name, tensor.axes, tensor.dtype, lowered.exprs[flat.name], flat.span)


def _prune(build: Build) -> None:
    """Leave out equations that read what could not be understood."""
    outputs = {name for block in build.blocks for name in block.outputs}

    def reads_unknown(flat: Flat) -> bool:
        adjoints = {f"d.{name}" for name in outputs if name in build.flats or name in build.inputs}
        for node in walk_tree(flat.tree):
            names = (node.tensor,) if isinstance(node, Access) else node.args if isinstance(node, Outside) else ()
            if any(n not in build.flats and n not in build.inputs and n not in adjoints for n in names):
                return True
        return flat.like is not None and flat.like not in build.flats and flat.like not in build.inputs

    while True:
        lost = [flat.name for flat in build.flats.values() if reads_unknown(flat)]
        if not lost:
            break
        for name in lost:
            del build.flats[name]
            build.broken.add(name)
    build.outers = [
        o
        for o in build.outers
        if (o.tensor in build.flats or o.tensor in build.inputs)
        and all(n.tensor in build.flats or n.tensor in build.inputs for n in walk_tree(o.tree) if isinstance(n, Access))
    ]
    build.promises = [p for p in build.promises if p.tensor in build.flats or p.tensor in build.inputs]


def _check_promised_axes(build: Build, inference: Inference) -> None:
    """Every argument has the axes that its parameter names; equations of failed calls are left out."""
    failed: set[str] = set()
    name = build.axes.name
    for promise in build.promises:
        has = inference.axes_of(build.flats[promise.tensor].tree)
        lacks = [axis for axis in promise.axes if axis not in has]
        spare = [axis for axis in build.axes.ordered(has) if axis not in promise.axes]
        if promise.prefix in failed or not lacks or (not spare and promise.caller.issuperset(lacks)):
            continue
        failed.add(promise.prefix)
        hint = "give it that axis, in an equation of its own"
        if spare:
            hint = f"if that is your `{name(spare[-1])}`: `{promise.function}(…)[{name(lacks[-1])}={name(spare[-1])}]`"
        build.problems.add(
            f"argument `{promise.parameter}` of `{promise.function}` lacks axis {listed(name(a) for a in lacks)}",
            promise.span,
            f"an argument with axes [{', '.join(name(a) for a in promise.axes)}]",
            hint,
        )
    for prefix in failed:
        for flat in [f for f in build.flats if f == prefix or f.startswith(prefix + ".")]:
            del build.flats[flat]
            build.broken.add(flat)
    if failed:
        _prune(build)


def _lower_all(build: Build, inference: Inference, lowering: Lowering) -> _Lowered:
    lowered = _Lowered(tensors=dict(build.inputs))
    for flat in _in_order(build):
        axes = inference.ordered(flat)
        tree = flat.tree
        if flat.like is not None and flat.own is not None:
            extra = inference.axes_of(tree) - set(axes) - flat.own
            if extra:  # the layer is applied at each point of these: its adjoints add up
                tree = fold("sum", build.axes.ordered(extra), None, tree, flat.span)
        left = f"`{flat.shown}[{', '.join(map(build.axes.name, axes))}]`"
        try:
            expr = lowering.equation(tree, axes, left)
        except Abandon:
            build.broken.add(flat.name)
            continue
        if depth_of(expr) > _DEEPEST:
            hint = "give a part of it a name, in an equation of its own"
            build.problems.add("this expression nests too deeply", flat.span, hint=hint)
            continue
        lowered.exprs[flat.name] = expr
        lowered.tensors[flat.name] = Tensor(flat.name, axes, flat.dtype or _lowest(flat), flat.span)
        if flat.dtype is not None or isinstance(tree, Outside):
            lowered.stated.add(flat.name)
    lost = build.flats.keys() - lowered.exprs.keys()
    if lost:
        _forget(build, lowered, set(lost))
    return lowered


def _infer(build: Build, lowered: _Lowered) -> None:
    """Types of the equations, then of the adjoints, which have those of what they are adjoint to."""
    blocks = {flat.name for flat in build.flats.values() if flat.block is not None}
    main = {name: expr for name, expr in lowered.exprs.items() if name not in blocks}
    infer_types(main, lowered.tensors, lowered.stated, build.functions)
    adjoints = {f"d.{name}": name for block in build.blocks for name in block.outputs}
    adjoints.update((flat.name, flat.like) for flat in build.flats.values() if flat.like is not None)
    for adjoint, name in adjoints.items():
        if name in lowered.tensors:
            like, old = lowered.tensors[name], lowered.tensors.get(adjoint)
            lowered.tensors[adjoint] = Tensor(adjoint, old.axes if old else like.axes, like.dtype, like.span)
            lowered.stated.add(adjoint)
    inner = {name: expr for name, expr in lowered.exprs.items() if name in blocks}
    infer_types(inner, lowered.tensors, lowered.stated, build.functions)


def _lowest(flat: Flat) -> DType:
    return REAL if isinstance(flat.tree, Outside) else BOOL


def _forget(build: Build, lowered: _Lowered, lost: set[str]) -> None:
    for name in lost:
        del build.flats[name]
    _prune(build)
    for name in [n for n in lowered.exprs if n not in build.flats]:
        del lowered.exprs[name], lowered.tensors[name]


def _check_types(build: Build, lowered: _Lowered, check: TypeCheck) -> None:
    wrong: list[str] = []  # calls whose arguments have wrong types
    for promise in build.promises:
        if promise.tensor not in lowered.tensors:
            continue
        found = lowered.tensors[promise.tensor].dtype
        if found.rank > promise.dtype.rank:
            message = f"argument `{promise.parameter}` of `{promise.function}` is {in_words(found)}"
            hint = "convert it, or declare the input with that type"
            build.problems.add(message, promise.span, in_words(promise.dtype), hint)
            wrong.append(promise.prefix + ".")
    for name, expr in lowered.exprs.items():
        if isinstance(build.flats[name].tree, Outside) or name.startswith(tuple(wrong)):
            continue
        dtype = lowered.tensors[name].dtype if name in lowered.stated else None
        check.value(expr, dtype, f"`{build.shown(name)}`")


# ---------------------------------------------------------------- extensions


def _extensions(build: Build, lowering: Lowering, lowered: _Lowered, check: TypeCheck) -> tuple[Extension, ...]:
    place = {name: i for i, name in enumerate([*build.inputs, *(f.name for f in _in_order(build))])}
    found = []
    for outer in sorted(build.outers, key=lambda o: (place.get(o.tensor, 0), *o.key)):
        try:
            found.append(_extension(outer, build, lowering, lowered, check))
        except Abandon:
            continue
    return tuple(found)


def _extension(outer: Outer, build: Build, lowering: Lowering, lowered: _Lowered, check: TypeCheck) -> Extension:
    problems, name = build.problems, build.axes.name(outer.axis)
    if outer.tensor not in lowered.tensors:
        raise Abandon(outer.tensor)
    tensor = lowered.tensors[outer.tensor]
    if outer.axis not in tensor.axes:
        hint = f"its axes are {listed(map(build.axes.name, tensor.axes))}"
        raise problems.abandon(f"`{outer.shown}` has no axis `{name}`", outer.span, hint=hint)
    if outer.axis not in build.axes.sequence:
        raise problems.abandon(f"`{name}` is not a sequence axis", outer.span, hint=f"declare it: `seq {name}`")
    axes = ", ".join(map(build.axes.name, tensor.axes))
    expr = lowering.equation(outer.tree, tensor.axes, f"`{outer.shown}[{axes}]`")
    check.value(expr, tensor.dtype, f"`{outer.shown}`")
    return Extension(outer.tensor, outer.axis, outer.side, expr, outer.span)


# ---------------------------------------------------------------- axes and facts


def _axes(
    build: Build,
    extents: Extents,
    lowering: Lowering,
    lowered: _Lowered,
    extensions: tuple[Extension, ...],
    check: TypeCheck,
) -> tuple[Axis, ...]:
    used = {axis for t in lowered.tensors.values() for axis in t.axes}
    for expr in (*lowered.exprs.values(), *(e.expr for e in extensions)):
        for node in walk(expr):
            if isinstance(node, Index | Size | Transform):
                used.add(node.axis)
            elif isinstance(node, Reduce):
                used.update(node.axes)
    used.update(axis for tree, _ in build.requirements for axis in _extents_of(tree))
    if build.verbatim:
        used.update(build.axes.stated)
    found: dict[str, Axis] = {}
    waiting = sorted(used)
    while waiting:
        axis = waiting.pop()
        if axis in found:
            continue
        axis_span = build.axes.order.get(axis)
        try:
            extent = _extent(axis, build, extents, lowering, check)
        except Abandon:
            extent = None
        found[axis] = Axis(axis, extent, axis in build.axes.sequence, axis_span)
        waiting.extend(sizes_in(extent) if extent is not None else ())
    _no_circle(found, build)
    return tuple(found[axis] for axis in build.axes.ordered(set(found)))


def _extents_of(tree: Tree) -> set[str]:
    return {node.axis for node in walk_tree(tree) if isinstance(node, Ext)}


def _extent(axis: str, build: Build, extents: Extents, lowering: Lowering, check: TypeCheck) -> Expr | None:
    name = build.axes.name(axis)
    if not extents.known(axis):
        hint = f"state it, `axis {name} < extent`, or bind it to an axis, `v[t={name}]`"
        raise build.problems.abandon(f"nothing gives axis `{name}` an extent", build.axes.order.get(axis), hint=hint)
    extent = lowering.extent(axis)
    if extent is None:
        return None
    place = build.axes.stated[axis][1] if axis in build.axes.stated else build.axes.order.get(axis)
    if check.expr(extent).rank > INT.rank:
        raise build.problems.abandon(f"the extent of `{name}` is no int", place, "an int", "divide with `//`")
    fixed = constant_value(extent)
    written = axis in build.axes.stated and not any(
        isinstance(n, Lit) and n.static for n in walk_tree(build.axes.stated[axis][0])
    )
    if fixed is not None and not isinstance(fixed, complex) and fixed < 1 and written:
        raise build.problems.abandon(f"axis `{name}` has no points", place, "an extent of at least 1")
    return extent


def _no_circle(axes: dict[str, Axis], build: Build) -> None:
    """Extents that depend on each other determine nothing."""
    waiting = {n: sizes_in(a.extent) & axes.keys() for n, a in axes.items() if a.extent is not None}
    while waiting:
        ready = [n for n, needs in waiting.items() if not needs & waiting.keys()]
        if not ready:
            circle = build.axes.ordered(set(waiting))
            message = f"the extents of {listed(map(build.axes.name, circle))} depend on each other"
            build.problems.add(message, axes[circle[0]].span, hint="bind one to an input")
            return
        waiting = {n: needs for n, needs in waiting.items() if n not in ready}


def _requirements(build: Build, extents: Extents, lowering: Lowering) -> tuple[Requirement, ...]:
    found: list[Requirement] = []
    for tree, span in build.requirements:
        try:
            condition = lowering.size_expr(tree, "a requirement")
        except Abandon:
            continue
        value = None if build.verbatim else constant_value(condition)
        if value is None:
            found.append(Requirement(condition, span))
        elif not value:
            build.problems.add("this requirement is not met", span, hint="choose other static parameters")
    if not build.verbatim:
        found += _derived_requirements(build, extents)
    return tuple(dict.fromkeys(found))


def _derived_requirements(build: Build, extents: Extents) -> list[Requirement]:
    """What splits and shared extents ask of every call."""
    found: list[Requirement] = []
    for axis, (splitting, is_whole) in extents.of_split.items():
        if not is_whole:
            others = _product([p for p in splitting.parts if p != axis])
            rest = Op("mod", (Size(splitting.whole), others))
            found.append(Requirement(Op("eq", (rest, Const(0, INT))), splitting.span))
    for splitting in extents.products:
        equal = Op("eq", (Size(splitting.whole), _product(list(splitting.parts))))
        found.append(Requirement(equal, splitting.span))
    for source, target in extents.equal:
        found.append(Requirement(Op("eq", (Size(source), Size(target))), build.axes.order.get(source)))
    return found


def _product(axes: list[str]) -> Expr:
    result: Expr = Size(axes[0])
    for axis in axes[1:]:
        result = Op("mul", (result, Size(axis)))
    return result
