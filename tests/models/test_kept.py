"""What a training step keeps, and what it makes again or adds where it is: the gradients are the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from ssmc.models import mamba, mixer
from ssmc.models.again import Again, can_make_again, made_again
from ssmc.models.tied import Rows, tied
from tests.models import recurrent_gemma_models
from tests.models.mamba_models import small_model, some_tokens


def gradients(model: nn.Module, ids: Tensor, **named: Any) -> list[Tensor]:
    loss = model(input_ids=ids, labels=ids, use_cache=False, **named).loss
    return [loss, *torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])]


def never(*_: Tensor) -> bool:
    return False


def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on autograd keeps everything, and each use of a weight has a gradient of its own."""
    for module in (mamba, mixer):
        monkeypatch.setattr(module, "can_make_again", never)
    monkeypatch.setattr(mamba, "tied", lambda *_: None)


# ---------------------------------------------------------------- values made again


@pytest.mark.parametrize("settings", [
    {}, {"hidden_act": "gelu"}, {"use_conv_bias": False, "use_bias": True}, {"residual_in_fp32": False},
    {"tie_word_embeddings": False},
])  # fmt: skip
def test_gradients_of_a_model(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The bits that autograd gives when it keeps all; those of the shared weight are added up in another order."""
    model, ids = small_model(**settings).train(), some_tokens(2, 9)
    found = gradients(model, ids)
    plain(monkeypatch)
    for one, other, name in zip(found, gradients(model, ids), ["loss", *dict(model.named_parameters())], strict=True):
        if "embeddings" in name:
            torch.testing.assert_close(one, other)
        else:
            assert torch.equal(one, other), name


@pytest.mark.parametrize("form", ["mask", "documents"])
def test_sequences_with_padding_or_documents(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = small_model().train(), some_tokens(2, 9)
    named = {"mask": {"attention_mask": torch.tensor([[0, 0] + [1] * 7, [1] * 9])},
             "documents": {"seq_idx": torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2])}}[form]  # fmt: skip
    found = gradients(model, ids, **named)
    plain(monkeypatch)
    for one, other in zip(found, gradients(model, ids, **named), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


def test_what_is_made_again_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the forward pass the outputs of norms, convolutions and step maps are gone."""
    model, ids = small_model().train(), some_tokens(2, 9)
    made: list[StorageWeakRef] = []

    def noted(op: Any) -> Any:
        def call(*given: Any, **named: Any) -> Tensor:
            value = op(*given, **named)
            made.append(StorageWeakRef(value.untyped_storage()))
            return value

        return call

    for block in model.backbone.layers:
        monkeypatch.setattr(block.norm, "layer", noted(block.norm.layer))
    layers = model.backbone.layers[0].mixer.layers
    monkeypatch.setattr(layers, "conv", noted(layers.conv))
    monkeypatch.setattr(mixer, "_step", lambda module, low: (noted(mixer.linear)(low, module.weight), module.bias))
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    assert len(made) == 6 and all(storage.expired() for storage in made)
    loss.backward()
    assert len(made) > 6


def recorded() -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """x, W and sin(x) @ W, with sin(x) made again; how often that is."""
    x, w = (torch.randn(4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    made = [0]

    def make() -> Tensor:
        made[0] += 1
        return kept.sin()

    kept, u = x.detach(), x.sin()
    assert can_make_again(u)
    with made_again(Again(u, make, x)):
        y = (u @ w) * u
    return x, w, y, made


def test_made_once_for_all_who_ask() -> None:
    """By each backward pass, also where it is run again; for half of the gradients, and for gradients of these."""
    x, w, y, made = recorded()
    expected = torch.autograd.grad(((x.sin() @ w) * x.sin()).sum(), (x, w))
    for turn in (1, 2):
        for one, other in zip(torch.autograd.grad(y.sum(), (x, w), retain_graph=True), expected, strict=True):
            torch.testing.assert_close(one, other)
        assert made[0] == turn
    (half,) = torch.autograd.grad(y.sum(), w, retain_graph=True)
    torch.testing.assert_close(half, expected[1])
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (wanted,) = torch.autograd.grad(((x.sin() @ w) * x.sin()).sum(), x, create_graph=True)
    pairs = zip(torch.autograd.grad(slope.square().sum(), (x, w)),
                torch.autograd.grad(wanted.square().sum(), (x, w)), strict=True)  # fmt: skip
    for one, other in pairs:
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("which", [0, 1])
def test_what_it_is_made_of_must_not_change(which: int) -> None:
    x, w, y, _ = recorded()
    with torch.no_grad():
        (x, w)[which].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_others_decide_what_is_kept() -> None:
    """Checkpointing keeps nothing; autocast and transforms change what is computed."""
    seen = []

    def look(x: Tensor) -> Tensor:
        y = x.sin()
        seen.append(can_make_again(y))
        return y.sum()

    x = torch.ones(3, requires_grad=True)
    look(x)
    checkpoint(look, x, use_reentrant=False).backward()
    with torch.autocast("cpu"):
        look(x)
    torch.func.grad(look)(x)
    with torch.no_grad():
        look(x)
    assert seen[0] and len(seen) >= 5 and not any(seen[1:])


# ---------------------------------------------------------------- a weight used twice


@pytest.mark.parametrize("padding", [None, 3])
@pytest.mark.parametrize("asked", ["both", "rows", "weight"])
def test_rows_and_the_matrix(padding: int | None, asked: str) -> None:
    """As PyTorch adds it up, with ids that come again; the gradient has one, too."""
    weight = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    ids, x = torch.tensor([[1, 3, 3], [6, 1, 0]]), torch.randn(4, 5, dtype=torch.float64)

    def loss(rows: Tensor, matrix: Tensor) -> Tensor:
        both = {"both": (rows, matrix), "rows": (rows, weight.detach()), "weight": (rows.detach(), matrix)}[asked]
        return (both[0].square().sum() * (x @ both[1].t()).sin()).sum()

    found = loss(*Rows.apply(ids, weight, padding))
    expected = loss(F.embedding(ids, weight, padding), weight)
    torch.testing.assert_close(found, expected)
    firsts = [torch.autograd.grad(value, weight, retain_graph=True)[0] for value in (found, expected)]
    torch.testing.assert_close(*firsts)
    slopes = [torch.autograd.grad(value, weight, create_graph=True)[0] for value in (found, expected)]
    if all(slope.requires_grad for slope in slopes):
        torch.testing.assert_close(*(torch.autograd.grad(slope.sin().sum(), weight)[0] for slope in slopes))


def test_when_a_weight_is_tied() -> None:
    """Only to PyTorch's own modules that nobody watches, where a gradient is recorded."""
    embeddings, head = nn.Embedding(7, 5), nn.Linear(5, 7, bias=False)
    assert tied(embeddings, head) is None
    head.weight = embeddings.weight
    assert tied(embeddings, head) is not None
    with torch.no_grad():
        assert tied(embeddings, head) is None
    with torch.autocast("cpu"):
        assert tied(embeddings, head) is None
    watching = embeddings.register_forward_hook(lambda *_: None)
    assert tied(embeddings, head) is None
    watching.remove()
    embeddings.max_norm = 1.0
    assert tied(embeddings, head) is None


def test_recurrent_gemma_adds_up_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from ssmc.models import recurrent_gemma

    model, ids = recurrent_gemma_models.small_model().train(), some_tokens(2, 9)
    found = gradients(model, ids)
    monkeypatch.setattr(recurrent_gemma, "tied", lambda *_: None)
    for one, other in zip(found, gradients(model, ids), strict=True):
        torch.testing.assert_close(one, other)
