"""What multiplies matrices of some shape fastest: tried once on this machine, then known.

    y[r, o] = sum[i](x[r, i] * W[o, i]) + bias[o]

PyTorch has several ways to compute this, and hands most calls to one library (MKL where there is one), whatever the
processor. On some processors another is more than twice as fast, and one row is best taken as a matrix and a vector;
in sixteen bits, by a layer of our own.
"""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmc.backends import Cache, toolchain
from ssmc.errors import ToolchainError
from ssmc.runtime import Library

TRAINED_MARGIN = 1.1  # where autograd records a product, another route than PyTorch's own must be this much faster
PACKED_MARGIN = 1.25  # and this much faster than the best without, if it needs a copy of the weight
FEW_ROWS = 4  # up to here a weight is read once and little is computed: numbers of rows are told apart
OPERATIONS = 6e8  # of the product that is timed: larger ones are cut along the outputs
ELEMENTS = 6e6  # of its weight, likewise
SMALL, SMALL_OF_FEW = 1 << 20, 1 << 17  # products of fewer multiplications, with few rows: not worth a measurement
EVICTED_BYTES = 1 << 24  # written before a timed call of few rows: weights of a model are not in the nearest caches
ROUNDS = 5  # timed calls of each route, leaving out those during which other programs ran
LEAST = 3  # that many will do
SECONDS = 0.5  # after which nothing more is timed
DTYPES = (torch.float32, torch.bfloat16)
VERSION = "3"  # change it when routes change or are timed in another way

Run = Callable[[Tensor, Tensor, Tensor | None, Any], Tensor]


class Product(NamedTuple):
    """A kind of product: ``rows`` × ``inner`` by ``outputs`` × ``inner``.

    ``x_turned`` and ``weight_turned``: along the first axis neighbours lie side by side, not along the second.
    ``keeps``: the weight stays what it is, so that a copy made once may be used again.
    """

    rows: int
    inner: int
    outputs: int
    dtype: torch.dtype
    x_turned: bool
    weight_turned: bool
    biased: bool
    keeps: bool
    threads: int


@dataclass(frozen=True)
class Route:
    """A way to compute a product.

    ``run(x, weight, bias, packed)`` gets two matrices, and what ``pack(weight, rows)`` made if there is such a thing.
    ``most_rows``: for so many at most.
    """

    name: str
    run: Run
    pack: Callable[[Tensor, int], Tensor] | None = None
    most_rows: float = math.inf


@dataclass(frozen=True)
class Choice:
    """What was decided for a product. ``seconds`` of each route that gave the right result; ``note`` if none was timed.

    Of a large product a part was timed: ``timed`` outputs.
    """

    product: Product
    route: str
    seconds: dict[str, float]
    timed: int
    note: str = ""

    def __str__(self) -> str:
        p = self.product
        kind = "kept weight" if p.keeps else "any weight"
        layout = "".join(" turned" if turned else " rows" for turned in (p.x_turned, p.weight_turned))
        times = ", ".join(f"{name} {1e6 * taken:.0f} µs" for name, taken in self.seconds.items())
        shape = f"{p.rows}×{p.inner}→{p.outputs} {str(p.dtype).removeprefix('torch.')}{layout}, {p.threads} threads"
        return f"{shape}, {kind}: {self.route} ({self.note or times})"


# ---------------------------------------------------------------- the routes


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None, _: Any) -> Tensor:
    return F.linear(x, weight, bias)


def _vector(x: Tensor, weight: Tensor, bias: Tensor | None, _: Any) -> Tensor:
    made = torch.mv(weight, x[0]) if bias is None else torch.addmv(bias, weight, x[0])
    return made.unsqueeze(0)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, _: Any) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _onednn_swapped(x: Tensor, weight: Tensor, bias: Tensor | None, _: Any) -> Tensor:
    made = torch.ops.mkldnn._linear_pointwise(weight, x, None, "none", [], "").view(1, -1)
    return made if bias is None else made.add_(bias)


def _onednn_packed(x: Tensor, _: Tensor, bias: Tensor | None, packed: Any) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def _onednn_pack(weight: Tensor, rows: int) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight, rows)


def _transposed(x: Tensor, _: Tensor, bias: Tensor | None, packed: Any) -> Tensor:
    return torch.mm(x, packed) if bias is None else torch.addmm(bias, x, packed)


def _transpose(weight: Tensor, _: int) -> Tensor:
    return weight.t().contiguous()


_LAYER = Library("linear")


def _compiled(x: Tensor, weight: Tensor, bias: Tensor | None, _: Any) -> Tensor:
    given = (x.unsqueeze(0), weight) if bias is None else (x.unsqueeze(0), weight, bias)
    made: Tensor = _LAYER(*given)
    return made[0]


PLAIN = "PyTorch"
ROUTES: dict[str, Route] = {
    route.name: route
    for route in (
        Route(PLAIN, _plain),
        Route("matrix and vector", _vector, most_rows=1),
        Route("compiled layer", _compiled, most_rows=FEW_ROWS),
        Route("oneDNN", _onednn),
        Route("oneDNN, operands swapped", _onednn_swapped, most_rows=1),
        Route("oneDNN, packed", _onednn_packed, _onednn_pack),
        Route("transposed copy", _transposed, _transpose),
    )
}


def candidates(product: Product) -> list[Route]:
    """The routes that may be taken for a product, PyTorch's own first."""
    if product.dtype not in DTYPES or not torch._C._has_mkldnn:
        return [ROUTES[PLAIN]]
    return [
        route
        for route in ROUTES.values()
        if (product.keeps or route.pack is None)
        and product.rows <= route.most_rows
        and not (route.pack is not None and product.weight_turned)
    ]


# ---------------------------------------------------------------- measuring


def bucket(rows: int) -> int:
    """The number of rows for which a product of that many is measured: itself if few, else the next power of two."""
    return rows if rows <= FEW_ROWS else 1 << (rows - 1).bit_length()


def choose(product: Product) -> Choice:
    """The fastest route, measured now or on an earlier day.

    A measurement takes half a second at most. It is kept in the cache of compiled layers, by processor, PyTorch and
    number of threads; if other programs kept interrupting it, PyTorch's own route is taken, in this process only.
    """
    routes = candidates(product)
    outputs = _timed_outputs(product)
    if len(routes) == 1:
        return Choice(product, PLAIN, {}, outputs, f"no other route for {product.dtype}")
    few = product.rows <= FEW_ROWS
    if product.rows * product.inner * product.outputs < (SMALL_OF_FEW if few else SMALL):
        return Choice(product, PLAIN, {}, outputs, "small")

    def measure(folder: Path) -> None:
        seconds = seconds_of(product, routes, outputs)
        if PLAIN not in seconds:
            raise Disturbed
        (folder / "seconds.json").write_text(json.dumps(seconds))

    described = {name: str(value) for name, value in product._asdict().items()}
    about = {"what": "linear", "version": VERSION, "torch": torch.__version__, "cpu": toolchain.cpu_name()}
    try:
        folder = Cache().get({**about, **described}, measure)
    except Disturbed:
        return Choice(product, PLAIN, {}, outputs, "other programs kept the processors busy")
    seconds = json.loads((folder / "seconds.json").read_bytes())
    return Choice(product, fastest(seconds, 1.0 if product.keeps else TRAINED_MARGIN), seconds, outputs)


def _timed_outputs(product: Product) -> int:
    """How many outputs are timed: all, or a round number of them."""
    most = int(min(OPERATIONS / (2 * product.rows * product.inner), ELEMENTS / product.inner))
    return min(product.outputs, max(64, most // 64 * 64))


class Disturbed(Exception):
    """Other programs ran on the processors while something was timed."""


def fastest(seconds: dict[str, float], margin: float) -> str:
    """The route to take; ``margin``: what another than PyTorch's own has to be faster by."""
    unpacked = {name: taken for name, taken in seconds.items() if ROUTES[name].pack is None}
    best = min(unpacked, key=lambda name: unpacked[name] * (1.0 if name == PLAIN else margin))
    packed = [name for name in seconds if ROUTES[name].pack is not None]
    good = [name for name in packed if PACKED_MARGIN * seconds[name] < seconds[best]]
    return min(good, key=lambda name: seconds[name], default=best)


def seconds_of(product: Product, routes: Sequence[Route], outputs: int) -> dict[str, float]:
    """The shortest time of each route that gives the right result, on numbers of its own; they take turns.

    Left out are those that could not be timed often enough without other programs in between.
    """
    with torch.no_grad():
        x, weight, bias = _operands(product, outputs)
        ready = _right(product, routes, x, weight, bias)
        evicted = torch.empty(EVICTED_BYTES, dtype=torch.uint8) if product.rows <= FEW_ROWS else None
        found: dict[str, list[float]] = {name: [] for name in ready}
        end = time.perf_counter() + SECONDS
        while time.perf_counter() < end and any(len(taken) < ROUNDS for taken in found.values()):
            for name, run in ready.items():
                if evicted is not None:
                    evicted.zero_()
                taken = _undisturbed(run)
                if taken is not None:
                    found[name].append(taken)
    return {name: min(taken) for name, taken in found.items() if len(taken) >= LEAST}


def _right(
    product: Product, routes: Sequence[Route], x: Tensor, weight: Tensor, bias: Tensor | None
) -> dict[str, Callable[[], Tensor]]:
    """A call of each route that is as exact as PyTorch's own, which is the first; each is called once."""
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    allowed = math.inf
    ready: dict[str, Callable[[], Tensor]] = {}
    for route in routes:
        try:
            packed = None if route.pack is None else route.pack(weight, product.rows)
            run = partial(route.run, x, weight, bias, packed)
            error = float((run().double() - exact).abs().max())
        except (
            RuntimeError,
            ToolchainError,
        ):  # no C compiler; or this PyTorch has no such operator, or it does not take such operands
            continue
        if error <= allowed:
            ready[route.name] = run
        if route.name == PLAIN:
            allowed = 4 * error + 1e-6 * float(exact.abs().max())
    return ready


def _undisturbed(run: Callable[[], Tensor]) -> float | None:
    """Seconds of a call; None if another program got a processor meanwhile."""
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    start = time.perf_counter()
    run()
    taken = time.perf_counter() - start
    return taken if resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw == switches else None


def _operands(product: Product, outputs: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Normal numbers of the sizes, dtype and layout of a product; PyTorch's own generator is left alone."""
    generator = torch.Generator().manual_seed(0)

    def matrix(rows: int, turned: bool) -> Tensor:
        shape = (product.inner, rows) if turned else (rows, product.inner)
        made = torch.randn(shape, generator=generator).to(product.dtype)
        return made.t() if turned else made

    bias = torch.randn(outputs, generator=generator).to(product.dtype) if product.biased else None
    return matrix(product.rows, product.x_turned), matrix(outputs, product.weight_turned), bias
