"""SharedLinear: the outputs of the layer it was made from, through a codebook that trains."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import pomona
from pomona.nn import SharedLinear

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("values", [1, 2, 3, 4, 15, 16, 40])
def test_from_linear_gives_the_same_weight_bit_for_bit(values, zeros, dtype):
    linear = shared_linear(values, zeros=zeros, dtype=dtype)
    layer = SharedLinear.from_linear(linear)
    assert torch.equal(layer.weight, linear.weight)
    assert layer.has_zero == zeros
    assert len(layer.codebook) == values
    assert layer.codebook.dtype == dtype


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


def test_the_gradient_of_the_codebook_is_the_sum_over_each_cluster():
    linear = shared_linear(5, zeros=True, dtype=torch.float64)
    layer = SharedLinear.from_linear(linear)
    x = torch.randn(4, 9, dtype=torch.float64)
    layer(x).square().sum().backward()
    linear(x).square().sum().backward()
    for value, gradient in zip(layer.codebook.tolist(), layer.codebook.grad, strict=True):
        expected = linear.weight.grad[linear.weight == value].sum()
        torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(layer.bias.grad, linear.bias.grad)


def test_no_step_moves_a_pruned_weight():
    layer = SharedLinear.from_linear(shared_linear(5, zeros=True))
    pruned = layer.weight == 0
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        layer(torch.randn(8, 9)).square().sum().backward()
        optimizer.step()
    assert torch.equal(layer.weight == 0, pruned)


def test_state_dict_has_three_keys_and_loads_into_a_fresh_layer():
    layer = SharedLinear.from_linear(shared_linear(5, zeros=True))
    assert list(layer.state_dict()) == ["codebook", "bias", "codes"]
    for assign in [False, True]:
        fresh = SharedLinear(9, 7, 5, has_zero=True)
        fresh.load_state_dict(layer.state_dict(), assign=assign)
        assert torch.equal(fresh.weight, layer.weight)


def test_deepcopy_pickle_and_torch_save_keep_the_layer():
    layer = SharedLinear.from_linear(shared_linear(5, zeros=True)).eval()
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    loaded = SharedLinear(9, 7, 5, has_zero=True)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for twin in [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded]:
        assert torch.equal(twin.weight, layer.weight)


def test_a_change_of_dtype_leaves_the_codes():
    layer = SharedLinear.from_linear(shared_linear(5, zeros=True))
    codes = layer.codes.clone()
    for dtype in DTYPES:
        layer.to(dtype)
        assert layer.weight.dtype == dtype
        assert layer.codes.dtype == torch.uint8
        assert torch.equal(layer.codes, codes)


def test_autocast_runs_in_bfloat16_and_gives_float_gradients():
    layer = SharedLinear.from_linear(shared_linear(5, zeros=True))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer.weight.dtype == torch.bfloat16
        y = layer(torch.randn(2, 9))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert layer.codebook.grad.dtype == torch.float32


@pytest.mark.parametrize("zeros", [False, True])
def test_forward_and_backward_compile_without_a_graph_break(zeros):
    layer = SharedLinear.from_linear(shared_linear(5, zeros=zeros))
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    for rows in [2, 5]:
        x = torch.randn(rows, 9)
        for one in [layer, compiled]:
            one.zero_grad()
            one(x).square().sum().backward()
        torch.testing.assert_close(compiled(x), layer(x))
        torch.testing.assert_close(compiled.codebook.grad, layer.codebook.grad)


def test_export_takes_the_layer():
    layer = SharedLinear.from_linear(shared_linear(5, zeros=True))
    rows = torch.export.Dim("rows")
    program = torch.export.export(layer, (torch.randn(2, 9),), dynamic_shapes=({0: rows},))
    x = torch.randn(6, 9)
    torch.testing.assert_close(program.module()(x), layer(x))


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


def test_from_linear_keeps_mode_and_frozen_parameters():
    linear = shared_linear(3, zeros=False).eval()
    linear.weight.requires_grad_(False)
    layer = SharedLinear.from_linear(linear)
    assert not layer.training
    assert not layer.codebook.requires_grad
    assert layer.bias.requires_grad


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


def test_from_linear_refuses_more_than_256_values_and_says_how_many():
    with pytest.raises(pomona.InvalidArgument, match="at most 256 distinct values, got 289"):
        SharedLinear.from_linear(nn.Linear(17, 17))


def test_from_linear_refuses_nan():
    linear = shared_linear(3, zeros=False)
    linear.weight.data[0, 0] = float("nan")
    with pytest.raises(pomona.InvalidArgument, match="finite, got NaN or Inf"):
        SharedLinear.from_linear(linear)


def test_from_linear_refuses_another_layer():
    with pytest.raises(pomona.InvalidArgument, match=r"nn\.Linear, got Conv2d"):
        SharedLinear.from_linear(nn.Conv2d(1, 1, 1))


@pytest.mark.parametrize(
    ("centroids", "has_zero"), [(0, False), (-1, True), (256, True), (257, False)]
)
def test_a_layer_of_too_few_or_many_centroids_is_refused(centroids, has_zero):
    with pytest.raises(pomona.InvalidArgument, match=r"`centroids` .*in 1\.\.256, got"):
        SharedLinear(4, 4, centroids, has_zero=has_zero)


def test_load_state_dict_refuses_codes_outside_the_codebook():
    layer = SharedLinear.from_linear(shared_linear(5, zeros=False))
    state = layer.state_dict()
    state["codes"] = state["codes"] | 0x0F
    before = layer.weight.clone()
    with pytest.raises(RuntimeError, match=r"codes: expected codes up to 4, got 15"):
        layer.load_state_dict(state)
    assert torch.equal(layer.weight, before)


def test_load_state_dict_refuses_codes_of_another_dtype():
    layer = SharedLinear.from_linear(shared_linear(5, zeros=False))
    state = {**layer.state_dict(), "codes": layer.codes.float()}
    with pytest.raises(RuntimeError, match=r"uint8, got torch\.float32"):
        layer.load_state_dict(state)


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
