"""The models that are timed, in several forms with the same weights, and the matrix products in them alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAST = 8  # positions whose logits are compared
PROMPT = 64  # tokens before the one that is timed in decoding


class Setting:
    """One configuration: our model, transformers' with the same weights, and what goes in."""

    def __init__(self, ours: Any, theirs: Any, config: Any) -> None:
        torch.manual_seed(0)
        self.model = ours(config).eval()
        self._theirs = theirs
        self.vocabulary: int = config.vocab_size

    def tokens(self, length: int) -> Tensor:
        return torch.randint(0, self.vocabulary, (1, length), generator=torch.Generator().manual_seed(1))

    def transformers(self) -> Any:
        """transformers' model on the same tensors."""
        made = self._theirs(self.model.config)
        made.load_state_dict(self.model.state_dict(), assign=True)
        made.tie_weights()
        return made.eval()

    def bfloat16(self) -> Any:
        """Our model with weights rounded to bfloat16."""
        return copy.deepcopy(self.model).to(torch.bfloat16)

    def exactly(self, run: Callable[[Any], Any]) -> Any:
        """What ``run`` gives of our model in float64."""
        return run(copy.deepcopy(self.model).double())


@cache
def mamba_130m() -> Setting:
    """The configuration of Mamba-130m with random weights, 24 layers of width 768."""
    from transformers import MambaConfig
    from transformers import MambaForCausalLM as Theirs

    from ssmc.models import MambaForCausalLM

    config = MambaConfig(
        vocab_size=50280, hidden_size=768, num_hidden_layers=24, state_size=16, expand=2, conv_kernel=4
    )
    return Setting(MambaForCausalLM, Theirs, config)


@cache
def recurrent_gemma_6() -> Setting:
    """Six layers of RecurrentGemma at width 1024: recurrent, recurrent, attention, twice."""
    from transformers import RecurrentGemmaConfig
    from transformers import RecurrentGemmaForCausalLM as Theirs

    from ssmc.models import RecurrentGemmaForCausalLM

    config = RecurrentGemmaConfig(
        vocab_size=32000, hidden_size=1024, lru_width=1024, num_hidden_layers=6, intermediate_size=6144,
        num_attention_heads=8, num_key_value_heads=1, attention_window_size=2048,
    )  # fmt: skip
    return Setting(RecurrentGemmaForCausalLM, Theirs, config)


# ---------------------------------------------------------------- matrix products alone


class Products:
    """Every product of a model's weights with ``length`` tokens, one after the other, through the fastest route.

    Which weights those are is read off the model: its linear maps, and the block-diagonal gates of an RG-LRU.
    """

    def __init__(self, model: nn.Module, length: int) -> None:
        self.weights = [(m.weight, m.bias) for m in model.modules() if isinstance(m, nn.Linear)]
        units = [m.rg_lru for m in model.modules() if hasattr(m, "rg_lru")]
        self.blocks = [
            (getattr(unit, f"{gate}_weight"), getattr(unit, f"{gate}_bias"))
            for unit in units
            for gate in ("input_gate", "recurrent_gate")
        ]
        self._inputs: dict[tuple[int, torch.dtype], Tensor] = {}
        self._length = length

    def forward(self) -> None:
        from ssmc.models.griffin import block_diagonal
        from ssmc.models.linear import linear

        for weight, bias in self.weights:
            linear(self._input(weight.shape[1], weight.dtype), weight, bias)
        for weight, bias in self.blocks:
            block_diagonal(self._input(weight.shape[0] * weight.shape[1], weight.dtype), weight, bias)

    def vectors(self) -> None:
        """One token: a matrix and a vector, without anything around them."""
        for weight, bias in self.weights:
            x = self._input(weight.shape[1], weight.dtype)[0, 0]
            _ = torch.mv(weight, x) if bias is None else torch.addmv(bias, weight, x)
        for weight, bias in self.blocks:
            x = self._input(weight.shape[0] * weight.shape[1], weight.dtype).view(len(weight), 1, -1)
            torch.baddbmm(bias[:, None], x, weight)

    def training(self) -> None:
        """Forward, and the gradients of inputs and weights."""
        from ssmc.models.linear import linear

        with torch.enable_grad():
            for weight, bias in self.weights:
                x = self._input(weight.shape[1], weight.dtype).detach().requires_grad_()
                y = linear(x, weight, bias)
                torch.autograd.grad(y, (x, weight), self._input(weight.shape[0], weight.dtype))

    def _input(self, width: int, dtype: torch.dtype) -> Tensor:
        found = self._inputs.get((width, dtype))
        if found is None:
            found = self._inputs[width, dtype] = torch.randn(1, self._length, width).to(dtype)
        return found


# ---------------------------------------------------------------- transformers, with views


def unbound_scan(
    hidden_states: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
    z: Tensor | None = None, delta_bias: Tensor | None = None, delta_softplus: bool = False,
    return_last_state: bool = False, **_: Any,
) -> Any:  # fmt: skip
    """The scan of transformers' Mamba, (b, d, t), as its loop over time goes, on views by ``unbind``.

    Where that indexes whole tensors, autograd makes a gradient of all steps for each step.
    """
    if delta_bias is not None:
        dt = dt + delta_bias[:, None]
    delta = F.softplus(dt) if delta_softplus else dt
    decay = torch.exp(A[:, None] * delta[..., None])
    fed = (delta * hidden_states)[..., None] * B.transpose(1, 2)[:, None]
    h = hidden_states.new_zeros(*hidden_states.shape[:2], A.shape[-1])
    steps = []
    for a, q, c in zip(decay.unbind(2), fed.unbind(2), C.unbind(2), strict=True):
        h = a * h + q
        steps.append((h @ c[:, :, None])[..., 0])
    y = torch.stack(steps, -1)
    if D is not None:
        y = y + hidden_states * D[:, None]
    if z is not None:
        y = y * F.silu(z)
    return (y, h) if return_last_state else y


@contextmanager
def unbinding() -> Iterator[None]:
    """transformers' Mamba calls ``unbound_scan`` in the block."""
    from transformers.models.mamba import modeling_mamba as module

    before = module.mamba_selective_scan
    module.mamba_selective_scan = unbound_scan
    try:
        yield
    finally:
        module.mamba_selective_scan = before
