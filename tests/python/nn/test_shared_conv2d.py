"""SharedConv2d: every option of nn.Conv2d, with the same outputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pomona
from pomona.nn import SharedConv2d

PADDING_MODES = ["zeros", "reflect", "replicate", "circular"]

# What the C++ test of the same name holds as well: the two languages agree byte for byte.
GOLDEN_WEIGHT = [[[[0.0, 0.5, -1.0]]], [[[0.5, 0.0, 2.0]]]]
GOLDEN_CODEBOOK = [-1.0, 0.5, 2.0]
GOLDEN_CODES = [0b10_01_10_00, 0b11_00]
GOLDEN_BIAS = [0.25, -1.0]
GOLDEN_OUTPUT = [-0.75, -1.25, 0.25, -2.25, -2.75, -1.25, 16.5, 18.0, 16.5, 24.0, 25.5, 24.0]


def signs(*sizes: int, **options) -> nn.Conv2d:
    """A Conv2d whose weights take the values -1, 0 and 1."""
    conv = nn.Conv2d(*sizes, **options)
    conv.weight.data.mul_(20).round_().sign_()
    return conv


def test_shared_conv2d_agrees_with_cpp_byte_for_byte():
    conv = nn.Conv2d(2, 2, (1, 3), padding="same", groups=2, padding_mode="reflect")
    conv.weight.data.copy_(torch.tensor(GOLDEN_WEIGHT))
    conv.bias.data.copy_(torch.tensor(GOLDEN_BIAS))
    layer = SharedConv2d.from_conv(conv)
    assert layer.has_zero
    assert list(layer.state_dict()) == ["codebook", "bias", "codes"]
    assert layer.codebook.tolist() == GOLDEN_CODEBOOK
    assert layer.codes.tolist() == GOLDEN_CODES
    assert layer(torch.arange(12.0).reshape(1, 2, 2, 3)).flatten().tolist() == GOLDEN_OUTPUT


def expect_outputs_of_conv2d(**options) -> None:
    conv = signs(4, 6, (3, 2), **options)
    layer = SharedConv2d.from_conv(conv)
    x = torch.randn(2, 4, 9, 8)
    assert torch.equal(layer(x), conv(x))
    assert torch.equal(layer(x[0]), conv(x[0]))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("padding", [0, 2, (2, 1), "same", "valid"])
@pytest.mark.parametrize("options", [{}, {"dilation": (1, 2)}, {"groups": 2}, {"bias": False}])
def test_outputs_equal_those_of_conv2d_under_every_option(padding_mode, padding, options):
    expect_outputs_of_conv2d(padding=padding, padding_mode=padding_mode, **options)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("padding", [0, (2, 1), "valid"])
def test_outputs_equal_those_of_conv2d_with_a_stride(padding_mode, padding):
    expect_outputs_of_conv2d(stride=(2, 1), padding=padding, padding_mode=padding_mode)


def test_channels_last_weights_and_inputs_give_the_same_outputs():
    conv = signs(4, 6, 3).to(memory_format=torch.channels_last)
    layer = SharedConv2d.from_conv(conv)
    assert torch.equal(layer.weight, conv.weight)
    x = torch.randn(2, 4, 9, 8).to(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(x), conv(x))


def test_options_given_as_numbers_become_pairs():
    layer = SharedConv2d(4, 6, 3, 5, 2, 1, 2, 2)
    twin = nn.Conv2d(4, 6, 3, 2, 1, 2, 2)
    for name in ["kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"]:
        assert getattr(layer, name) == getattr(twin, name)
    assert layer.weight.shape == twin.weight.shape


def test_repr_names_what_matters():
    assert repr(SharedConv2d(4, 6, (3, 2), 5, padding="same", has_zero=True)) == (
        "SharedConv2d(in_channels=4, out_channels=6, kernel_size=(3, 2), stride=(1, 1), "
        "padding='same', dilation=(1, 1), groups=1, padding_mode='zeros', centroids=5, "
        "has_zero=True, bits=4, bias=True)"
    )


# ---------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize("groups", [0, 3])
def test_groups_that_do_not_divide_the_channels_are_refused(groups):
    with pytest.raises(
        pomona.InvalidArgument,
        match=rf"`groups` to divide `in_channels` and `out_channels` \(4, 6\), got {groups}\.",
    ):
        SharedConv2d(4, 6, 3, 5, groups=groups)


def test_another_padding_is_refused():
    with pytest.raises(pomona.InvalidArgument, match='"same" or "valid", got \'full\''):
        SharedConv2d(4, 6, 3, 5, padding="full")


def test_padding_same_with_a_stride_is_refused():
    with pytest.raises(pomona.InvalidArgument, match=r'1 with padding "same", got \(2, 1\)\.'):
        SharedConv2d(4, 6, 3, 5, stride=(2, 1), padding="same")


def test_another_padding_mode_is_refused():
    with pytest.raises(
        pomona.InvalidArgument, match="one of zeros, reflect, replicate, circular, got 'constant'"
    ):
        SharedConv2d(4, 6, 3, 5, padding_mode="constant")
