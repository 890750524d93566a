"""Removal in the middle of training: same parameters, smaller; optimizers and masks go along."""

from __future__ import annotations

import copy

import pytest
import torch
from dead_networks import kill, mlp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from training import SmallNet, batch, train

import pomona
from pomona.dead import remove_dead_

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam_amsgrad": lambda p: torch.optim.Adam(p, lr=2e-3, amsgrad=True),
    "adamw_foreach": lambda p: torch.optim.AdamW(p, lr=2e-3, foreach=True),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=2e-3, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, centered=True, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "rprop": lambda p: torch.optim.Rprop(p, lr=1e-3),
    "asgd": lambda p: torch.optim.ASGD(p, lr=1e-2),
}


RULES = {"conv2": 0.5, "fc*": 0.5}


@pytest.fixture
def model():
    return SmallNet().double()


@pytest.fixture
def images():
    return batch(0, dtype=torch.float64)[0]


def trained(model, make):
    """An optimizer and a pruner of the model in the middle of training."""
    optimizer = make(model.parameters())
    pruner = pomona.Pruner(model, RULES, optimizer=optimizer)
    with torch.no_grad():  # half of the columns are small, so these go and nobody reads the neuron
        for layer in (model.conv2, model.fc1, model.fc2):
            layer.weight[:, layer.weight.shape[1] // 2 :] *= 1e-9
    pruner.step()
    train(model, optimizer, 0, 3)
    return optimizer, pruner


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_small_network_trains_as_the_large_one_would(model, images, name):
    optimizer, pruner = trained(model, OPTIMIZERS[name])
    twin = copy.deepcopy(model)
    twin_optimizer = OPTIMIZERS[name](twin.parameters())
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    twin_pruner = pomona.Pruner(twin, RULES, optimizer=twin_optimizer)
    twin_pruner.load_state_dict(pruner.state_dict())
    removal = remove_dead_(model, images, pruners=pruner)
    assert [row.removed for row in removal.report] == [2, 3, 12, 0]
    train(model, optimizer, 3, 8, clip=1e9)
    train(twin, twin_optimizer, 3, 8, clip=1e9)
    assert (model(images) - twin(images)).abs().max() <= 1e-9


def test_parameters_and_optimizers_stay_the_same_objects(model, images):
    optimizer, pruner = trained(model, OPTIMIZERS["sgd"])
    before = [id(parameter) for parameter in model.parameters()]
    remove_dead_(model, images, optimizer=optimizer, pruners=[pruner])
    assert [id(parameter) for parameter in model.parameters()] == before
    assert [id(p) for group in optimizer.param_groups for p in group["params"]] == before


def test_state_and_gradients_are_cut_as_the_weights_are(model, images):
    optimizer, pruner = trained(model, OPTIMIZERS["adam_amsgrad"])
    before = {n: optimizer.state[p]["exp_avg"].clone() for n, p in model.named_parameters()}
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    removal = remove_dead_(model, images, pruners=pruner)
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        kept = removal.tensors.get(name)
        expected, gradient = before[name], gradients[name]
        for dim, indices in kept.indices.items() if kept is not None else ():
            expected = expected.index_select(dim, torch.tensor(indices))
            gradient = gradient.index_select(dim, torch.tensor(indices))
        assert torch.equal(state["exp_avg"], expected)
        assert torch.equal(parameter.grad, gradient)
        assert state["exp_avg_sq"].shape == state["max_exp_avg_sq"].shape == parameter.shape
        assert state["step"] == 3


def test_factored_state_is_cut_too(model, images):
    optimizer = torch.optim.Adafactor(model.parameters())
    _, pruner = trained(model, lambda _: optimizer)
    remove_dead_(model, images, pruners=pruner)
    train(model, optimizer, 3, 5)
    assert optimizer.state[model.fc1.weight]["row_var"].shape == (12, 1)


def test_masks_follow_and_hold(model, images):
    optimizer, pruner = trained(model, OPTIMIZERS["adam_amsgrad"])
    before = pruner.masks()
    removal = remove_dead_(model, images, pruners=pruner)
    for name, mask in pruner.masks().items():
        expected = before[name]
        for dim, indices in removal.tensors[name].indices.items():
            expected = expected.index_select(dim, torch.tensor(indices))
        assert torch.equal(mask, expected)
    train(model, optimizer, 3, 8)
    assert pruner.step() is False  # no pruned weight has come back
    assert [row.size for row in pruner.report()] == [
        *(model.conv2.weight.numel(), model.fc1.weight.numel(), model.fc2.weight.numel()),
    ]


def test_the_masks_of_dsd_follow(model, images):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    dsd = pomona.DSD(model, {"fc2": 0.5}, epochs=(0, 1, 1), optimizer=optimizer)
    with torch.no_grad():
        model.fc2.weight[:, 12:] *= 1e-9
    dsd.start()
    assert remove_dead_(model, images, pruners=dsd).removed == 12
    assert dsd.masks()["fc2.weight"].shape == (10, 12)
    train(model, optimizer, 0, 2)
    dsd.step()
    train(model, optimizer, 2, 4)
    dsd.step()
    assert dsd.phase == "done"


def test_a_schedule_goes_on_with_what_is_left(model, images):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    rule = pomona.Prune(0.9, schedule=pomona.Iterative((0.5, 0.9)))
    pruner = pomona.Pruner(model, {"fc2": rule}, optimizer=optimizer)
    with torch.no_grad():
        model.fc2.weight[:, 12:] *= 1e-9
    pruner.step()
    assert remove_dead_(model, images, pruners=pruner).removed == 12
    train(model, optimizer, 0, 2)
    pruner.step()
    assert int(model.fc2.weight.count_nonzero()) == 12  # of 120


def test_a_loss_that_is_still_alive_does_not_matter(model, images):
    _, pruner = trained(model, OPTIMIZERS["sgd"])
    loss = model(images).sum()
    loss.backward()  # its graph lives on, and with it what remembers the old shapes
    remove_dead_(model, images, pruners=pruner)
    model.zero_grad()
    model(images).sum().backward()
    assert model.fc1.weight.grad.shape == model.fc1.weight.shape
    assert loss.grad_fn is not None


def test_hooks_of_parameters_stay(model, images):
    shapes = []
    model.fc1.weight.register_post_accumulate_grad_hook(lambda p: shapes.append(p.grad.shape))
    model.fc1.weight.register_hook(lambda grad: shapes.append(grad.shape))
    _, pruner = trained(model, OPTIMIZERS["sgd"])
    remove_dead_(model, images, pruners=pruner)
    shapes.clear()
    model.zero_grad()
    model(images).sum().backward()
    assert shapes == [model.fc1.weight.shape] * 2


def test_a_frozen_parameter_stays_frozen(model, images):
    _, pruner = trained(model, OPTIMIZERS["sgd"])
    model.fc1.weight.requires_grad_(False)
    model.fc1.weight.grad = None
    remove_dead_(model, images, pruners=pruner)
    assert not model.fc1.weight.requires_grad
    assert model.fc1.weight.grad is None


def test_a_bias_that_a_mask_holds_takes_no_constant():
    model, inputs = mlp(nn.Sigmoid()).double().eval(), torch.randn(4, 7).double()
    with torch.no_grad():
        model[0].weight[2] = 0
    pruner = pomona.Pruner(model, {"3.bias": 0.5})
    pruner.step()
    before = model(inputs)
    removal = remove_dead_(model, inputs, pruners=pruner)
    assert removal.report[0].why == "a mask holds the bias of `3` at zero"
    assert torch.equal(model(inputs), before)


def test_a_model_that_was_cut_can_be_copied_and_loaded(model, images):
    _, pruner = trained(model, OPTIMIZERS["sgd"])
    remove_dead_(model, images, pruners=pruner)
    twin = copy.deepcopy(model)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(images), model(images))


def bits_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def refused(model, message, *, example=None, **options):
    """The call raises with these words, and the model is as it was."""
    kill(model)
    before = bits_of(model)
    modes = [module.training for module in model.modules()]
    example = torch.zeros(1, 1, 8, 8, dtype=torch.float64) if example is None else example
    with pytest.raises(pomona.InvalidArgument, match=message):
        remove_dead_(model, example, **options)
    assert [module.training for module in model.modules()] == modes
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_something_that_is_no_model_is_refused():
    message = r"remove_dead_: expected `model` to be a torch\.nn\.Module, got dict\."
    with pytest.raises(pomona.InvalidArgument, match=message):
        remove_dead_({}, torch.zeros(1))


def test_a_model_that_branches_on_data_is_named():
    class Branches(SmallNet):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    message = (
        r"remove_dead_: expected `model` to be traceable by torch\.fx, got Branches, which is not "
        r"\(TraceError: .*\)\. Its forward may not branch on data\."
    )
    refused(Branches().double(), message)


def test_an_example_that_is_no_tensor_is_refused(model):
    message = r"expected `example` to be a tensor or a tuple of tensors, got str\. It is an input"
    refused(model, message, example="images")


def test_an_example_of_another_shape_is_refused(model):
    message = (
        r"expected `example` to be an input of the model \(SmallNet\), got shape \[1, 3, 8, 8\], "
        r"with which its forward fails \(RuntimeError: "
    )
    refused(model, message, example=torch.zeros(1, 3, 8, 8, dtype=torch.float64))


def test_something_that_is_no_optimizer_is_refused(model):
    message = r"remove_dead_: expected `optimizer` to be a torch\.optim\.Optimizer .*, got int\."
    refused(model, message, optimizer=3)


def test_lbfgs_is_refused(model, images):
    optimizer = torch.optim.LBFGS(model.parameters())

    def closure():
        optimizer.zero_grad()
        loss = model(images).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    message = r"got LBFGS, which holds one long vector\. Make a new one after the removal\."
    refused(model, message, optimizer=optimizer)


def test_state_of_another_shape_is_refused(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.state[model.fc1.weight]["basis"] = torch.zeros(3, 3)
    message = (
        r"expected `optimizer` to hold state of the parameters' shapes, got `basis` of shape "
        r"\[3, 3\] for `fc1\.weight`, which has \[24, 96\]\. Make a new optimizer"
    )
    refused(model, message, optimizer=optimizer)


def test_something_that_is_no_pruner_is_refused(model):
    message = r"expected `pruners` to be Pruner or DSD objects, got str\."
    refused(model, message, pruners=["fc*"])


def test_a_pruner_of_another_model_is_refused(model):
    pruner = pomona.Pruner(SmallNet(), {"fc*": 0.5})
    refused(
        model, r"expected `pruners` to be of this model, got a Pruner of another\.", pruners=pruner
    )


def test_a_model_with_copies_is_refused(model):
    message = (
        r"expected `model` without a wrapper that copies or shards it, got DataParallel\. "
        r"Remove on every rank before wrapping it\."
    )
    refused(nn.DataParallel(model), message)


@pytest.fixture
def one_rank():
    """A process group of one, without a network."""
    torch.distributed.init_process_group("fake", rank=0, world_size=1, store=FakeStore())
    yield
    torch.distributed.destroy_process_group()


def test_a_model_under_ddp_is_refused(model, one_rank):
    message = r"expected `model` without a wrapper .*, got DistributedDataParallel\."
    refused(nn.parallel.DistributedDataParallel(model), message)


def test_a_model_of_distributed_tensors_is_refused(model, one_rank):
    mesh = init_device_mesh("cpu", (1,))
    shared = distribute_tensor(model.fc1.weight.data, mesh, [Replicate()])
    model.fc1.weight = nn.Parameter(shared)
    message = r"expected `model` to hold whole tensors, got a DTensor for `fc1\.weight`\."
    with pytest.raises(pomona.InvalidArgument, match=message):
        remove_dead_(model, torch.zeros(1, 1, 8, 8))
