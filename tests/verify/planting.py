"""Bugs planted in derivations and in emitted text, and the look whether the table names them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

import ssmc
from ssmc import compiler, passes
from ssmc.backends import Emitted
from ssmc.ir import Const, Expr, Index, Op, Program, Read, rewrite
from ssmc.verify import FAILS, HOLDS, Verification, verify

_number = itertools.count()


def layer(text: str) -> ssmc.Layer:
    """A layer that no other test has compiled."""
    return ssmc.compile(f"{text}# {next(_number)}\n")


def look(text: str, rows: Sequence[str], **options: Any) -> Verification:
    """Some rows of the table, of the equations alone unless a target is named."""
    return verify(layer(text), **{"targets": [], "storages": ["f32"], "only": rows, **options})


def found(text: str, row: str, plant: Callable[[], None], **options: Any) -> None:
    """The clean layer passes, and with the bug planted the row that is named says no."""
    clean = look(text, [row], **options)
    assert clean.ok and any(r.verdict == HOLDS for r in clean.rows), str(clean)
    plant()
    planted = look(text, [row], **options)
    failed = {r.name for r in planted.rows if r.verdict == FAILS}
    assert row in failed, str(planted)
    assert not planted.ok and row in planted.verdict


# ---------------------------------------------------------------- ways to plant

Rule = Callable[[Expr], Expr | None]
Replacement = str | Callable[[re.Match[str]], str]


def in_pass(monkeypatch: pytest.MonkeyPatch, name: str, spoil: Callable[[Program], Program]) -> Callable[[], None]:
    """What a derivation gives is spoiled."""
    derive = getattr(passes, name)

    def spoiled(program: Program, *args: Any, **named: Any) -> Program:
        return spoil(derive(program, *args, **named))

    return lambda: monkeypatch.setattr(passes, name, spoiled)


def in_text(
    monkeypatch: pytest.MonkeyPatch, *edits: tuple[str, str | Callable[[re.Match[str]], str]]
) -> Callable[[], None]:
    """The emitted C is edited; each pattern to be replaced must be there."""
    target = compiler.target_named("c")

    def emit(*args: Any) -> Emitted:
        made = target.emit(*args)
        text = made.text
        for before, after in edits:
            text, times = re.subn(before, after, text)
            assert times, text
        return replace(made, text=text)

    return lambda: monkeypatch.setattr(compiler, "target_named", lambda _: replace(target, emit=emit))


def everywhere(rule: Rule, only: Callable[[str], bool] = lambda _: True) -> Callable[[Program], Program]:
    """A rule for the expressions of those equations; it must change something."""

    def spoil(program: Program) -> Program:
        equations = tuple(replace(e, expr=rewrite(e.expr, rule)) if only(e.name) else e for e in program.equations)
        return replace(program, equations=equations)

    return spoil


def shifted(tensor: str, by: int, time: str = "t") -> Rule:
    """``tensor[t]`` is read at another time."""

    def rule(expr: Expr) -> Expr | None:
        if not isinstance(expr, Read) or expr.tensor != tensor:
            return None
        moved = Op("add", (Index(time), Const(by, ssmc_int())))
        return replace(expr, indices=tuple(moved if i == Index(time) else i for i in expr.indices))

    return rule


def ssmc_int() -> Any:
    from ssmc.ir import INT

    return INT
