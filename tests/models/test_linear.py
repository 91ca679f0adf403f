"""``linear`` is ``F.linear`` whatever route it takes, and keeps nothing of weights that have changed or gone."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from ssmc.models import linear as face
from ssmc.models import routes
from ssmc.models.linear import linear, linear_routes
from ssmc.models.routes import PLAIN, ROUTES, Choice, Product

PACKED = [name for name, route in ROUTES.items() if route.pack is not None]
ROUNDOFF = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float64: 1e-14}

Force = Callable[[str], list[Product]]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Two would wait for each other longer than products this small take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def force(monkeypatch: pytest.MonkeyPatch) -> Iterator[Force]:
    """``force(route)``: that route is chosen wherever it may be; returns the products that it was chosen for."""
    monkeypatch.setattr(face, "_CHOICES", {})
    monkeypatch.setattr(face, "_HELD", {})

    def forced(name: str) -> list[Product]:
        taken: list[Product] = []

        def choose(product: Product) -> Choice:
            allowed = ROUTES[name] in routes.candidates(product)
            if allowed:
                taken.append(product)
            return Choice(product, name if allowed else PLAIN, {}, product.outputs)

        monkeypatch.setattr(face, "choose", choose)
        return taken

    yield forced


def numbers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def agree(got: Tensor, want: Tensor, dtype: torch.dtype, terms: int) -> None:
    """Equal up to the roundoff of a sum of so many terms."""
    assert got.shape == want.shape and got.dtype is dtype
    if want.numel():
        limit = ROUNDOFF[dtype] * max(float(want.abs().max()), terms**0.5)
        assert float((got.double() - want.double()).abs().max()) <= limit


def exact(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x.double(), weight.double(), None if bias is None else bias.double())


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ROUTES)
def test_every_route_gives_the_product(force: Force, name: str, dtype: torch.dtype, biased: bool) -> None:
    taken = force(name)
    for rows in ((1,), (1, 1), (3,), (2, 17), (1, 64)):
        for inner, outputs in ((1, 1), (1, 5), (7, 1), (13, 31), (48, 96), (129, 80)):
            x, weight = numbers(*rows, inner, dtype=dtype), numbers(outputs, inner, dtype=dtype, seed=1)
            bias = numbers(outputs, dtype=dtype, seed=2) if biased else None
            for _ in range(2):  # prepared, then found
                agree(linear(x, weight, bias), exact(x, weight, bias), dtype, inner)
    assert taken


@pytest.mark.parametrize("name", ROUTES)
def test_inputs_with_gaps_and_weights_by_columns(force: Force, name: str) -> None:
    taken = force(name)
    wide, weight = numbers(2, 9, 40), numbers(21, 24, seed=1)
    for x in (wide[..., 3:27], wide[:, ::2, :24], wide[:1, :1, 16:], wide.expand(2, 9, 40)[..., :24]):
        agree(linear(x, weight), exact(x, weight), torch.float32, 24)
    columns = numbers(24, 21, seed=1).t()
    agree(linear(wide[..., :24], columns), exact(wide[..., :24], columns), torch.float32, 24)
    spread = numbers(2, 9, 1).expand(2, 9, 24)
    agree(linear(spread, weight), exact(spread, weight), torch.float32, 24)
    sparse = numbers(21, 48, seed=1)[:, ::2]
    agree(linear(wide[..., :24], sparse), exact(wide[..., :24], sparse), torch.float32, 24)
    assert taken


@pytest.mark.parametrize("name", ROUTES)
def test_nothing_to_multiply(force: Force, name: str) -> None:
    force(name)
    assert linear(numbers(0, 5), numbers(7, 5)).shape == (0, 7)
    assert linear(numbers(2, 0, 5), numbers(7, 5), numbers(7)).shape == (2, 0, 7)
    assert torch.equal(linear(torch.zeros(2, 0), torch.zeros(3, 0), torch.ones(3)), torch.ones(2, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.complex64])
def test_other_dtypes_are_left_to_pytorch(force: Force, dtype: torch.dtype) -> None:
    force("oneDNN")
    x, weight = numbers(3, 4).to(dtype), numbers(5, 4, seed=1).to(dtype)
    assert torch.equal(linear(x, weight), F.linear(x, weight))


@pytest.mark.parametrize("name", ROUTES)
def test_one_weight_in_many_forms(force: Force, name: str) -> None:
    force(name)
    weight, bias = numbers(32, 16, seed=1), numbers(32, seed=2)
    for x in (numbers(1, 16), numbers(2, 3, 16), numbers(1, 16).double(), numbers(16)):
        wide = weight.double() if x.dtype is torch.float64 else weight
        for offset in (None, bias.to(x.dtype), None, bias.to(x.dtype)):
            agree(linear(x, wide, offset), exact(x, wide, offset), x.dtype, 16)


def test_errors_are_those_of_pytorch(force: Force) -> None:
    force("oneDNN")
    for x, weight in ((numbers(2, 3), numbers(4, 5)), (numbers(2, 3).double(), numbers(4, 3))):
        with pytest.raises(RuntimeError):
            linear(x, weight)


# ---------------------------------------------------------------- weights that change


@pytest.mark.parametrize("name", PACKED)
def test_a_weight_that_is_written_to_is_packed_again(force: Force, name: str) -> None:
    force(name)
    x, weight = numbers(8, 16), torch.nn.Parameter(numbers(32, 16, seed=1))

    def check() -> None:
        with torch.no_grad():
            agree(linear(x, weight), exact(x, weight), torch.float32, 16)

    check()
    with torch.no_grad():
        weight.mul_(2)
    check()
    weight.data = numbers(32, 16, seed=3)
    check()
    weight.data = weight.data.flip(0).contiguous()
    check()
    weight.data = numbers(16, 32, seed=3).t()
    check()
    torch.optim.SGD([weight], lr=1.0).step(lambda: linear(x, weight).square().sum().backward())  # type: ignore[arg-type, func-returns-value]
    check()
    torch.nn.utils.vector_to_parameters(numbers(32 * 16, seed=5), [weight])
    check()


@pytest.mark.parametrize("name", PACKED)
def test_a_weight_is_not_kept_alive(force: Force, name: str) -> None:
    force(name)
    x, weight = numbers(8, 16), numbers(32, 16, seed=1)
    linear(x, weight)
    (held,) = face._HELD.values()
    (packed,) = map(id, held._packed.values())
    del held
    assert packed in {id(value) for value in gc.get_objects() if type(value) is Tensor}
    del weight
    gc.collect()
    assert not face._HELD
    assert packed not in {id(value) for value in gc.get_objects() if type(value) is Tensor}


@pytest.mark.parametrize("name", PACKED)
def test_no_copies_while_a_weight_is_trained(force: Force, name: str) -> None:
    taken = force(name)
    x, weight = numbers(8, 16), torch.nn.Parameter(numbers(32, 16, seed=1))
    with torch.no_grad():
        linear(x, weight)
    assert face._HELD and len(taken) == 1
    linear(x, weight).sum().backward()
    assert not face._HELD and len(taken) == 1


def test_no_copies_of_what_pytorch_does_not_count_writes_of(force: Force) -> None:
    taken = force("transposed copy")
    with torch.inference_mode():
        x, weight = numbers(8, 16), numbers(32, 16, seed=1)
        agree(linear(x, weight), exact(x, weight), torch.float32, 16)
        weight.mul_(2)
        agree(linear(x, weight), exact(x, weight), torch.float32, 16)
    assert not taken


def test_a_weight_packed_under_inference_mode_serves_outside(force: Force) -> None:
    force("oneDNN, packed")
    x, weight = numbers(8, 16), torch.nn.Parameter(numbers(32, 16, seed=1))
    with torch.inference_mode():
        linear(x, weight)
    with torch.no_grad():
        made = linear(x, weight)
    agree(made, exact(x, weight), torch.float32, 16)


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["oneDNN", "matrix and vector", "oneDNN, operands swapped"])
def test_gradients(force: Force, name: str, dtype: torch.dtype, biased: bool) -> None:
    taken = force(name)
    for shape, outputs in (((2, 9, 13), 31), ((1, 1, 24), 7), ((5, 1), 1), ((64, 48), 96)):
        x, weight = numbers(*shape, dtype=dtype), numbers(outputs, shape[-1], dtype=dtype, seed=1)
        bias = [numbers(outputs, dtype=dtype, seed=2)] if biased else []
        dy = numbers(*shape[:-1], outputs, dtype=dtype, seed=3)
        mine = [value.clone().requires_grad_() for value in (x, weight, *bias)]
        wide = [value.double().requires_grad_() for value in (x, weight, *bias)]
        found = torch.autograd.grad(linear(*mine), mine, dy)
        for got, want in zip(found, torch.autograd.grad(F.linear(*wide), wide, dy.double()), strict=True):
            agree(got, want, dtype, max(x.numel() // shape[-1], outputs))
    assert taken


def test_only_gradients_that_are_asked_for(force: Force) -> None:
    taken = force("oneDNN")
    x, weight, bias = numbers(4, 6), numbers(5, 6, seed=1), numbers(5, seed=2)
    for asked in (x, weight, bias):
        asked.requires_grad_()
        linear(x, weight, bias).sum().backward()  # the gradient of the output is one number, expanded
        assert asked.grad is not None
        asked.requires_grad_(False)
    assert taken
    assert torch.allclose(weight.grad, x.sum(0).expand(5, 6)) and torch.allclose(bias.grad, torch.full((5,), 4.0))


def test_gradients_of_gradients() -> None:
    given = [numbers(3, 4).double(), numbers(5, 4, seed=1).double(), numbers(5, seed=2).double()]
    for value in given:
        value.requires_grad_()
    assert torch.autograd.gradcheck(face.Recorded.apply, given)
    assert torch.autograd.gradgradcheck(face.Recorded.apply, given)


def test_gradients_of_gradients_by_a_route(force: Force) -> None:
    force("oneDNN")
    x, weight = numbers(6, 8).requires_grad_(), numbers(4, 8, seed=1).requires_grad_()

    def penalty(function: Any) -> Tensor:
        (dx,) = torch.autograd.grad(function(x, weight).square().sum(), x, create_graph=True)
        (of_weight,) = torch.autograd.grad(dx.square().sum(), weight)
        return of_weight

    assert torch.allclose(penalty(linear), penalty(F.linear), rtol=1e-4, atol=1e-3)


def test_checkpointing(force: Force) -> None:
    force("oneDNN")
    x, weight = numbers(6, 8).requires_grad_(), numbers(8, 8, seed=1).requires_grad_()

    def block(value: Tensor) -> Tensor:
        return torch.tanh(linear(value, weight))

    plain = torch.autograd.grad(block(block(x)).sum(), (x, weight))
    again = checkpoint(lambda v: block(block(v)), x, use_reentrant=False)
    for got, want in zip(torch.autograd.grad(again.sum(), (x, weight)), plain, strict=True):
        assert torch.equal(got, want)


# ---------------------------------------------------------------- who else may be there


class Subclass(Tensor):
    pass


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """No route may be chosen."""

    def refuse(product: Product) -> Choice:
        raise AssertionError(f"chosen for {product}")

    monkeypatch.setattr(face, "_CHOICES", {})
    monkeypatch.setattr(face, "_HELD", {})
    monkeypatch.setattr(face, "choose", refuse)


@pytest.mark.usefixtures("untouched")
def test_tensors_of_other_kinds_are_left_to_pytorch() -> None:
    x, weight = numbers(4, 6), numbers(5, 6, seed=1)
    assert type(linear(x.as_subclass(Subclass), weight)) is Subclass
    assert type(linear(x, weight.as_subclass(Subclass))) is Subclass
    assert linear(x.to("meta"), weight.to("meta")).is_meta
    assert torch.equal(linear(torch._neg_view(x), weight), F.linear(-x, weight))
    with FakeTensorMode() as mode:
        assert linear(mode.from_tensor(x), mode.from_tensor(weight)).shape == (4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype is torch.bfloat16
    by_row = torch.func.vmap(linear, (0, None))(x, weight)
    assert torch.allclose(by_row, F.linear(x, weight), atol=1e-6)
    _, tangent = torch.func.jvp(lambda v: linear(v, weight), (x,), (x,))
    assert torch.allclose(tangent, F.linear(x, weight), atol=1e-6)
    made = torch.jit.trace(lambda v: linear(v, weight), x, check_trace=False)
    assert torch.allclose(made(2 * x), F.linear(2 * x, weight), atol=1e-6)


@pytest.mark.usefixtures("untouched")
def test_compile_sees_the_product_itself() -> None:
    seen: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        seen.extend(node.target for node in graph.graph.nodes if node.op == "call_function")
        return graph

    weight = numbers(5, 6, seed=1).requires_grad_()
    made = torch.compile(linear, backend=backend, fullgraph=True)(numbers(4, 6), weight)
    made.sum().backward()
    assert weight.grad is not None and any("linear" in str(target) for target in seen)
    torch._dynamo.reset()


# ---------------------------------------------------------------- choosing


def product(**changes: Any) -> Product:
    return Product(8, 256, 512, torch.float32, False, False, False, True, torch.get_num_threads())._replace(**changes)


def test_margins() -> None:
    other, packed = "oneDNN", "oneDNN, packed"
    assert routes.fastest({PLAIN: 1.0, other: 0.95, packed: 0.95}, 1.1) == PLAIN
    assert routes.fastest({PLAIN: 1.0, other: 0.95, packed: 0.95}, 1.0) == other
    assert routes.fastest({PLAIN: 1.0, other: 0.8}, 1.1) == other
    assert routes.fastest({PLAIN: 1.0, other: 0.8, packed: 0.7}, 1.0) == other
    assert routes.fastest({PLAIN: 1.0, other: 0.8, packed: 0.6}, 1.0) == packed
    assert routes.fastest({PLAIN: 1.0}, 1.0) == PLAIN


def test_rows_are_told_apart_by_powers_of_two() -> None:
    assert [routes.bucket(n) for n in (1, 2, 3, 4, 5, 8, 9, 1000, 1024)] == [1, 2, 3, 4, 8, 8, 16, 1024, 1024]


def test_measured_once_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("SSMC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(routes, "SECONDS", 60.0)
    monkeypatch.setattr(routes, "_undisturbed", lambda run: (run(), 1.0)[1])
    first = routes.choose(product())
    assert first.route == PLAIN and set(first.seconds) == {r.name for r in routes.candidates(product())}
    monkeypatch.setattr(routes, "seconds_of", lambda *_: pytest.fail("measured again"))
    assert routes.choose(product()) == first
    with pytest.raises(pytest.fail.Exception):
        routes.choose(product(rows=16))


def test_nothing_is_kept_of_a_disturbed_measurement(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("SSMC_CACHE_DIR", str(tmp_path))
    with monkeypatch.context() as busy:
        busy.setattr(routes, "SECONDS", 0.01)
        busy.setattr(routes, "_undisturbed", lambda run: None)
        found = routes.choose(product())
    assert found.route == PLAIN and "busy" in found.note and not found.seconds
    monkeypatch.setattr(routes, "_undisturbed", lambda run: (run(), 1.0)[1])
    assert routes.choose(product()).seconds


def test_small_products_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "seconds_of", lambda *_: pytest.fail("measured"))
    assert routes.choose(product(rows=1, inner=64)).route == PLAIN
    assert routes.choose(product(outputs=256)).note == "small"


def test_wrong_and_missing_routes_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> Tensor:
        raise RuntimeError("no such operator")

    wrong = routes.Route("wrong", lambda x, weight, bias, _: 1.01 * F.linear(x, weight, bias))
    monkeypatch.setattr(routes, "_undisturbed", lambda run: (run(), 1.0)[1])
    tried = [ROUTES[PLAIN], wrong, routes.Route("missing", missing), ROUTES["transposed copy"]]
    assert set(routes.seconds_of(product(), tried, 512)) == {PLAIN, "transposed copy"}


def test_what_was_chosen_can_be_read(force: Force) -> None:
    force("oneDNN")
    linear(numbers(4, 6), numbers(5, 6, seed=1))
    (choice,) = linear_routes()
    assert choice.route == "oneDNN" and "4×6→5 float32" in str(choice)


def test_measuring_leaves_random_numbers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    want = torch.rand(3)
    torch.manual_seed(1)
    routes.seconds_of(product(), routes.candidates(product()), 512)
    assert torch.equal(torch.rand(3), want)
