"""A Mamba that reads bytes, trained on the Python standard library's own sources: in about two minutes on two cores.

Whole files are held out. Bits per byte on them before and after, a picture of the loss, a generated sample, and the
model in a folder, for ``ssmc.models.MambaForCausalLM.from_pretrained``.
"""

from __future__ import annotations

import codecs
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import training
from training import Curve, Recipe, bits_per_byte

TOKENS, PROMPT, SAMPLED = 1_200_000, "class Reader:\n    def __init__(self, ", 400
QUICK_TOKENS = 5_200


@dataclass(frozen=True)
class Trained:
    """A model of bytes, the bits per byte that it needed on files held out, and what training it was like."""

    model: Any
    before: float
    after: float
    curve: Curve
    seconds: float


def byte_model(width: int = 192, layers: int = 4, seed: int = 0) -> Any:
    """A new ``MambaForCausalLM`` whose tokens are bytes, and byte 0 is where a text begins and ends."""
    from transformers import MambaConfig

    from ssmc.models import MambaForCausalLM

    torch.manual_seed(seed)
    config = MambaConfig(
        vocab_size=256, hidden_size=width, num_hidden_layers=layers, initializer_range=0.02,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return MambaForCausalLM(config)


def recipe(tokens: int, seed: int = 0) -> Recipe:
    """Small batches, since there are few tokens and every step counts."""
    return Recipe(tokens=tokens, learning_rate=4e-3, length=256, batch=4, seed=seed)


def train_on_library(model: Any, tokens: int, seed: int = 0, most: int = 1 << 16) -> Trained:
    """Train a model of bytes on the standard library, and measure it on at most ``most`` bytes of files held out."""
    learnt, held_out = (training.read(files) for files in training.split(training.standard_library()))
    before = bits_per_byte(model, held_out, most)
    start = time.perf_counter()
    curve = training.train(model, learnt, recipe(tokens, seed))
    seconds = time.perf_counter() - start
    return Trained(model, before, bits_per_byte(model, held_out, most), curve, seconds)


class ByteStreamer:
    """What ``generate(streamer=…)`` calls with every new token: writes bytes as text as soon as they are characters."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def put(self, tokens: torch.Tensor) -> None:
        """Print the prompt, (1, length), or one token, (1,)."""
        text = self._decoder.decode(bytes(tokens.flatten().tolist()))
        # A control character, drawn by chance, would do something to the terminal.
        sys.stdout.write("".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text))
        sys.stdout.flush()

    def end(self) -> None:
        """Print what is left."""
        print(self._decoder.decode(b"", final=True))


def stream_sample(model: Any, prompt: str, count: int, seed: int = 0) -> None:
    """Print a text that begins like this, one token after another as they are drawn."""
    torch.manual_seed(seed)
    tokens = torch.tensor([list(prompt.encode())])
    drawn = {"do_sample": True, "temperature": 0.9, "top_k": 0}
    limits = {"max_new_tokens": count, "eos_token_id": None}
    model.generate(tokens, attention_mask=torch.ones_like(tokens), streamer=ByteStreamer(), **limits, **drawn)


def show(tokens: int, seed: int, output: Path, quick: bool = False) -> Trained:
    """Train, print, draw, sample and save; what ``make demo`` runs, too."""
    training.need("matplotlib")
    model = byte_model(64, 2, seed) if quick else byte_model(seed=seed)
    count = sum(p.numel() for p in model.parameters())
    learnt, held_out = training.split(training.standard_library())
    print(f"model                 Mamba, {count / 1e6:.2f} million parameters, {model.config.num_hidden_layers} layers")
    print(f"text                  {len(learnt)} files of Python's library to learn from, {len(held_out)} held out")
    found = train_on_library(model, tokens, seed, 1 << 13 if quick else 1 << 16)
    seen, picture = found.curve.tokens[-1], output / "loss.png"
    speed = f"{seen:,} bytes in {found.seconds:.0f} s, {found.curve.speed:,.0f} a second after the first step"
    print(f"trained on            {speed}, {torch.get_num_threads()} threads")
    print(f"files held out        {found.before:.2f} bits per byte before, {found.after:.2f} after")
    training.save_figure(picture, {"training": found.curve}, {"held out": ([0, seen], [found.before, found.after])})
    model.save_pretrained(output)
    print(f"loss, as a picture    {picture}")
    print(f"the model             {output}")
    print("\nWhat it writes:\n")
    stream_sample(model, PROMPT, 40 if quick else SAMPLED, seed)
    return found


def tokens_asked(tokens: int | None, quick: bool) -> int:
    """How many to train on."""
    return tokens or (QUICK_TOKENS if quick else TOKENS)


def main() -> None:
    """Read the options, and show it."""
    parser = training.options(__doc__, "bytes")
    parser.add_argument("--tokens", type=training.positive, help=f"how many bytes to train on (default {TOKENS:,})")
    chosen = parser.parse_args()
    show(tokens_asked(chosen.tokens, chosen.quick), chosen.seed, chosen.output, chosen.quick)


if __name__ == "__main__":
    training.start(main)
