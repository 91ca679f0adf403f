"""LoRA: a Mamba of bytes that has read Python learns the English of Python's manual, in a few numbers beside its own.

The adapters (Hu et al. 2021) sit at the projections into and inside each mixer. Bits per byte on texts held
out, old and new, before and after; the adapters are saved, loaded, and merged into the weights.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import torch
import training
from decoding import learnt, model_in
from torch import Tensor
from training import Recipe, bits_per_byte

from ssmc.errors import UserError

TARGETS = ["in_proj", "x_proj", "dt_proj"]  # peft refuses out_proj in every model of type mamba


def manual() -> tuple[Tensor, Tensor]:
    """What ``help()`` shows on Python's own topics: bytes to learn from, and about one topic in ten held out."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise UserError("this Python comes without its manual, pydoc_data", hint="--text FOLDER") from None
    sides: tuple[list[bytes], list[bytes]] = [], []
    for name in sorted(topics):
        sides[zlib.crc32(name.encode()) % 10 == 0].append(topics[name].encode())
    return training.as_bytes(sides[0]), training.as_bytes(sides[1])


def folder_text(folder: Path) -> tuple[Tensor, Tensor]:
    """The same from the files of a folder."""
    learnt_from, held_out = training.split(training.files_below(folder))
    return training.read(learnt_from), training.read(held_out)


def with_adapters(model: Any, rank: int, seed: int) -> Any:
    """The model with adapters beside its projections; only they are trained."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS, task_type="CAUSAL_LM"))


def main() -> None:
    """Load or train the model, adapt it, measure, merge."""
    parser = training.options(__doc__, "lora")
    parser.add_argument("--model", type=Path, help="folder that train_bytes.py saved; else one is trained now")
    parser.add_argument("--text", type=Path, help="folder with the new text (default: Python's manual)")
    parser.add_argument("--rank", type=training.positive, default=8, help="of the adapters (default 8)")
    chosen = parser.parse_args()
    training.need("peft", "matplotlib")
    bytes_, most, size = (5_200, 1 << 12, (48, 1)) if chosen.quick else (150_000, 1 << 15, (128, 3))
    new, new_held_out = folder_text(chosen.text) if chosen.text else manual()
    old_held_out = training.read(training.split(training.standard_library())[1])
    model = model_in(chosen.model) if chosen.model else learnt(*size, bytes_, chosen.seed)
    measured = {}

    def measure(name: str, subject: Any) -> None:
        measured[name] = [bits_per_byte(subject, text, most) for text in (old_held_out, new_held_out)]

    measure("before", model)
    adapted = with_adapters(model, chosen.rank, chosen.seed)
    few, all_ = adapted.get_nb_trainable_parameters()
    print(f"adapters of rank {chosen.rank} at {', '.join(TARGETS)}: {few:,} parameters, {few / all_:.1%} of all")
    recipe = Recipe(bytes_, learning_rate=1e-2, length=256, batch=4, seed=chosen.seed)
    curve = training.train(adapted, new, recipe, "new text")
    measure("with adapters", adapted)
    adapted.save_pretrained(chosen.output)
    example = new_held_out[None, :256].long()
    with torch.no_grad():
        expected = adapted(input_ids=example).logits
        merged = adapted.merge_and_unload()
        apart = float((merged(input_ids=example).logits - expected).abs().max())
    measure("merged", merged)
    print("\nbits per byte on files held out")
    rows = [[name, *(f"{value:.2f}" for value in bits)] for name, bits in measured.items()]
    training.print_table(["", "old text", "new text"], rows)
    training.save_figure(chosen.output / "loss.png", {"adapters, on new text": curve})
    stored = (chosen.output / "adapter_model.safetensors").stat().st_size
    largest = float(expected.abs().max())
    print(f"merged                logits {apart:.1e} from those with adapters (values to {largest:.0f})")
    print(f"the adapters          {chosen.output}, {stored / 1e3:.0f} kB")
    print(f"loss, as a picture    {chosen.output / 'loss.png'}")


if __name__ == "__main__":
    training.start(main)
