"""Mamba. Gu and Dao 2023: a stack of mixers, each behind a normalisation and beside a residual.

The configuration, the parameters' names and the arguments are those of transformers' Mamba: its checkpoints load as
they are, and its users find what they know.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MambaConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from ssmc.errors import UserError

from .again import Again, can_make_again
from .cache import LayerCache, StateCache, chosen_cache, new_columns, with_padding
from .generation import CausalOutput, ModelOutput, StateGenerationMixin, causal_output, model_output
from .mamba_token import write_block
from .mixer import mamba_mixer, mixer_layers
from .norms import RMSNorm
from .parts import is_watched
from .sequences import embedded, packing, shown, without_first
from .tied import logits_of, tied
from .token_chain import Chain, StepByStep, TokenChain


def check_config(config: MambaConfig) -> None:
    """Raise UserError for a configuration that no model is made of."""
    for name in ("vocab_size", "hidden_size", "state_size", "conv_kernel", "intermediate_size", "time_step_rank"):
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise UserError(f"MambaConfig: `{name}` is {value!r}", expected="a positive int")
    if config.hidden_act not in ACT2FN:
        raise UserError(f"MambaConfig: `hidden_act` is {config.hidden_act!r}", expected="a name in ACT2FN, like 'silu'")
    if config.time_step_init_scheme not in ("random", "constant"):
        raise UserError(
            f"MambaConfig: `time_step_init_scheme` is {config.time_step_init_scheme!r}",
            expected="'random' or 'constant'",
        )
    if not 0 < config.time_step_min <= config.time_step_max or config.time_step_floor <= 0:
        raise UserError(
            f"MambaConfig: time steps from {config.time_step_min} to {config.time_step_max}, at least "
            f"{config.time_step_floor}",
            expected="0 < time_step_min <= time_step_max and 0 < time_step_floor",
        )
    for name in ("is_encoder_decoder", "add_cross_attention", "output_attentions"):
        if getattr(config, name, False):
            raise UserError(f"MambaConfig: `{name}` is set", hint=f"Mamba has no attention: leave out `{name}`")


class MambaMixer(nn.Module):
    """The mixer, ``mamba_mixer``, with its parameters."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        width, rank = config.intermediate_size, int(config.time_step_rank)
        self.in_proj = nn.Linear(config.hidden_size, 2 * width, bias=config.use_bias)
        self.conv1d = nn.Conv1d(width, width, config.conv_kernel, groups=width, bias=config.use_conv_bias)
        self.x_proj = nn.Linear(width, rank + 2 * config.state_size, bias=False)
        self.dt_proj = nn.Linear(rank, width, bias=True)
        self.A_log = nn.Parameter(torch.empty(width, config.state_size))
        self.D = nn.Parameter(torch.empty(width))
        self.out_proj = nn.Linear(width, config.hidden_size, bias=config.use_bias)
        self.layers = mixer_layers(config.hidden_act)

    def forward(
        self, hidden: Tensor, entry: LayerCache | None, sequences: dict[str, Tensor], again: Again | None = None
    ) -> Tensor:
        return mamba_mixer(self, self.layers, hidden, entry, sequences, again=again)


class MambaBlock(GradientCheckpointingLayer):
    """``x + mixer(norm(x))``."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.residual_in_fp32 = config.residual_in_fp32
        self.norm = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mixer = MambaMixer(config)

    def forward(self, hidden: Tensor, entry: LayerCache | None, sequences: dict[str, Tensor]) -> Tensor:
        """(batch, length, hidden_size) → the same; the residual stays in float32 if the configuration says so."""
        residual = hidden
        if self.residual_in_fp32:
            residual = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        dtype = self.norm.weight.dtype
        normed = self.norm(hidden, dtype)
        again = None
        if can_make_again(normed) and not is_watched(self.norm):
            kept, norm = hidden.detach(), self.norm
            again = Again(normed, lambda: norm(kept, dtype), kept, norm.weight)
        return residual + self.mixer(normed, entry, sequences, again)


def _write(block: Any, chain: Chain, hidden: Tensor) -> Tensor:
    """A block's calls for one token, if it is what it was made as."""
    if type(block) is not MambaBlock or type(block.mixer) is not MambaMixer:
        raise StepByStep
    return write_block(block, chain, hidden)


class MambaPreTrainedModel(PreTrainedModel):
    """What both models share: how parameters are named, loaded and drawn."""

    config: MambaConfig
    config_class = MambaConfig
    base_model_prefix = "backbone"
    _no_split_modules = ["MambaBlock"]
    supports_gradient_checkpointing = True
    _is_stateful = False  # a StateCache can be cropped, so that assisted decoding works

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As the paper's authors draw them: embeddings normal with ``initializer_range``, linear maps and the
        convolution uniform up to one over the root of their inputs, biases zero, the last map of a mixer smaller by
        the root of the number of layers if ``rescale_prenorm_residual``; Δ, A and D by section 3.6."""
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, (nn.Linear, nn.Conv1d)):
            _uniform(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, RMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, MambaMixer):
            self._init_mixer(module)

    def _init_mixer(self, module: MambaMixer) -> None:
        """Steps log-uniform from time_step_min to time_step_max and at least time_step_floor; A = -(1, 2, …, N)."""
        config = self.config
        width, states = module.A_log.shape
        init.copy_(module.A_log, torch.arange(1, states + 1, dtype=torch.float32).log().expand(width, -1))
        init.ones_(module.D)
        spread = config.time_step_rank**-0.5 * config.time_step_scale
        if config.time_step_init_scheme == "constant":
            init.constant_(module.dt_proj.weight, spread)
        else:
            init.uniform_(module.dt_proj.weight, -spread, spread)
        low, high = math.log(config.time_step_min), math.log(config.time_step_max)
        step = torch.empty(width).uniform_(low, high).exp().clamp(min=config.time_step_floor)
        init.copy_(module.dt_proj.bias, step + torch.log(-torch.expm1(-step)))  # softplus of it is the step
        if config.rescale_prenorm_residual:
            _uniform(module.out_proj.weight, config.num_hidden_layers**-0.5)


def _uniform(weight: Tensor, scale: float = 1.0) -> None:
    """PyTorch's own initialisation of linear maps and convolutions, made smaller."""
    bound = scale / math.sqrt(weight[0].numel())
    init.uniform_(weight, -bound, bound)


class MambaModel(MambaPreTrainedModel):
    """Mamba without a head.

    ``MambaModel(config)`` draws weights; ``MambaModel.from_pretrained(folder)`` loads a checkpoint of transformers.
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__(config)
        check_config(config)
        self.embeddings: nn.Module = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([MambaBlock(config) for _ in range(config.num_hidden_layers)])
        self.norm_f = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.gradient_checkpointing = False
        self.token_chain = TokenChain(_write)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def set_input_embeddings(self, new_embeddings: nn.Module) -> None:
        self.embeddings = new_embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: StateCache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        attention_mask: Tensor | None = None,
        cache_params: StateCache | None = None,
        past_key_values: StateCache | None = None,
        position_ids: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        seq_idx: Tensor | None = None,
    ) -> ModelOutput | tuple[Any, ...]:
        """Run tokens, from the start or where a cache left off.

        Args:
            input_ids: (batch, length) ints; or ``inputs_embeds`` (batch, length, hidden_size).
            cache, cache_params, past_key_values: names of one argument, a ``StateCache`` from an earlier call. It is
                brought up to date, not copied.
            use_cache: return a cache; by default as the configuration says, but not in training, not with gradient
                checkpointing, and not where documents are packed.
            output_hidden_states: also return what each block gave, and the result.
            return_dict: return an object with names, not a tuple.
            attention_mask: (batch, length), or (batch, past + length); 0 where there is padding, in any place. Real
                tokens give what they give without the padding; what padding gives means nothing.
            position_ids: (batch, length) or (length,) ints: a document begins where there is 0.
            cu_seqlens: (documents + 1,) ints, where documents begin, and the end of the last, in every row.
            seq_idx: (batch, length) or (length,) ints: a document is a stretch of equal numbers. Nothing passes on.

        Returns:
            ``last_hidden_state`` (batch, length, hidden_size), ``cache``, ``hidden_states``.

        Raises:
            UserError: an argument is wrong or contradicts another; the message says which.
        """
        hidden = embedded(self.embeddings, input_ids, inputs_embeds, self.config.hidden_size)
        batch, length = hidden.shape[:2]
        cache = chosen_cache(cache=cache, cache_params=cache_params, past_key_values=past_key_values)
        documents = packing({"position_ids": position_ids, "cu_seqlens": cu_seqlens, "seq_idx": seq_idx}, batch, length)
        cache = self._cache(cache, use_cache, bool(documents))
        mask = (
            new_columns(attention_mask, batch, length) if cache is None else cache.begin(attention_mask, batch, length)
        )
        padding = with_padding(mask)  # what came before may have had some, and these be tokens
        sequences = documents if padding is None else {**documents, "mask": padding}
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        outputs: list[Tensor] = []
        one = None if cache is None or sequences or output_hidden_states else self._token(hidden, cache)
        for number, block in enumerate(self.layers if one is None else ()):
            hidden = block(hidden, None if cache is None else cache.layers[number], sequences)
            if output_hidden_states:
                outputs.append(hidden)
        hidden = self.norm_f(hidden if one is None else one)
        if cache is not None:
            cache.advance(length, mask)
        found = model_output(hidden, cache, (*outputs, hidden) if output_hidden_states else None)
        return found if (self.config.return_dict if return_dict is None else return_dict) else found.to_tuple()

    def _token(self, hidden: Tensor, cache: StateCache) -> Tensor | None:
        """A token through all blocks at once; None where it has to go from one to the next."""
        if all(block.residual_in_fp32 for block in self.layers):
            hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        return self.token_chain.run(self.layers, [hidden], cache.layers)

    def _cache(self, cache: StateCache | None, use_cache: bool | None, packed: bool) -> StateCache | None:
        """The cache that a call uses: the one given, a new one, or none."""
        checkpointing = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        if cache is not None and len(cache.layers) != len(self.layers):
            raise UserError(f"a cache of {len(cache.layers)} layers, and a model of {len(self.layers)}")
        if packed or checkpointing:
            if cache is not None or (use_cache and packed):
                what = "packed documents" if packed else "gradient checkpointing"
                raise UserError(f"a cache is asked for with {what}", hint="use_cache=False, and no cache")
            return None
        if use_cache is None:
            use_cache = cache is not None or (self.config.use_cache and not self.training)
        if not use_cache:
            if cache is not None:
                raise UserError("a cache is given, and `use_cache` is False", expected="one or the other")
            return None
        return StateCache(len(self.layers)) if cache is None else cache


class MambaForCausalLM(MambaPreTrainedModel, StateGenerationMixin):
    """Mamba with a language modelling head, tied to the embeddings if the configuration says so."""

    _tied_weights_keys = {"lm_head.weight": "backbone.embeddings.weight"}
    accepts_loss_kwargs = True  # Trainer then tells over how many tokens to average

    def __init__(self, config: MambaConfig) -> None:
        super().__init__(config)
        self.backbone = MambaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, new_embeddings: nn.Module) -> None:
        self.backbone.set_input_embeddings(new_embeddings)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: StateCache | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache_params: StateCache | None = None,
        past_key_values: StateCache | None = None,
        position_ids: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        seq_idx: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_attentions: bool | None = None,
    ) -> CausalOutput | tuple[Any, ...]:
        """Logits of the next token, and the loss.

        Args:
            labels: (batch, length) ints, the tokens themselves: each is compared with what was predicted before it.
                -100 counts for nothing, nor does the first token of a packed document; padding should have it.
            logits_to_keep: how many of the last positions to give logits for, 0 for all; or a (number,) tensor of
                positions. With labels all are needed.
            num_items_in_batch: by what the sum of losses is divided; by default the number of labels.
            output_attentions: not true; PEFT's wrappers of language models always pass it.
            others: as for ``MambaModel``.

        Returns:
            ``loss``, ``logits`` (batch, length, vocab_size) in float32, or float64 if the model is, ``cache``,
            ``hidden_states``.
        """
        if output_attentions:
            raise UserError("`output_attentions` is set", hint="Mamba has no attention: leave out `output_attentions`")
        shared = tied(self.backbone.embeddings, self.lm_head) if inputs_embeds is None else None
        if shared is not None:
            input_ids, inputs_embeds = None, embedded(shared.rows, input_ids, None, self.config.hidden_size)
        found = self.backbone(
            input_ids, inputs_embeds, cache, use_cache, output_hidden_states, True, attention_mask, cache_params,
            past_key_values, position_ids, cu_seqlens, seq_idx,
        )  # fmt: skip
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden = found.last_hidden_state[:, kept]
        hidden = hidden.to(self.lm_head.weight.dtype)
        logits = logits_of(self.lm_head, hidden, shared)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = None
        if labels is not None:
            if labels.shape != logits.shape[:2]:
                raise UserError(f"`labels` is {shown(labels)}", expected=f"shape {tuple(logits.shape[:2])}")
            labels = without_first(labels, position_ids, cu_seqlens, seq_idx)
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, num_items_in_batch=num_items_in_batch
            )
        outputs = causal_output(loss, logits, found.cache, found.hidden_states)
        return outputs if (self.config.return_dict if return_dict is None else return_dict) else outputs.to_tuple()
