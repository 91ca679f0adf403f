"""A layer's source behind a first cache: what was derived once is read back, not derived again.

A warm start reads four small entries: the signature of the layer, what a call of this kind takes and gives,
which extents are compiled in, and the library itself. It neither parses nor plans. Every key holds the
texts of the layer and the state of the compiler's own files; those of machine code also hold the C
compiler and the processor.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import ssmc
from ssmc.backends import Cache
from ssmc.compiler import Argument, Compiled
from ssmc.dsl import Choice, LayerSignature, Module, check, elaborate, signature
from ssmc.errors import SsmcError, Unsupported, UserError
from ssmc.ir import Program, expr_from_json, expr_to_json
from ssmc.passes import PlanOptions

from . import tuned
from .build import Planned, Variant
from .codec import (
    signature_from_json,
    signature_to_json,
    specialisation_from_json,
    specialisation_to_json,
)
from .derived import Derived, arranged, derived, specialised
from .machines import Machine, Machines, ThisMachine
from .specialise import Kind, Specialisation

DESCRIPTION = "description.json"


class StoredSource:
    """A layer of a module; see ``operator.Source``.

    Args:
        texts: (name, text) of the module and of all that it imports.
        layer: the layer, or None for the main one.
        read: reads and parses the module; called only when something was never derived before.
        machines: what compiles for the tensors of a device; tests have some of their own.
        plan: how kernels are to run, where that is not left to the compiler.
    """

    def __init__(
        self, texts: list[tuple[str, str]], layer: str | None, read: Callable[[], Module],
        machines: Machines = ThisMachine(), plan: PlanOptions = PlanOptions(),  # noqa: B008 they are frozen
    ) -> None:  # fmt: skip
        self.machines = machines
        self.plan = plan
        self.made_of = texts, layer, read
        self._read = functools.cache(read)
        self._asked = layer
        self._cache = cache_of(str(Cache().root))
        self._key = hashlib.sha256(json.dumps([texts, layer]).encode("utf-8", "surrogatepass")).hexdigest()
        self._latest: tuple[Any, Compiled] | None = None
        self._layers: dict[Kind, Program] = {}
        self.signature: LayerSignature = signature_from_json(self._derived("signature", {}, self._signature))
        special = [repr(machines)] * (machines != ThisMachine()) + [f"plan {plan}"] * bool(plan.chosen)
        content = json.dumps([texts, self.signature.name, *special])
        self.digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()

    def choosing(self, target: str) -> StoredSource:
        """The same layer, run as nothing but that target."""
        texts, asked, read = self.made_of
        return StoredSource(texts, asked, read, self.machines.choosing(target), self.plan)

    @property
    def module(self) -> Module:
        return self._read()

    def _derived(self, what: str, about: Mapping[str, str], make: Callable[[], Any]) -> Any:
        """``make()``, from the cache if it was made before."""

        def write(folder: Path) -> None:
            (folder / DESCRIPTION).write_text(json.dumps(make()), encoding="utf-8")

        key = {"what": what, "layer": self._key, "code": CODE, **about}
        return json.loads((self._cache.get(key, write) / DESCRIPTION).read_bytes())

    def _signature(self) -> dict[str, Any]:
        problems = check(self.module)
        if problems:
            raise UserError(problems)
        return signature_to_json(signature(self.module, self._asked))

    # ------------------------------------------------------------ Programs

    def program(self, kind: Kind) -> Program:
        """The Program for a kind of call."""
        return self._derivation(kind).program

    def _derivation(self, kind: Kind) -> Derived:
        return derived(self.signature.name, kind, [item.name for item in self.signature.inputs], self._layer(kind))

    def _layer(self, kind: Kind) -> Program:
        """The layer that a kind of call is derived from."""
        kind = replace(kind, derivatives=())
        if kind not in self._layers:
            made = elaborate(self.module, self.signature.name, self._choice(kind))
            self._layers[kind] = arranged(self.signature.name, kind, made)
        return self._layers[kind]

    def _choice(self, kind: Kind) -> Choice:
        given = {item.name: axes[0] for item, axes in zip(self.signature.inputs, kind.inputs, strict=True) if axes}
        several = {item.name for item in self.signature.inputs if len(item.alternatives) > 1}
        return Choice(
            {item.name: value for item, value in zip(self.signature.statics, kind.statics, strict=True)},
            frozenset(given),
            {name: axes for name, axes in given.items() if name in several},
        )

    def specialisation(self, kind: Kind) -> Specialisation:
        """What a call of that kind takes and gives."""
        program = functools.cache(lambda: self.program(kind))

        def make() -> dict[str, Any]:
            return specialisation_to_json(specialised(self.signature.name, self._derivation(kind), program))

        return specialisation_from_json(self._derived("call", {"kind": kind.text}, make), program)

    # ------------------------------------------------------------ machine code

    def subject(self, kind: Kind, device: torch.device) -> tuned.Subject:
        """What results of tuning for calls of that kind on that device are stored under."""
        machine = self.machines.of(device)
        target = machine.target.partition(":")[0]
        return tuned.Subject(self.signature.name, self._key, kind.text, target, *machine.about())

    @functools.cached_property
    def results(self) -> tuned.Results:
        """Where results of tuning are."""
        return tuned.Results(self._cache.root)

    def planned(self, kind: Kind, sizes: Mapping[str, int], device: torch.device) -> Planned:
        """How calls of that kind with these extents run: as the user says, else as tuning has found, else as the
        compiler chooses."""
        if self.plan.chosen:
            return Planned(self.plan, "as was asked for")
        if not tuned.is_used() or not self.results.folder.is_dir():
            return Planned()
        winner = self.results.winner(self.subject(kind, device), sizes)
        if winner is None or not winner.plan:
            return Planned(because="tuned: no other plan was found to be faster" if winner else "")
        why = f"tuned on {winner.when}: {winner.ratio:.2f} of the time that the compiler's own plan takes"
        try:
            return Planned(PlanOptions.parse(winner.plan), why)
        except UserError as error:  # from another version
            self._not_used(winner.plan, error)
            return Planned()

    def _not_used(self, plan: str, error: SsmcError) -> None:
        reason = error.diagnostics[0].message
        message = f"{self.signature.name}: the tuned plan {plan} is not used: {reason}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)

    def build(
        self, spec: Specialisation, kind: Kind, sizes: dict[str, int], device: torch.device, options: PlanOptions
    ) -> Variant:
        """The variant for these sizes, of which the inner ones are compiled in, and for tensors on that device."""
        try:
            return self._build(spec, kind, sizes, self.machines.of(device), options)
        except (UserError, Unsupported) as error:
            if options == self.plan:
                raise
            self._not_used(str(options), error)  # it was found by another version of the compiler
            return self._build(spec, kind, sizes, self.machines.of(device), self.plan)

    def _build(
        self, spec: Specialisation, kind: Kind, sizes: dict[str, int], tools: Machine, options: PlanOptions
    ) -> Variant:
        about = {"kind": kind.text, "target": tools.target, "plan": str(options)}
        fixed = self._derived("fixed", about, lambda: sorted(self._compiled(spec, kind, sizes, tools, options).fixed))
        about["sizes"] = json.dumps({axis: sizes[axis] for axis in fixed if axis in sizes})
        machine = {"what": "variant", "layer": self._key, "code": CODE, **tools.key_parts()}

        def write(folder: Path) -> None:
            made = self._compiled(spec, kind, sizes, tools, options)
            for file in {made.text, made.library}:
                _link(file, folder / file.name)
            (folder / DESCRIPTION).write_text(json.dumps(_variant_to_json(made, sizes)), encoding="utf-8")

        folder = self._cache.get({**machine, **about}, write)
        return _variant_from_json(json.loads((folder / DESCRIPTION).read_bytes()), folder, tools)

    def _compiled(
        self, spec: Specialisation, kind: Kind, sizes: dict[str, int], tools: Machine, options: PlanOptions
    ) -> Compiled:
        """Compiled now; asked for twice in a cold start, so the last one is kept."""
        key = (kind, tuple(sizes.items()), tools.target, options)
        if self._latest is None or self._latest[0] != key:
            outputs = {place.name: place.storage for place in spec.gives}
            made = tools.compile(spec.program(), spec.storage, sizes, self._cache, outputs, options)
            self._latest = key, made
        return self._latest[1]


def _variant_to_json(made: Compiled, sizes: Mapping[str, int]) -> dict[str, Any]:
    own = [(a.name, a.extent) for a in made.program.axes if a.extent is not None and a.name not in sizes]
    return {
        "derived": [[name, expr_to_json(extent)] for name, extent in own],
        "arguments": [[a.name, a.axes, a.storage, a.role] for a in made.arguments],
        "axes": made.axes,
        "fixed": dict(made.fixed),
        "symbol": made.symbol,
        "library": made.library.name,
        "text": made.text.name,
        "launches": [launch.facts() for launch in made.launches],
        "programs": [launch.facts() for launch in made.programs],
    }


def _variant_from_json(made: dict[str, Any], folder: Path, tools: Machine) -> Variant:
    library = folder / made["library"]
    arguments = tuple(Argument(name, tuple(axes), storage, role) for name, axes, storage, role in made["arguments"])
    derived = tuple((axis, expr_from_json(expr)) for axis, expr in made["derived"])
    entry = tools.entry(library, made)
    axes, text = tuple(made["axes"]), folder / made["text"]
    return Variant(arguments, axes, made["fixed"], derived, library, text, entry, tools.target)


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


@functools.cache
def cache_of(root: str) -> Cache:
    """One cache per folder, so that what is known about it is known to every layer."""
    return Cache(root)


def _fingerprint() -> str:
    """The state of the compiler's own files: other code may derive other things from the same text."""
    root = Path(ssmc.__file__).parent
    found = [ssmc.__version__]
    for folder in (root, *(root / name for name in ("ir", "analysis", "passes", "dsl", "backends", "runtime"))):
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                if entry.is_file() and not entry.name.endswith((".ssm", ".pyc")):
                    about = entry.stat()
                    found.append(f"{folder.name}/{entry.name} {about.st_size} {about.st_mtime_ns}")
    return hashlib.sha256("\n".join(found).encode()).hexdigest()


CODE = _fingerprint()  # taken now: what is edited later is not what this process runs
