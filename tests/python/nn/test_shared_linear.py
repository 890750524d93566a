"""SharedLinear: the outputs of the layer it was made from, through a codebook that trains."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pomona.nn import SharedLinear


def shared_linear(values: int, *, zeros: bool, dtype=torch.float32, bias=True) -> nn.Linear:
    """A Linear(9, 7) whose weight takes that many nonzero values."""
    generator = torch.Generator().manual_seed(values)
    linear = nn.Linear(9, 7, bias=bias).to(dtype)
    codes = torch.randint(0, values, (63,), generator=generator)
    codes[:values] = torch.arange(values)
    weight = torch.linspace(-1, 1.1, values)[codes]
    if zeros:
        weight[values : values + 20] = 0
    linear.weight.data.copy_(weight.reshape(7, 9))
    return linear


# What the C++ test of the same name holds as well: the two languages agree byte for byte.
GOLDEN_WEIGHT = [[0.0, 0.5, -1.0], [0.5, 0.0, 2.0]]
GOLDEN_CODEBOOK = [-1.0, 0.5, 2.0]
GOLDEN_CODES = [0b10_01_10_00, 0b11_00]
GOLDEN_BIAS = [0.25, -1.0]
GOLDEN_INPUT = [1.0, 2.0, 4.0]
GOLDEN_OUTPUT = [-2.75, 7.5]


def test_shared_linear_agrees_with_cpp_byte_for_byte():
    linear = nn.Linear(3, 2)
    linear.weight.data.copy_(torch.tensor(GOLDEN_WEIGHT))
    linear.bias.data.copy_(torch.tensor(GOLDEN_BIAS))
    layer = SharedLinear.from_linear(linear)
    assert layer.has_zero
    assert layer.codebook.tolist() == GOLDEN_CODEBOOK
    assert layer.codes.tolist() == GOLDEN_CODES
    assert layer(torch.tensor(GOLDEN_INPUT)).tolist() == GOLDEN_OUTPUT


def test_from_linear_of_256_values_and_of_255_with_zero():
    for zeros in [False, True]:
        linear = nn.Linear(16, 16)
        linear.weight.data.copy_((torch.arange(256.0) + (not zeros)).reshape(16, 16))
        layer = SharedLinear.from_linear(linear)
        assert layer.bits == 8
        assert torch.equal(layer.weight, linear.weight)


def test_from_linear_of_zeros_only_and_of_an_empty_layer():
    linear = nn.Linear(4, 3)
    linear.weight.data.zero_()
    layer = SharedLinear.from_linear(linear)
    assert len(layer.codebook) == 0
    assert torch.equal(layer.weight, linear.weight)
    empty = nn.Linear(4, 3)
    empty.weight, empty.in_features = nn.Parameter(torch.empty(3, 0)), 0
    assert SharedLinear.from_linear(empty)(torch.empty(2, 0)).shape == (2, 3)


def test_outputs_equal_those_of_the_linear_layer():
    for bias in [False, True]:
        linear = shared_linear(5, zeros=True, bias=bias)
        x = torch.randn(2, 3, 9)
        assert torch.equal(SharedLinear.from_linear(linear)(x), linear(x))


def test_a_transformer_layer_reads_the_weight_in_eval_mode():
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    for name in ["linear1", "linear2"]:
        linear = getattr(block, name)
        linear.weight.data.copy_(linear.weight.data.sign() / 8)
        expected = linear.weight.clone()
        setattr(block, name, SharedLinear.from_linear(linear).eval())
        assert torch.equal(getattr(block, name).weight, expected)
    with torch.no_grad():
        assert block(torch.randn(2, 5, 8)).isfinite().all()


def test_repr_names_what_matters():
    layer = SharedLinear(9, 7, 5, has_zero=True)
    assert repr(layer) == (
        "SharedLinear(in_features=9, out_features=7, centroids=5, has_zero=True, bits=4, bias=True)"
    )


def test_negative_zero_is_a_pruned_weight():
    linear = shared_linear(3, zeros=True)
    linear.weight.data[linear.weight.data == 0] = -0.0
    layer = SharedLinear.from_linear(linear)
    assert layer.has_zero
    assert torch.equal(layer.weight, linear.weight)
    assert not torch.signbit(layer.weight[linear.weight == 0]).any()


# ---------------------------------------------------------------------------------------------
# Bad input


def test_load_state_dict_refuses_a_layer_whose_code_0_means_something_else():
    with_zero = SharedLinear.from_linear(shared_linear(5, zeros=True))
    without = SharedLinear(9, 7, 5, has_zero=False)
    with pytest.raises(RuntimeError, match="expected a layer with has_zero=False"):
        without.load_state_dict(with_zero.state_dict())
    with pytest.raises(RuntimeError, match="expected codes up to 4, got 5"):
        without.load_state_dict(dict(with_zero.state_dict()))  # a plain dict has no metadata


def test_load_state_dict_names_sizes_that_differ():
    layer = SharedLinear.from_linear(shared_linear(5, zeros=True))
    with pytest.raises(RuntimeError, match="size mismatch for codes"):
        SharedLinear(9, 8, 5, has_zero=True).load_state_dict(layer.state_dict())
    with pytest.raises(RuntimeError, match="size mismatch for codebook"):
        SharedLinear(9, 7, 6, has_zero=True).load_state_dict(layer.state_dict())
