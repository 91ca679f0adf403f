"""Library layers through the whole way: text → operator → values, against the interpreter."""

from __future__ import annotations

import pytest
import torch

import ssmc
from ssmc.ir import DType, complete_extents
from ssmc.ir.interpret import interpret
from tests.library_cases import LOWERED, Case
from tests.runtime.layers import close, numpy


def values(dtype: DType, shape: list[int], generator: torch.Generator) -> torch.Tensor:
    match dtype:
        case DType.REAL:
            return -torch.rand(shape, generator=generator)
        case DType.COMPLEX:
            return torch.complex(*(-torch.rand(2, *shape, generator=generator)).unbind(0))
        case DType.INT:
            return torch.randint(0, 2, shape, generator=generator)
        case DType.BOOL:
            return torch.rand(shape, generator=generator) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("case", LOWERED, ids=lambda case: case.name)
def test_layer(case: Case) -> None:
    generator = torch.Generator().manual_seed(0)
    op = ssmc.load(case.module, case.layer, **case.statics)  # type: ignore[arg-type]
    program = case.program()
    sizes = complete_extents(program, case.sizes)
    inputs = {t.name: values(t.dtype, [sizes[a] for a in t.axes], generator) for t in program.inputs}
    found = op(**inputs)
    wanted = interpret(program, {name: numpy(value) for name, value in inputs.items()})
    for name, value in zip(program.outputs, found if isinstance(found, tuple) else (found,), strict=True):
        close(value, wanted[name], 1e-4)
