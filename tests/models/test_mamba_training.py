"""Training Mamba with what its users train with: checkpointing, Trainer, LoRA, torch.compile, FSDP2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssmc.errors import UserError
from ssmc.models import MambaForCausalLM
from tests.models.mamba_models import VOCABULARY, small_model, some_tokens

ROOT = Path(__file__).resolve().parent.parent.parent


def loss_and_gradients(model: MambaForCausalLM, ids: Tensor, **named: Any) -> list[Tensor]:
    loss = model(ids, labels=ids, **named).loss
    return [loss, *torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])]


# ---------------------------------------------------------------- loss


def test_loss() -> None:
    """The mean over labels that count; over a number that is given."""
    model, ids = small_model(), some_tokens(2, 6)
    labels = ids.clone()
    labels[0, :3] = -100
    found = model(ids, labels=labels)
    likely = found.logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    kept = likely[labels[:, 1:] != -100]
    torch.testing.assert_close(found.loss, -kept.mean())
    torch.testing.assert_close(model(ids, labels=labels, num_items_in_batch=20).loss, -kept.sum() / 20)
    loss, logits = model(ids, labels=labels, return_dict=False, use_cache=False)
    torch.testing.assert_close(loss, found.loss)
    torch.testing.assert_close(logits, found.logits)  # without a cache it is another program: it may round otherwise


@pytest.mark.parametrize("kept", [2, torch.tensor([0, 4])])
def test_logits_of_some_positions(kept: Any) -> None:
    model, ids = small_model(), some_tokens(2, 6)
    logits = model(ids).logits
    expected = logits[:, -2:] if isinstance(kept, int) else logits[:, kept]
    torch.testing.assert_close(model(ids, logits_to_keep=kept).logits, expected)


# ---------------------------------------------------------------- checkpointing


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant: bool) -> None:
    """The same gradients from blocks that run twice; nothing inside of them is kept."""
    model, ids = small_model(dtype=torch.float64, num_hidden_layers=3).train(), some_tokens(2, 9)
    expected = loss_and_gradients(model, ids)
    calls: list[str] = []
    for block in model.backbone.layers:
        block.mixer.register_forward_pre_hook(lambda *_: calls.append("mixer"))
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    found = model(ids, labels=ids)
    assert found.cache is None and calls == ["mixer"] * 3
    found.loss.backward()
    assert calls == ["mixer"] * 6
    torch.testing.assert_close([found.loss, *(p.grad for p in model.parameters())], expected)
    packed = {"position_ids": torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4])}
    with_packing = loss_and_gradients(model, ids, **packed) if not reentrant else None
    model.gradient_checkpointing_disable()
    if with_packing is not None:
        torch.testing.assert_close(with_packing, loss_and_gradients(model, ids, **packed))


def test_generation_in_the_middle_of_training() -> None:
    model, ids = small_model().train(), some_tokens(1, 4)
    expected = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None)
    model.gradient_checkpointing_enable()
    assert torch.equal(model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None), expected)


# ---------------------------------------------------------------- Trainer


def documents(number: int) -> list[dict[str, Any]]:
    """Sequences that count on from where they start, in steps of their own length."""
    found = []
    for seed in range(number):
        length = 5 + seed % 7
        ids = (torch.arange(length) * 3 + seed) % (VOCABULARY - 1) + 1
        found.append({"input_ids": ids.tolist(), "labels": ids.tolist()})
    return found


def padded(features: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch, padded in front, which counts for nothing."""
    length = max(len(feature["input_ids"]) for feature in features)
    rows = [[0] * (length - len(f["input_ids"])) + f["input_ids"] for f in features]
    ids = torch.tensor(rows)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": ids.masked_fill(ids == 0, -100)}


@pytest.mark.parametrize("packed", [False, True])
def test_trainer(packed: bool, tmp_path: Path) -> None:
    """It learns, with padded batches and with packed ones, and saves what it has learnt."""
    from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

    collator = DataCollatorWithFlattening() if packed else padded
    model = small_model(initializer_range=0.1)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=8, gradient_accumulation_steps=2, max_steps=24,
        learning_rate=2e-2, report_to=[], logging_steps=4, save_strategy="no", use_cpu=True, disable_tqdm=True,
        remove_unused_columns=False,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=documents(64), data_collator=collator)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0], losses
    trainer.save_model()
    again = MambaForCausalLM.from_pretrained(tmp_path).eval()
    ids = some_tokens(1, 6)
    assert torch.equal(again(ids).logits, model.eval()(ids).logits)


# ---------------------------------------------------------------- LoRA


TARGETS = [["x_proj", "embeddings", "in_proj"], ["in_proj", "dt_proj", "lm_head"]]


@pytest.mark.parametrize("targets", TARGETS, ids=" ".join)
def test_lora(targets: list[str]) -> None:
    """New it changes nothing; only its own parameters learn; merged it says the same."""
    from peft import LoraConfig, get_peft_model

    model, ids = small_model(use_bias=True, tie_word_embeddings=False), some_tokens(2, 8)
    before, places = model(ids).logits, [n for n, _ in model.named_modules() if n.rpartition(".")[2] in targets]
    adapted = get_peft_model(model, LoraConfig(target_modules=targets, r=4, lora_dropout=0.0))
    torch.testing.assert_close(adapted(ids).logits, before)
    learning = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in learning) and len(learning) == 2 * len(places)
    train(adapted, ids)
    after = adapted(ids).logits
    assert not torch.allclose(after, before, atol=1e-3)
    generated = adapted.generate(input_ids=ids, max_new_tokens=4, do_sample=False, eos_token_id=None)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(ids).logits, after, rtol=1e-4, atol=1e-4)
    assert torch.equal(merged.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None), generated)


def test_lora_as_a_language_model() -> None:
    """With ``task_type`` PEFT's wrapper passes every argument that models with attention take."""
    from peft import LoraConfig, get_peft_model

    model, ids = small_model(), some_tokens(2, 8)
    before = model(ids, labels=ids)
    adapted = get_peft_model(model, LoraConfig(target_modules=["in_proj"], r=4, task_type="CAUSAL_LM"))
    after = adapted(input_ids=ids, labels=ids)
    torch.testing.assert_close((after.logits, after.loss), (before.logits, before.loss))
    with pytest.raises(UserError, match="`output_attentions` is set"):
        model(ids, output_attentions=True)


def test_lora_on_the_last_map() -> None:
    """PEFT's get_peft_model refuses out_proj for all models of type mamba, since transformers' own kernels would not
    call its wrapper. Here it is called: adapters put there by hand learn."""
    from peft import LoraConfig, inject_adapter_in_model

    model, ids = small_model(), some_tokens(2, 8)
    before = model(ids).logits
    inject_adapter_in_model(LoraConfig(target_modules=["out_proj"], r=4), model.backbone.layers)
    torch.testing.assert_close(model(ids).logits, before)
    train(model, ids)
    assert not torch.allclose(model(ids).logits, before, atol=1e-3)


def train(model: Any, ids: Tensor) -> None:
    """A few steps, after which the loss is smaller and every parameter that may learn has had a gradient."""
    learning = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=1e-2)
    losses = []
    for _ in range(6):
        loss = model(input_ids=ids, labels=ids).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learning)


# ---------------------------------------------------------------- torch.compile


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_torch_compile(backend: str) -> None:
    """One graph, for any length, forward and backward; with padding and with documents too."""
    torch._dynamo.reset()
    model = small_model(dtype=torch.float64, use_bias=True, num_hidden_layers=1).train()
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
    calls: list[tuple[Tensor, dict[str, Tensor]]] = [
        (some_tokens(2, 7), {}),
        (some_tokens(3, 12), {}),
        (some_tokens(2, 7), {"attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1, 1]])}),
        (some_tokens(2, 7), {"position_ids": torch.tensor([[0, 1, 2, 0, 1, 2, 3]] * 2)}),
    ]
    for ids, named in calls:
        found = loss_and_gradients(compiled, ids, **named)  # type: ignore[arg-type]
        torch.testing.assert_close(found, loss_and_gradients(model, ids, **named))


def test_one_graph() -> None:
    """Dynamo sees the whole of a model's call at once."""
    torch._dynamo.reset()
    model, ids = small_model(num_hidden_layers=1).train(), some_tokens(2, 7)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(loss_and_gradients(compiled, ids), loss_and_gradients(model, ids))  # type: ignore[arg-type]


def test_decoding_with_torch_compile() -> None:
    """With a cache: whole graphs, for the prompt, the second position and all others."""
    torch._dynamo.reset()
    model, ids = small_model(num_hidden_layers=1), some_tokens(2, 10)
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend, fullgraph=True)
    with torch.no_grad():
        first = compiled(ids[:, :4], use_cache=True)
        found = [first.logits, *(compiled(ids[:, t : t + 1], cache=first.cache).logits for t in range(4, 10))]
    torch.testing.assert_close(torch.cat(found, 1), model(ids).logits)
    assert len(graphs) <= 3 and first.cache.get_seq_length() == 10


# ---------------------------------------------------------------- FSDP2

TWO_RANKS = """
import os, sys, torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from tests.models.mamba_models import small_model, some_tokens

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
whole, model = small_model(use_bias=True).train(), small_model(use_bias=True).train()
if sys.argv[1] == "checkpointing":
    model.gradient_checkpointing_enable()
for block in model.backbone.layers:
    fully_shard(block)
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
