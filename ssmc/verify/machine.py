"""The properties that hold of machine code only: equal bits, any memory layout, extreme values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

from ssmc.errors import Unsupported
from ssmc.ir import COMPLEX, REAL

from .cases import COMPUTED_IN, SAFETY, UNIT, Case, Variant, difference, largest
from .evaluate import Array, Arrays, disturbed
from .inputs import draw_inputs
from .layouts import LAYOUTS, SparseMemory
from .properties import Bench
from .rows import EXACT, ROUNDOFF, Finding, Property, compare, equal
from .subjects import spoil

THREADS = (1, 2, 3)
BUSY_LENGTH, BUSY = 257, (4, 67)
LARGE_LENGTH, LARGE = 65, (3, 35)
SLOW_LENGTH, SLOW = 33, (2, 35)  # for what is not spread over threads, which takes its time
EXTREMES = (0.0, -40.0, 40.0, -1000.0, 1000.0)
NEAR = 1024
LIMIT = {"f64": np.inf, "f32": float(np.finfo(np.float32).max), "bf16": 3.3e38, "f16": 65504.0}


# ---------------------------------------------------------------- equal bits


def _bits(bench: Bench, variant: Variant) -> Iterator[Finding]:
    arguments = busy_arguments(bench, variant)
    yield from repeated(bench, lambda: bench.subject.raw(variant, arguments))


def busy_arguments(bench: Bench, variant: Variant) -> dict[str, torch.Tensor]:
    """Arguments that are worth several threads where there are any; nothing but the operator runs on them."""
    sizes = variant.sizes(_larger(bench, variant, BUSY_LENGTH, BUSY)) or variant.sizes({})
    if sizes is None:
        raise Unsupported("no extents meet what the layer requires")
    arguments: dict[str, torch.Tensor] = bench.subject.tensors(draw_inputs(variant.program, sizes, 0, variant.kinds))
    return arguments


def repeated(bench: Bench, run: Callable[[], Mapping[str, torch.Tensor]]) -> Iterator[Finding]:
    """``run`` twice with each number of threads: always the bits of the first time."""
    before = torch.get_num_threads()
    counts = THREADS if bench.subject.is_spread else (before,)
    first: Mapping[str, torch.Tensor] | None = None
    try:
        for threads in counts:
            torch.set_num_threads(threads)
            for again in range(2):
                found = run()
                first = first or {name: value.clone() for name, value in found.items()}
                for name, value in found.items():
                    label = f"{threads} threads, run {again + 1}"
                    yield equal(label, name, _same_bits(value, first[name]), "other bits than the first run")
                    spoil(value)
    finally:
        torch.set_num_threads(before)


def large_case(bench: Bench, variant: Variant) -> Case:
    """A case that is worth several threads, and wider than vectors are."""
    case = bench.case(variant, 0, **_larger(bench, variant, LARGE_LENGTH, LARGE)) or bench.case(variant, 0)
    if case is None:
        raise Unsupported("no extents meet what the layer requires")
    return case


def _larger(bench: Bench, variant: Variant, length: int, wide: tuple[int, int]) -> dict[str, int]:
    """Extents of sequences and of two other axes, or smaller ones for what is not spread over threads."""
    if not bench.subject.is_spread:
        length, wide = SLOW_LENGTH, SLOW
    times = dict.fromkeys(variant.program.sequence_axes, length)
    return {**times, **dict(zip(bench.free(variant), wide, strict=False))}


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    kind = kinds[a.element_size()]
    return torch.equal(a.contiguous().view(kind), b.contiguous().view(kind))


# ---------------------------------------------------------------- memory


def _layouts(bench: Bench, variant: Variant) -> Iterator[Finding]:
    case = bench.case(variant, 0, **dict.fromkeys(variant.program.sequence_axes, 5))
    if case is None:
        return
    plain = bench.subject.tensors(case.inputs)
    for label, layout in LAYOUTS.items():
        arguments = {name: layout(value) for name, value in plain.items()}
        yield from bench.check(case, bench.subject.call(variant, arguments)[0], label=label)
        yield from bench.check(case, _into(bench, variant, plain, case, layout), label=f"out=, {label}")
    yield from _expanded(bench, case)


def _into(
    bench: Bench,
    variant: Variant,
    arguments: Mapping[str, torch.Tensor],
    case: Case,
    layout: Callable[[torch.Tensor], torch.Tensor],
) -> Arrays:
    """The outputs written to memory of that layout."""
    out = tuple(layout(_spoiled(v)) for v in bench.subject.raw(variant, arguments).values())
    found: Arrays = bench.subject.call(variant, arguments, out=out if len(out) > 1 else out[0])[0]
    return found


def _spoiled(value: torch.Tensor) -> torch.Tensor:
    other = torch.empty_like(value)
    spoil(other)
    return other


def _expanded(bench: Bench, case: Case) -> Iterator[Finding]:
    """Inputs that are the same along their first axis, without a copy for each place."""
    inputs = {name: np.broadcast_to(v[:1], v.shape) if v.ndim else v for name, v in case.inputs.items()}
    same = Case("stride 0", case.variant, case.sizes, inputs)
    arguments = {
        name: value[:1].expand(value.shape) if value.dim() else value
        for name, value in bench.subject.tensors(inputs).items()
    }
    yield from bench.check(same, bench.subject.call(case.variant, arguments)[0])


def _huge(bench: Bench, variant: Variant) -> Iterator[Finding]:
    times = variant.program.sequence_axes
    case = bench.case(variant, 0, **dict.fromkeys(times, 3))
    if case is None:
        return
    plain = bench.subject.tensors(case.inputs)
    first = next((tensor.axes[0] for tensor in variant.program.inputs if tensor.axes), None)
    for axis in dict.fromkeys((first, *times)):
        if axis is None:
            continue
        memory = SparseMemory(case.sizes[axis], plain.values())
        arguments = {
            t.name: memory.holding(plain[t.name], t.axes.index(axis) if axis in t.axes else None)
            for t in variant.program.inputs
        }
        made = bench.subject.raw(variant, arguments)
        label = f"stride 2^32 + 7 along {axis}"
        yield from bench.check(case, bench.subject.arrays(made), label=label)
        axes = {name: variant.program.equation(name).axes for name in made}
        places = {name: axes[name].index(axis) if axis in axes[name] else None for name in made}
        out = tuple(SparseMemory(case.sizes[axis], [v]).holding(_spoiled(v), places[n]) for n, v in made.items())
        found, _ = bench.subject.call(variant, plain, out=out if len(out) > 1 else out[0])
        yield from bench.check(case, found, label=f"out=, {label}")


# ---------------------------------------------------------------- extreme values


def _extremes(bench: Bench, variant: Variant) -> Iterator[Finding]:
    case = bench.case(variant, 0, **dict.fromkeys(variant.program.sequence_axes, 9))
    if case is None:
        return
    names = [t.name for t in variant.program.inputs if t.dtype in (REAL, COMPLEX)]
    changes: list[dict[str, float]] = [{name: value} for name in names for value in EXTREMES]
    changes += [dict.fromkeys(names, 0.0)]
    for change in changes:
        inputs = {n: np.full_like(v, change[n]) if n in change else v for n, v in case.inputs.items()}
        label = "all inputs 0" if len(change) > 1 else ", ".join(f"{n} = {v:g}" for n, v in change.items())
        yield from extreme(bench, Case(label, variant, case.sizes, inputs), bench.subject.whole)


def extreme(bench: Bench, case: Case, run: Callable[[Case], Mapping[str, Array]]) -> Iterator[Finding]:
    """Where the result is a number, and stays one in the precision computed in, it is that number. Near the largest
    numbers it may not: sums in another order pass through others."""
    computed = COMPUTED_IN[bench.storage]
    runs = [
        disturbed(case.program, case.inputs, SAFETY * UNIT[computed], seed, limit=LIMIT[computed] / NEAR)[0]
        for seed in range(2)
    ]
    found = run(case)
    for name, value in case.outputs.items():
        others = [r[name] for r in runs]
        numbers = np.isfinite(value) & (np.abs(value) < LIMIT[bench.storage] / NEAR)
        for other in others:
            numbers = numbers & np.isfinite(other)
        if value.dtype.kind not in "fc":
            numbers = np.asarray(others[0] == value) & (others[1] == value)
        kept = np.where(numbers, value, 0)
        spread = max(largest(difference(np.where(numbers, other, 0), kept)) for other in others)
        stored = UNIT[bench.storage] if bench.storage in ("f16", "bf16") else 0
        allowed = spread + (4 * UNIT[computed] + stored) * largest(kept) + 1e-37
        there = np.where(numbers, found[name], 0)
        yield from compare(case.label, {name: there}, {name: kept}, {name: allowed}.__getitem__)


BITS = Property("same bits", "run twice, with 1, 2 and 3 threads", EXACT, _bits)
MEMORY = Property("memory", "permuted, spaced, unaligned, stride 0, out=", ROUNDOFF, _layouts)
FAR_APART = Property("huge strides", "strides beyond 2^32 elements, out= too", ROUNDOFF, _huge)
EXTREME = Property("extreme values", "each input 0, -40, 40, -1000, 1000; all 0", ROUNDOFF, _extremes)
