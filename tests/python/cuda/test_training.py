"""Pruner and Sharer train a model that lives on a GPU, and follow one that moves there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pomona

pytestmark = pytest.mark.cuda


def small_model(device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 10)).to(
        device
    )


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 10) -> None:
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(8, 1, 8, 8, generator=generator).to(device)
        y = torch.randint(10, (8,), generator=generator).to(device)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-2, fused=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pruned_weights_stay_zero_while_the_model_trains(cuda, name):
    model = small_model(cuda).to(memory_format=torch.channels_last)
    optimizer = OPTIMIZERS[name](model.parameters())
    pruner = pomona.Pruner(model, {"*": 0.75}, optimizer=optimizer)
    train(model, optimizer, 3)
    pruner.step()
    zeros = [p == 0 for p in model.parameters() if p.dim() > 1]
    assert [int(z.sum()) for z in zeros] == [27, 1080]
    before = [p.detach().clone() for p in model.parameters()]
    train(model, optimizer)
    assert [torch.equal(p == 0, z) for p, z in zip(weights(model), zeros, strict=True)] == [
        True
    ] * 2
    assert not torch.equal(before[0], next(model.parameters()))
    pruner.report()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_shared_weights_keep_their_codebook_while_the_model_trains(cuda, name):
    model = small_model(cuda)
    optimizer = OPTIMIZERS[name](model.parameters())
    sharer = pomona.Sharer(model, {"*": 3}, optimizer=optimizer)
    sharer.step()
    before = [p.detach().clone() for p in weights(model)]
    train(model, optimizer)
    for weight, old in zip(weights(model), before, strict=True):
        assert len(weight.unique()) <= 8
        assert not torch.equal(weight, old)
    sharer.report()


def test_a_pruned_model_may_move_to_the_gpu(cuda):
    model = small_model(torch.device("cpu"))
    pruner = pomona.Pruner(model, {"*": 0.5})
    pruner.step()
    model.to(cuda)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    pruner.attach(optimizer)
    train(model, optimizer)
    assert [int((w == 0).sum()) for w in weights(model)] == [18, 720]


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach() for p in model.parameters() if p.dim() > 1]
