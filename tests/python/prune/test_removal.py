"""What has left comes back as zeros: the original network, in memory and in a file."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from dead_networks import kill, network
from torch import nn

import pomona
from pomona.dead import Removal, remove_dead_


@pytest.fixture
def cut():
    """(original network, small network, its inputs, what was removed)."""
    model, inputs = network("conv2d")
    kill(model)
    original = copy.deepcopy(model)
    return original, model, inputs, remove_dead_(model, inputs)


def test_what_left_comes_back_as_zeros_and_a_neutral_batch_norm(cut):
    original, model, _, removal = cut
    state = removal.expand(model.state_dict())
    kept = set(removal.tensors["1.weight"].indices[0])
    gone = [index for index in range(6) if index not in kept]
    assert gone
    assert not state["0.weight"][gone].any()
    assert not state["0.bias"][gone].any()
    assert not state["4.weight"][:, gone].any()
    assert (state["1.weight"][gone] == 1).all()
    assert (state["1.running_var"][gone] == 1).all()
    assert not state["1.bias"][gone].any()
    assert not state["1.running_mean"][gone].any()
    assert list(state) == list(original.state_dict())


def test_what_stayed_comes_back_bit_for_bit(cut):
    original, model, _, removal = cut
    state = removal.expand(model.state_dict())
    weight, before = state["0.weight"], original.state_dict()["0.weight"]
    kept = list(removal.tensors["0.weight"].indices[0])
    assert torch.equal(weight[kept], before[kept])


def test_a_removal_survives_json(cut):
    removal = cut[3]
    assert Removal.from_dict(json.loads(json.dumps(removal.to_dict()))) == removal


def test_two_removals_are_one(cut):
    original, model, inputs, first = cut
    kill(model)
    second = remove_dead_(model, inputs)
    assert second.removed > 0
    both = first.then(second)
    assert both.removed == first.removed + second.removed
    original.load_state_dict(both.expand(model.state_dict()))
    assert (original(inputs) - model(inputs)).abs().max() <= 1e-10


def test_the_original_network_shrinks_to_the_same_again(cut):
    original, model, inputs, removal = cut
    original.load_state_dict(removal.expand(model.state_dict()))
    assert remove_dead_(original, inputs).tensors == removal.tensors
    state = original.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_file_holds_the_original_network(cut, tmp_path):
    original, model, inputs, removal = cut
    pomona.save(model, tmp_path / "net.pomona", original=removal)
    pomona.load_(original, tmp_path / "net.pomona")
    assert (original(inputs) - model(inputs)).abs().max() <= 1e-10


def test_state_of_a_wrapped_model_is_expanded_under_its_names(cut):
    original, model, _, removal = cut
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    expanded = removal.expand(state)
    assert list(expanded) == [f"module.{name}" for name in original.state_dict()]
    assert expanded["module.0.weight"].shape == original[0].weight.shape


def test_state_of_another_shape_is_refused(cut):
    original, _, _, removal = cut
    message = r"Removal\.expand: expected `state` to hold `0\.weight` of shape .*, got shape \[6, 2"
    with pytest.raises(pomona.InvalidArgument, match=message):
        removal.expand(original.state_dict())


def test_state_without_a_tensor_is_refused(cut):
    with pytest.raises(pomona.InvalidArgument, match=r"`0\.weight` .*, got no such tensor\."):
        cut[3].expand({})


def test_state_that_is_no_dict_is_refused(cut):
    message = r"expected `state` to be a dict of tensors, got Sequential\."
    with pytest.raises(pomona.InvalidArgument, match=message):
        cut[3].expand(cut[1])


def test_removals_in_the_wrong_order_are_refused(cut):
    _, model, inputs, first = cut
    kill(model)
    second = remove_dead_(model, inputs)
    message = r"Removal\.then: expected `later` to begin where this removal ended, got `0\.weight`"
    with pytest.raises(pomona.InvalidArgument, match=message):
        second.then(first)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("format"),
        lambda d: d.update(format="pomona removal 9"),
        lambda d: d["tensors"]["0.weight"]["indices"].update({"0": [3, 1]}),
        lambda d: d["tensors"]["0.weight"]["indices"].update({"0": [99]}),
        lambda d: d["tensors"]["0.weight"]["indices"].update({"7": [0]}),
        lambda d: d["report"][0].pop("why"),
    ],
)
def test_a_damaged_dict_is_refused(cut, change):
    values = json.loads(json.dumps(cut[3].to_dict()))
    change(values)
    message = r"Removal\.from_dict: expected a dict as Removal\.to_dict\(\) returns it, got dict"
    with pytest.raises(pomona.InvalidArgument, match=message):
        Removal.from_dict(values)


def test_save_refuses_an_original_that_is_no_removal(cut, tmp_path):
    message = r"save: expected `original` to be what remove_dead_ has returned, got dict\."
    with pytest.raises(pomona.InvalidArgument, match=message):
        pomona.save(cut[1], tmp_path / "net.pomona", original={})
    assert not (tmp_path / "net.pomona").exists()


def test_save_refuses_the_removal_of_another_network(cut, tmp_path):
    with pytest.raises(pomona.InvalidArgument, match=r"expected `state` to hold `0\.weight`"):
        pomona.save(nn.Linear(2, 2), tmp_path / "net.pomona", original=cut[3])
