"""Masks under the optimizers of bitsandbytes and torchao, whose moments are codes of 8 or 4 bits.

They keep 32-bit moments for small parameters, so the network here has one of 8,192 weights.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from training import batch

import pomona

STEPS = 50


def network() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def train(model, optimizer, begin, end):
    for index in range(begin, end):
        optimizer.zero_grad()
        images, labels = batch(index)
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        yield index


def alive(model, pruner):
    """How many pruned weights are not zero."""
    weights = dict(model.named_parameters())
    return sum(int(weights[n][~keep].count_nonzero()) for n, keep in pruner.masks().items())


def moved(model, before):
    return [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]


def hold_masks(model, optimizer):
    """Prune in the middle of training and train on: the pruned weights stay, the others move."""
    pruner = pomona.Pruner(model, {"*": 0.8}, optimizer=optimizer)
    for _ in train(model, optimizer, 0, 5):
        pass
    pruner.step()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for index in train(model, optimizer, 5, 5 + STEPS):
        assert alive(model, pruner) == 0, index
    assert pruner.step() is False
    assert len(moved(model, before)) == 4
    return pruner


@pytest.mark.parametrize("name", ["Adam8bit", "AdamW8bit", "Lion8bit", "SGD8bit"])
def test_masks_hold_under_bitsandbytes(name):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model = network()
    options = {"momentum": 0.9} if name == "SGD8bit" else {}
    optimizer = getattr(bitsandbytes.optim, name)(model.parameters(), lr=1e-3, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        hold_masks(model, optimizer)
    assert optimizer.state[model[1].weight]["state1"].dtype == torch.uint8


def test_state_of_bitsandbytes_that_a_mask_leaves_alone_is_named():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model = network()
    optimizer = bitsandbytes.optim.Adam8bit(model.parameters(), lr=1e-3)
    pruner = pomona.Pruner(model, {"1": 0.8}, optimizer=optimizer)
    for _ in train(model, optimizer, 0, 2):
        pass
    codes = optimizer.state[model[1].weight]["state1"].clone()
    with pytest.warns(UserWarning, match=r"Pruner: optimizer state \[.*'state1'.*\] is unknown"):
        pruner.step()
    assert torch.equal(optimizer.state[model[1].weight]["state1"], codes)


# Each compiles its step: half a minute.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["AdamW8bit", "AdamW4bit", "AdamWFp8"])
def test_masks_hold_under_torchao(name):
    optimizers = pytest.importorskip("torchao.optim")
    model = network()
    optimizer = getattr(optimizers, name)(model.parameters(), lr=1e-3)
    pruner = hold_masks(model, optimizer)
    state = optimizer.state[model[1].weight]["exp_avg"]
    assert type(state) is not torch.Tensor
    assert state.dequantize()[~pruner.masks()["1.weight"]].count_nonzero() == 0
