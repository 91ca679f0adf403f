"""``linear``: as ``torch.nn.functional.linear``, by the fastest route that PyTorch's libraries have for the shape.

y = x @ W.T + bias              weights that no gradient is asked of: packed once where that pays
d.x = d.y @ W                   training: three products, each by its own fastest route
d.W = d.y.T @ x
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from ssmc.runtime import form_check, nobody_intercepts

from .routes import PLAIN, ROUTES, Choice, Product, Route, bucket, choose

__all__ = ["is_plain", "linear", "linear_routes", "project"]

_is_compiling, _grad_enabled, _threads = torch.compiler.is_compiling, torch.is_grad_enabled, torch.get_num_threads

Call = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``, by the route that was fastest for such a shape when it was first met.

    Args:
        x: (…, inputs).
        weight: (outputs, inputs).
        bias: (outputs,).

    Returns:
        (…, outputs), equal to what ``torch.nn.functional.linear`` returns up to roundoff: routes add up in another
        order. Where a route was not tried or does not apply that function is called, and raises its own errors: for
        tensors that are not plain ones in the processor's memory (other devices, subclasses such as DTensor), for
        dtypes other than float32 and bfloat16, while anything traces or transforms operators, and under autocast.

    The first call with a new shape and number of threads measures, for some hundred milliseconds at most; the result is
    kept in the cache of compiled layers. Numbers of rows are told apart by powers of two.

    Memory: where a weight that no gradient is asked of is multiplied at least 1.25 times as fast in another layout
    (``routes.PACKED_MARGIN``), a copy of it in that layout is kept, as large as the weight itself, for as long as the
    weight lives and is not written to. Writing through ``weight.data`` goes unnoticed, as it does for autograd: write
    under ``torch.no_grad()``.
    """
    if _is_compiling():
        return F.linear(x, weight, bias)
    held = _HELD.get(id(weight))
    given = (x, weight) if bias is None else (x, weight, bias)
    if held is not None:
        # Most calls were made before with the same shapes.
        number, check, asks_nothing, call = held.recent
        if (
            number == len(given)
            and check(*given)
            and (asks_nothing or not _grad_enabled())
            and held.is_of(weight)
            and nobody_intercepts()
        ):
            return call(x, weight, bias)
    if not _are_ordinary(x, weight, bias):
        return F.linear(x, weight, bias)
    if _grad_enabled() and any(value.requires_grad for value in given):
        _HELD.pop(id(weight), None)
        return _trained(x, weight, bias)
    if held is None or not held.is_of(weight):
        held = _HELD[id(weight)] = _Held(weight)
    call = held.call(x, weight, bias)
    held.recent = len(given), form_check(given), not any(value.requires_grad for value in given), call
    return call(x, weight, bias)


def is_plain(module: nn.Module) -> bool:
    """Whether a module is no more than its weight and bias: not what replaces linear maps (LoRA's wrappers, quantised
    ones), not one that somebody watches through hooks."""
    return (
        type(module) is nn.Linear
        and "forward" not in module.__dict__
        and not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
        and not module._backward_pre_hooks
    )


def project(module: nn.Module, x: Tensor) -> Tensor:
    """``module(x)`` for a linear map, by ``linear`` where the module is a plain one."""
    if is_plain(module):
        return linear(x, module.weight, module.bias)  # type: ignore[arg-type]
    return module(x)


def linear_routes() -> list[Choice]:
    """What was chosen so far in this process, with the times of all routes that were tried; ``print`` each."""
    return [*_CHOICES.values()]


# ---------------------------------------------------------------- what may be taken another way

_PLAIN_TYPES = {Tensor, nn.Parameter}


def _are_ordinary(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether these are plain tensors in the processor's memory, of fitting shapes, and nobody watches operators."""
    return (
        nobody_intercepts()
        and _is_dense(x)
        and _is_dense(weight)
        and (bias is None or (_is_dense(bias) and bias.dtype is x.dtype and bias.shape == weight.shape[:1]))
        and x.dtype is weight.dtype
        and x.dim() > 0
        and weight.dim() == 2
        and x.shape[-1] == weight.shape[1]
        and x.numel() > 0
        and weight.numel() > 0
    )


def _is_dense(value: Tensor) -> bool:
    return type(value) in _PLAIN_TYPES and value.is_cpu and value.layout is torch.strided and not value.is_neg()


def _is_turned(matrix: Tensor) -> bool | None:
    """Whether a matrix lies in memory by columns, not by rows; None where it lies in no such way."""
    (rows, columns), (down, along) = matrix.shape, matrix.stride()
    if (columns == 1 or along == 1) and (rows == 1 or down >= columns):
        return False
    return True if (rows == 1 or down == 1) and (columns == 1 or along >= rows) else None


def _product(x: Tensor, weight: Tensor, biased: bool, keeps: bool = False, summed: bool = False) -> Product | None:
    """What kind of product of two matrices this is; None if there is nothing to choose.

    Tokens are rows, or what is ``summed`` over: their number is not told exactly.
    """
    turned = _is_turned(x), _is_turned(weight)
    if turned[0] is None or turned[1] is None:
        return None
    rows, inner = x.shape
    rows, inner = (rows, bucket(inner)) if summed else (bucket(rows), inner)
    return Product(rows, inner, len(weight), x.dtype, turned[0], turned[1], biased, keeps, _threads())


def _route(product: Product | None) -> Route:
    """What is taken for such a product."""
    if product is None:
        return ROUTES[PLAIN]
    choice = _CHOICES.get(product)
    if choice is None:
        choice = _CHOICES[product] = choose(product)
    return ROUTES[choice.route]


_CHOICES: dict[Product, Choice] = {}

# ---------------------------------------------------------------- weights that stay

CALLS_KEPT = 64


class _Held:
    """What is known of a weight while it lives and is not written to: how it is multiplied, and copies for that.

    It holds no reference to the weight.
    """

    __slots__ = ("_address", "_calls", "_packed", "_storage", "_version", "_weight", "recent")

    def __init__(self, weight: Tensor) -> None:
        number = id(weight)
        self._weight = weakref.ref(weight, lambda _: _HELD.pop(number, None))
        self._storage = StorageWeakRef(weight.untyped_storage())  # type: ignore[no-untyped-call]
        self._address = weight.data_ptr()
        self._version = _version(weight)
        self._calls: dict[Any, Call] = {}
        self._packed: dict[str, Tensor] = {}
        # The latest call: how many arguments, what they must be like, whether none asks for a gradient, what runs.
        self.recent: tuple[int, Callable[..., bool], bool, Call] = 0, bool, False, F.linear

    def is_of(self, weight: Tensor) -> bool:
        """Whether this is that weight, with the memory and the values it had."""
        return (
            self._weight() is weight
            and self._version == _version(weight)
            and self._address == weight.data_ptr()
            and self._storage.cdata == weight.untyped_storage()._cdata
        )

    def call(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Call:
        """What multiplies arguments of this form."""
        form = x.shape, x.stride(), weight.shape, weight.stride(), bias is None, _threads()
        found = self._calls.get(form)
        if found is None:
            if len(self._calls) >= CALLS_KEPT:
                self._calls.clear()
            found = self._calls[form] = self._prepared(x, weight, bias)
        return found

    def _prepared(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Call:
        matrix = x.reshape(-1, x.shape[-1])
        route = _route(_product(matrix, weight, bias is not None, keeps=self._version is not None))
        if route.name == PLAIN:
            return F.linear
        packed = None
        if route.pack is not None:
            if route.name not in self._packed:
                self._packed[route.name] = route.pack(weight.detach(), bucket(len(matrix)))
            packed = self._packed[route.name]
        return partial(_run, route.run, matrix.shape, (*x.shape[:-1], len(weight)), packed)


_HELD: dict[int, _Held] = {}


def _version(weight: Tensor) -> int | None:
    """How often a tensor was written to; None where PyTorch does not count it, and nothing may be kept of it."""
    return None if weight.is_inference() else weight._version


def _run(
    run: Any, rows: tuple[int, ...], shape: tuple[int, ...], packed: Tensor | None,
    x: Tensor, weight: Tensor, bias: Tensor | None,
) -> Tensor:  # fmt: skip
    """A route, for an input and an output with any number of axes."""
    return run(x.reshape(rows), weight, bias, packed).view(shape)


# ---------------------------------------------------------------- training


def _trained(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product, recorded by autograd: by a function of ours only if one of its three products has another route."""
    matrix = x.reshape(-1, x.shape[-1])
    forward = _product(matrix, weight, bias is not None)
    if forward is None or all(_route(product).name == PLAIN for product in (forward, *_backward(forward, x, weight))):
        return F.linear(x, weight, bias)
    made: Tensor = Recorded.apply(matrix, weight, bias)  # type: ignore[no-untyped-call]
    return made.view(*x.shape[:-1], len(weight))


def _backward(forward: Product, x: Tensor, weight: Tensor) -> list[Product]:
    """The products that give the gradients of those that ask for them, from one of the output that lies by rows."""
    rows, inner, outputs, dtype, x_turned, weight_turned, *_, threads = forward
    wanted = []
    if x.requires_grad:
        wanted.append(Product(rows, outputs, inner, dtype, False, not weight_turned, False, False, threads))
    if weight.requires_grad:
        wanted.append(Product(outputs, rows, inner, dtype, True, not x_turned, False, False, threads))
    return wanted


class Recorded(torch.autograd.Function):
    """A product of matrices, (rows, inputs) by (outputs, inputs), whose gradients are products by routes of their own.

    Gradients of these gradients are PyTorch's.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _route(_product(x, weight, bias is not None)).run(x, weight, bias, None)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            _multiplied(dy, weight.t()) if to_x else None,
            _multiplied(dy.t(), x.t(), summed=True) if to_weight else None,
            dy.sum(0) if to_bias else None,
        )


def _multiplied(x: Tensor, weight: Tensor, summed: bool = False) -> Tensor:
    """``x @ weight.T`` by the route for it; PyTorch's own where the product is to have gradients, too."""
    wants = _grad_enabled() and (x.requires_grad or weight.requires_grad)
    if wants or not _are_ordinary(x, weight, None):
        return F.linear(x, weight)
    return _route(_product(x, weight, False, summed=summed)).run(x, weight, None, None)
