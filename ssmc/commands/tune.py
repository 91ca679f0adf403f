"""``ssmc tune``: plans that run faster than the compiler's own, found by trying them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssmc.errors import ToolchainError, UserError

from .layer import DTYPES, SPECIALISED, LayerChoice, with_options
from .report import Report, command, table

if TYPE_CHECKING:
    from ssmc.runtime import Results
    from ssmc.tune import Found, Job

PASSES = ("forward", "training", "backward")


def specialised(function: Any) -> Any:
    """Add the options that specialise a layer."""
    return with_options(function, SPECIALISED)


@command("tune")
@click.argument("layer", required=False)
@specialised
@click.option("--sizes", metavar="b=8,t=2048,...", default="", help="The extent of every axis of the inputs.")
@click.option("--dtype", type=click.Choice(DTYPES), default="f32", help="Storage of real inputs.")
@click.option("--stored", metavar="A=f32,...", default="", help="Storage of inputs where it is another.")
@click.option("--autocast", is_flag=True, help="As called under torch.autocast to --dtype.")
@click.option("--target", type=click.Choice(("c", "cuda", "triton")), default="c", show_default=True)
@click.option("--pass", "passes", multiple=True, type=click.Choice(PASSES), help="Only these; all by default.")
@click.option("--trials", type=click.IntRange(0), default=40, show_default=True, help="New plans for each pass.")
@click.option("--seconds", type=click.FloatRange(0), default=600.0, show_default=True, help="For each pass, at most.")
@click.option("--limit", type=click.FloatRange(0.1), default=60.0, show_default=True, help="Seconds for one plan.")
@click.option("--searcher", type=click.Choice(("descent", "random", "optuna")), default="descent", show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of inputs and of searchers that draw.")
@click.option("--workers", type=click.IntRange(1), help="Measure with Ray, so many plans at a time.")
@click.option("--address", help="The Ray cluster; without one its workers are on this machine.")
@click.option("--export", "to", type=click.Path(path_type=Path, dir_okay=False), help="Write stored results to a file.")
@click.option("--import", "source", type=click.Path(path_type=Path, dir_okay=False), help="Store those of a file.")
def tune(to: Path | None, source: Path | None, layer: str | None, **asked: Any) -> Report:
    """Search for plans with which LAYER runs faster than with the compiler's own, and keep them for `ssmc.load`.

    LAYER is as for `ssmc compile`. Each pass is tuned by itself: a call without gradients (forward), one that keeps
    what its gradient wants (training), the gradient (backward). Plans are pruned by what their kernels take and by the
    bound of the machine, measured in another process in turns with the compiler's own, and compared with its values.
    The fastest must be faster once more, in a longer run, to be used. Results are stored by device, its tools, and
    extents, of which those of batch and time are rounded to powers of two; what is stored is not tried again.
    """
    if layer is None:
        return _exchanged(to, source)
    if source is not None:
        raise click.UsageError("--import is for all layers: leave out LAYER")
    found = list(_tuned(layer, **asked))
    if to is not None:
        _export(found[0][0].results(), [found[0][0].usual.layer.name], to)
    facts = {"passes": [_facts(job, item) for job, item in found], **({"exported": str(to)} if to else {})}
    return Report("\n\n".join(_text(job, item) for job, item in found), facts)


def _tuned(
    layer: str, sizes: str, dtype: str, target: str, passes: Sequence[str], trials: int, seconds: float, limit: float,
    searcher: str, seed: int, workers: int | None, address: str | None, stored: str, autocast: bool, **special: Any,
) -> Iterator[tuple[Job, Found]]:  # fmt: skip
    """Each pass with what was found."""
    chosen = LayerChoice.parse(layer, sizes, dtype, **special)
    chosen.elaborate()  # which says what is wrong with it
    from ssmc.runtime import reason_against
    from ssmc.tune import SEARCHERS, Effort, Job, bound_of, local, over_ray, pruner, tune

    present = chosen.choice.present
    for what in passes or PASSES:
        job = Job(
            layer, dict(chosen.sizes), what, target, dtype, None if present is None else tuple(sorted(present)),
            dict(chosen.choice.signatures), dict(chosen.choice.statics), seed, _stored(stored), autocast,
        )  # fmt: skip
        if not passes and what not in job.usual.kinds:
            continue
        bucket = job.bucket()
        if reason := reason_against(target):
            raise ToolchainError(f"target {target!r} cannot be measured here: {reason}")
        where = over_ray(job, limit, workers, address) if workers else local(job, limit)
        with where as measurer:
            search = SEARCHERS[searcher](target, seed)
            say = _say(what)
            effort = Effort(trials, seconds)
            yield job, tune(bucket, job.results(), measurer, search, pruner(job), effort, bound_of(job), say)


def _stored(text: str) -> dict[str, str]:
    """Storages by the names of inputs."""
    found = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, storage = item.partition("=")
        if storage not in DTYPES:
            raise click.BadParameter(f"{item!r} is not NAME=STORAGE, of {', '.join(DTYPES)}", param_hint="--stored")
        found[name] = storage
    return found


def _say(what: str) -> Any:
    def say(text: str) -> None:
        click.echo(f"{what}: {text}", err=True)

    return say


def _text(job: Job, found: Found) -> str:
    winner = found.bucket.winner
    if winner is None:
        result = "nothing was measured; the compiler's own plan stays"
    elif winner.plan:
        result = f"{winner.plan}: {winner.ratio:.3f} of the time of the compiler's own plan, confirmed"
    else:
        result = "the compiler's own plan: no other was confirmed to be faster"
    best = "\n".join(f"{t.ratio:.3f}  {t.seconds:.3g} s  {t.plan}" for t in found.measured[:5])
    left = [t for t in found.bucket.trials.values() if t.ratio is None]
    kinds = {kind: sum(t.outcome == kind for t in left) for kind in dict.fromkeys(t.outcome for t in left)}
    rows = [
        ("layer", f"{job.usual.layer.name}, {job.what}"),
        ("device", f"{found.subject.device}; {found.subject.tools}"),
        ("extents", found.bucket.describe()),
        ("tried now", f"{found.tried}: {found.ended}"),
        ("known", ", ".join([f"{len(found.measured)} measured", *(f"{n} {kind}" for kind, n in kinds.items())])),
        ("fastest", best or "none"),
        *([("bound", _bound(found))] if found.bound else []),
        ("used from now", result),
    ]
    return table(rows)


def _bound(found: Found) -> str:
    beaten = any(t.seconds and t.seconds < found.bound for t in found.measured)
    doubt = "; beaten, so its speeds were measured while it was busy" if beaten else ""
    return f"{found.bound:.3g} s on this machine{doubt}"


def _facts(job: Job, found: Found) -> dict[str, Any]:
    import dataclasses

    return {
        "pass": job.what,
        "subject": dataclasses.asdict(found.subject),
        "extents": found.bucket.extents,
        "tried": found.tried,
        "ended": found.ended,
        "bound_seconds": found.bound,
        "trials": [dataclasses.asdict(t) for t in found.bucket.trials.values()],
        "winner": dataclasses.asdict(found.bucket.winner) if found.bucket.winner else None,
    }


# ---------------------------------------------------------------- results of other machines


def _exchanged(to: Path | None, source: Path | None) -> Report:
    """``--export`` and ``--import`` without a layer."""
    from ssmc.backends import Cache
    from ssmc.runtime import Results

    results = Results(Cache().root)
    if source is not None:
        try:
            given = json.loads(source.read_bytes())
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no JSON"
            raise UserError(f"{source} cannot be read: {reason}") from None
        subjects = results.take_in(given)
        names = ", ".join(sorted({s.layer for s in subjects})) or "no layer"
        return Report(f"{len(subjects)} results taken in, of {names}", {"imported": len(subjects)})
    if to is None:
        raise click.UsageError("name a LAYER, or give --export FILE or --import FILE")
    count = _export(results, (), to)
    return Report(f"{count} results written to {to}", {"exported": str(to), "results": count})


def _export(results: Results, layers: Sequence[str], to: Path) -> int:
    found = results.exported(layers)
    try:
        to.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ToolchainError(f"{to} cannot be written: {error.strerror}") from None
    return len(found["results"])
