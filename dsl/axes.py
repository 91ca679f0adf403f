"""Which axes each equation varies along, and what gives every axis its extent."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ssmc.ir import REDUCTIONS

from .flat import Build, Flat, Splitting
from .tree import Access, Ax, Fold, Join, Lit, Outside, Place, Tree, Whole, below, mentioned, walk

Scopes = tuple[frozenset[str], ...]  # the axes bound by reductions around, outermost first


class Inference:
    """Axes of tensors: those stated, else the union over the right side (a least fixed point, as
    equations refer to each other through time)."""

    def __init__(self, build: Build) -> None:
        self.build = build
        self.found: dict[str, set[str]] = {name: set(t.axes) for name, t in build.inputs.items()}
        for flat in build.flats.values():
            self.found[flat.name] = set(flat.axes or ())
        self._settle()

    def axes_of(self, tree: Tree) -> set[str]:
        """The axes along which a value varies."""
        return self.merged(set(self._demand(tree, ())))

    def tensor_axes(self, name: str) -> set[str]:
        if name.startswith("d.") and name not in self.found:
            name = name[2:]
        return self.found.get(name, set())

    def ordered(self, flat: Flat) -> tuple[str, ...]:
        """The axes of an equation: as stated; in the order of the Program where they are inferred or its
        arguments add some."""
        stated = flat.axes or ()
        if flat.like is not None and flat.axes is None:
            like = self.build.flats.get(flat.like)
            return self.ordered(like) if like is not None else self.build.inputs[flat.like].axes
        return stated if self.found[flat.name] == set(stated) else self.build.axes.ordered(self.found[flat.name])

    def _settle(self) -> None:
        """Go over the equations, and again over the readers of those that changed."""
        readers: dict[str, list[Flat]] = {}
        open_flats = [
            f for f in self.build.flats.values() if f.like is None and not (f.axes is not None and f.own is None)
        ]
        for flat in open_flats:
            for node in walk(flat.tree):
                if isinstance(node, Access):
                    readers.setdefault(node.tensor, []).append(flat)
        waiting = deque(open_flats)
        while waiting:
            flat = waiting.popleft()
            demand = set(self._demand(flat.tree, ()))
            stated = frozenset(flat.axes or ())
            if flat.axes is not None:  # inlined: only what its arguments add
                demand -= flat.own or frozenset()
            new = self.merged(self.found[flat.name] | demand, stated)
            if new != self.found[flat.name]:
                self.found[flat.name] = new
                waiting.extend(readers.get(flat.name, ()))
                waiting.extend(readers.get(f"d.{flat.name}", ()))
        for flat in self.build.flats.values():
            if flat.like is not None:
                self.found[flat.name] = self.tensor_axes(flat.like)

    def merged(self, axes: set[str], stated: frozenset[str] = frozenset()) -> set[str]:
        """Without the parts of a split whose whole is there too: they follow from it."""
        result = set(axes)
        for splitting in self.build.axes.splits:
            if splitting.whole in result:
                result -= set(splitting.parts) - stated
        return result

    # ------------------------------------------------------------ demands

    def _demand(self, tree: Tree, scopes: Scopes) -> Iterator[str]:
        """Free axes that the value needs an index of."""
        match tree:
            case Ax(axis=axis):
                yield from self._wanted(axis, scopes)
            case Access(tensor=tensor, places=places):
                axes = self.tensor_axes(tensor)
                fixed = {place_axis(place, axes) for place in places}
                for axis in axes - fixed:
                    yield from self._wanted(axis, scopes)
                for place in places:
                    yield from self._demand(place.value, scopes)
            case Fold(kind=kind, axes=bound):
                inner = scopes if REDUCTIONS[kind].keeps_axis else (*scopes, frozenset(bound))
                for item in below(tree):
                    yield from self._demand(item, inner)
                if REDUCTIONS[kind].keeps_axis:
                    yield from self._wanted(bound[0], scopes)
            case Whole(axis=axis, body=body):
                yield from self._wanted(axis, scopes)
                yield from self._demand(body, scopes)
            case Join(axis=axis, parts=parts):
                yield from self._wanted(axis, scopes)
                for part in parts:
                    yield from self._demand(part, scopes)
            case Outside(function=function):
                yield from self.build.opaques[function].result.axes
            case _:
                for item in below(tree):
                    yield from self._demand(item, scopes)

    def _wanted(self, axis: str, scopes: Scopes) -> Iterable[str]:
        """The free axes that the own index of ``axis`` takes, given the reductions around."""
        for depth in range(len(scopes) - 1, -1, -1):
            if axis in scopes[depth]:
                return ()
            for splitting in self.build.axes.splits:
                if axis in splitting.parts and splitting.whole in scopes[depth]:
                    return ()
                if axis == splitting.whole and scopes[depth].intersection(splitting.parts):
                    others = [p for p in splitting.parts if p not in scopes[depth]]
                    return [free for p in others for free in self._wanted(p, scopes[:depth])]
        return (axis,)


def place_axis(place: Place, axes: Iterable[str]) -> str | None:
    """The axis that an item sets; None if it does not say."""
    if place.axis is not None:
        return place.axis
    named = mentioned(place.value).intersection(axes)
    return named.pop() if len(named) == 1 else None


# ---------------------------------------------------------------- extents


@dataclass
class Extents:
    """Where each axis gets its extent: an input, a statement, a split, or the axis it stands for."""

    build: Build
    inference: Inference

    def __post_init__(self) -> None:
        self.alias: dict[str, str] = {}
        self.joined: dict[str, list[str]] = {}  # concat axis → the axes whose extents add up
        self.equal: list[tuple[str, str]] = []
        self.of_split: dict[str, tuple[Splitting, bool]] = {}
        self.products: list[Splitting] = []  # splits whose axes all have extents of their own

    def known(self, axis: str) -> bool:
        table = self.build.axes
        return (
            axis in table.bound
            or axis in table.stated
            or axis in self.alias
            or axis in self.joined
            or axis in self.of_split
        )

    def root(self, axis: str) -> str:
        """The axis whose extent this one shares."""
        while axis in self.alias:
            axis = self.alias[axis]
        return axis

    def find(self) -> None:
        """Derive extents until nothing more follows."""
        renames = [r for f in self.build.flats.values() for r in self._renames(f.tree, frozenset())]
        renames += [r for o in self.build.outers for r in self._renames(o.tree, frozenset())]
        changed = True
        while changed:
            changed = self._from_splits()
            for target, source in renames:
                if not self.known(source) and self.root(target) != source and source not in self.build.axes.bound:
                    self.alias[source] = target
                    changed = True
            changed |= self._from_joins()
        self._equalities(renames)

    def _renames(self, tree: Tree, hidden: frozenset[str]) -> Iterator[tuple[str, str]]:
        """``v[t=s]``: pairs (t, s), except where ``concat`` gives ``s`` its meaning."""
        if isinstance(tree, Access):
            for place in tree.places:
                if place.axis is not None and isinstance(place.value, Ax) and place.value.axis not in hidden:
                    if place.value.axis != place.axis:
                        yield place.axis, place.value.axis
        inner = hidden | {tree.axis} if isinstance(tree, Join) else hidden
        for item in below(tree):
            yield from self._renames(item, inner)

    def _from_splits(self) -> bool:
        changed = False
        for splitting in self.build.axes.splits:
            names = (splitting.whole, *splitting.parts)
            unknown = [axis for axis in names if not self.known(axis)]
            if len(unknown) == 1:
                axis = unknown[0]
                self.of_split[axis] = (splitting, axis == splitting.whole)
                changed = True
        return changed

    def _from_joins(self) -> bool:
        changed = False
        for flat in self.build.flats.values():
            for join, axes in _joins(flat.tree):
                if join.axis not in self.joined and not self.known(join.axis) and all(a is not None for a in axes):
                    self.joined[join.axis] = [a for a in axes if a is not None]
                    changed = True
        return changed

    def _equalities(self, renames: list[tuple[str, str]]) -> None:
        """``h[d=k]`` where inputs bind both ``d`` and ``k``: every call must make them equal."""
        bound = self.build.axes.bound
        for target, source in renames:
            a, b = self.root(target), self.root(source)
            if a != b and a in bound and b in bound and (b, a) not in self.equal and (a, b) not in self.equal:
                self.equal.append((b, a))
        for splitting in self.build.axes.splits:
            names = (splitting.whole, *splitting.parts)
            if all(self.known(n) for n in names) and all(s is not splitting for s, _ in self.of_split.values()):
                self.products.append(splitting)


def _joins(tree: Tree) -> Iterator[tuple[Join, list[str | None]]]:
    """Every ``concat`` with the axis that each of its parts runs along."""
    if isinstance(tree, Join):
        yield tree, [part_axis(part, tree.axis) for part in tree.parts]
    for item in below(tree):
        yield from _joins(item)


def part_axis(part: Tree, axis: str) -> str | None:
    """The axis over whose extent a part of ``concat[axis]`` runs: the ``e`` of ``a[e=axis]``."""
    found: set[str] = set()
    stack: list[Tree] = [part]
    while stack:
        node = stack.pop()
        if isinstance(node, Access):
            for place in node.places:
                if isinstance(place.value, Ax) and place.value.axis == axis and place.axis is not None:
                    found.add(place.axis)
        if not isinstance(node, Lit):
            stack.extend(below(node))
    return found.pop() if len(found) == 1 else None
