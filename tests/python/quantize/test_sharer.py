"""Sharer against what it stands for: a module whose codebook is a Parameter, in plain torch."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pomona
from pomona import InvalidArgument, Sharer

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "sgd nesterov": lambda p: torch.optim.SGD(
        p, lr=0.02, momentum=0.9, nesterov=True, weight_decay=1e-3
    ),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=1e-3),
    "adam amsgrad": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.05, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2, weight_decay=1e-3),
}


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 5))


def pruned_network(seed: int = 0) -> nn.Sequential:
    model = network(seed)
    for layer in (model[0], model[2]):
        layer.weight.data[layer.weight.data.abs() < 0.08] = 0
    return model


def batches(count: int, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(1)
    teacher = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    for _ in range(count):
        x = torch.randn(32, 12, generator=generator, dtype=torch.float64)
        yield x.to(dtype), (x @ teacher).tanh().to(dtype)


def train(model, optimizer, data, clip: float | None = None, sharer=None) -> float:
    for x, y in data:
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        if sharer is not None and clip is not None:
            sharer.pool()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return loss.item()


class Codebook(nn.Module):
    """A linear layer whose codebook is a Parameter; zeros stay outside it. Plain torch."""

    def __init__(self, linear: nn.Linear, codebook, codes, reduction: str) -> None:
        super().__init__()
        self.is_zero = codes.long() == 0 if codebook[0] == 0 else torch.zeros_like(codes).bool()
        first = int(codebook[0] == 0)
        self.codebook = nn.Parameter(codebook[first:].clone())
        self.codes = (codes.long() - first).clamp(min=0)
        self.bias = nn.Parameter(linear.bias.detach().clone())
        counts = torch.bincount(self.codes[~self.is_zero], minlength=len(self.codebook))
        if reduction == "mean":
            self.codebook.register_hook(lambda grad: grad / counts)

    def pool(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over each cluster."""
        return torch.stack(
            [values[(self.codes == j) & ~self.is_zero].mean() for j in range(len(self.codebook))]
        )

    def weight(self) -> torch.Tensor:
        return self.codebook[self.codes].masked_fill(self.is_zero, 0)

    def forward(self, x):
        return F.linear(x, self.weight(), self.bias)


def codebook_twin(model, optimizer, sharer, make_optimizer):
    """The plain module in the shared model's place, its optimizer's state the pooled one."""
    books, codes = sharer.codebooks(), sharer.codes()
    twin = copy.deepcopy(model)
    for i in (0, 2):
        name = f"{i}.weight"
        twin[i] = Codebook(model[i], books[name], codes[name], sharer._reduction)
    twin_optimizer = make_optimizer(twin.parameters())
    for i in (0, 2):
        for parameter, source, pool in [
            (twin[i].codebook, model[i].weight, twin[i].pool),
            (twin[i].bias, model[i].bias, torch.clone),
        ]:
            if source in optimizer.state:
                twin_optimizer.state[parameter] = {
                    key: pool(value) if value.shape == source.shape else value.clone()
                    for key, value in optimizer.state[source].items()
                }
    return twin, twin_optimizer


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("warm_steps", [0, 10])
def test_training_equals_training_a_codebook_parameter(name, reduction, warm_steps):
    make = OPTIMIZERS[name]
    if reduction == "sum":  # the summed gradient wants a smaller step
        make = lambda p: _scaled_lr(OPTIMIZERS[name](p), 0.1)  # noqa: E731
    model = pruned_network().double()
    zeros = [model[i].weight.detach() == 0 for i in (0, 2)]
    optimizer = make(model.parameters())
    if warm_steps:
        train(model, optimizer, batches(warm_steps))
        for i, zero in zip((0, 2), zeros, strict=True):
            model[i].weight.data[zero] = 0
    sharer = Sharer(model, {"*": 3}, optimizer=optimizer, reduction=reduction)
    sharer.step()
    twin, twin_optimizer = codebook_twin(model, optimizer, sharer, make)
    before = [model[i].weight.detach().clone() for i in (0, 2)]

    train(model, optimizer, batches(300))
    train(twin, twin_optimizer, batches(300))

    for i, zero, start in zip((0, 2), zeros, before, strict=True):
        torch.testing.assert_close(model[i].weight, twin[i].weight(), rtol=0, atol=1e-5)
        assert torch.equal(model[i].weight == 0, zero)
        assert (model[i].weight - start).abs().max() > 1e-2  # it did train
    sharer.report()


def _scaled_lr(optimizer, factor: float):
    for group in optimizer.param_groups:
        group["lr"] *= factor
    return optimizer


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_float32_training_equals_training_a_codebook_parameter(reduction):
    make = lambda p: torch.optim.SGD(p, lr=0.002, momentum=0.9)  # noqa: E731
    model = pruned_network()
    optimizer = make(model.parameters())
    sharer = Sharer(model, {"*": 3}, optimizer=optimizer, reduction=reduction)
    sharer.step()
    twin, twin_optimizer = codebook_twin(model, optimizer, sharer, make)
    train(model, optimizer, batches(300, torch.float32))
    train(twin, twin_optimizer, batches(300, torch.float32))
    for i in (0, 2):
        torch.testing.assert_close(model[i].weight, twin[i].weight(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_pooling_before_clipping_pools_once(reduction):
    def run(clip_by_hand: bool):
        model = pruned_network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        sharer = Sharer(model, {"*": 3}, optimizer=optimizer, reduction=reduction)
        sharer.step()
        for x, y in batches(10, torch.float32):
            optimizer.zero_grad(set_to_none=False)
            F.mse_loss(model(x), y).backward()
            if clip_by_hand:
                sharer.pool()
                sharer.pool()
                nn.utils.clip_grad_norm_(model.parameters(), 1e9)  # touches every gradient
            optimizer.step()
        return model.state_dict()

    by_hand, by_hook = run(True), run(False)
    for key in by_hand:
        torch.testing.assert_close(by_hand[key], by_hook[key])


@pytest.mark.parametrize("set_to_none", [False, True])
def test_a_gradient_pooled_before_a_skipped_step_does_not_spare_the_next(set_to_none):
    model = pruned_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sharer = Sharer(model, {"*": 3}, optimizer=optimizer, reduction="sum")
    sharer.step()
    twin = copy.deepcopy(model)
    (x, y), (x2, y2) = batches(2, torch.float32)
    F.mse_loss(model(x), y).backward()
    sharer.pool()  # and then no step: GradScaler skips one when a gradient is infinite
    optimizer.zero_grad(set_to_none=set_to_none)
    F.mse_loss(model(x2), y2).backward()
    sharer.pool()
    F.mse_loss(twin(x2), y2).backward()
    for i in (0, 2):
        codes = sharer.codes()[f"{i}.weight"].long()
        for code in codes.unique():
            expected = twin[i].weight.grad[codes == code].sum() * bool(code > 0)
            torch.testing.assert_close(
                model[i].weight.grad[codes == code], expected.expand((codes == code).sum())
            )


def test_a_closure_is_pooled_when_it_has_made_its_gradients():
    runs = []
    for with_closure in [False, True]:
        model = pruned_network()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        sharer = Sharer(model, {"*": 3}, optimizer=optimizer)
        sharer.step()
        for x, y in batches(5, torch.float32):

            def closure(model=model, optimizer=optimizer, x=x, y=y):
                optimizer.zero_grad(set_to_none=False)
                loss = F.mse_loss(model(x), y)
                loss.backward()
                return loss

            if with_closure:
                assert optimizer.step(closure) > 0
            else:
                closure()
                optimizer.step()
        runs.append(model.state_dict())
    for key in runs[0]:
        assert torch.equal(runs[0][key], runs[1][key])


def test_each_optimizer_of_a_list_pools_what_it_steps():
    def run(split: bool):
        model = pruned_network()
        parts = [model[0], model[2]] if split else [model]
        optimizers = [torch.optim.SGD(m.parameters(), lr=0.001) for m in parts]
        sharer = Sharer(model, {"*": 3}, optimizer=optimizers, reduction="sum")
        sharer.step()
        for x, y in batches(5, torch.float32):
            for optimizer in optimizers:
                optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            for optimizer in optimizers:
                optimizer.step()
        return model.state_dict()

    together, apart = run(False), run(True)
    for key in together:
        assert torch.equal(together[key], apart[key])


# ---------------------------------------------------------------------------------------------
# Codebooks


@pytest.mark.parametrize("bits", range(1, 9))
def test_bits_give_as_many_values_and_zero_is_one_of_them(bits):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100))
    model[1].weight.data[0] = 0
    pruned = model[1].weight == 0
    sharer = Sharer(model, {"*": bits})
    assert sharer.step() is True
    assert sharer.step() is False
    assert len(model[0].weight.unique()) == 2**bits
    assert len(model[1].weight.unique()) == 2**bits
    assert torch.equal(model[1].weight == 0, pruned)
    for name, book in sharer.codebooks().items():
        weight = model.get_parameter(name)
        assert torch.equal(book[sharer.codes()[name].long()], weight)
    lines = {line.name: line for line in sharer.report()}
    assert lines["0.weight"].centroids == 2**bits
    assert lines["1.weight"].centroids == 2**bits - 1
    assert lines["1.weight"].kept == 9900
    assert lines["1.weight"].size == 10_000


def test_a_layer_with_few_values_keeps_them():
    linear = nn.Linear(6, 4)
    linear.weight.data.copy_(torch.tensor([-1.0, 0.0, 0.5]).repeat(8).reshape(4, 6))
    before = linear.weight.clone()
    sharer = Sharer(linear, {"weight": 2})
    sharer.step()
    assert torch.equal(linear.weight, before)
    assert sharer.codebooks()["weight"].tolist() == [0.0, -1.0, 0.5]
    assert sharer.report()[0].squared_error == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_is_shared_and_trained(dtype):
    torch.manual_seed(0)
    linear = nn.Linear(30, 20).to(dtype)
    linear.weight.data[linear.weight.data.abs() < 0.05] = 0
    pruned = linear.weight == 0
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1, momentum=0.9)
    sharer = Sharer(linear, {"weight": 4}, optimizer=optimizer)
    sharer.step()
    for _ in range(10):
        optimizer.zero_grad()
        linear(torch.randn(8, 30).to(dtype)).square().sum().backward()
        optimizer.step()
    assert torch.equal(linear.weight == 0, pruned)
    book = sharer.codebooks()["weight"]
    assert book.dtype == dtype
    assert torch.equal(book[sharer.codes()["weight"].long()], linear.weight)
    assert 8 < sharer.report()[0].centroids <= 15


def test_bfloat16_centroids_that_round_to_one_value_are_one():
    linear = nn.Linear(32, 32).to(torch.bfloat16)
    linear.weight.data.copy_(1 + torch.arange(1024).reshape(32, 32) / 1024)  # 129 bfloat16 values
    sharer = Sharer(linear, {"weight": 8})
    sharer.step()
    book = sharer.codebooks()["weight"]
    assert len(book) == len(book.unique()) <= 129


def test_the_squared_error_is_that_of_the_shared_weight():
    model = network()
    before = model[0].weight.detach().double()
    sharer = Sharer(model, {"0": 2})
    sharer.step()
    error = (before - model[0].weight.detach().double()).square().sum().item()
    assert sharer.report()[0].squared_error == pytest.approx(error)


def test_the_optimizers_state_is_pooled_when_weights_are_shared():
    model = pruned_network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train(model, optimizer, batches(5, torch.float32))
    model[0].weight.data[0] = 0
    before = {k: v.clone() for k, v in optimizer.state[model[0].weight].items()}
    sharer = Sharer(model, {"0": 3}, optimizer=optimizer)
    sharer.step()
    codes = sharer.codes()["0.weight"]
    for key in ["exp_avg", "exp_avg_sq"]:
        after = optimizer.state[model[0].weight][key]
        assert (after[codes == 0] == 0).all()
        for code in range(1, 8):
            members = after[codes == code]
            assert len(members.unique()) == 1
            torch.testing.assert_close(members[0], before[key][codes == code].mean())
    assert torch.equal(optimizer.state[model[0].weight]["step"], before["step"])


def test_a_cluster_pulled_apart_is_snapped_to_its_mean():
    linear = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.0)
    sharer = Sharer(linear, {"weight": 2}, optimizer=optimizer)
    sharer.step()
    with torch.no_grad():
        linear.weight.add_(torch.randn(8, 8) * 0.1)
    means = {c: linear.weight[sharer.codes()["weight"] == c].double().mean() for c in range(4)}
    optimizer.step()
    for code, mean in means.items():
        assert (linear.weight[sharer.codes()["weight"] == code] == mean.float()).all()


def test_zeros_are_positive_zeros_after_a_step():
    linear = nn.Linear(8, 8)
    linear.weight.data[0] = -0.0
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1)
    sharer = Sharer(linear, {"weight": 2}, optimizer=optimizer)
    sharer.step()
    assert not torch.signbit(linear.weight[0]).any()
    linear.weight.data[0] = -0.0
    optimizer.step()
    assert not torch.signbit(linear.weight[0]).any()


# ---------------------------------------------------------------------------------------------
# The model stays as it is


def test_the_constructor_does_not_touch_the_model():
    model = network()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Sharer(model, {"*": 3}, optimizer=optimizer)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_before_step_training_goes_on_as_without_a_sharer():
    runs = []
    for attach in [False, True]:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if attach:
            sharer = Sharer(model, {"*": 3}, optimizer=optimizer)
            sharer.pool()
        train(model, optimizer, batches(5, torch.float32))
        runs.append(model.state_dict())
    for key in runs[0]:
        assert torch.equal(runs[0][key], runs[1][key])


def test_keys_deepcopy_and_pickle_of_the_model_are_unchanged():
    model = network()
    keys = list(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sharer = Sharer(model, {"*": 3}, optimizer=optimizer)
    sharer.step()
    train(model, optimizer, batches(3, torch.float32), clip=1.0, sharer=sharer)
    assert list(model.state_dict()) == keys
    assert all(type(p) is nn.Parameter for p in model.parameters())
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    x = torch.randn(2, 12)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    for twin in [*copies, torch.load(file, weights_only=False)]:
        assert torch.equal(twin(x), model(x))


def test_a_change_of_dtype_half_way_goes_on():
    model = pruned_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sharer = Sharer(model, {"*": 3}, optimizer=optimizer)
    sharer.step()
    train(model, optimizer, batches(3, torch.float32))
    model.double()
    train(model, optimizer, batches(3))
    sharer.report()
    assert sharer.codebooks()["0.weight"].dtype == torch.float64


def test_weights_assigned_by_load_state_dict_are_followed():
    model = pruned_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sharer = Sharer(model, {"*": 3}, optimizer=optimizer)
    sharer.step()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sharer.attach(optimizer)
    before = model[0].weight.detach().clone()
    train(model, optimizer, batches(3, torch.float32), clip=1.0, sharer=sharer)
    assert not torch.equal(model[0].weight, before)
    sharer.report()


def test_a_compiled_model_trains_the_same():
    runs = []
    for compile_it in [False, True]:
        model = pruned_network()
        run = torch.compile(model, fullgraph=True, backend="aot_eager") if compile_it else model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        sharer = Sharer(run, {"*": 3}, optimizer=optimizer)
        sharer.step()
        train(run, optimizer, batches(3, torch.float32))
        assert sharer.names == ["0.weight", "2.weight"]
        runs.append(model.state_dict())
    for key in runs[0]:
        torch.testing.assert_close(runs[0][key], runs[1][key])


def test_finalize_lets_go_and_leaves_the_weights():
    model = pruned_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sharer = Sharer(model, {"*": 3}, optimizer=optimizer)
    sharer.step()
    weight = model[0].weight.detach().clone()
    sharer.finalize()
    assert torch.equal(model[0].weight, weight)
    train(model, optimizer, batches(3, torch.float32))
    assert len(model[0].weight.unique()) > 8
    assert not sharer.is_shared
    for call in [sharer.step, lambda: sharer.attach(optimizer), lambda: sharer.to_layers_(model)]:
        with pytest.raises(InvalidArgument, match=r"before finalize\(\), got it after"):
            call()


# ---------------------------------------------------------------------------------------------
# Unusual layers


def test_convolution_in_channels_last_equals_the_contiguous_one():
    runs = []
    for layout in [torch.contiguous_format, torch.channels_last]:
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 8, 3)
        conv.weight.data[0] = 0
        conv = conv.to(memory_format=layout)
        optimizer = torch.optim.SGD(conv.parameters(), lr=0.1, momentum=0.9)
        sharer = Sharer(conv, {"weight": 4}, optimizer=optimizer)
        sharer.step()
        for _ in range(5):
            optimizer.zero_grad()
            conv(torch.randn(2, 3, 8, 8).to(memory_format=layout)).square().mean().backward()
            optimizer.step()
        assert conv.weight.is_contiguous(memory_format=layout)
        sharer.report()
        runs.append(conv.weight.detach())
    torch.testing.assert_close(runs[0], runs[1])


def test_lstm_and_embedding_train_under_their_names():
    torch.manual_seed(0)
    model = nn.ModuleDict({"table": nn.Embedding(20, 8), "lstm": nn.LSTM(8, 6, batch_first=True)})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    sharer = Sharer(model, {"table": 4, "lstm": 3}, optimizer=optimizer)
    assert sharer.names == ["table.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0"]
    sharer.step()
    for _ in range(5):
        optimizer.zero_grad()
        output, _ = model["lstm"](model["table"](torch.randint(0, 20, (4, 7))))
        output.square().sum().backward()
        optimizer.step()
    sharer.report()
    assert len(model["table"].weight.unique()) <= 16
    assert len(model["lstm"].weight_hh_l0.unique()) <= 8


def test_tied_weights_are_shared_once():
    model = nn.ModuleDict({"a": nn.Linear(6, 6), "b": nn.Linear(6, 6)})
    model["b"].weight = model["a"].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sharer = Sharer(model, {"*": 2}, optimizer=optimizer)
    sharer.step()
    model["b"](model["a"](torch.randn(3, 6))).sum().backward()
    optimizer.step()
    assert sharer.names == ["a.weight"]
    assert len(sharer.report()) == 1


def test_a_bias_is_shared_when_its_name_is_spelled_out():
    model = network()
    sharer = Sharer(model, {"0.bias": 1, "*": 3})
    sharer.step()
    assert sharer.names == ["0.weight", "0.bias", "2.weight"]
    assert len(model[0].bias.unique()) == 2
    assert len(model[2].bias.unique()) == 5


def test_an_empty_layer_is_left_alone():
    model = nn.ModuleDict({"full": nn.Linear(4, 4), "empty": nn.Linear(4, 4)})
    model["empty"].weight = nn.Parameter(torch.empty(0, 4))
    model["empty"].bias = nn.Parameter(torch.empty(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sharer = Sharer(model, {"*": 2}, optimizer=optimizer)
    sharer.step()
    (model["full"](torch.randn(2, 4)).sum() + model["empty"](torch.randn(2, 4)).sum()).backward()
    optimizer.step()
    assert [line.centroids for line in sharer.report()] == [4, 0]
    fresh = Sharer(model, {"*": 2})
    fresh.load_state_dict(sharer.state_dict())
    assert fresh.step() is False


def test_frozen_parameters_and_missing_gradients_are_left_alone():
    model = network()
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sharer = Sharer(model, {"*": 3}, optimizer=optimizer)
    sharer.step()
    weight = model[0].weight.detach().clone()
    train(model, optimizer, batches(2, torch.float32), clip=1.0, sharer=sharer)
    assert torch.equal(model[0].weight, weight)


# ---------------------------------------------------------------------------------------------
# Beside the Pruner


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("sharer_first", [False, True])
def test_beside_a_pruner_the_same_weights_stay_zero(name, sharer_first):
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    pruner = pomona.Pruner(model, {"*": 0.6}, optimizer=None if sharer_first else optimizer)
    pruner.step()
    sharer = Sharer(model, {"*": 3}, optimizer=optimizer)
    if sharer_first:
        pruner.attach(optimizer)
    train(model, optimizer, batches(5, torch.float32))
    pruned = {key: mask.clone() for key, mask in pruner.masks().items()}
    sharer.step()
    train(model, optimizer, batches(20, torch.float32), clip=1.0, sharer=sharer)
    pruner.step()
    sharer.step()
    for key, kept in pruned.items():
        weight = model.get_parameter(key)
        assert torch.equal(weight != 0, kept)
        assert not torch.signbit(weight[~kept]).any()
        assert 2 < len(weight.unique()) <= 8


# ---------------------------------------------------------------------------------------------
# Resuming


def test_a_resumed_run_gives_the_same_bits():
    data = list(batches(20, torch.float32))
    model = pruned_network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    sharer = Sharer(model, {"*": 3}, optimizer=optimizer)
    sharer.step()
    train(model, optimizer, data[:10])
    file = io.BytesIO()
    torch.save([x.state_dict() for x in (model, optimizer, sharer)], file)
    train(model, optimizer, data[10:])

    file.seek(0)
    states = torch.load(file, weights_only=True)
    resumed = network(seed=5)
    resumed_optimizer = torch.optim.Adam(resumed.parameters(), lr=1e-2)
    resumed_sharer = Sharer(resumed, {"*": 3}, optimizer=resumed_optimizer)
    for target, state in zip((resumed, resumed_optimizer, resumed_sharer), states, strict=True):
        target.load_state_dict(state)
    assert resumed_sharer.step() is False
    train(resumed, resumed_optimizer, data[10:])
    for key, value in model.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value)
    assert resumed_sharer.report() == sharer.report()


def test_the_state_has_the_same_keys_and_shapes_from_construction_on():
    model = network()
    sharer = Sharer(model, {"*": 3})
    before = sharer.state_dict()
    sharer.step()
    after = sharer.state_dict()
    assert set(before) == set(after) == {"codes", "history"}
    for name, codes in after["codes"].items():
        assert before["codes"][name].shape == codes.shape == model.get_parameter(name).shape
        assert before["codes"][name].dtype == codes.dtype == torch.uint8


def test_a_state_from_before_sharing_undoes_the_codes():
    model = network()
    sharer = Sharer(model, {"*": 3})
    state = sharer.state_dict()
    sharer.step()
    sharer.load_state_dict(state)
    assert not sharer.is_shared
    assert sharer.step() is True


# ---------------------------------------------------------------------------------------------
# Compact layers


def test_to_layers_replaces_layers_and_keeps_the_outputs():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 6), nn.Sequential(nn.Linear(6, 3))
    )
    model[2].weight.data[0] = 0
    sharer = Sharer(model, {"*": 3})
    sharer.step()
    x = torch.randn(2, 1, 4, 4)
    expected, books = model(x), sharer.codebooks()
    assert sharer.to_layers_(model) == ["0", "2", "3.0"]
    assert torch.equal(model(x), expected)
    assert torch.equal(model[0].codebook, books["0.weight"])
    assert torch.equal(model[2].codebook, books["2.weight"][1:])
    assert torch.equal(model[3][0].codebook, books["3.0.weight"])


def test_to_layers_keeps_clusters_that_have_met_in_one_value():
    model = nn.Sequential(nn.Linear(6, 6))
    sharer = Sharer(model, {"*": 2})
    sharer.step()
    codes = sharer.codes()["0.weight"]
    model[0].weight.data[codes == 0] = sharer.codebooks()["0.weight"][1]
    sharer.to_layers_(model)
    assert len(model[0].codebook) == 4


def test_to_layers_of_a_copy_leaves_the_sharer_at_work():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sharer = Sharer(model, {"*": 3}, optimizer=optimizer)
    sharer.step()
    twin = copy.deepcopy(model)
    assert sharer.to_layers_(twin) == ["0", "2"]
    train(model, optimizer, batches(2, torch.float32))
    sharer.report()


def test_to_layers_says_that_the_optimizer_must_be_made_anew():
    model = network()
    sharer = Sharer(model, {"*": 3}, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    sharer.step()
    with pytest.warns(UserWarning, match=r"make a new one over model\.parameters"):
        sharer.to_layers_(model)


def test_to_layers_leaves_subclasses_hooks_and_ties_to_other_layers_alone():
    class Special(nn.Linear):
        pass

    model = nn.ModuleDict(
        {
            "special": Special(4, 4),
            "hooked": nn.Linear(4, 4),
            "table": nn.EmbeddingBag(4, 4),
            "head": nn.Linear(4, 4),
        }
    )
    model["hooked"].register_forward_hook(lambda *_: None)
    model["head"].weight = model["table"].weight
    sharer = Sharer(model, {"*": 2})
    sharer.step()
    assert sharer.to_layers_(model) == []


def test_to_layers_keeps_ties_between_linear_layers():
    model = nn.ModuleDict({"a": nn.Linear(6, 6), "b": nn.Linear(6, 6)})
    model["b"].weight = model["a"].weight
    model["same"] = model["a"]
    sharer = Sharer(model, {"*": 2})
    sharer.step()
    assert sharer.to_layers_(model) == ["a", "b", "same"]
    assert model["a"].codebook is model["b"].codebook
    assert model["a"] is model["same"]


# ---------------------------------------------------------------------------------------------
# Bad input


def unchanged(model, f, message):
    """f raises InvalidArgument with that message and the model is as it was."""
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InvalidArgument, match=message):
        f()
    for key, value in model.state_dict().items():
        assert torch.equal(value.view(torch.int32), before[key].view(torch.int32))


@pytest.mark.parametrize("bits", [0, 9, -1, 2.5, True])
def test_bits_outside_1_to_8_are_refused(bits):
    with pytest.raises(
        InvalidArgument, match=r"`bits` to be an integer in 1\.\.8|expected a number"
    ):
        Sharer(network(), {"*": bits})


def test_the_core_refuses_bits_outside_1_to_8_by_name():
    with pytest.raises(InvalidArgument, match=r"`bits` of `w` in 1\.\.8, got 9"):
        pomona._C.Sharer([("w", [2, 2], (9, 0, 0, 0, 0, 0, 0.0))], False, (0, 0, 0))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_inf_are_refused_by_name_and_nothing_is_written(value):
    model = network()
    model[2].weight.data[1, 1] = value
    sharer = Sharer(model, {"*": 3})
    unchanged(model, sharer.step, r"`2\.weight` to be finite, got NaN or Inf")
    assert not sharer.is_shared


def test_a_double_beyond_float_is_refused():
    model = network().double()
    model[0].weight.data[0, 0] = 1e300
    with pytest.raises(InvalidArgument, match=r"`0\.weight` within the range of float32"):
        Sharer(model, {"*": 3}).step()


def test_a_layer_of_zeros_is_refused_by_name():
    model = network()
    model[2].weight.data.zero_()
    sharer = Sharer(model, {"*": 3})
    unchanged(model, sharer.step, r"`2\.weight` to hold a weight that is not zero, got all zeros")


def test_a_rule_that_matches_nothing_lists_the_names():
    with pytest.raises(InvalidArgument, match=r"`fc\*` to match .*0\.weight, 2\.weight"):
        Sharer(network(), {"fc*": 3})


def test_an_optimizer_that_does_not_hold_a_parameter_is_refused():
    model = network()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    with pytest.raises(InvalidArgument, match=r"got one without: 2\.weight"):
        Sharer(model, {"*": 3}, optimizer=optimizer)


def test_an_integer_parameter_is_refused():
    model = nn.Module()
    model.table = nn.Parameter(torch.zeros(3, 3, dtype=torch.int64), requires_grad=False)
    with pytest.raises(InvalidArgument, match="`table` to name a floating-point parameter"):
        Sharer(model, {"table": 3})


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: torch.optim.LBFGS(p), "LBFGS: its direction"),
        (lambda p: torch.optim.Adafactor(p), "Adafactor: its second moment is factored"),
        (lambda p: torch.optim.Muon([x for x in p if x.dim() == 2]), "Muon: it orthogonalizes"),
    ],
)
def test_optimizers_that_are_not_element_wise_are_refused_with_the_reason(make, reason):
    model = network()
    with pytest.raises(InvalidArgument, match=f"to be element-wise, got {reason}"):
        Sharer(model, {"*": 3}, optimizer=make(list(model.parameters())))


def test_something_that_is_no_optimizer_is_refused():
    with pytest.raises(
        InvalidArgument, match=r"torch\.optim\.Optimizer or a list of them, got int"
    ):
        Sharer(network(), {"*": 3}, optimizer=3)


def test_an_unknown_reduction_is_refused():
    with pytest.raises(InvalidArgument, match='`reduction` to be "mean" or "sum", got \'max\''):
        Sharer(network(), {"*": 3}, reduction="max")


def test_a_model_that_is_no_module_is_refused():
    with pytest.raises(InvalidArgument, match=r"`model` to be a torch\.nn\.Module, got dict"):
        Sharer({}, {"*": 3})


def test_a_weight_that_has_left_its_codebook_is_named():
    model = network()
    sharer = Sharer(model, {"*": 3})
    sharer.step()
    model[2].weight.data[-1, -1] += 1
    for call in [sharer.step, sharer.report]:
        with pytest.raises(InvalidArgument, match=r"got others in: `2\.weight` \(1 of 80\)"):
            call()


def test_a_weight_of_another_shape_is_named():
    model = network()
    sharer = Sharer(model, {"*": 3})
    model[2] = nn.Linear(16, 4)
    with pytest.raises(InvalidArgument, match=r"`2\.weight` of shape \[5, 16\], got \[4, 16\]"):
        sharer.step()


def test_a_sparse_gradient_is_refused_by_name():
    table = nn.Embedding(10, 4, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    sharer = Sharer(table, {"weight": 2}, optimizer=optimizer)
    sharer.step()
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(InvalidArgument, match=r"gradient of `weight` to be dense, got Sparse"):
        optimizer.step()


def test_a_state_of_another_model_lists_every_difference():
    other = nn.Sequential(nn.Linear(12, 16), nn.Linear(16, 4), nn.Linear(4, 4))
    state = Sharer(other, {"*": 3}).state_dict()
    model = network()
    sharer = Sharer(model, {"*": 3})
    with pytest.raises(InvalidArgument, match=r"unexpected `1\.weight`.*`2\.weight` Byte \[4, 4\]"):
        sharer.load_state_dict(state)
    with pytest.raises(InvalidArgument, match=r"missing `0\.weight`, missing `2\.weight`"):
        sharer.load_state_dict({"codes": {}, "history": state["history"]})


def shared_state(**kwargs):
    sharer = Sharer(network(), {"*": 3}, **kwargs)
    sharer.step()
    return sharer, sharer.state_dict()


def test_a_state_of_another_reduction_is_refused():
    _, state = shared_state(reduction="sum")
    with pytest.raises(InvalidArgument, match=r'reduction "mean" .* got "sum"'):
        Sharer(network(), {"*": 3}).load_state_dict(state)


def test_a_state_of_other_bits_is_refused():
    _, state = shared_state()
    with pytest.raises(InvalidArgument, match=r"`0\.weight` to have 1 to 4 codes, got 8"):
        Sharer(network(), {"*": 2}).load_state_dict(state)


def test_a_damaged_state_is_refused_and_changes_nothing():
    sharer, state = shared_state()
    good = copy.deepcopy(state)
    state["codes"]["2.weight"][0, 0] = 9
    with pytest.raises(InvalidArgument, match=r"codes of `2\.weight` to be 0 to 7, each used"):
        sharer.load_state_dict(state)
    state["codes"]["2.weight"].zero_()
    with pytest.raises(InvalidArgument, match=r"codes of `2\.weight` to be 0 to 7, each used"):
        sharer.load_state_dict(state)
    assert torch.equal(sharer.state_dict()["codes"]["2.weight"], good["codes"]["2.weight"])


@pytest.mark.parametrize(
    "state", [{}, {"codes": {}, "history": "{"}, {"codes": 3, "history": "{}"}]
)
def test_something_that_is_no_state_is_refused(state):
    with pytest.raises(InvalidArgument, match=r"`state` as state_dict\(\) gives it"):
        Sharer(network(), {"*": 3}).load_state_dict(state)


def test_to_layers_refuses_models_that_are_not_shared():
    model = network()
    sharer = Sharer(model, {"*": 3})
    with pytest.raises(InvalidArgument, match=r"expected a shared model, got none. Call step"):
        sharer.to_layers_(model)
    sharer.step()
    other = network(seed=3)
    unchanged(other, lambda: sharer.to_layers_(other), "weight of `0` to be in its codebook")
    assert type(other[0]) is nn.Linear


def test_to_layers_refuses_a_model_that_is_itself_a_linear_layer():
    linear = nn.Linear(4, 4)
    sharer = Sharer(linear, {"weight": 2})
    sharer.step()
    with pytest.raises(InvalidArgument, match=r"got an nn\.Linear.*from_linear"):
        sharer.to_layers_(linear)


# ---------------------------------------------------------------------------------------------
# fit_codebook


def test_fit_codebook_takes_any_floating_tensor():
    values = torch.tensor([[3.0, 1.0], [1.0, 2.0]])
    for dtype in [torch.float16, torch.bfloat16, torch.float32, torch.float64]:
        book = pomona.quantize.fit_codebook(values.to(dtype).t().requires_grad_(), 3)
        assert book.tolist() == [1.0, 2.0, 3.0]
        assert book.dtype == torch.float32


def test_fit_codebook_equals_the_literal_lloyd():
    from reference import codebook as reference

    values = torch.randn(300, generator=torch.Generator().manual_seed(4))
    for k in [1, 2, 5, 16]:
        expected = torch.tensor(reference.lloyd(values.tolist(), k))
        book = pomona.quantize.fit_codebook(values, k, fit="linear")
        torch.testing.assert_close(book, expected)


def test_fit_codebook_refuses_bad_arguments():
    with pytest.raises(InvalidArgument, match=r"`k` in 1\.\.256, got 0"):
        pomona.quantize.fit_codebook(torch.ones(3), 0)
    with pytest.raises(InvalidArgument, match="finite, got nan at 1"):
        pomona.quantize.fit_codebook(torch.tensor([1.0, float("nan")]), 2)
    with pytest.raises(InvalidArgument, match="at least one value"):
        pomona.quantize.fit_codebook(torch.empty(0), 2)
    with pytest.raises(InvalidArgument, match=r"floating-point tensor, got torch\.int64"):
        pomona.quantize.fit_codebook(torch.ones(3).long(), 2)
