"""fisher: the mean of squared gradients, and nothing else changed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pomona
from pomona import InvalidArgument


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Tanh(), nn.Linear(5, 3))


def batches(count: int = 4):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 6, generator=generator), torch.randint(0, 3, (8,), generator=generator))
        for _ in range(count)
    ]


def test_it_is_the_mean_of_squared_gradients():
    model = network().eval()
    found = pomona.fisher(model, batches())
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y in batches():
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        for name, p in model.named_parameters():
            expected[name] += p.grad.square() / 4
    assert found.keys() == expected.keys()
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name])


def test_nothing_is_changed():
    model = network().train()
    model[0].weight.grad = torch.ones(5, 6)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    pomona.fisher(model, batches())
    assert model.training
    assert model[1].training
    assert torch.equal(model[0].weight.grad, torch.ones(5, 6))
    assert model[3].weight.grad is None
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_tied_and_unused_parameters():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.free = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(2, 2)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    found = pomona.fisher(Twice(), batches())
    assert torch.equal(found["a.weight"], found["b.weight"])
    assert found["a.weight"].any()
    assert not found["free.weight"].any()


def test_bad_arguments_are_refused():
    with pytest.raises(InvalidArgument, match="at least one batch, got none"):
        pomona.fisher(network(), [])
    with pytest.raises(InvalidArgument, match="parameters that require gradients, got none"):
        pomona.fisher(network().requires_grad_(False), batches())
