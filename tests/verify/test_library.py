"""The table of the layers that come with ssmc: parts of it for small ones, and all of it for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import ssmc
from ssmc import dsl
from ssmc.passes import KNOBS
from ssmc.verify import DOES_NOT_APPLY, HOLDS, solve, verify
from tests.cuda_host.driver import on_host
from tests.triton_host.machine import interpreted

# Kernels of GPUs, on this host.
GPUS: dict[str, Callable[[ssmc.Layer], ssmc.Layer]] = {"cuda": on_host, "triton": partial(interpreted, quickly=True)}
# Some of what is asked of machine code: one kernel or two each.
FEW = ("forward", "lengths", "step by step", "same bits", "huge strides", "packed", "padded", "backwards")


def layers() -> Iterator[tuple[str, str]]:
    for name in dsl.library_names():
        for layer in dsl.load_module(name).layers:
            yield name, layer


def loaded(module: str, layer: str, plan: str = "") -> ssmc.Layer:
    """The layer with small static parameters where it has no others."""
    source = dsl.load_module(module)
    needed = {item.name for item in dsl.signature(source, layer).statics if item.default is None}
    choice = next(iter(dsl.choices(source, source.layer(layer))))
    given = {name: value for name, value in choice.statics.items() if name in needed}
    return ssmc.load(module, layer, plan=plan, **given)


@pytest.mark.parametrize(
    ("module", "layer"),
    [
        ("affine_scan", "affine_scan"),
        ("causal_conv1d", "causal_conv1d"),
        ("norms", "rms_norm"),
        ("shift_ssm", "shift_ssm"),
        ("yoso", "yoso_codes"),
    ],
)
def test_equations(module: str, layer: str) -> None:
    found = verify(loaded(module, layer), [])
    assert found.ok, str(found)
    assert sum(row.verdict == HOLDS for row in found.rows) >= 4


@pytest.mark.parametrize(("storage", "only"), [("f32", FEW), ("f64", ("gradient, packed",)), ("bf16", ("forward",))])
def test_machine_code(storage: str, only: tuple[str, ...]) -> None:
    found = verify(loaded("affine_scan", "affine_scan"), ["c"], [storage], only=only)
    assert found.ok, str(found)
    rows = [row for row in found.rows if row.subject.startswith("c, ")]
    assert [row.name for row in rows] and all(row.verdict == HOLDS for row in rows), str(found)


def test_complex_doubles_far_apart() -> None:
    """Each takes sixteen bytes."""
    found = verify(loaded("affine_scan", "affine_scan_complex"), ["c"], ["f64"], only=["huge strides"])
    assert found.ok and any(row.verdict == HOLDS for row in found.rows), str(found)


@pytest.mark.parametrize("target", GPUS)
@pytest.mark.parametrize(("storage", "only"), [("f32", FEW), ("bf16", ("forward", "gradient"))])
def test_machine_code_for_gpus(storage: str, only: tuple[str, ...], target: str) -> None:
    """The operator, its gradient and the launcher, with kernels that run on this host."""
    found = verify(GPUS[target](loaded("affine_scan", "affine_scan")), [target], [storage], only=only)
    assert found.ok, str(found)
    rows = [row for row in found.rows if row.subject.startswith(f"{target}, ")]
    assert len(rows) == len(only) and all(row.verdict == HOLDS for row in rows), str(found)


PLANS = [(target, way) for way in ("chunks", "look_back", "lanes") for target in KNOBS["time"].words[way].split()]


@pytest.mark.parametrize(("target", "way"), [(target, way) for target, way in PLANS if target != "c"])
def test_ways_through_time(target: str, way: str) -> None:
    """The same rows, with sequences in parts of 32 steps."""
    layer = GPUS[target](loaded("affine_scan", "affine_scan", f"time={way},chunk=32"))
    found = verify(layer, [target], ["f32"], only=("lengths", "packed", "gradient"))
    assert found.ok, str(found)
    rows = [row for row in found.rows if row.subject.startswith(f"{target}, ")]
    assert len(rows) == 3 and all(row.verdict == HOLDS for row in rows), str(found)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("target", "way"), PLANS)
@pytest.mark.parametrize("module", ["selective_scan", "s4d", "rg_lru"])
def test_the_whole_table_of_ways_through_time(module: str, target: str, way: str) -> None:
    layer = loaded(module, dsl.load_module(module).layers[0], f"time={way},chunk=32")
    found = verify(GPUS.get(target, lambda same: same)(layer), [target], ["f32"])
    assert found.ok, str(found)


def test_requirements_that_are_said_together() -> None:
    """Extents are changed one at a time, so that one condition after the other holds."""
    text = "layer f(x[b, d], u[m], v[f]) -> y[b]:\n    require #f == #d and #m == #d\n    y = sum[d](x)\n"
    program = dsl.elaborate(dsl.module_from_text(text))
    found = solve(program, {"b": 2, "d": 6, "m": 5, "f": 3})
    assert found is not None and found["d"] == found["m"] == found["f"]


def test_sums_of_each_document(tmp_path: Path) -> None:
    """What has an entry for each document has as many as are told, by numbers and positions, too."""
    text = "layer f(x[b, t, d]) -> y[b, t, d], z[b, d]:\n    seq t\n    y = tanh(x[t-1] + x)\n    z = sum[t](y * y)\n"
    (tmp_path / "f.ssm").write_text(text)
    layer = ssmc.load(tmp_path / "f.ssm")
    found = verify(layer, ["c"], ["f32"], only=["packed", "packed rows", "gradient, packed"])
    assert found.ok, str(found)


def test_what_is_not_lowered() -> None:
    """A layer without machine code: the table says so once, and the equations are looked at all the same."""
    found = verify(loaded("yoso", "yoso_sampled"), ["c"], ["f32"], only=["prepared", "forward", "gradient"])
    assert found.ok, str(found)
    (row,) = [row for row in found.rows if row.subject == "c, float32"]
    assert row.verdict == DOES_NOT_APPLY and row.note


def test_what_a_condition_excludes_is_not_read_from_memory_of_a_program() -> None:
    """Inputs of a convolution lie in memory of the program that carries them; a tap reads none of them."""
    layer = GPUS["triton"](loaded("mamba_inner", "mamba_inner"))
    found = verify(layer, ["triton"], ["f32"], only=["gradient, padded"])
    assert found.ok, str(found)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("module", "layer"), list(layers()))
def test_the_whole_table(module: str, layer: str) -> None:
    found = verify(loaded(module, layer))
    assert found.ok, str(found)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("target", GPUS)
@pytest.mark.parametrize(("module", "layer"), list(layers()))
def test_the_whole_table_for_gpus(module: str, layer: str, target: str) -> None:
    """As above, of CUDA C and Triton, whose kernels run on this host."""
    found = verify(GPUS[target](loaded(module, layer)), [target], ["f32", "f64", "bf16"])
    assert found.ok, str(found)
