"""Every decoding method on one model of bytes: milliseconds a token, and how likely the model finds what it wrote.

The model is small and trained on the fly, or one that ``train_bytes.py`` saved; so is the smaller one that guesses in
assisted decoding, where the model checks several guessed tokens in one call.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import training
from torch import Tensor
from torch.nn import functional
from train_bytes import byte_model, train_on_library

from ssmc.errors import UserError

PROMPT = "    def __init__(self, "


@dataclass(frozen=True)
class Written:
    """What a method wrote after the prompt, (count,) int64, and how long it took."""

    method: str
    tokens: Tensor
    seconds: float
    log_likelihood: float

    def row(self) -> list[str]:
        """A line of the table: bits are a logarithm of the likelihood, spread over the tokens."""
        text = bytes(self.tokens.tolist()).decode(errors="replace")
        count = len(self.tokens)
        milliseconds = self.seconds / count * 1e3
        return [self.method, f"{milliseconds:.2f}", f"{self.log_likelihood / count:.3f}", ascii(text)[1:25]]


def methods(assistant: Any) -> dict[str, dict[str, Any]]:
    """What ``generate`` is told, by the name of the method; the assistant guesses four tokens at a time."""
    assistant.generation_config.num_assistant_tokens = 4
    assistant.generation_config.num_assistant_tokens_schedule = "constant"
    return {
        "greedy": {"do_sample": False},
        "sampling": {"do_sample": True, "top_k": 0},
        "sampling, at 0.7": {"do_sample": True, "top_k": 0, "temperature": 0.7},
        "top-k, 10": {"do_sample": True, "top_k": 10},
        "top-p, 0.9": {"do_sample": True, "top_k": 0, "top_p": 0.9},
        "beam search, 4 beams": {"do_sample": False, "num_beams": 4},
        "assisted greedy": {"do_sample": False, "assistant_model": assistant},
        "assisted sampling": {"do_sample": True, "top_k": 0, "assistant_model": assistant},
    }


@torch.no_grad()
def log_likelihood(model: Any, prompt: Tensor, written: Tensor) -> float:
    """Logarithm of the probability that the model gives to a text (count,) after a prompt (1, length), in nats."""
    whole = torch.cat([prompt[0], written])[None]
    predictions = model(whole[:, :-1]).logits[0, prompt.shape[1] - 1 :]
    return -float(functional.cross_entropy(predictions, written, reduction="sum"))


def write(model: Any, method: str, prompt: Tensor, count: int, seed: int, **how: Any) -> Written:
    """Generate exactly ``count`` tokens, and measure."""

    def generate(tokens: int) -> Tensor:
        torch.manual_seed(seed)
        ones = torch.ones_like(prompt)
        limits = {"min_new_tokens": tokens, "max_new_tokens": tokens, "eos_token_id": None}
        return model.generate(prompt, attention_mask=ones, **limits, **how)[0, prompt.shape[1] :]

    generate(8)  # what has to be compiled is compiled now
    start = time.perf_counter()
    tokens = generate(count)
    seconds = time.perf_counter() - start
    return Written(method, tokens, seconds, log_likelihood(model, prompt, tokens))


def model_in(folder: Path) -> Any:
    """A model of bytes that was saved."""
    from ssmc.models import MambaForCausalLM

    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json", expected="a folder that train_bytes.py or make demo saved")
    model = MambaForCausalLM.from_pretrained(folder).eval()
    if model.config.vocab_size != 256:
        raise UserError(f"the model in {folder} has {model.config.vocab_size} tokens", expected="256, the bytes")
    return model


def learnt(width: int, layers: int, tokens: int, seed: int) -> Any:
    """A small model of bytes, trained on the standard library."""
    print(f"training a model of bytes: width {width}, {layers} layers, {tokens:,} bytes")
    return train_on_library(byte_model(width, layers, seed), tokens, seed, most=1 << 13).model


def main() -> None:
    """Train or load, generate, print the table."""
    parser = training.options(__doc__, "decoding")
    parser.add_argument("--model", type=Path, help="folder that train_bytes.py saved; else one is trained now")
    parser.add_argument("--assistant", type=Path, help="the same for the one that guesses")
    parser.add_argument(
        "--tokens", type=training.positive, default=256, help="how many tokens each method writes (default 256)"
    )
    chosen = parser.parse_args()
    training.need()
    bytes_, count = (5_200, 24) if chosen.quick else (150_000, chosen.tokens)
    model = model_in(chosen.model) if chosen.model else learnt(128, 3, bytes_, chosen.seed)
    assistant = model_in(chosen.assistant) if chosen.assistant else learnt(64, 1, bytes_, chosen.seed)
    prompt = torch.tensor([list(PROMPT.encode())])
    found = [write(model, name, prompt, count, chosen.seed, **how) for name, how in methods(assistant).items()]
    print(f"\n{count} tokens after {PROMPT!r}")
    training.print_table(["method", "ms a token", "nats a token", "how it goes on"], [item.row() for item in found])
    by_name = {item.method: item for item in found}
    same = int((by_name["greedy"].tokens == by_name["assisted greedy"].tokens).long().cumprod(0).sum())
    print(f"nats a token: mean log of the model's probability of what was written; by chance {-math.log(256):.2f}")
    print(f"assisted greedy decoding wrote the same as greedy decoding for {same} of {count} tokens")
    print("assistance saves time where a call of the model takes many times as long as a call of the assistant")


if __name__ == "__main__":
    training.start(main)
