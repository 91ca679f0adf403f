"""RecurrentGemma on compiled layers, with the configuration, parameter names and methods of transformers.

De et al. 2024 (Griffin), Botev et al. 2024 (RecurrentGemma).
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel, RecurrentGemmaConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from ssmc.errors import UserError

from .cache import LayerCache, StateCache, chosen_cache
from .gates import gated
from .generation import StateGenerationMixin, causal_output, model_output
from .griffin import recurrent_block
from .griffin_token import write_attention, write_mlp, write_recurrent
from .linear import is_plain, project
from .local_attention import local_attention, rotated, rotation
from .norms import RMSNorm
from .sequences import embedded, shown, without_first
from .soft_cap import soft_capped
from .tied import logits_of, tied
from .token_chain import Chain, StepByStep, TokenChain
from .tokens import Tokens, tokens_of


def ends_branch(product: nn.Linear) -> nn.Linear:
    """The product, marked as one whose result is added to the residual: it is initialised smaller."""
    product.ends_branch = True  # type: ignore[assignment]
    return product


class RecurrentGemmaRglru(nn.Module):
    """The parameters of an RG-LRU: Λ, and the weights and biases of its two gates."""

    def __init__(self, config: RecurrentGemmaConfig) -> None:
        super().__init__()
        heads, width = config.num_attention_heads, config.lru_width // config.num_attention_heads
        self.recurrent_param = nn.Parameter(torch.empty(config.lru_width))
        self.input_gate_weight = nn.Parameter(torch.empty(heads, width, width))
        self.input_gate_bias = nn.Parameter(torch.empty(heads, width))
        self.recurrent_gate_weight = nn.Parameter(torch.empty(heads, width, width))
        self.recurrent_gate_bias = nn.Parameter(torch.empty(heads, width))


class RecurrentGemmaRecurrentBlock(nn.Module):
    """The recurrent mixer. De et al. 2024, section 2.3."""

    def __init__(self, config: RecurrentGemmaConfig) -> None:
        super().__init__()
        hidden, width, taps = config.hidden_size, config.lru_width, config.conv1d_width
        self.linear_y = nn.Linear(hidden, width)
        self.linear_x = nn.Linear(hidden, width)
        self.linear_out = ends_branch(nn.Linear(width, hidden))
        self.conv_1d = nn.Conv1d(width, width, taps, groups=width, padding=taps - 1)
        self.rg_lru = RecurrentGemmaRglru(config)
        self.act_fn = ACT2FN[config.hidden_activation]

    def forward(
        self, hidden: Tensor, tokens: Tokens, turn: tuple[Tensor, Tensor], cache: LayerCache | None = None
    ) -> Tensor:
        return recurrent_block(self, hidden, tokens.positions, tokens.reach is not None, tokens.padding, cache)


class RecurrentGemmaAttention(nn.Module):
    """The mixer that sees the last tokens. De et al. 2024, section 2.3."""

    def __init__(self, config: RecurrentGemmaConfig) -> None:
        super().__init__()
        hidden, heads, groups, size = (
            config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim,
        )  # fmt: skip
        self.heads, self.groups, self.size, self.window = heads, groups, size, config.attention_window_size
        self.dropout = config.attention_dropout
        self.plain = config._attn_implementation == "eager"
        self.q_proj = nn.Linear(hidden, heads * size, bias=config.attention_bias)
        self.k_proj = nn.Linear(hidden, groups * size, bias=config.attention_bias)
        self.v_proj = nn.Linear(hidden, groups * size, bias=config.attention_bias)
        self.o_proj = ends_branch(nn.Linear(heads * size, hidden, bias=True))

    def forward(
        self, hidden: Tensor, tokens: Tokens, turn: tuple[Tensor, Tensor], cache: LayerCache | None = None
    ) -> Tensor:
        query, key, value = (
            project(module, hidden).view(*hidden.shape[:2], heads, self.size).transpose(1, 2)
            for module, heads in ((self.q_proj, self.heads), (self.k_proj, self.groups), (self.v_proj, self.groups))
        )
        query, key = rotated(query, turn), rotated(key, turn)
        padded = None if tokens.mask is None else tokens.numbers
        mixed = self.attend(query, key, value, cache, padded, tokens.reach)
        return project(self.o_proj, mixed.transpose(1, 2).flatten(2))

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, cache: LayerCache | None = None,
        padded: Tensor | None = None, reach: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Attention of turned queries, (B, heads, L, size), to keys and values, (B, groups, L, size), and those before.

        ``padded``: which token of its row each is, if there was padding; ``reach`` as ``Tokens`` has it.
        """
        numbers = None if padded is None else (padded, padded)
        if cache is not None:
            key, value, known = cache.extend(key, value, self.window, padded)
            numbers = None if padded is None else (padded, known)
        dropout = self.dropout if self.training else 0.0
        with sdpa_kernel(SDPBackend.MATH) if self.plain else nullcontext():
            return local_attention(query, key, value, self.window, numbers, reach, dropout)


_MIXERS = {"recurrent": RecurrentGemmaRecurrentBlock, "attention": RecurrentGemmaAttention}


class RecurrentGemmaMlp(nn.Module):
    """down(act(gate(x)) · up(x)), of half the width that the configuration states."""

    def __init__(self, config: RecurrentGemmaConfig) -> None:
        super().__init__()
        hidden, width = config.hidden_size, config.intermediate_size // 2
        self.gate_proj = nn.Linear(hidden, width)
        self.up_proj = nn.Linear(hidden, width)
        self.down_proj = ends_branch(nn.Linear(width, hidden))
        self.act_fn = ACT2FN[config.hidden_activation]

    def forward(self, hidden: Tensor) -> Tensor:
        gate, up = project(self.gate_proj, hidden), project(self.up_proj, hidden)
        return project(self.down_proj, gated(self.act_fn, up, gate))


class RecurrentGemmaDecoderLayer(GradientCheckpointingLayer):
    """x + mixer(norm(x)), then the same with the MLP. De et al. 2024, section 2.1."""

    def __init__(self, config: RecurrentGemmaConfig, layer: int) -> None:
        super().__init__()
        kind = config.block_types[layer % len(config.block_types)]
        self.temporal_pre_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, offset=1.0)
        self.temporal_block = _MIXERS[kind](config)
        self.channel_pre_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, offset=1.0)
        self.mlp_block = RecurrentGemmaMlp(config)

    def forward(
        self, hidden: Tensor, tokens: Tokens, turn: tuple[Tensor, Tensor], cache: LayerCache | None = None
    ) -> Tensor:
        hidden = hidden + self.temporal_block(self.temporal_pre_norm(hidden), tokens, turn, cache)
        return hidden + self.mlp_block(self.channel_pre_norm(hidden))


def _write(layer: Any, chain: Chain, hidden: Tensor) -> Tensor:
    """A layer's calls for one token, if it is what it was made as."""
    if type(layer) is not RecurrentGemmaDecoderLayer or type(layer.mlp_block) is not RecurrentGemmaMlp:
        raise StepByStep
    norm, mixer = layer.temporal_pre_norm, layer.temporal_block
    if type(mixer) is RecurrentGemmaRecurrentBlock:
        hidden = write_recurrent(norm, mixer, chain, hidden)
    elif type(mixer) is RecurrentGemmaAttention:
        hidden = write_attention(norm, mixer, chain, hidden)
    else:
        raise StepByStep
    return write_mlp(layer.channel_pre_norm, layer.mlp_block, chain, hidden)


class RecurrentGemmaPreTrainedModel(PreTrainedModel):
    """What both models share: how they are configured, initialised and loaded."""

    config_class = RecurrentGemmaConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["RecurrentGemmaDecoderLayer"]
    _supports_sdpa = True
    _is_stateful = False  # a StateCache can be cropped, so that assisted decoding works

    def __init__(self, config: RecurrentGemmaConfig) -> None:
        check_config(config)
        super().__init__(config)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """De et al. 2024, section 2: products keep variance, what is added to the residual shrinks with depth.

        ``w_init_variance_scale`` is that of the convolution, ``final_w_init_variance_scale`` that of the last
        product of every mixer and MLP; the others have 1.
        """
        if isinstance(module, RecurrentGemmaRglru):
            _init_rg_lru(module)
        elif isinstance(module, nn.Conv1d):
            _init_product(module, self.config.w_init_variance_scale, module.kernel_size[0])
        elif isinstance(module, nn.Linear):
            last = getattr(module, "ends_branch", False)
            _init_product(module, self.config.final_w_init_variance_scale if last else 1.0, module.in_features)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=module.embedding_dim**-0.5)
            if module.padding_idx is not None and not getattr(module.weight, "_is_hf_initialized", False):
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, RMSNorm):
            init.zeros_(module.weight)


def _init_product(module: nn.Linear | nn.Conv1d, scale: float, fan_in: int) -> None:
    init.normal_(module.weight, std=math.sqrt(scale / fan_in))
    if module.bias is not None:
        init.zeros_(module.bias)


def _init_rg_lru(unit: RecurrentGemmaRglru) -> None:
    """Gates that keep variance, and Λ for which exp(-softplus(Λ)) is in [0.9, 0.999], its square uniform."""
    for gate in ("input_gate", "recurrent_gate"):
        weight = getattr(unit, f"{gate}_weight")
        init.normal_(weight, std=weight.shape[1] ** -0.5)
        init.zeros_(getattr(unit, f"{gate}_bias"))
    squared = torch.empty_like(unit.recurrent_param, dtype=torch.float32).uniform_(0.9**2, 0.999**2)
    init.copy_(unit.recurrent_param, torch.log(torch.expm1(-0.5 * torch.log(squared))))


def check_config(config: RecurrentGemmaConfig) -> None:
    """Raise UserError for a configuration that describes no such model."""
    heads = config.num_attention_heads
    for name in ("hidden_size", "lru_width"):
        if getattr(config, name) % heads:
            raise UserError(
                f"`{name}` is {getattr(config, name)}", expected=f"a multiple of num_attention_heads, {heads}"
            )
    if heads % config.num_key_value_heads:
        raise UserError(
            f"`num_key_value_heads` is {config.num_key_value_heads}",
            expected=f"a divisor of num_attention_heads, {heads}",
        )
    if config.intermediate_size % 2:
        raise UserError(
            f"`intermediate_size` is {config.intermediate_size}", expected="an even number, twice the MLP's width"
        )
    unknown = [kind for kind in config.block_types if kind not in _MIXERS]
    if unknown or not config.block_types:
        raise UserError(f"`block_types` is {config.block_types}", expected="a list of 'recurrent' and 'attention'")
    for name in ("attention_window_size", "conv1d_width"):
        if getattr(config, name) < 1:
            raise UserError(f"`{name}` is {getattr(config, name)}", expected="1 or more")
    if config.hidden_activation not in ACT2FN:
        raise UserError(
            f"`hidden_activation` is {config.hidden_activation!r}", expected="a name that transformers knows"
        )
    kind = config.rope_parameters.get("rope_type", "default")
    if kind != "default":
        raise UserError(
            f"`rope_parameters` have rope_type {kind!r}",
            expected="'default'",
            hint="the model looks back at most attention_window_size tokens, so positions need no scaling",
        )


def rotary_size(config: RecurrentGemmaConfig) -> int:
    """The number of channels of each head that turn with position."""
    size = int(config.head_dim * config.rope_parameters.get("partial_rotary_factor", 1.0))
    if size % 2 or size > config.head_dim:
        raise UserError(
            f"`partial_rotary_factor` leaves {size} of {config.head_dim} channels of a head to be turned",
            expected="an even number of them, since they turn in pairs",
        )
    return size


class RecurrentGemmaModel(RecurrentGemmaPreTrainedModel):
    """Embedding, layers and final norm.

    Without padding, packing and cache it is transformers' RecurrentGemmaModel; with them it is the same function of
    each document, wherever its tokens lie and in however many calls they come.
    """

    def __init__(self, config: RecurrentGemmaConfig) -> None:
        super().__init__(config)
        self.padding_idx, self.vocab_size = config.pad_token_id, config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(RecurrentGemmaDecoderLayer(config, n) for n in range(config.num_hidden_layers))
        self.final_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, offset=1.0)
        self.gradient_checkpointing = False
        self.rotary_size = rotary_size(config)
        self.scale = embedding_scale(config)
        self.token_chain = TokenChain(_write)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        cache: StateCache | None = None,
        *,
        past_key_values: StateCache | None = None,
        cu_seqlens: Tensor | None = None,
        seq_idx: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Hidden states after the final norm.

        Args:
            input_ids: (B, L) ints; or instead of them ``inputs_embeds``, (B, L, hidden), before they are scaled.
            position_ids: (B or 1, L) or (L,) ints; a document begins where there is 0, and sees nothing before. By
                default the tokens of a row are counted.
            attention_mask: (B, L), or (B, P + L) after P positions; 0 where there is padding, in any place.
            use_cache: return a cache for the next call; by default as configured, but not in training.
            cache: what an earlier call returned, or an empty StateCache; it changes. ``past_key_values`` is the same.
            cu_seqlens: (documents + 1,) ints, in place of ``position_ids``: where documents begin, and L.
            seq_idx: (B or 1, L) or (L,) ints, the same: a document is a stretch of equal numbers.
            output_hidden_states: also return what enters each layer, and the result, L + 1 tensors (B, L, hidden).
            return_dict: False for a tuple.

        Raises:
            UserError: arguments that are missing, contradict each other or have another shape.
        """
        embeds = embedded(self.embed_tokens, input_ids, inputs_embeds, self.config.hidden_size)
        cache = self._cache(use_cache, chosen_cache(cache=cache, past_key_values=past_key_values))
        if output_attentions if output_attentions is not None else self.config.output_attentions:
            raise UserError("`output_attentions` is set", hint="PyTorch's attention kernels never form the weights")
        wanted = output_hidden_states if output_hidden_states is not None else self.config.output_hidden_states
        batch, length = embeds.shape[:2]
        tokens = tokens_of((batch, length), embeds.device, attention_mask, position_ids, cu_seqlens, seq_idx, cache)
        turn = rotation(tokens.positions, self.rotary_size, self.config.rope_parameters["rope_theta"], embeds.dtype)
        hidden, kept = embeds * self.scale, []
        one = None
        if cache is not None and not wanted and tokens.mask is None and tokens.reach is None:
            one = self.token_chain.run(self.layers, [hidden, *turn], cache.layers)
        for number, layer in enumerate(self.layers if one is None else ()):
            if wanted:
                kept.append(hidden)
            hidden = layer(hidden, tokens, turn, cache=None if cache is None else cache.layers[number])
        hidden = self.final_norm(hidden if one is None else one)
        if cache is not None:
            cache.advance(length, tokens.mask)
        made = model_output(hidden, cache, (*kept, hidden) if wanted else None)
        return made if (self.config.return_dict if return_dict is None else return_dict) else made.to_tuple()

    def _cache(self, use_cache: bool | None, given: StateCache | None) -> StateCache | None:
        """The cache that a call fills, if any."""
        replayed = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        if given is not None and len(given.layers) != len(self.layers):
            raise UserError(f"a cache of {len(given.layers)} layers, and a model of {len(self.layers)}")
        if given is not None and (replayed or use_cache is False):
            why = "gradient checkpointing runs layers twice" if replayed else "`use_cache` is False"
            raise UserError(f"a cache is given, and {why}", hint="leave out the cache")
        if given is not None or replayed:
            return given
        wanted = use_cache if use_cache is not None else self.config.use_cache and not self.training
        return StateCache(self.config) if wanted else None


class RecurrentGemmaForCausalLM(RecurrentGemmaPreTrainedModel, StateGenerationMixin):
    """The model and logits for the next token, cap · tanh(hidden · embeddingᵀ / cap)."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    accepts_loss_kwargs = True  # Trainer then tells over how many tokens to average

    def __init__(self, config: RecurrentGemmaConfig) -> None:
        super().__init__(config)
        self.model = RecurrentGemmaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: StateCache | None = None,
        *,
        past_key_values: StateCache | None = None,
        cu_seqlens: Tensor | None = None,
        seq_idx: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Logits for the token after each, and the loss. Arguments that RecurrentGemmaModel has mean the same.

        Args:
            labels: (B, L) ints, usually ``input_ids``: position t is to predict label t + 1. -100 counts nothing, nor
                does the first token of a packed document.
            logits_to_keep: only the last so many positions, or these positions, (n,) ints; 0 for all. With labels all
                are needed.
            num_items_in_batch: by what the sum of losses is divided; by default the number of labels.

        Returns:
            ``loss``, ``logits`` (B, L, vocabulary), ``cache``, ``hidden_states``.
        """
        shared = tied(self.model.embed_tokens, self.lm_head) if inputs_embeds is None else None
        if shared is not None:
            input_ids, inputs_embeds = None, embedded(shared.rows, input_ids, None, self.config.hidden_size)
        made = self.model(
            input_ids, position_ids, attention_mask, inputs_embeds, use_cache, cache,
            past_key_values=past_key_values, cu_seqlens=cu_seqlens, seq_idx=seq_idx, return_dict=True,
            output_hidden_states=output_hidden_states, output_attentions=output_attentions,
        )  # fmt: skip
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) and logits_to_keep else logits_to_keep
        hidden = made.last_hidden_state
        hidden = hidden if isinstance(kept, int) else hidden[:, kept]
        logits = logits_of(self.lm_head, hidden, shared)
        if self.config.logits_soft_cap:
            # Nobody else holds what a plain module has made.
            logits = soft_capped(logits, self.config.logits_soft_cap, in_place=is_plain(self.lm_head))
        loss = None
        if labels is not None:
            if labels.shape != logits.shape[:2]:
                raise UserError(f"`labels` is {shown(labels)}", expected=f"shape {tuple(logits.shape[:2])}")
            labels = without_first(labels, position_ids, cu_seqlens, seq_idx)
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, num_items_in_batch=num_items_in_batch
            )
        result = causal_output(loss, logits, made.cache, made.hidden_states)
        return result if (self.config.return_dict if return_dict is None else return_dict) else result.to_tuple()


def embedding_scale(config: RecurrentGemmaConfig) -> float:
    """The root of the width, rounded to bfloat16 whatever the model's dtype: weights were trained with that."""
    if not getattr(config, "embeddings_scale_by_sqrt_dim", True):
        return 1.0
    return float(torch.tensor(config.hidden_size**0.5, dtype=torch.bfloat16, device="cpu"))
