"""What the compact layers have in common, one test for all."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import pomona
from pomona.nn import SharedConv2d, SharedEmbedding, SharedLinear

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@dataclass
class Kind:
    """A dense layer, how its twin is made, a fresh twin, and an input of that many rows."""

    dense: Callable[[], nn.Module]
    make: Callable[[nn.Module], nn.Module]
    frame: Callable[..., nn.Module]
    input: Callable[[int], torch.Tensor]

    def shared(self, values: int, *, zeros: bool, dtype: torch.dtype = torch.float32):
        """(dense layer, its twin); the weight takes that many nonzero values."""
        dense = self.dense().to(dtype)
        count = dense.weight.numel()
        generator = torch.Generator().manual_seed(values)
        codes = torch.randint(0, values, (count,), generator=generator)
        codes[:values] = torch.arange(values)
        weight = torch.linspace(-1, 1.1, values)[codes]
        if zeros:
            weight[values : values + 20] = 0
        dense.weight.data.copy_(weight.reshape(dense.weight.shape))
        return dense, self.make(dense)

    def typed_input(self, rows: int, dtype: torch.dtype) -> torch.Tensor:
        x = self.input(rows)
        return x.to(dtype) if x.is_floating_point() else x


def tokens(rows: int) -> torch.Tensor:
    return torch.randint(0, 9, (rows, 3))


KINDS = {
    "linear": Kind(
        lambda: nn.Linear(9, 7),
        SharedLinear.from_linear,
        lambda k, **options: SharedLinear(9, 7, k, **options),
        lambda rows: torch.randn(rows, 9),
    ),
    "conv": Kind(
        lambda: nn.Conv2d(4, 6, 3, padding="same", groups=2, padding_mode="reflect"),
        SharedConv2d.from_conv,
        lambda k, **options: SharedConv2d(
            4, 6, 3, k, padding="same", groups=2, padding_mode="reflect", **options
        ),
        lambda rows: torch.randn(rows, 4, 7, 6),
    ),
    "embedding": Kind(
        lambda: nn.Embedding(9, 8, padding_idx=2),
        SharedEmbedding.from_embedding,
        lambda k, **options: SharedEmbedding(9, 8, k, padding_idx=2, **options),
        tokens,
    ),
    "embedding of odd rows": Kind(
        lambda: nn.Embedding(10, 7, padding_idx=2),
        SharedEmbedding.from_embedding,
        lambda k, **options: SharedEmbedding(10, 7, k, padding_idx=2, **options),
        tokens,
    ),
}

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


@every_kind
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("values", [1, 2, 4, 16, 40])
def test_weight_and_outputs_are_those_of_the_dense_layer_bit_for_bit(kind, values, zeros, dtype):
    dense, layer = kind.shared(values, zeros=zeros, dtype=dtype)
    assert torch.equal(layer.weight, dense.weight)
    assert (len(layer.codebook), layer.has_zero) == (values, zeros)
    assert layer.codebook.dtype == dtype
    x = kind.typed_input(2, dtype)
    assert torch.equal(layer(x), dense(x))


@every_kind
@pytest.mark.parametrize("zeros", [False, True])
def test_the_gradient_of_the_codebook_is_centroid_grad_of_the_dense_gradient(kind, zeros):
    dense, layer = kind.shared(5, zeros=zeros, dtype=torch.float64)
    x = kind.typed_input(4, torch.float64)
    layer(x).square().sum().backward()
    dense(x).square().sum().backward()
    entries = 5 + zeros
    sums = pomona.quantize.centroid_grad(dense.weight.grad, layer.codes, entries, bits=layer.bits)
    torch.testing.assert_close(layer.codebook.grad, sums[int(zeros) :])
    if "bias" in dict(dense.named_parameters()):
        torch.testing.assert_close(layer.bias.grad, dense.bias.grad)


@every_kind
def test_no_step_moves_a_pruned_weight(kind):
    _, layer = kind.shared(5, zeros=True)
    pruned = layer.weight == 0
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        layer(kind.input(8)).square().sum().backward()
        optimizer.step()
    assert torch.equal(layer.weight == 0, pruned)


@every_kind
def test_state_dict_loads_into_a_fresh_layer(kind):
    dense, layer = kind.shared(5, zeros=True)
    has_bias = "bias" in dict(dense.named_parameters())
    assert list(layer.state_dict()) == ["codebook", *(["bias"] if has_bias else []), "codes"]
    for assign in [False, True]:
        fresh = kind.frame(5, has_zero=True)
        fresh.load_state_dict(layer.state_dict(), assign=assign)
        x = kind.input(2)
        assert torch.equal(fresh(x), layer(x))


@every_kind
def test_deepcopy_pickle_and_torch_save_keep_the_layer(kind):
    _, layer = kind.shared(5, zeros=True)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    loaded = kind.frame(5, has_zero=True)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    x = kind.input(2)
    for twin in [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded]:
        assert torch.equal(twin(x), layer(x))
        assert repr(twin) == repr(layer)


@every_kind
def test_a_change_of_dtype_leaves_the_codes(kind):
    _, layer = kind.shared(5, zeros=True)
    codes = layer.codes.clone()
    for dtype in DTYPES:
        layer.to(dtype)
        assert layer.weight.dtype == dtype
        assert layer.codes.dtype == torch.uint8
        assert torch.equal(layer.codes, codes)


@every_kind
def test_autocast_gives_the_dtype_of_the_dense_layer_and_float_gradients(kind):
    dense, layer = kind.shared(5, zeros=True)
    x = kind.input(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, expected = layer(x), dense(x)
    assert y.dtype == expected.dtype
    torch.testing.assert_close(y, expected)
    y.float().sum().backward()
    assert layer.codebook.grad.dtype == torch.float32


@every_kind
@pytest.mark.parametrize("zeros", [False, True])
def test_forward_and_backward_compile_without_a_graph_break(kind, zeros):
    torch.compiler.reset()
    _, layer = kind.shared(5, zeros=zeros)
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    for rows in [2, 5]:
        x = kind.input(rows)
        for one in [layer, compiled]:
            one.zero_grad()
            one(x).square().sum().backward()
        torch.testing.assert_close(compiled(x), layer(x))
        torch.testing.assert_close(compiled.codebook.grad, layer.codebook.grad)


@every_kind
@pytest.mark.parametrize("values", [1, 5, 40])
def test_export_takes_the_layer_with_any_number_of_rows(kind, values):
    _, layer = kind.shared(values, zeros=True)
    rows = torch.export.Dim("rows")
    program = torch.export.export(layer, (kind.input(2),), dynamic_shapes=({0: rows},))
    for count in [3, 6]:
        x = kind.input(count)
        torch.testing.assert_close(program.module()(x), layer(x))


@every_kind
def test_mode_and_frozen_parameters_are_kept_both_ways(kind):
    dense, _ = kind.shared(3, zeros=False)
    dense.eval()
    dense.weight.requires_grad_(False)
    layer = kind.make(dense)
    assert not layer.training
    assert not layer.codebook.requires_grad
    assert all(bias.requires_grad for name, bias in layer.named_parameters() if name == "bias")
    back = layer.to_dense()
    assert not back.training
    assert not back.weight.requires_grad


@every_kind
@pytest.mark.parametrize("dtype", DTYPES)
def test_to_dense_gives_the_layer_back(kind, dtype):
    dense, layer = kind.shared(5, zeros=True, dtype=dtype)
    before = torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        back = layer.to_dense()
    assert torch.equal(torch.get_rng_state(), before)
    assert type(back) is type(dense)
    assert repr(back) == repr(dense)
    assert back.state_dict().keys() == dense.state_dict().keys()
    for name, value in dense.state_dict().items():
        assert torch.equal(back.state_dict()[name], value)


@every_kind
def test_a_layer_can_be_made_on_the_meta_device_and_filled(kind):
    _, layer = kind.shared(5, zeros=True)
    fresh = kind.frame(5, has_zero=True, device="meta")
    fresh.load_state_dict(layer.state_dict(), assign=True)
    assert torch.equal(fresh.weight, layer.weight)


@every_kind
def test_ddp_trains_the_codebook_and_leaves_listed_codes_out(kind, tmp_path):
    _, layer = kind.shared(5, zeros=True)
    model = nn.Sequential(layer)
    model._ddp_params_and_buffers_to_ignore = [
        name for name, _ in model.named_buffers() if name.split(".")[-1] == "codes"
    ]
    twin = copy.deepcopy(layer)
    store = f"file://{tmp_path}/store"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(model)
        assert wrapped.parameters_to_ignore == {"0.codes"}
        assert wrapped.modules_buffers == []
        x = kind.input(3)
        wrapped(x).square().sum().backward()
    finally:
        dist.destroy_process_group()
    twin(x).square().sum().backward()
    torch.testing.assert_close(layer.codebook.grad, twin.codebook.grad)


def test_ddp_would_send_the_codes_of_layers_that_are_not_listed(tmp_path):
    _, layer = KINDS["linear"].shared(5, zeros=True)
    store = f"file://{tmp_path}/store"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        assert DistributedDataParallel(layer).modules_buffers[0] is layer.codes
    finally:
        dist.destroy_process_group()


# ---------------------------------------------------------------------------------------------
# Bad input


@every_kind
def test_a_dense_layer_of_more_than_256_values_is_refused_with_the_count(kind):
    dense = {nn.Linear: nn.Linear(17, 17), nn.Conv2d: nn.Conv2d(17, 17, 1)}.get(
        type(kind.dense()), nn.Embedding(17, 17)
    )
    dense.weight.data.copy_(torch.arange(289.0).reshape(dense.weight.shape))
    with pytest.raises(
        pomona.InvalidArgument,
        match=r"weight` to have at most 256 distinct values, got 289\. Share it first",
    ):
        kind.make(dense)


@every_kind
def test_nan_is_refused(kind):
    dense, _ = kind.shared(3, zeros=False)
    dense.weight.data.view(-1)[0] = float("nan")
    with pytest.raises(pomona.InvalidArgument, match=r"weight` to be finite, got NaN or Inf\."):
        kind.make(dense)


@every_kind
def test_another_layer_is_refused(kind):
    expected = f"to be a floating-point nn\\.{type(kind.dense()).__name__}, got Conv1d\\."
    with pytest.raises(pomona.InvalidArgument, match=expected):
        kind.make(nn.Conv1d(1, 1, 1))


@every_kind
@pytest.mark.parametrize(
    ("centroids", "has_zero", "got"), [(0, False, 0), (-1, True, 0), (256, True, 257)]
)
def test_a_layer_of_too_few_or_many_centroids_is_refused(kind, centroids, has_zero, got):
    with pytest.raises(
        pomona.InvalidArgument, match=rf"`centroids` \(and the zero\) in 1\.\.256, got {got}\."
    ):
        kind.frame(centroids, has_zero=has_zero)


@every_kind
def test_load_state_dict_refuses_codes_outside_the_codebook(kind):
    _, layer = kind.shared(5, zeros=False)
    state = layer.state_dict()
    state["codes"] = state["codes"] | 0x0F
    before = layer.weight.clone()
    with pytest.raises(RuntimeError, match=r"codes: expected codes up to 4, got 15"):
        layer.load_state_dict(state)
    assert torch.equal(layer.weight, before)


@every_kind
def test_load_state_dict_refuses_codes_of_another_dtype(kind):
    _, layer = kind.shared(5, zeros=False)
    with pytest.raises(RuntimeError, match=r"packed codes of uint8, got torch\.float32"):
        layer.load_state_dict({**layer.state_dict(), "codes": layer.codes.float()})


@every_kind
def test_load_state_dict_refuses_a_layer_whose_code_0_means_something_else(kind):
    _, layer = kind.shared(5, zeros=True)
    with pytest.raises(RuntimeError, match="expected a layer with has_zero=False"):
        kind.frame(5, has_zero=False).load_state_dict(layer.state_dict())


@every_kind
def test_load_state_dict_names_sizes_that_differ(kind):
    _, layer = kind.shared(5, zeros=True)
    with pytest.raises(RuntimeError, match="size mismatch for codebook"):
        kind.frame(6, has_zero=True).load_state_dict(layer.state_dict())
    with pytest.raises(RuntimeError, match="size mismatch for codes"):
        kind.frame(40, has_zero=True).load_state_dict(layer.state_dict())
