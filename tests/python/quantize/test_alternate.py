"""Sharer(alternate=...): weights and codes trained by turns."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

import pomona
from pomona import InvalidArgument
from pomona.schedules import Alternate

SCHEDULE = Alternate(every=5, free=2, rounds=3)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(8, 12, generator=generator),
            torch.randint(0, 4, (8,), generator=generator),
        )
        for _ in range(count)
    ]


def train(model, optimizer, data) -> None:
    for x, target in data:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), target).backward()
        optimizer.step()


def values(model: nn.Module) -> int:
    return len(model[0].weight.unique())


def test_the_last_steps_of_each_round_are_free_and_end_in_new_codes():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    sharer = pomona.Sharer(model, {"*weight": 2}, optimizer=optimizer, alternate=SCHEDULE)
    sharer.step()
    codes, counts, changed = sharer.codes()["0.weight"], [], []
    for batch in batches(20):
        train(model, optimizer, [batch])
        counts.append(values(model))
        changed.append(not torch.equal(codes, codes := sharer.codes()["0.weight"]))
        sharer.report()  # raises where a weight has left its codebook and may not have
    is_free = [count > 4 for count in counts]
    # A free stretch of two steps ends in shared weights: only its first shows.
    assert is_free == 3 * [False, False, False, True, False] + 5 * [False]
    assert not any(changed[i] for i in range(20) if i not in (4, 9, 14))
    assert any(changed)


def test_it_equals_free_and_reassign_by_hand():
    def make():
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, optimizer

    data = batches(12)
    model, optimizer = make()
    schedule = Alternate(every=6, free=3, rounds=2)
    sharer = pomona.Sharer(model, {"*weight": 3}, optimizer=optimizer, alternate=schedule)
    sharer.step()
    train(model, optimizer, data)

    by_hand, optimizer = make()
    sharer = pomona.Sharer(by_hand, {"*weight": 3}, optimizer=optimizer)
    sharer.step()
    for first in (0, 6):
        train(by_hand, optimizer, data[first : first + 3])
        with sharer.free():
            train(by_hand, optimizer, data[first + 3 : first + 6])
    for ours, theirs in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("stop", [2, 3, 4, 5, 9, 13, 16])
def test_it_resumes_bit_for_bit_from_anywhere(stop):
    def make():
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        return (
            model,
            optimizer,
            pomona.Sharer(model, {"*weight": 2}, optimizer=optimizer, alternate=SCHEDULE),
        )

    data = batches(18)
    model, optimizer, sharer = make()
    sharer.step()
    train(model, optimizer, data[:stop])
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), sharer.state_dict()))
    train(model, optimizer, data[stop:])

    resumed, optimizer, again = make()
    resumed.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    again.load_state_dict(saved[2])
    again.report()
    train(resumed, optimizer, data[stop:])
    for ours, theirs in zip(resumed.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(again.codes()["0.weight"], sharer.codes()["0.weight"])


def test_a_pruner_keeps_the_zeros_bit_for_bit():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    pruner = pomona.Pruner(model, {"*weight": 0.6}, optimizer=optimizer)
    pruner.step()
    sharer = pomona.Sharer(model, {"*weight": 3}, optimizer=optimizer, alternate=SCHEDULE)
    sharer.step()
    zeros = model[0].weight == 0
    for batch in batches(18):
        train(model, optimizer, [batch])
        assert torch.equal(model[0].weight == 0, zeros)
    assert values(model) <= 8


def test_finalize_in_a_free_stretch_shares_first():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sharer = pomona.Sharer(model, {"*weight": 2}, optimizer=optimizer, alternate=SCHEDULE)
    sharer.step()
    train(model, optimizer, batches(4))
    assert values(model) > 4
    sharer.finalize()
    assert values(model) <= 4


def test_each_optimizer_of_a_list_counts_its_own_steps():
    model = network()
    optimizers = [torch.optim.SGD(model[i].parameters(), lr=0.1) for i in (0, 2)]
    sharer = pomona.Sharer(model, {"*weight": 2}, optimizer=optimizers, alternate=SCHEDULE)
    sharer.step()
    for x, target in batches(4):
        nn.functional.cross_entropy(model(x), target).backward()
        optimizers[0].step()
    assert len(model[0].weight.unique()) > 4
    assert len(model[2].weight.unique()) <= 4


@pytest.mark.parametrize(
    ("alternate", "message"),
    [
        (Alternate(1, 1, 1), "expected `every` of Alternate of at least 2, got 1"),
        (Alternate(5, 0, 1), "expected `free` of Alternate in 1..4, got 0"),
        (Alternate(5, 5, 1), "expected `free` of Alternate in 1..4, got 5"),
        (Alternate(5, 2, 0), "expected `rounds` of Alternate of at least 1, got 0"),
        (Alternate(5.0, 2, 1), "expected `alternate` of whole numbers"),
        ((5, 2, 1), "expected `alternate` to be a pomona.schedules.Alternate, got tuple"),
    ],
)
def test_refuses_other_schedules(alternate, message):
    with pytest.raises(InvalidArgument, match=message):
        pomona.Sharer(network(), {"*weight": 2}, alternate=alternate)


def test_it_is_a_plain_dataclass():
    assert dataclasses.asdict(SCHEDULE) == {"every": 5, "free": 2, "rounds": 3}
    with pytest.raises(dataclasses.FrozenInstanceError):
        SCHEDULE.every = 7
