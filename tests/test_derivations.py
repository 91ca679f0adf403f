"""What can be derived from a layer: the commands print it, the text reads back, and the committed table is true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssmc import dsl
from ssmc.derivations import DERIVATIONS, derivation, verdicts
from ssmc.errors import Unsupported
from ssmc.ir import Program, verify
from ssmc.ir.interpret import interpret
from tests.passes.directions import library_inputs

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "derivations.md"
LAYERS = [(name, layer) for name in dsl.library_names() for layer in dsl.load_module(name).layers]
SMALL = """layer decay(x[b, t, d], a[d], z[b, t, d]?, *, scale: real = 1.0) -> y[b, t, d]:
    seq t
    h = a * h[t-1] + scale * x
    y = h * silu(z) when given(z) else h
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "decay.ssm"
    path.write_text(SMALL)
    return path


def command_of(name: str) -> str:
    return name.replace("_", "-")


# ---------------------------------------------------------------- the library


@pytest.mark.parametrize("module, layer", LAYERS, ids=lambda name: str(name))
def test_what_is_printed_reads_back(ssmc: Any, module: str, layer: str) -> None:
    """Every derivation of every layer, by its command; what does not apply says so and exits with 4."""
    loaded = dsl.load_module(module)
    choice = next(iter(dsl.choices(loaded, loaded.layer(layer))))
    settings = [f"--set={name}={_written(value)}" for name, value in choice.statics.items()]
    program = dsl.elaborate(loaded, layer, choice)
    for row in DERIVATIONS:
        ran = ssmc(command_of(row.name), f"{module}:{layer}", *settings)
        try:
            derived = row.apply(program)
        except Unsupported as error:
            assert ran.code == 4 and not ran.out and error.diagnostics[0].message in ran.err
            continue
        assert ran.code == 0, ran.err
        verify(derived)
        assert dsl.read_program(ran.out) == derived


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_the_table_is_up_to_date(ssmc: Any) -> None:
    """Else: `ssmc library --derivations > docs/derivations.md`."""
    ran = ssmc("library", "--derivations")
    assert ran.code == 0 and ran.out == PAGE.read_text(encoding="utf-8")


def test_the_table_says_which_input_is_in_the_way() -> None:
    verdict = verdicts(dsl.load_module("long_conv"), "long_conv")["step"]
    assert verdict.applies and verdict.without == ("K_back",) and "'u' later in 't'" in verdict.reason
    verdict = verdicts(dsl.load_module("norms"), "rms_norm")["step"]
    assert not verdict.applies and "sequence axes" in verdict.reason


# ---------------------------------------------------------------- options


def layer(text: str) -> Program:
    return dsl.read_program(text)


def test_grad_of_some(ssmc: Any, small: Path) -> None:
    derived = layer(ssmc("grad", small, "--wrt", "a, x", "--without", "z", "--set", "scale=2.5").out)
    assert [t.name for t in derived.inputs] == ["x", "a", "d.y"] and derived.outputs == ("d.a", "d.x")
    found = json.loads(ssmc("grad", small, "--of", "y", "--json").out)
    assert found["derivations"] == ["grad"] and found["outputs"] == ["d.x", "d.a", "d.z"]
    assert layer(found["text"]).outputs == ("d.x", "d.a", "d.z")


def test_step_in_halves(ssmc: Any, small: Path) -> None:
    both = layer(ssmc("step", small).out)
    takes, gives = layer(ssmc("step", small, "--takes").out), layer(ssmc("step", small, "--gives").out)
    assert [t.name for t in both.inputs] == [t.name for t in takes.inputs] == ["x", "a", "z", "h.state"]
    assert both.outputs == gives.outputs == ("y", "h.next") and takes.outputs == ("y",)
    assert layer(ssmc("step", small, "--takes", "--gives").out) == both


def test_jvp_with_the_value(ssmc: Any, small: Path) -> None:
    derived = layer(ssmc("jvp", small, "--wrt", "a", "--primal").out)
    assert derived.inputs[-1].name == "dot.a" and derived.outputs == ("y", "dot.y")


def test_one_after_the_other(ssmc: Any, small: Path, tmp_path: Path) -> None:
    """In one command, and by way of a file, which is simplified when it is read."""
    chained = ssmc("grad", small, "--after", "step")
    program = dsl.elaborate(dsl.load_module(str(small)), None, dsl.Choice())
    derived = derivation("grad").apply(derivation("step").apply(program))
    assert layer(chained.out) == derived and "d.h.next" in chained.out
    stepped = tmp_path / "stepped.ssm"
    stepped.write_text(ssmc("step", small).out)
    other = layer(ssmc("grad", stepped).out)
    inputs = library_inputs(derived, {"b": 2, "t": 3, "d": 2})
    found = interpret(other, inputs)
    for name, value in interpret(derived, inputs).items():
        np.testing.assert_allclose(found[name], value, 1e-12, 1e-12)


def test_help_says_what_is_derived(ssmc: Any) -> None:
    text = " ".join(ssmc("--help").out.split())
    for row in DERIVATIONS:
        shown = " ".join(ssmc(command_of(row.name), "--help").out.split())
        assert row.meaning in shown and row.detail in shown and "--after" in shown
        assert f"{command_of(row.name)} Print {row.meaning[:30]}" in text


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["grad", "{file}", "--after", "stop"], 2, "'stop' is none of step"),
        (["grad", "{file}", "--wrt", "q"], 1, "'q' is no input with a gradient"),
        (["grad", "{file}", "--of", "x"], 1, "'x' is no output with a gradient"),
        (["jvp", "{file}", "--wrt", "y"], 1, "'y' is no input with a gradient"),
        (["grad"], 2, "Missing argument"),
        (["step", "{file}", "--sizes", "b=1"], 2, "No such option"),
        (["step", "{file}", "--after", "grad"], 4, "no step form"),
        (["step", "{file}:other"], 1, "no layer `other`"),
        (["grad", "yoso:yoso_codes"], 4, "no real or complex numbers in 'code'"),
    ],
)
def test_what_cannot_be_derived(ssmc: Any, small: Path, arguments: list[str], code: int, words: str) -> None:
    ran = ssmc(*(a.format(file=small) for a in arguments))
    assert ran.code == code and words in ran.err and not ran.out


def test_long_sums_can_be_derived(ssmc: Any, tmp_path: Path) -> None:
    """About as many terms as the language allows."""
    path = tmp_path / "long.ssm"
    terms = " + ".join(f"x ^ {k}" for k in range(150))
    path.write_text(f"layer long(x[t], a[t]) -> y[t]:\n    seq t\n    y = a * y[t-1] + {terms}\n")
    for row in DERIVATIONS:
        ran = ssmc(command_of(row.name), path)
        assert ran.code == 0, ran.err
