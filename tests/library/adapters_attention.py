"""Cases of RecurrentGemma, YOSO and Reformer, on the library's layers."""

from __future__ import annotations

import torch

from tests.library.adapters_scan import linear
from tests.library.golden import Adapter, Case, Tensor, call

# ---------------------------------------------------------------- RecurrentGemma


def rnn_scan(case: Case) -> dict[str, Tensor]:
    found = call(
        "affine_scan",
        {"a": case["in.a"], "x": case["in.x"], "reset": case["in.reset"].bool(), "h0": case.get("in.h0")},
        carried={"h": 1},
    )
    return {"y": found["h"], "last_h": found["h@last"][:, 0]}


def rg_lru(case: Case) -> dict[str, Tensor]:
    found = call(
        "rg_lru",
        {
            "x": case["in.x"],
            "W_a": case["param.a_gate.w"],
            "b_a": case["param.a_gate.b"],
            "W_x": case["param.input_gate.w"],
            "b_x": case["param.input_gate.b"],
            "Lambda": case["param.a_param"],
            "segment_pos": case["in.segment_pos"],
            "h0": case.get("in.h0"),
        },
        carried={"rg_lru_gated.h": 1},
    )
    return {"y": found["y"], "last_h": found["rg_lru_gated.h@last"][:, 0]}


def temporal_convolution(case: Case) -> dict[str, Tensor]:
    position, taps = case["in.segment_pos"], case.config["temporal_width"]
    if case.config["cache"]:
        # With a cache the reference lets taps cross into the document before, as if each began long ago. The
        # layer does not: test_a_document_starts_afresh.
        position = position.clamp(min=taps - 1)
    found = call(
        "griffin_conv1d",
        {"x": case["in.x"], "segment_pos": position, "w": case["param.w"], "bias": case["param.b"],
         "x0": case.get("in.cache")},
        carried={"x": taps - 1},
    )  # fmt: skip
    # The reference multiplies its input in place, so that its cache has zeros where tokens of an earlier document
    # stood; they are not read again, because position tells documents apart.
    kept = position[:, -1:] >= torch.arange(taps - 2, -1, -1)
    return {"y": found["y"], "new_cache": torch.where(kept[..., None], found["x@last"], 0)}


def local_attention(case: Case) -> dict[str, Tensor]:
    """One run over prompt and decoded tokens; the reference's cache is read off its rotated keys."""
    prompt, window = case.config["seqlen"], case.config["window_size"]
    y, keys, values = _local_attention(case)
    position = case["in.segment_pos"]

    def cache(tokens: int, suffix: str) -> dict[str, Tensor]:
        seen = position[:, tokens - 1] + 1
        return {
            f"cache_keys{suffix}": _ring(keys[:, :tokens], window, seen),
            f"cache_values{suffix}": _ring(values[:, :tokens], window, seen),
            f"cache_num_tokens{suffix}": seen,
        }

    result = {"y": y[:, :prompt], **cache(prompt, "")}
    if case.config["decode_steps"]:
        result |= {"y_steps": y[:, prompt:], "y_full": y, **cache(y.shape[1], "_after")}
    return result


def _ring(rows: Tensor, size: int, seen: Tensor) -> Tensor:
    """The last ``size`` rows, row of position p in place p modulo ``size``; zeros where nothing was."""
    ring = rows.new_zeros(rows.shape[0], size, 1, rows.shape[-1])
    for b, end in enumerate(seen):
        for back in range(1, min(size, rows.shape[1]) + 1):
            ring[b, (end - back) % size, 0] = rows[b, -back]
    return ring


def _local_attention(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    x = case["in.x"]
    heads = case.config["num_heads"]
    q = linear(x, case["param.proj_q.weight"])
    v = linear(x, case["param.proj_v.weight"])
    found = call(
        "local_attention",
        {
            "q": q.reshape(*q.shape[:2], heads, -1),
            "k": linear(x, case["param.proj_k.weight"]),
            "v": v,
            "segment_pos": case["in.segment_pos"],
        },
        window=case.config["window_size"],
    )
    y = linear(found["y"].reshape(q.shape), case["param.proj_final.weight"], case["param.proj_final.bias"])
    return y, found["k_turned"], v


# ---------------------------------------------------------------- YOSO


def one_head(array: Tensor) -> Tensor:
    """(B, …) with a head axis of extent 1."""
    return array[:, None]


def yoso_inputs(case: Case) -> dict[str, Tensor]:
    """Queries, keys, values and masks of a case without a head axis."""
    inputs = {name: one_head(case[f"in.{name.upper()}"]) for name in ("q", "k", "v")}
    query_mask = case.get("in.query_mask")
    mask = case["in.mask"] if query_mask is None else query_mask
    key_mask = mask if query_mask is None else case["in.key_mask"]
    return {**inputs, "query_mask": mask.bool(), "key_mask": key_mask.bool()}


def yoso_expectation(case: Case) -> dict[str, Tensor]:
    exact = case.config["version"] == "v2"
    layer = "yoso:yoso_expectation_exact" if exact else "yoso:yoso_expectation"
    return {"X": call(layer, yoso_inputs(case), tau=case.config["tau"])["y"][:, 0]}


def yoso_attention(case: Case) -> dict[str, Tensor]:
    filters = case.get("param.conv.weight")
    found = call(
        "yoso:yoso_attention",
        {
            "q": case["in.Q"],
            "k": case["in.K"],
            "v": case["in.V"],
            "mask": case["in.mask"].bool(),
            "conv": None if filters is None else filters[:, 0, :, 0],
        },
        tau=case.config["tau"],
        exact=case.config["version"] == 2,
    )
    return {"X": found["y"]}


def yoso_codes(case: Case) -> tuple[Tensor, Tensor]:
    """The hash codes of queries and keys, by the library."""
    hashes, tau = case.config["num_hash"], case.config["hash_code_len"]

    def codes(x: Tensor) -> Tensor:
        if case.get("in.Dmat") is not None:
            inputs = {"x": one_head(x), "sign": one_head(case["in.Dmat"])}
            return call("yoso:yoso_codes_hadamard", inputs, hashes=hashes, tau=tau)["code"]
        R = case["in.rmat"]
        R = one_head(R.reshape(*R.shape[:2], hashes, tau))
        return call("yoso:yoso_codes", {"x": one_head(x), "R": R})["code"]

    return codes(case["in.Q"]), codes(case["in.K"])


def yoso_sampled(case: Case) -> dict[str, Tensor]:
    code_q, code_k = yoso_codes(case)
    assert torch.equal(code_q[:, 0], case["in.Q_hashcode"])
    assert torch.equal(code_k[:, 0], case["in.K_hashcode"])
    inputs = {**yoso_inputs(case), "code_q": code_q, "code_k": code_k}
    found = call("yoso:yoso_sampled", inputs, tau=case.config["hash_code_len"])
    return {"X": found["y"][:, 0]}


# ---------------------------------------------------------------- Reformer


def split_heads(case: Case, weight: str) -> Tensor:
    """A projection of the input as (b, h, t, e)."""
    y = linear(case["in.x"], case[f"param.{weight}.weight"])
    return y.reshape(*y.shape[:2], case.config["num_attention_heads"], -1).permute(0, 2, 1, 3)


def merge_heads(y: Tensor) -> Tensor:
    return y.permute(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], -1)


def mask_of(case: Case) -> Tensor | None:
    mask = case.get("in.attention_mask")
    return None if mask is None else mask.bool()


def reformer_buckets(case: Case) -> Tensor:
    """The bucket of each token in each round, without the offset that tells rounds apart."""
    inputs = {"x": split_heads(case, "query_key")}
    rotations, counts = case["aux.rotations"], case.config["num_buckets"]
    if isinstance(counts, int):
        return call("reformer:lsh_buckets", {**inputs, "R": rotations})["bucket"]
    first = counts[0] // 2
    inputs |= {"R1": rotations[..., :first], "R2": rotations[..., first:]}
    return call("reformer:lsh_buckets_factored", inputs)["bucket"]


def reformer_lsh(case: Case) -> dict[str, Tensor]:
    qk = split_heads(case, "query_key")
    chunk = case.config["lsh_attn_chunk_length"]
    if qk.shape[2] <= chunk:  # one chunk: nothing to sort, and no neighbour
        bucket, before = torch.zeros(*qk.shape[:2], 1, qk.shape[2], dtype=torch.int64), 0
    else:
        bucket, before = reformer_buckets(case), 1
    found = call(
        "reformer:reformer_lsh",
        {"qk": qk, "v": split_heads(case, "value"), "bucket": bucket, "mask": mask_of(case)},
        chunk=chunk,
        before=before,
        causal=case.config["is_decoder"],
    )
    return {"y": merge_heads(found["y"])}


def reformer_local(case: Case) -> dict[str, Tensor]:
    found = call(
        "reformer:reformer_local",
        {
            **{name[0]: split_heads(case, name) for name in ("query", "key", "value")},
            "mask": mask_of(case),
        },
        chunk=case.config["local_attn_chunk_length"],
        after=case.config.get("local_num_chunks_after", 0),
        causal=case.config["is_decoder"],
    )
    return {"y": merge_heads(found["y"])}


ADAPTERS: dict[str, Adapter] = {
    "rg_scan": rnn_scan,
    "rg_lru": rg_lru,
    "rg_conv": temporal_convolution,
    "rg_attn": local_attention,
    "yoso_e_": yoso_expectation,
    "yoso_attn_": yoso_attention,
    "yoso_lsh_": yoso_sampled,
    "reformer_lsh_layer_": reformer_lsh,
    "reformer_local_layer_": reformer_local,
}
