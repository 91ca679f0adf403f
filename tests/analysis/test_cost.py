"""Costs of small programs, counted by hand."""

from __future__ import annotations

from ssmc.analysis import cost
from ssmc.ir import COMPLEX, INT
from tests.building import equation, fold, op, program, read, size, tensor

SIZES = {"b": 2, "t": 10, "d": 3, "n": 4}


def test_bytes_and_flops() -> None:
    given = program(
        [tensor("x b t d"), tensor("A d n"), tensor("k t", INT)],
        [
            equation("a b t d n", op("exp", read("x", "b", "t", "d") * read("A", "d", "n"))),
            equation("y b t d", fold("sum", "n", read("a", "b", "t", "d", "n"))),
        ],
    )
    found = cost(given, SIZES)
    assert found.bytes_in == 4 * 60 + 4 * 12 + 8 * 10 and found.bytes_out == 4 * 60
    assert found.exponentials == 240
    assert found.flops == 240 * (1 + 14) + 240
    assert [(item.name, item.points, item.bytes) for item in found.equations] == [("a", 240, 960), ("y", 60, 240)]
    assert cost(given, SIZES, real_bytes=8).bytes_out == 8 * 60


def test_work_is_counted_where_it_varies_and_once() -> None:
    hoisted = read("x", "t") * read("x", "t")
    given = program([tensor("x t"), tensor("w n")], [equation("y t n", hoisted + hoisted * read("w", "n"))])
    assert cost(given, {"t": 10, "n": 4}).flops == 10 + 40 + 40


def test_complex_arithmetic_and_stated_extents() -> None:
    given = program(
        [tensor("c t", COMPLEX)],
        [equation("y t m", read("c", "t") * read("c", "m"), COMPLEX)],
        extents={"m": 2 * size("t")},
    )
    found = cost(given, {"t": 5})
    assert found.flops == 6 * 50 and found.bytes_out == 8 * 50
