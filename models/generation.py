"""What models share to stand under transformers' ``generate``, and the outputs of their calls.

transformers 5.24 calls the argument and the output ``cache`` that were ``past_key_values`` before, or ``cache_params``
in Mamba's classes. Models here take all three names. Their outputs have a field of the name that the installed
version's ``generate`` looks for, and properties of the other two.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor
from transformers import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from ssmc.errors import UserError

from .cache import RECORDED, StateCache, chosen_cache

CACHE_NAMES = ("cache", "past_key_values", "cache_params")
CACHE_FIELD = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"


class _OlderNames:
    """The cache of an output under the names that are not its field."""

    if CACHE_FIELD != "cache":

        @property
        def cache(self) -> Any:
            return self.past_key_values  # type: ignore[attr-defined]

        @property
        def cache_params(self) -> Any:
            return self.past_key_values  # type: ignore[attr-defined]


@dataclass
class ModelOutput(_OlderNames, BaseModelOutputWithPast):
    """What a model without head returns: ``last_hidden_state`` (batch, length, hidden_size), ``cache`` if it was used,
    ``hidden_states`` if they were asked for."""


@dataclass
class CausalOutput(_OlderNames, CausalLMOutputWithPast):
    """What a language model returns: ``logits`` (batch, length, vocab_size), ``loss`` if there were labels, ``cache``
    if it was used, ``hidden_states`` if they were asked for."""


def model_output(hidden: Tensor, cache: StateCache | None, hidden_states: tuple[Tensor, ...] | None) -> ModelOutput:
    return ModelOutput(last_hidden_state=hidden, hidden_states=hidden_states, **{CACHE_FIELD: cache})


def causal_output(
    loss: Tensor | None, logits: Tensor, cache: StateCache | None, hidden_states: tuple[Tensor, ...] | None
) -> CausalOutput:
    return CausalOutput(loss=loss, logits=logits, hidden_states=hidden_states, **{CACHE_FIELD: cache})


class StateGenerationMixin(GenerationMixin):
    """``generate`` with a ``StateCache``, for models whose ``forward`` takes one under each of ``CACHE_NAMES``."""

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *others: Any, **named: Any
    ) -> None:
        """Put the cache into ``model_kwargs``: the user's, else a new one unless none is wanted."""
        cache = chosen_cache(**{name: model_kwargs.pop(name, None) for name in CACHE_NAMES})
        wanted = generation_config.cache_implementation
        if wanted is not None and (cache is not None or wanted not in ("dynamic", "hybrid")):
            raise UserError(
                f"`cache_implementation` is {wanted!r}",
                expected="none: the state of these models has one form",
                hint="leave it out of the arguments and of the generation config",
            )
        if cache is not None:
            cache._is_user_defined = True  # `generate` keeps such a one usable afterwards
        elif generation_config.use_cache is not False:
            # What is copied from the prompt may all be refused.
            copied = generation_config.prompt_lookup_num_tokens or 0
            cache = StateCache(self.config, keep=copied + 1 if copied >= RECORDED else 0)
            if generation_config.is_assistant:
                cache.activate_past_recording()
        if cache is not None:
            model_kwargs[CACHE_FIELD] = cache

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,  # of this name: `generate` then looks at what `forward` takes
    ) -> dict[str, Any]:
        """The arguments of the next call; positions follow from the mask and the cache, and are left out."""
        if next_sequence_length is not None and next_sequence_length <= 0:
            raise UserError(
                f"the cache has seen at least as many positions as `input_ids` has, {input_ids.shape[1]}",
                expected="the whole sequence, or an `attention_mask` of the whole sequence beside what is new",
            )
        positions = kwargs.pop("position_ids", None)
        if positions is not None and kwargs.get("is_first_iteration"):
            _check_one_document(positions, kwargs.get("attention_mask"))
        return super().prepare_inputs_for_generation(
            input_ids, next_sequence_length=next_sequence_length, inputs_embeds=inputs_embeds, **kwargs
        )


def _check_one_document(positions: Tensor, attention_mask: Tensor | None) -> None:
    """Raise UserError where a document begins inside of a row: what is generated would see those before it."""
    mask = positions >= 0 if attention_mask is None else attention_mask[:, -positions.shape[-1] :] != 0
    if bool(((positions == 0) & mask & (mask.cumsum(-1) > 1)).any()):
        raise UserError(
            "`position_ids` begin again inside of a row: its documents are packed",
            expected="one document in each row, to which tokens are added",
        )
