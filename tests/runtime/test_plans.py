"""Layers that are loaded with a plan."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch

import ssmc
from ssmc.cli import run
from ssmc.passes import PlanOptions
from ssmc.verify import verify

TEXT = """layer windowed(x[b, t, d], a[d, n], w[d, n]) -> y[b, t, d]:
    seq t
    h = sigmoid(a) * h[t-1] + x
    y = sum[n](w * h)
"""


def arguments() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = {"x": (2, 9, 19), "a": (19, 4), "w": (19, 4)}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def test_a_plan_is_what_is_compiled() -> None:
    usual, planned = ssmc.compile(TEXT), ssmc.compile(TEXT, plan="lanes=32,tile=0")
    given = {name: value.requires_grad_() for name, value in arguments().items()}
    first, second = usual(**given), planned(**given)
    torch.testing.assert_close(first, second)
    for one, other in zip(
        *(torch.autograd.grad(y.square().sum(), [*given.values()]) for y in (first, second)), strict=True
    ):
        torch.testing.assert_close(one, other)
    usual(**arguments()), planned(**arguments())
    assert usual.source.read_bytes() != planned.source.read_bytes()
    assert "options: lanes=32,tile=0" in str(planned.explain()) and "options" not in str(usual.explain())


def test_a_plan_goes_where_a_layer_goes() -> None:
    planned = ssmc.load("affine_scan", plan=PlanOptions(lanes=32))
    assert planned.plan == PlanOptions(lanes=32) and ssmc.load("affine_scan").plan == PlanOptions()
    for copied in (pickle.loads(pickle.dumps(planned)), copy.deepcopy(planned)):
        assert copied.plan == planned.plan


def test_mistakes() -> None:
    with pytest.raises(ssmc.UserError, match="there is no option `lane`"):
        ssmc.load("affine_scan", plan="lane=8")
    with pytest.raises(ssmc.UserError, match="`plan` is an object of type int"):
        ssmc.load("affine_scan", plan=8)  # type: ignore[arg-type]
    with pytest.raises(ssmc.UserError, match="`threads` does not concern target c"):
        ssmc.compile(TEXT, plan="threads=64")(**arguments())


def test_verify_looks_at_the_plan() -> None:
    found = verify(ssmc.compile(TEXT, plan="lanes=32,tile=0"), storages=["f32"], only=["forward"])
    assert found.ok and {row.subject for row in found.rows} == {"c, float32"}
    assert ("plan", "lanes=32,tile=0") in found.about
    with pytest.raises(ssmc.UserError, match="`lanes` does not concern target cuda"):
        ssmc.compile(TEXT, plan="lanes=32").verify(targets=["cuda"])


@pytest.mark.parametrize(
    "command",
    [
        ["compile", "affine_scan", "--emit", "plan"],
        ["explain", "affine_scan", "--sizes", "b=1,t=9,d=5"],
        ["verify", "affine_scan", "--only", "forward", "--dtype", "f32", "--jobs", "1"],
    ],
    ids=lambda command: command[0],
)
def test_on_the_command_line(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--plan", "lanes=32", "--json"]) == 0
    assert "lanes=32" in json.dumps(json.loads(capsys.readouterr().out))
    assert run([*command, "--plan", "lanes=7"]) == 1
    assert "lanes cannot be 7" in capsys.readouterr().err


def test_a_plan_stays_where_a_target_is_chosen() -> None:
    chosen = ssmc.compile(TEXT, plan="lanes=32").choosing("c")
    assert chosen.plan == pickle.loads(pickle.dumps(chosen)).plan == PlanOptions(lanes=32)
    assert ssmc.compile(TEXT, target="c", plan="lanes=32").plan == PlanOptions(lanes=32)
