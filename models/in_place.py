"""Compiled mixers for models of transformers: in place, on the same parameters, and back.

A mixer becomes an instance of a subclass whose ``forward`` calls the function that this package's own models call. So
parameters, hooks, state dicts, ``isinstance`` and what an adapter wrapped stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.falcon_mamba.modeling_falcon_mamba import FalconMambaMixer
from transformers.models.mamba.modeling_mamba import MambaMixer
from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRecurrentBlock

from ssmc.errors import UserError
from ssmc.runtime import Layer

from .griffin import recurrent_block
from .mixer import mamba_mixer, mixer_layers

CHECKED = 24
"""Tokens of the sequence on which ``accelerate(model, check=True)`` compares."""


class CarriedByTransformers:
    """What ``LayerCache.run`` is to this package's models, on one layer of a cache of transformers: the inputs of the
    convolution, (batch, width, taps), oldest first, and the state of the scan, (batch, width, states).

    Args:
        cache: of the call.
        index: of the layer in it.
        taps: of the convolution; the cache keeps as many inputs, one more than are needed.
    """

    def __init__(self, cache: Any, index: int, taps: int) -> None:
        self.cache, self.index, self.taps = cache, index, taps

    def run(self, name: str, op: Layer, *inputs: Tensor, **named: Any) -> Tensor:
        """``op`` continued from what the cache holds, which is brought up to date."""
        carried = self.cache.layers[self.index]
        if name == "conv":
            columns = _first(carried.conv_states)
            if columns is not None:
                named["x0"] = columns[..., columns.shape[-1] - self.taps + 1 :].transpose(1, 2)
            if self.taps == 1:  # nothing to carry, but the cache counts on being told
                self.cache.update_conv_state(inputs[0][:, -1:].transpose(1, 2), self.index)
                return op(*inputs, **named)
            y, state = op(*inputs, return_state=True, **named)
            self.cache.update_conv_state(_columns(state["x"], self.taps), self.index)
            return y
        before = _first(carried.recurrent_states)
        if before is not None:
            named["h0"] = before
        y, state = op(*inputs, return_state=True, **named)
        self.cache.update_recurrent_state(state[0][:, 0], self.index)
        return y


def _first(states: Any) -> Tensor | None:
    """What a layer of a cache holds, which may be one of several."""
    return states[0] if isinstance(states, dict) else states


def _columns(window: Tensor, taps: int) -> Tensor:
    """(batch, taps - 1, width) as the cache keeps it, with a column in front that nobody reads."""
    return nn.functional.pad(window.transpose(1, 2), (taps - window.shape[1], 0))


class CarriedByBlock:
    """The same for a recurrent block of transformers' RecurrentGemma, which holds its states itself."""

    def __init__(self, block: Any) -> None:
        self.block = block

    def run(self, name: str, op: Any, *inputs: Tensor, **named: Any) -> Tensor:
        """``op`` continued from what the block holds, which is brought up to date."""
        batch, _, width = inputs[0].shape
        if name == "conv":
            columns = self.block.conv1d_state
            if columns is not None and columns.shape[:2] == (batch, width):
                named["x0"] = columns.transpose(1, 2)
            y, state = op(*inputs, return_state=True, **named)
            self.block.conv1d_state = state["x"].transpose(1, 2)
            return y
        before = self.block.rg_lru.recurrent_states
        if before is not None and before.shape == (batch, width):
            named["h0"] = before
        y, state = op(*inputs, return_state=True, **named)
        self.block.rg_lru.recurrent_states = state["h"][:, 0]
        return y


class _CompiledMamba:
    """``forward`` of transformers' Mamba mixers by ``mamba_mixer``."""

    def forward(
        self: Any,
        hidden_states: Tensor,
        cache: Any = None,
        attention_mask: Tensor | None = None,
        *,
        cache_params: Any = None,
        **_: Any,
    ) -> Tensor:
        """As the mixer that this was: (batch, length, hidden_size) → the same. ``attention_mask``, (batch, length or
        more), tells padding, which changes nothing wherever it is."""
        cache = cache_params if cache is None else cache
        entry: Any = None
        if cache is not None:
            entry = CarriedByTransformers(cache, self.layer_idx, self.conv_kernel_size)
        sequences: dict[str, Tensor] = {}
        if attention_mask is not None:
            mask = attention_mask[:, -hidden_states.shape[1] :].bool()
            if not bool(mask.all()):
                sequences["mask"] = mask
        eps = getattr(self, "rms_eps", None)
        return mamba_mixer(self, mixer_layers(self.activation), hidden_states, entry, sequences, eps)


class CompiledMambaMixer(_CompiledMamba, MambaMixer):
    """Transformers' MambaMixer on compiled layers."""


class CompiledFalconMambaMixer(_CompiledMamba, FalconMambaMixer):
    """Transformers' FalconMambaMixer on compiled layers."""


class CompiledRecurrentBlock(RecurrentGemmaRecurrentBlock):
    """Transformers' RecurrentGemmaRecurrentBlock on compiled layers."""

    def forward(
        self, input_states: Tensor, position_ids: Tensor, attention_mask: Any = None, use_cache: bool = True, **_: Any
    ) -> tuple[Tensor, None]:
        """As the block that this was: (batch, length, hidden_size) → the same. A block is not told of padding: it is
        as little left out as transformers leaves it out."""
        if not use_cache:
            self.conv1d_state = self.rg_lru.recurrent_states = None
        documents = bool((position_ids[..., 1:] == 0).any())
        entry: Any = CarriedByBlock(self) if use_cache else None
        return recurrent_block(self, input_states, position_ids, documents, None, entry), None


COMPILED: dict[type[nn.Module], type[nn.Module]] = {
    MambaMixer: CompiledMambaMixer,
    FalconMambaMixer: CompiledFalconMambaMixer,
    RecurrentGemmaRecurrentBlock: CompiledRecurrentBlock,
}
_ORIGINAL = {compiled: original for original, compiled in COMPILED.items()}


@dataclass(frozen=True)
class Replaced:
    """What ``accelerate`` did.

    Attributes:
        modules: the names of the modules that run on compiled layers now.
        kind: the class that they had.
        left: modules that were left as they are, with the reason.
        error: the largest difference of the model's outputs, relative to the largest of them; None if it was not asked
            for.
    """

    modules: tuple[str, ...]
    kind: str
    left: dict[str, str]
    error: float | None = None

    def __str__(self) -> str:
        lines = [f"replaced  {len(self.modules)} × {self.kind}: {_span(self.modules)}"]
        lines += [f"left      {name}: {why}" for name, why in self.left.items()]
        if self.error is not None:
            lines.append(f"checked   outputs differ by at most {self.error:.1e} of the largest")
        return "\n".join(lines)


def _span(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"


def accelerate(model: nn.Module, check: bool = False) -> Replaced:
    """Let the mixers of a Mamba, FalconMamba or RecurrentGemma of transformers run on compiled layers, in place.

    Parameters, their names, hooks and caches stay what they are; ``restore`` takes it back. With a cache, mixers
    continue from it with any number of tokens at once, and padding changes nothing in a Mamba, where transformers' own
    start again, or read what is there.

    Args:
        model: a model of transformers, or anything that contains its mixers, such as a PEFT model.
        check: run the model on a random sequence before and after, and compare.

    Raises:
        UserError: nothing in the model can be replaced, or, with ``check``, outputs differ by more than rounding
            explains; the model is then left as it was.
    """
    mixers = tuple(COMPILED)
    found: dict[str, nn.Module] = {name: module for name, module in model.named_modules() if isinstance(module, mixers)}
    left = {name: why for name, module in found.items() for why in _obstacles(module)}
    chosen = {name: module for name, module in found.items() if name not in left}
    if not chosen:
        raise UserError(
            f"accelerate: no mixer of {type(model).__name__} can be replaced"
            + "".join(f"\n  {name}: {why}" for name, why in left.items()),
            expected="a Mamba, FalconMamba or RecurrentGemma of transformers, not accelerated so far",
        )
    before = _outputs(model) if check else None
    kind = ", ".join(sorted({type(module).__name__ for module in chosen.values()}))
    for module in chosen.values():
        module.__class__ = COMPILED[type(module)]
    try:
        error = None if before is None else _compared(model, before)
    except BaseException:
        restore(model)
        raise
    return Replaced(tuple(chosen), kind, left, error)


def restore(model: nn.Module) -> tuple[str, ...]:
    """Give every mixer that ``accelerate`` replaced its own ``forward`` again; their names."""
    names = []
    for name, module in model.named_modules():
        if type(module) in _ORIGINAL:
            module.__class__ = _ORIGINAL[type(module)]
            names.append(name)
    return tuple(names)


def _obstacles(module: nn.Module) -> Iterator[str]:
    """Why a mixer has to stay as it is."""
    devices = {parameter.device.type for parameter in module.parameters()}
    if type(module) in _ORIGINAL:
        yield "it runs on compiled layers already"
    elif type(module) not in COMPILED:
        yield f"{type(module).__name__} is a class of its own, whose `forward` may do something else"
    elif "forward" in vars(module):
        yield "something else has replaced its `forward`"
    elif devices != {"cpu"}:
        yield f"its parameters are on {', '.join(sorted(devices))}: compiled layers run on the CPU"


def _outputs(model: nn.Module) -> Tensor:
    """What the model makes of a random sequence."""
    config: Any = getattr(model, "config", None)
    if config is None or not hasattr(config, "vocab_size"):
        raise UserError(
            f"accelerate: {type(model).__name__} has no configuration with a vocabulary, so nothing to check it on",
            expected="check=False, or a model of transformers",
        )
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(config.vocab_size, (2, CHECKED), generator=generator)
    training = model.training
    try:
        with torch.no_grad():
            made = model.eval()(input_ids=tokens, use_cache=False)
    finally:
        model.train(training)
    return made[0].double()


def _compared(model: nn.Module, before: Tensor) -> float:
    """The largest difference, relative to the largest output; UserError beyond what rounding explains."""
    dtype = next(model.parameters()).dtype
    after = _outputs(model)
    error = float((after - before).abs().max() / before.abs().max().clamp(min=torch.finfo(dtype).tiny))
    allowed = 256 * torch.finfo(dtype).eps
    if not error <= allowed:
        raise UserError(
            f"accelerate: on compiled layers {type(model).__name__} gives outputs that differ by {error:.1e} of the "
            "largest",
            expected=f"at most {allowed:.1e}, for {dtype}",
            hint="the model was left as it was; look for a hook, or a subclass, that changes what its mixers compute",
        )
    return error
