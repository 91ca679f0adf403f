"""Training RecurrentGemma with what its users train with: checkpointing, Trainer, LoRA, torch.compile, FSDP2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssmc.errors import UserError
from ssmc.models import RecurrentGemmaForCausalLM, StateCache
from tests.models.mamba_models import VOCABULARY, some_tokens
from tests.models.recurrent_gemma_models import config, small_model

ROOT = Path(__file__).resolve().parent.parent.parent
PACKED = {"position_ids": torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4])}


def loss_and_gradients(model: Any, ids: Tensor, **named: Any) -> list[Tensor]:
    loss = model(ids, labels=ids, **named).loss
    return [loss, *torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])]


# ---------------------------------------------------------------- initialisation


def test_initial_weights() -> None:
    """Products keep variance; the last of a branch shrinks with depth; Λ by section 2.4."""
    torch.manual_seed(0)
    settings = config(
        hidden_size=96, lru_width=128, intermediate_size=256, num_hidden_layers=4, w_init_variance_scale=0.2
    )
    model = RecurrentGemmaForCausalLM(settings)
    recurrent, attention = (model.model.layers[n].temporal_block for n in (0, 1))
    mlp = model.model.layers[0].mlp_block
    expected: dict[nn.Module, float] = {
        model.model.embed_tokens: 96**-0.5, recurrent.linear_x: 96**-0.5, recurrent.linear_y: 96**-0.5,
        attention.q_proj: 96**-0.5, attention.k_proj: 96**-0.5, mlp.up_proj: 96**-0.5,
        recurrent.conv_1d: (0.2 / 4) ** 0.5, recurrent.linear_out: (0.5 / 128) ** 0.5,
        attention.o_proj: (0.5 / 96) ** 0.5, mlp.down_proj: (0.5 / 128) ** 0.5,
    }  # fmt: skip
    for module, deviation in expected.items():
        assert float(module.weight.detach().std()) == pytest.approx(deviation, rel=0.1), module
        assert getattr(module, "bias", None) is None or not module.bias.any()
    unit = recurrent.rg_lru
    assert float(unit.input_gate_weight.detach().std()) == pytest.approx(32**-0.5, rel=0.1)
    decay = torch.exp(-nn.functional.softplus(unit.recurrent_param.detach()))
    assert 0.9 <= decay.min() < 0.91 and 0.995 < decay.max() <= 0.9991
    assert float(decay.square().mean()) == pytest.approx((0.9**2 + 0.999**2) / 2, rel=0.02)
    assert not model.model.embed_tokens.weight[0].any() and model.lm_head.weight is model.model.embed_tokens.weight


def test_attention_dropout() -> None:
    """Drops weights in training only."""
    ids = some_tokens(2, 9)
    plain, dropping = small_model(), small_model(attention_dropout=0.5)
    assert torch.equal(plain(ids).logits, dropping(ids).logits)
    first, second = (dropping.train()(ids).logits for _ in range(2))
    assert not torch.allclose(first, second, atol=1e-3)


def test_untied() -> None:
    model = small_model(tie_word_embeddings=False)
    assert model.lm_head.weight is not model.model.embed_tokens.weight


# ---------------------------------------------------------------- checkpointing


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant: bool) -> None:
    """The same gradients from layers that run twice; nothing inside of them is kept."""
    model, ids = small_model(dtype=torch.float64).train(), some_tokens(2, 9)
    expected = loss_and_gradients(model, ids, **PACKED)
    calls: list[str] = []
    for layer in model.model.layers:
        layer.temporal_block.register_forward_pre_hook(lambda *_: calls.append("mixer"))
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    found = model(ids, labels=ids, **PACKED)
    assert found.cache is None and calls == ["mixer"] * 3
    found.loss.backward()
    assert calls == ["mixer"] * 6
    torch.testing.assert_close([found.loss, *(p.grad for p in model.parameters())], expected)
    with pytest.raises(UserError, match="gradient checkpointing runs layers twice"):
        model(ids, cache=StateCache(3))
    generated = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None)
    again = model.eval().generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert torch.equal(generated, again)


# ---------------------------------------------------------------- Trainer


def documents(number: int) -> list[dict[str, Any]]:
    """Sequences that count on from where they start, in steps of their own length."""
    found = []
    for seed in range(number):
        ids = (torch.arange(5 + seed % 7) * 3 + seed) % (VOCABULARY - 1) + 1
        found.append({"input_ids": ids.tolist(), "labels": ids.tolist()})
    return found


def padded(features: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch, padded in front, which counts for nothing."""
    length = max(len(feature["input_ids"]) for feature in features)
    ids = torch.tensor([[0] * (length - len(f["input_ids"])) + f["input_ids"] for f in features])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": ids.masked_fill(ids == 0, -100)}


@pytest.mark.parametrize("packed", [False, True])
def test_trainer(packed: bool, tmp_path: Path) -> None:
    """It learns, with padded batches and with packed ones, and saves what it has learnt."""
    from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

    model = RecurrentGemmaForCausalLM(config())
    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=8, gradient_accumulation_steps=2, max_steps=12,
        learning_rate=2e-2, report_to=[], logging_steps=4, save_strategy="no", use_cpu=True, disable_tqdm=True,
        remove_unused_columns=False,
    )  # fmt: skip
    collator = DataCollatorWithFlattening() if packed else padded
    trainer = Trainer(model=model, args=arguments, train_dataset=documents(64), data_collator=collator)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0], losses
    trainer.save_model()
    again = RecurrentGemmaForCausalLM.from_pretrained(tmp_path).eval()
    ids = some_tokens(1, 6)
    assert torch.equal(again(ids).logits, model.eval()(ids).logits)


def test_saved_and_loaded(tmp_path: Path) -> None:
    """In another precision, in pieces, and by transformers, whose model of it is the same function."""
    from transformers import RecurrentGemmaForCausalLM as Theirs

    model, ids = small_model(), some_tokens(2, 9)
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    assert len([*tmp_path.glob("*.safetensors")]) > 1
    again = RecurrentGemmaForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(ids).logits, model(ids).logits)
    theirs = Theirs.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(theirs(ids, use_cache=False).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
    narrow = RecurrentGemmaForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    found = narrow(ids)
    assert found.logits.dtype is torch.bfloat16
    assert found.cache.layers[0].states["rg_lru"]["h"].dtype is torch.float32
    error = (found.logits.float() - model(ids).logits).abs().mean() / model(ids).logits.abs().mean()
    assert error < 0.05


# ---------------------------------------------------------------- LoRA


TARGETS = [
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    ["linear_x", "linear_y", "linear_out", "lm_head"],
]


@pytest.mark.parametrize("targets", TARGETS, ids=" ".join)
def test_lora(targets: list[str]) -> None:
    """New it changes nothing; only its own parameters learn; merged it says the same."""
    from peft import LoraConfig, get_peft_model

    model, ids = small_model(tie_word_embeddings=False), some_tokens(2, 8)
    before, places = model(ids).logits, [n for n, _ in model.named_modules() if n.rpartition(".")[2] in targets]
    adapted = get_peft_model(model, LoraConfig(target_modules=targets, r=4, lora_dropout=0.0))
    torch.testing.assert_close(adapted(ids).logits, before)
    learning = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in learning) and len(learning) == 2 * len(places)
    optimiser = torch.optim.AdamW(learning.values(), lr=1e-2)
    losses = []
    for _ in range(6):
        loss = adapted(input_ids=ids, labels=ids).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learning.values())
    after = adapted(ids).logits
    assert not torch.allclose(after, before, atol=1e-3)
    generated = adapted.generate(input_ids=ids, max_new_tokens=4, do_sample=False, eos_token_id=None)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(ids).logits, after, rtol=1e-3, atol=1e-3)
    assert torch.equal(merged.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None), generated)


def test_lora_on_the_convolution_is_refused() -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(small_model(), LoraConfig(target_modules=["q_proj"], r=2))
    block = adapted.base_model.model.model.layers[0].temporal_block
    block.conv_1d = nn.Sequential(block.conv_1d)
    with pytest.raises(UserError, match="`conv_1d` is a Sequential"):
        adapted(some_tokens(1, 4))


# ---------------------------------------------------------------- torch.compile


def test_one_graph() -> None:
    """Dynamo sees the whole of a model's call at once."""
    torch._dynamo.reset()
    model, ids = small_model(num_hidden_layers=2).train(), some_tokens(2, 7)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(loss_and_gradients(compiled, ids), loss_and_gradients(model, ids))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_torch_compile(backend: str) -> None:
    """One graph, for any length, forward and backward; with padding and with documents too."""
    torch._dynamo.reset()
    model = small_model(dtype=torch.float64, num_hidden_layers=2).train()
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1, 1, 1, 1]])
    calls: list[tuple[Tensor, dict[str, Tensor]]] = [
        (some_tokens(2, 9), {}),
        (some_tokens(3, 12), {}),
        (some_tokens(2, 9), {"attention_mask": mask}),
        (some_tokens(2, 9), PACKED),
    ]
    for ids, named in calls if backend == "aot_eager" else calls[::3]:
        torch.testing.assert_close(loss_and_gradients(compiled, ids, **named), loss_and_gradients(model, ids, **named))


@pytest.mark.slow
def test_decoding_with_torch_compile() -> None:
    """With a cache, in as many graphs as it takes."""
    torch._dynamo.reset()
    model, ids = small_model(), some_tokens(2, 9)
    expected = model(ids).logits
    compiled = torch.compile(model, backend="aot_eager")
    with torch.no_grad():
        first = compiled(ids[:, :6], use_cache=True)
        found = [first.logits, *(compiled(ids[:, t : t + 1], cache=first.cache).logits for t in (6, 7, 8))]
    torch.testing.assert_close(torch.cat(found, 1), expected)


# ---------------------------------------------------------------- FSDP2

TWO_RANKS = """
import sys, torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from tests.models.mamba_models import some_tokens
from tests.models.recurrent_gemma_models import config
from ssmc.models import RecurrentGemmaForCausalLM

def made():
    torch.manual_seed(0)
    return RecurrentGemmaForCausalLM(config()).train()

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
whole, model = made(), made()
if sys.argv[1] == "checkpointing":
    model.gradient_checkpointing_enable()
for layer in model.model.layers:
    fully_shard(layer)
fully_shard(model)
one, two = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (whole, model))
for step in range(3):
    ids = some_tokens(4, 9, seed=step)
    whole(ids, labels=ids).loss.backward()
    mine = ids[2 * rank : 2 * rank + 2]
    model(mine, labels=mine).loss.backward()  # gradients are averaged over the ranks
    for optimiser in (one, two):
        optimiser.step()
        optimiser.zero_grad()
expected = dict(whole.named_parameters())
for name, value in model.named_parameters():
    assert type(value.data).__name__ == "DTensor", name
    torch.testing.assert_close(value.full_tensor(), expected[name], rtol=1e-4, atol=1e-5, msg=lambda m: name + m)
print("agree", flush=True)
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["plain", "checkpointing"])
def test_two_sharded_ranks(how: str, tmp_path: Path) -> None:
    """FSDP2 on two gloo ranks: after three steps the parameters are those of one process with the whole batch."""
    script = tmp_path / "ranks.py"
    script.write_text(TWO_RANKS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(script), how]
    ran = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert ran.stdout.count("agree") == 2
