"""Backward calls as training loops make them: from several threads, again, in parts, and after a mistake."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import ssmc
from ssmc.runtime import Layer
from tests.runtime.layers import scan_inputs


def scan(seed: int = 0, length: int = 70) -> tuple[Layer, dict[str, Tensor]]:
    inputs = scan_inputs(length=length, seed=seed)
    return ssmc.load("selective_scan"), {n: v.double().requires_grad_() for n, v in inputs.items()}


def gradients(op: Layer, inputs: dict[str, Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(op(**inputs).square().sum(), list(inputs.values())))


def at_once(runs: list[Callable[[], None]]) -> None:
    """All of ``runs``, each in a thread; what one raises is raised."""
    raised: list[BaseException] = []
    ready = threading.Barrier(len(runs))

    def guarded(run: Callable[[], None]) -> None:
        try:
            ready.wait()
            run()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


def same(found: list[Tensor], wanted: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("name", ["fresh", "seen"])
def test_threads_call_backward_at_once(name: str) -> None:
    """Each gets its own bits, also where the first calls meet: a layer of its own name is not compiled yet."""
    text = f"layer {name}(x[b, t, d], a[d], code[b, t]: int, E[c, d]) -> y[b, t, d]:\n    seq t\n"
    op = ssmc.compile(text + "    h = sigmoid(a) * h[t-1] + x * E[c=code]\n    y = tanh(h) * x\n")

    def inputs(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        reals = {"x": (2, 70, 20), "a": (20,), "E": (3, 20)}
        found = {n: torch.randn(shape, dtype=torch.float64).requires_grad_() for n, shape in reals.items()}
        return {**found, "code": torch.randint(0, 3, (2, 70))}

    def run(given: dict[str, Tensor]) -> list[Tensor]:
        return list(torch.autograd.grad(op(**given).square().sum(), [given[n] for n in ("x", "a", "E")]))

    given = [inputs(seed) for seed in range(4)]
    wanted = [run(each) for each in given] if name == "seen" else []
    found: list[list[list[Tensor]]] = [[] for _ in given]

    def often(number: int) -> None:
        found[number] += [run(given[number]) for _ in range(25)]

    at_once([lambda number=number: often(number) for number in range(len(given))])  # type: ignore[misc]
    wanted = wanted or [run(each) for each in given]
    assert all(same(again, wanted[number]) for number in range(len(given)) for again in found[number])


def test_one_graph_from_two_threads() -> None:
    """Leaves of one graph, each thread with outputs of its own."""
    op, inputs = scan()
    losses = [op(**inputs).square().sum(), op(**{**inputs, "x": inputs["x"] * 2}).sum()]
    wanted = [torch.autograd.grad(loss, list(inputs.values()), retain_graph=True) for loss in losses]
    at_once([loss.backward for loss in losses])
    for value, one, other in zip(inputs.values(), *wanted, strict=True):
        torch.testing.assert_close(value.grad, one + other)


def test_a_graph_that_is_retained() -> None:
    op, inputs = scan()
    loss = op(**inputs).square().sum()
    first = torch.autograd.grad(loss, list(inputs.values()), retain_graph=True)
    again = torch.autograd.grad(loss, list(inputs.values()), retain_graph=True)
    assert same(list(first), list(again))
    loss.backward()
    assert same([v.grad for v in inputs.values() if v.grad is not None], list(first))
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_one_output_after_the_other() -> None:
    """Gradients from each output alone add up to those from all."""
    op, inputs = scan()
    y, state = op(**inputs, return_state=True)
    values = list(inputs.values())
    h = state["h"].square().sum()
    both = torch.autograd.grad(y.sum() + h, values, retain_graph=True)
    parts = [torch.autograd.grad(loss, values, retain_graph=True, allow_unused=True) for loss in (h, y.sum())]
    for whole, one, other in zip(both, *parts, strict=True):
        torch.testing.assert_close(whole, (0 if one is None else one) + other)


def test_gradients_accumulate() -> None:
    op, inputs = scan()
    op(**inputs).sum().backward()
    once = [v.grad.clone() for v in inputs.values() if v.grad is not None]
    op(**inputs).sum().backward()
    assert same([v.grad for v in inputs.values() if v.grad is not None], [2 * v for v in once])


@pytest.mark.parametrize("name", ["x", "dt", "A", "B", "C"])
def test_an_input_that_was_modified(name: str) -> None:
    """What the backward reads again is checked by its version, by PyTorch."""
    op, leaves = scan(length=5)
    inputs = {n: v * 1 for n, v in leaves.items()}
    y = op(**inputs)
    inputs[name].detach().mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_what_the_backward_does_not_read_may_be_modified() -> None:
    """The bias of a convolution; and what a layer returned, as an activation in place does."""
    op = ssmc.load("causal_conv1d")
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(s, dtype=torch.float64).requires_grad_() for s in [(2, 5, 3), (3, 4), (3,)])
    wanted = torch.autograd.grad(op(x, weight, bias).sum(), (x, weight, bias))
    other = bias * 1
    y = op(x, weight, other)
    other.detach().mul_(2)
    assert same(list(torch.autograd.grad(y.sum(), (x, weight, bias))), list(wanted))
    y = op(x, weight, bias)
    found = torch.autograd.grad((y.mul_(2) / 2).sum(), (x, weight, bias))
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two)


def test_gradients_are_new_memory() -> None:
    """No gradient shares memory with another, with an input or with what is kept: each may be changed in place."""
    op, inputs = scan(length=40)
    loss = op(**inputs).square().sum()
    first = list(torch.autograd.grad(loss, list(inputs.values()), retain_graph=True))
    kept = [v.clone() for v in first]
    for value in first:
        value.fill_(float("nan"))
    assert same(list(torch.autograd.grad(loss, list(inputs.values()))), kept)
    assert len({v.data_ptr() for v in (*first, *inputs.values())}) == 2 * len(first)
