"""Dropout that fits what is left, and layers that stay fixed while others are retrained."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from training import SmallNet, batch, train

import pomona
from pomona.dead import remove_dead_
from pomona.retrain import adjust_dropout_, freeze


class DroppedNet(SmallNet):
    """SmallNet with a dropout after each of three layers, made in another order than used."""

    def __init__(self) -> None:
        super().__init__()
        self.drop_fc1 = nn.Dropout(0.5)
        self.drop_input = nn.Dropout(0.1)
        self.drop_conv1 = nn.Dropout2d(0.2)
        self.drop_conv2 = nn.Dropout(0.4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop_conv1(self.conv1(self.drop_input(x)).relu())
        x = functional.max_pool2d(self.conv2(x).relu(), 1)
        x = self.drop_conv2(x).flatten(1)
        if self.training:
            x = x + 0
        return self.fc2(self.drop_fc1(self.fc1(x).relu()))


@pytest.fixture
def model():
    return DroppedNet()


def pruned(model, rules):
    pruner = pomona.Pruner(model, rules)
    pruner.step()
    return pruner


def ratio(weight):
    return int(weight.count_nonzero()) / weight.numel()


def test_each_rate_follows_the_layer_before_it(model):
    pruner = pruned(model, {"conv2": 0.75, "fc1": 0.91})
    rates = adjust_dropout_(model, pruner)
    assert list(rates) == ["drop_conv1", "drop_conv2", "drop_fc1"]
    assert rates["drop_conv1"] == (0.2, 0.2)
    assert rates["drop_conv2"] == pytest.approx((0.4, 0.4 * math.sqrt(ratio(model.conv2.weight))))
    assert rates["drop_fc1"] == pytest.approx((0.5, 0.5 * math.sqrt(ratio(model.fc1.weight))))
    assert {name: model.get_submodule(name).p for name in rates} == {
        name: new for name, (_, new) in rates.items()
    }
    assert model.drop_input.p == 0.1


def test_a_layer_with_a_quarter_of_its_connections_gets_half_the_rate():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
    assert adjust_dropout_(model, pruned(model, {"0": 0.75})) == {"2": (0.5, 0.25)}


def test_twice_is_as_once(model):
    pruner = pruned(model, {"fc1": 0.75})
    assert adjust_dropout_(model, pruner) == adjust_dropout_(model, pruner)
    assert model.drop_fc1.p == 0.25


def test_a_second_round_starts_from_the_first_rate(model):
    adjust_dropout_(model, pruned(model, {"fc1": 0.75}))
    assert adjust_dropout_(model, pruned(model, {"fc1": 0.9375}))["drop_fc1"] == (0.5, 0.125)


def test_a_copy_remembers_its_rate(model):
    adjust_dropout_(model, pruned(model, {"fc1": 0.75}))
    twin = copy.deepcopy(model)
    assert adjust_dropout_(twin, pruned(twin, {"fc1": 0.75}))["drop_fc1"] == (0.5, 0.25)
    assert list(twin.state_dict()) == list(SmallNet().state_dict())


def test_a_rate_that_was_set_since_is_the_new_one(model):
    pruner = pruned(model, {"fc1": 0.75})
    adjust_dropout_(model, pruner)
    model.drop_fc1.p = 0.8
    assert adjust_dropout_(model, pruner)["drop_fc1"] == (0.8, 0.4)


def test_a_redense_phase_gives_the_rate_back(model):
    dsd = pomona.DSD(model, {"fc1": 0.75}, epochs=(0, 1, 1))
    dsd.start()
    assert adjust_dropout_(model, dsd)["drop_fc1"] == (0.5, 0.25)
    dsd.step()
    assert adjust_dropout_(model, dsd)["drop_fc1"] == (0.5, 0.5)


@pytest.mark.parametrize("first", ["adjusted", "removed"])
def test_a_removal_changes_no_rate(first):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
    with torch.no_grad():
        model[0].weight[2:] *= 1e-6
    pruner = pruned(model, {"0": 0.75})
    if first == "adjusted":
        adjust_dropout_(model, pruner)
    removal = remove_dead_(model, torch.zeros(1, 8), pruners=pruner)
    assert removal.removed == 6
    original = None if first == "adjusted" else removal
    assert adjust_dropout_(model, pruner, original=original) == {"2": (0.5, 0.25)}


def test_a_sequential_that_cannot_be_traced_goes_by_the_order_of_its_modules():
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    model = nn.Sequential(nn.Linear(8, 8), Branches(), nn.Dropout(0.5), nn.Linear(8, 2))
    assert adjust_dropout_(model, pruned(model, {"0": 0.75})) == {"2": (0.5, 0.25)}


def test_a_dropout_after_layers_that_are_pruned_alike_is_adjusted():
    drop = nn.Dropout(0.5)
    model = nn.Sequential(nn.Linear(8, 8), drop, nn.Linear(8, 8), drop, nn.Linear(8, 2))
    assert adjust_dropout_(model, pruned(model, {"0": 0.75, "2": 0.75})) == {"1": (0.5, 0.25)}


def test_a_dropout_after_layers_that_are_pruned_differently_is_refused():
    drop = nn.Dropout(0.5)
    model = nn.Sequential(nn.Linear(8, 8), drop, nn.Linear(8, 8), drop, nn.Linear(8, 2))
    message = (
        r"adjust_dropout_: expected each dropout of `model` to follow one layer, got `1` after "
        r"0, 2, which are pruned differently\. Give each layer a dropout of its own\."
    )
    with pytest.raises(pomona.InvalidArgument, match=message):
        adjust_dropout_(model, pruned(model, {"0": 0.75}))
    assert drop.p == 0.5


def test_a_model_without_dropout_is_refused():
    model = SmallNet()
    message = r"expected `model` to hold a torch\.nn\.Dropout after a layer, got none\. A rate"
    with pytest.raises(pomona.InvalidArgument, match=message):
        adjust_dropout_(model, pruned(model, {"fc1": 0.75}))


def test_a_model_that_cannot_be_traced_is_refused():
    class Branches(DroppedNet):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    model = Branches()
    message = r"adjust_dropout_: expected `model` to be traceable by torch\.fx, got Branches"
    with pytest.raises(pomona.InvalidArgument, match=message):
        adjust_dropout_(model, pruned(model, {"fc1": 0.75}))
    assert model.drop_fc1.p == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda m, p: (3, p), r"expected `model` to be a torch\.nn\.Module, got int\."),
        (lambda m, p: (m, {}), r"expected `pruner` to be a Pruner or a DSD, got dict\."),
        (
            lambda m, p: (SmallNet(), p),
            r"expected `pruner` to be of this model, got a Pruner of another\.",
        ),
    ],
)
def test_other_arguments_of_adjust_dropout_are_refused(model, arguments, message):
    pruner = pruned(model, {"fc1": 0.75})
    with pytest.raises(pomona.InvalidArgument, match=rf"adjust_dropout_: {message}"):
        adjust_dropout_(*arguments(model, pruner))


def test_an_original_that_is_no_removal_is_refused(model):
    message = r"expected `original` to be what remove_dead_ has returned, got dict\."
    with pytest.raises(pomona.InvalidArgument, match=message):
        adjust_dropout_(model, pruned(model, {"fc1": 0.75}), original={})


def trains(model):
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_frozen_layers_are_fixed_with_their_biases_and_come_back():
    model = SmallNet()
    every = trains(model)
    with freeze(model, "conv*") as frozen:
        assert trains(model) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
        assert frozen.names == ["conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"]
    assert trains(model) == every


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["conv1", "fc2"], ["conv1.weight", "conv1.bias", "fc2.weight", "fc2.bias"]),
        ("fc1.weight", ["fc1.weight"]),
        ("fc1.bias", ["fc1.bias"]),
        (r"re:.*\.bias", ["conv1.bias", "conv2.bias", "fc1.bias", "fc2.bias"]),
    ],
)
def test_patterns_are_those_of_rules(patterns, names):
    assert freeze(SmallNet(), patterns).names == names


def test_a_plain_call_holds_until_undo():
    model = SmallNet()
    every = trains(model)
    frozen = freeze(model, "*")
    assert trains(model) == []
    frozen.undo()
    assert trains(model) == every
    model.fc1.weight.requires_grad_(False)
    frozen.undo()
    assert "fc1.weight" not in trains(model)


def test_what_was_frozen_before_stays_frozen():
    model = SmallNet()
    model.conv1.bias.requires_grad_(False)
    with freeze(model, "conv*"), freeze(model, "conv1"):
        pass
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["conv1.bias"]


def test_an_error_inside_undoes_it():
    model = SmallNet()
    every = trains(model)
    with pytest.raises(KeyError), freeze(model, "conv*"):
        raise KeyError
    assert trains(model) == every


def test_one_half_is_retrained_while_the_other_stays():
    model = SmallNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    pruner = pomona.Pruner(model, {"*": 0.5}, optimizer=optimizer)
    train(model, optimizer, 0, 2)
    pruner.step()
    functional.cross_entropy(model(batch(2)[0]), batch(2)[1]).backward()
    for still, moves in (("conv*", "fc*"), ("fc*", "conv*")):
        before = copy.deepcopy(model.state_dict())
        with freeze(model, still) as frozen:
            optimizer.step()  # the gradient that was there no longer counts
            train(model, optimizer, 3, 5)
        state = model.state_dict()
        assert all(torch.equal(before[name], state[name]) for name in frozen.names)
        with freeze(model, moves) as others:
            assert not any(torch.equal(before[name], state[name]) for name in others.names)
    assert pruner.step() is False


def test_a_pattern_that_matches_nothing_is_refused_and_nothing_is_frozen():
    model = SmallNet()
    every = trains(model)
    message = (
        r"freeze: expected `encoder\*` to match a floating-point parameter, got no match among: "
        r"conv1\.weight, conv1\.bias, "
    )
    with pytest.raises(pomona.InvalidArgument, match=message):
        freeze(model, ["conv*", "encoder*"])
    assert trains(model) == every


@pytest.mark.parametrize("patterns", [[], 3, [3], None])
def test_patterns_that_are_no_strings_are_refused(patterns):
    message = r"freeze: expected `patterns` to be a pattern or a list of at least one, got "
    with pytest.raises(pomona.InvalidArgument, match=message):
        freeze(SmallNet(), patterns)


def test_freeze_refuses_what_is_no_model():
    message = r"freeze: expected `model` to be a torch\.nn\.Module, got dict\."
    with pytest.raises(pomona.InvalidArgument, match=message):
        freeze({}, "*")
