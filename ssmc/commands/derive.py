"""``ssmc grad``, ``ssmc step``, …: what is derived from a layer, as equations. One command for each derivation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from ssmc.derivations import DERIVATIONS, Derivation, derivation

from .layer import LayerChoice, program_options, with_options
from .report import Report, command

Option = Callable[[Any], Any]

_HELP = """Print {meaning}.

{detail}

LAYER is as for `ssmc compile`. What is printed is a layer too: it can be saved as FILE.ssm and stand for LAYER in
any command."""
_BATCH = click.option("--batch", metavar="b", default="", help="Axes along which documents differ.")
_EACH = click.option("--batch", metavar="b", default="", help="Axes along which t.at differs.")
_ROWS = click.option("--batch", metavar="b", help="Axes along which padding differs, instead of the leading ones.")
_WRT = click.option("--wrt", metavar="x,A", help="Inputs to differentiate for, instead of all.")


@dataclass(frozen=True)
class _Own:
    """The options of one derivation, and how they become arguments of its function."""

    options: tuple[Option, ...] = ()
    arguments: Callable[..., dict[str, Any]] = dict


def _parts(takes: bool, gives: bool) -> dict[str, bool]:
    return {"takes": takes or not gives, "gives": gives or not takes}


def _rows(batch: str) -> dict[str, Any]:
    return {"batch": _names(batch) or ()}


def _gradient(wrt: str | None, of: str | None) -> dict[str, Any]:
    return {"wrt": _names(wrt), "of": _names(of)}


def _direction(wrt: str | None, primal: bool) -> dict[str, Any]:
    return {"wrt": _names(wrt), "primal": primal}


_OWN = {
    "step": _Own(
        (
            click.option("--takes", is_flag=True, help="Only take a state."),
            click.option("--gives", is_flag=True, help="Only give the state."),
        ),
        _parts,
    ),
    "pack": _Own((_BATCH,), _rows),
    "states_at": _Own((_EACH,), _rows),
    "mask": _Own((_ROWS,), lambda batch: {"batch": _names(batch)}),
    "grad": _Own(
        (_WRT, click.option("--of", metavar="y", help="Outputs to differentiate, instead of all.")), _gradient
    ),
    "jvp": _Own((_WRT, click.option("--primal", is_flag=True, help="Give the outputs themselves too.")), _direction),
}


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _command(row: Derivation) -> click.Command:
    own = _OWN.get(row.name, _Own())

    def run(
        after: str, layer: str, settings: Sequence[str], without: Sequence[str], signatures: Sequence[str], **given: Any
    ) -> Report:
        before = _chain(after)
        chosen = LayerChoice.parse(layer, settings=settings, without=without, signatures=signatures)
        program = chosen.elaborate()
        for earlier in before:
            program = earlier.apply(program)
        program = row.apply(program, **own.arguments(**given))
        from ssmc.ir import print_program

        text = print_program(program)
        facts = {
            "layer": chosen.signature.name,
            "source": chosen.module.source.name,
            "statics": dict(chosen.choice.statics),
            "derivations": [*(earlier.name for earlier in before), row.name],
            "inputs": [tensor.name for tensor in program.inputs],
            "outputs": list(program.outputs),
            "text": text,
        }
        return Report(text, facts)

    run.__doc__ = _HELP.format(meaning=row.meaning, detail=row.detail)
    chain = click.option(
        "--after",
        metavar="NAME,...",
        default="",
        help=f"Derive these first, in the order given: {', '.join(other.name for other in DERIVATIONS)}.",
    )
    return command(row.name.replace("_", "-"))(program_options(with_options(run, (*own.options, chain))))


def _chain(text: str) -> list[Derivation]:
    """The derivations that ``--after`` names."""
    try:
        return [derivation(name) for name in _names(text) or ()]
    except KeyError as error:
        known = ", ".join(row.name for row in DERIVATIONS)
        raise click.BadParameter(f"{error.args[0]!r} is none of {known}", param_hint="--after") from None


DERIVED = tuple(_command(row) for row in DERIVATIONS)
