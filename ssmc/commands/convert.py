"""``ssmc convert``: checkpoints of other libraries as folders that models here load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .report import Report, command, table


@command("convert")
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write."
)
@click.option(
    "--to",
    type=click.Choice(["transformers", "mamba_ssm", "recurrentgemma"]),
    default="transformers",
    show_default=True,
    help="Whose form to write.",
)
@click.option("--max-shard-size", default="5GB", show_default=True, help="Of one file of tensors.")
@click.option(
    "--attention-window",
    type=click.IntRange(min=0),
    help="Of a checkpoint of recurrentgemma: how many tokens before itself a token sees.  [default: 2048]",
)
@click.option("--logits-soft-cap", type=float, help="Of a checkpoint of recurrentgemma.  [default: 30]")
def convert(source: Path, output: Path, to: str, max_shard_size: str, **options: Any) -> Report:
    """Write the checkpoint SOURCE in another form.

    SOURCE is a folder as mamba_ssm stores a Mamba model (config.json, pytorch_model.bin), a file or folder as
    recurrentgemma does (2b.pt), or, with --to, a folder as transformers does. What is written by default loads with
    from_pretrained, here and in transformers. Files are read as tensors only: nothing in them is run.
    """
    from ssmc import models

    found = models.convert_checkpoint(
        source, output, to, max_shard_size, **{name: value for name, value in options.items() if value is not None}
    )
    files = [{"name": path.name, "bytes": path.stat().st_size} for path in found.files]
    facts = {
        "source": str(source),
        "from": found.source,
        "to": found.target,
        "folder": str(output),
        "model_type": found.config.model_type,
        "layers": found.config.num_hidden_layers,
        "tensors": found.tensors,
        "parameters": found.parameters,
        "dtypes": list(found.dtypes),
        "files": files,
    }
    rows = [
        ("model", f"{found.config.model_type}, {found.config.num_hidden_layers} layers"),
        ("from", f"{source} ({found.source})"),
        ("to", f"{output} ({found.target})"),
        ("tensors", f"{found.tensors}, {found.parameters:,} numbers, {', '.join(found.dtypes)}"),
        ("files", "\n".join(f"{file['name']}, {file['bytes']:,} bytes" for file in files)),
    ]
    if found.target == "recurrentgemma":
        window = found.config.attention_window_size - 1
        rows.append(("to be set", f"attention_window_size={window}, logits_soft_cap={found.config.logits_soft_cap}"))
        facts["attention_window"] = window
    return Report(table(rows), facts)
