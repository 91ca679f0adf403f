"""Bugs planted in derivations and in emitted code: each is found, and the row that fails is the right one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ssmc import passes
from ssmc.ir import INT, REAL, Const, Expr, Index, Op, Program, Read, Reduce, Size, Where, rewrite, walk
from tests.verify.planting import everywhere, found, in_pass, in_text, shifted

SMALL = """
layer small(x[b, t, d], a[b, t, d], w[d, k], h0[b, d] = 0) -> y[b, t, d]:
    seq t
    h = sigmoid(a) * h[t-1] + x
    h[t<0] = h0
    u = silu(h) * cos(t / 4)
    y = sum[k](w * u[t-k])
"""
COMPLEX = """
layer turning(x[b, t], a[n]: complex, c[n]: complex) -> y[b, t]:
    seq t
    h = exp(complex(-1, 0) * a * conj(a)) * a * h[t-1] + x
    y = re(sum[n](c * h))
"""
CODES = """
layer codes(q[b, t, e], k[b, s, e], v[b, s, f], R[e, c]) -> y[b, t, f]:
    code_q = sum[c]((sum[e](q * R) > 0) * 2 ^ c)
    code_k = sum[c]((sum[e](k * R) > 0) * 2 ^ c)
    y = sum[s: code_k == code_q](v)
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled with a bug in it stays out of everybody's cache."""
    monkeypatch.setenv("SSMC_CACHE_DIR", str(tmp_path))


# ---------------------------------------------------------------- in the equations


def test_a_shifted_gate_in_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate of the next step stands where that of this one should."""
    spoil = everywhere(shifted("a", 1), lambda name: name == "d.h.to.h")
    found(SMALL, "gradient", in_pass(monkeypatch, "grad", spoil))


def test_a_missed_conjugate(monkeypatch: pytest.MonkeyPatch) -> None:
    def rule(expr: Expr) -> Expr | None:
        return expr.args[0] if isinstance(expr, Op) and expr.op == "conj" else None

    spoil = everywhere(rule, lambda name: name.startswith("d."))
    found(COMPLEX, "gradient", in_pass(monkeypatch, "grad", spoil))


def test_a_rehash_in_the_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes are computed again, from values that were rounded on the way."""

    def rule(expr: Expr) -> Expr | None:
        if not isinstance(expr, Read) or expr.tensor != "k":
            return None
        return Op("div", (Op("round", (Op("mul", (expr, Const(64.0, REAL))),)), Const(64.0, REAL)))

    spoil = everywhere(rule, lambda name: name.startswith("code_k"))
    found(CODES, "gradient", in_pass(monkeypatch, "grad", spoil))


def test_a_term_of_the_tangent_that_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    def rule(expr: Expr) -> Expr | None:
        return Const(0.0, REAL) if isinstance(expr, Read) and expr.tensor == "dot.a" else None

    found(SMALL, "tangent", in_pass(monkeypatch, "jvp", everywhere(rule)))


def test_a_stale_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is carried is that before the last step."""

    def rule(expr: Expr) -> Expr | None:
        return Op("sub", (expr, Const(1, INT))) if expr == Size("t") else None

    spoil = everywhere(rule, lambda name: name == "h.next")
    found(SMALL, "step by step", in_pass(monkeypatch, "step", spoil))


def test_a_step_whose_position_is_not_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    def rule(expr: Expr) -> Expr | None:
        return Const(0, INT) if isinstance(expr, Read) and expr.tensor == "t.offset" else None

    spoil = everywhere(rule, lambda name: name == "u")
    found(SMALL, "split", in_pass(monkeypatch, "step", spoil))


def test_a_window_that_carries_what_it_was_derived_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """The values before ``cos`` are carried instead of those after it."""

    def rule(expr: Expr) -> Expr | None:
        return replace(expr, tensor="h") if isinstance(expr, Read) and expr.tensor == "u" else None

    spoil = everywhere(rule, lambda name: name == "u.next")
    found(SMALL, "pieces", in_pass(monkeypatch, "step", spoil))


def test_a_position_that_is_not_turned_around(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(program: Program) -> Program:
        forward = Index("t")

        def rule(expr: Expr) -> Expr | None:
            return (
                Op("cos", (Op("div", (forward, Const(4, INT))),)) if isinstance(expr, Op) and expr.op == "cos" else None
            )

        return everywhere(rule)(program)

    found(SMALL, "backwards", in_pass(monkeypatch, "reverse", spoil))


def _crossing(name: str) -> object:
    """Reads of a document go beyond its boundary."""

    def rule(expr: Expr) -> Expr | None:
        if isinstance(expr, Where) and any(isinstance(n, Read) and n.tensor == name for n in walk(expr.condition)):
            return expr.then
        return None

    return rule


def test_a_dropped_document_boundary(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil = everywhere(_crossing("t.first"))  # type: ignore[arg-type]
    found(SMALL, "packed", in_pass(monkeypatch, "pack", spoil))


def test_a_boundary_that_only_windows_cross(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil = everywhere(_crossing("t.first"), lambda name: name == "y")  # type: ignore[arg-type]
    found(SMALL, "packed rows", in_pass(monkeypatch, "pack", spoil))


def test_an_empty_document_that_loses_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil = everywhere(_crossing("t.end"), lambda name: name == "h.next")  # type: ignore[arg-type]
    found(SMALL, "packed, state", in_pass(monkeypatch, "pack", spoil))


def test_padding_that_decays_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    def rule(expr: Expr) -> Expr | None:
        if isinstance(expr, Where) and any(isinstance(n, Read) and n.tensor == "t.valid" for n in walk(expr.condition)):
            return replace(expr, otherwise=Op("mul", (Const(0.9, REAL), expr.otherwise)))
        return None

    spoil = everywhere(rule, lambda name: name == "h")
    found(SMALL, "padded", in_pass(monkeypatch, "mask", spoil))


def test_padding_that_a_window_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window reads the values that lie before it, padding among them."""

    def spoil(program: Program) -> Program:
        def rule(expr: Expr) -> Expr | None:
            if isinstance(expr, Read) and expr.tensor == "u.last":
                place = Op("sub", (Index("t"), Index("k")))
                return Read("u", tuple(place if a == "t" else Index(a) for a in program.equation("u").axes))
            return None

        return everywhere(rule, lambda name: name == "y")(program)

    found(SMALL, "padded", in_pass(monkeypatch, "mask", spoil))


def test_a_guard_that_inlining_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside its axis a sigmoid is 0; that of what is read outside is a half."""
    text = """
layer gate(x[b, t, d]) -> y[b, t, d]:
    seq t
    g = sigmoid(x)
    y = g[t-1] * x
"""

    def inlined(program: Program) -> Program:
        (g,) = (e for e in program.equations if e.name == "g")

        def rule(expr: Expr) -> Expr | None:
            if not isinstance(expr, Read) or expr.tensor != "g":
                return None
            at = dict(zip(g.axes, expr.indices, strict=True))
            return rewrite(g.expr, lambda e: at.get(e.axis) if isinstance(e, Index) else None)

        return everywhere(rule, lambda name: name == "y")(program)

    from ssmc import compiler

    inline = passes.inline
    found(text, "prepared", lambda: monkeypatch.setattr(compiler, "inline", lambda p: inlined(inline(p))))


def test_a_state_on_the_way_that_is_one_late(monkeypatch: pytest.MonkeyPatch) -> None:
    def rule(expr: Expr) -> Expr | None:
        if isinstance(expr, Reduce) and expr.condition is not None:
            return replace(expr, condition=rewrite(expr.condition, _one_later))
        return None

    def _one_later(expr: Expr) -> Expr | None:
        if isinstance(expr, Read) and expr.tensor == "t.at":
            return Op("sub", (expr, Const(1, INT)))
        return None

    spoil = everywhere(rule, lambda name: name == "h.at")
    found(SMALL, "state on the way", in_pass(monkeypatch, "states_at", spoil))


# ---------------------------------------------------------------- in the machine code

ON_C = {"targets": ["c"]}
INCLUDES = "#include <stdlib.h>\n"


def test_a_tail_that_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the channels that fill no vector the last is left out."""
    edit = (r"j < w; |s_y_d, w - o, ", lambda found: found[0].replace("w", "w - (w < 16)"))
    found(SMALL, "widths", in_text(monkeypatch, edit), **ON_C)


def test_an_accumulation_in_less_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state keeps 8 bits of its digits from step to step."""
    narrow = "float narrow(float v) { union { float f; uint32_t i; } u = {v}; u.i &= 0xffff0000u; return u.f; }\n"
    every = "for (int64_t k = 0; k < w; ++k) r_h[k] = narrow(r_h[k]);"
    edits = ((INCLUDES, f"{INCLUDES}static inline {narrow}"), (r"(\S+) = v_h;", rf"\1 = v_h; {every}"))
    found(SMALL, "lengths", in_text(monkeypatch, *edits), **ON_C)


def test_bits_that_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    edit = ("const int64_t start = 0, stop = n_t;", "const int64_t start = 0, stop = n_t - (threads > 2);")
    found(SMALL, "same bits", in_text(monkeypatch, edit), **ON_C)


def test_an_index_of_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    edit = (r"\[i_b \* s_x_b \+ ", "[(int64_t)(int32_t)(i_b * s_x_b) + ")
    found(SMALL, "huge strides", in_text(monkeypatch, edit), **ON_C)


def test_a_softplus_that_overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    edit = (INCLUDES, f"{INCLUDES}#define ssmc_softplus_f32(v) logf(1 + expf(v))\n")
    text = SMALL.replace("y = sum[k]", "y = softplus(sum[d](a)) * sum[k]")
    found(text, "extreme values", in_text(monkeypatch, edit), **ON_C)
