"""One token through a whole layer in one call is what the layer gives step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ssmc.models import MambaForCausalLM, StateCache
from ssmc.models import mamba_token as module

transformers = pytest.importorskip("transformers")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The epsilon of every layer that was run in one call."""
    made: list[float] = []
    original = module._layer

    def counted(eps: float) -> Any:
        made.append(eps)
        return original(eps)

    monkeypatch.setattr(module, "_layer", counted)
    return made


def a_model(dtype: torch.dtype = torch.float64, **changes: Any) -> MambaForCausalLM:
    torch.manual_seed(0)
    config = transformers.MambaConfig(vocab_size=31, hidden_size=24, num_hidden_layers=2, state_size=5, **changes)
    return MambaForCausalLM(config).to(dtype).eval()


IDS = torch.randint(0, 31, (1, 9), generator=torch.Generator().manual_seed(1))


def stepwise(model: MambaForCausalLM, first: int = 4, **cache: int) -> tuple[torch.Tensor, StateCache]:
    """Logits of a prompt, then of one token after the other."""
    made = model(IDS[:, :first], cache=StateCache(model.config, **cache), use_cache=True)
    logits = [made.logits]
    for place in range(first, IDS.shape[1]):
        logits.append(model(IDS[:, place : place + 1], cache=made.cache).logits)
    return torch.cat(logits, 1), made.cache


@pytest.mark.parametrize("changes", [{}, {"residual_in_fp32": False}, {"conv_kernel": 2}, {"layer_norm_epsilon": 1e-3}])
def test_one_call_is_the_same_function(calls: list[float], changes: dict[str, Any]) -> None:
    model = a_model(**changes)
    with torch.no_grad():
        want = model(IDS, use_cache=False).logits
        assert not calls
        got, cache = stepwise(model)
        assert len(calls) == 10
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        whole = model(IDS, use_cache=True).cache
    for one, other in zip(cache.layers, whole.layers, strict=True):
        for name, state in other.states.items():
            assert one.states[name].names == state.names
            for a, b in zip(one.states[name], state, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_states_stay_wide(calls: list[float]) -> None:
    model = a_model(torch.bfloat16)
    with torch.no_grad():
        want = model(IDS, use_cache=False).logits
        got, cache = stepwise(model)
    assert calls and float((got - want).abs().max()) <= 0.02 * float(want.abs().max())
    assert all(v.dtype is torch.float32 for layer in cache.layers for state in layer.states.values() for v in state)


@pytest.mark.parametrize("changes", [{"use_bias": True}, {"use_conv_bias": False}, {"hidden_act": "gelu"}])
def test_other_configurations_go_step_by_step(calls: list[float], changes: dict[str, Any]) -> None:
    model = a_model(**changes)
    with torch.no_grad():
        got, _ = stepwise(model)
        torch.testing.assert_close(got, model(IDS, use_cache=False).logits, rtol=1e-12, atol=1e-12)
    assert not calls


def test_hooks_gradients_and_kept_states_go_step_by_step(calls: list[float]) -> None:
    model = a_model()
    seen: list[int] = []
    with torch.no_grad():
        stepwise(model, keep=3)
        mixer = model.backbone.layers[0].mixer
        for watched in (mixer, mixer.dt_proj, mixer.conv1d, model.backbone.layers[0].norm):
            handle = watched.register_forward_hook(lambda *_: seen.append(1))
            before = len(calls)
            _, cache = stepwise(model, 8)
            assert len(calls) == before + 1  # the other layer
            handle.remove()
    assert len(seen) >= 4  # a map whose weight a layer reads itself has no forward
    calls.clear()
    logits, _ = stepwise(model)
    logits.sum().backward()
    assert not calls and model.backbone.layers[0].mixer.A_log.grad is not None


def test_a_batch_goes_step_by_step(calls: list[float]) -> None:
    model = a_model()
    with torch.no_grad():
        made = model(IDS.expand(2, -1), use_cache=True)
        model(IDS[:, :1].expand(2, -1), cache=made.cache)
    assert not calls
