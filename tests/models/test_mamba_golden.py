"""Mamba against what transformers' returned, in float32 and float64.

Exceptions:

* ``hf_mamba_decode``: the reference keeps ``conv_kernel`` columns of the convolution's input, of which the oldest is
  never read; here there are ``conv_kernel - 1``.
"""

from __future__ import annotations

import pytest
import torch
from transformers import MambaConfig

from ssmc.models import MambaForCausalLM, StateCache
from tests.models.golden import Case, assert_agrees, cases, load_case, load_parameters

DTYPES = [torch.float32, torch.float64]
FORWARD = [name for name in cases("hf_mamba_") if "decode" not in name]


def model_of(case: Case, dtype: torch.dtype) -> MambaForCausalLM:
    settings = {name: value for name, value in case.config.items() if name not in ("batch", "seqlen", "prefill")}
    model = MambaForCausalLM(MambaConfig(**settings)).eval().to(dtype)
    load_parameters(model, case)
    return model


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FORWARD)
def test_forward_agrees(name: str, dtype: torch.dtype) -> None:
    """Logits and hidden states."""
    case = load_case(name)
    found = model_of(case, dtype)(
        case["in.input_ids"], attention_mask=case.tensors.get("in.attention_mask"), output_hidden_states=True
    )
    assert found.logits.dtype is dtype
    assert_agrees(case, "out.logits", found.logits)
    expected = case.named("out.hidden")
    assert len(found.hidden_states) == len(expected)
    for number, hidden in enumerate(found.hidden_states):
        assert_agrees(case, f"out.hidden{number}", hidden)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FORWARD)
def test_gradients_agree(name: str, dtype: torch.dtype) -> None:
    """Those of every parameter."""
    case = load_case(name)
    model = model_of(case, dtype)
    logits = model(case["in.input_ids"], attention_mask=case.tensors.get("in.attention_mask")).logits
    (logits * case["w.logits"]).sum().backward()
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
        assert_agrees(case, name, layer.states["scan"][0][:, 0])
        found = layer.states["conv"]["x"].transpose(1, 2)
        expected = case[f"out.{when}_conv_state{number}"][..., 1:]
        limit = case.entries[f"out.{when}_conv_state{number}"]["atol"] if found.dtype is torch.float32 else 1e-9
        torch.testing.assert_close(found.double(), expected, atol=limit, rtol=0)
