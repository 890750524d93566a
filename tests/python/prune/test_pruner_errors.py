"""Bad input: clear words, and model and optimizer as they were."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from training import SmallNet, train

import pomona


@pytest.fixture
def model():
    return SmallNet()


@pytest.mark.parametrize("sparsity", [1, 1.5, -0.1, float("nan"), True, "0.5"])
def test_a_sparsity_outside_zero_to_one_is_refused(model, sparsity):
    with pytest.raises(pomona.InvalidArgument, match=r"rules\['fc\*'\]"):
        pomona.Pruner(model, {"fc*": sparsity})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_named_and_nothing_is_written(model, value):
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, 0, 2)
    pruner = pomona.Pruner(model, {"*": 0.5}, optimizer=optimizer)
    with torch.no_grad():
        model.fc2.weight[1, 2] = value
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    message = rf"expected `fc2\.weight` to be finite, got {value} at index 26"
    with pytest.raises(pomona.InvalidArgument, match=message):
        pruner.step()
    assert pruner.sparsity == 0
    for name, weight in model.state_dict().items():
        assert torch.equal(weight.nan_to_num(9), before[0][name].nan_to_num(9))
    for index, state in optimizer.state_dict()["state"].items():
        assert torch.equal(state["exp_avg"], before[1][index]["exp_avg"])


def test_a_rule_that_matches_nothing_lists_the_names(model):
    with pytest.raises(
        pomona.InvalidArgument,
        match=r"`encoder\*`.*conv1\.weight, conv2\.weight, fc1\.weight, fc2\.weight",
    ):
        pomona.Pruner(model, {"*": 0.5, "encoder*": 0.9})


def test_no_rules_are_refused(model):
    with pytest.raises(pomona.InvalidArgument, match="expected a non-empty dict"):
        pomona.Pruner(model, {})


def test_an_integer_parameter_by_name_is_refused(model):
    model.codes = nn.Parameter(torch.ones(3, 3, dtype=torch.int64), requires_grad=False)
    with pytest.raises(pomona.InvalidArgument, match=r"`codes` to name a floating-point"):
        pomona.Pruner(model, {"codes": 0.5})
    pomona.Pruner(model, {"*": 0.5})  # a glob passes it by


def test_an_optimizer_of_another_model_is_refused(model):
    other = torch.optim.SGD(SmallNet().parameters(), lr=0.1)
    with pytest.raises(pomona.InvalidArgument, match=r"to hold every .* conv1\.weight, conv2"):
        pomona.Pruner(model, {"*": 0.5}, optimizer=other)


def test_a_parameter_of_another_shape_is_named(model):
    pruner = pomona.Pruner(model, {"*": 0.5})
    model.fc2 = nn.Linear(24, 11)
    with pytest.raises(
        pomona.InvalidArgument, match=r"`fc2\.weight` of shape \[10, 24\], got \[11, 24\]"
    ):
        pruner.step()


def test_a_state_from_another_model_lists_every_difference(model):
    other = nn.ModuleDict({"fc1": nn.Linear(96, 25), "fc3": nn.Linear(3, 3)})
    state = pomona.Pruner(other, {"*": 0.5}).state_dict()
    pruner = pomona.Pruner(model, {"fc*": 0.5})
    with pytest.raises(pomona.InvalidArgument) as error:
        pruner.load_state_dict(state)
    for part in (
        "fc1.weight is Byte [25, 12] where the model needs Byte [24, 12]",
        "fc2.weight is missing",
        "fc3.weight has no rule here",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "state", [None, {}, {"masks": {}}, {"masks": {}, "history": "{"}, {"masks": [], "history": ""}]
)
def test_what_is_no_state_is_refused(model, state):
    with pytest.raises(pomona.InvalidArgument, match=r"expected a dict as Pruner\.state_dict"):
        pomona.Pruner(model, {"*": 0.5}).load_state_dict(state)


def test_a_mask_that_is_no_tensor_is_refused(model):
    pruner = pomona.Pruner(model, {"fc1": 0.5})
    state = pruner.state_dict()
    state["masks"]["fc1.weight"] = [1, 2]
    with pytest.raises(pomona.InvalidArgument, match=r"expected a dict as Pruner\.state_dict"):
        pruner.load_state_dict(state)


def test_a_state_of_dsd_is_refused(model):
    state = pomona.DSD(model, {"*": 0.5}, epochs=(1, 1, 1)).state_dict()
    with pytest.raises(pomona.InvalidArgument, match="state of a Pruner, got that of a DSD"):
        pomona.Pruner(model, {"*": 0.5}).load_state_dict(state)


def test_apply_to_another_model_names_what_does_not_fit(model):
    pruner = pomona.Pruner(model, {"fc*": 0.5})
    pruner.step()
    other = nn.ModuleDict({"fc1": nn.Linear(96, 24), "fc2": nn.Linear(3, 3)})
    with pytest.raises(pomona.InvalidArgument, match=r"another shape: fc2\.weight"):
        pruner.apply_(other)
    assert other["fc1"].weight.count_nonzero() == 24 * 96
