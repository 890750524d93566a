"""The three phases: what is masked when, at which learning rate."""

from __future__ import annotations

import logging

import pytest
import torch
from reference.prune import select_smallest
from torch import nn
from torch.optim import lr_scheduler
from training import SmallNet, batch, train

import pomona


@pytest.fixture
def model():
    return SmallNet()


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.05, "momentum": 0.9, **options})


def test_sparsity_is_zero_then_the_rules_then_zero(model):
    optimizer = sgd(model)
    dsd = pomona.DSD(model, {"*": 0.3}, epochs=(2, 3, 2), optimizer=optimizer)
    seen = []
    for epoch in dsd:
        train(model, optimizer, 4 * epoch, 4 * epoch + 4)
        zeros = int((model.fc1.weight == 0).sum()) / model.fc1.weight.numel()
        seen.append((epoch, dsd.phase, round(dsd.sparsity, 3), round(zeros, 3), dsd.lr_factor))
        dsd.step()
    dense, sparse, redense = ("dense", 0.0, 0.0, 1), ("sparse", 0.3, 0.3, 0.1), "redense"
    assert seen[:5] == [(0, *dense), (1, *dense), (2, *sparse), (3, *sparse), (4, *sparse)]
    assert [(row[0], row[1], row[2], row[4]) for row in seen[5:]] == [
        (5, redense, 0.0, 0.01),
        (6, redense, 0.0, 0.01),
    ]
    assert seen[5][3] < 0.1  # the pruned weights have come alive again (but for dead units)
    assert (dsd.phase, dsd.epoch, dsd.lr_factor) == ("done", 7, 0.01)


def test_the_mask_is_that_of_the_smallest_magnitudes_at_the_switch(model):
    optimizer = sgd(model)
    dsd = pomona.DSD(model, {"*": 0.3}, epochs=(1, 1, 1), optimizer=optimizer)
    dsd.start()
    train(model, optimizer, 0, 4)
    weight = model.fc1.weight.detach().clone()
    dsd.step()
    keep = select_smallest(weight, 0.3)
    assert torch.equal(dsd.masks()["fc1.weight"], keep)
    assert torch.equal(model.fc1.weight, torch.where(keep, weight, 0))
    assert optimizer.state[model.fc1.weight]["momentum_buffer"][~keep].count_nonzero() == 0
    train(model, optimizer, 4, 8)
    assert model.fc1.weight[~keep].count_nonzero() == 0
    dsd.report()


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda p: torch.optim.Adam(p, amsgrad=True), ["exp_avg_sq", "max_exp_avg_sq"]),
        (lambda p: torch.optim.RMSprop(p, centered=True, momentum=0.9), ["square_avg"]),
        (lambda p: torch.optim.Adagrad(p), ["sum"]),
        (lambda p: torch.optim.Adamax(p), ["exp_inf"]),
    ],
)
def test_reborn_weights_take_the_second_moment_of_the_survivors(model, make, names):
    optimizer = make(model.parameters())
    dsd = pomona.DSD(model, {"*": 0.3}, steps=(2, 2, 2), optimizer=optimizer)
    dsd.start()
    for step in range(4):
        train(model, optimizer, step, step + 1)
        if step == 3:
            keep = dsd.masks()["fc1.weight"]
            before = {n: optimizer.state[model.fc1.weight][n].clone() for n in names}
        dsd.step()
    assert dsd.phase == "redense"
    assert model.fc1.weight[~keep].count_nonzero() == 0
    for name in names:
        after = optimizer.state[model.fc1.weight][name]
        assert torch.equal(after[keep], before[name][keep])
        expected = before[name][keep].double().mean().float()
        torch.testing.assert_close(after[~keep], expected.expand(int((~keep).sum())))
    train(model, optimizer, 4, 6)
    assert all(p.isfinite().all() for p in model.parameters())


def test_reborn_weights_train_again_after_centered_rmsprop(model):
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, centered=True)
    dsd = pomona.DSD(model, {"*": 0.5}, steps=(3, 3, 3), optimizer=optimizer)
    for step in dsd:
        train(model, optimizer, step, step + 1)
        dsd.step()
    assert all(p.isfinite().all() for p in model.parameters())
    assert (model.fc1.weight == 0).float().mean() < 0.2


# The first convolution


def test_the_first_convolution_is_left_dense_by_a_visible_rule(model):
    dsd = pomona.DSD(model, {"*": 0.3}, epochs=(0, 1, 0))
    assert list(dsd.rules.items()) == [("conv1.weight", None), ("*", 0.3)]
    assert dsd.names == ["conv2.weight", "fc1.weight", "fc2.weight"]
    dsd.start()
    assert model.conv1.weight.count_nonzero() == model.conv1.weight.numel()


def test_the_default_rule_leaves_other_layers_of_that_name_alone():
    block = nn.ModuleDict({"conv1": nn.Conv2d(4, 4, 3)})
    model = nn.ModuleDict({"conv1": nn.Conv2d(1, 4, 3), "layer1": block})
    assert pomona.DSD(model, {"*": 0.3}, epochs=(1, 1, 1)).names == ["layer1.conv1.weight"]


def test_a_rule_that_spells_the_first_convolution_out_wins(model):
    dsd = pomona.DSD(model, {"conv1.weight": 0.25, "*": 0.3}, epochs=(0, 1, 0))
    assert dsd.rules == {"conv1.weight": 0.25, "*": 0.3}
    dsd.start()
    assert model.conv1.weight.count_nonzero() == 27


def test_the_first_convolution_is_pruned_when_asked(model):
    dsd = pomona.DSD(model, {"*": 0.3}, epochs=(1, 1, 1), skip_first_convolution=False)
    assert dsd.rules == {"*": 0.3}
    assert dsd.names[0] == "conv1.weight"


def test_a_model_without_convolutions_has_no_default_rule():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    assert pomona.DSD(model, {"*": 0.3}, epochs=(1, 1, 1)).rules == {"*": 0.3}


def test_the_first_convolution_is_found_under_a_wrapper_and_a_parametrization(model):
    nn.utils.parametrizations.weight_norm(model.conv1)
    dsd = pomona.DSD(torch.compile(model), {"*": 0.3}, epochs=(1, 1, 1))
    assert dsd.names == ["conv2.weight", "fc1.weight", "fc2.weight"]


# Lengths


@pytest.mark.parametrize(
    ("lengths", "phases"),
    [
        ((1, 1, 1), ["dense", "sparse", "redense"]),
        ((0, 2, 1), ["sparse", "sparse", "redense"]),
        ((1, 0, 1), ["dense", "redense"]),
        ((0, 0, 2), ["redense", "redense"]),
        ((2, 1, 0), ["dense", "dense", "sparse"]),
        ((3, 0, 0), ["dense"] * 3),
    ],
)
def test_phases_of_length_zero_are_skipped(model, lengths, phases):
    optimizer = sgd(model)
    dsd = pomona.DSD(model, {"*": 0.3}, epochs=lengths, optimizer=optimizer)
    seen = []
    for epoch in dsd:
        seen.append(dsd.phase)
        train(model, optimizer, epoch, epoch + 1)
        assert dsd.sparsity == pytest.approx(0.3 if dsd.phase == "sparse" else 0, abs=1e-3)
        dsd.step()
    assert seen == phases
    factors = {"dense": 1, "sparse": 0.1, "redense": 0.01}
    assert dsd.lr_factor == factors[phases[-1]]


def test_without_a_redense_phase_the_network_stays_sparse(model):
    optimizer = sgd(model)
    dsd = pomona.DSD(model, {"*": 0.3}, epochs=(1, 1, 0), optimizer=optimizer)
    for epoch in dsd:
        train(model, optimizer, epoch, epoch + 1)
        dsd.step()
    train(model, optimizer, 2, 4)
    assert model.fc1.weight[~dsd.masks()["fc1.weight"]].count_nonzero() == 0
    assert dsd.sparsity == pytest.approx(0.3, abs=1e-3)


def test_lengths_may_be_in_steps(model):
    optimizer = sgd(model)
    dsd = pomona.DSD(model, {"*": 0.3}, steps=(3, 2, 1), optimizer=optimizer)
    phases = []
    while dsd.phase != "done":
        train(model, optimizer, dsd.epoch, dsd.epoch + 1)
        phases.append(dsd.phase)
        dsd.step()
    assert phases == ["dense"] * 3 + ["sparse"] * 2 + ["redense"]


def test_advance_ends_a_phase_early(model):
    dsd = pomona.DSD(model, {"*": 0.3}, epochs=(5, 5, 1), optimizer=sgd(model))
    phases = []
    for epoch in dsd:
        phases.append((epoch, dsd.phase))
        dsd.step()
        if epoch in (1, 3):
            dsd.advance()
    assert phases == [(0, "dense"), (1, "dense"), (2, "sparse"), (3, "sparse"), (4, "redense")]


def test_llr_has_the_same_phases_and_factors_and_no_mask(model):
    optimizer = sgd(model)
    dsd = pomona.DSD(model, {"*": 0.3}, epochs=(1, 1, 1), optimizer=optimizer, masks=False)
    seen = []
    for epoch in dsd:
        train(model, optimizer, epoch, epoch + 1)
        seen.append((dsd.phase, dsd.lr_factor, dsd.sparsity))
        assert model.fc1.weight.count_nonzero() == model.fc1.weight.numel()
        dsd.step()
    assert seen == [("dense", 1, 0), ("sparse", 0.1, 0), ("redense", 0.01, 0)]


# Learning rates


class Probe(torch.optim.SGD):
    """Writes down the learning rates that its step sees."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.seen = []

    @torch.no_grad()
    def step(self, closure=None):
        self.seen.append([float(group["lr"]) for group in self.param_groups])
        return super().step(closure)


SCHEDULERS = {
    "none": lambda o: None,
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda i: 0.9**i),
    "one_cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=6),
    "warm_restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=2),
    "multi_step": lambda o: lr_scheduler.MultiStepLR(o, [1, 3]),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
}


def learning_rates(name, dsd_options):
    """The rates that six steps see, and the group's rate after each."""
    model = SmallNet()
    groups = [{"params": model.fc1.parameters()}, {"params": model.fc2.parameters(), "lr": 0.2}]
    optimizer = Probe(groups, lr=0.1, momentum=0.9)
    scheduler = SCHEDULERS[name](optimizer)
    dsd = pomona.DSD(model, {"fc*": 0.3}, epochs=(2, 2, 2), optimizer=optimizer, **dsd_options)
    between = []
    for epoch in dsd:
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        if name == "plateau":
            scheduler.step(1.0)
        elif scheduler is not None:
            scheduler.step()
        between.append([group["lr"] for group in optimizer.param_groups])
        assert epoch == dsd.epoch
        dsd.step()
    return torch.tensor(optimizer.seen), between


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_factor_multiplies_whatever_a_scheduler_makes_of_the_rate(name):
    plain, between = learning_rates(name, {"lr_factors": (1, 1, 1)})
    scaled, between_scaled = learning_rates(name, {"lr_factors": (1, 0.5, 0.25)})
    factors = torch.tensor([1, 1, 0.5, 0.5, 0.25, 0.25]).unsqueeze(1)
    assert torch.equal(scaled, plain * factors)
    assert between_scaled == between


def test_the_very_same_object_comes_back_after_a_step(model):
    lr = torch.tensor(0.25)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    dsd = pomona.DSD(model, {"*": 0.3}, epochs=(0, 1, 1), optimizer=optimizer)
    dsd.start()
    before = model.fc1.bias.detach().clone()
    model.fc1.bias.grad = torch.ones_like(model.fc1.bias)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] is lr
    assert lr.item() == 0.25
    torch.testing.assert_close(model.fc1.bias, before - 0.025)


def test_a_step_that_raises_does_not_compound_the_factor(model):
    optimizer = Probe(model.parameters(), lr=0.1)
    dsd = pomona.DSD(model, {"*": 0.3}, epochs=(0, 1, 1), optimizer=optimizer)
    dsd.start()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no batch"):
            optimizer.step(lambda: (_ for _ in ()).throw(RuntimeError("no batch")))
    optimizer.step()
    assert optimizer.seen == [[pytest.approx(0.01)]] * 3
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_rate_set_after_a_step_that_raised_is_not_overwritten(model):
    optimizer = Probe(model.parameters(), lr=0.1)
    dsd = pomona.DSD(model, {"*": 0.3}, epochs=(0, 1, 1), optimizer=optimizer)
    dsd.start()
    with pytest.raises(RuntimeError, match="no batch"):
        optimizer.step(lambda: (_ for _ in ()).throw(RuntimeError("no batch")))
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step()
    assert optimizer.seen[-1] == [pytest.approx(0.05)]


def test_the_factor_stays_after_the_end_until_finalize(model):
    optimizer = Probe(model.parameters(), lr=1.0)
    dsd = pomona.DSD(model, {"*": 0.3}, epochs=(1, 1, 1), optimizer=optimizer)
    for _ in dsd:
        dsd.step()
    optimizer.step()
    dsd.finalize()
    optimizer.step()
    assert optimizer.seen == [[0.01], [1.0]]


def test_every_optimizer_of_a_list_is_scaled(model):
    optimizers = [
        Probe(model.fc1.parameters(), lr=1.0),
        Probe(model.fc2.parameters(), lr=2.0),
    ]
    dsd = pomona.DSD(model, {"fc*": 0.3}, epochs=(0, 1, 1), optimizer=optimizers)
    dsd.start()
    for optimizer in optimizers:
        optimizer.step()
    assert [o.seen for o in optimizers] == [[[0.1]], [[0.2]]]


def test_a_switch_is_logged(model, caplog):
    dsd = pomona.DSD(model, {"*": 0.3}, epochs=(1, 2, 1), optimizer=sgd(model))
    with caplog.at_level(logging.INFO, logger="pomona"):
        for _ in dsd:
            dsd.step()
    messages = [record.message for record in caplog.records]
    assert messages[0] == (
        "DSD: sparse after 1 epochs, for 2: sparsity 0.3000, lr x 0.1; left dense: conv1.weight"
    )
    assert [m.split()[1] for m in messages] == ["sparse", "redense", "done"]


def test_switching_without_an_optimizer_is_logged_as_a_warning(model, caplog):
    pomona.DSD(model, {"*": 0.3}, epochs=(0, 1, 0)).start()
    assert "no optimizer is attached" in caplog.text


def test_constructor_leaves_the_model_alone(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pomona.DSD(model, {"*": 0.3}, epochs=(0, 1, 0), optimizer=sgd(model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_compiled_full_graph_trains_through_all_phases(model):
    optimizer = sgd(model)
    dsd = pomona.DSD(model, {"*": 0.3}, epochs=(1, 1, 1), optimizer=optimizer)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def loss_of(images, labels):
        return nn.functional.cross_entropy(model(images), labels)

    for epoch in dsd:
        optimizer.zero_grad()
        loss_of(*batch(epoch)).backward()
        optimizer.step()
        dsd.report()
        dsd.step()
    assert (model.fc1.weight == 0).float().mean() < 0.2
