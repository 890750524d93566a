"""Finding parameters and optimizers, whatever has been wrapped around them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from training import SmallNet

import pomona
from pomona._shell import GradientHooks, clean_name, named_owners, resolve, unwrap_optimizers
from pomona.rules import Prune


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("fc.weight", "fc.weight"),
        ("module.fc.weight", "fc.weight"),
        ("_orig_mod.fc.weight", "fc.weight"),
        ("module._orig_mod.fc.weight", "fc.weight"),
        ("_orig_mod.module.block._checkpoint_wrapped_module.fc.weight", "block.fc.weight"),
        ("submodule.fc.weight", "submodule.fc.weight"),
        ("block.module_list.0.weight", "block.module_list.0.weight"),
        ("weight", "weight"),
    ],
)
def test_clean_name_drops_the_prefixes_of_wrappers_and_nothing_else(name, clean):
    assert clean_name(name) == clean


class Wrapper(nn.Module):
    """As DistributedDataParallel names its inside."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def test_resolve_gives_a_wrapped_model_the_names_of_the_plain_one():
    model = SmallNet()
    plain = resolve(model, {"fc*": 0.5}, Prune)
    assert [row[:2] for row in plain] == [("fc1.weight", [24, 96]), ("fc2.weight", [10, 24])]
    assert resolve(Wrapper(model), {"fc*": 0.5}, Prune) == plain
    assert resolve(torch.compile(model), {"fc*": 0.5}, Prune) == plain
    assert resolve(Wrapper(torch.compile(model)), {"fc*": 0.5}, Prune) == plain


def test_resolve_counts_tied_parameters_once_under_the_first_name():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert [name for name, _, _ in resolve(model, {"*": 0.5}, Prune)] == ["0.weight"]


def test_names_stay_whole_where_two_clean_names_would_be_one():
    model = Wrapper(nn.Linear(2, 2))
    model.weight = nn.Parameter(torch.ones(3, 3))
    assert list(named_owners(model)) == ["weight", "module.weight", "module.bias"]


def test_pruner_finds_the_parameters_of_wrapped_models():
    for wrap in (lambda m: m, Wrapper, torch.compile):
        inner = SmallNet()
        pruner = pomona.Pruner(wrap(inner), {"*": 0.5})
        pruner.step()
        assert inner.fc1.weight.count_nonzero() == inner.fc1.weight.numel() // 2


def test_pruner_finds_a_parameter_at_the_root():
    model = nn.Linear(4, 4)
    pomona.Pruner(model, {"weight": 0.5}).step()
    assert model.weight.count_nonzero() == 8


class AcceleratedLike(torch.optim.Optimizer):
    """An Optimizer by type whose hooks cannot be registered, as Accelerate's."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    def step(self, closure=None):
        return self.optimizer.step(closure)


class OptimLike:
    def __init__(self, optim):
        self.optim = optim


def test_unwrap_optimizers_opens_wrappers_to_the_object_that_owns_the_hooks():
    sgd = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1)
    assert unwrap_optimizers(None) == []
    for wrapped in (sgd, AcceleratedLike(sgd), OptimLike(sgd), OptimLike(AcceleratedLike(sgd))):
        assert unwrap_optimizers(wrapped) == [sgd]


def test_unwrap_optimizers_flattens_lists():
    one, two = (torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1) for _ in range(2))
    assert unwrap_optimizers([one, (OptimLike(two),)]) == [one, two]


def test_a_wrapped_optimizer_keeps_the_masks():
    model = SmallNet()
    optimizer = AcceleratedLike(torch.optim.SGD(model.parameters(), lr=0.1))
    pruner = pomona.Pruner(model, {"*": 0.5}, optimizer=optimizer)
    pruner.step()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    pruner.report()


def test_a_list_of_optimizers_may_hold_the_parameters_between_them():
    model = SmallNet()
    optimizers = [
        torch.optim.SGD([model.fc1.weight], lr=0.1),
        torch.optim.SGD([model.fc2.weight], lr=0.1),
    ]
    pomona.Pruner(model, {"fc*": 0.5}, optimizer=optimizers)
    with pytest.raises(pomona.InvalidArgument, match=r"got one without: fc2\.weight\.$"):
        pomona.Pruner(model, {"fc*": 0.5}, optimizer=optimizers[:1])


def test_an_optimizer_need_not_hold_a_frozen_parameter():
    model = SmallNet()
    model.fc1.weight.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    pruner = pomona.Pruner(model, {"fc*": 0.5}, optimizer=optimizer)
    pruner.step()
    assert pruner.report()[0].kept == 24 * 96 // 2


def test_attach_refuses_what_is_no_optimizer():
    with pytest.raises(pomona.InvalidArgument, match=r"torch.optim.Optimizer.*got str"):
        pomona.Pruner(SmallNet(), {"*": 0.5}, optimizer="adam")


def test_attach_that_is_refused_changes_nothing():
    model = SmallNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = pomona.Pruner(model, {"*": 0.5}, optimizer=optimizer)
    other = torch.optim.SGD(SmallNet().parameters(), lr=0.1)
    with pytest.raises(pomona.InvalidArgument, match=r"got one without: conv1\.weight"):
        pruner.attach(other)
    assert len(optimizer._optimizer_step_post_hooks) == 1
    assert len(other._optimizer_step_post_hooks) == 0


def test_a_model_that_is_no_module_is_refused():
    with pytest.raises(pomona.InvalidArgument, match=r"expected `model` .* got dict"):
        pomona.Pruner({}, {"*": 0.5})


def test_a_model_that_has_lost_a_parameter_is_an_error_that_names_it():
    model = SmallNet()
    pruner = pomona.Pruner(model, {"fc*": 0.5})
    model.fc2 = nn.Identity()
    with pytest.raises(pomona.InvalidArgument, match=r"got one without: fc2\.weight"):
        pruner.step()


def test_gradient_hooks_follow_a_replaced_parameter_and_let_go_of_the_old_one():
    seen = []
    hooks = GradientHooks(lambda index, gradient: seen.append(index))
    old, new = (nn.Parameter(torch.ones(2)) for _ in range(2))
    hooks.follow([old])
    hooks.follow([new])
    old.sum().backward()
    assert seen == []
    new.sum().backward()
    assert seen == [0]
    hooks.remove()
    new.sum().backward()
    assert seen == [0]


def test_gradient_hooks_follow_a_parameter_that_is_unfrozen():
    seen = []
    hooks = GradientHooks(lambda index, gradient: seen.append(index))
    weight = nn.Parameter(torch.ones(2), requires_grad=False)
    hooks.follow([weight])
    weight.requires_grad_()
    hooks.follow([weight])
    weight.sum().backward()
    assert seen == [0]


def test_attach_of_none_lets_go_of_the_optimizer():
    model = SmallNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = pomona.Pruner(model, {"*": 0.5}, optimizer=optimizer)
    pruner.attach(None)
    assert len(optimizer._optimizer_step_post_hooks) == 0
