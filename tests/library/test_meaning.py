"""The library's layers against NumPy and PyTorch written out by hand, and against each other."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from ssmc.errors import UserError
from tests.library.golden import Array, run

Random = np.random.Generator


@pytest.fixture
def rng() -> Random:
    return np.random.default_rng(7)


def close(found: Array, expected: Array) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11)


def unit(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def complex_normal(rng: Random, *shape: int) -> Array:
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


# ---------------------------------------------------------------- recurrences


def test_lstm_is_that_of_pytorch(rng: Random) -> None:
    b, t, d, e = 2, 6, 3, 4
    torch.manual_seed(0)
    reference = torch.nn.LSTM(d, e, batch_first=True, dtype=torch.float64)
    x, y0, c0 = rng.normal(size=(b, t, d)), rng.normal(size=(b, e)), rng.normal(size=(b, e))
    with torch.no_grad():
        y, (y_last, c_last) = reference(torch.from_numpy(x), (torch.from_numpy(y0[None]), torch.from_numpy(c0[None])))
        weights = {name: value.numpy() for name, value in reference.named_parameters()}
    found = run(
        "lstm",
        {
            "x": x,
            "W": weights["weight_ih_l0"].reshape(4, e, d),
            "U": weights["weight_hh_l0"].reshape(4, e, e),
            "bias": (weights["bias_ih_l0"] + weights["bias_hh_l0"]).reshape(4, e),
            "y0": y0,
            "c0": c0,
        },
    )
    close(found["y"], y.numpy())
    close(found["y"][:, -1], y_last[0].numpy())
    close(found["c"][:, -1], c_last[0].numpy())


@pytest.mark.parametrize("gated", [False, True])
def test_gated_delta_corrects_the_memory(rng: Random, gated: bool) -> None:
    b, t, h, i, j = 2, 5, 3, 4, 2
    q, k = rng.normal(size=(2, b, t, h, i))
    k, v = unit(k), rng.normal(size=(b, t, h, j))
    beta, log_decay = rng.uniform(size=(b, t, h)), -rng.uniform(size=(b, t, h))
    S0 = rng.normal(size=(b, h, i, j))
    found = run(
        "gated_delta",
        {"q": q, "k": k, "v": v, "beta": beta, "log_decay": log_decay if gated else None, "S0": S0},
    )
    for bi, hi in itertools.product(range(b), range(h)):
        S = S0[bi, hi]
        for ti in range(t):
            key, strength = k[bi, ti, hi], beta[bi, ti, hi]
            decay = math.exp(log_decay[bi, ti, hi]) if gated else 1.0
            S = decay * (np.eye(i) - strength * np.outer(key, key)) @ S + strength * np.outer(key, v[bi, ti, hi])
            close(found["y"][bi, ti, hi], S.T @ q[bi, ti, hi])


def test_affine_scan_of_complex_numbers_drops_the_past_at_resets(rng: Random) -> None:
    b, t, d = 2, 7, 3
    a, x, h0 = complex_normal(rng, b, t, d), complex_normal(rng, b, t, d), complex_normal(rng, b, d)
    reset = rng.uniform(size=(b, t)) < 0.3
    h, expected = h0, []
    for ti in range(t):
        h = np.where(reset[:, ti, None], 0, a[:, ti]) * h + x[:, ti]
        expected.append(h)
    found = run("affine_scan:affine_scan_complex", {"a": a, "x": x, "reset": reset, "h0": h0})
    close(found["h"], np.stack(expected, axis=1))


# ---------------------------------------------------------------- convolutions


def test_long_conv_in_both_directions(rng: Random) -> None:
    b, t, d, taps = 2, 9, 3, 5
    u, D = rng.normal(size=(b, t, d)), rng.normal(size=d)
    K, K_back = rng.normal(size=(2, d, taps))
    forward, backward = (np.empty((b, t, d)) for _ in range(2))
    for bi, di in itertools.product(range(b), range(d)):
        forward[bi, :, di] = np.convolve(u[bi, :, di], K[di])[:t]
        backward[bi, :, di] = np.convolve(u[bi, ::-1, di], K_back[di])[:t][::-1]
    close(run("long_conv", {"u": u, "K": K})["y"], forward)
    found = run("long_conv", {"u": u, "K": K, "D": D, "K_back": K_back})
    close(found["y"], forward + backward + D * u)


@pytest.mark.parametrize("disc", ["zoh", "bilinear"])
def test_s4d_is_a_convolution_with_its_kernel(rng: Random, disc: str) -> None:
    b, t, d, n = 2, 11, 3, 4
    parameters = {
        "log_dt": np.log(rng.uniform(0.01, 0.5, size=d)),
        "log_A_real": rng.normal(size=(d, n)),
        "A_imag": 3 * rng.normal(size=(d, n)),
        "B": complex_normal(rng, d, n),
        "C": complex_normal(rng, d, n),
    }
    u, D = rng.normal(size=(b, t, d)), rng.normal(size=d)
    K = run("s4d:s4d_kernel", parameters, disc=disc, length=t)["K"]
    expected = run("long_conv", {"u": u, "K": K, "D": D})["y"]
    close(run("s4d", {"u": u, "D": D, **parameters}, disc=disc)["y"], expected)


def test_shift_ssm_is_a_convolution_with_its_kernel(rng: Random) -> None:
    u, B, C = rng.normal(size=(2, 9, 3)), rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    K = run("shift_ssm:shift_kernel", {"B": B, "C": C}, length=6)["K"]
    assert not K[:, 4:].any()
    close(run("shift_ssm", {"u": u, "B": B, "C": C})["y"], run("long_conv", {"u": u, "K": K})["y"])


def test_h3_with_filters_as_long_as_the_sequence_is_h3(rng: Random) -> None:
    b, t, h, i, j, m, n = 2, 6, 2, 3, 2, 4, 3
    inputs = {
        "q": rng.normal(size=(b, t, h, i)),
        "k": rng.normal(size=(b, t, h, i)),
        "v": rng.normal(size=(b, t, h, j)),
        "shift_B": rng.normal(size=(h, i, m)),
        "shift_C": rng.normal(size=(h, i, m)),
        "shift_D": rng.normal(size=(h, i)),
        "log_dt": rng.normal(size=h) - 2,
        "log_A_real": rng.normal(size=(h, n)),
        "A_imag": rng.normal(size=(h, n)),
        "B": complex_normal(rng, h, n),
        "C": complex_normal(rng, h, n),
        "D": rng.normal(size=h),
    }
    close(run("h3:h3_truncated", inputs, length=t)["y"], run("h3", inputs)["y"])


def test_packed_documents_do_not_meet_in_causal_conv1d(rng: Random) -> None:
    x, w = rng.normal(size=(1, 10, 3)), rng.normal(size=(3, 4))
    seq_idx = np.array([[1] * 2 + [2] * 5 + [5] * 3])
    found = run("causal_conv1d", {"x": x, "w": w, "seq_idx": seq_idx}, activation="silu")["y"]
    for start, end in ((0, 2), (2, 7), (7, 10)):
        close(found[:, start:end], run("causal_conv1d", {"x": x[:, start:end], "w": w}, activation="silu")["y"])


def test_causal_conv1d_continues_from_the_tokens_before(rng: Random) -> None:
    x, w = rng.normal(size=(2, 9, 3)), rng.normal(size=(3, 4))
    whole = run("causal_conv1d", {"x": x, "w": w})["y"]
    close(run("causal_conv1d", {"x": x[:, 5:], "w": w, "x0": x[:, 2:5]})["y"], whole[:, 5:])


def test_a_document_starts_afresh_in_griffin_conv1d(rng: Random) -> None:
    """Also when the tokens of the document before come from a cache, unlike in the released code."""
    x, w, bias, x0 = rng.normal(size=(1, 1, 3)), rng.normal(size=(4, 3)), rng.normal(size=3), rng.normal(size=(1, 3, 3))
    inputs = {"x": x, "w": w, "bias": bias, "x0": x0}
    found = run("griffin_conv1d", {**inputs, "segment_pos": np.array([[0]])})["y"]
    close(found, w[3] * x + bias)
    found = run("griffin_conv1d", {**inputs, "segment_pos": np.array([[1]])})["y"]
    close(found, w[3] * x + w[2] * x0[:, 2:] + bias)


# ---------------------------------------------------------------- gates, norms, positions


def test_rg_lru_given_its_gates(rng: Random) -> None:
    b, t, d = 2, 5, 3
    x, r, g = rng.normal(size=(3, b, t, d))
    Lambda, h0 = rng.normal(size=d), rng.normal(size=(b, d))
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    a = np.exp(-8 * sigmoid(r) * np.log1p(np.exp(Lambda)))
    h, expected = h0, []
    for ti in range(t):
        h = a[:, ti] * h + np.sqrt(1 - a[:, ti] ** 2) * sigmoid(g[:, ti]) * x[:, ti]
        expected.append(h)
    found = run("rg_lru:rg_lru_gated", {"x": x, "r": r, "g": g, "Lambda": Lambda, "h0": h0})
    close(found["h"], np.stack(expected, axis=1))


def test_norms(rng: Random) -> None:
    x, z, weight = rng.normal(size=(2, 3, 8)), rng.normal(size=(2, 3, 8)), rng.normal(size=8)
    silu = z / (1 + np.exp(-z))

    def normed(v: Array) -> Array:
        return v / np.sqrt((v**2).mean(-1, keepdims=True) + 1e-6) * weight

    close(run("norms:rms_norm", {"x": x, "weight": weight})["y"], normed(x))
    inputs = {"x": x, "z": z, "weight": weight}
    close(run("norms:gated_rms_norm", inputs)["y"], normed(x * silu))
    close(run("norms:gated_rms_norm", inputs, norm_before_gate=True)["y"], normed(x) * silu)
    close(run("norms:l2_normalize", {"x": np.zeros(4)})["y"], np.zeros(4))
    close(run("norms:rms_norm", {"x": x, "weight": weight - 1}, offset=1.0)["y"], normed(x))


def test_gates(rng: Random) -> None:
    x, z = rng.normal(size=(2, 2, 3, 8))
    erf = np.vectorize(math.erf)
    tanh = np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))
    close(run("gates:gated", {"x": x, "z": z})["y"], x * z / (1 + np.exp(-z)))
    close(run("gates:gated", {"x": x, "z": z}, activation="gelu")["y"], x * z * (1 + erf(z / np.sqrt(2))) / 2)
    close(run("gates:gated", {"x": x, "z": z}, activation="gelu_tanh")["y"], x * z * (1 + tanh) / 2)


def test_soft_cap(rng: Random) -> None:
    x = 3 * rng.normal(size=(2, 3, 4))
    close(run("soft_cap", {"x": x}, cap=2.0)["y"], 2 * np.tanh(x / 2))


def test_a_linear_map(rng: Random) -> None:
    x, W, bias = rng.normal(size=(2, 3, 8)), rng.normal(size=(5, 8)), rng.normal(size=5)
    close(run("linear", {"x": x, "W": W, "bias": bias})["y"], x @ W.T + bias)


def test_mamba_trains_the_logarithm_of_its_decay(rng: Random) -> None:
    x, dt = rng.normal(size=(2, 2, 5, 3))
    B, C = rng.normal(size=(2, 2, 5, 4))
    A_log = rng.normal(size=(3, 4))
    found = run("selective_scan:mamba_scan", {"x": x, "dt": dt, "A_log": A_log, "B": B, "C": C})["y"]
    close(found, run("selective_scan", {"x": x, "dt": dt, "A": -np.exp(A_log), "B": B, "C": C})["y"])


def test_rotary_products_depend_on_distance_alone(rng: Random) -> None:
    q, k = (np.broadcast_to(rng.normal(size=8), (1, 6, 8)) for _ in range(2))
    position = np.array([[0, 1, 5, 9, 10, 14]])
    turned_q, turned_k = (run("rotary", {"x": x, "position": position})["y"][0] for x in (q, k))
    close(turned_q[:, 4:], q[0, :, 4:])
    close(turned_q[1] @ turned_k[0], turned_q[4] @ turned_k[3])
    close(turned_q[2] @ turned_k[1], turned_q[5] @ turned_k[4])
    angle = 5 * 10000 ** -(np.arange(2) / 2)
    close(turned_q[2, :2], q[0, 2, :2] * np.cos(angle) - q[0, 2, 2:4] * np.sin(angle))
    for width in (3, 6):  # the second half of the first half would be turned by nothing, or by 0 / 0
        with pytest.raises(UserError, match="#e % 4 == 0"):
            run("rotary", {"x": np.ones((1, 6, width)), "position": position})


# ---------------------------------------------------------------- attention


@pytest.mark.parametrize("groups", [None, 2])
def test_local_attention_sees_a_window(rng: Random, groups: int | None) -> None:
    b, t, h, e, f, window = 2, 7, 4, 8, 3, 2
    kept = (groups,) if groups else ()
    q, k, v = rng.normal(size=(b, t, h, e)), rng.normal(size=(b, t, *kept, e)), rng.normal(size=(b, t, *kept, f))
    found = run("local_attention", {"q": q, "k": k, "v": v}, window=window)
    turned_q, turned_k = found["q_turned"], found["k_turned"]
    if groups:  # q names e before k names g, and so does the layer's own order of axes
        turned_k = turned_k.swapaxes(-1, -2)
    for bi, ti, hi in itertools.product(range(b), range(t), range(h)):
        at = (hi * groups // h,) if groups else ()
        seen = range(max(0, ti - window), ti + 1)
        score = np.array([turned_q[bi, ti, hi] @ turned_k[(bi, s, *at)] for s in seen]) / math.sqrt(e)
        weight = np.exp(score) / np.exp(score).sum()
        close(found["y"][bi, ti, hi], sum(p * v[(bi, s, *at)] for p, s in zip(weight, seen, strict=True)))


def test_sampled_yoso_counts_meetings(rng: Random) -> None:
    b, h, t, s, e, f, hashes, tau = 1, 2, 5, 6, 4, 3, 7, 3
    q, k = unit(rng.normal(size=(b, h, t, e))), unit(rng.normal(size=(b, h, s, e)))
    v, R = rng.normal(size=(b, h, s, f)), rng.normal(size=(b, h, e, hashes, tau))
    key_mask = rng.uniform(size=(b, s)) < 0.7
    found = run("yoso", {"q": q, "k": k, "v": v, "R": R, "key_mask": key_mask}, tau=tau)["y"]
    expected = np.zeros((b, h, t, f))
    for hi, ti, si, r in itertools.product(range(h), range(t), range(s), range(hashes)):
        sides_q, sides_k = q[0, hi, ti] @ R[0, hi, :, r] > 0, k[0, hi, si] @ R[0, hi, :, r] > 0
        if key_mask[0, si] and (sides_q == sides_k).all():
            expected[0, hi, ti] += v[0, hi, si] / hashes
    close(found, expected)


def test_sampled_yoso_tends_to_its_expectation(rng: Random) -> None:
    b, h, t, e, hashes, tau = 1, 1, 6, 8, 4000, 2
    q, k, v = unit(rng.normal(size=(b, h, t, e))), unit(rng.normal(size=(b, h, t, e))), np.ones((b, h, t, 1))
    R = rng.normal(size=(b, h, e, hashes, tau))
    sampled = run("yoso", {"q": q, "k": k, "v": v, "R": R}, tau=tau)["y"]
    expected = run("yoso:yoso_expectation", {"q": q, "k": k, "v": v}, tau=tau)["y"]
    np.testing.assert_allclose(sampled, expected, rtol=0.05)


def test_hadamard_codes_follow_the_matrix(rng: Random) -> None:
    e, parts, hashes, tau = 8, 3, 5, 4
    H = np.array([[1]])
    while len(H) < e:
        H = np.kron([[1, 1], [1, -1]], H)
    x, sign = rng.normal(size=(1, 1, 3, e)), rng.choice([-1.0, 1.0], size=(1, 1, 3, parts, e))
    code = run("yoso:yoso_codes_hadamard", {"x": x, "sign": sign}, hashes=hashes, tau=tau)["code"]
    for ti, r in itertools.product(range(3), range(hashes)):
        part, first = r // (e // tau), r % (e // tau) * tau
        rotated = x[0, 0, ti]
        for round_ in range(3):
            rotated = H @ (sign[0, 0, round_, part] * rotated)
        assert code[0, 0, ti, r] == sum(int(rotated[first + bit] > 0) << bit for bit in range(tau))


def test_reformer_rounds_attend_within_sorted_chunks(rng: Random) -> None:
    """Written out token by token: two rounds, chunks of two, one chunk back, causal."""
    t, e, f, rounds, chunk = 6, 4, 3, 2, 2
    qk, v = rng.normal(size=(1, 1, t, e)), rng.normal(size=(1, 1, t, f))
    bucket = rng.integers(0, 3, size=(1, 1, rounds, t))
    found = run("reformer:reformer_lsh", {"qk": qk, "v": v, "bucket": bucket}, chunk=chunk, causal=True)["y"]
    keys = qk[0, 0] / np.sqrt((qk[0, 0] ** 2).mean(-1, keepdims=True) + 1e-6) / math.sqrt(e)
    row = [token for r in range(rounds) for token in np.argsort(bucket[0, 0, r], kind="stable")]
    totals, outputs = np.empty((rounds, t)), np.empty((rounds, t, f))
    for place, token in enumerate(row):
        first = place // chunk * chunk - chunk
        seen = [row[(first + step) % len(row)] for step in range(2 * chunk)]
        seen = [other for other in seen if other <= token]
        logits = np.array([-1e5 if other == token else qk[0, 0, token] @ keys[other] for other in seen])
        largest = logits.max()
        total = largest + np.log(np.exp(logits - largest).sum())
        totals[place // t, token] = total
        outputs[place // t, token] = np.exp(logits - total) @ v[0, 0, seen]
    share = np.exp(totals - totals.max(0))
    close(found[0, 0], ((share / share.sum(0))[..., None] * outputs).sum(0))
