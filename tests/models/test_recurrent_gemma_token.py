"""One token through all layers, by calls made ready before, is what the layers give step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ssmc.models import RecurrentGemmaForCausalLM, StateCache
from ssmc.models import token_chain as module
from tests.models.mamba_models import VOCABULARY
from tests.models.recurrent_gemma_models import small_model

IDS = torch.randint(0, VOCABULARY, (1, 11), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A number for each token that went through a chain."""
    found: list[int] = []
    run = module.Chain.run

    def counted(self: Any, *args: Any) -> Any:
        found.append(1)
        return run(self, *args)

    monkeypatch.setattr(module.Chain, "run", counted)
    return found


def stepwise(model: RecurrentGemmaForCausalLM, first: int = 3, **named: Any) -> tuple[torch.Tensor, StateCache]:
    """Logits of a prompt, then of one token after the other, past the window."""
    made = model(IDS[:, :first], use_cache=True, **named)
    logits = [made.logits]
    for place in range(first, IDS.shape[1]):
        logits.append(model(IDS[:, place : place + 1], cache=made.cache).logits)
    return torch.cat(logits, 1), made.cache


@pytest.mark.parametrize(
    "changes",
    [{}, {"attention_bias": True}, {"hidden_activation": "silu"}, {"num_key_value_heads": 1, "conv1d_width": 2},
     {"partial_rotary_factor": 1.0, "rms_norm_eps": 1e-2, "logits_soft_cap": 3.0}],
    ids=str,
)  # fmt: skip
def test_a_chain_is_the_same_function(count: list[int], changes: dict[str, Any]) -> None:
    model = small_model(dtype=torch.float64, **changes)
    with torch.no_grad():
        want = model(IDS, use_cache=False).logits
        got, cache = stepwise(model)
        assert len(count) == 8
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
        whole = model(IDS, use_cache=True).cache
    for one, other in zip(cache.layers, whole.layers, strict=True):
        for name, state in other.states.items():
            assert one.states[name].names == state.names
            for a, b in zip(one.states[name], state, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
        if other.keys is not None:
            torch.testing.assert_close(one.keys, other.keys, rtol=1e-11, atol=1e-11)
            torch.testing.assert_close(one.values, other.values, rtol=1e-11, atol=1e-11)


def test_in_sixteen_bits(count: list[int]) -> None:
    model = small_model(dtype=torch.bfloat16)
    with torch.no_grad():
        want = model.double()(IDS, use_cache=False).logits
        got, cache = stepwise(model.to(torch.bfloat16))
    assert len(count) == 8 and float((got - want).abs().max()) <= 0.05 * float(want.abs().max())
    for layer in cache.layers:
        assert all(value.dtype is torch.float32 for state in layer.states.values() for value in state)
        assert layer.keys is None or layer.keys.dtype is layer.values.dtype is torch.bfloat16


def test_what_was_changed_is_noticed(count: list[int]) -> None:
    """Between two tokens: each change, one after the other, shows in what comes next."""
    model = small_model(dtype=torch.float64)
    recurrent, attention = model.model.layers[0], model.model.layers[1]

    def negate(owner: nn.Module, name: str) -> None:
        setattr(owner, name, nn.Parameter(-getattr(owner, name).detach()))

    changes = [
        lambda: recurrent.mlp_block.down_proj.weight.mul_(0.5),
        lambda: negate(recurrent.temporal_block.linear_x, "weight"),
        lambda: negate(recurrent.temporal_block.rg_lru, "recurrent_param"),
        lambda: negate(attention.temporal_block.o_proj, "bias"),
        lambda: setattr(attention.temporal_block, "window", 2),
        lambda: model.load_state_dict({name: value / 2 for name, value in model.state_dict().items()}),
        lambda: model.to(torch.float32),
        lambda: setattr(recurrent.mlp_block, "act_fn", nn.Tanh()),
    ]
    with torch.no_grad():
        made = model(IDS[:, :3], use_cache=True)
        for change in changes:
            model(IDS[:, 3:4], cache=made.cache)
            change()
            if change is changes[6]:  # states and keys do not follow
                made = model(IDS[:, :3], use_cache=True)
            copied = made.cache.clone()
            got = model(IDS[:, 4:5], cache=made.cache).logits
            want = model(IDS[:, 4:5], cache=copied, output_hidden_states=True).logits
            torch.testing.assert_close(got, want, rtol=1e-4 if got.dtype is torch.float32 else 1e-11, atol=1e-5)
    assert len(count) == 15  # not with an activation that no layer has


def test_what_goes_step_by_step(count: list[int]) -> None:
    model = small_model(dtype=torch.float64)
    with torch.no_grad():
        stepwise(model, cache=StateCache(model.config, keep=2))
        padded = model(IDS[:, :3], attention_mask=torch.tensor([[0, 1, 1]]), use_cache=True).cache
        model(IDS[:, :1], cache=padded)
        packed = model(IDS[:, :3], position_ids=torch.tensor([[0, 1, 0]]), use_cache=True).cache
        model(IDS[:, :1], position_ids=torch.tensor([[1]]), cache=packed)
        cache = model(IDS[:, :3], use_cache=True).cache
        model(IDS[:, :1], position_ids=torch.tensor([[0]]), cache=cache)  # a document begins
        handle = model.model.layers[1].temporal_block.k_proj.register_forward_hook(lambda *_: None)
        stepwise(model)
        handle.remove()
    stepwise(model)
    assert not count
    with torch.no_grad():
        saved = model(IDS[:, :3], use_cache=True).cache
        first, snapshot = saved.clone(), saved.snapshot()
        one = [model(IDS[:, n : n + 1], cache=saved).logits for n in range(3, 9)]
        saved.rewind(snapshot)
        saved.reorder_cache(torch.tensor([0]))
        for n in range(3, 9):  # in turns with another
            torch.testing.assert_close(model(IDS[:, n : n + 1], cache=saved).logits, one[n - 3], rtol=0, atol=0)
            torch.testing.assert_close(model(IDS[:, n : n + 1], cache=first).logits, one[n - 3], rtol=0, atol=0)
    assert len(count) == 18


def test_in_inference_mode_and_outside_of_it(count: list[int]) -> None:
    model = small_model(dtype=torch.float64)
    with torch.no_grad():
        want = model(IDS, use_cache=False).logits
        for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
            with mode():
                torch.testing.assert_close(stepwise(model)[0], want, rtol=1e-11, atol=1e-11)
        with torch.inference_mode():
            cache = model(IDS[:, :3], use_cache=True).cache
            model(IDS[:, 3:4], cache=cache)
        torch.testing.assert_close(model(IDS[:, 4:5], cache=cache).logits, want[:, 4:5], rtol=1e-11, atol=1e-11)
    assert len(count) == 26


@pytest.mark.parametrize("block_types", [["recurrent"], ["attention"], ["recurrent", "attention"]], ids=str)
def test_what_was_written_down_is_kept(count: list[int], block_types: list[str]) -> None:
    model = small_model(block_types=block_types)
    with torch.no_grad():
        stepwise(model)
        (chain,) = model.model.token_chain._idle
        stepwise(model)
    assert model.model.token_chain._idle == [chain] and len(count) == 16
