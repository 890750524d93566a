"""Sharer.to_layers_ and to_dense_: there and back, with the outputs and the ties."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import pomona
from pomona.nn import SharedConv2d, SharedEmbedding, SharedLinear, to_dense_


class Text(nn.Module):
    """A head tied to the embedding, as GPT-2 has it, and the bias of the head held outside too."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8, padding_idx=0)
        self.inner = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11)
        self.head.weight = self.table.weight
        self.offset = self.head.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(self.table(x)).relu())


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular")
        self.conv2 = nn.Conv2d(4, 4, 3, groups=2, bias=False)
        self.fc = nn.Linear(4 * 4 * 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv2(self.conv1(x).relu()).flatten(1))


MODELS = {
    "text": (Text, lambda: torch.randint(0, 11, (2, 5))),
    "image": (Image, lambda: torch.randn(2, 2, 6, 6)),
}
both_models = pytest.mark.parametrize(("make", "example"), MODELS.values(), ids=MODELS.keys())


def shared(model: nn.Module, bits: int = 3) -> pomona.Sharer:
    sharer = pomona.Sharer(model, {"*": bits})
    sharer.step()
    return sharer


@both_models
def test_there_and_back_keeps_outputs_and_state(make, example):
    model, x = make(), example()
    sharer = shared(model)
    expected, state = model(x), copy.deepcopy(model.state_dict())
    names = sharer.to_layers_(model)
    assert names == [name for name, m in model.named_modules() if type(m).__module__ != __name__]
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
    assert to_dense_(model) == names
    assert torch.equal(model(x), expected)
    assert model.state_dict().keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(model.state_dict()[name], value)


def test_to_layers_replaces_each_kind_by_its_twin():
    image, text = Image(), Text()
    assert shared(image).to_layers_(image) == ["conv1", "conv2", "fc"]
    assert [type(m) for m in image.children()] == [SharedConv2d, SharedConv2d, SharedLinear]
    assert shared(text).to_layers_(text) == ["table", "inner", "head"]
    assert [type(m) for m in text.children()] == [SharedEmbedding, SharedLinear, SharedLinear]


def test_a_tied_embedding_and_head_share_one_codebook_and_codes_and_are_tied_again():
    model = Text()
    shared(model).to_layers_(model)
    assert model.head.codebook is model.table.codebook
    assert model.head.codes is model.table.codes
    assert model.head.bias is model.offset
    assert len([name for name, _ in model.named_parameters()]) == 4  # offset, 2 codebooks, a bias
    to_dense_(model)
    assert model.head.weight is model.table.weight
    assert model.head.bias is model.offset


@both_models
def test_a_step_of_the_codebooks_equals_a_step_of_the_sharer_with_sums(make, example):
    model, x = make(), example()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    sharer = pomona.Sharer(model, {"*": 3}, optimizer=optimizer, reduction="sum")
    sharer.step()
    twin = copy.deepcopy(model)
    sharer.to_layers_(twin)
    for one, steps in [(model, optimizer), (twin, torch.optim.SGD(twin.parameters(), lr=1e-3))]:
        one(x).square().mean().backward()
        steps.step()
    to_dense_(twin)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name], value)


def test_deepcopy_of_tied_layers_comes_back_tied():
    model = Text()
    shared(model).to_layers_(model)
    twin = copy.deepcopy(model).double()
    to_dense_(twin)
    assert twin.head.weight is twin.table.weight
    assert twin.head.weight.dtype == torch.float64
    assert type(model.head) is SharedLinear


def test_layers_of_one_codebook_and_other_codes_are_not_tied():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    first.weight.data.copy_(torch.eye(4))
    second.weight.data.copy_(1 - torch.eye(4))
    model = nn.Sequential(SharedLinear.from_linear(first), SharedLinear.from_linear(second))
    model[1].codebook = model[0].codebook
    to_dense_(model)
    assert torch.equal(model[0].weight, first.weight)
    assert torch.equal(model[1].weight, second.weight)


def test_a_layer_that_stands_twice_is_replaced_once():
    layer = SharedLinear(4, 4, 3)
    model = nn.ModuleDict({"a": layer, "b": layer})
    assert to_dense_(model) == ["a", "b"]
    assert model["a"] is model["b"]


def test_an_embedding_that_has_no_twin_stays_and_so_does_what_is_tied_to_it():
    for option in [{"max_norm": 1.0}, {"sparse": True}, {"scale_grad_by_freq": True}]:
        model = nn.ModuleDict({"table": nn.Embedding(6, 4, **option), "head": nn.Linear(4, 6)})
        model["head"].weight = model["table"].weight
        assert shared(model, 2).to_layers_(model) == []


def test_subclasses_stay():
    class Special(SharedLinear):
        pass

    model = nn.Sequential(Special(4, 4, 3))
    assert to_dense_(model) == []
    assert type(model[0]) is Special


def test_a_sharer_of_convolutions_without_a_container_is_refused():
    conv = nn.Conv2d(2, 2, 3)
    sharer = shared(conv, 2)
    with pytest.raises(pomona.InvalidArgument, match=r"an nn\.Conv2d\. Use SharedConv2d\.from_co"):
        sharer.to_layers_(conv)


def test_to_dense_refuses_a_model_that_is_itself_a_layer():
    with pytest.raises(
        pomona.InvalidArgument, match=r"its layers, got a SharedLinear\. Use its to_dense\(\)\."
    ):
        to_dense_(SharedLinear(4, 4, 3))


def test_to_dense_refuses_hooks_and_replaces_nothing():
    model = nn.Sequential(SharedLinear(4, 4, 3), SharedLinear(4, 4, 3))
    model[1].register_forward_hook(lambda *_: None)
    with pytest.raises(pomona.InvalidArgument, match="expected `1` to have no hooks, got some"):
        to_dense_(model)
    assert type(model[0]) is SharedLinear
