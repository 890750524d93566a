"""granularity="balanced:N": equally many weights in the rows of each of N banks, as ESE prunes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pomona


def linear(rows, cols, seed=0):
    layer = nn.Linear(cols, rows)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed)))
    return layer


def kept_of_banks(weight, banks):
    return [int(weight[bank::banks].count_nonzero()) for bank in range(banks)]


def reference(weight, banks, kept):
    """The mask, one bank after the other: the largest stay, of equal ones the later."""
    width = weight[0].numel()
    live = [[] for _ in range(banks)]
    for i, value in enumerate(weight.flatten().tolist()):
        if value != 0:
            live[i // width % banks].append((abs(value), i))
    shares = [0] * banks
    while sum(shares) < min(kept, sum(map(len, live))):
        open_ = [b for b in range(banks) if shares[b] < len(live[b])]
        shares[min(open_, key=lambda b: (shares[b], b))] += 1
    mask = torch.zeros(weight.numel(), dtype=torch.bool)
    for bank, share in zip(live, shares, strict=True):
        for _, i in sorted(bank, reverse=True)[:share]:
            mask[i] = True
    return mask.view(weight.shape)


@pytest.mark.parametrize(("rows", "cols"), [(64, 30), (67, 30), (10, 100), (1, 7)])
@pytest.mark.parametrize("banks", [1, 3, 16, 64])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.91])
def test_every_bank_keeps_equally_many(rows, cols, banks, sparsity):
    layer = linear(rows, cols)
    with torch.no_grad():
        layer.weight.mul_(8).round_()  # ties and zeros
    before = layer.weight.detach().clone()
    rule = pomona.Prune(sparsity, granularity=f"balanced:{banks}")
    pomona.Pruner(layer, {"weight": rule}).step()
    kept = rows * cols - int(rows * cols * sparsity + 0.5)
    assert torch.equal(layer.weight != 0, reference(before, banks, kept))


def test_exactly_as_many_go_as_were_asked_for():
    layer = linear(64, 100)
    pruner = pomona.Pruner(layer, {"weight": pomona.Prune(0.9, granularity="balanced:64")})
    pruner.step()
    assert kept_of_banks(layer.weight, 64) == [10] * 64
    assert pruner.report()[0].kept == 640


def test_pruned_weights_stay_pruned_over_the_rounds():
    layer = linear(32, 50)
    schedule = pomona.Iterative([0.3, 0.6, 0.9])
    rule = pomona.Prune(granularity="balanced:8", schedule=schedule)
    pruner = pomona.Pruner(layer, {"weight": rule})
    dead = torch.zeros_like(layer.weight, dtype=torch.bool)
    for sparsity in (0.3, 0.6, 0.9):
        pruner.step()
        assert len(set(kept_of_banks(layer.weight, 8))) == 1
        assert int((layer.weight == 0).sum()) == int(1600 * sparsity + 0.5)
        assert not (layer.weight[dead] != 0).any()
        dead = layer.weight == 0


def test_convolutions_have_their_filters_in_banks():
    layer = nn.Conv2d(3, 16, 3)
    pomona.Pruner(layer, {"weight": pomona.Prune(0.5, granularity="balanced:4")}).step()
    assert len(set(kept_of_banks(layer.weight, 4))) == 1


def test_the_rule_goes_to_json_and_back():
    rules = {"fc*": pomona.Prune(0.9, granularity="balanced:64")}
    assert pomona.rules_from_json(pomona.rules_to_json(rules, pomona.Prune), pomona.Prune) == rules


def test_refuses_what_is_no_number_of_banks():
    with pytest.raises(pomona.InvalidArgument, match="'balanced:PES', got 'balanced:x'"):
        pomona.Prune(0.9, granularity="balanced:x")
    with pytest.raises(pomona.InvalidArgument, match="expected `rows` of at least 1, got 0"):
        pomona.Prune(0.9, granularity="balanced:0")
