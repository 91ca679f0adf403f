"""Gradients of calls, as PyTorch's autograd and transforms ask for them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import ssmc
from ssmc.errors import UserError
from ssmc.runtime import Layer, State
from tests.runtime.layers import decay, mixed, scan_inputs
from tests.runtime.test_operator import Block

Step = Callable[..., Any]


def leaves(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Normal numbers that require gradients, small enough for short recurrences."""
    return [(0.7 * torch.randn(shape, dtype=dtype)).requires_grad_() for shape in shapes]


def by_loop(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The selective scan, one step after the other, with PyTorch's operations."""
    delta = torch.nn.functional.softplus(dt)
    h = x.new_zeros(x.shape[0], x.shape[2], A.shape[1])
    found = []
    for t in range(x.shape[1]):
        h = torch.exp(delta[:, t, :, None] * A) * h + (delta[:, t] * x[:, t])[:, :, None] * B[:, t, None]
        found.append((h * C[:, t, None]).sum(-1) + D * x[:, t])
    return torch.stack(found, 1)


def decay_by_loop(x: Tensor, a: Tensor, h0: Tensor) -> Tensor:
    found = []
    for value in x.unbind(1):
        h0 = a * h0 + value
        found.append(h0)
    return torch.stack(found, 1)


def close(found: Any, wanted: Any, tolerance: float = 1e-12) -> None:
    pairs = list(zip(torch.utils._pytree.tree_leaves(found), torch.utils._pytree.tree_leaves(wanted), strict=True))
    assert pairs
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def scan(dtype: torch.dtype = torch.float64, **sizes: int) -> tuple[Layer, dict[str, Tensor]]:
    return ssmc.load("selective_scan"), {n: v.to(dtype).requires_grad_() for n, v in scan_inputs(**sizes).items()}


# ---------------------------------------------------------------- autograd


@pytest.mark.parametrize("length", [1, 31, 32, 70])
def test_selective_scan(length: int) -> None:
    op, inputs = scan(length=length)
    out = torch.randn(2, length, 8, dtype=torch.float64)
    found = torch.autograd.grad(op(**inputs), list(inputs.values()), out)
    close(found, torch.autograd.grad(by_loop(**inputs), list(inputs.values()), out))


def test_float32_and_bfloat16() -> None:
    op, inputs = scan(length=40)
    wanted = torch.autograd.grad(by_loop(**inputs).square().sum(), list(inputs.values()))
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 5e-2)):
        given = {name: value.detach().to(dtype).requires_grad_() for name, value in inputs.items()}
        found = torch.autograd.grad(op(**given).square().sum(), list(given.values()))
        for one, other in zip(found, wanted, strict=True):
            assert one.dtype is dtype
            assert (one.double() - other).abs().max() <= tolerance * other.abs().max()


def test_gradients_have_the_dtypes_of_their_inputs() -> None:
    op, inputs = scan(torch.float32)
    inputs["x"] = inputs["x"].detach().bfloat16().requires_grad_()
    y = op(**inputs)
    assert y.dtype is torch.float32
    y.sum().backward()
    assert [v.grad is not None and v.grad.dtype for v in inputs.values()] == [torch.bfloat16] + [torch.float32] * 5


def test_only_what_is_asked_for() -> None:
    """What has no gradient is neither computed nor kept."""
    op = decay()
    x, a, h0 = leaves((2, 5, 3), (3,), (2, 3))
    operator, before = op._operator, set(op._operator.families)

    def made() -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        derivatives = [k[0].derivatives for k in operator.families if k not in before]
        return [(d[0].wrt, d[0].of) for d in derivatives if d and d[0].name == "grad"]

    y = op(x, a.detach(), h0.detach())
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: kept.append(v) or v, lambda v: v):  # type: ignore[func-returns-value]
        op(x, a.detach(), h0.detach())
    assert [tuple(v.shape) for v in kept] == [(3,)], "only the decay"
    y.sum().backward()
    assert made() == [(("x",), ("y",))] and x.grad is not None and a.grad is None and h0.grad is None
    y, state = op(x.detach(), a, h0.detach(), return_state=True)
    y.sum().backward()
    assert made()[1:] == [(("a",), ("y",))]
    _, state = op(x.detach(), a, h0.detach(), return_state=True)
    state["y"].sum().backward()
    assert made()[2:] == [(("a",), ("y.next",))]


def test_outputs_without_gradients() -> None:
    op = mixed()
    x, w = leaves((2, 5, 3), (3, 2))
    y, n = op(x, w)
    assert y.requires_grad and not n.requires_grad
    _, _, state = op(x.detach(), w, return_state=True, gated=True)
    assert not state["x"].requires_grad and not state["t"].requires_grad, "neither depends on the filter"
    assert gradcheck(lambda *v: op(*v)[0], (x, w, *leaves((3,), (2, 5, 3), ())))


def test_nothing_to_do() -> None:
    op = decay()
    for shape in [(0, 4, 3), (2, 0, 3), (2, 4, 0)]:
        x, a, h0 = leaves(shape, (shape[2],), (shape[0], shape[2]))
        y, state = op(x, a, h0, return_state=True)
        (y.sum() + (2 * state["y"]).sum()).backward()
        assert x.grad is not None and a.grad is not None and h0.grad is not None
        assert x.grad.shape == shape and not a.grad.any()
        assert bool((h0.grad == (2 if shape[1] == 0 else 0)).all()) or shape[1] == 4


@pytest.mark.parametrize("batch_first", [True, False])
def test_gradients_through_states(batch_first: bool) -> None:
    """A sequence in pieces has the gradients of the whole, and the one before the first piece gets its own."""
    op = decay()
    x, a, h0 = leaves((2, 9, 3), (3,), (2, 3))
    wanted = torch.autograd.grad(decay_by_loop(x, a, h0).square().sum(), (x, a, h0))
    state: State | None = State(["y"], [h0[:, None]])
    total = torch.zeros((), dtype=torch.float64)
    for piece in x.split([4, 1, 4], 1):
        y, state = op(piece, a, state=state, return_state=True)
        total = total + y.square().sum()
    close(torch.autograd.grad(total, (x, a, h0)), wanted)


def test_whole_numbers_have_no_gradients() -> None:
    op = ssmc.compile("layer codes(x[b, t]) -> n[b, t]: int:\n    n = where(x > 0, 1, 0)\n")
    (x,) = leaves((2, 5))
    assert not op(x).requires_grad
    assert torch.equal(torch.func.jvp(op, (x.detach(),), (x.detach(),))[0], op(x))


def test_strides_of_incoming_gradients() -> None:
    op, inputs = scan(length=5)
    y = op(**inputs)
    wanted = torch.autograd.grad(y, list(inputs.values()), torch.ones_like(y), retain_graph=True)
    close(torch.autograd.grad(y.sum(), list(inputs.values()), retain_graph=True), wanted)
    turned = torch.ones(8, 5, 2, dtype=torch.float64).permute(2, 1, 0)
    close(torch.autograd.grad(y, list(inputs.values()), turned), wanted)


def test_complex_values() -> None:
    op = ssmc.load("affine_scan:affine_scan_complex")
    a, x = leaves((2, 4, 3), (2, 4, 3), dtype=torch.complex128)
    assert gradcheck(op, (a, x))
    (real,) = leaves((2, 4, 3))
    assert gradcheck(op, (real, x)), "a real input that stands for a complex one has a real gradient"
    op(real, x).abs().sum().backward()
    assert real.grad is not None and real.grad.dtype is torch.float64


def test_second_derivatives() -> None:
    conv = ssmc.load("causal_conv1d", activation="silu")
    assert gradgradcheck(conv, tuple(leaves((2, 5, 3), (3, 4), (3,))))
    norm = ssmc.load("norms:rms_norm")
    assert gradgradcheck(norm, tuple(leaves((2, 3, 5), (5,))))


def test_saved_tensors_are_checked() -> None:
    op = decay()
    x, a, h0 = leaves((2, 5, 3), (3,), (2, 3))
    shared = a.detach().clone()
    y = op(x, shared, h0)
    shared.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_checkpointing() -> None:
    op, inputs = scan()
    wanted = torch.autograd.grad(op(**inputs).square().sum(), list(inputs.values()))
    y = torch.utils.checkpoint.checkpoint(lambda *v: op(*v), *inputs.values(), use_reentrant=False)
    close(torch.autograd.grad(y.square().sum(), list(inputs.values())), wanted)


# ---------------------------------------------------------------- memory


def test_the_scan_keeps_and_works_in_little() -> None:
    """Beyond inputs and gradients: one thirtieth of length × channels × states, kept, and as much worked in."""
    op = ssmc.load("selective_scan")
    b, t, d, n = 1, 512, 768, 16
    shapes = {"x": (b, t, d), "dt": (b, t, d), "A": (d, n), "B": (b, t, n), "C": (b, t, n), "D": (d,)}
    inputs = {name: -torch.rand(shape).requires_grad_() for name, shape in shapes.items()}
    inputs = {name: value.detach().requires_grad_() for name, value in inputs.items()}
    whole = b * t * d * n
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: kept.append(v) or v, lambda v: v):  # type: ignore[func-returns-value]
        y = op(**inputs)
    addresses = {v.data_ptr() for v in inputs.values()}
    assert 0 < sum(v.numel() for v in kept if v.data_ptr() not in addresses) <= whole / 30
    y.sum().backward()
    calls = [c for c in op._operator._calls.values() if c.extents.get("t") == t]
    assert len(calls) == 2, "forward and backward"
    for call in calls:
        assert sum(make().numel() for make in call.spare) <= whole / 30
        assert all(make().numel() < whole for make in call.makers)


# ---------------------------------------------------------------- transforms


def test_transforms() -> None:
    op, inputs = scan(length=6)
    values = tuple(v.detach() for v in inputs.values())
    everything = tuple(range(len(values)))

    def loss(function: Step) -> Step:
        return lambda *v: function(*v).square().sum()

    close(torch.func.grad(loss(op), everything)(*values), torch.func.grad(loss(by_loop), everything)(*values))
    out = torch.randn_like(values[0])
    close(torch.func.vjp(op, *values)[1](out), torch.func.vjp(by_loop, *values)[1](out))
    close(torch.func.jacrev(op, argnums=2)(*values), torch.func.jacrev(by_loop, argnums=2)(*values))
    several = torch.randn(3, *values[0].shape, dtype=torch.float64)
    each = [torch.func.vmap(torch.func.grad(loss(f)), in_dims=(0, *[None] * 5)) for f in (op, by_loop)]
    close(each[0](several, *values[1:]), each[1](several, *values[1:]))


def test_forward_derivatives() -> None:
    op, inputs = scan(length=6)
    values = tuple(v.detach() for v in inputs.values())
    directions = tuple(torch.randn_like(v) for v in values)
    close(torch.func.jvp(op, values, directions), torch.func.jvp(by_loop, values, directions))
    close(torch.func.jacfwd(op, argnums=2)(*values), torch.func.jacfwd(by_loop, argnums=2)(*values))
    for requires in (False, True):
        with forward_ad.dual_level():
            dt = values[1].clone().requires_grad_(requires)
            given = values[0], forward_ad.make_dual(dt, directions[1]), *values[2:]
            (y, dot), (_, wanted) = (forward_ad.unpack_dual(f(*given)) for f in (op, by_loop))
            close(dot, wanted)
            close(y, op(*values))
            assert dot.requires_grad == requires
            if requires:
                close(*(torch.autograd.grad(v.square().sum(), dt) for v in (dot, wanted)))


def test_forward_derivatives_of_states() -> None:
    op = decay()
    x, a, start = (v.detach() for v in leaves((2, 5, 3), (3,), (2, 1, 3)))

    def continued(x: Tensor, a: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        y, state = op(x, a, state=State(["y"], [start]), return_state=True)
        return y, state["y"]

    assert gradcheck(continued, tuple(v.requires_grad_() for v in (x, a, start)), check_forward_ad=True)
    with forward_ad.dual_level():
        y, n = mixed()(forward_ad.make_dual(x.detach(), x.detach()), torch.randn(3, 2, dtype=torch.float64))
        assert forward_ad.unpack_dual(y).tangent is not None and forward_ad.unpack_dual(n).tangent is None


def test_transforms_in_each_other() -> None:
    conv = ssmc.load("causal_conv1d", activation="silu")
    x, w, bias = (v.detach() for v in leaves((2, 5, 3), (3, 4), (3,)))

    def plain(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(x.transpose(1, 2), (3, 0))
        return torch.nn.functional.silu(torch.nn.functional.conv1d(padded, w[:, None], bias, groups=3)).transpose(1, 2)

    def loss(function: Step) -> Step:
        return lambda w: function(x, w, bias).square().sum()

    wanted = torch.func.jacrev(torch.func.jacrev(loss(plain)))(w)
    for outer in (torch.func.jacfwd, torch.func.jacrev):
        for inner in (torch.func.jacfwd, torch.func.jacrev):
            close(outer(inner(loss(conv)))(w), wanted, 1e-10)
    twice = [torch.func.grad(lambda w, f=f: torch.func.grad(loss(f))(w).square().sum())(w) for f in (conv, plain)]
    close(*twice, 1e-10)


@pytest.mark.parametrize("gives", [False, True])
def test_opcheck(gives: bool) -> None:
    op = decay()
    x, a, h0 = leaves((2, 5, 3), (3,), (2, 3))
    torch.library.opcheck(op._overload, (x, a, h0, None, gives))
    torch.library.opcheck(op._overload, (x, a, None, leaves((2, 1, 3)), gives))


def test_opcheck_of_a_gradient() -> None:
    conv = ssmc.load("causal_conv1d", activation="silu")
    x, w = leaves((2, 5, 3), (3, 4))
    conv(x, w).sum().backward()
    operator = conv._operator  # the same for every test: it has other families too
    families = operator.families.items()
    kind = next(k for (k, _), f in families if [p.shown for p in f.spec.takes] == ["x", "w", "y"])
    torch.library.opcheck(operator.derived, ([x, w, *leaves((2, 5, 3))], kind.text))


# ---------------------------------------------------------------- graphs


def trained(block: Block, x: Tensor) -> Tensor:
    """The loss of two calls, the second with the state of the first."""
    y, state = block(x)
    z, state = block(x[:, :3], state)
    return y.square().mean() + z.square().mean() + 1e-3 * state["h"].sum()


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_training_step_is_one_graph(backend: str) -> None:
    block = Block()
    other = copy.deepcopy(block)
    compiled = torch.compile(trained, fullgraph=True, dynamic=True, backend=backend)
    for batch, length in [(2, 5), (3, 7)]:
        x = torch.randn(batch, length, 8)
        for module, function in ((block, trained), (other, compiled)):
            module.zero_grad()
            function(module, x).backward()
        for one, two in zip(block.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(one.grad, two.grad)


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_layer_is_trained(strict: bool) -> None:
    block = Block()
    x = torch.randn(2, 5, 8)
    program = torch.export.export(block, (x,), strict=strict)
    block(x)[0].square().sum().backward()
    again = program.module()
    again(x)[0].square().sum().backward()
    for name, value in again.named_parameters():
        torch.testing.assert_close(value.grad, block.get_parameter(name).grad)


# ---------------------------------------------------------------- mistakes


def test_out_has_no_gradient() -> None:
    op = decay()
    x, a, h0 = leaves((2, 5, 3), (3,), (2, 3))
    with pytest.raises(UserError, match="`out` is given, and an argument requires a gradient"):
        op(x, a, h0, out=torch.empty_like(x))
    with torch.no_grad():
        op(x, a, h0, out=torch.empty_like(x))


def test_without_gradients_nothing_is_recorded() -> None:
    op = decay()
    x, a, h0 = leaves((2, 5, 3), (3,), (2, 3))
    with torch.no_grad():
        wanted = op(x, a, h0)
    for _ in range(2):
        with torch.no_grad():
            assert not op(x, a, h0).requires_grad
        with torch.inference_mode():
            assert not op(x, a, h0).requires_grad
        y = op(x, a, h0)
        assert y.requires_grad and torch.equal(y, wanted), "also where the same call was made before"
        assert not op(x.detach(), a.detach(), h0.detach()).requires_grad
    _, state = op(x.detach(), a.detach(), return_state=True)
    state = State(state.names, [v.requires_grad_() for v in state])
    assert op(x.detach(), a.detach(), state=state).requires_grad


def test_kinds_in_graphs() -> None:
    op = decay()
    with pytest.raises(UserError, match="'nonsense' is no kind of call"):
        op._operator.derived([torch.randn(2, 5, 3)], "nonsense")
    op(*leaves((2, 5, 3), (3,), (2, 3))).sum().backward()
    kind = next(k for k, _ in op._operator.families if k.derivatives and k.derivatives[0].name == "grad")
    with pytest.raises(UserError, match="decay: 1 tensors\n  expected: .*: "):
        op._operator.derived([torch.randn(2, 5, 3)], kind.text)
    assert type(kind).of(kind.text) == kind
