"""``ssmc verify``: whether every variant of a layer agrees with every other."""

from __future__ import annotations

import os
from typing import Any

import click

from .layer import DTYPES, PLAN, LayerChoice, program_options
from .report import OK, WRONG_INPUT, Report, command


@command("verify")
@program_options
@PLAN
@click.option("--sizes", metavar="b=2,t=9,...", default="", help="Extents of axes in small cases.")
@click.option(
    "--target", "targets", multiple=True, help="What to compile for; every target by default, `none` for none."
)
@click.option(
    "--dtype", "dtypes", multiple=True, type=click.Choice(DTYPES), help="Storage of real inputs; f32 and f64."
)
@click.option("--only", multiple=True, metavar="NAME", help="Only these properties.")
@click.option("--jobs", type=click.IntRange(1), default=lambda: os.cpu_count() or 1, help="Processes; one a core.")
@click.option("--seed", default=0, show_default=True, help="Of the inputs that are drawn.")
def verify(
    targets: tuple[str, ...], dtypes: tuple[str, ...], only: tuple[str, ...], jobs: int, seed: int, **layer: Any
) -> Report:
    """Check that every variant of LAYER is the same function, and print what was compared.

    LAYER is as for `ssmc compile`. The layer runs whole, in steps and in pieces, at awkward lengths, from awkward
    memory; its derived equations run in the interpreter, its machine code on each target. Extents follow from the
    equations unless --sizes gives some; static parameters that only make things long are made small unless --set
    gives them. With --without or --signature only that specialisation is looked at. Takes about a minute.
    """
    chosen = LayerChoice.parse(**layer)
    from ssmc import runtime
    from ssmc import verify as conformance

    present = chosen.choice.present
    found = conformance.verify(
        runtime.load(layer["layer"], None, None, chosen.plan or "", **chosen.choice.statics),
        [] if targets == ("none",) else targets or None,
        dtypes or conformance.STORAGES,
        None if present is None else sorted(present),
        chosen.choice.signatures or None,
        chosen.sizes,
        seed,
        only or None,
        jobs,
    )
    return Report(str(found), found.facts(), code=OK if found.ok else WRONG_INPUT)
