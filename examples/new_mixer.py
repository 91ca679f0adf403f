"""A new mixer, ``new_mixer.ssm``, in the place of Mamba's selective scan, trained beside the original.

Its equations are all there is of it: kernels, gradient, decoding token by token and padding follow from them. It takes
what the selective scan takes, so that one assignment puts it into the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import training
from train_bytes import PROMPT, Trained, byte_model, stream_sample, train_on_library

import ssmc
from ssmc.errors import UserError
from ssmc.verify import verify

SPEC = Path(__file__).with_name("new_mixer.ssm")
ASKED = ("forward", "step by step", "gradient")


def with_mixer(model: Any, spec: Path) -> Any:
    """The model, whose every block calls a layer of the user's where it called the selective scan."""
    from ssmc.models import MixerLayers

    layers = MixerLayers()
    mixer = ssmc.load(spec)
    names = [item.name for item in layers.scan.signature.inputs if item.name != "h0"]
    found = [item.name for item in mixer.signature.inputs]
    if found != names:
        raise UserError(f"{spec.name} has the inputs {', '.join(found)}", expected=", ".join(names))
    layers.scan = mixer
    for block in model.backbone.layers:
        block.mixer.layers = layers
    return model


def check(spec: Path, asked: tuple[str, ...]) -> None:
    """Say whether the layer's machine code, its steps and its gradient agree with its equations; UserError if not."""
    print(f"{spec.name}:\n\n{spec.read_text(encoding='utf-8')}")
    found = verify(ssmc.load(spec), targets=("c",), storages=("f32",), only=asked)
    print(f"{found}\n")
    if not found.ok:
        raise UserError(f"{spec.name} is not one function in all its forms", hint=f"ssmc verify {spec}")


def show(trained: dict[str, Trained]) -> None:
    """One line for each mixer."""
    rows = []
    for name, found in trained.items():
        count = sum(p.numel() for p in found.model.parameters())
        rows.append([name, f"{count:,}", f"{found.before:.3f}", f"{found.after:.3f}", f"{found.curve.speed:,.0f}"])
    training.print_table(["mixer", "parameters", "bits per byte before", "after", "bytes/s"], rows)


def main() -> None:
    """Check the mixer, train both models on the same bytes in the same order, compare."""
    parser = training.options(__doc__, "mixer")
    parser.add_argument("--spec", type=Path, default=SPEC, help="another layer with the inputs of the selective scan")
    parser.add_argument("--tokens", type=training.positive, default=100_000, help="bytes for each (default 100000)")
    chosen = parser.parse_args()
    training.need("matplotlib")
    check(chosen.spec, ASKED[:1] if chosen.quick else ASKED)
    tokens, width, layers = (5_200, 48, 1) if chosen.quick else (chosen.tokens, 128, 3)
    trained = {}
    for name in ("selective scan", chosen.spec.stem):
        model = byte_model(width, layers, chosen.seed)
        if name != "selective scan":
            model = with_mixer(model, chosen.spec)
        print(f"training Mamba with {name}: {tokens:,} bytes of Python's library")
        trained[name] = train_on_library(model, tokens, chosen.seed, most=1 << 13 if chosen.quick else 1 << 15)
    show(trained)
    picture = chosen.output / "loss.png"
    training.save_figure(picture, {name: found.curve for name, found in trained.items()})
    print(f"both losses, as a picture: {picture}\n\nWhat the model with the new mixer writes:\n")
    stream_sample(trained[chosen.spec.stem].model, PROMPT, 30 if chosen.quick else 200, chosen.seed)


if __name__ == "__main__":
    training.start(main)
