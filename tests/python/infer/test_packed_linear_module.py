"""pomona.nn.PackedLinear: a module like any other."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from pomona import InvalidArgument
from pomona.nn import PackedLinear


def sparse_linear(cols: int = 9, rows: int = 7, bias: bool = True, seed: int = 0) -> nn.Linear:
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(cols, rows, bias=bias)
    with torch.no_grad():
        linear.weight[torch.rand(rows, cols, generator=generator) < 0.6] = 0
    return linear


def example(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(9,), (0, 9), (4, 9), (2, 3, 9)])
def test_computes_what_the_dense_layer_computes(shape, bias):
    linear = sparse_linear(bias=bias)
    x = example(*shape)
    torch.testing.assert_close(PackedLinear.from_linear(linear)(x), linear(x))


def test_holds_buffers_and_no_parameters():
    packed = PackedLinear.from_linear(sparse_linear())
    assert list(packed.parameters()) == []
    assert list(packed.state_dict()) == ["packed", "bias"]
    assert list(PackedLinear.from_linear(sparse_linear(bias=False)).state_dict()) == ["packed"]


def test_says_its_sizes():
    packed = PackedLinear.from_linear(sparse_linear())
    assert (packed.in_features, packed.out_features) == (9, 7)
    start = "PackedLinear(in_features=9, out_features=7, bias=True, relu=False, bytes="
    assert repr(packed).startswith(start)


@pytest.mark.parametrize(
    ("layout", "precision"),
    [("csr16", "fp32"), ("pg32", "fp32"), ("pg32", "bf16"), ("pgv", "fixed16"), ("pgv", "int8")],
)
def test_every_layout_is_copied_pickled_and_loaded(layout, precision):
    linear = sparse_linear()
    linear.weight.data = (linear.weight.data * 4).round() / 4
    packed = PackedLinear.from_linear(linear, layout=layout, precision=precision, relu=True)
    assert (packed.layout, packed.precision, packed.relu) == (layout, precision, True)
    x = torch.randn(3, 9)
    expected = packed(x)
    assert torch.equal(copy.deepcopy(packed)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(packed))(x), expected)
    other = PackedLinear(torch.zeros(7, 9), torch.zeros(7), relu=True)
    other.load_state_dict(packed.state_dict())
    assert torch.equal(other(x), expected)
    assert other.layout == layout
    packed.pack_weight_(linear.weight.detach() * 2)
    assert packed.layout == layout
    assert (packed(x) - (2 * linear(x) - linear.bias).relu()).abs().max() < 0.1


def test_weight_and_nnz_are_those_of_the_dense_layer():
    linear = sparse_linear()
    packed = PackedLinear.from_linear(linear)
    assert torch.equal(packed.weight, linear.weight)
    assert packed.nnz == linear.weight.count_nonzero()


def test_does_not_follow_the_dense_layer():
    linear = sparse_linear()
    packed, x = PackedLinear.from_linear(linear), example(9)
    before = packed(x)
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.zero_()
    assert torch.equal(packed(x), before)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_compute_the_same(again):
    packed, x = PackedLinear.from_linear(sparse_linear()), example(9)
    other = again(packed)
    assert torch.equal(other(x), packed(x))
    assert other.packed.data_ptr() != packed.packed.data_ptr()


def test_torch_save_of_the_state_dict_comes_back():
    packed, x = PackedLinear.from_linear(sparse_linear()), example(9)
    file = io.BytesIO()
    torch.save(packed.state_dict(), file)
    file.seek(0)
    other = PackedLinear(torch.zeros(7, 9), torch.zeros(7))
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(x), packed(x))


@pytest.mark.parametrize("assign", [False, True])
def test_load_state_dict_takes_bytes_of_another_length(assign):
    packed, x = PackedLinear.from_linear(sparse_linear()), example(9)
    other = nn.Sequential(PackedLinear(torch.zeros(7, 9), torch.zeros(7)))
    state = {f"0.{name}": value.clone() for name, value in packed.state_dict().items()}
    assert other[0].packed.shape != packed.packed.shape
    other.load_state_dict(state, assign=assign)
    assert torch.equal(other(x), packed(x))


def test_load_state_dict_refuses_another_shape_and_keeps_its_bytes():
    other = PackedLinear(torch.ones(7, 8), torch.zeros(7))
    before = other.packed.clone()
    with pytest.raises(RuntimeError, match=r"expected `packed` of shape \[7, 8\], got \[7, 9\]"):
        other.load_state_dict(PackedLinear.from_linear(sparse_linear()).state_dict())
    assert torch.equal(other.packed, before)


def test_load_state_dict_refuses_damaged_bytes_and_keeps_its_own():
    packed = PackedLinear.from_linear(sparse_linear())
    state = {name: value.clone() for name, value in packed.state_dict().items()}
    state["packed"][150:] = 255
    before = packed.packed.clone()
    with pytest.raises(RuntimeError, match="check_packed: expected `packed`"):
        packed.load_state_dict(state)
    assert torch.equal(packed.packed, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_output_has_the_dtype_of_the_input_and_bytes_stay_bytes(dtype):
    linear = sparse_linear()
    packed, x = PackedLinear.from_linear(linear).to(dtype), example(4, 9)
    assert packed.packed.dtype == torch.uint8
    y = packed(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), linear(x), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_packs_layers_of_half_precision(dtype):
    linear = sparse_linear().to(dtype)
    packed = PackedLinear.from_linear(linear)
    assert torch.equal(packed.weight, linear.weight.float())
    assert packed(example(9).to(dtype)).dtype == dtype


def test_works_under_autocast():
    packed, x = PackedLinear.from_linear(sparse_linear()), example(4, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = packed(x.bfloat16())
        torch.testing.assert_close(packed(x), packed(x.bfloat16()).float(), rtol=0.05, atol=0.05)
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize("is_grad_enabled", [False, True])
def test_compiles_without_a_graph_break_after_a_trainable_layer(is_grad_enabled):
    model = nn.Sequential(nn.Linear(5, 9), nn.ReLU(), PackedLinear.from_linear(sparse_linear()))
    x = example(3, 5)
    with torch.set_grad_enabled(is_grad_enabled):
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(x), model(x))


def test_exports():
    model = nn.Sequential(PackedLinear.from_linear(sparse_linear()), nn.ReLU()).eval()
    x = example(3, 9)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    for size in (3, 11):
        x = example(size, 9)
        assert torch.equal(program.module()(x), model(x))


def test_can_be_made_on_meta_and_loaded_with_assign():
    packed, x = PackedLinear.from_linear(sparse_linear()), example(9)
    other = PackedLinear(torch.zeros(7, 9), torch.zeros(7)).to("meta")
    other.load_state_dict(packed.state_dict(), assign=True)
    assert torch.equal(other(x), packed(x))


def test_pack_weight_replaces_the_weight():
    packed, weight = PackedLinear.from_linear(sparse_linear()), torch.eye(7, 9)
    packed.pack_weight_(weight)
    assert torch.equal(packed.weight, weight)
    for bad, message in [
        (torch.ones(7, 8), r"expected `packed` of shape \[7, 9\], got \[7, 8\]"),
        (torch.full((7, 9), float("nan")), "expected `weight` to be finite"),
    ]:
        with pytest.raises(InvalidArgument, match=message):
            packed.pack_weight_(bad)
    assert torch.equal(packed.weight, weight)


def test_drops_the_negative_zeros_that_a_multiplied_mask_leaves():
    weight = torch.randn(7, 9) * (torch.rand(7, 9) < 0.3)
    assert PackedLinear(weight).nnz == weight.count_nonzero()


@pytest.mark.parametrize(
    ("weight", "bias", "message"),
    [
        ([[1.0]], None, "expected `weight` to be a tensor, got list"),
        (torch.ones(3), None, r"expected `weight` to have 2 dimensions \[rows, cols\], got 1"),
        (torch.ones(3, 2).double(), None, "expected `weight` to be float32, float16 or bfloat16"),
        (torch.ones(3, 2).int(), None, "to be float32, float16 or bfloat16, got int32"),
        (torch.ones(3, 2).cfloat(), None, "expected `weight` to have a dtype that a file can hold"),
        (torch.full((3, 2), float("nan")), None, "expected `weight` to be finite, got NaN or Inf"),
        (torch.full((3, 2), float("inf")), None, "expected `weight` to be finite, got NaN or Inf"),
        (torch.ones(3, 2).to("meta"), None, "expected `weight` to have data"),
        (torch.ones(3, 2), torch.ones(2), r"of shape \[3\], got torch.float32 \[2\]"),
        (torch.ones(3, 2), torch.ones(3).int(), r"of shape \[3\], got torch.int32 \[3\]"),
        (torch.ones(3, 2), 0.0, r"of shape \[3\], got float"),
    ],
)
def test_refuses(weight, bias, message):
    with pytest.raises(InvalidArgument, match=message):
        PackedLinear(weight, bias)


def test_from_linear_refuses_other_modules():
    with pytest.raises(
        InvalidArgument, match=r"expected `linear` to be a torch.nn.Linear, got ReLU"
    ):
        PackedLinear.from_linear(nn.ReLU())


@pytest.mark.slow  # it compiles C++
def test_compiles_ahead_of_time(tmp_path):
    packed = PackedLinear(torch.randn(12, 20), torch.randn(12), relu=True)
    model = torch.nn.Sequential(packed, torch.nn.Linear(12, 5))
    x = torch.randn(3, 20)
    program = torch.export.export(model, (x,))
    package = torch._inductor.aoti_compile_and_package(
        program, package_path=str(tmp_path / "net.pt2")
    )
    torch.testing.assert_close(torch._inductor.aoti_load_package(package)(x), model(x))
