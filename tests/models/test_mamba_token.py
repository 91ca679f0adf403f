"""One token through all layers, by calls made ready before, is what the layers give step by step."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ssmc.models import MambaForCausalLM, StateCache
from ssmc.models import token_chain as module
from ssmc.models.norms import rms_norm

transformers = pytest.importorskip("transformers")


class Counted:
    """How many tokens went through a chain, and how many chains were made."""

    def __init__(self) -> None:
        self.tokens = self.chains = 0


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Counted:
    found = Counted()
    run, made = module.Chain.run, module.Chain.__init__

    def counted_run(self: Any, *args: Any) -> Any:
        found.tokens += 1
        return run(self, *args)

    def counted_made(self: Any, *args: Any) -> None:
        made(self, *args)
        found.chains += 1

    monkeypatch.setattr(module.Chain, "run", counted_run)
    monkeypatch.setattr(module.Chain, "__init__", counted_made)
    return found


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
def test_a_chain_is_the_same_function(count: Counted, changes: dict[str, Any]) -> None:
    model = a_model(**changes)
    with torch.no_grad():
        want = model(IDS, use_cache=False).logits
        assert not count.tokens
        got, cache = stepwise(model)
        assert (count.tokens, count.chains) == (5, 1)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        whole = model(IDS, use_cache=True).cache
        stepwise(model)
        assert (count.tokens, count.chains) == (10, 1)  # another cache, the same calls
    for one, other in zip(cache.layers, whole.layers, strict=True):
        for name, state in other.states.items():
            assert one.states[name].names == state.names
            for a, b in zip(one.states[name], state, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("changes", [{}, {"residual_in_fp32": False}])
def test_states_stay_wide(count: Counted, changes: dict[str, Any]) -> None:
    model = a_model(torch.bfloat16, **changes)
    with torch.no_grad():
        want = model(IDS, use_cache=False).logits
        got, cache = stepwise(model)
    assert count.tokens and float((got - want).abs().max()) <= 0.02 * float(want.abs().max())
    assert all(v.dtype is torch.float32 for layer in cache.layers for state in layer.states.values() for v in state)


@pytest.mark.parametrize("changes", [{"use_bias": True}, {"use_conv_bias": False}, {"hidden_act": "gelu"}])
def test_other_configurations_go_step_by_step(count: Counted, changes: dict[str, Any]) -> None:
    model = a_model(**changes)
    with torch.no_grad():
        got, _ = stepwise(model)
        torch.testing.assert_close(got, model(IDS, use_cache=False).logits, rtol=1e-12, atol=1e-12)
    assert not count.tokens


def test_hooks_gradients_and_kept_states_go_step_by_step(count: Counted) -> None:
    model = a_model()
    seen: list[int] = []
    with torch.no_grad():
        stepwise(model, keep=3)
        assert not count.tokens
        block = model.backbone.layers[0]
        for watched in (block, block.mixer, block.mixer.dt_proj, block.mixer.conv1d, block.norm):
            stepwise(model, 8)
            before = count.tokens
            seen.clear()
            for add in (watched.register_forward_hook, watched.register_forward_pre_hook):
                handle = add(lambda *_: seen.append(1))
                stepwise(model, 8)
                handle.remove()
            # A layer itself reads the weights of the convolution, and there is no forward of it.
            assert count.tokens == before and (seen or watched is block.mixer.conv1d)
        handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
        stepwise(model, 8)
        handle.remove()
        assert count.tokens == before
    count.tokens = 0
    logits, _ = stepwise(model)
    logits.sum().backward()
    assert not count.tokens and block.mixer.A_log.grad is not None


def test_batches_hidden_states_and_padding_go_step_by_step(count: Counted) -> None:
    model = a_model()
    with torch.no_grad():
        made = model(IDS.expand(2, -1), use_cache=True)
        model(IDS[:, :1].expand(2, -1), cache=made.cache)
        made = model(IDS, use_cache=True)
        assert len(model(IDS[:, :1], cache=made.cache, output_hidden_states=True).hidden_states) == 3
        model(IDS[:, :1], cache=made.cache, attention_mask=torch.zeros(1, 1))
    assert not count.tokens


def _half(model: Any) -> None:
    with torch.no_grad():
        model.backbone.layers[1].mixer.out_proj.weight.mul_(0.5)


def _another_parameter(model: Any) -> None:
    weight = model.backbone.layers[1].mixer.in_proj.weight
    model.backbone.layers[1].mixer.in_proj.weight = nn.Parameter(-weight.detach())


def _other_data(model: Any) -> None:
    model.backbone.layers[0].mixer.A_log.data = model.backbone.layers[0].mixer.A_log.detach() + 1


def _turned(model: Any) -> None:
    weight = model.backbone.layers[0].mixer.x_proj.weight
    weight.data = (weight.detach() * 2).t().contiguous().t()


def _a_bias(model: Any) -> None:
    model.backbone.layers[0].mixer.in_proj.bias = nn.Parameter(torch.ones(96, dtype=torch.float64))


def _another_module(model: Any) -> None:
    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    old = model.backbone.layers[0].mixer.in_proj
    new = Doubled(old.in_features, old.out_features, bias=False, dtype=torch.float64)
    new.weight = old.weight
    model.backbone.layers[0].mixer.in_proj = new


def _another_class(model: Any) -> None:
    nn.utils.parametrize.register_parametrization(model.backbone.layers[0].mixer.dt_proj, "weight", Negated())


class Negated(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -x


def _another_forward(model: Any) -> None:
    projection = model.backbone.layers[1].mixer.x_proj
    projection.forward = lambda x: nn.functional.linear(x, projection.weight) * 3


def _another_epsilon(model: Any) -> None:
    model.backbone.layers[0].norm.layer = rms_norm(0.5, 0.0)


def _loaded(model: Any) -> None:
    model.load_state_dict({name: value * 1.5 for name, value in model.state_dict().items()})


def _assigned(model: Any) -> None:
    model.load_state_dict({name: value * 1.5 for name, value in model.state_dict().items()}, assign=True)
    model.tie_weights()


def _other_layer(model: Any) -> None:
    model.backbone.layers[0] = copy.deepcopy(model.backbone.layers[1])


def _another_block(model: Any) -> None:
    class Halved(type(model.backbone.layers[0])):  # type: ignore[misc]
        def forward(self, *args: Any) -> torch.Tensor:
            return super().forward(*args) / 2

    model.backbone.layers[0].__class__ = Halved


def _other_list(model: Any) -> None:
    model.backbone.layers = nn.ModuleList([*model.backbone.layers][::-1])


def _other_vocabulary(model: Any) -> None:
    model.resize_token_embeddings(40, mean_resizing=False)
    model.get_input_embeddings().weight.data[31:] = 0.1


@pytest.mark.parametrize(
    "change",
    [_half, _another_parameter, _other_data, _turned, _a_bias, _another_module, _another_class, _another_forward,
     _another_epsilon, _loaded, _assigned, _another_block, _other_list, _other_layer, _other_vocabulary],
    ids=lambda function: function.__name__,
)  # fmt: skip
def test_what_was_changed_is_noticed(count: Counted, change: Callable[[Any], None]) -> None:
    """Between two tokens: the second is what a model made so from the beginning gives from the same cache."""
    model, other = a_model(), a_model()
    with torch.no_grad():
        cache = model(IDS[:, :4], use_cache=True).cache
        model(IDS[:, 4:5], cache=cache)
        assert count.tokens == 1
        change(model)
        change(other)
        copied = cache.clone()
        got = model(IDS[:, 5:6], cache=cache).logits
        want = other(IDS[:, 5:6], cache=copied, output_hidden_states=True).logits
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_other_dtypes_follow_each_other(count: Counted) -> None:
    model = a_model(torch.float32)
    with torch.no_grad():
        for dtype in (torch.float32, torch.bfloat16, torch.float32, torch.float64):
            model.to(dtype)
            want = model(IDS, use_cache=False).logits
            got, _ = stepwise(model)
            largest = float(want.abs().max())
            assert (
                float((got - want).abs().max())
                <= {torch.bfloat16: 2e-2, torch.float32: 1e-5}.get(dtype, 1e-12) * largest
            )
    assert (count.tokens, count.chains) == (20, 4)


def test_caches_are_rewound_reordered_and_of_their_own(count: Counted) -> None:
    model = a_model()
    with torch.no_grad():
        want = model(IDS, use_cache=False).logits[0]
        cache = model(IDS[:, :4], use_cache=True).cache
        saved, copied = cache.snapshot(), cache.clone()
        first = [model(IDS[:, n : n + 1], cache=cache).logits[0, 0] for n in range(4, 9)]
        again = cache.snapshot()
        cache.rewind(saved)
        cache.reorder_cache(torch.tensor([0]))
        second = []
        for n in range(4, 9):  # two caches in turns
            second.append(model(IDS[:, n : n + 1], cache=cache).logits[0, 0])
            model(IDS[:, :1], cache=copied)
        torch.testing.assert_close(torch.stack(first), want[4:], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.stack(second), want[4:], rtol=1e-12, atol=1e-12)
        assert count.tokens == 15
        for one, other in zip(again.layers, cache.layers, strict=True):  # what was saved was not written to
            for name, state in one.states.items():
                assert all(map(torch.equal, state, other.states[name]))


def test_threads_and_copies_have_chains_of_their_own(count: Counted) -> None:
    model = a_model()
    with torch.no_grad():
        want, _ = stepwise(model)
    found: list[torch.Tensor] = []

    def run() -> None:
        with torch.no_grad():
            for _ in range(10):
                found.append(stepwise(model)[0])

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 30 and all(torch.equal(value, want) for value in found)
    with torch.no_grad():
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            other.backbone.layers[0].mixer.D.add_(1)
            before = count.tokens
            assert torch.equal(stepwise(model)[0], want) and not torch.equal(stepwise(other)[0], want)
            assert count.tokens == before + 10
