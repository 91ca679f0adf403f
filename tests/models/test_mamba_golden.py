"""Mamba against what transformers' returned, in float32 and float64.

Exceptions, where the reference is wrong:

* ``hf_mamba_leftpad``: what stands at padding is not compared. The reference multiplies the input by the mask, so a
  padded position gives what a zero input gives; here it gives nothing that means anything. Its loss counts those
  positions, so its gradients are not compared either; ``test_mamba_padding`` compares with unpadded sequences.
* ``hf_mamba_decode``: the reference keeps ``conv_kernel`` columns of the convolution's input, of which the oldest is
  never read; here there are ``conv_kernel - 1``.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import MambaConfig

from ssmc.models import MambaForCausalLM, StateCache
from tests.models.golden import Case, assert_agrees, cases, load_case, load_parameters

DTYPES = [torch.float32, torch.float64]


def model_of(case: Case, dtype: torch.dtype) -> MambaForCausalLM:
    settings = {name: value for name, value in case.config.items() if name not in ("batch", "seqlen", "prefill")}
    model = MambaForCausalLM(MambaConfig(**settings)).eval().to(dtype)
    load_parameters(model, case)
    return model


def tokens(case: Case) -> Tensor | None:
    """(batch, length, 1) bool, where there is no padding; None if there is none anywhere."""
    mask = case.tensors.get("in.attention_mask")
    return None if mask is None else mask.bool()[..., None]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [name for name in cases("hf_mamba_") if "decode" not in name])
def test_forward_agrees(name: str, dtype: torch.dtype) -> None:
    """Logits and hidden states."""
    case = load_case(name)
    found = model_of(case, dtype)(
        case["in.input_ids"], attention_mask=case.tensors.get("in.attention_mask"), output_hidden_states=True
    )
    assert found.logits.dtype is dtype
    assert_agrees(case, "out.logits", found.logits, tokens(case))
    expected = case.named("out.hidden")
    assert len(found.hidden_states) == len(expected)
    for number, hidden in enumerate(found.hidden_states):
        assert_agrees(case, f"out.hidden{number}", hidden, tokens(case))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["hf_mamba_fwd", "hf_mamba_bias_fwd"])
def test_gradients_agree(name: str, dtype: torch.dtype) -> None:
    """Those of every parameter."""
    case = load_case(name)
    model = model_of(case, dtype)
    (model(case["in.input_ids"]).logits * case["w.logits"]).sum().backward()
    expected = case.named("grad.param.")
    parameters = dict(model.named_parameters())
    assert expected.keys() == parameters.keys()
    for parameter, value in parameters.items():
        assert value.grad is not None
        assert_agrees(case, f"grad.param.{parameter}", value.grad)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_decoding_agrees(dtype: torch.dtype) -> None:
    """A prompt, then tokens one at a time: logits and states."""
    case = load_case("hf_mamba_decode")
    model, ids, prefill = model_of(case, dtype), case["in.input_ids"], case.config["prefill"]
    with torch.no_grad():
        found = model(ids[:, :prefill], use_cache=True)
        assert_agrees(case, "out.logits_prefill", found.logits)
        assert_states_agree(case, "prefill", found.cache)
        steps = [model(ids[:, t : t + 1], cache=found.cache).logits for t in range(prefill, ids.shape[1])]
        assert_agrees(case, "out.logits_steps", torch.cat(steps, 1))
        assert_states_agree(case, "final", found.cache)
        assert_agrees(case, "out.logits_full_forward", model(ids).logits)


def assert_states_agree(case: Case, when: str, cache: StateCache) -> None:
    for number, layer in enumerate(cache.layers):
        name = f"out.{when}_ssm_state{number}"
        assert_agrees(case, name, layer.states["scan"]["h"][:, 0])
        found = layer.states["conv"]["x"].transpose(1, 2)
        expected = case[f"out.{when}_conv_state{number}"][..., 1:]
        limit = case.entries[f"out.{when}_conv_state{number}"]["atol"] if found.dtype is torch.float32 else 1e-9
        torch.testing.assert_close(found.double(), expected, atol=limit, rtol=0)
