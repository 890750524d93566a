"""Bad input: clear words, and everything as it was."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from training import SmallNet

import pomona


@pytest.fixture
def model():
    return SmallNet()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": (0, 0, 0)}, "phases of at least 1 in total"),
        ({"epochs": (1, -1, 1)}, "length of the sparse phase to be at least 0, got -1"),
        ({"epochs": (1, 1.5, 1)}, r"`epochs` to be three integers .* got \(1, 1\.5, 1\)"),
        ({"epochs": (1, True, 1)}, r"`epochs` to be three integers"),
        ({"steps": (1, 1)}, r"`steps` to be three integers .* got \(1, 1\)"),
        ({"epochs": 3}, r"`epochs` to be three integers .* got 3"),
        ({"epochs": "123"}, r"`epochs` to be three integers .* got '123'"),
        ({"epochs": (1, 1, 1), "steps": (1, 1, 1)}, "either `epochs` or `steps` .* got both"),
        ({}, "either `epochs` or `steps` .* got neither"),
        ({"epochs": (1, 1, 1), "lr_factors": (1, 0, 1)}, "sparse phase to be finite and above 0"),
        ({"epochs": (1, 1, 1), "lr_factors": (-1, 1, 1)}, "lr factor of the dense .* got -1"),
        ({"epochs": (1, 1, 1), "lr_factors": (1, 1, float("nan"))}, "redense .* got nan"),
        ({"epochs": (1, 1, 1), "lr_factors": (1, 1)}, "`lr_factors` to be three numbers"),
        ({"epochs": (1, 1, 1), "lr_factors": 0.1}, "`lr_factors` to be three numbers"),
    ],
)
def test_wrong_phases_are_refused(model, options, message):
    with pytest.raises(pomona.InvalidArgument, match=message):
        pomona.DSD(model, {"*": 0.3}, **options)


def test_numpy_integers_are_lengths(model):
    numpy = pytest.importorskip("numpy")
    pomona.DSD(model, {"*": 0.3}, epochs=numpy.array([1, 2, 3]))


@pytest.mark.parametrize("sparsity", [1.0, -0.5, float("nan")])
def test_a_sparsity_outside_zero_to_one_is_refused(model, sparsity):
    with pytest.raises(pomona.InvalidArgument, match=r"`sparsity` in \[0, 1\)"):
        pomona.DSD(model, {"*": sparsity}, epochs=(1, 1, 1))


def test_a_rule_that_matches_nothing_lists_the_names(model):
    with pytest.raises(pomona.InvalidArgument, match=r"`encoder`.*fc1\.weight, fc2\.weight"):
        pomona.DSD(model, {"encoder": 0.3}, epochs=(1, 1, 1))


def test_nothing_left_to_prune_is_an_error_that_says_why():
    with pytest.raises(pomona.InvalidArgument, match="unless skip_first_convolution=False"):
        pomona.DSD(nn.Sequential(nn.Conv2d(1, 2, 3)), {"*": 0.3}, epochs=(1, 1, 1))


def test_an_integer_parameter_by_name_is_refused(model):
    model.codes = nn.Parameter(torch.ones(3, 3, dtype=torch.int64), requires_grad=False)
    with pytest.raises(pomona.InvalidArgument, match=r"`codes` to name a floating-point"):
        pomona.DSD(model, {"codes": 0.5}, epochs=(1, 1, 1))


def test_an_optimizer_of_another_model_is_refused(model):
    other = torch.optim.SGD(SmallNet().parameters(), lr=0.1)
    with pytest.raises(pomona.InvalidArgument, match=r"got one without: conv2\.weight"):
        pomona.DSD(model, {"*": 0.5}, epochs=(1, 1, 1), optimizer=other)


def test_a_body_that_forgets_step_is_an_error(model):
    dsd = pomona.DSD(model, {"*": 0.3}, epochs=(1, 1, 1))
    with pytest.raises(pomona.InvalidArgument, match=r"to call dsd\.step\(\) once"):
        for _ in dsd:
            pass


def test_step_after_the_end_is_an_error(model):
    dsd = pomona.DSD(model, {"*": 0.3}, epochs=(1, 0, 0))
    dsd.step()
    for verb in (dsd.step, dsd.advance):
        with pytest.raises(pomona.InvalidArgument, match="before the end, got it after all 1"):
            verb()
    assert list(dsd) == []


def test_step_before_start_is_an_error_when_the_first_phase_is_sparse(model):
    dsd = pomona.DSD(model, {"*": 0.3}, epochs=(0, 1, 1))
    with pytest.raises(pomona.InvalidArgument, match=r"expected start\(\) before step\(\)"):
        dsd.step()


def test_verbs_after_finalize_are_errors(model):
    dsd = pomona.DSD(model, {"*": 0.3}, epochs=(1, 1, 1))
    state = dsd.state_dict()
    dsd.finalize()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    calls = {
        "step": dsd.step,
        "start": dsd.start,
        "advance": dsd.advance,
        "attach": lambda: dsd.attach(optimizer),
        "load_state_dict": lambda: dsd.load_state_dict(state),
    }
    for verb, call in calls.items():
        message = rf"expected {verb}\(\) before finalize\(\)"
        with pytest.raises(pomona.InvalidArgument, match=message):
            call()


def test_a_weight_that_is_not_finite_stops_the_switch_and_changes_nothing(model):
    dsd = pomona.DSD(model, {"*": 0.3}, epochs=(1, 1, 1))
    before = model.conv2.weight.detach().clone()
    with torch.no_grad():
        model.fc2.weight[0, 0] = float("nan")
    with pytest.raises(pomona.InvalidArgument, match=r"`fc2\.weight` to be finite, got nan"):
        dsd.step()
    assert (dsd.phase, dsd.epoch, dsd.sparsity) == ("dense", 0, 0)
    assert torch.equal(model.conv2.weight, before)
    with torch.no_grad():
        model.fc2.weight[0, 0] = 1
    dsd.step()
    assert dsd.phase == "sparse"


def test_a_pruned_weight_that_has_come_back_is_named(model):
    dsd = pomona.DSD(model, {"*": 0.3}, epochs=(0, 2, 1))
    dsd.start()
    with torch.no_grad():
        model.fc2.weight.fill_(1)
    with pytest.raises(pomona.InvalidArgument, match=r"got 72 nonzero in fc2\.weight"):
        dsd.step()
    assert dsd.epoch == 0


def test_a_state_from_another_model_lists_every_difference(model):
    other = nn.ModuleDict({"fc1": nn.Linear(96, 25), "fc3": nn.Linear(3, 3)})
    state = pomona.DSD(other, {"*": 0.5}, epochs=(1, 1, 1)).state_dict()
    dsd = pomona.DSD(model, {"fc*": 0.5}, epochs=(1, 1, 1))
    with pytest.raises(pomona.InvalidArgument) as error:
        dsd.load_state_dict(state)
    for part in ("fc1.weight is", "fc2.weight is missing", "fc3.weight has no rule here"):
        assert part in str(error.value)


def altered(dsd, **changes):
    state = dsd.state_dict()
    return {**state, "history": json.dumps({**json.loads(state["history"]), **changes})}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unit": "steps"}, "expected phases in epochs, got a state in steps"),
        ({"kind": "Pruner"}, "state of a DSD, got that of a Pruner"),
        ({"position": 7}, "got 0 trained in phase unknown"),
        ({"trained": 7, "trained_in_phase": 7}, r"lengths \(1, 1, 1\), got 7 trained in phase de"),
        ({"trained_in_phase": -1}, "got -1 trained in phase dense"),
        ({"trained": "many"}, "expected a complete history"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_nothing_changes(model, changes, message):
    dsd = pomona.DSD(model, {"*": 0.3}, epochs=(1, 1, 1))
    dsd.start()
    before = dsd.state_dict()
    with pytest.raises(pomona.InvalidArgument, match=message):
        dsd.load_state_dict(altered(dsd, **changes))
    assert dsd.state_dict()["history"] == before["history"]
