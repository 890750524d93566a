"""Masks through ordinary training: exact zeros, whatever the optimizer; the model untouched."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from reference.prune import row_bytes, select_smallest
from torch import nn
from training import SmallNet, batch, train

import pomona

OPTIMIZERS = {
    "sgd_nesterov": lambda p: torch.optim.SGD(
        p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3
    ),
    "adam_amsgrad": lambda p: torch.optim.Adam(p, lr=2e-3, amsgrad=True, weight_decay=1e-3),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=2e-3, weight_decay=1e-2, fused=True),
    "adamw_foreach": lambda p: torch.optim.AdamW(p, lr=2e-3, weight_decay=1e-2, foreach=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, weight_decay=1e-3),
    "rmsprop_centered": lambda p: torch.optim.RMSprop(
        p, lr=1e-3, weight_decay=1e-3, centered=True, momentum=0.9
    ),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2, weight_decay=1e-3),
    "nadam": lambda p: torch.optim.NAdam(p, lr=2e-3, weight_decay=1e-3),
    "adamax": lambda p: torch.optim.Adamax(p, lr=2e-3, weight_decay=1e-3),
    "adadelta": lambda p: torch.optim.Adadelta(p, weight_decay=1e-3),
    "rprop": lambda p: torch.optim.Rprop(p, lr=1e-3),
    "asgd": lambda p: torch.optim.ASGD(p, lr=1e-2, t0=5),
}
FIRST_MOMENTS = ("momentum_buffer", "exp_avg", "grad_avg", "prev", "ax")
RULES = {"conv*": 0.3, "fc*": 0.8}


@pytest.fixture
def model():
    return SmallNet()


def pruned_and_trained(model, make, steps=300, warm_up=10, **options):
    """A model trained a little, pruned, and trained on; its pruner and optimizer."""
    optimizer = make(model.parameters())
    pruner = pomona.Pruner(model, RULES, optimizer=optimizer)
    train(model, optimizer, 0, warm_up, **options)
    pruner.step()
    train(model, optimizer, warm_up, warm_up + steps, **options)
    return pruner, optimizer


def assert_masks_are_exact(model, pruner):
    parameters = dict(model.named_parameters())
    for name, keep in pruner.masks().items():
        assert parameters[name][~keep].count_nonzero() == 0, name
        assert parameters[name][keep].count_nonzero() > 0, name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masks_are_exact_after_300_steps_with_decay_and_clipping(model, name):
    pruner, optimizer = pruned_and_trained(model, OPTIMIZERS[name])
    assert_masks_are_exact(model, pruner)
    for parameter_name, keep in pruner.masks().items():
        state = optimizer.state[dict(model.named_parameters())[parameter_name]]
        for moment in FIRST_MOMENTS:
            if state.get(moment) is not None:
                assert state[moment][~keep].count_nonzero() == 0, (parameter_name, moment)
    pruner.report()


def test_masks_are_exact_under_gradient_accumulation(model):
    pruner, _ = pruned_and_trained(model, OPTIMIZERS["adam_amsgrad"], steps=30, micro_batches=3)
    assert_masks_are_exact(model, pruner)


def test_masks_are_exact_with_lbfgs(model):
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
    pruner = pomona.Pruner(model, RULES, optimizer=optimizer)
    pruner.step()
    images, labels = batch(0)

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert_masks_are_exact(model, pruner)


def test_masks_are_exact_when_gradients_are_set_by_hand(model):
    optimizer = OPTIMIZERS["sgd_nesterov"](model.parameters())
    pruner = pomona.Pruner(model, RULES, optimizer=optimizer)
    pruner.step()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    keep = pruner.masks()["fc1.weight"]
    assert optimizer.state[model.fc1.weight]["momentum_buffer"][~keep].count_nonzero() == 0


def test_an_infinite_gradient_under_the_mask_becomes_zero_and_not_nan(model):
    pruner = pomona.Pruner(model, RULES)
    pruner.step()
    (model.fc1.weight * float("inf")).sum().backward()
    gradient, keep = model.fc1.weight.grad, pruner.masks()["fc1.weight"]
    assert (gradient[~keep] == 0).all()
    assert gradient[keep].isinf().all()


def test_clipping_sees_the_pruned_network_only(model):
    pruner = pomona.Pruner(model, {"*": 0.9})
    pruner.step()
    images, labels = batch(0)
    nn.functional.cross_entropy(model(images), labels).backward()
    for name, keep in pruner.masks().items():
        assert dict(model.named_parameters())[name].grad[~keep].count_nonzero() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_masks_are_exact_in_other_dtypes(dtype):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10)).to(dtype)
    expected = {n: select_smallest(p, 0.7) for n, p in model.named_parameters() if p.dim() > 1}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-4)
    pruner = pomona.Pruner(model, {"*": 0.7}, optimizer=optimizer)
    pruner.step()
    masks = pruner.masks()
    assert all(torch.equal(masks[name], keep) for name, keep in expected.items())
    train(model, optimizer, 0, 10)
    assert_masks_are_exact(model, pruner)


def test_step_prunes_exactly_the_count_by_magnitude(model):
    expected = {n: select_smallest(p, 0.37) for n, p in model.named_parameters() if p.dim() > 1}
    pruner = pomona.Pruner(model, {"*": 0.37})
    assert pruner.step() is True
    assert pruner.step() is False
    for name, keep in pruner.masks().items():
        assert torch.equal(keep, expected[name]), name
        assert keep.shape == dict(model.named_parameters())[name].shape
    sizes = sum(keep.numel() for keep in expected.values())
    kept = sum(int(keep.sum()) for keep in expected.values())
    assert pruner.sparsity == (sizes - kept) / sizes


def test_channels_last_changes_no_mask_and_masks_stay_exact():
    plain, last = SmallNet(), SmallNet().to(memory_format=torch.channels_last)
    pomona_plain = pomona.Pruner(plain, RULES)
    pomona_plain.step()
    pruner, _ = pruned_and_trained(last, OPTIMIZERS["adamw_fused"], steps=0, warm_up=0)
    for name, keep in pomona_plain.masks().items():
        assert torch.equal(pruner.masks()[name], keep)
    pruner, _ = pruned_and_trained(last, OPTIMIZERS["sgd_nesterov"], steps=20)
    assert_masks_are_exact(last, pruner)


def test_constructor_leaves_the_model_alone(model):
    before = copy.deepcopy(model.state_dict())
    pruner = pomona.Pruner(model, RULES, optimizer=OPTIMIZERS["rmsprop"](model.parameters()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert pruner.sparsity == 0
    assert all(keep.all() for keep in pruner.masks().values())


def test_state_dict_deepcopy_and_pickle_of_the_model_are_unchanged(model):
    keys = list(model.state_dict())
    pruner, _ = pruned_and_trained(model, OPTIMIZERS["adam_amsgrad"], steps=3)
    assert list(model.state_dict()) == keys
    images, _ = batch(0)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(images), model(images))
        nn.functional.mse_loss(twin(images), torch.zeros(8, 10)).backward()  # no hook came along
        assert twin.fc1.weight.grad[~pruner.masks()["fc1.weight"]].count_nonzero() > 0


def test_compiled_full_graph_of_forward_and_loss_trains_under_the_mask(model):
    optimizer = OPTIMIZERS["adam_amsgrad"](model.parameters())
    pruner = pomona.Pruner(model, RULES, optimizer=optimizer)
    pruner.step()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def loss_of(images, labels):
        return nn.functional.cross_entropy(model(images), labels)

    for index in range(5):
        optimizer.zero_grad()
        loss_of(*batch(index)).backward()
        optimizer.step()
    assert_masks_are_exact(model, pruner)


def test_tied_weights_are_pruned_once():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    pruner = pomona.Pruner(model, {"*": 0.5})
    pruner.step()
    assert pruner.names == ["0.weight"]
    assert model[2].weight.count_nonzero() == 18


def test_recurrent_and_attention_parameters_are_pruned_by_name():
    model = nn.ModuleDict({"rnn": nn.LSTM(6, 8), "attention": nn.MultiheadAttention(8, 2)})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    pruner = pomona.Pruner(
        model,
        {"rnn.weight_hh_l0": 0.75, "attention.in_proj_weight": 0.5, "rnn.bias_ih_l0": 0.25},
        optimizer=optimizer,
    )
    pruner.step()
    for _ in range(5):
        optimizer.zero_grad()
        x, _ = model["rnn"](torch.randn(5, 3, 6))
        x, _ = model["attention"](x, x, x)
        x.square().sum().backward()
        optimizer.step()
    kept = {row.name: (row.kept, row.size) for row in pruner.report()}
    assert kept["rnn.weight_hh_l0"] == (64, 256)
    assert kept["attention.in_proj_weight"] == (96, 192)
    assert kept["rnn.bias_ih_l0"] == (24, 32)


def test_sparse_gradients_of_an_embedding_are_masked():
    model = nn.Embedding(20, 5, sparse=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = pomona.Pruner(model, {"weight": 0.5}, optimizer=optimizer)
    pruner.step()
    model(torch.tensor([3, 7, 3])).square().sum().backward()
    keep = pruner.masks()["weight"]
    assert model.weight.grad.to_dense()[~keep].count_nonzero() == 0
    optimizer.step()
    assert_masks_are_exact(model, pruner)


@pytest.mark.parametrize("shape", [(), (1,), (0, 4), (3, 0), (1, 1)])
def test_degenerate_parameters_are_pruned_by_name(shape):
    model = nn.Module()
    model.weight = nn.Parameter(torch.ones(shape))
    pruner = pomona.Pruner(model, {"weight": pomona.Prune(0.6, may_empty=True)})
    pruner.step()
    assert pruner.masks()["weight"].shape == shape
    assert model.weight.count_nonzero() == 0
    pruner.load_state_dict(pruner.state_dict())


def test_masks_follow_a_parameter_that_is_replaced(model):
    pruner, optimizer = pruned_and_trained(model, OPTIMIZERS["sgd_nesterov"], steps=2)
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    optimizer = OPTIMIZERS["sgd_nesterov"](model.parameters())
    pruner.attach(optimizer)
    train(model, optimizer, 0, 5)
    keep = pruner.masks()["fc1.weight"]
    assert model.fc1.weight.grad[~keep].count_nonzero() == 0
    assert_masks_are_exact(model, pruner)


def test_masks_follow_the_dtype_of_the_model(model):
    pruner, _ = pruned_and_trained(model, OPTIMIZERS["sgd_nesterov"], steps=2)
    model.double()
    optimizer = OPTIMIZERS["adam_amsgrad"](model.parameters())
    pruner.attach(optimizer)
    train(model, optimizer, 0, 5)
    assert_masks_are_exact(model, pruner)


def test_apply_prunes_an_average_of_the_model(model):
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    average.update_parameters(model)
    pruner = pomona.Pruner(model, RULES)
    pruner.step()
    average.update_parameters(model)
    assert average.module.fc1.weight.count_nonzero() == model.fc1.weight.numel()
    pruner.apply_(average)
    assert_masks_are_exact(average.module, pruner)


def test_a_pruned_weight_that_has_come_back_is_named_by_step_and_report(model):
    pruner = pomona.Pruner(model, RULES)
    pruner.step()
    with torch.no_grad():
        model.fc1.weight.fill_(1)
    message = r"every pruned weight to be 0, got 1843 nonzero in fc1\.weight\."
    with pytest.raises(pomona.InvalidArgument, match=message):
        pruner.step()
    with pytest.raises(pomona.InvalidArgument, match=message):
        pruner.report()


def test_report_gives_sizes_and_the_threshold(model):
    weight = model.fc1.weight.detach().clone()
    pruner = pomona.Pruner(model, {"fc1": 0.8})
    pruner.step()
    (row,) = pruner.report()
    keep = select_smallest(weight, 0.8)
    assert (row.name, row.size, row.kept) == ("fc1.weight", 2304, 2304 - 1843)
    assert row.threshold == weight[~keep].abs().max().item()
    assert row.sparsity == 1843 / 2304
    assert row.bytes == 4 * (2304 - 1843) + 2304 // 8
    assert "fc1.weight" in repr(row)


def test_finalize_lets_go_and_leaves_the_weights(model):
    pruner, optimizer = pruned_and_trained(model, OPTIMIZERS["sgd_nesterov"], steps=2)
    before = model.fc1.weight.detach().clone()
    pruner.finalize()
    assert torch.equal(model.fc1.weight, before)
    train(model, optimizer, 0, 1)
    assert model.fc1.weight[~pruner.masks()["fc1.weight"]].count_nonzero() > 0
    with pytest.raises(pomona.InvalidArgument, match=r"expected step\(\) before finalize\(\)"):
        pruner.step()


def test_unknown_state_of_the_optimizer_is_named_once(model):
    optimizer = OPTIMIZERS["sgd_nesterov"](model.parameters())
    train(model, optimizer, 0, 1)
    optimizer.state[model.fc1.weight]["wobble"] = torch.ones_like(model.fc1.weight)
    with pytest.warns(UserWarning, match=r"optimizer state \['wobble'\] is unknown"):
        pomona.Pruner(model, RULES, optimizer=optimizer).step()
    assert optimizer.state[model.fc1.weight]["wobble"].all()


def test_integer_state_of_the_weights_shape_is_never_written(model):
    optimizer = OPTIMIZERS["sgd_nesterov"](model.parameters())
    train(model, optimizer, 0, 1)
    quantized = torch.full(model.fc1.weight.shape, 7, dtype=torch.uint8)
    optimizer.state[model.fc1.weight]["momentum_buffer"] = quantized
    pomona.Pruner(model, RULES, optimizer=optimizer).step()
    assert (quantized == 7).all()


# State


def test_state_has_the_same_keys_and_shapes_from_construction_on(model):
    pruner = pomona.Pruner(model, RULES)
    before = pruner.state_dict()
    pruner.step()
    after = pruner.state_dict()
    assert list(before) == list(after) == ["masks", "history"]
    assert isinstance(after["history"], str)
    for name, mask in after["masks"].items():
        assert mask.shape == before["masks"][name].shape
        assert torch.equal(mask, row_bytes(pruner.masks()[name]))
    assert torch.equal(
        before["masks"]["conv1.weight"], row_bytes(torch.ones(4, 1, 3, 3, dtype=torch.bool))
    )


@pytest.mark.parametrize("pruner_first", [True, False])
def test_state_goes_on_in_fresh_objects_bit_for_bit(model, pruner_first, tmp_path):
    make = OPTIMIZERS["adam_amsgrad"]
    pruner, optimizer = pruned_and_trained(model, make, steps=5)
    torch.save((model.state_dict(), optimizer.state_dict(), pruner.state_dict()), tmp_path / "s")
    train(model, optimizer, 15, 20)

    states = torch.load(tmp_path / "s", weights_only=True)
    twin = SmallNet(seed=9)
    twin_optimizer = make(twin.parameters())
    twin_pruner = pomona.Pruner(twin, RULES, optimizer=twin_optimizer)
    pairs = list(zip((twin, twin_optimizer, twin_pruner), states, strict=True))
    for item, state in reversed(pairs) if pruner_first else pairs:
        item.load_state_dict(state)
    train(twin, twin_optimizer, 15, 20)
    assert all(torch.equal(v, twin.state_dict()[n]) for n, v in model.state_dict().items())
    assert_masks_are_exact(twin, twin_pruner)
    assert [str(r) for r in twin_pruner.report()] == [str(r) for r in pruner.report()]
