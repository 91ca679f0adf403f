"""Layers as PyTorch operators: the dispatcher, compile, export, modes and transforms."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import ssmc
from ssmc.runtime import Layer, State
from ssmc.runtime.forms import form_check, is_plain
from tests.runtime.layers import decay, mixed, scan_inputs

ROOT = Path(__file__).resolve().parent.parent.parent


def values_of(op: Layer, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor | None]:
    return [inputs.get(item.name) for item in op.signature.inputs]


def step_inputs() -> tuple[Layer, dict[str, torch.Tensor], State]:
    op, inputs = ssmc.load("selective_scan"), scan_inputs()
    _, state = op(**inputs, return_state=True)
    return op, inputs, state


@pytest.mark.parametrize("gives", [False, True])
@pytest.mark.parametrize("takes", [False, True])
def test_opcheck(takes: bool, gives: bool) -> None:
    op, inputs, state = step_inputs()
    torch.library.opcheck(op._overload, (*values_of(op, inputs), True, list(state) if takes else None, gives))


def test_opcheck_with_static_parameters() -> None:
    op = mixed()
    x, w = torch.randn(2, 5, 3), torch.randn(3, 2)
    torch.library.opcheck(op._overload, (*values_of(op, {"x": x, "w": w}), 0.5, 0, True, "relu", None, True))


def test_schema() -> None:
    schema = str(mixed()._overload._schema)
    inputs = "Tensor x, Tensor w, Tensor? bias, Tensor? z, Tensor? scale, Tensor? code, Tensor? keep"
    statics = "float static_0, int static_1, bool static_2, str static_3"
    assert schema.startswith("ssmc::mixed_") and f"({inputs}, {statics}, Tensor[]? state, bool return_state)" in schema
    assert torch.Tag.pt2_compliant_tag in mixed()._overload.tags
    assert torch.Tag.needs_exact_strides in mixed()._overload.tags


def test_awkward_names() -> None:
    text = "layer λ_scan(lambda[b, t], self[b, t], état[b, t]?) -> y[b, t]:\n    y = lambda + self\n"
    op = ssmc.compile(text)
    x = torch.randn(2, 3)
    assert torch.equal(op(x, x), 2 * x) and torch.equal(op(x, self=x), 2 * x)
    torch.library.opcheck(op._overload, (x, x, None, None, False))


class Block(torch.nn.Module):
    """A layer between two maps, with a state that goes round."""

    def __init__(self, channels: int = 8, states: int = 4) -> None:
        super().__init__()
        self.mix = torch.nn.Linear(channels, channels)
        self.A = torch.nn.Parameter(-torch.rand(channels, states))
        self.B = torch.nn.Linear(channels, states)
        self.scan = ssmc.load("selective_scan")

    def forward(self, x: torch.Tensor, state: State | None = None) -> tuple[torch.Tensor, State]:
        u = torch.relu(self.mix(x))
        y, state = self.scan(u, u, self.A, self.B(x), self.B(u), state=state, return_state=True)
        return self.scan(y, u, self.A, B=self.B(x), C=self.B(u), z=x) + 1, state


def test_compile_whole_graph_with_state() -> None:
    block = Block().eval()
    compiled = torch.compile(block, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for batch, length in [(2, 5), (3, 7), (4, 2)]:
            x = torch.randn(batch, length, 8)
            wanted, wanted_state = block(x)
            y, state = compiled(x)
            torch.testing.assert_close(y, wanted)
            assert state.names == ("h",)
            torch.testing.assert_close(state["h"], wanted_state["h"])
            token = torch.randn(batch, 3, 8)
            wanted, wanted_state = block(token, wanted_state)
            y, state = compiled(token, state)
            torch.testing.assert_close(y, wanted)
            torch.testing.assert_close(state["h"], wanted_state["h"])


def test_compile_with_counters_statics_and_out() -> None:
    op = mixed(gated=True)

    def two(x: torch.Tensor, w: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, State]:
        _, _, state = op(x, w, act="relu", return_state=True)
        y, n, state = op(x, w, state=state, return_state=True, act="relu")
        ssmc_decay(x, w[:, 0], out=target)
        return y + n[..., None], state

    ssmc_decay = decay()
    x, w = torch.randn(2, 5, 3), torch.rand(3, 2)
    target, wanted_target = torch.zeros(2, 5, 3), torch.zeros(2, 5, 3)
    wanted, wanted_state = two(x, w, wanted_target)
    y, state = torch.compile(two, fullgraph=True)(x, w, target)
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(target, wanted_target)
    assert state["t"].item() == wanted_state["t"].item() == 10


LOAD = """
import sys, torch, ssmc
from ssmc.runtime import State
ssmc.load("selective_scan")
block = torch.export.load(sys.argv[1]).module()
with torch.no_grad():
    y, state = block(torch.randn(4, 6, 8), State(["h"], [torch.randn(4, 1, 8, 4)]))
print(tuple(y.shape), state.names)
"""


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool, tmp_path: Path) -> None:
    block = Block().eval()
    batch, length = torch.export.Dim("batch", max=64), torch.export.Dim("length", max=64)
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        _, state = block(x)
        shapes: Any = ({0: batch, 1: length}, [{0: batch}])
        program = torch.export.export(block, (x, state), dynamic_shapes=shapes, strict=strict)
        torch.export.save(program, tmp_path / "block.pt2")
        again = torch.export.load(tmp_path / "block.pt2").module()
        x = torch.randn(3, 9, 8)
        _, state = block(x)
        y, found = again(x, state)
        wanted, wanted_state = block(x, state)
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(found["h"], wanted_state["h"])
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path / "block.pt2")], cwd=ROOT, capture_output=True, text=True
    )
    assert loaded.returncode == 0 and loaded.stdout.split() == ["(4,", "6,", "8)", "('h',)"], loaded.stderr
    assert any("selective_scan_" in str(node.target) for node in program.graph.nodes)


def test_fake_tensors() -> None:
    op, inputs, state = step_inputs()
    with FakeTensorMode() as mode:
        fakes = {name: mode.from_tensor(value) for name, value in inputs.items()}
        held = State(state.names, [mode.from_tensor(value) for value in state])
        y, after = op(**fakes, state=held, return_state=True)
    assert isinstance(y, FakeTensor) and y.shape == inputs["x"].shape and after.names == ("h",)
    assert after["h"].shape == state["h"].shape


class Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class Doubled(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [Seen, Doubled])
def test_modes_see_the_operator(mode: Any) -> None:
    op = decay()
    x, a = torch.randn(2, 5, 3), torch.rand(3)
    y = op(x, a)
    for _ in range(2):
        with mode() as seen:
            assert torch.equal(op(x, a), y)
        assert any("decay_" in name for name in seen.names)


def test_the_profiler_sees_the_operator() -> None:
    op = decay()
    x, a = torch.randn(2, 5, 3), torch.rand(3)
    op(x, a)
    with torch.autograd.profiler.profile() as profile:
        op(x, a)
    assert any("decay_" in event.key for event in profile.key_averages())


def test_subclasses() -> None:
    class Tagged(torch.Tensor):
        pass

    op = decay()
    x, a = torch.randn(2, 5, 3), torch.rand(3)
    y = op(x, a)
    for _ in range(2):
        assert torch.equal(op(x.as_subclass(Tagged), a).as_subclass(torch.Tensor), y)


def test_tracing_by_fx_and_jit() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    op = decay()
    x, a = torch.randn(2, 5, 3), torch.rand(3)
    y = op(x, a)
    graph = make_fx(lambda x, a: op(x, a) + 1)(x, a)
    assert "decay_" in str(graph.graph) and torch.equal(graph(x, a), y + 1)


def test_vmap() -> None:
    op = decay()
    x, a, h0 = torch.randn(4, 2, 5, 3), torch.rand(3), torch.randn(2, 3, 4)
    op(x[0], a, h0[..., 0])
    wanted = torch.stack([op(item, a, start) for item, start in zip(x, h0.unbind(2), strict=True)])
    assert torch.equal(torch.vmap(op, in_dims=(0, None, 2))(x, a, h0), wanted)
    _, state = op(x[0], a, return_state=True)
    found = torch.vmap(lambda item: op(item, a, state=state))(x)
    assert torch.equal(found, torch.stack([op(item, a, state=state) for item in x]))


def test_forms() -> None:
    x, a = torch.randn(2, 5, 3), torch.rand(3)
    check = form_check((x, a))
    assert check(x.clone(), a.clone()) and is_plain((x, a), False)
    other = torch.randn(2, 5, 6)
    for wrong in (x[:1], x.double(), other[..., ::2], x.to("meta"), torch.nn.Parameter(x), None, 1.0):
        assert not check(wrong, a)
    negative = torch.randn(2, 5, 3, dtype=torch.complex64).conj().imag
    positive = torch.randn(2, 5, 3, dtype=torch.complex64).imag
    assert form_check((positive, a))(positive, a) and not form_check((positive, a))(negative, a)
    assert not is_plain((negative, a), False) and not is_plain((x.to("meta"), a), False)
    with torch.inference_mode():
        made = torch.zeros(2, 5, 3)
    assert not check(made, a), "dispatched differently, so found by its properties"


def test_default_device_and_dtype_do_not_matter() -> None:
    op = decay()
    x, a = torch.randn(2, 5, 3), torch.rand(3)
    y = op(x, a)
    with torch.device("meta"):
        assert torch.equal(op(x, a), y)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(op(x, a), y)
    finally:
        torch.set_default_dtype(before)


def test_loading_twice_registers_once() -> None:
    first, second = decay(), decay()
    assert first._overload is second._overload
    assert first._overload.name().startswith("ssmc::decay_")
