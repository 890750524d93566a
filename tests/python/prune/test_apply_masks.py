"""The operator apply_masks_ on the CPU, beside torch.where."""

from __future__ import annotations

import pytest
import torch
from reference.prune import row_bytes

import pomona  # noqa: F401  (registers the operator)

apply_masks_ = torch.ops.pomona.apply_masks_

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SHAPES = [(), (1,), (9,), (3, 1), (13, 7), (5, 64), (6, 3, 5, 5), (2, 2, 2, 3, 3), (300, 784)]


def random_mask(shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_apply_masks_zeroes_what_the_mask_prunes_and_nothing_else(shape, dtype):
    keep = random_mask(shape)
    tensor = torch.randn(shape).to(dtype)
    expected = torch.where(keep, tensor, 0)
    apply_masks_([tensor], [row_bytes(keep)])
    assert torch.equal(tensor, expected)


def test_apply_masks_takes_many_tensors_of_different_dtypes():
    keeps = [random_mask((4, 9), seed) for seed in range(3)]
    tensors = [torch.randn(4, 9).to(dtype) for dtype in DTYPES[:3]]
    expected = [torch.where(k, t, 0) for k, t in zip(keeps, tensors, strict=True)]
    apply_masks_(tensors, [row_bytes(k) for k in keeps])
    assert all(torch.equal(t, e) for t, e in zip(tensors, expected, strict=True))


def test_apply_masks_of_nothing_does_nothing():
    with pytest.raises(NotImplementedError):
        apply_masks_([], [])  # no tensor, no backend


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (0, 0), (2, 0, 3)])
def test_apply_masks_takes_empty_shards(shape):
    tensor = torch.randn(shape)
    apply_masks_([tensor], [row_bytes(torch.ones(shape, dtype=torch.bool))])
    assert tensor.shape == shape


def test_apply_masks_follows_channels_last():
    keep = random_mask((8, 5, 3, 3))
    tensor = torch.randn(8, 5, 3, 3).to(memory_format=torch.channels_last)
    expected = torch.where(keep, tensor, 0)
    apply_masks_([tensor], [row_bytes(keep)])
    assert torch.equal(tensor, expected)


@pytest.mark.parametrize(
    "view",
    [
        lambda storage: storage[:5, :7].t(),
        lambda storage: storage[1:8, 2:7],
        lambda storage: storage[:7, ::2],
        lambda storage: storage.flatten()[3:38].view(7, 5),
    ],
)
def test_apply_masks_follows_any_strides_and_leaves_the_rest_of_the_storage(view):
    keep = random_mask((7, 5))
    storage = torch.randn(10, 10)
    expected = storage.clone()
    view(expected).copy_(torch.where(keep, view(storage), 0))
    apply_masks_([view(storage)], [row_bytes(keep)])
    assert torch.equal(storage, expected)


def test_apply_masks_selects_and_does_not_multiply():
    tensor = torch.tensor([[float("inf"), float("nan"), -1.0, -float("inf")]])
    apply_masks_([tensor], [torch.tensor([[0b0100]], dtype=torch.uint8)])
    assert tensor.tolist() == [[0.0, 0.0, -1.0, 0.0]]


def test_apply_masks_writes_positive_zeros():
    tensor = torch.tensor([[-1.0, -0.0]])
    apply_masks_([tensor], [torch.tensor([[0]], dtype=torch.uint8)])
    assert not torch.signbit(tensor).any()


def test_apply_masks_bumps_the_version_of_each_tensor():
    tensors = [torch.randn(2, 9), torch.randn(3, 1)]
    masks = [row_bytes(random_mask(t.shape)) for t in tensors]
    apply_masks_(tensors, masks)
    assert [t._version for t in tensors] == [1, 1]


def test_apply_masks_on_a_saved_tensor_is_an_error_of_backward_not_a_wrong_gradient():
    x = torch.ones(1, 2, requires_grad=True)
    saved = torch.full((1, 2), 110.0)
    y = (x * saved).sum()
    apply_masks_([saved], [torch.zeros(1, 1, dtype=torch.uint8)])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_apply_masks_changes_a_parameter_under_no_grad():
    weight = torch.nn.Parameter(torch.ones(2, 3))
    with torch.no_grad():
        apply_masks_([weight], [torch.tensor([[0b101], [0]], dtype=torch.uint8)])
    assert weight.tolist() == [[1, 0, 1], [0, 0, 0]]
    assert weight.is_leaf
    assert weight.requires_grad


def test_apply_masks_refuses_a_tensor_that_requires_gradients():
    weight = torch.nn.Parameter(torch.ones(2, 3))
    with pytest.raises(RuntimeError, match=r"tensors\[0\] not to require gradients.*no_grad"):
        apply_masks_([weight], [torch.zeros(2, 1, dtype=torch.uint8)])
    assert weight.detach().count_nonzero() == 6


def test_apply_masks_changes_inference_tensors_in_inference_mode():
    with torch.inference_mode():
        tensor = torch.ones(1, 2)
        apply_masks_([tensor], [torch.tensor([[1]], dtype=torch.uint8)])
        assert tensor.tolist() == [[1, 0]]


def test_apply_masks_on_meta_checks_and_computes_nothing():
    tensor = torch.empty(4, 9, device="meta")
    apply_masks_([tensor], [torch.empty(4, 2, dtype=torch.uint8, device="meta")])
    with pytest.raises(ValueError, match="of shape"):
        apply_masks_([tensor], [torch.empty(4, 1, dtype=torch.uint8, device="meta")])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4, 9), (3, 2, 3, 3)])
def test_apply_masks_passes_opcheck(shape, dtype):
    tensors = [torch.randn(shape).to(dtype), torch.randn(2, 3).to(dtype)]
    masks = [row_bytes(random_mask(t.shape)) for t in tensors]
    torch.library.opcheck(torch.ops.pomona.apply_masks_.default, (tensors, masks))


def test_apply_masks_compiles_into_a_full_graph():
    mask = row_bytes(random_mask((4, 9)))

    @torch.compile(fullgraph=True, backend="aot_eager")
    def masked_double(x):
        y = x * 2
        torch.ops.pomona.apply_masks_([y], [mask])
        return y + 1

    x = torch.randn(4, 9)
    expected = x * 2
    apply_masks_([expected], [mask])
    assert torch.equal(masked_double(x), expected + 1)


BYTE = torch.uint8


@pytest.mark.parametrize(
    ("tensors", "masks", "error", "message"),
    [
        ([torch.ones(2, 3)], [], ValueError, "as many `masks` as `tensors`, got 0 and 1"),
        (
            [torch.ones(2, 9)],
            [torch.ones(2, 1, dtype=BYTE)],
            ValueError,
            r"masks\[0\] of shape \[2, 2\].*got \[2, 1\]",
        ),
        (
            [torch.ones(2, 3)],
            [torch.ones(2, 1)],
            TypeError,
            r"masks\[0\] to be dense uint8.*Float",
        ),
        (
            [torch.ones(2, 3, dtype=torch.int32)],
            [torch.ones(2, 1, dtype=BYTE)],
            TypeError,
            r"tensors\[0\] to be dense and floating-point.*Int",
        ),
        (
            [torch.ones(2, 3).to_sparse()],
            [torch.ones(2, 1, dtype=BYTE)],
            NotImplementedError,
            "SparseCPU",
        ),
        (
            [torch.ones(2, 3)],
            [torch.ones(2, 2, dtype=BYTE)[:, :1]],
            ValueError,
            r"masks\[0\] to be contiguous",
        ),
        (
            [torch.ones(1, 3).expand(2, 3)],
            [torch.ones(2, 1, dtype=BYTE)],
            RuntimeError,
            "single memory location",
        ),
        (
            [torch.ones(2, 3), torch.ones(2, 3, device="meta")],
            [torch.ones(2, 1, dtype=BYTE), torch.ones(2, 1, dtype=BYTE)],
            TypeError,
            r"expected everything on cpu.*tensors\[1\] on meta",
        ),
    ],
)
def test_apply_masks_refuses_and_leaves_tensors_as_they_were(tensors, masks, error, message):
    with pytest.raises(error, match=message):
        apply_masks_(tensors, masks)
    assert all(t.to_dense().ne(0).all() for t in tensors if not t.is_meta)
