"""Neurons without inputs or outputs leave, and what the network computes stays."""

from __future__ import annotations

import copy

import pytest
import torch
from dead_networks import NETWORKS, Reshapes, kill, mlp, network
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

from pomona.dead import dead_neurons, remove_dead_

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def row_of(report, layer):
    (row,) = [row for row in report if row.layer == layer]
    return row


def assert_same(actual, expected, tolerance=1e-10):
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def zeroed(layer, *, rows=(), columns=()):
    with torch.no_grad():
        layer.weight[list(rows)] = 0
        layer.weight[:, list(columns)] = 0


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_output_is_what_it_was(name, dtype):
    model, inputs = network(name, dtype)
    kill(model)
    before = model(inputs)
    removal = remove_dead_(model, inputs)
    assert removal.removed > 0
    assert_same(model(inputs), before, TOLERANCE[dtype])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_small_network_has_the_sizes_of_its_weights(name):
    model, inputs = network(name)
    kill(model)
    before = sum(p.numel() for p in model.parameters())
    remove_dead_(model, inputs)
    assert sum(p.numel() for p in model.parameters()) < before
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert (module.out_features, module.in_features) == module.weight.shape
        elif isinstance(module, nn.modules.conv._ConvNd):
            assert (module.out_channels, module.in_channels) == module.weight.shape[:2]
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.num_features == module.running_mean.numel()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_second_call_finds_nothing(name):
    model, inputs = network(name)
    kill(model)
    remove_dead_(model, inputs)
    assert dead_neurons(model, inputs).removed == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_the_original_network_computes_what_the_small_one_does(name):
    model, inputs = network(name)
    kill(model)
    original = copy.deepcopy(model)
    removal = remove_dead_(model, inputs)
    original.load_state_dict(removal.expand(model.state_dict()))
    assert_same(original(inputs), model(inputs))


def test_a_live_network_stays_as_it_is():
    model, inputs = network("LeNet-5")
    before = copy.deepcopy(model.state_dict())
    removal = remove_dead_(model, inputs)
    assert removal.removed == 0
    assert removal.tensors == {}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_report_changes_nothing():
    model, inputs = network("batch norm")
    kill(model)
    model[2].train()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    report = dead_neurons(model, inputs)
    assert report.removed > 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert list(report) == list(remove_dead_(model, inputs).report)


def test_a_removal_goes_on_until_nothing_is_dead():
    model = nn.Sequential(*[nn.Linear(4, 4, dtype=torch.float64) for _ in range(4)])
    zeroed(model[3], columns=[1])
    zeroed(model[2], columns=[2])
    with torch.no_grad():
        model[2].weight[[0, 2, 3], 3] = 0  # neuron 3 feeds only the one that nobody reads
        model[1].weight[[0, 1, 2], 0] = 0  # and neuron 0 only that one
        model[1].weight[3, 0] = 1
        model[1].weight[2] = 0
    report = dead_neurons(model, torch.zeros(1, 4, dtype=torch.float64))
    assert [row.removed for row in report] == [1, 2, 1, 0]


def test_a_constant_that_feeds_nothing_else_makes_the_next_neuron_a_constant():
    model, inputs = mlp(nn.Sigmoid(), size=4).double().eval(), torch.randn(5, 7).double()
    zeroed(model[0], rows=[1, 2])
    with torch.no_grad():
        model[3].weight[0, [0, 3]] = 0  # reads the two constants only
    before = model(inputs)
    report = remove_dead_(model, inputs).report
    assert [row.removed for row in report] == [2, 1, 0]
    assert_same(model(inputs), before)


@pytest.mark.parametrize("how", ["rows", "columns"])
def test_a_layer_keeps_one_neuron(how):
    model, inputs = mlp(nn.ReLU()).double().eval(), torch.randn(5, 7).double()
    every = range(12)
    zeroed(model[0], rows=every if how == "rows" else ())
    zeroed(model[3], columns=every if how == "columns" else ())
    before = model(inputs)
    row = row_of(remove_dead_(model, inputs).report, "0")
    assert (row.removed, row.stayed, row.why) == (11, 1, "a layer keeps at least one neuron")
    assert_same(model(inputs), before)


def test_inputs_and_outputs_of_the_model_stay():
    model, inputs = mlp(nn.ReLU()), torch.randn(2, 7)
    zeroed(model[0], columns=[0, 1])
    zeroed(model[-1], rows=[0, 1])
    report = remove_dead_(model, inputs).report
    assert report.removed == 0
    last = row_of(report, "5")
    assert (last.neurons, last.stayed, last.why) == (3, 2, "the model returns it")


def padded_pool(**options):
    return [nn.Conv2d(1, 4, 3), nn.AvgPool2d(2, padding=1, **options), nn.Conv2d(4, 3, 3)]


BLOCKED = {
    "a padded convolution": (
        lambda: [nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 3, padding=1)],
        "`1` pads with zeros, folding would be inexact",
    ),
    "padding 'same'": (
        lambda: [nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 3, padding="same")],
        "`1` pads with zeros, folding would be inexact",
    ),
    "a pool that counts its padding": (
        padded_pool,
        "`1` does not keep a constant (padding), folding would be inexact",
    ),
    "a consumer without a bias": (
        lambda: [nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 3, bias=False)],
        "`1` has no bias to fold it into",
    ),
    "a batch norm in training": (
        lambda: [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3)],
        "`1` is in training mode",
    ),
}
FOLDED = {
    "reflected padding": lambda: [
        nn.Conv2d(1, 4, 3),
        nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"),
    ],
    "padding 'valid'": lambda: [nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 3, padding="valid")],
    "padding 'same' of a pixel": lambda: [nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 1, padding="same")],
    "a pool that does not count": lambda: padded_pool(count_include_pad=False),
    "a padded max pool": lambda: [
        *(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2, padding=1), nn.Conv2d(4, 3, 3)),
    ],
    "statistics of the batch": lambda: [
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Conv2d(4, 3, 3)),
    ],
}


@pytest.mark.parametrize("name", BLOCKED)
def test_a_constant_that_cannot_be_folded_stays(name):
    make, why = BLOCKED[name]
    model, inputs = nn.Sequential(*make()).double(), torch.randn(3, 1, 9, 9).double()
    zeroed(model[0], rows=[2])
    row = row_of(remove_dead_(model, inputs).report, "0")
    assert (row.removed, row.stayed, row.why) == (0, 1, why)


@pytest.mark.parametrize("name", sorted(set(BLOCKED) - {"a batch norm in training"}))
def test_a_constant_of_zero_leaves_all_the_same(name):
    model, inputs = nn.Sequential(*BLOCKED[name][0]()).double(), torch.randn(3, 1, 9, 9).double()
    zeroed(model[0], rows=[2])
    with torch.no_grad():
        model[0].bias[2] = 0
    before = model(inputs)
    assert remove_dead_(model, inputs).removed == 1
    assert_same(model(inputs), before)


@pytest.mark.parametrize("name", BLOCKED)
def test_what_nobody_reads_leaves_whatever_is_between(name):
    model, inputs = nn.Sequential(*BLOCKED[name][0]()).double(), torch.randn(3, 1, 9, 9).double()
    zeroed(model[-1], columns=[2])
    before = model(inputs)
    assert remove_dead_(model, inputs).removed == 1
    assert_same(model(inputs), before)


@pytest.mark.parametrize("name", FOLDED)
def test_a_constant_is_folded_where_that_is_exact(name):
    model, inputs = nn.Sequential(*FOLDED[name]()).double(), torch.randn(3, 1, 9, 9).double()
    zeroed(model[0], rows=[0, 3])
    before = model(inputs)
    assert remove_dead_(model, inputs).removed == 2
    assert_same(model(inputs), before)


def test_a_constant_that_is_not_finite_stays():
    model = mlp(nn.ReLU())
    zeroed(model[0], rows=[2])
    with torch.no_grad():
        model[0].bias[2] = float("inf")
    assert row_of(dead_neurons(model, torch.zeros(1, 7)), "0").why == "its constant is not finite"


class Odd(nn.Module):
    """Layers that cannot lose a neuron, each for a reason of its own."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.a = nn.Linear(6, 6)
        self.b = nn.Linear(6, 6)
        self.c = nn.Linear(6, 6)
        if kind == "tied":
            self.b.weight = self.a.weight
        if kind == "parametrized":
            nn.utils.parametrizations.weight_norm(self.a)
        if kind == "torch's pruning":
            prune.identity(self.a, "weight")
        if kind == "softmax":
            self.softmax = nn.Softmax(1)
        if kind == "norm":
            self.norm = nn.LayerNorm(6)

    def forward(self, x):
        y = self.a(x)
        if self.kind == "residual":
            return self.c(self.b(y) + y)
        if self.kind == "sum":
            return self.c(y + self.b(x))
        if self.kind == "returned":
            return y, self.c(self.b(x))
        if self.kind == "twice":
            y = self.a(y)
        if self.kind == "reads":
            y = y * self.a.weight.sum()
        if self.kind == "functional":
            y = functional.linear(y, self.b.weight)
        if self.kind == "size":
            y = y / y.size(1)
        if self.kind == "softmax":
            y = self.softmax(y)
        if self.kind == "norm":
            y = self.norm(y)
        if self.kind == "training" and self.training:
            y = y + x
        if self.kind == "noise":
            y = functional.dropout(y, 0.1)
        return self.c(self.b(y).relu())


WHY = {
    "residual": "its output has 2 consumers",
    "sum": "`add` combines it with something else",
    "returned": "the model returns it",
    "twice": "the model calls it 2 times",
    "tied": "its weights are tied",
    "parametrized": "it is a ParametrizedLinear",
    "torch's pruning": "its weight is computed (parametrized)",
    "reads": "the model reads its weights by itself",
    "functional": "`linear` combines it with something else",
    "size": "its output has 2 consumers",
    "softmax": "it goes through `softmax`",
    "norm": "it goes through `norm`",
    "training": "its output goes another way in training",
    "noise": "`dropout` is on in evaluation too",
}


@pytest.mark.parametrize("kind", WHY)
def test_a_layer_that_cannot_lose_a_neuron_says_why(kind):
    model, inputs = Odd(kind).eval(), torch.randn(3, 6)
    if kind not in ("parametrized", "torch's pruning"):
        zeroed(model.a, rows=[1])
    row = row_of(remove_dead_(model, inputs).report, "a")
    assert (row.removed, row.why) == (0, WHY[kind])
    assert row.stayed == (kind not in ("parametrized", "torch's pruning"))


@pytest.mark.parametrize(
    ("make", "layer", "why"),
    [
        (lambda: [nn.Conv2d(2, 4, 3, groups=2), nn.Conv2d(4, 2, 3)], "0", "it has 2 groups"),
        (
            lambda: [nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1)],
            "0",
            "of its consumer `1`: it has 4 groups",
        ),
        (lambda: [nn.ConvTranspose2d(2, 4, 3), nn.Conv2d(4, 2, 3)], "0", "it is a ConvTranspose2d"),
        (
            lambda: [nn.Conv2d(2, 4, 3), nn.Linear(6, 6)],
            "0",
            "`1` does not keep its neurons apart",
        ),
        (
            lambda: [nn.Conv2d(2, 4, 3), nn.Flatten(2), nn.Linear(36, 6)],
            "0",
            "it goes through `1`",
        ),
        (
            lambda: [nn.Linear(8, 8), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 3)],
            "0",
            "`1` does not keep its neurons apart",
        ),
    ],
)
def test_a_convolution_that_cannot_lose_a_channel_says_why(make, layer, why):
    model, inputs = nn.Sequential(*make()), torch.randn(3, 2, 8, 8)
    zeroed(model[0], rows=[1])
    row = row_of(remove_dead_(model, inputs).report, layer)
    assert (row.removed, row.why) == (0, why)


def test_sizes_that_the_code_writes_out_keep_the_channels():
    model, inputs = Reshapes("fixed").eval(), torch.randn(3, 2, 8, 8)
    kill(model)
    report = remove_dead_(model, inputs).report
    assert row_of(report, "conv2").why == "it goes through `view` with sizes written out"
    assert row_of(report, "conv1").removed > 0


def test_an_example_without_a_batch_keeps_everything():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3))
    zeroed(model[0], rows=[1])
    row = row_of(dead_neurons(model, torch.zeros(1, 9, 9)), "0")
    assert (row.removed, row.why) == (0, "the example has no batch dimension")


def test_a_layer_that_is_not_called_is_in_the_report():
    class Spare(nn.Sequential):
        def forward(self, x):
            return self[0](x)

    report = dead_neurons(Spare(nn.Linear(3, 3), nn.Linear(3, 3)), torch.zeros(1, 3))
    assert row_of(report, "1").why == "the model does not call it"


def test_the_report_is_a_table():
    model, inputs = mlp(nn.ReLU()), torch.randn(2, 7)
    zeroed(model[0], rows=[0])
    lines = str(dead_neurons(model, inputs)).splitlines()
    assert lines[0].split() == ["layer", "neurons", "removed", "dead", "that", "stayed", "why"]
    assert lines[1].split() == ["0", "12", "1", "0"]


def test_a_compiled_model_is_looked_into_and_runs_on():
    model, inputs = network("relu")
    kill(model)
    compiled = torch.compile(model, backend="eager")
    before = compiled(inputs)
    assert remove_dead_(compiled, inputs).removed > 0
    assert_same(compiled(inputs), before)


@pytest.mark.parametrize("name", ["conv2d", "conv3d"])
def test_the_memory_format_stays(name):
    model, inputs = network(name)
    layout = torch.channels_last if name == "conv2d" else torch.channels_last_3d
    model.to(memory_format=layout)
    kill(model)
    remove_dead_(model, inputs)
    assert model[4].weight.is_contiguous(memory_format=layout)


def test_a_model_of_two_inputs_takes_a_tuple():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)

        def forward(self, x, y):
            return self.c(self.b(self.a(x).relu()) + y)

    model, inputs = Pair().double(), (torch.randn(3, 4).double(), torch.randn(3, 5).double())
    zeroed(model.a, rows=[1, 3])
    before = model(*inputs)
    assert remove_dead_(model, inputs).removed == 2
    assert_same(model(*inputs), before)


@pytest.mark.parametrize("hooked", [0, 1, 2])
def test_what_a_forward_hook_sees_stays(hooked):
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight[1] = 0
    model[hooked].register_forward_hook(lambda module, inputs, output: output)
    report = dead_neurons(model, torch.zeros(1, 4))
    assert [row.removed for row in report] == [0, 0]
    assert "has a forward hook" in str(report)
