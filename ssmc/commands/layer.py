"""What the command line says about a layer: which one, specialised how, at which sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ssmc.errors import UserError

if TYPE_CHECKING:
    from ssmc.dsl import Choice, LayerSignature, Module, StaticSignature, StaticValue
    from ssmc.ir import Program
    from ssmc.passes import PlanOptions

F = TypeVar("F", bound=Callable[..., Any])
DTYPES = ("f32", "f64", "bf16", "f16")


_LAYER = click.argument("layer", metavar="LAYER")
SPECIALISED = (
    click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A static parameter."),
    click.option("--without", multiple=True, metavar="z,D", help="Inputs that are absent."),
    click.option("--signature", "signatures", multiple=True, metavar="B=d,n", help="The axes of an input."),
)
PLAN = click.option("--plan", default="", metavar="lanes=32,...", help="How kernels are to run, as far as it is given.")
_STORED = (
    click.option("--sizes", metavar="b=1,t=2048,...", default="", help="Extents of axes."),
    click.option("--dtype", type=click.Choice(DTYPES), default="f32", help="Storage of real inputs."),
)


def layer_options(function: F) -> F:
    """Add LAYER and the options that specialise it; the function takes them as ``LayerChoice.parse`` does."""
    return with_options(function, (_LAYER, *_STORED, *SPECIALISED, PLAN))


def program_options(function: F) -> F:
    """The same without what only compiling needs: extents and storage."""
    return with_options(function, (_LAYER, *SPECIALISED))


def with_options(function: F, options: Sequence[Callable[[F], F]]) -> F:
    """``function`` with options in the order in which help shows them."""
    for option in reversed(options):
        function = option(function)
    return function


@dataclass(frozen=True)
class LayerChoice:
    """A layer of a module, as specialised on the command line."""

    module: Module
    signature: LayerSignature
    choice: Choice
    sizes: Mapping[str, int] = field(default_factory=dict)
    dtype: str = "f32"
    plan: PlanOptions | None = None
    name: str = ""

    @classmethod
    def parse(
        cls,
        layer: str,
        sizes: str = "",
        dtype: str = "f32",
        settings: Sequence[str] = (),
        without: Sequence[str] = (),
        signatures: Sequence[str] = (),
        plan: str = "",
    ) -> LayerChoice:
        """Raises UserError where the layer has no such name, parameter, input or signature."""
        from ssmc import dsl
        from ssmc.passes import PlanOptions

        options = PlanOptions.parse(plan)
        file, name = _split(layer)
        module = dsl.load_module(file)
        diagnostics = dsl.check(module) if module.problems else []
        if diagnostics:
            raise UserError(diagnostics)
        signature = dsl.signature(module, name)
        choice = dsl.Choice(
            _statics(signature, settings), _present(signature, without), _signatures(signature, signatures)
        )
        return cls(module, signature, choice, _sizes(sizes), dtype, options, layer)

    def elaborate(self) -> Program:
        """The specialised Program; UserError if it is wrong or a size names none of its axes."""
        from ssmc import dsl

        program = dsl.elaborate(self.module, self.signature.name, self.choice)
        axes = [axis.name for axis in program.axes]
        for name in self.sizes:
            if name not in axes:
                raise UserError(f"--sizes: `{self.signature.name}` has no axis `{name}`", hint=_nearest(name, axes))
        return program

    def facts(self) -> dict[str, Any]:
        """What was chosen, for ``--json``."""
        return {
            "layer": self.signature.name,
            "source": self.module.source.name,
            "sizes": dict(self.sizes),
            "dtype": self.dtype,
            "statics": dict(self.choice.statics),
            "plan": str(self.plan or ""),
        }


def _split(layer: str) -> tuple[str, str | None]:
    """``FILE.ssm:NAME`` and ``MODULE:NAME`` in their two parts."""
    file, colon, name = layer.rpartition(":")
    if colon and file and name.replace(".", "_").isidentifier():
        return file, name
    return layer, None


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=option)
    return name.strip(), value.strip()


def _sizes(text: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, value = _pair(item, "--sizes")
        if not value.isascii() or not value.isdigit():
            raise click.BadParameter(f"the extent of {name} is {value!r}, not a whole number", param_hint="--sizes")
        sizes[name] = int(value)
    return sizes


def _statics(signature: LayerSignature, settings: Sequence[str]) -> dict[str, StaticValue]:
    known = {static.name: static for static in signature.statics}
    values = {}
    for setting in settings:
        name, text = _pair(setting, "--set")
        if name not in known:
            raise UserError(
                f"--set: `{signature.name}` has no static parameter `{name}`", hint=_nearest(name, list(known))
            )
        values[name] = _static_value(known[name], text)
    return values


def _static_value(static: StaticSignature, text: str) -> StaticValue:
    try:
        match static.kind:
            case "int":
                return int(text)
            case "real":
                return float(text)
            case "bool":
                return {"true": True, "false": False}[text.lower()]
            case _ if text in static.choices:
                return text
    except (ValueError, KeyError):
        pass
    expected = {"int": "a whole number", "real": "a number", "bool": "true or false"}
    raise UserError(
        f"--set: `{static.name}` cannot be {text!r}", expected=expected.get(static.kind, " or ".join(static.choices))
    )


def _present(signature: LayerSignature, without: Sequence[str]) -> frozenset[str] | None:
    absent = {name.strip() for text in without for name in text.split(",") if name.strip()}
    if not absent:
        return None
    optional = {item.name for item in signature.inputs if not item.required}
    for name in sorted(absent - optional):
        inputs = [item.name for item in signature.inputs]
        if name in inputs:
            raise UserError(f"--without: input `{name}` of `{signature.name}` is required")
        raise UserError(f"--without: `{signature.name}` has no input `{name}`", hint=_nearest(name, sorted(optional)))
    return frozenset(optional - absent)


def _signatures(signature: LayerSignature, texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    known = {item.name: item for item in signature.inputs}
    chosen = {}
    for text in texts:
        name, value = _pair(text, "--signature")
        if name not in known:
            raise UserError(f"--signature: `{signature.name}` has no input `{name}`", hint=_nearest(name, list(known)))
        axes = tuple(axis.strip() for axis in value.split(","))
        if axes not in known[name].alternatives:
            alternatives = " or ".join(",".join(option) for option in known[name].alternatives)
            raise UserError(f"--signature: `{name}` has no signature {','.join(axes)}", expected=alternatives)
        chosen[name] = axes
    return chosen


def _nearest(name: str, names: list[str]) -> str:
    """One thing to try, among names that exist."""
    close = get_close_matches(name, names, 1)
    return f"did you mean `{close[0]}`?" if close else f"there are {', '.join(names)}" if names else ""
