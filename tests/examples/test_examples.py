"""Every example runs, learns, says what it found, and draws it; what they share does what it says."""

from __future__ import annotations

import importlib
import math
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a file of examples/ as the examples themselves do."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: Any, tmp_path: Path
) -> Callable[..., str]:
    """Runs an example in this process, with ``--output`` in a folder of the test's own; what it prints."""

    def example(name: str, *arguments: str | Path) -> str:
        words = [f"{name}.py", "--quick", "--output", str(tmp_path / "out"), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        printed = capsys.readouterr().out
        assert "\x1b" not in printed
        return printed

    return example


def assert_picture(path: Path) -> None:
    """It is a picture, and something is drawn in it."""
    from matplotlib.image import imread

    pixels = imread(path)
    assert min(pixels.shape[:2]) > 100 and pixels.std() > 0.01


def before_and_after(printed: str) -> tuple[float, float]:
    """Bits per byte."""
    found = re.search(r"([\d.]+)(?: bits per byte)? before, ([\d.]+) after", printed)
    assert found
    return float(found[1]), float(found[2])


# ---------------------------------------------------------------- each example


def test_demo(run: Any, tmp_path: Path) -> None:
    """The demo's layer agrees with the interpreter; its model learns, is saved, draws and writes."""
    printed = run("demo")
    difference = re.search(r"largest difference +(\S+) from the float64 interpreter", printed)
    assert difference and float(difference[1]) < 1e-3
    before, after = before_and_after(printed)
    assert after < before - 0.5
    assert "training  100%" in printed and "tokens/s" in printed
    assert "class Reader:\n    def __init__(self, " in printed.partition("What it writes:")[2]
    assert_picture(tmp_path / "out" / "loss.png")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_decoding(run: Any, module: Any, tmp_path: Path) -> None:
    """A saved model is taken; every method writes; guessing changes nothing about what greedy decoding finds."""
    module("train_bytes").byte_model(32, 1).save_pretrained(tmp_path / "model")
    saved = ["--model", tmp_path / "model", "--assistant", tmp_path / "model"]
    printed = run("decoding", *saved)
    for name in ("greedy", "sampling", "top-k", "top-p", "beam search", "assisted"):
        assert name in printed
    assert "the same as greedy decoding for 24 of 24 tokens" in printed


def test_lora(run: Any, tmp_path: Path) -> None:
    """Adapters lower the loss on new text; merged into the weights they say the same."""
    printed = run("lora")
    rows = {name: re.search(rf"{name} +([\d.]+) +([\d.]+)", printed) for name in ("before", "with adapters", "merged")}
    assert all(rows.values())
    new = {name: float(row[2]) for name, row in rows.items() if row}
    assert new["with adapters"] < new["before"] - 0.02 and new["merged"] == new["with adapters"]
    apart = re.search(r"logits (\S+) from those", printed)
    assert apart and float(apart[1]) < 1e-3
    assert_picture(tmp_path / "out" / "loss.png")


def test_train_on_folder(run: Any, tmp_path: Path) -> None:
    """A folder of the user's own: the model learns, and comes back from the disk as it was."""
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number}.txt").write_text(f"The {number} bottles on the wall were green. " * 200, encoding="utf-8")
    (folder / "picture.bin").write_bytes(b"\xff\xfe\x80" * 50)
    printed = run("train_on_folder", folder, "--vocabulary", "300", "--steps", "8")
    before, after = before_and_after(printed)
    assert after < before
    assert "logits 0.0e+00 from what they were" in printed
    assert_picture(tmp_path / "out" / "loss.png")


def test_new_mixer(run: Any, tmp_path: Path) -> None:
    """The new layer holds what it promises, and a model with it learns beside the original."""
    printed = run("new_mixer")
    assert "verdict   holds" in printed
    for name in ("selective scan", "new_mixer"):
        row = re.search(rf"{name} +[\d,]+ +([\d.]+) +([\d.]+)", printed)
        assert row and float(row[2]) < float(row[1]) - 0.5, printed
    assert_picture(tmp_path / "out" / "loss.png")


def test_new_mixer_takes_what_the_scan_takes(module: Any, tmp_path: Path) -> None:
    """Inputs of other names or in another order would silently mean something else."""
    from ssmc.errors import UserError

    text = (EXAMPLES / "new_mixer.ssm").read_text(encoding="utf-8").replace("A_log", "A")
    (tmp_path / "other.ssm").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"has the inputs x, dt, A, B(.|\n)*expected: x, dt, A_log, B"):
        module("new_mixer").with_mixer(module("train_bytes").byte_model(16, 1), tmp_path / "other.ssm")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_demo_learns_python(module: Any) -> None:
    """What ``make demo`` promises: under 2.8 bits per byte on files that the model has not seen."""
    train_bytes = module("train_bytes")
    found = train_bytes.train_on_library(train_bytes.byte_model(), train_bytes.TOKENS)
    assert found.before > 7 and found.after < 2.8


# ---------------------------------------------------------------- what is wrong is said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train_on_folder", "nowhere"), "nowhere is no folder"),
        (("decoding", "--model", "nowhere"), "nowhere has no config.json"),
        (("new_mixer", "--spec", "nowhere.ssm"), "nowhere.ssm"),
    ],
)
def test_mistakes_are_said(run: Any, words: tuple[str, ...], said: str) -> None:
    """They end an example with a message, which Python prints instead of a traceback."""
    with pytest.raises(SystemExit, match=rf"^error: (.|\n)*{said}"):
        run(*words)


def test_alone(tmp_path: Path) -> None:
    """An example finds what it needs from any folder; a mistake is one message and exit status 1."""
    words = [sys.executable, EXAMPLES / "train_on_folder.py", "nowhere"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=200)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("error: nowhere is no folder") and "Traceback" not in done.stderr


def test_missing_libraries_are_named(module: Any) -> None:
    from ssmc.errors import ToolchainError

    with pytest.raises(ToolchainError, match=r"no_such_library cannot be imported(.|\n)*try: "):
        module("training").need("no_such_library")


# ---------------------------------------------------------------- what they share


def test_files_keep_their_side(module: Any, tmp_path: Path) -> None:
    """The two sides have no file in common; a new file moves no other."""
    training = module("training")
    files = [tmp_path / f"{number}.py" for number in range(200)]
    learnt, held_out = training.split(files)
    assert sorted(learnt + held_out) == sorted(files) and 5 < len(held_out) < 50
    fewer = training.split(files[::2])
    assert set(fewer[0]) <= set(learnt) and set(fewer[1]) <= set(held_out)


def test_standard_library_leaves_out_what_is_not_pythons_own(module: Any) -> None:
    files = module("training").standard_library()
    folders = {part for path in files for part in path.parts}
    assert len(files) > 300 and not folders & {"site-packages", "test", "encodings"}


@pytest.mark.parametrize("length", [1, 7, 64])
def test_bits_per_byte_of_known_models(module: Any, length: int) -> None:
    """8 for a model that knows nothing; 0 for one that knows that every byte is one more than the last."""
    training, text = module("training"), (torch.arange(200) % 256).to(torch.uint8)

    class Model(torch.nn.Module):
        sure = 0.0

        def forward(self, input_ids: torch.Tensor) -> Any:
            return SimpleNamespace(logits=self.sure * torch.nn.functional.one_hot((input_ids + 1) % 256, 256).float())

    model = Model()
    assert training.bits_per_byte(model, text, length=length) == pytest.approx(8, abs=1e-5)
    assert training.bits_per_byte(model, text, length=length, bytes_per_token=4.0) == pytest.approx(2, abs=1e-5)
    model.sure = 100.0
    assert training.bits_per_byte(model, text, length=length) == pytest.approx(0, abs=1e-5)


def test_learning_rate_rises_and_falls(module: Any) -> None:
    training = module("training")
    recipe = training.Recipe(tokens=100 * 64, learning_rate=1.0, length=8, batch=8, warm_up=0.1)
    rates = [training._rate(step, recipe) for step in range(recipe.steps)]
    assert len(rates) == 100 and max(rates) == 1.0
    assert rates[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] == pytest.approx(0.1, abs=1e-3)


def test_losses_are_smoothed_without_a_bias_to_zero(module: Any) -> None:
    smooth = module("training")._smooth
    assert smooth([3.0] * 5) == pytest.approx([3.0] * 5)
    assert smooth([1.0, 3.0], keep=0.5) == pytest.approx([1.0, 7 / 3])


def test_progress_without_a_terminal(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for the end at least: the loss, in bits per byte too, and the speed."""
    with module("training").Watch("learning", 30, bytes_per_token=2.0, seconds=1000.0) as watch:
        for _ in range(3):
            watch.step(10, math.log(2) * 3)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[-1].startswith("learning  100%  loss 2.079  1.50 bits/byte")
    assert watch.curve.tokens == [10, 20, 30] and watch.curve.bits == pytest.approx([1.5] * 3) and watch.curve.speed > 0


def test_bytes_are_streamed_as_characters(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A character of several bytes is printed when it is whole; what is none, or steers a terminal, becomes a mark."""
    streamer = module("train_bytes").ByteStreamer()
    streamer.put(torch.tensor([list(b"a")]))
    first, second = "é".encode()
    streamer.put(torch.tensor([first]))
    assert capsys.readouterr().out == "a"
    for token in (second, 0, 0xFF):
        streamer.put(torch.tensor([token]))
    streamer.end()
    assert capsys.readouterr().out == "é\ufffd\ufffd\n"
