"""A tokenizer and a language model from scratch, on a folder of text: byte-level BPE, then Mamba under the Trainer.

Both are saved in one folder, loaded again, compared, and asked for a sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import training
from torch import Tensor
from training import Curve, Watch, bits_per_byte

from ssmc.errors import UserError

END = "<|end|>"


def texts(files: Iterable[Path]) -> dict[Path, str]:
    """Those files that are text in UTF-8; UserError if there are none."""
    found = {}
    for path in files:
        try:
            found[path] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    if not found:
        raise UserError("no file is text in UTF-8", hint="--pattern '*.txt' chooses files")
    return found


def train_tokenizer(documents: Iterable[str], vocabulary: int) -> Any:
    """Byte-level byte pair encoding: every text has tokens, and frequent words have few."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        documents,
        trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END)


def encode(tokenizer: Any, documents: Sequence[str]) -> tuple[Tensor, float]:
    """(tokens,) int64, a mark before each document; and how many bytes a token stands for."""
    size = sum(len(document.encode()) for document in documents)
    tokens = [token for ids in tokenizer(list(documents)).input_ids for token in (tokenizer.bos_token_id, *ids)]
    return torch.tensor(tokens), size / len(tokens)


def new_model(tokenizer: Any, width: int, layers: int) -> Any:
    """A Mamba for the tokenizer's vocabulary."""
    from transformers import MambaConfig

    from ssmc.models import MambaForCausalLM

    mark = tokenizer.eos_token_id
    config = MambaConfig(
        vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers,
        initializer_range=0.02, bos_token_id=mark, eos_token_id=mark, pad_token_id=mark,
    )  # fmt: skip
    return MambaForCausalLM(config)


def train_model(model: Any, tokens: Tensor, bytes_per_token: float, steps: int, seed: int, folder: Path) -> Curve:
    """Train in place with transformers' Trainer, on windows of 256 tokens, four at a time."""
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    batch, length = 4, 256
    windows = tokens[: len(tokens) // length * length].view(-1, length)
    if not len(windows):
        raise UserError(f"the text has {len(tokens)} tokens", expected=f"at least one window of {length}")

    class Steps(TrainerCallback):  # type: ignore[misc]
        """Hands the loss of every step to the progress bar."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
            if logs and "loss" in logs:
                watch.step(batch * length, logs["loss"])

    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=batch, learning_rate=3e-3,
        lr_scheduler_type="cosine", warmup_steps=max(steps // 20, 1), weight_decay=0.1, logging_steps=1, seed=seed,
        save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    examples = [{"input_ids": window, "labels": window} for window in windows]
    trainer = Trainer(model, arguments, train_dataset=examples, callbacks=[Steps()])
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    with Watch("training", steps * batch * length, bytes_per_token) as watch:
        trainer.train()
    model.eval()
    return watch.curve


def reloaded(model: Any, tokenizer: Any, folder: Path, document: str) -> tuple[Any, Any, float]:
    """Both saved and loaded again; how far logits then are from what they were, on the beginning of a document."""
    from transformers import AutoTokenizer

    from ssmc.models import MambaForCausalLM

    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    again, tokens_again = MambaForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        before, after = (
            m(torch.tensor([t(document).input_ids[:256]])).logits
            for m, t in ((model, tokenizer), (again, tokens_again))
        )
    return again, tokens_again, float((before - after).abs().max())


def sample(model: Any, tokenizer: Any, prompt: str, count: int, seed: int) -> None:
    """Print a text as it is drawn, word by word."""
    from transformers import TextStreamer

    torch.manual_seed(seed)
    print(f"\nIt goes on after {prompt!r}:\n")
    inputs = tokenizer(prompt, return_tensors="pt")
    model.generate(
        input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, max_new_tokens=count, eos_token_id=None,
        do_sample=True, temperature=0.7, streamer=TextStreamer(tokenizer),
    )  # fmt: skip


def main() -> None:
    """Read the folder, train both, save, load, measure."""
    parser = training.options(__doc__, "folder")
    parser.add_argument("folder", type=Path, nargs="?", help="folder of text (default: Python's standard library)")
    parser.add_argument("--pattern", default="*", help="which files of it, like '*.txt'")
    parser.add_argument(
        "--steps", type=training.positive, default=200, help="of training, 1024 tokens each (default 200)"
    )
    parser.add_argument("--vocabulary", type=training.positive, default=2048, help="number of tokens (default 2048)")
    parser.add_argument("--prompt", default="The ", help="what a sample begins with")
    chosen = parser.parse_args()
    training.need("tokenizers", "accelerate", "matplotlib")
    files = training.files_below(chosen.folder, chosen.pattern) if chosen.folder else training.standard_library()
    documents = texts(files)
    learnt, held_out = ([documents[path] for path in side] for side in training.split(list(documents)))
    steps, size, most = (4, (48, 1), 1 << 11) if chosen.quick else (chosen.steps, (192, 4), 1 << 14)
    tokenizer = train_tokenizer(learnt[:40] if chosen.quick else learnt, chosen.vocabulary)
    tokens, per_token = encode(tokenizer, learnt[:40] if chosen.quick else learnt)
    held, held_per_token = encode(tokenizer, held_out[:10] if chosen.quick else held_out)
    torch.manual_seed(chosen.seed)
    model = new_model(tokenizer, *size)
    before = bits_per_byte(model, held, most, bytes_per_token=held_per_token)
    curve = train_model(model, tokens, per_token, steps, chosen.seed, chosen.output)
    after = bits_per_byte(model, held, most, bytes_per_token=held_per_token)
    model, tokenizer, apart = reloaded(model, tokenizer, chosen.output, held_out[0])
    seen = curve.tokens[-1]
    marks = {"held out": ([0, seen], [before, after])}
    training.save_figure(chosen.output / "loss.png", {"training": curve}, marks)
    print()
    facts = {
        "files to learn from, held out": f"{len(learnt)}, {len(held_out)}",
        "tokens known": f"{len(tokenizer):,}, {per_token:.2f} bytes each on average",
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "trained on": f"{seen:,} tokens, {seen * per_token:,.0f} bytes",
        "bits per byte, held out": f"{before:.2f} before, {after:.2f} after",
        "loaded again": f"logits {apart:.1e} from what they were",
        "model and tokenizer": str(chosen.output),
        "loss, as a picture": str(chosen.output / "loss.png"),
    }
    training.print_table([], list(facts.items()))
    sample(model, tokenizer, chosen.prompt, 16 if chosen.quick else 150, chosen.seed)


if __name__ == "__main__":
    training.start(main)
